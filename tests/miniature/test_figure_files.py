"""The figures' files: what their keys mean, that no figure changes unnoticed, and what is said of a mistake."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ovparts_lib.miniature.figure import Tint, pose_figure
from ovparts_lib.miniature.figure_files import FOLDER, load_figures
from ovparts_lib.miniature.shapes import box, limb, tube
from ovparts_lib.vocabularies import load_vocabulary

POSES = json.loads((Path(__file__).parents[1] / "golden" / "miniature" / "poses.json").read_text())
BUG = """\
outlines:
  shell: {poly: [[-1, 0], [0, -1], [1, 0]]}
groups:
  leg:
  - {key: leg $side, label: leg, shape: limb 0.8, size: [$length, 0.5 $length], at: $at, parent: body, angle: [80, 100]}
  - {group: foot, size: 0.5 $length}
  foot:
  - {key: foot $side, label: foot, shape: box 0.4, size: [$size, $size], at: [0.1 $sign, 1], parent: leg $side}
figures:
  bug:
    colours:
      coat: [red, black]
      dim: {slot: coat, factor: [0.5, 0.7]}
    textures: [spots]
    views:
    - scale: 0.5
      parts:
      - {key: body, shape: shell, paint: dim}
      - {group: leg, side: left, sign: -1, at: [-1, 0], length: 0.3}
      - {key: feeler, label: null, shape: tube 0 0 3 4 1}
"""


def load(folder, text):
    (folder / "bugs.yaml").write_text(text, encoding="utf-8")
    return load_figures(folder)


def test_a_description_becomes_parts(tmp_path):
    figure = load(tmp_path, BUG)["bug"]
    assert figure.colours == {"coat": ("red", "black"), "dim": Tint("coat", (0.5, 0.7))}
    assert figure.textures == ("spots",) and figure.views[0].scale == 0.5
    body, leg, foot, feeler = figure.views[0].parts
    assert (body.key, body.label, body.size, body.vary, body.paint) == ("body", "body", (1, 1), 0, "dim")
    np.testing.assert_array_equal(body.shape, [(-1, 0), (0, -1), (1, 0)])
    assert (leg.key, leg.label, leg.size, leg.at) == ("leg left", "leg", (0.3, 0.15), (-1, 0))
    assert leg.vary > 0 and leg.angle == (80, 100)
    np.testing.assert_array_equal(leg.shape, limb(0.8))
    assert (foot.key, foot.size, foot.at, foot.parent) == ("foot left", (0.15, 0.15), (-0.1, 1), "leg left")
    np.testing.assert_array_equal(foot.shape, box(0.4))
    assert feeler.label is None
    np.testing.assert_array_equal(feeler.shape, tube(0, 0, 3, 4, 1))


def test_a_tube_has_its_ends_and_width():
    np.testing.assert_allclose(tube(0, 0, 3, 4, 1), [(-0.4, 0.3), (2.6, 4.3), (3.4, 3.7), (0.4, -0.3)])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("shape: box", "shape: bocks", "bug: view 1: part 'foot left': unknown shape 'bocks'; there are blob"),
        ("shape: shell", "shape: box a", "bug: view 1: part 'body': could not convert"),
        ("{poly:", "{pole:", "outline 'shell': unknown shape 'pole'"),
        ("paint: dim", "colour: dim", "bug: view 1: part 'body': unknown key 'colour'; there are key, label"),
        ("paint: dim", "paint: dinm", "bug: view 1: part 'body': unknown paint 'dinm'; there are coat, dim"),
        ("shape: shell, ", "", "bug: view 1: part 'body': 'shape' is missing"),
        ("group: leg", "group: lug", "bug: view 1: part 'lug': unknown group 'lug'; there are leg, foot"),
        (", length: 0.3", "", "bug: view 1: part 'leg': part 'leg $side': its group is used without 'length'"),
        (
            "parent: body",
            "parent: torso",
            "bug: view 1: part 'leg left' is repeated or comes before its parent 'torso'",
        ),
        ("scale: 0.5", "skale: 0.5", "bug: view 1: unknown key 'skale'; there are parts, scale"),
        ("textures: [", "textures: [stars, ", "bug: unknown texture 'stars'; there are plain"),
        ("[red, black]", "[red, blak]", "bug: colour 'coat': unknown colour 'blak'; there are red"),
        ("slot: coat", "slot: cot", "bug: colour 'dim': unknown slot 'cot'; there are coat"),
        ("figures:", "figure:", "'figures' is missing"),
        ("[red, black]", "[red, black", "while parsing a flow sequence"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, old, new, message):
    assert old in BUG
    with pytest.raises(ValueError) as caught:
        load(tmp_path, BUG.replace(old, new))
    assert f"bugs.yaml: {message}" in str(caught.value)


@pytest.mark.parametrize("key", POSES)
def test_shipped_figures_are_those_that_miniclip_learnt_from(key):
    """Recorded poses: polygon corners, their sums, colours, and the order of painting."""
    name, view = key.rsplit(" ", 1)
    figure = load_figures()[name]
    pose = pose_figure(replace(figure, views=(figure.views[int(view)],)), np.random.default_rng(0))
    points = np.concatenate([piece.points for piece in pose.pieces])
    colours = sum(sum(piece.colour) for piece in pose.pieces)
    orders = sum(place * piece.order for place, piece in enumerate(pose.pieces))
    np.testing.assert_allclose([len(points), *points.sum(0), colours, orders], POSES[key], rtol=0, atol=1e-8)


def test_every_file_is_read_once_and_every_view_is_recorded():
    figures = load_figures()
    assert load_figures() is figures
    assert {f"{name} {view}" for name, figure in figures.items() for view in range(len(figure.views))} == set(POSES)
    assert set(figures) == set(load_vocabulary("pascal_part_116").objects)
    assert len(list(FOLDER.glob("*.yaml"))) == 3
