"""CLIPSeg against what the reference implementation computed with the same weights (tests/golden/fill.py)."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.images import square_pixels
from ovparts_lib.models.clip.towers import image_hidden_states
from ovparts_lib.systems.query_weights import fine_tuned_names
from ovparts_lib.vocabularies import load_vocabulary
from tests.golden.fill import image
from tests.golden.released_clipseg import FOLDER, fine_tuned_clipseg, read_json

VOCABULARY = load_vocabulary("pascal_part_116")


def picture(height, width, seed):
    return torch.from_numpy(image(height, width, seed)).permute(2, 0, 1)


def record_decoder(model):
    """{name: output} that fills up when the model decodes, sampled as in the recordings; and the hooks that do it."""
    outputs = {}

    def hook(name):
        return lambda module, inputs, output: outputs.__setitem__(name, output[0].detach())

    hooks = [layer.register_forward_hook(hook(f"decoder_{i}")) for i, layer in enumerate(model.decoder.layers)]
    return outputs, [*hooks, model.decoder.register_forward_hook(hook("logits"))]


def sampled(outputs):
    return {name: output[::9, ::44, ::4] for name, output in outputs.items() if name != "logits"}


def stages(model, images, vocabulary):
    """Everything before the decoder, sampled as in the recordings."""
    found = {}
    with torch.no_grad():
        pixels = square_pixels(images, 352, model.device)
        found["pixel_values"] = pixels[:, :, 8::16, 8::16]
        hidden = image_hidden_states(model.clip.visual, pixels, (0, 4, 7, 10, 12)).states
        found |= {f"vision_hidden_{k}": state[:, ::22, ::32] for k, state in hidden.items()}
        for number, k in enumerate((4, 7, 10)):
            found[f"adapted_{number}"] = model.visual_adapter(hidden[k])[:, ::22, ::32]
        conditions = torch.cat([model.encode_vocabulary(vocabulary), model.background_query])
        found["conditional"] = conditions[:, ::16]
    return found


def assert_close(found, golden):
    for name, values in found.items():
        np.testing.assert_allclose(values.numpy(), golden[name], rtol=0, atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def prediction():
    model, _ = fine_tuned_clipseg()
    model = copy.copy(model)
    model.query_chunk = 117  # all at once, so that the hooks see all
    outputs, hooks = record_decoder(model)
    images = [picture(375, 500, 0)]
    (scores,) = model.predict(images, VOCABULARY)
    for hook in hooks:
        hook.remove()
    return stages(model, images, VOCABULARY), outputs, torch.cat([scores.logits, scores.background[None]])


@pytest.fixture(scope="module")
def golden_eval():
    return np.load(FOLDER / "golden_eval_voc.npz")


def test_the_loader_keeps_every_tensor_of_the_manifest():
    model, report = fine_tuned_clipseg()
    facts = read_json("golden_eval_voc.json")["parameters"]
    dead = sum(p.numel() for p in (torch.empty(128, 512), torch.empty(512, 128), torch.empty(1000, 512)))
    assert sum(p.numel() for p in model.parameters()) == facts["total"] - dead
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == facts["trainable"]
    assert len(report.loaded) + len(report.dropped) == 470
    assert report.initialised == ()


def test_stages_of_the_evaluation(prediction, golden_eval):
    before_decoder, decoder, logits = prediction
    assert_close(before_decoder | sampled(decoder) | {"logits": logits[:, 8::16, 8::16]}, golden_eval)


def test_probabilities_and_label_maps_of_the_evaluation(prediction, golden_eval):
    enlarged = F.interpolate(prediction[2][None], size=(375, 500), mode="bilinear", align_corners=False)[0].sigmoid()
    np.testing.assert_allclose(enlarged[:, ::25, ::25].numpy(), golden_eval["probs_all"], rtol=0, atol=1e-5)
    assert (enlarged.argmax(0)[::4, ::4].numpy() == golden_eval["argmax_all"]).mean() >= 0.999
    oracle = enlarged[:-1].clone()
    dog = list(VOCABULARY.parts_of(VOCABULARY.object_id("dog")))
    assert dog == read_json("golden_eval_voc.json")["object"]["valid_part_ids"]
    oracle[[part for part in range(116) if part not in dog]] = 0
    np.testing.assert_allclose(oracle[:, ::25, ::25].numpy(), golden_eval["probs"], rtol=0, atol=1e-5)
    assert (oracle.argmax(0)[::4, ::4].numpy() == golden_eval["argmax"]).mean() >= 0.999


def test_stages_loss_gradients_and_step_of_the_training():
    golden, facts = np.load(FOLDER / "golden_train_voc.npz"), read_json("golden_train_voc.json")
    vocabulary = VOCABULARY.seen
    assert list(vocabulary.parts) == facts["train_classes"]["names"]
    model = copy.deepcopy(fine_tuned_clipseg()[0]).train()
    model.label_resize, model.query_chunk = "floor", 150
    images = [picture(*case["fill.image"]) for case in facts["images"]]
    part_maps = [torch.from_numpy(golden[f"target_part_{i}"].astype(np.int64)) for i in range(2)]
    outputs, hooks = record_decoder(model)

    losses = model.loss({"images": images, "part_maps": part_maps, "vocabulary": vocabulary})
    losses["loss_sem_seg"].backward()

    for hook in hooks:
        hook.remove()
    found = stages(model, images, vocabulary) | sampled(outputs)
    assert_close(found | {"logits": outputs["logits"][:, :, 8::32, 8::32]}, golden)
    assert losses["loss_sem_seg"].item() == pytest.approx(facts["loss"]["total"], rel=1e-5)

    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = fine_tuned_names({name: parameter.grad for name, parameter in trained.items()})
    assert facts["grad_norms"].keys() == {name for name in gradients if not name.endswith("k_proj.bias")}
    for name, norm in facts["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-3), name
    rows = gradients["clipseg_model.clip.text_model.embeddings.token_embedding.weight"].abs().sum(1)
    assert int((rows > 0).sum()) == facts["token_embedding_rows_with_grad"]

    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    total = torch.nn.utils.clip_grad_norm_(trained.values(), 0.01)
    assert total.item() == pytest.approx(facts["grad_norm_total"], rel=1e-3)
    torch.optim.AdamW(model.parameter_groups(1e-4), lr=1e-4, betas=(0.9, 0.999), eps=1e-8).step()
    steps = fine_tuned_names({name: parameter.detach() - before[name] for name, parameter in trained.items()})
    for name, norm in facts["step"]["delta_norm"].items():
        assert steps[name].norm().item() == pytest.approx(norm, rel=1e-2), name


def test_parameter_groups_are_the_released_ones():
    model, _ = fine_tuned_clipseg()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in model.parameter_groups(1e-4):
        ours = {names[id(parameter)]: parameter for parameter in group["params"]}
        label = "lr=0.0001 wd=0" if group["weight_decay"] == 0 else "lr=0.0001 wd=0.0001"
        expected = read_json("golden_train_voc.json")["param_groups"][label]["tensors"]
        assert set(fine_tuned_names(ours)) == set(expected)
