from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ovparts_lib.miniature.canvas import NOTHING
from ovparts_lib.miniature.figure import Part, View, pose_figure
from ovparts_lib.miniature.scene import FIGURES, count_part, generator, render_scene
from ovparts_lib.miniature.shapes import ellipse
from ovparts_lib.vocabularies import load_vocabulary

VOCABULARY = load_vocabulary("pascal_part_116")


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(generator(0, "train", index), VOCABULARY) for index in range(240)]


def test_draws_all_objects_of_the_vocabulary_and_only_its_parts():
    assert sorted(FIGURES) == sorted(VOCABULARY.objects)
    drawn = {
        f"{figure.name}'s {part.label}"
        for figure in FIGURES.values()
        for view in figure.views
        for part in view.parts
        if part.label is not None
    }
    assert drawn == set(VOCABULARY.parts)


def test_every_part_occurs_in_the_pixels(scenes):
    present = {int(i) for scene in scenes for i in np.unique(scene.part_map)} - {NOTHING}
    missing = [VOCABULARY.parts[i] for i in range(len(VOCABULARY.parts)) if i not in present]
    assert not missing


def test_part_pixels_lie_in_their_object(scenes):
    owner = np.full(256, NOTHING)
    owner[: len(VOCABULARY.parts)] = VOCABULARY.part_to_object
    for scene in scenes:
        labelled = scene.part_map != NOTHING
        np.testing.assert_array_equal(owner[scene.part_map[labelled]], scene.object_map[labelled])


def test_maps_have_the_size_and_range_of_the_image(scenes):
    for scene in scenes:
        assert scene.image.dtype == scene.part_map.dtype == scene.object_map.dtype == np.uint8
        assert scene.image.shape == (*scene.part_map.shape, 3)
        assert scene.object_map.shape == scene.part_map.shape
        assert set(np.unique(scene.part_map)) <= {*range(116), NOTHING}
        assert set(np.unique(scene.object_map)) <= {*range(20), NOTHING}


def test_things_are_the_objects_in_the_picture(scenes):
    for scene in scenes:
        told = {VOCABULARY.object_id(thing.name) for thing in scene.things}
        present = Counter(scene.object_map.ravel().tolist())
        assert told <= set(present)
        assert {i for i, pixels in present.items() if i != NOTHING and pixels >= 60} <= told
        for thing in scene.things:
            for part in thing.parts:
                assert VOCABULARY.part_id(f"{thing.name}'s {part}") in scene.part_map


def test_labels_follow_the_picture():
    """Pixels on the two sides of a label border differ more than neighbours inside a part: labels are not shifted."""
    inside, across = [], []
    for index in range(30):
        scene = render_scene(generator(3, "val", index), VOCABULARY)
        step = np.abs(np.diff(scene.image.astype(int), axis=1)).sum(2)
        border = np.diff(scene.object_map.astype(int), axis=1) != 0
        across.append(step[border])
        inside.append(step[~border])
    assert np.concatenate(across).mean() > 3 * np.concatenate(inside).mean()


def test_a_picture_depends_on_seed_split_and_index_only():
    first = render_scene(generator(5, "train", 7), VOCABULARY)
    render_scene(generator(5, "train", 8), VOCABULARY)
    again = render_scene(generator(5, "train", 7), VOCABULARY)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.part_map, again.part_map)
    for other in ((6, "train", 7), (5, "val", 7), (5, "train", 9)):
        scene = render_scene(generator(*other), VOCABULARY)
        assert scene.image.shape != first.image.shape or (scene.image != first.image).any()


def test_poses_vary_and_keep_children_on_their_parents():
    dog = replace(FIGURES["dog"], views=FIGURES["dog"].views[:1])
    poses = [pose_figure(dog, np.random.default_rng(k)) for k in range(20)]
    assert len({pose.colour_word for pose in poses}) > 2
    heads = []
    for pose in poses:
        pieces = {piece.key: piece.points for piece in pose.pieces}
        head, eye = pieces["head"], pieces["eye"].mean(0)
        assert (head.min(0) < eye).all() and (eye < head.max(0)).all()
        heads.append(head.mean(0) - pieces["torso"].mean(0))
    assert np.std(heads, axis=0).max() > 0.01


@pytest.mark.parametrize(
    ("name", "view", "counts"),
    [
        ("dog", 0, {"head": 1, "leg": 4, "paw": 4, "tail": 1, "eye": 1}),
        ("dog", 1, {"leg": 4, "paw": 4, "ear": 2, "eye": 2}),
        ("person", 0, {"leg": 2, "upper arm": 2, "hand": 2, "eyebrow": 2, "head": 1}),
        ("car", 0, {"wheel": 2, "window": 2, "headlight": 1, "back": 1}),
        ("train", 0, {"head": 1, "coach": 2, "front": 1}),
        ("bicycle", 0, {"wheel": 2, "handlebar": 1, "saddle": 1}),
    ],
)
def test_counts_parts_as_a_person_would(name, view, counts):
    figure = replace(FIGURES[name], views=(FIGURES[name].views[view],))
    for seed in range(5):
        pose = pose_figure(figure, np.random.default_rng(seed))
        assert {part: count_part(pose, part) for part in counts} == counts


def test_a_view_refuses_parts_before_their_parent():
    with pytest.raises(ValueError, match=r"'tail'.*'torso'"):
        View((Part("tail", "tail", ellipse(), (1, 1), parent="torso"), Part("torso", "torso", ellipse(), (1, 1))))
