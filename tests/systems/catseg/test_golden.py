"""CATSeg against what the reference implementation computed with the same weights (tests/golden/fill.py)."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from ovparts_lib.models.backbones.guidance import resize_dinov2_positions
from ovparts_lib.models.clip.dense import dense_image_features
from ovparts_lib.models.clip.towers import resize_position_embedding
from ovparts_lib.models.cost_aggregation import Chunks, cost_volume
from ovparts_lib.models.cost_aggregation.class_attention import linear_attention
from ovparts_lib.models.cost_aggregation.inputs import resize_for_test, sliding_inputs, square_inputs
from ovparts_lib.models.cost_aggregation.spatial import shifted_window_mask
from ovparts_lib.systems.catseg.weights import released_names
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary
from tests.golden.fill import fill, image
from tests.golden.released_catseg import FOLDER, dinov2_catseg, manifest, read_json, resnet_catseg

PASCAL = load_vocabulary("pascal_part_116")
TOLERANCE = 2e-5  # of an array's largest value; the recordings allow 1e-4


def some_parts(names):
    return PartVocabulary("some", tuple(names), PASCAL.objects, PASCAL.unseen_objects)


def picture(height, width, seed):
    return torch.from_numpy(image(height, width, seed)).permute(2, 0, 1)


def cut(array, name, facts):
    """The part of an array that was recorded."""
    array = np.asarray(array)
    assert list(array.shape) == facts["arrays"][name]["full_shape"], name
    return eval(f"array{facts['arrays'][name]['slice']}")


def assert_close(found, golden, facts):
    for name, array in found.items():
        expected = golden[name]
        tolerance = TOLERANCE * np.abs(expected).max()
        np.testing.assert_allclose(cut(array, name, facts), expected, rtol=0, atol=tolerance, err_msg=name)


@torch.no_grad()
def stages(model, inputs, vocabulary):
    """Everything the reference recorded on the way to the logits, in its layouts."""
    found = {"clip_input": inputs.clip, "backbone_input": inputs.guidance}
    text = model.encode_texts(vocabulary.parts)
    found |= {"text_features_test": text, "text_features_bg": text[-1]}
    dense = dense_image_features(model.clip.visual, inputs.clip, layers=(0, 1, 11))
    for name, state in (("clip_block0", 1), ("clip_block10", 11)):
        found[name] = rearrange(dense.hidden.states[state], "b n c -> n b c")
    found["clip_tokens_in"] = dense.hidden.states[0]
    maps = model.guidance(inputs.guidance, (24, 24))
    found |= dict(zip(("res4", "res3", "res2"), maps, strict=True))
    cost = cost_volume(dense.features, text)
    found["cost_volume"] = rearrange(cost, "b t p h w -> b p t h w")
    guidance, finer = model.appearance(maps)
    text_guidance = model.text_guidance(text)
    found["guidance_proj"] = rearrange(guidance, "b h w c -> b c h w")
    found |= {"dec_guidance0": finer[0], "dec_guidance1": finer[1]}
    found["text_guidance"] = text_guidance.expand(len(guidance), -1, -1)
    x = model.embedding(cost)
    trace = {"cost_embed": x}
    for number, layer in enumerate(model.layers):
        x = layer.aggregate_space(x, guidance)
        trace[f"layer{number}_spatial"] = x
        x = layer.classes(x, text_guidance, pooling=model.pooling)
        trace[f"layer{number}_class"] = x
    found |= {name: rearrange(array, "b t h w c -> b c t h w") for name, array in trace.items()}
    outputs = []
    hooks = [stage.register_forward_hook(lambda *call: outputs.append(call[2])) for stage in model.decoder.stages]
    logits = model.decoder(x, finer, chunks=Chunks(10**9))
    for hook in hooks:
        hook.remove()
    found |= {"decoder1": outputs[0], "decoder2": outputs[1], "logits": logits, "logits_bg": logits}
    # Of the dense features, the reference recorded the class token, too, which nothing uses.
    return found, rearrange(dense.features, "b d h w -> b (h w) d")


def check_stages(found, dense, golden, facts):
    recorded = {name: array for name, array in found.items() if name in facts["arrays"]}
    assert len(recorded) >= 23
    assert_close(recorded, golden, facts)
    with_class_token = F.pad(dense, (0, 0, 1, 0))
    cells = cut(with_class_token, "clip_dense", facts)[1:]
    np.testing.assert_allclose(cells, golden["clip_dense"][1:], rtol=0, atol=TOLERANCE * 4)


def check_label_map(maps, golden, name):
    """Arg-max where the reference's best two classes are apart."""
    clear = golden[f"{name}_margin"] > 1e-4
    assert clear.mean() > 0.8
    assert (maps.argmax(0)[::4, ::4].numpy() == golden[name])[clear].all()


def probabilities(scores, size):
    """All channels as the released code resizes them: probabilities, padding and all."""
    channels = torch.cat([scores.logits, scores.background[None]])
    return F.interpolate(channels.sigmoid()[None], size=size, mode="bilinear", align_corners=False)[0]


@pytest.fixture(scope="module")
def units():
    return np.load(FOLDER / "golden_units.npz"), read_json("golden_units.json")


def test_position_embeddings(units):
    golden, _ = units
    shapes = manifest("partcatseg_catseg_dinov2")
    clip_key = "sem_seg_head.predictor.clip_model.visual.positional_embedding"
    clip = resize_position_embedding(torch.from_numpy(fill(clip_key, shapes[clip_key])), (24, 24))
    np.testing.assert_allclose(clip[::8, ::32], golden["clip_pos_embed"], rtol=1e-4, atol=1e-7)
    dino_key = "backbone.dinov2.pos_embed"
    dino = resize_dinov2_positions(torch.from_numpy(fill(dino_key, shapes[dino_key])), (32, 32))
    np.testing.assert_allclose(dino[0, ::8, ::16], golden["dinov2_pos_embed"], rtol=1e-4, atol=1e-8)


def test_shifted_window_mask(units):
    golden, facts = units
    mask = shifted_window_mask((24, 24), 12, torch.device("cpu"))
    assert mask.sum().item() == facts["attn_mask_sum"]
    np.testing.assert_array_equal(mask[:, ::9, ::7], golden["attn_mask"])


def test_linear_attention(units):
    golden, _ = units
    generator = np.random.Generator(np.random.PCG64(99))
    drawn = [generator.standard_normal((2, 7, 4, 32), dtype=np.float32) for _ in range(3)]
    query, key, value = (rearrange(torch.from_numpy(array), "n t h d -> n h t d") for array in drawn)
    mixed = rearrange(linear_attention(query, key, value), "n h t d -> n t h d")
    np.testing.assert_allclose(mixed, golden["linear_attention"], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_stages_and_oracle_map_of_the_evaluation():
    golden, facts = np.load(FOLDER / "golden_zs_voc_eval.npz"), read_json("golden_zs_voc_eval.json")
    model, pixels = resnet_catseg()[0], picture(333, 500, 1)
    inputs = square_inputs([pixels], model.size.inputs, 384, model.device, test=True)
    found, dense = stages(model, inputs, PASCAL)
    found["resized_image"] = resize_for_test(pixels, model.size.inputs).permute(1, 2, 0)
    check_stages(found, dense, golden, facts)

    dog = facts["arrays"]["sem_seg_selected"]["class_indices"]
    assert dog == list(PASCAL.parts_of(PASCAL.object_id("dog")))
    (scores,) = model.predict([pixels], PASCAL, class_ids=dog)
    np.testing.assert_allclose(scores.logits, found["logits"][0, dog], rtol=0, atol=1e-5)
    maps = probabilities(scores, (333, 500))
    np.testing.assert_allclose(maps[:-1, ::8, ::8], golden["sem_seg_selected"], rtol=0, atol=1e-5)
    clear = golden["argmax_margin"] > 1e-4
    ours = np.asarray(dog)[maps[:-1].argmax(0)[::4, ::4].numpy()]
    assert (ours == golden["argmax"])[clear].all()
    # The picture, 511 x 768, was padded to 512 x 768.
    assert scores.covered_size == pytest.approx((333 * 512 / 511, 500))


@pytest.mark.slow
def test_sliding_window():
    golden, facts = np.load(FOLDER / "golden_zs_voc_sliding.npz"), read_json("golden_zs_voc_sliding.json")
    model, pixels = copy.copy(resnet_catseg()[0]), picture(280, 420, 3)
    model.sliding_window, model.pooling = True, 1
    vocabulary = some_parts(facts["test_classes"])
    inputs = sliding_inputs(pixels, model.size.inputs, 384, model.device, model.window)
    found, dense = stages(model, inputs, vocabulary)
    check_stages(found, dense, golden, facts)

    (scores,) = model.predict([pixels], vocabulary)
    maps = probabilities(scores, (280, 420))
    np.testing.assert_allclose(maps[:, ::16, ::16], golden["sem_seg_all_classes"], rtol=0, atol=1e-5)
    check_label_map(maps, golden, "argmax")
    assert scores.covered_size is None


@pytest.mark.slow
def test_dinov2_variant_with_all_parts_and_with_those_of_one_object():
    golden, facts = np.load(FOLDER / "golden_dino_voc_predall.npz"), read_json("golden_dino_voc_predall.json")
    model, pixels = dinov2_catseg()[0], picture(375, 500, 2)
    vocabulary = some_parts(facts["test_classes"])
    inputs = square_inputs([pixels], model.size.inputs, 448, model.device, test=True)
    found, dense = stages(model, inputs, vocabulary)
    del found["backbone_input"]  # 448 x 448 here, not recorded
    check_stages(found, dense, golden, facts)

    (scores,) = model.predict([pixels], vocabulary)
    maps = probabilities(scores, (375, 500))
    np.testing.assert_allclose(maps[:, ::8, ::8], golden["sem_seg_all"], rtol=0, atol=1e-5)
    check_label_map(maps, golden, "argmax_all")
    person = facts["arrays"]["sem_seg_selected"]["class_indices"]
    assert person == list(vocabulary.parts_of(vocabulary.object_id("person")))
    np.testing.assert_allclose(maps[person, ::8, ::8], golden["sem_seg_selected"], rtol=0, atol=1e-5)
    oracle = torch.full_like(maps[:-1], -1)
    oracle[person] = maps[person]
    check_label_map(oracle, golden, "argmax")


def training_batch(facts, vocabulary):
    """The two recorded pictures with labels, grey or unlabelled below where they are not high enough."""
    images, part_maps = [], []
    for seed, height in ((11, 384), (12, 300)):
        generator = np.random.Generator(np.random.PCG64(1000 + seed))
        cells, keep = generator.integers(0, 24, (12, 12)), generator.random((12, 12)) < 0.6
        labels = np.kron(np.where(keep, cells, 255), np.ones((32, 32)))[:height, :384]
        below = (0, 0, 0, 384 - height)
        images.append(F.pad(picture(height, 384, seed), below, value=128))
        part_maps.append(F.pad(torch.from_numpy(labels.astype(np.int64)), below, value=255))
        assert int((part_maps[-1] != 255).sum()) == facts["inputs"][len(images) - 1]["n_valid"]
    return {"images": images, "part_maps": part_maps, "vocabulary": vocabulary}


def test_loss_gradients_and_step_of_the_training():
    golden, facts = np.load(FOLDER / "golden_zs_voc_train_b2.npz"), read_json("golden_zs_voc_train_b2.json")
    vocabulary = some_parts(facts["train_classes"])
    assert facts["train_classes"] == list(PASCAL.seen.parts[:24])
    model = copy.deepcopy(resnet_catseg()[0]).train()
    model.text_cache = resnet_catseg()[0].text_cache
    model.checkpoint_aggregator = True
    logits = []
    hook = model.decoder.register_forward_hook(lambda *call: logits.append(call[2].detach()))
    losses = model.loss(training_batch(facts, vocabulary))
    losses["loss_sem_seg"].backward()
    hook.remove()

    assert_close({"logits": logits[0], "logits_bg": logits[0]}, golden, facts)
    assert losses["loss_sem_seg"].item() == pytest.approx(facts["loss_sem_seg"], rel=1e-5)

    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(map(torch.numel, trained.values())) == read_json("ovparts_catseg_r101.manifest.json")[
        "parameters_trainable"
    ] - len(model.background_text.flatten())  # which gets no gradient there
    gradients = released_names({name: parameter.grad for name, parameter in trained.items()})
    largest = max(facts["grad_l2"].values())
    for name, norm in facts["grad_l2"].items():
        tolerance = 1e-3 if norm > 1e-4 * largest else 0.1  # small ones are what cancellation left
        assert gradients[name].norm().item() == pytest.approx(norm, rel=tolerance), name

    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    total = torch.nn.utils.clip_grad_norm_(trained.values(), 0.01)
    assert total.item() == pytest.approx(facts["total_gradient_norm"], rel=1e-4)
    groups = [{**group, "lr": 2e-4 * group.pop("lr_multiplier")} for group in model.parameter_groups(1e-4)]
    torch.optim.AdamW(groups, lr=2e-4, betas=(0.9, 0.999), eps=1e-8).step()
    steps = released_names({name: parameter.detach() - before[name] for name, parameter in trained.items()})
    for name, norm in facts["optimizer_step"]["delta_l2"].items():
        assert steps[name].norm().item() == pytest.approx(norm, rel=2e-2), name


def test_parameter_groups_are_the_released_ones():
    model, _ = resnet_catseg()
    facts = read_json("golden_zs_voc_train_b2.json")["optimizer_step"]["groups"]
    found = {
        f"({2e-4 * group['lr_multiplier']:.3g}, {group['weight_decay']})": [
            len(group["params"]),
            sum(map(torch.numel, group["params"])),
        ]
        for group in model.parameter_groups(1e-4)
    }
    expected = {
        str((float(f"{rate:.3g}"), decay)): [counts["tensors"], counts["parameters"]]
        for (rate, decay), counts in ((eval(key), counts) for key, counts in facts.items())
    }
    found = {str(eval(key)): counts for key, counts in found.items()}
    expected[str((2e-4, 1e-4))] = [88, 3482465 - 512]  # the background's text has no gradient, and is frozen here
    assert found == expected
