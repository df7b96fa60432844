"""PartCLIPSeg against what the reference implementation computed with the same weights (tests/golden/fill.py)."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovparts_lib.images import square_pixels
from ovparts_lib.inspection.attention_measures import pooled_map
from ovparts_lib.models.attention_overlap import memberships, smooth
from ovparts_lib.models.clip.text import tokenize
from ovparts_lib.models.clip.towers import image_hidden_states
from ovparts_lib.systems.part_queries import query_texts
from ovparts_lib.systems.partclipseg.weights import released_names
from ovparts_lib.vocabularies import load_vocabulary
from tests.golden.fill import image
from tests.golden.released_partclipseg import FOLDER, read_json, released_partclipseg

PASCAL = load_vocabulary("pascal_part_116")


def picture(height, width, seed):
    return torch.from_numpy(image(height, width, seed)).permute(2, 0, 1)


def assert_close(found, golden):
    for name, values in found.items():
        np.testing.assert_allclose(values.numpy(), golden[name], rtol=0, atol=1e-4, err_msg=name)


@torch.no_grad()
def stages(model, images, vocabulary):
    """Everything before the heads, sampled as in the recordings."""
    pixels = square_pixels(images, 352, model.device)
    hidden = image_hidden_states(model.clip.visual, pixels, (0, 4, 7, 10, 12)).states
    found = {"pixel_values": pixels[:, :, 8::16, 8::16]}
    found |= {f"vision_hidden_{k}": state[:, ::22, ::32] for k, state in hidden.items()}
    found |= {f"adapted_{i}": model.visual_adapter(hidden[k])[:, ::22, ::32] for i, k in enumerate((4, 7, 10))}
    conditions = torch.cat([model.encode_vocabulary(vocabulary), model.background_query])
    found["conditional"] = conditions[:, ::16]
    outputs = []
    hooks = [layer.register_forward_hook(lambda m, i, o: outputs.append(o[0])) for layer in model.decoder.layers]
    reduced, _, _ = model._encode_images(pixels)
    tokens, _, _ = model.decoder.tokens(reduced, conditions)
    for hook in hooks:
        hook.remove()
    found |= {f"decoder_{i}": output[::9, ::44, ::4] for i, output in enumerate(outputs)}
    return found, tokens[:, :, 1:], conditions


@pytest.fixture(scope="module")
def golden_eval():
    return np.load(FOLDER / "golden_eval_voc.npz")


@pytest.fixture(scope="module")
def scores():
    return released_partclipseg()[0].predict([picture(375, 500, 0)], PASCAL)[0]


def enlarged(logits):
    return F.interpolate(logits[None], size=(375, 500), mode="bilinear", align_corners=False)[0].sigmoid()


def test_the_loader_keeps_every_tensor_of_the_manifest():
    model, report = released_partclipseg()
    facts = read_json("golden_eval_voc.json")["parameters"]
    dead = 2 * 128 * 512 + 1000 * 512
    assert sum(p.numel() for p in model.parameters()) == facts["total"] - dead
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == facts["trainable"]
    assert len(report.dropped) == 5
    assert report.initialised == ()
    assert model.object_text == "released"


def test_stages_of_the_evaluation(golden_eval):
    model, _ = released_partclipseg()
    found, features, conditions = stages(model, [picture(375, 500, 0)], PASCAL)
    assert_close(found, golden_eval)
    with torch.no_grad():
        own = torch.cat(
            [model.decoder.map_logits(model.decoder.head, f, (22, 22)) for f in features.split(8, dim=1)], 1
        )
        assert_close({"logits": own[0, :, 8::16, 8::16]}, golden_eval)
    assert len(conditions) == 59


def test_generic_parts_of_the_evaluation(golden_eval):
    parts = [PASCAL.part_to_generic.index(generic) for generic in range(42)]
    model = released_partclipseg()[0]
    ((_, maps),) = model.inspect([picture(375, 500, 0)], PASCAL, class_ids=parts, background=False)
    logits = maps["generic_parts"].logits
    assert maps["generic_parts"].class_ids == tuple(range(42))
    assert list(PASCAL.generic_parts) == read_json("golden_eval_voc.json")["part_classes"]
    np.testing.assert_allclose(logits[:, 8::16, 8::16].numpy(), golden_eval["logits"][:42], rtol=0, atol=1e-4)
    found = enlarged(logits)[:, ::25, ::25]
    np.testing.assert_allclose(found.numpy(), golden_eval["part_probs"], rtol=0, atol=1e-5)


def test_token_ids_of_the_queries(golden_eval):
    recorded = torch.from_numpy(golden_eval["input_ids"].astype(np.int64))
    tokens = tokenize(query_texts(PASCAL))
    for own, row in zip(tokens, recorded, strict=True):
        end = int(own.argmax())  # the end token has the largest id
        assert torch.equal(own[: end + 1], row[: end + 1])


def test_attention_maps_of_the_evaluation(golden_eval):
    """What the patches of each of the dog's parts attend to, as it is and as it meets the threshold.

    The part map of the recording is a strip per part, in label order but for the neck, which is nowhere: rows 7 to 15,
    from column 7 on. Its dog is the square from 6 to 16.
    """
    model, recorded = released_partclipseg()[0], golden_eval["attn_maps"]
    golden = dict(zip(read_json("golden_eval_voc.json")["attn_maps"], torch.from_numpy(recorded), strict=True))
    dog = PASCAL.parts_of(PASCAL.object_id("dog"))
    ((_, maps),) = model.inspect([picture(375, 500, 0)], PASCAL, class_ids=dog, background=False)
    everywhere, column = torch.ones(22, 22, dtype=torch.bool), 7
    for place, part in enumerate(dog):
        name, strip = PASCAL.parts[part].replace("'s ", "_"), torch.zeros(22, 22, dtype=torch.bool)
        if name == "dog_neck":
            assert not golden[f"avg_part_{name}"].any() and not golden[f"smoothed_part_{name}"].any()
            continue
        strip[7:16, column] = True
        column += 1
        average = pooled_map(maps["attention"].decoder[2][place], strip) * strip.sum() / strip.numel()
        torch.testing.assert_close(average, golden[f"avg_part_{name}"], rtol=1e-4, atol=1e-8)
        smoothed = golden[f"smoothed_part_{name}"]
        torch.testing.assert_close(smooth(stretched(average)[None])[0], smoothed, rtol=0, atol=1e-5)
        assert torch.equal(memberships(average[None], everywhere, 0.3)[0], (smoothed > 0.3).float())
    assert column == 16
    square = torch.zeros(22, 22, dtype=torch.bool)
    square[6:17, 6:17] = True
    own = smooth(stretched(pooled_map(maps["attention"].components["object", "dog"][2], square))[None])[0]
    torch.testing.assert_close(own, golden["smoothed_obj_dog"], rtol=0, atol=1e-5)


def stretched(values):
    return (values - values.min()) / (values.max() - values.min() + 1e-9)


def test_pair_stage_of_the_evaluation(golden_eval, monkeypatch):
    model, _ = released_partclipseg()
    taken = {"text": [], "mixed": [], "modulated": []}
    decoder = model.decoder
    hooks = [
        decoder.pair_text.register_forward_hook(lambda m, i, o: taken["text"].append((i[0], o))),
        decoder.pair_head.register_forward_pre_hook(lambda m, i: taken["modulated"].append(i[0])),
    ]
    original = decoder.pair_logits
    monkeypatch.setattr(decoder, "pair_logits", lambda *a: (taken["mixed"].append(a[0]), original(*a))[1])
    model.predict([picture(375, 500, 0)], PASCAL)
    for hook in hooks:
        hook.remove()
    mixed = torch.cat(taken["mixed"], dim=1)[0].unflatten(1, (22, 22))
    modulated = torch.cat(taken["modulated"]).unflatten(1, (22, 22)).permute(0, 3, 1, 2)
    found = {
        "pair_embedding_in": taken["text"][0][0][::9, ::32],
        "pair_embedding": taken["text"][0][1][::9, ::16],
        "part_obj_proj": mixed[::9, ::7, ::7, ::4],
        "part_obj_film": modulated[::9, ::4, ::7, ::7],
    }
    assert_close(found, golden_eval)


def test_logits_of_the_evaluation(scores, golden_eval):
    parts = torch.cat([scores.logits, scores.background[None]])
    objects = torch.cat([scores.objects.logits, scores.objects.background[None]])
    assert_close({"part_obj_logits": parts[:, 8::16, 8::16]}, golden_eval)
    np.testing.assert_allclose(objects[:, 8::16, 8::16].numpy(), golden_eval["logits"][42:], rtol=0, atol=1e-4)
    names = read_json("golden_eval_voc.json")["object_classes_with_parts"]
    assert [PASCAL.objects[number] for number in scores.objects.class_ids] == names


def test_probabilities_and_label_maps_of_both_readings(scores, golden_eval):
    parts = enlarged(torch.cat([scores.logits, scores.background[None]]))
    oracle, dog = parts[:-1].clone(), PASCAL.parts_of(PASCAL.object_id("dog"))
    oracle[[part for part in range(116) if part not in dog]] = 0
    np.testing.assert_allclose(oracle[:, ::25, ::25].numpy(), golden_eval["probs"], rtol=0, atol=1e-5)
    assert (oracle.argmax(0)[::4, ::4].numpy() == golden_eval["argmax"]).mean() >= 0.999
    objects = enlarged(torch.cat([scores.objects.logits, scores.objects.background[None]])).argmax(0)
    chosen = torch.tensor([*scores.objects.class_ids, len(PASCAL.objects)])[objects]
    assert (chosen[::4, ::4].numpy() == golden_eval["object_map"]).mean() >= 0.999
    gated = parts * (torch.tensor([*PASCAL.part_to_object, len(PASCAL.objects)])[:, None, None] == chosen)
    close = np.isclose(gated[:, ::25, ::25].numpy(), golden_eval["probs_all"], rtol=0, atol=1e-5)
    assert close.mean() >= 0.999
    assert (gated.argmax(0)[::4, ::4].numpy() == golden_eval["argmax_all"]).mean() >= 0.999


@pytest.mark.parametrize(
    ("case", "vocabulary"), [("voc", PASCAL.seen), ("partimagenet", load_vocabulary("partimagenet_seg").seen)]
)
def test_loss_gradients_and_step_of_the_training(case, vocabulary):
    golden, facts = np.load(FOLDER / f"golden_train_{case}.npz"), read_json(f"golden_train_{case}.json")
    assert list(vocabulary.parts) == facts["train_classes"]["names"]
    model = copy.deepcopy(released_partclipseg()[0])
    images = [picture(*each["fill.image"]) for each in facts["images"]]

    def label_maps(kind):
        return [torch.from_numpy(golden[f"target_{kind}_{i}"].astype(np.int64)) for i in range(len(images))]

    batch = {
        "images": images,
        "part_maps": label_maps("part"),
        "object_maps": label_maps("obj"),
        "vocabulary": vocabulary,
    }
    maps = np.stack([attention_of(maps, vocabulary) for _, maps in every_ninth_part(model, images, vocabulary)])
    np.testing.assert_allclose(maps, golden["agg_attention"], rtol=0, atol=1e-5)

    found, hooks = record_training(model, vocabulary, len(images))
    losses = model.train().loss(batch)
    for hook in hooks:
        hook.remove()
    assert_close(sampled_training(found, vocabulary), golden)
    sum(losses.values()).backward()

    expected, options = facts["loss"], facts["options"]
    weighted = {
        "loss_part_object": expected["part_obj_loss"],
        "loss_object": options["obj_lambda"] * expected["obj_loss"],
        "loss_part": options["part_lambda"] * expected["part_loss"],
        "loss_separation": options["attn_sep_lambda"] * expected["loss_sep"],
        "loss_enhancement": options["attn_enh_lambda"] * expected["loss_enh"],
    }
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(weighted, rel=1e-5)
    assert sum(losses.values()).item() == pytest.approx(expected["total"], rel=1e-5)
    assert losses["loss_separation"].requires_grad is expected["loss_sep_requires_grad"]

    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = released_names({name: parameter.grad for name, parameter in trained.items()})
    assert facts["grad_norms"].keys() == {name for name in gradients if not name.endswith("k_proj.bias")}
    for name, norm in facts["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-3), name
    rows = gradients["partclipseg_model.clip.text_model.embeddings.token_embedding.weight"].abs().sum(1)
    assert int((rows > 0).sum()) == facts["token_embedding_rows_with_grad"]

    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    total = torch.nn.utils.clip_grad_norm_(trained.values(), 0.01)
    assert total.item() == pytest.approx(facts["grad_norm_total"], rel=1e-3)
    torch.optim.AdamW(model.parameter_groups(1e-4), lr=1e-4, betas=(0.9, 0.999), eps=1e-8).step()
    steps = released_names({name: parameter.detach() - before[name] for name, parameter in trained.items()})
    for name, norm in facts["step"]["delta_norm"].items():
        assert steps[name].norm().item() == pytest.approx(norm, rel=1e-2), name


def record_training(model, vocabulary, images):
    """{name: [output of each chunk, (b, m, ...)]} that fills up in a training step, and the hooks that do it."""
    found = {}

    def hook(name, output):
        found.setdefault(name, []).append(output.detach().unflatten(0, (images, -1)))

    modules = {f"decoder_{i}": layer for i, layer in enumerate(model.decoder.layers)}
    modules |= {"own": model.decoder.head, "pairs": model.decoder.pair_head}
    hooks = [
        module.register_forward_hook(
            lambda m, i, output, name=name: hook(
                name, output[0][:, ::44, ::4] if name.startswith("decoder") else output[:, 8::32, 8::32]
            )
        )
        for name, module in modules.items()
    ]
    return found, hooks


def sampled_training(found, vocabulary):
    """What was recorded of a training step, in the order of the recordings: image by image, background last."""
    found = {name: torch.cat(chunks, dim=1) for name, chunks in found.items()}
    generics = len(vocabulary.generic_parts)
    sampled = {name: each.flatten(0, 1)[::9] for name, each in found.items() if name.startswith("decoder")}
    # The loss goes through objects and background first, then through the generic parts.
    own = torch.cat([found["own"][:, -generics:], found["own"][:, :-generics]], dim=1)
    return sampled | {"logits": own, "part_obj_logits": found["pairs"]}


def every_ninth_part(model, images, vocabulary):
    """Scores with attention of the parts whose maps are in the recordings, and of parts of the objects that are."""
    wanted = list(range(0, len(vocabulary.parts), 9))
    for name in ninth_objects(vocabulary):
        wanted += [part for part in vocabulary.parts_of(vocabulary.object_id(name)) if part not in wanted][:1]
    return model.inspect(images, vocabulary, class_ids=wanted, background=False)


def ninth_objects(vocabulary):
    """The recordings' maps are those of all parts, then of all objects, every ninth of them."""
    return vocabulary.objects_with_parts[-len(vocabulary.parts) % 9 :: 9]


def attention_of(maps, vocabulary):
    parts = maps["attention"].decoder[2][: len(range(0, len(vocabulary.parts), 9))]
    objects = [maps["attention"].components["object", name][2] for name in ninth_objects(vocabulary)]
    return torch.cat([parts, torch.stack(objects)]).mean(1)[:, 100:480:40, ::22].numpy()


@pytest.mark.parametrize("case", ["voc", "partimagenet"])
def test_parameter_groups_are_the_released_ones(case):
    model, _ = released_partclipseg()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in model.parameter_groups(1e-4):
        ours = {names[id(parameter)]: parameter for parameter in group["params"]}
        label = "lr=0.0001 wd=0" if group["weight_decay"] == 0 else "lr=0.0001 wd=0.0001"
        expected = read_json(f"golden_train_{case}.json")["param_groups"][label]["tensors"]
        assert set(released_names(ours)) == set(expected)
