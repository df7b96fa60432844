import pytest
import torch

from ovparts_lib.images import square_pixels
from ovparts_lib.systems.partclipseg import model as partclipseg
from ovparts_lib.systems.partclipseg.model import RELEASED_GROUPS, Partclipseg
from ovparts_lib.vocabularies import PartVocabulary
from tests.systems.partclipseg.plain import released_losses
from tests.systems.tiny import TINY, random_image

# Neither parts nor objects are in alphabetical order; one object has no parts, two parts share a name.
VOCABULARY = PartVocabulary(
    "toy",
    ("dog's tail", "dog's head", "car's wheel", "bird's head", "bird's beak"),
    ("sofa", "dog", "car", "bird"),
    ignore_label=255,
)
RELEASED_RULES = {"label_resize": "floor", "attention_rule": "released", "object_text": "released"}


def tiny_partclipseg(seed=0, **options):
    torch.manual_seed(seed)
    model = Partclipseg(TINY, **options)
    with torch.no_grad():  # copies that differ, and attention that is not uniform, so that confusion would show
        for name, parameter in model.named_parameters():
            if name.startswith(("decoder.pair_", "decoder.layers")):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def batch_of(*cases, vocabulary=VOCABULARY):
    """Cases are (seed, kind): what the label maps look like."""
    images, part_maps, object_maps = [], [], []
    for seed, kind in cases:
        generator = torch.Generator().manual_seed(seed)
        objects = torch.full((60, 80), 255)
        parts = objects.clone()
        if kind != "empty":
            objects[10:40, 5:50], objects[30:60, 50:75], objects[0:8, 60:80] = 1, 3, 0
            parts[10:40, 5:20], parts[10:40, 20:45] = 0, 1
            parts[30:45, 50:75], parts[45:60, 50:60] = 3, 4
            parts[40, 60] = 3
        if kind == "full":
            objects[objects == 255] = 2
            objects[objects == 0] = 2
        if kind == "no parts":
            parts[:] = 255
        if kind == "speckle":
            keep = torch.rand(60, 80, generator=generator) > 0.3
            parts = torch.where(keep, parts, 255)
        images.append(random_image(60, 80, seed))
        part_maps.append(parts)
        object_maps.append(objects)
    names = [f"image-{seed}" for seed, _ in cases]
    return {
        "images": images,
        "part_maps": part_maps,
        "object_maps": object_maps,
        "image_ids": names,
        "vocabulary": vocabulary,
    }


def gradients(model, batch):
    model.zero_grad()
    sum(model.loss(batch).values()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def plain_logits(model, images, vocabulary):
    """Pair logits, the queries' own logits and head-mean attention of the last layer, one concatenation at a time."""
    decoder, generic = model.decoder, len(vocabulary.generic_parts)
    pixels = square_pixels(images, TINY.image_size, model.device)
    reduced, grid, _ = model._encode_images(pixels)
    conditions = torch.cat([model.encode_vocabulary(vocabulary), model.background_query])
    tokens, _, attention = decoder.tokens(reduced, conditions, keep_attention=True)
    own, _ = decoder(reduced, conditions, grid)
    features, pairs = tokens[:, :, 1:], []
    for part in [*range(len(vocabulary.parts)), None]:
        if part is None:
            first = second = text = len(conditions) - 1
        else:
            rank = vocabulary.object_to_object_with_parts[vocabulary.part_to_object[part]]
            first, second = vocabulary.part_to_generic[part], generic + rank
            text = rank if model.object_text == "released" else second
        joined = decoder.pair_mix(torch.cat([features[:, first], features[:, second]], dim=-1))
        condition = decoder.pair_text(torch.cat([conditions[text], conditions[first]]))
        modulated = decoder.pair_film_mul(condition) * joined + decoder.pair_film_add(condition)
        pairs.append(decoder.pair_head(modulated, grid))
    return torch.stack(pairs, dim=1), own, attention[-1].mean(2)


def resized(label_map):
    """The label at the top left of each of 48 x 48 pixels."""
    rows, columns = ((torch.arange(48) * length / 48).long() for length in label_map.shape)
    return label_map[rows][:, columns]


# --- logits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("object_text", ["object", "released"])
def test_pairs_are_joined_as_written(object_text):
    model = tiny_partclipseg(object_text=object_text)
    images = [random_image(60, 80, 1), random_image(30, 40, 2)]
    pairs, own, _ = plain_logits(model, images, VOCABULARY)
    for number, scores in enumerate(model.predict(images, VOCABULARY)):
        torch.testing.assert_close(scores.logits, pairs[number, :-1])
        torch.testing.assert_close(scores.background, pairs[number, -1])
        # generic parts: beak, head, tail, wheel; objects: bird, car, dog
        torch.testing.assert_close(scores.objects.logits, own[number, 4:7])
        torch.testing.assert_close(scores.objects.background, own[number, 7])
        assert scores.objects.class_ids == (3, 2, 1)
        assert scores.image_size == tuple(images[number].shape[1:])


def test_the_released_object_slot_is_a_parts_text():
    right, wrong = tiny_partclipseg(), tiny_partclipseg(object_text="released")
    (first,), (second,) = (model.predict([random_image(60, 80)], VOCABULARY) for model in (right, wrong))
    assert not torch.allclose(first.logits, second.logits, atol=1e-3)
    torch.testing.assert_close(first.background, second.background)
    torch.testing.assert_close(first.objects.logits, second.objects.logits)


@pytest.mark.parametrize("part_ids", [[3], [4, 0, 1], [2, 3]])
def test_part_ids_choose_channels_and_change_no_value(part_ids):
    model, image = tiny_partclipseg(object_text="released"), [random_image(40, 90)]
    decoded = []
    model.decoder.layers[0].register_forward_pre_hook(lambda module, inputs: decoded.append(len(inputs[0])))
    (full,) = model.predict(image, VOCABULARY)
    assert sum(decoded) == 8
    (some,) = model.predict(image, VOCABULARY, class_ids=part_ids)
    torch.testing.assert_close(some.logits, full.logits[part_ids])
    torch.testing.assert_close(some.background, full.background)
    torch.testing.assert_close(some.objects.logits, full.objects.logits)
    assert some.class_ids == tuple(part_ids)
    decoded.clear()
    (alone,) = model.predict(image, VOCABULARY, class_ids=part_ids, background=False)
    torch.testing.assert_close(alone.logits, some.logits)
    assert alone.background is None
    assert alone.objects is None
    texts = {VOCABULARY.part_to_generic[part] for part in part_ids}, {VOCABULARY.part_to_object[p] for p in part_ids}
    assert sum(decoded) == sum(map(len, texts))


@pytest.mark.parametrize("query_chunk", [1, 3, 100])
def test_chunks_change_nothing(query_chunk):
    model, images = tiny_partclipseg(), [random_image(40, 90, 1), random_image(48, 48, 2)]
    expected = model.predict(images, VOCABULARY)
    model.query_chunk = query_chunk
    for one, other in zip(model.predict(images, VOCABULARY), expected, strict=True):
        torch.testing.assert_close(one.logits, other.logits)
        torch.testing.assert_close(one.objects.logits, other.objects.logits)


def test_attention_of_a_part_is_the_mean_of_its_two_queries():
    model, images = tiny_partclipseg(), [random_image(40, 90, 1), random_image(48, 48, 2)]
    plain = model.predict(images, VOCABULARY, class_ids=[3, 1])
    kept = model.inspect(images, VOCABULARY, class_ids=[3, 1])
    *_, whole = plain_logits(model, images, VOCABULARY)
    for number, ((scores, found), expected) in enumerate(zip(kept, plain, strict=True)):
        torch.testing.assert_close(scores.logits, expected.logits)
        maps = found["attention"]
        assert maps.queries == ("bird head", "dog head")
        assert set(maps.components) == {("part", "head"), ("object", "bird"), ("object", "dog")}
        assert (set(maps.decoder), set(maps.clip), maps.grid) == ({0, 1, 2}, {1, 2, 3}, (6, 6))
        for name, query in {("part", "head"): 1, ("object", "bird"): 4, ("object", "dog"): 6}.items():
            torch.testing.assert_close(maps.components[name][2].mean(0), whole[number, query])
        for place, owner in enumerate(("bird", "dog")):
            mean = (maps.components["part", "head"][1] + maps.components["object", owner][1]) / 2
            torch.testing.assert_close(maps.decoder[1][place], mean)


def test_own_words_that_are_objects_and_parts_at_once():
    model, words = tiny_partclipseg(), PartVocabulary.from_words(["roof", "dog's head"])
    ((scores, maps),) = model.inspect([random_image(40, 90)], words)
    pairs, own, _ = plain_logits(model, [random_image(40, 90)], words)
    torch.testing.assert_close(scores.logits, pairs[0, :-1])
    torch.testing.assert_close(own[0, 1], scores.objects.logits[1])  # "roof", as a generic part and as an object
    named = {("part", "roof"), ("object", "roof"), ("part", "head"), ("object", "dog")}
    assert set(maps["attention"].components) == named


# --- losses ---------------------------------------------------------------------------------------------------------


def plain_terms(model, batch):
    """The terms of one image by name, unweighted, and the number of objects that the attention terms counted."""
    pairs, own, attention = plain_logits(model, batch["images"], VOCABULARY)
    parts, objects = resized(batch["part_maps"][0]), resized(batch["object_maps"][0])
    parts = torch.where(parts == 255, -1, parts)
    objects = torch.tensor([-1, 2, 1, 0])[objects.clamp(max=3)].masked_fill(objects == 255, -1)
    threshold = model.attention_threshold
    *terms, number = released_losses(pairs[0], own[0], attention[0], parts, objects, VOCABULARY, threshold)
    terms[3:] = (term / max(number, 1) for term in terms[3:])
    names = ["loss_part_object", "loss_object", "loss_part", "loss_separation", "loss_enhancement"]
    return dict(zip(names, terms, strict=True)), number


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["usual", "full", "no parts", "empty", "speckle"])
def test_losses_and_gradients_of_an_image_are_those_of_the_plain_formulas(kind, threshold):
    model = tiny_partclipseg(
        **RELEASED_RULES, enhancement_weight=1.0, separation_weight=1.0, attention_threshold=threshold
    )
    batch = batch_of((3, kind))
    plain, number = plain_terms(model, batch)
    assert number == {"usual": 2, "full": 2, "no parts": 0, "empty": 0, "speckle": 2}[kind]
    torch.testing.assert_close(model.loss(batch), plain, rtol=1e-5, atol=1e-6)
    found = {name: gradient.clone() for name, gradient in gradients(model, batch).items()}
    model.zero_grad()
    sum(plain.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(found[name], parameter.grad, msg=name, rtol=1e-3, atol=1e-6)


def test_losses_of_images_are_averaged():
    model = tiny_partclipseg(attention_threshold=0.2)
    batches = [batch_of((3, "usual")), batch_of((4, "empty")), batch_of((5, "speckle"))]
    together = model.loss(batch_of((3, "usual"), (4, "empty"), (5, "speckle")))
    alone = [model.loss(batch) for batch in batches]
    for name, value in together.items():
        torch.testing.assert_close(value, torch.stack([losses[name] for losses in alone]).mean(), msg=name)


def test_losses_of_a_batch_weigh_pixels_alike_and_divide_attention_by_images_again():
    model = tiny_partclipseg(**RELEASED_RULES, loss_mean="batch", enhancement_weight=1.0)
    cases = (3, "usual"), (5, "speckle")
    together, alone = model.loss(batch_of(*cases)), [model.loss(batch_of(case)) for case in cases]
    pixels = torch.tensor([float((resized(m) != 255).sum()) for m in batch_of(*cases)["part_maps"]])
    expected = (torch.stack([losses["loss_part"] for losses in alone]) * pixels).sum() / pixels.sum()
    torch.testing.assert_close(together["loss_part"], expected)
    # Two objects in each image: the sum of their terms is divided by four objects and by two images.
    expected = sum(2 * losses["loss_enhancement"] for losses in alone) / (4 * 2)
    torch.testing.assert_close(together["loss_enhancement"], expected)


def test_weights_scale_terms_and_zero_leaves_them_out():
    batch = batch_of((3, "usual"))
    plain = tiny_partclipseg(object_weight=1, part_weight=1, separation_weight=1, enhancement_weight=1).loss(batch)
    scaled = tiny_partclipseg(object_weight=2, part_weight=3, separation_weight=4, enhancement_weight=5).loss(batch)
    factors = {"object": 2, "part": 3, "separation": 4, "enhancement": 5}
    for term, factor in factors.items():
        torch.testing.assert_close(scaled[f"loss_{term}"], factor * plain[f"loss_{term}"])
    assert set(tiny_partclipseg(separation_weight=0, enhancement_weight=0).loss(batch)) == {
        "loss_part_object",
        "loss_object",
        "loss_part",
    }
    alone = tiny_partclipseg(object_weight=0, part_weight=0, separation_weight=0, enhancement_weight=0).loss(batch)
    torch.testing.assert_close(alone, {"loss_part_object": plain["loss_part_object"]})


def test_only_the_corrected_separation_has_a_gradient():
    batch = batch_of((3, "usual"))
    corrected, released = tiny_partclipseg().loss(batch), tiny_partclipseg(attention_rule="released").loss(batch)
    assert corrected["loss_separation"].requires_grad
    assert not released["loss_separation"].requires_grad
    assert corrected["loss_enhancement"].requires_grad
    assert released["loss_enhancement"].requires_grad


def test_the_corrected_rule_keeps_the_last_object_and_its_own_parts():
    """In a picture without a pixel outside objects, both objects count, and neither looks at the other's parts."""
    model, batch = tiny_partclipseg(enhancement_weight=1.0), batch_of((3, "full"))
    # "full" has dog, bird and, everywhere else, car, of which no part is labelled.
    found = model.loss(batch)
    batch["part_maps"][0][batch["object_maps"][0] == 3] = 255
    dog = model.loss(batch)["loss_enhancement"]
    both = batch_of((3, "full"))
    both["part_maps"][0][both["object_maps"][0] == 1] = 255
    bird = model.loss(both)["loss_enhancement"]
    torch.testing.assert_close(found["loss_enhancement"], (dog + bird) / 2)


@pytest.mark.parametrize("query_chunk", [1, 4, 100])
def test_recomputing_the_decoder_gives_the_same_gradients(query_chunk):
    model, batch = tiny_partclipseg(), batch_of((3, "usual"), (5, "speckle"))
    expected = gradients(model, batch)
    model.checkpoint_decoder, model.query_chunk = True, query_chunk
    found = gradients(model, batch)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=name, rtol=1e-4, atol=1e-6)


def test_everything_that_trains_gets_a_gradient_even_from_a_picture_without_parts():
    model = tiny_partclipseg()
    names = model.set_trainable(Partclipseg.groups)
    found = gradients(model, batch_of((3, "usual")))
    assert set(found) == set(names)
    assert all(gradient.abs().sum() > 0 for gradient in found.values())
    assert set(gradients(model, batch_of((3, "empty")))) == set(names)


def test_fewer_training_queries_are_the_loss_of_a_smaller_vocabulary(monkeypatch):
    """Parts 0, 1 and 3: of dog and bird. The car, which the picture shows without parts, stays an object."""
    model, batch = tiny_partclipseg(training_queries=3), batch_of((3, "full"))
    chosen, everything = torch.tensor([0, 1, 3, 5]), torch.arange(4)
    monkeypatch.setattr(partclipseg, "chosen_queries", lambda *args: everything if args[2] is None else chosen)
    batch["part_maps"][0][batch["part_maps"][0] == 4] = 255
    found = model.loss(batch)
    decoded = part_texts(model, batch)
    assert decoded == ["head", "tail", "bird", "car", "dog"]
    words = PartVocabulary("less", ("dog's tail", "dog's head", "bird's head"), ("sofa", "dog", "car", "bird"))
    smaller = batch | {"vocabulary": words, "part_maps": [m.clone() for m in batch["part_maps"]]}
    smaller["part_maps"][0][batch["part_maps"][0] == 3] = 2
    model.training_queries = None
    expected = model.loss(smaller)
    for name in ("loss_part", "loss_separation", "loss_enhancement"):
        torch.testing.assert_close(found[name], expected[name])
    # The smaller vocabulary's car has no parts and is background; without such pixels all terms agree.
    for some in (batch, smaller):
        some["object_maps"] = [m.masked_fill(m == 2, 255) for m in some["object_maps"]]
    model.training_queries = 3
    found = model.loss(batch)
    model.training_queries = None
    torch.testing.assert_close(found, model.loss(smaller))


def part_texts(model, batch):
    queries, _ = model._targets(batch)
    return list(queries.texts(batch["vocabulary"], torch.arange(len(queries.rows) - 1)))


def test_every_present_part_is_decoded():
    model = tiny_partclipseg(training_queries=1)
    assert part_texts(model, batch_of((3, "usual"))) == ["beak", "head", "tail", "bird", "dog"]


# --- errors and options ---------------------------------------------------------------------------------------------


def test_wrong_labels_and_missing_maps_are_named():
    model, batch = tiny_partclipseg(), batch_of((3, "usual"))
    batch["object_maps"][0][:] = 4
    with pytest.raises(ValueError, match=r"object map of image 'image-3' holds label 4; .*'toy' has objects 0 to 3"):
        model.loss(batch)
    del batch["object_maps"]
    with pytest.raises(ValueError, match="the batch has no object_maps"):
        model.loss(batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"object_text": "part"}, r"object_text\n.*'object' or 'released'"),
        ({"attention_rule": "none"}, r"attention_rule\n.*'corrected' or 'released'"),
        ({"loss_mean": "pixel"}, r"loss_mean\n.*'image' or 'batch'"),
        ({"attention_layer": 3}, "attention_layer must be from -3 to 2, not 3"),
        ({"part_weight": -1.0}, r"part_weight\n.*greater than or equal to 0"),
        ({"attention_threshold": 1.5}, r"attention_threshold\n.*less than or equal to 1"),
        ({"query_chunk": 0}, r"query_chunk\n.*greater than 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Partclipseg(TINY, **options)


def test_the_controlled_layer_can_be_chosen():
    batch = batch_of((3, "usual"))
    each = [tiny_partclipseg(attention_layer=layer).loss(batch)["loss_enhancement"].item() for layer in (0, 1, 2, -1)]
    assert len(set(each[:3])) == 3
    assert each[3] == each[2]


def test_groups_train_what_they_say():
    model = tiny_partclipseg()
    each = {group: set(model.set_trainable([group])) for group in Partclipseg.groups}
    assert sum(map(len, each.values())) == len(set.union(*each.values()))
    assert {name for name, _ in model.named_parameters() if name.startswith("decoder.")} <= set.union(*each.values())
    assert "decoder.pair_film_mul.weight" in each["film"]
    assert {"decoder.pair_mix.weight", "decoder.pair_text.bias", "decoder.pair_head.up2.bias"} <= each["decoder"]
    assert "background_query" not in model.set_trainable(RELEASED_GROUPS)


def test_a_new_decoder_begins_with_copies_and_without_biases():
    torch.manual_seed(0)
    decoder = Partclipseg(TINY).decoder
    for copied, source in [("pair_film_mul", "film_mul"), ("pair_film_add", "film_add"), ("pair_head", "head")]:
        ours, theirs = (getattr(decoder, name).state_dict() for name in (copied, source))
        assert all(torch.equal(ours[name], tensor) and ours[name] is not tensor for name, tensor in theirs.items())
    for layer, fan_in in [(decoder.pair_mix, 16), (decoder.pair_text, 32)]:
        assert not layer.bias.any()
        assert 0.9 * fan_in**-0.5 < layer.weight.abs().max() <= fan_in**-0.5


def test_half_precision_runs():
    model, image = tiny_partclipseg(), [random_image(40, 90)]
    (exact,) = model.predict(image, VOCABULARY)
    batch = batch_of((3, "usual"))
    losses = model.loss(batch)
    with torch.autocast("cpu", torch.bfloat16):
        (rough,) = model.predict(image, VOCABULARY)
        rough_losses = model.loss(batch)
    assert rough.logits.dtype == rough.objects.logits.dtype == torch.float32
    torch.testing.assert_close(rough.logits, exact.logits, atol=0.3, rtol=0.1)
    assert {value.dtype for value in rough_losses.values()} == {torch.float32}
    assert sum(rough_losses.values()).item() == pytest.approx(sum(losses.values()).item(), rel=2e-2)
