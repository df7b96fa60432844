"""CATSeg and PartCATSeg, loaded from files with released names, against plain_catseg in sizes nobody recorded.

Other grids, odd windows, other templates and poolings than the released ones, pictures of any shape.
"""

from dataclasses import replace

import pytest
import torch

from ovparts_lib.images import resize_image, shortest_edge_size
from ovparts_lib.models.backbones.guidance import GuidanceSize
from ovparts_lib.models.clip.prompts import TEMPLATES
from ovparts_lib.models.cost_aggregation import AggregatorSize
from ovparts_lib.models.cost_aggregation.inputs import InputSize, SlidingWindow
from ovparts_lib.systems.catseg import weights as catseg_files
from ovparts_lib.systems.catseg.model import Catseg, CostSize
from ovparts_lib.systems.partcatseg import weights as partcatseg_files
from ovparts_lib.systems.partcatseg.model import PartCatseg, PartCatsegSize
from ovparts_lib.vocabularies import PartVocabulary
from tests.golden.fill import fill
from tests.systems.catseg import plain as plain
from tests.systems.tiny import TINY_CLIP, random_image

PARTS = ("dog's head", "dog's tail", "car's Side Mirror", "ant's head", "car's license plate")
# "boat" has no parts, and the order of the objects is not that of the alphabet.
VOCABULARY = PartVocabulary("v", PARTS, ("boat", "dog", "car", "ant"), ignore_label=65535)
GENERIC, OWNERS = ("Side Mirror", "head", "license plate", "tail"), ("ant", "car", "dog")
PAIRS = [(1, 4 + 2), (3, 4 + 2), (0, 4 + 1), (1, 4 + 0), (2, 4 + 1)]  # rows of (*GENERIC, *OWNERS)
SIDE, HEADS, WINDOW = 48, 2, 3  # 6 x 6 patches of 8 pixels
GUIDANCE = {"resnet101": GuidanceSize("resnet101", 96), "dinov2_vits14": GuidanceSize("dinov2_vits14", 56)}
IMAGES = (random_image(70, 93), random_image(31, 200, 1), random_image(80, 64, 2))
AGGREGATOR = AggregatorSize(
    prompts=8,
    text_dim=16,
    dim=16,
    heads=HEADS,
    window=WINDOW,
    kernel=5,
    guidance_dim=8,
    text_guidance_dim=8,
    decoder_dims=(32, 8),
    decoder_guidance_dims=(4, 4),
)
RELATIVE = 2e-5


def sized(cls, guidance, templates="imagenet_select", **aggregator):
    return cls(
        clip=TINY_CLIP,
        inputs=InputSize(SIDE, shortest_edge=80, longest_edge=100),
        guidance=GUIDANCE[guidance],
        aggregator=replace(AGGREGATOR, prompts=len(TEMPLATES[templates]), **aggregator),
        templates=templates,
    )


def loaded(folder, size, **options):
    """(model, state dict) of a file with the size's released names and their recordings' values."""
    part = isinstance(size, PartCatsegSize)
    files, cls = (partcatseg_files, PartCatseg) if part else (catseg_files, Catseg)
    with torch.device("meta"):
        shapes = files.released_names(cls(size).state_dict())
    state = {name: torch.from_numpy(fill(name, tuple(tensor.shape))) for name, tensor in shapes.items()}
    torch.save({"model": state, "iteration": 1}, folder / "model_final.pth")
    load = partcatseg_files.load_partcatseg if part else catseg_files.load_catseg
    return load(folder / "model_final.pth", size=size, **options)[0], state


def towers(state, size, clip_pixels, guidance_pixels):
    """Dense CLIP features and the backbone's maps."""
    features = plain.dense_clip(state, clip_pixels, HEADS)
    if size.guidance.kind == "resnet101":
        return features, plain.resnet(state, guidance_pixels)
    return features, plain.dinov2(state, guidance_pixels, SIDE // 8)


def assert_near(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=RELATIVE * float(expected.abs().max()))


def every(scores):
    return scores.logits if scores.background is None else torch.cat([scores.logits, scores.background[None]])


def picture_squares(size, image):
    pixels = resize_image(image, shortest_edge_size(*image.shape[-2:], 80, 100))
    return plain.squares(pixels, SIDE, size.guidance.image_size)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("guidance", "templates", "kind", "pooling"),
    [
        ("resnet101", "imagenet_select", "linear", 2),
        ("resnet101", "single", "full", 1),
        ("dinov2_vits14", "imagenet_select", "linear", 3),
    ],
)
def test_catseg_on_pictures_of_several_shapes(tmp_path, guidance, templates, kind, pooling):
    size = sized(CostSize, guidance, templates, class_attention=kind)
    model, state = loaded(tmp_path, size, pooling=pooling, padding="stretched")
    text = plain.texts(state, PARTS, TEMPLATES[templates], HEADS)
    for image, scores in zip(IMAGES, model.eval().predict(IMAGES, VOCABULARY), strict=True):
        features, maps = towers(state, size, *picture_squares(size, image))
        logits = plain.catseg_logits(state, features, maps, text, HEADS, WINDOW, pooling, kind)
        assert_near(every(scores), logits[0])
        assert (scores.image_size, scores.covered_size) == (tuple(image.shape[-2:]), None)


@torch.inference_mode()
@pytest.mark.parametrize("guidance", ["resnet101", "dinov2_vits14"])
def test_catseg_on_sliding_windows_without_a_background_class(tmp_path, guidance):
    """Upstream's way on scenes; three by three crops, of which the middle one overlaps all others."""
    size, stride = sized(CostSize, guidance), 16
    window = SlidingWindow(SIDE + 2 * stride, SIDE, overlap=0.66)
    options = {"sliding_window": True, "window": window, "pooling": 1, "background_class": False}
    model, state = loaded(tmp_path, size, **options)
    (scores,) = model.eval().predict(IMAGES[:1], VOCABULARY)
    assert scores.background is None
    text = plain.texts(state, PARTS, TEMPLATES[size.templates], HEADS)[:-1]
    pixels = resize_image(IMAGES[0], shortest_edge_size(70, 93, 80, 100))
    views = plain.window_views(pixels, window.side, SIDE, stride)
    assert len(views) == 10
    clip = plain.normalised(views, plain.CLIP_MEAN, plain.CLIP_STD)
    guide = plain.resized(plain.normalised(views, plain.MEAN, plain.STD), size.guidance.image_size)
    logits = plain.catseg_logits(state, *towers(state, size, clip, guide), text, HEADS, WINDOW, pooling=1)
    expected = plain.folded(plain.resized(logits, SIDE).sigmoid(), window.side, SIDE, stride)
    assert_near(scores.logits.sigmoid(), expected)


def labels(count, seed, ignored=0.3):
    """Two label maps, (2, 40, 56), of which a share is not labelled."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, count, (2, 40, 56), generator=generator)
    return drawn.masked_fill(torch.rand(2, 40, 56, generator=generator) < ignored, VOCABULARY.ignore_label)


def trainable_towers(state, size, images):
    """A state dict that takes gradients, and both towers' outputs, CLIP's without."""
    state = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    squares = [plain.squares(image, SIDE, size.guidance.image_size) for image in images]
    features, maps = towers(state, size, *map(torch.cat, zip(*squares, strict=True)))
    return state, features.detach(), maps


def assert_same_gradients(model, names, state):
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = names({name: parameter.grad for name, parameter in trained.items()})
    largest = max(gradient.norm() for gradient in found.values())
    for name, gradient in found.items():
        difference = (gradient - state[name].grad).norm()
        # Rounding switches single ReLUs of a hundred layers on or off.
        assert difference < 1e-2 * gradient.norm() + 1e-6 * largest, name


@pytest.mark.parametrize(("guidance", "background"), [("resnet101", True), ("dinov2_vits14", False)])
def test_loss_and_gradients_of_catseg(tmp_path, guidance, background):
    """Of pictures that are padded and labels of another size than the pictures, which the maps are stretched to."""
    size = sized(CostSize, guidance)
    model, state = loaded(tmp_path, size, padding="stretched", background_class=background)
    images, part_maps = [random_image(40, 56, 3), random_image(70, 33, 4)], labels(5, 0)
    loss = model.train().loss({"images": images, "part_maps": list(part_maps), "vocabulary": VOCABULARY})
    loss["loss_sem_seg"].backward()

    text = plain.texts(state, PARTS, TEMPLATES[size.templates], HEADS)
    state, features, maps = trainable_towers(state, size, images)
    logits = plain.catseg_logits(
        state, features, maps, text if background else text[:-1], HEADS, WINDOW, size.aggregator.pooling
    )
    expected = plain.catseg_loss(logits, part_maps, VOCABULARY.ignore_label, background)
    assert loss["loss_sem_seg"].item() == pytest.approx(expected.item(), rel=1e-6)
    expected.backward()
    assert_same_gradients(model, catseg_files.released_names, state)


@pytest.fixture(scope="module")
def partcatseg(tmp_path_factory):
    """(model, state dict, texts of generic parts, objects, background, texts of object-specific parts, background)."""
    size = sized(PartCatsegSize, "dinov2_vits14", class_attention="query", pooling=3)
    model, state = loaded(tmp_path_factory.mktemp("partcatseg"), size, padding="stretched")
    texts = (plain.texts(state, names, TEMPLATES[size.templates], HEADS) for names in ((*GENERIC, *OWNERS), PARTS))
    return model, state, *texts


@torch.inference_mode()
def test_partcatseg_on_pictures_of_several_shapes(partcatseg):
    model, state, *texts = partcatseg
    for image, scores in zip(IMAGES, model.eval().predict(IMAGES, VOCABULARY), strict=True):
        features, maps = towers(state, model.size, *picture_squares(model.size, image))
        _, logits, *_ = plain.partcatseg_logits(state, features, maps, *texts, PAIRS, HEADS, WINDOW, 3)
        assert_near(every(scores), logits[0])


@pytest.mark.parametrize("case", ["mixed", "no part", "no object", "no background"])
def test_losses_and_gradients_of_partcatseg(partcatseg, case):
    """Part and object labels are drawn independently of each other, so that they also disagree."""
    model, state, *texts = partcatseg
    part_maps, object_maps = labels(5, 1), labels(4, 2)
    if case == "no part":
        part_maps.fill_(VOCABULARY.ignore_label)
    if case == "no object":
        object_maps.fill_(VOCABULARY.ignore_label)
    if case == "no background":
        object_maps = labels(3, 2, ignored=0) + 1
    images = [random_image(SIDE, SIDE, 5), random_image(30, 60, 6)]
    batch = {"images": images, "part_maps": [*part_maps], "object_maps": [*object_maps], "vocabulary": VOCABULARY}
    model.train().zero_grad()
    losses = model.loss(batch)
    sum(losses.values()).backward()

    state, features, maps = trainable_towers(state, model.size, images)
    first, second, first_cost, cost = plain.partcatseg_logits(
        state, features, maps, *texts, PAIRS, HEADS, WINDOW, model.size.aggregator.pooling
    )
    expected = plain.partcatseg_losses(first, second, first_cost[:, 4:], cost, part_maps, object_maps, VOCABULARY)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {name: loss.item() for name, loss in expected.items()}, rel=1e-5, abs=1e-9
    )
    sum(expected.values()).backward()
    assert_same_gradients(model, partcatseg_files.released_names, state)
