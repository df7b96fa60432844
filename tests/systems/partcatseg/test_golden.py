"""PartCATSeg against what the reference implementation computed with the same weights (tests/golden/fill.py)."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from ovparts_lib.models.cost_aggregation import Chunks
from ovparts_lib.models.cost_aggregation.inputs import square_inputs
from ovparts_lib.systems.partcatseg.weights import released_names
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary
from tests.golden.fill import image
from tests.golden.released_partcatseg import FOLDER, filled_partcatseg, manifest, read_json

TOLERANCE = 2e-5  # of an array's largest value; the recordings allow 1e-4
WHOLE = Chunks(10**9)


def picture(height, width, seed):
    return torch.from_numpy(image(height, width, seed)).permute(2, 0, 1)


def recorded(case):
    return np.load(FOLDER / f"{case}.npz"), read_json(f"{case}.json")


def assert_close(found, golden, facts):
    """Compare the parts of arrays that were recorded."""
    for name, array in found.items():
        array = np.asarray(array.detach())
        assert list(array.shape) == facts["arrays"][name]["full_shape"], name
        part = eval(f"array{facts['arrays'][name]['slice']}")
        tolerance = TOLERANCE * np.abs(golden[name]).max()
        np.testing.assert_allclose(part, golden[name], rtol=0, atol=tolerance, err_msg=name)


def own_words(names, objects, ignore_label):
    return PartVocabulary("recorded", tuple(names), tuple(objects), ignore_label=ignore_label)


def released_copy(**options):
    """The filled model with other options, sharing its weights and text embeddings."""
    model = copy.copy(filled_partcatseg()[0])
    for option, value in options.items():
        setattr(model, option, value)
    return model


def trace_of(model):
    """{name of a recorded stage: output} that fills up when the model runs, in the reference's layouts; and hooks."""
    found, aggregator = {}, model.aggregator
    texts = iter(("text_guidance_call1", "text_guidance_call2"))

    def keep(module, name, pattern, of_input=False):
        def hook(_, inputs, output):
            found[name] = rearrange(inputs[0] if of_input else output, pattern)

        return module.register_forward_hook(hook)

    embeddings = (
        (aggregator.embedding, "corr", "b t p h w"),
        (aggregator.specific_embedding, "cost_corr", "b t p h w"),
    )
    hooks = [keep(module, name, f"{pattern} -> b p t h w", True) for module, name, pattern in embeddings]
    hooks += [keep(module, f"{name}_embed", "b t h w c -> (b t) c h w") for module, name, _ in embeddings]
    for number, layer in enumerate(aggregator.layers):
        hooks.append(keep(layer.spatial.block1, f"layer{number}_block1", "b t h w c -> (b t) (h w) c"))
        hooks.append(keep(layer.spatial, f"layer{number}_swin", "b t h w c -> b c t h w"))
        hooks.append(keep(layer.classes, f"layer{number}", "b t h w c -> b c t h w"))
    for number, layer in enumerate(aggregator.specific_layers):
        hooks.append(keep(layer.classes, f"specific_layer{number}", "b t h w c -> b c t h w"))

    def keep_guidance(_, inputs, output):
        found.update(zip(("dino_res4", "dino_res3", "dino_res2"), inputs[0], strict=True))
        found["guidance"] = rearrange(output[0], "b h w c -> b c h w")
        found["dec_guidance0"], found["dec_guidance1"] = output[1]

    hooks.append(aggregator.appearance.register_forward_hook(keep_guidance))
    hooks.append(
        aggregator.text_guidance.register_forward_hook(lambda _, inputs, output: found.__setitem__(next(texts), output))
    )
    return found, hooks


def predict_and_trace(case, vocabulary, objects_image):
    """Scores of an evaluation recording, and every stage on the way to them."""
    model = released_copy(chunk_tokens=10**9, padding="stretched")
    found, hooks = trace_of(model)
    (scores,) = model.predict([objects_image], vocabulary)
    for hook in hooks:
        hook.remove()
    for call in ("text_guidance_call1", "text_guidance_call2"):
        found[call] = found[call][None]
    found["logit"] = torch.cat([scores.logits, scores.background[None]])[None]
    with torch.inference_mode():
        texts = model.encode_vocabulary(vocabulary)
        first = rearrange(found["layer1"], "b c t h w -> b t h w c")
        aware = model.aggregator.object_aware_features(first, texts)
        found["cost_feats"] = aware.over_parts(lambda part, text: part, texts, WHOLE)[0]
        found |= {"text_part_obj": texts.generic, "text_specific": texts.specific}
    return model, scores, found, first


def check_maps(scores, golden, facts, vocabulary):
    """The outputs of both modes: probabilities are resized, padding and all; a substring says what an object owns."""
    info, channels = facts["info"], torch.cat([scores.logits, scores.background[None]])
    everything = F.interpolate(channels.sigmoid()[None], size=scores.image_size, mode="bilinear")[0]
    named = torch.tensor([info["object_oracle"] in part for part in vocabulary.parts])
    assert [part for part, own in zip(vocabulary.parts, named, strict=True) if own] == info["selected_classes"]
    oracle = torch.where(named.view(-1, 1, 1), everything[:-1], -1.0)
    assert_close({"sem_seg_all": everything, "sem_seg": oracle}, golden, facts)
    for name, maps in (("argmax_all", everything), ("argmax_oracle", oracle)):
        best = maps.topk(2, dim=0).values
        clear, winner = (
            eval(f"array{facts['arrays'][name]['slice']}") for array in (best[0] - best[1], maps.argmax(0))
        )
        clear = clear.numpy() > 1e-4
        assert clear.mean() > 0.8
        assert (winner.numpy() == golden[name])[clear].all(), name


def test_the_loader_keeps_every_tensor_of_the_manifest():
    model, report = filled_partcatseg()
    facts = read_json("partcatseg.manifest.json")
    dead = [name for name in manifest() if "layers_object" in name or name.endswith(("mask_token", "attn_mask"))]
    assert set(report.dropped) == set(dead)
    assert set(report.loaded) == set(manifest()) - set(dead)
    assert report.initialised == ()
    unused = 384 + 1353728  # mask token and layers_object
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["params_total"] - unused
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == facts["params_trainable"] - 384 - 512  # mask token and background text never learn


def test_stages_and_outputs_of_the_evaluation_on_own_words():
    golden, facts = recorded("golden_eval_ade_mini")
    info = facts["info"]
    vocabulary = own_words(info["specific_classes"], info["obj_in_part_classes"], facts["case"]["ignore"])
    photograph = picture(*facts["case"]["image"])
    model, scores, found, first = predict_and_trace("golden_eval_ade_mini", vocabulary, photograph)
    texts = model.encode_vocabulary(vocabulary)
    assert [*texts.part_to_generic] == info["text_to_part"]
    assert [*texts.part_to_object] == info["text_to_obj"]
    with torch.inference_mode():
        inputs = square_inputs([photograph], model.size.inputs, 448, model.device, test=True)
        found |= {"clip_input": inputs.clip, "dino_input": inputs.guidance}
        found["dino_tokens"] = rearrange(model.guidance.patch_tokens(inputs.guidance), "b c h w -> b (h w) c")
        dense, maps = model.encode_images(inputs)
        found["part_obj_logit"] = model.aggregator.decode(first, model.aggregator.appearance(maps), WHOLE)
    maps = {"sem_seg", "sem_seg_all", "argmax_oracle", "argmax_all", "margin_all", "clip_tokens"}
    assert set(found) == set(facts["arrays"]) - maps
    assert_close(found, golden, facts)
    check_maps(scores, golden, facts, vocabulary)
    # Of the dense features, the reference recorded the class token, too, which nothing uses.
    tokens = F.pad(rearrange(dense.features, "b d h w -> b (h w) d"), (0, 0, 1, 0))[:, ::8, ::7]
    np.testing.assert_allclose(tokens[:, 1:], golden["clip_tokens"][:, 1:], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_stages_and_outputs_of_the_evaluation_on_pascal():
    golden, facts = recorded("golden_eval_voc")
    vocabulary = load_vocabulary("pascal_part_116")
    assert list(vocabulary.parts) == facts["info"]["specific_classes"]
    photograph = picture(*facts["case"]["image"])
    _, scores, found, _ = predict_and_trace("golden_eval_voc", vocabulary, photograph)
    stages = {name: array for name, array in found.items() if name in facts["arrays"]}
    assert len(stages) == 7
    assert_close(stages, golden, facts)
    check_maps(scores, golden, facts, vocabulary)
    cut = released_copy(padding="cut").predict([photograph], vocabulary, class_ids=[3])[0]
    assert cut.covered_size == (366 * 576 / 562, 500)  # 562 x 768 pixels, padded to 576 x 768
    np.testing.assert_allclose(cut.logits[0], scores.logits[3], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def training():
    """(facts, golden, losses, gradients by released name) of the recorded training step."""
    golden, facts = recorded("golden_train_voc_mini")
    info = facts["info"]
    vocabulary = own_words(info["train_specific_classes"], info["train_obj_classes"], 255)
    model = copy.deepcopy(filled_partcatseg()[0]).train()
    model.checkpoint_aggregator = True
    batch = {"images": [picture(384, 384, 1), picture(384, 384, 2)], "vocabulary": vocabulary}
    for kind, recorded_kind in (("part", "part"), ("object", "obj")):
        labels = [golden[f"{recorded_kind}_target_{i}"].astype(np.int64) for i in range(2)]
        batch[f"{kind}_maps"] = [torch.from_numpy(array) for array in labels]
    losses = model.loss(batch)
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return facts["info"], model, losses, released_names(gradients)


def test_losses_of_the_training_step(training):
    info, _, losses, _ = training
    specific, part, background, objects = (call["value"] for call in info["bce_calls"])
    expected = {
        "loss_specific_part": specific,
        "loss_part": part,
        "loss_specific_background": background,
        "loss_object": objects,
        "loss_compositional": info["jsd_loss"],
    }
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-5)
    assert sum(losses.values()).item() == pytest.approx(info["loss_total"], rel=1e-5)


def test_gradients_of_the_training_step(training):
    info, model, _, gradients = training
    for name, norm in info["grad_l2"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-3), name
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert total.item() == pytest.approx(info["grad_l2_all_params"], rel=1e-4)
    # The released model has two parameters more that are said to train, and never receive a gradient.
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
