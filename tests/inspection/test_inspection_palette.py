import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovparts_lib.inspection import class_colours
from ovparts_lib.vocabularies import PART_VOCABULARIES, PartVocabulary, load_vocabulary

# Severity 1.0 of Machado, Oliveira and Fernandes (2009), applied to linear sRGB.
VISION = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}


def cielab(colours, vision):
    """CIE 1976 L*a*b* (D65) of uint8 colours as the eye sees them: a space other than the palette was made in."""
    rgb = colours / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ VISION[vision].T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("name", PART_VOCABULARIES)
@pytest.mark.parametrize(("vision", "least"), [("normal", 15.0), ("deuteranopia", 6.0), ("protanopia", 6.0)])
def test_parts_of_one_object_are_told_apart(name, vision, least):
    """2.3 is just noticeable in this space."""
    vocabulary = load_vocabulary(name)
    seen = cielab(class_colours(vocabulary), vision)
    for object_id in range(len(vocabulary.objects)):
        own = seen[list(vocabulary.parts_of(object_id))]
        distances = np.linalg.norm(own[:, None] - own[None], axis=-1)[np.triu_indices(len(own), 1)]
        assert distances.min(initial=np.inf) > least, vocabulary.objects[object_id]


def named(vocabulary):
    return {part: tuple(colour) for part, colour in zip(vocabulary.parts, class_colours(vocabulary), strict=True)}


@settings(deadline=None, max_examples=10)
@given(order=st.permutations(range(116)))
def test_colours_do_not_depend_on_the_order(order):
    vocabulary = load_vocabulary("pascal_part_116")
    shuffled = PartVocabulary("shuffled", tuple(vocabulary.parts[i] for i in order), vocabulary.objects[::-1])
    assert named(shuffled) == named(vocabulary)


def test_colours_do_not_depend_on_other_objects():
    vocabulary = load_vocabulary("pascal_part_116")
    everything = named(vocabulary)
    assert all(everything[part] == colour for part, colour in named(vocabulary.seen).items())
    alone = PartVocabulary("dog", tuple(p for p in vocabulary.parts if p.startswith("dog's")), ("dog",))
    assert all(everything[part] == colour for part, colour in named(alone).items())


def test_colours_are_the_same_tomorrow():
    """Pictures of old runs and new ones must agree, whatever the process."""
    colours = named(load_vocabulary("pascal_part_116"))
    assert colours["dog's head"] == (173, 131, 254)
    assert colours["car's wheel"] == (13, 145, 191)


def test_like_parts_look_alike():
    colours = {part: np.array(colour, float) for part, colour in named(load_vocabulary("pascal_part_116")).items()}
    alike = np.linalg.norm(colours["car's wheel"] - colours["bus's wheel"])
    others = [np.linalg.norm(colours["car's wheel"] - colours[f"car's {part}"]) for part in ("door", "window", "roof")]
    assert alike < min(others)


def test_bare_words_are_told_apart_too():
    words = PartVocabulary.from_words([f"word {i}" for i in range(54)])
    assert len(set(named(words).values())) == 54
    assert class_colours(PartVocabulary.from_words(["roof"])).shape == (1, 3)
