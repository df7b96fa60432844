"""Stage 1's loss, the record's mask in it, and the tuning of prompts, in a tiny size."""

import pytest
import torch

from ovparts_lib.systems.zsseg_plus.model import ZssegPlus
from ovparts_lib.systems.zsseg_plus.prompt_tuning import (
    PartRegions,
    PromptTuningSettings,
    collect_regions,
    naming_accuracy,
    tune_prompts,
)
from tests.systems.zsseg_plus.tiny import VOCABULARY, tiny_zsseg_plus

IGNORE = VOCABULARY.ignore_label


def record(parts=(0, 1), object_id=0, size=(64, 64), seed=0):
    generator = torch.Generator().manual_seed(seed)
    part_map, object_map = torch.full(size, IGNORE), torch.full(size, IGNORE)
    for number, part in enumerate(parts):
        part_map[10:40, 10 + 20 * number : 30 + 20 * number] = part
        object_map[10:40, 10 + 20 * number : 30 + 20 * number] = object_id
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    return {"image": image, "part_map": part_map, "object_map": object_map, "vocabulary": VOCABULARY}


def batch(*records):
    return {
        "images": [each["image"] for each in records],
        "part_maps": [each["part_map"] for each in records],
        "object_maps": [each["object_map"] for each in records],
        "vocabulary": VOCABULARY,
    }


def test_every_parameter_that_trains_gets_a_gradient_and_no_other():
    model = tiny_zsseg_plus().train()
    names = model.set_trainable(ZssegPlus.groups)
    losses = model.loss(batch(record(), record((2,), 1, (48, 80))))
    assert set(losses) == {f"loss_{kind}{suffix}" for kind in ("ce", "mask", "dice") for suffix in ("", "_0")}
    sum(losses.values()).backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == set(names)
    assert not any(name.startswith(("clip.", "prompt_learner.")) for name in names)
    assert model.set_trainable(["no_object"]) == ["no_object_text"]


def test_padding_a_batch_is_background():
    model = tiny_zsseg_plus(dropout=0.0).train()
    small = record(size=(50, 60))
    padded = record(size=(64, 64))
    padded["part_map"][:50, :60], padded["object_map"][:50, :60] = small["part_map"], small["object_map"]
    for key in ("part_map", "object_map"):
        padded[key][50:], padded[key][:, 60:] = IGNORE, IGNORE
    mean = torch.tensor((124, 116, 104), dtype=torch.uint8).view(3, 1, 1)
    padded["image"][:] = mean
    padded["image"][:, :50, :60] = small["image"]
    first, second = model.loss(batch(small)), model.loss(batch(padded))
    for name in first:
        assert float(first[name].detach()) == pytest.approx(float(second[name].detach()), rel=0.02)


def test_a_record_that_a_crop_left_nothing_of_still_trains():
    nothing = record(())
    losses = tiny_zsseg_plus().train().loss(batch(nothing))
    assert all(loss.isfinite() for loss in losses.values())
    assert float(losses["loss_mask"].detach()) == float(losses["loss_dice"].detach()) == 0
    sum(losses.values()).backward()


def test_withheld_masks_are_those_of_records_without_an_object():
    hidden = record()
    hidden["object_map"] = torch.full_like(hidden["object_map"], IGNORE)
    wanted = tiny_zsseg_plus(dropout=0.0).train().loss(batch(hidden))
    model = tiny_zsseg_plus(dropout=0.0, prompt_dropout=1.0)
    found = model.train().loss(batch(record()))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    shown = model.eval().loss(batch(record()))
    assert not torch.equal(shown["loss_ce"], wanted["loss_ce"])


def test_records_of_several_objects_are_refused():
    several = record()
    several["object_map"][50:] = 2
    with pytest.raises(ValueError, match="record 0 of the batch shows several objects"):
        tiny_zsseg_plus().loss(batch(several))


def test_groups_of_the_optimiser():
    model = tiny_zsseg_plus()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in model.parameter_groups(1e-4):
        found |= {names[id(p)]: (group["lr_multiplier"], group["weight_decay"]) for p in group["params"]}
    assert found["backbone.res2.0.conv1.weight"] == (0.1, 1e-4)
    assert found["pixel_decoder.layer_1.norm.weight"] == (1.0, 0.0)
    assert found["transformer_decoder.query_embed.weight"] == (1.0, 0.0)
    assert found["transformer_decoder.mask_embed.layers.0.bias"] == (1.0, 1e-4)


@pytest.mark.parametrize("conditional", [False, True])
def test_tuning_prompts_learns_to_name_regions_and_touches_nothing_else(conditional):
    model = tiny_zsseg_plus(conditional=conditional)
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(4, 16), dim=1)
    classes = torch.arange(200) % 4
    regions = PartRegions(directions[classes], directions.mean(0).expand(200, -1), classes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    untuned = naming_accuracy(model, regions, VOCABULARY)
    settings = PromptTuningSettings(iterations=40, batch_size=16, learning_rate=0.05, warmup=2, competing="object")
    history = tune_prompts(model, regions, VOCABULARY, settings)
    assert history["loss"].iloc[-10:].mean() < 0.7 * history["loss"].iloc[:5].mean()
    tuned = naming_accuracy(model, regions, VOCABULARY)
    assert tuned["accuracy"].iloc[0] > max(0.7, untuned["accuracy"].iloc[0])
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"prompt_learner.{name}" for name in ("fuse_weight", "prefix_prompt", "connect_prompt")}
    assert not any(parameter.requires_grad for parameter in model.prompt_learner.parameters())


def test_regions_are_those_of_the_annotated_parts():
    model = tiny_zsseg_plus()
    samples = [record(), record((3,), 1, seed=1), record((0, 1), seed=2), record(())]
    every = collect_regions(model, samples)
    assert every.class_ids.tolist() == [0, 1, 3, 0, 1]
    few = collect_regions(model, samples, per_class=1)
    assert few.class_ids.tolist() == [0, 1, 3]
    assert torch.equal(few.regions, every.regions[:3])
    with pytest.raises(ValueError, match="nothing to tune prompts on"):
        collect_regions(model, [record(())])


def test_learning_rates_of_prompt_tuning():
    settings = PromptTuningSettings()
    assert settings.rate(0) == settings.rate(99) == pytest.approx(1e-4)
    assert settings.rate(1600) == pytest.approx(0.01)
    with pytest.raises(ValueError, match=r"competing\n.*'all' or 'object'"):
        PromptTuningSettings(competing="parts")


def test_losses_do_not_depend_on_the_type_of_the_labels():
    model = tiny_zsseg_plus()
    wide = batch(record(), record((2,), 1, (48, 80)))
    small = wide | {key: [labels.to(torch.uint8) for labels in wide[key]] for key in ("part_maps", "object_maps")}
    with torch.no_grad():
        assert {k: float(v) for k, v in model.loss(wide).items()} == {k: float(v) for k, v in model.loss(small).items()}


def test_masks_of_withheld_objects_are_no_prompt():
    """As the released training lost them: an object withheld is learned as if nothing were known of it."""
    records = batch(record(), record((2,), 1, (48, 80)))
    names = {VOCABULARY.objects[int(each[each != VOCABULARY.ignore_label][0])] for each in records["object_maps"]}
    unknown = [torch.full_like(each, VOCABULARY.ignore_label) for each in records["object_maps"]]
    with torch.no_grad():
        withheld = tiny_zsseg_plus(withheld_objects=names).loss(records)
        blank = tiny_zsseg_plus().loss(records | {"object_maps": unknown})
        told = tiny_zsseg_plus().loss(records)
    assert {key: float(value) for key, value in withheld.items()} == {key: float(value) for key, value in blank.items()}
    assert float(told["loss_ce"]) != float(withheld["loss_ce"])
