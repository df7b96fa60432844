import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ovparts_lib.images import resize_image, square_pixels
from ovparts_lib.models.film_decoder import PlainHead, RefinedHead, binary_segmentation_loss
from ovparts_lib.systems.clipseg.model import Clipseg
from ovparts_lib.systems.query_segmenter import RELEASED_GROUPS, QuerySize
from ovparts_lib.vocabularies import PartVocabulary
from tests.systems.tiny import TINY_CLIP, VOCABULARY, random_batch, random_image, tiny_clipseg

BACKGROUND_WEIGHT = 0.05


@pytest.fixture
def model():
    return tiny_clipseg()


def all_logits(scores):
    return torch.cat([scores.logits, scores.background[None]])


# --- heads and loss -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("patch", "strides"), [(16, (4, 4)), (8, (2, 4)), (14, (2, 7)), (4, (2, 2))])
def test_the_refined_head_is_its_convolutions(patch, strides):
    head, tokens = RefinedHead(8, patch), torch.randn(3, 12, 8)
    assert (head.up1.stride[0], head.up2.stride[0]) == strides
    layers = nn.Sequential(head.conv, nn.ReLU(), head.up1, nn.ReLU(), head.up2)
    expected = layers(tokens.transpose(1, 2).reshape(3, 8, 3, 4))[:, 0]
    torch.testing.assert_close(head(tokens, (3, 4)), expected)
    assert expected.shape == (3, 3 * patch, 4 * patch)


def test_the_plain_head_is_its_transposed_convolution():
    head, tokens = PlainHead(8, 16), torch.randn(3, 12, 8)
    expected = head.up(tokens.transpose(1, 2).reshape(3, 8, 3, 4))[:, 0]
    torch.testing.assert_close(head(tokens, (3, 4)), expected)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_loss_is_torchs_weighted_binary_cross_entropy(scale):
    logits = (scale * torch.randn(2, 4, 5, 6)).requires_grad_()
    targets = torch.randint(0, 4, (2, 5, 6))
    ours = binary_segmentation_loss(logits, targets, 0.05)
    (gradient,) = torch.autograd.grad(ours, logits)
    weight = torch.tensor([1, 1, 1, 0.05]).view(4, 1, 1)
    one_hot = F.one_hot(targets, 4).permute(0, 3, 1, 2).float()
    theirs = F.binary_cross_entropy_with_logits(logits, one_hot, weight)
    (expected,) = torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient, expected)


def test_the_loss_is_float32_even_under_autocast(model):
    batch = random_batch()
    exact = model.loss(batch)["loss_sem_seg"]
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.loss(batch)["loss_sem_seg"]
        logits = torch.randn(1, 2, 8, 8).bfloat16()
        targets = torch.randint(0, 2, (1, 8, 8))
        inside = binary_segmentation_loss(logits, targets, BACKGROUND_WEIGHT)
    assert rough.dtype == inside.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=1e-2)
    torch.testing.assert_close(inside, binary_segmentation_loss(logits.float(), targets, BACKGROUND_WEIGHT))


def test_unlabelled_pixels_are_background(model):
    """A part map of ignore labels only: the loss is that of the background's channel everywhere."""
    batch = random_batch()
    batch["part_maps"] = [torch.full((60, 80), VOCABULARY.ignore_label) for _ in range(2)]
    predicted = torch.stack([all_logits(scores) for scores in model.predict(batch["images"], VOCABULARY)])
    weights = torch.tensor([1.0] * 5 + [BACKGROUND_WEIGHT]).view(6, 1, 1)
    target = torch.zeros_like(predicted)
    target[:, -1] = 1
    expected = F.binary_cross_entropy_with_logits(predicted, target, weights)
    torch.testing.assert_close(model.loss(batch)["loss_sem_seg"].detach(), expected)


@pytest.mark.parametrize(("rule", "shift"), [("centre", 0.5), ("floor", 0.0)])
@pytest.mark.parametrize("shape", [(100, 75), (31, 48), (48, 48)])
def test_label_maps_are_resized_by_the_rule_asked_for(rule, shift, shape):
    model = tiny_clipseg(label_resize=rule)
    part_map = torch.randint(0, 300, shape)
    rows, columns = (((np.arange(48) + shift) * length / 48).astype(int) for length in shape)
    assert torch.equal(model._resized_labels([part_map], (48, 48))[0], part_map[rows][:, columns])


def test_rows_at_pixel_edges_follow_the_rule_of_the_data():
    """From 224 rows, torch's float32 nearest-exact misses the pixel under the centre; the released floor is float32."""
    part_map = torch.arange(224)[:, None].expand(-1, 48)

    def rows(rule):
        return tiny_clipseg(label_resize=rule)._resized_labels([part_map], (48, 48))[0, :, 0]

    def of_torch(mode):
        return F.interpolate(part_map[None, None].float(), (48, 48), mode=mode)[0, 0, :, 0].long()

    under_centre = torch.tensor([(2 * row + 1) * 224 // 96 for row in range(48)])
    assert torch.equal(rows("centre"), under_centre) and not torch.equal(of_torch("nearest-exact"), under_centre)
    assert torch.equal(rows("floor"), of_torch("nearest"))


def test_a_label_outside_the_vocabulary_is_named(model):
    batch = random_batch()
    batch["part_maps"][1][:] = 5
    with pytest.raises(ValueError, match=r"image 'second' holds label 5; .*'own_words' has parts 0 to 4.*65535"):
        model.loss(batch)


# --- prediction -----------------------------------------------------------------------------------------------------


def test_scores_come_per_image_whatever_its_size(model):
    images = [random_image(40, 90, 1), random_image(48, 48, 2), random_image(200, 31, 3)]
    together = model.predict(images, VOCABULARY)
    for image, scores in zip(images, together, strict=True):
        (alone,) = model.predict([image], VOCABULARY)
        torch.testing.assert_close(all_logits(scores), all_logits(alone))
        assert scores.image_size == tuple(image.shape[1:])
        assert scores.logits.shape == (5, 48, 48)
        assert scores.class_ids == (0, 1, 2, 3, 4)
    assert not torch.allclose(together[0].logits, together[2].logits)


@pytest.mark.parametrize("query_chunk", [1, 2, 3, 100])
def test_decoding_in_chunks_changes_nothing(model, query_chunk):
    images = [random_image(40, 90, 1), random_image(48, 48, 2)]
    whole = model.predict(images, VOCABULARY)
    model.query_chunk = query_chunk
    for expected, scores in zip(whole, model.predict(images, VOCABULARY), strict=True):
        torch.testing.assert_close(all_logits(scores), all_logits(expected))


def test_only_the_wanted_parts_are_decoded_in_the_wanted_order(model):
    images, decoded = [random_image(40, 90)], []
    (full,) = model.predict(images, VOCABULARY)
    model.decoder.register_forward_pre_hook(lambda module, inputs: decoded.append(len(inputs[1])))
    (some,) = model.predict(images, VOCABULARY, class_ids=[4, 0], background=False)
    assert sum(decoded) == 2
    assert some.class_ids == (4, 0)
    assert some.background is None
    torch.testing.assert_close(some.logits, full.logits[[4, 0]])


@pytest.mark.parametrize("part_ids", [[], [5], [-1], [1, 1]])
def test_part_ids_that_do_not_exist_are_refused(model, part_ids):
    with pytest.raises(ValueError, match="different numbers from 0 to 4"):
        model.predict([random_image(40, 90)], VOCABULARY, class_ids=part_ids)


@pytest.mark.parametrize("image", [torch.rand(3, 8, 8), torch.zeros(8, 8, 3, dtype=torch.uint8)])
def test_images_of_another_kind_are_refused(model, image):
    with pytest.raises(ValueError, match=r"image 1 is .*wanted uint8 \(3, height, width\)"):
        model.predict([random_image(8, 8), image], VOCABULARY)


def test_attention_maps_come_only_when_asked_for(model):
    images = [random_image(40, 90, 1), random_image(48, 48, 2)]
    plain = model.predict(images, VOCABULARY, class_ids=[3, 1])
    kept = model.inspect(images, VOCABULARY, class_ids=[3, 1])
    for (scores, found), expected in zip(kept, plain, strict=True):
        torch.testing.assert_close(all_logits(scores), all_logits(expected))
        maps = found["attention"]
        assert maps.queries == ("car licence plate", "dog tail")
        assert maps.grid == (6, 6)
        assert set(maps.decoder) == {0, 1, 2}
        assert set(maps.clip) == {1, 2, 3}
        for stack, shape in [(maps.decoder, (2, 2, 37, 37)), (maps.clip, (2, 37, 37))]:
            for weights in stack.values():
                assert weights.shape == shape
                torch.testing.assert_close(weights.sum(-1), torch.ones(shape[:-1]))
    assert not torch.allclose(maps.decoder[1][0], maps.decoder[1][1])


def test_each_vocabulary_gets_its_own_embeddings(model):
    """The reference keeps the first vocabulary's; the second one's scores are then silently wrong."""
    image = [random_image(40, 90)]
    (first,) = model.predict(image, VOCABULARY)
    other = PartVocabulary.from_words(["dog tail", "cat paw"])
    (second,) = model.predict(image, other)
    torch.testing.assert_close(second.logits[0], first.logits[1])
    assert not torch.allclose(second.logits[1], first.logits[0])


def test_a_training_step_changes_the_next_prediction(model):
    image = [random_image(40, 90)]
    (before,) = model.predict(image, VOCABULARY)
    model.set_trainable(["language"])
    optimiser = torch.optim.AdamW(model.parameter_groups(0.0), lr=0.1)
    model.loss(random_batch())["loss_sem_seg"].backward()
    optimiser.step()
    (after,) = model.predict(image, VOCABULARY)
    assert not torch.allclose(after.logits, before.logits)
    torch.testing.assert_close(after.background, before.background)


def test_the_plain_decoder_and_half_precision_run():
    torch.manual_seed(0)
    size = QuerySize(TINY_CLIP, 48, 8, (0, 2), 2, 16, refined=False)
    model = type(tiny_clipseg())(size)
    (exact,) = model.predict([random_image(40, 90)], VOCABULARY)
    (rough,) = model.bfloat16().predict([random_image(40, 90)], VOCABULARY)
    assert rough.logits.dtype == torch.float32
    torch.testing.assert_close(rough.logits, exact.logits, atol=0.05, rtol=0.05)


def test_pixels_are_pils_resize_normalised_by_imagenets_statistics():
    image = random_image(70, 90)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((48, 48), Image.Resampling.BILINEAR)
    expected = (np.asarray(picture) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    pixels = square_pixels([image], 48, torch.device("cpu"))
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert resize_image(image, (70, 90)) is image


# --- training -------------------------------------------------------------------------------------------------------


def gradients(model, batch):
    model.zero_grad()
    losses = model.loss(batch)
    sum(losses.values()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_everything_that_trains_gets_a_gradient_and_nothing_else(model):
    names = model.set_trainable(Clipseg.groups)
    found = gradients(model, random_batch())
    assert set(found) == set(names)
    assert all(gradient.abs().sum() > 0 for gradient in found.values())


@pytest.mark.parametrize("query_chunk", [1, 4, 100])
def test_recomputing_the_decoder_gives_the_same_gradients(model, query_chunk):
    expected = gradients(model, random_batch())
    model.checkpoint_decoder, model.query_chunk = True, query_chunk
    found = gradients(model, random_batch())
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_prompts_are_encoded_once_per_step(model):
    encoded = []
    model.clip.transformer.resblocks[0].mlp.register_forward_hook(lambda *args: encoded.append(len(args[2])))
    gradients(model, random_batch())
    assert encoded == [5]
    model.set_trainable(["film", "decoder"])  # a text tower that does not train is read from the cache
    gradients(model, random_batch(seed=1))
    gradients(model, random_batch(seed=2))
    assert encoded == [5, 5]


def test_training_mode_changes_no_number(model):
    image = [random_image(40, 90)]
    (trained,), (evaluated,) = model.train().predict(image, VOCABULARY), model.eval().predict(image, VOCABULARY)
    assert torch.equal(all_logits(trained), all_logits(evaluated))


@pytest.mark.parametrize("groups", [(), ("film",), ("decoder", "background_query"), RELEASED_GROUPS])
def test_groups_train_what_they_say(model, groups):
    names = model.set_trainable(groups)
    assert names == [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {
        "visual_adapter": "visual_adapter.down.weight" in names,
        "language": {"clip.token_embedding.weight", "clip.positional_embedding"} <= set(names),
        "film": "decoder.film_mul.bias" in names,
        "decoder": "decoder.layers.0.attention.in_proj_weight" in names,
        "background_query": "background_query" in names,
    } == {group: group in groups for group in Clipseg.groups}
    frozen = ("clip.visual", "clip.transformer", "clip.ln_final", "clip.text_projection", "clip.logit_scale")
    assert not any(name.startswith(frozen) for name in names)


def test_the_groups_share_nothing_and_the_decoder_is_all_in_them(model):
    each = [set(model.set_trainable([group])) for group in Clipseg.groups]
    assert sum(map(len, each)) == len(set.union(*each))
    assert {name for name, _ in model.named_parameters() if name.startswith("decoder.")} <= set.union(*each)


def test_an_unknown_group_names_the_nearest(model):
    with pytest.raises(ValueError, match="did you mean 'visual_adapter'"):
        model.set_trainable(["visual_adaptor"])


def test_norms_and_embeddings_are_not_decayed(model):
    model.set_trainable(Clipseg.groups)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    plain, decayed = model.parameter_groups(0.1)
    assert (plain["weight_decay"], decayed["weight_decay"]) == (0.0, 0.1)
    exempt = {names[id(parameter)] for parameter in plain["params"]}
    norms = {f"decoder.layers.{i}.norm{k}.{leaf}" for i in range(3) for k in (1, 2) for leaf in ("weight", "bias")}
    assert exempt == norms | {"clip.token_embedding.weight", "clip.positional_embedding"}
    every = [id(parameter) for group in (plain, decayed) for parameter in group["params"]]
    assert len(every) == len(set(every)) == sum(p.requires_grad for p in model.parameters())
    model.set_trainable(["film"])
    assert [group["weight_decay"] for group in model.parameter_groups(0.1)] == [0.1]


def test_the_start_is_drawn_from_torchs_generator():
    first, again, other = tiny_clipseg(seed=1), tiny_clipseg(seed=1), tiny_clipseg(seed=2)
    assert torch.equal(first.background_query, again.background_query)
    assert not torch.equal(first.background_query, other.background_query)
    wide = torch.stack([tiny_clipseg(seed=seed).background_query for seed in range(40)])
    assert wide.std().item() == pytest.approx(16**-0.5, rel=0.1)
    assert first.visual_adapter.down.weight.abs().max().item() <= 32**-0.5


def test_a_copy_does_not_share_its_cache_with_a_changed_original(model):
    image = [random_image(40, 90)]
    (before,) = model.predict(image, VOCABULARY)
    clone = copy.deepcopy(model)
    with torch.no_grad():
        model.clip.token_embedding.weight.mul_(2)
    (kept,), (changed,) = clone.predict(image, VOCABULARY), model.predict(image, VOCABULARY)
    assert torch.equal(kept.logits, before.logits)
    assert not torch.allclose(changed.logits, before.logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 50}, "image_size 50 is not a multiple of the patch size 8"),
        ({"extract_layers": (1, 4)}, "0 to 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        QuerySize(**{"clip": TINY_CLIP, "image_size": 48, "reduce_dim": 8, "extract_layers": (0,), **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"query_chunk": 0}, "greater than 0"), ({"label_resize": "nearest"}, "'centre' or 'floor'")],
)
def test_options_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_clipseg(**options)
