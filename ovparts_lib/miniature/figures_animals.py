"""The four-legged animals of the miniature: side views on one plan, and views from the front with a large face."""

# One part a line, as a table.
# fmt: off
from __future__ import annotations

import numpy as np

from ovparts_lib.miniature.figure import Figure, Part, Tint, View
from ovparts_lib.miniature.shapes import blob, box, curl, drop, ellipse, horn, limb, poly, wool

TORSO = blob(
    ((-0.5, -0.1), (-0.38, -0.45), (0.0, -0.42), (0.38, -0.5), (0.5, -0.1), (0.42, 0.38), (0.1, 0.5), (-0.38, 0.4))
)
SITTING_TORSO = blob(
    ((0, -0.5), (0.28, -0.32), (0.42, 0.1), (0.48, 0.45), (0, 0.5), (-0.48, 0.45), (-0.42, 0.1), (-0.28, -0.32))
)
FACE = blob(
    ((0, -0.5), (0.36, -0.4), (0.5, -0.02), (0.36, 0.36), (0, 0.5), (-0.36, 0.36), (-0.5, -0.02), (-0.36, -0.4))
)
LONG_FACE = blob(
    (
        (0, -0.5),
        (0.4, -0.42),
        (0.46, -0.1),
        (0.3, 0.3),
        (0.2, 0.5),
        (-0.2, 0.5),
        (-0.3, 0.3),
        (-0.46, -0.1),
        (-0.4, -0.42),
    )
)
POINTED_EAR = poly(((0, -0.5), (0.6, -0.3), (1, 0.05), (0.6, 0.35), (0, 0.5)))
CAT_NOSE = poly(((-0.5, -0.4), (0.5, -0.4), (0, 0.5)))
MANE = blob(((-0.05, -0.3), (0.1, -0.62), (0.55, -0.58), (1.05, -0.55), (1.12, -0.2), (0.6, -0.12)))


def eye(at: tuple[float, float], size: float, key: str = "eye", order: int = 6) -> tuple[Part, ...]:
    """An eyeball on the head with its pupil; both are the part "eye"."""
    return (
        Part(key, "eye", ellipse(14), (size, size), at, "head", paint="eye", order=order),
        Part(f"{key} pupil", "eye", ellipse(10), (size * 0.55, size * 0.6), (0.05, 0), key, paint="dark",
             order=order + 1, outline=False),
    )


def leg(key: str, at: tuple[float, float], length: float, width: float, end: str | None, far: bool) -> tuple[Part, ...]:
    """A jointed leg seen from the side; ``end`` labels the paw or hoof (None: the hoof counts as leg)."""
    order, shade, paw = (-4, 0.72, end == "paw") if far else (2, 0.97, end == "paw")
    return (
        Part(key, "leg", limb(0.68, 0.04), (length * 0.56, width), at, "torso", (70, 110), order=order, shade=shade,
             upright=True, textured=True),
        Part(f"{key} lower", "leg", limb(0.8), (length * 0.5, width * 0.68), (0.96, 0), key, (80, 98), "leg", order,
             shade=shade, upright=True, textured=True),
        Part(f"{key} end", end or "leg", ellipse(16) if paw else box(0.25),
             (width * 1.15, width * 0.62) if paw else (width * 0.76, width * 0.66), (1.02, -0.2 if paw else 0.0),
             f"{key} lower", (-6, 6), "paw" if paw else "hoof", order + 1, shade=shade, upright=True),
    )


def four_legs(
    length: float, width: float, end: str | None, front: float = 0.36, back: float = -0.38
) -> tuple[Part, ...]:
    """Two far and two near legs under a torso seen from the side."""
    return (
        *leg("leg far front", (front - 0.07, 0.18), length, width, end, far=True),
        *leg("leg far back", (back + 0.09, 0.18), length, width, end, far=True),
        *leg("leg near front", (front, 0.2), length, width, end, far=False),
        *leg("leg near back", (back, 0.16), length, width * 1.18, end, far=False),
    )


def sitting(face: tuple[Part, ...], tail: Part, width: float, height: float) -> tuple[Part, ...]:
    """A dog or cat sitting, seen from the front: straight forelegs, folded hind legs, paws, and a face on top."""
    parts = [
        Part("torso", "torso", SITTING_TORSO, (width, height), textured=True),
        tail,
        Part("neck", "neck", box(0.35), (width * 0.6, height * 0.34), (0, -0.42), "torso", order=1, textured=True),
    ]
    for side, sign in (("left", -1), ("right", 1)):
        fore = f"leg {side}"
        parts += [
            Part(f"thigh {side}", "leg", ellipse(20), (width * 0.42, height * 0.44), (sign * 0.4, 0.32), "torso",
                 order=1, shade=0.9, textured=True),
            Part(f"hind paw {side}", "paw", ellipse(16), (width * 0.32, height * 0.15), (sign * 0.5, 0.5), "torso",
                 paint="paw", order=3),
            Part(fore, "leg", limb(0.8), (height * 0.56, width * 0.25), (sign * 0.18, 0.02), "torso", (84, 96), "leg",
                 2, textured=True),
            Part(f"paw {side}", "paw", ellipse(16), (width * 0.3, height * 0.15), (1.0, 0), fore, paint="paw", order=4,
                 upright=True),
        ]
    return (*parts, *face)


def standing(
    face: tuple[Part, ...], end: str | None, width: float, height: float, legs: float, shape: np.ndarray | None = None
) -> tuple[Part, ...]:
    """A hoofed animal seen from the front: broad torso on two straight forelegs, hind legs behind them."""
    parts = [
        Part("torso", "torso", ellipse() if shape is None else shape, (width, height), textured=True),
        Part("neck", "neck", box(0.35), (width * 0.5, height * 0.6), (0, -0.34), "torso", order=2, textured=True),
    ]
    for sign in (-1, 1):
        for row, order, shade, inward in (("hind", -4, 0.72, 0.16), ("fore", 1, 0.97, 0.28)):
            key = f"{row} leg {sign}"
            parts += [
                Part(key, "leg", limb(0.75), (legs, width * 0.2), (sign * inward, 0.3), "torso", (86, 94), "leg", order,
                     shade=shade),
                Part(f"{key} end", end or "leg", box(0.25), (width * 0.18, legs * 0.2), (1.0, 0), key, (0, 0), "hoof",
                     order, shade=shade, upright=True),
            ]
    return (*parts, *face)


# Dog: long muzzle, black nose, hanging ears.
DOG_SIDE = (
    Part("torso", "torso", TORSO, (0.86, 0.34), angle=(-4, 4), textured=True),
    Part("tail", "tail", limb(0.35), (0.38, 0.085), (-0.44, -0.25), "torso", (200, 265), order=-1, textured=True),
    *four_legs(0.44, 0.12, "paw"),
    Part("neck", "neck", limb(0.78), (0.24, 0.2), (0.38, -0.2), "torso", (-68, -38), order=1, textured=True),
    Part("head", "head", ellipse(), (0.3, 0.27), (1.0, 0.0), "neck", (-14, 16), order=4, upright=True),
    Part("muzzle", "muzzle", box(0.36), (0.23, 0.14), (0.52, 0.14), "head", (2, 10), "muzzle", 5),
    Part("nose", "nose", ellipse(14), (0.08, 0.07), (0.46, -0.3), "muzzle", paint="nose", order=7),
    Part("ear", "ear", drop(), (0.24, 0.14), (-0.14, -0.36), "head", (88, 122), "ear", 6),
    *eye((0.2, -0.12), 0.062),
)
DOG_FACE = (
    Part("head", "head", FACE, (0.44, 0.4), (0, -0.62), "neck", (-10, 10), order=4),
    Part("ear left", "ear", drop(), (0.3, 0.17), (-0.36, -0.36), "head", (96, 128), "ear", 6),
    Part("ear right", "ear", drop(), (0.3, 0.17), (0.36, -0.36), "head", (52, 84), "ear", 6),
    *eye((-0.19, -0.1), 0.075, "eye left"),
    *eye((0.19, -0.1), 0.075, "eye right"),
    Part("muzzle", "muzzle", ellipse(), (0.24, 0.2), (0, 0.28), "head", paint="muzzle", order=5),
    Part("nose", "nose", ellipse(14), (0.11, 0.08), (0, -0.28), "muzzle", paint="nose", order=7),
)
DOG_TAIL = Part("tail", "tail", limb(0.4), (0.42, 0.09), (0.4, 0.3), "torso", (-70, -15), order=-1, textured=True)
DOG = Figure(
    "dog",
    (View(DOG_SIDE, 0.85, weight=2), View(sitting(DOG_FACE, DOG_TAIL, 0.46, 0.62), 0.75)),
    {
        "coat": ("brown", "black", "white", "golden", "grey"),
        "leg": Tint("coat", (0.85, 1.1)),
        "paw": Tint("coat", (0.7, 1.3)),
        "muzzle": Tint("coat", (0.8, 1.45)),
        "ear": Tint("coat", (0.55, 0.9)),
        "nose": ("dark",),
        "eye": ("eye", "white"),
        "dark": ("dark",),
    },
    ("plain", "plain", "patches", "spots"),
)

# Cat: round head, pointed ears, pink nose, bright eyes, long tail.
CAT_SIDE = (
    Part("torso", "torso", TORSO, (0.8, 0.3), angle=(-4, 4), textured=True),
    Part("tail", "tail", limb(0.8), (0.3, 0.085), (-0.44, -0.2), "torso", (195, 235), order=-1, textured=True),
    Part("tail tip", "tail", limb(0.6), (0.3, 0.07), (0.98, 0), "tail", (30, 80), order=-1, textured=True),
    *four_legs(0.36, 0.105, "paw"),
    Part("neck", "neck", limb(0.85), (0.17, 0.2), (0.38, -0.2), "torso", (-60, -30), order=1, textured=True),
    Part("head", "head", FACE, (0.33, 0.31), (1.2, -0.1), "neck", (-12, 12), order=4, upright=True, textured=True),
    Part("ear far", "ear", POINTED_EAR, (0.14, 0.12), (-0.22, -0.34), "head", (-112, -98), "ear", 3, shade=0.85),
    Part("ear", "ear", POINTED_EAR, (0.15, 0.13), (0.2, -0.36), "head", (-84, -68), "ear", 5),
    *eye((0.26, -0.08), 0.078),
    *eye((-0.06, -0.08), 0.074, "eye far"),
    Part("cheek", "head", ellipse(16), (0.16, 0.1), (0.13, 0.24), "head", paint="pale", order=5, outline=False),
    Part("nose", "nose", CAT_NOSE, (0.07, 0.06), (0.13, 0.14), "head", paint="nose", order=7),
)
CAT_FACE = (
    Part("head", "head", FACE, (0.46, 0.4), (0, -0.55), "neck", (-10, 10), order=4, textured=True),
    Part("ear left", "ear", POINTED_EAR, (0.18, 0.17), (-0.28, -0.3), "head", (-112, -98), "ear", 5),
    Part("ear right", "ear", POINTED_EAR, (0.18, 0.17), (0.28, -0.3), "head", (-82, -68), "ear", 5),
    *eye((-0.2, -0.08), 0.095, "eye left"),
    *eye((0.2, -0.08), 0.095, "eye right"),
    Part("cheek left", "head", ellipse(16), (0.13, 0.11), (-0.12, 0.24), "head", paint="pale", order=5, outline=False),
    Part("cheek right", "head", ellipse(16), (0.13, 0.11), (0.12, 0.24), "head", paint="pale", order=5, outline=False),
    Part("nose", "nose", CAT_NOSE, (0.09, 0.07), (0, 0.14), "head", paint="nose", order=7),
)
CAT_TAIL = Part("tail", "tail", limb(0.6), (0.56, 0.085), (0.38, 0.38), "torso", (-75, -30), order=-1, textured=True)
CAT = Figure(
    "cat",
    (View(CAT_SIDE, 0.75, weight=2), View(sitting(CAT_FACE, CAT_TAIL, 0.42, 0.56), 0.7)),
    {
        "coat": ("orange", "grey", "black", "white", "cream"),
        "leg": Tint("coat", (0.9, 1.05)),
        "paw": Tint("coat", (0.9, 1.5)),
        "ear": Tint("coat", (0.65, 0.95)),
        "pale": Tint("coat", (1.15, 1.6)),
        "nose": ("pink", "rose"),
        "eye": ("green", "yellow", "lamp"),
        "dark": ("dark",),
    },
    ("plain", "stripes", "stripes", "patches"),
)

# Cow: patches, horns, pink muzzle, heavy torso.
COW_SIDE = (
    Part("torso", "torso", TORSO, (0.98, 0.46), angle=(-3, 3), textured=True),
    Part("tail", "tail", limb(0.6), (0.36, 0.055), (-0.48, -0.3), "torso", (92, 122), order=1),
    Part("tuft", "tail", drop(), (0.15, 0.09), (0.95, 0), "tail", (-8, 8), "hoof", 1),
    Part("udder", "torso", ellipse(16), (0.18, 0.13), (-0.18, 0.44), "torso", paint="muzzle", order=-1),
    *four_legs(0.42, 0.13, None),
    Part("neck", "neck", limb(0.72), (0.28, 0.3), (0.4, -0.18), "torso", (-44, -14), order=1, textured=True),
    Part("head", "head", LONG_FACE, (0.22, 0.36), (1.02, 0.0), "neck", (-52, -24), order=4, upright=True,
         textured=True),
    Part("horn far", "horn", horn(), (0.17, 0.06), (-0.2, -0.44), "head", (-80, -60), "horn", 3, shade=0.85),
    Part("horn", "horn", horn(), (0.18, 0.065), (0.18, -0.44), "head", (-60, -36), "horn", 5),
    Part("ear", "ear", drop(), (0.17, 0.1), (-0.36, -0.24), "head", (170, 205), "ear", 6),
    Part("muzzle", "muzzle", box(0.4), (0.19, 0.14), (0.0, 0.44), "head", (0, 0), "muzzle", 5),
    Part("nostril", "muzzle", ellipse(10), (0.03, 0.04), (0.2, 0.0), "muzzle", paint="dark", order=6, outline=False),
    *eye((0.12, -0.12), 0.055),
)
COW_FACE = (
    Part("head", "head", LONG_FACE, (0.38, 0.48), (0, -0.45), "neck", (-8, 8), order=4, textured=True),
    Part("horn left", "horn", horn(), (0.22, 0.08), (-0.3, -0.4), "head", (-150, -130), "horn", 3),
    Part("horn right", "horn", horn(), (0.22, 0.08), (0.3, -0.4), "head", (-50, -30), "horn", 3),
    Part("ear left", "ear", drop(), (0.24, 0.13), (-0.36, -0.26), "head", (165, 195), "ear", 3),
    Part("ear right", "ear", drop(), (0.24, 0.13), (0.36, -0.26), "head", (-15, 15), "ear", 3),
    *eye((-0.26, -0.14), 0.07, "eye left"),
    *eye((0.26, -0.14), 0.07, "eye right"),
    Part("muzzle", "muzzle", box(0.42), (0.32, 0.2), (0, 0.38), "head", paint="muzzle", order=5),
    Part("nostril left", "muzzle", ellipse(10), (0.04, 0.05), (-0.24, -0.05), "muzzle", paint="dark", order=6),
    Part("nostril right", "muzzle", ellipse(10), (0.04, 0.05), (0.24, -0.05), "muzzle", paint="dark", order=6),
)
COW = Figure(
    "cow",
    (View(COW_SIDE, 1.0, weight=2), View(standing(COW_FACE, None, 0.56, 0.5, 0.36), 0.8)),
    {
        "coat": ("white", "brown", "black", "cream"),
        "leg": Tint("coat", (0.9, 1.05)),
        "ear": Tint("coat", (0.7, 1.0)),
        "muzzle": ("pink",),
        "horn": ("cream", "white"),
        "hoof": ("dark",),
        "eye": ("white",),
        "dark": ("dark",),
    },
    ("patches", "patches", "plain"),
)

# Horse: long neck with a mane, long sloping head, flowing tail, hooves.
HORSE_SIDE = (
    Part("torso", "torso", TORSO, (0.86, 0.36), angle=(-4, 4), textured=True),
    Part("tail", "tail", drop(), (0.46, 0.18), (-0.46, -0.32), "torso", (98, 140), "mane", -1),
    *four_legs(0.58, 0.115, "hoof"),
    Part("neck", "neck", limb(0.6), (0.42, 0.29), (0.36, -0.16), "torso", (-66, -34), order=1, textured=True),
    Part("mane", "neck", MANE, (0.42, 0.29), (0, 0), "neck", paint="mane", order=3),
    Part("head", "head", limb(0.62), (0.29, 0.19), (0.94, 0.0), "neck", (28, 50), order=4, upright=True),
    Part("ear", "ear", POINTED_EAR, (0.13, 0.075), (0.02, -0.4), "head", (-125, -100), "ear", 5),
    Part("muzzle", "muzzle", box(0.38), (0.14, 0.135), (0.98, 0.0), "head", (0, 0), "muzzle", 5),
    Part("nostril", "muzzle", ellipse(10), (0.03, 0.03), (0.2, -0.15), "muzzle", paint="dark", order=6, outline=False),
    *eye((0.26, -0.16), 0.058),
)
HORSE_FACE = (
    Part("head", "head", LONG_FACE, (0.3, 0.56), (0, -0.55), "neck", (-8, 8), order=4),
    Part("ear left", "ear", POINTED_EAR, (0.18, 0.1), (-0.3, -0.42), "head", (-108, -92), "ear", 3),
    Part("ear right", "ear", POINTED_EAR, (0.18, 0.1), (0.3, -0.42), "head", (-88, -72), "ear", 3),
    Part("forelock", "head", drop(), (0.18, 0.13), (0, -0.52), "head", (80, 100), "mane", 5),
    *eye((-0.28, -0.16), 0.065, "eye left"),
    *eye((0.28, -0.16), 0.065, "eye right"),
    Part("muzzle", "muzzle", box(0.42), (0.22, 0.19), (0, 0.4), "head", paint="muzzle", order=5),
    Part("nostril left", "muzzle", ellipse(10), (0.035, 0.05), (-0.24, 0), "muzzle", paint="dark", order=6),
    Part("nostril right", "muzzle", ellipse(10), (0.035, 0.05), (0.24, 0), "muzzle", paint="dark", order=6),
)
HORSE = Figure(
    "horse",
    (View(HORSE_SIDE, 1.05, weight=2), View(standing(HORSE_FACE, "hoof", 0.42, 0.5, 0.5), 0.9)),
    {
        "coat": ("brown", "black", "white", "golden", "grey"),
        "leg": Tint("coat", (0.75, 1.0)),
        "ear": Tint("coat", (0.8, 1.0)),
        "mane": Tint("coat", (0.35, 0.6)),
        "muzzle": Tint("coat", (0.6, 0.85)),
        "hoof": ("dark", "cream"),
        "eye": ("white", "eye"),
        "dark": ("dark",),
    },
    ("plain", "plain", "plain", "spots"),
)

# Sheep: scalloped wool, bare dark or pale face and legs, ears held sideways, sometimes curled horns.
SHEEP_SIDE = (
    Part("torso", "torso", wool(15), (0.86, 0.52), angle=(-4, 4)),
    Part("tail", "tail", drop(), (0.17, 0.12), (-0.46, -0.1), "torso", (100, 140), order=1),
    *four_legs(0.38, 0.1, None, front=0.3, back=-0.28),
    Part("neck", "neck", wool(9), (0.27, 0.29), (0.42, -0.28), "torso", (-10, 10), order=3),
    Part("head", "head", LONG_FACE, (0.21, 0.31), (0.32, -0.2), "neck", (-58, -30), "face", 4, upright=True),
    Part("fringe", "head", wool(8), (0.17, 0.12), (0.0, -0.42), "head", (0, 0), "coat", 5),
    Part("ear", "ear", drop(), (0.17, 0.09), (-0.34, -0.26), "head", (180, 215), "ear", 6),
    Part("muzzle", "muzzle", box(0.42), (0.14, 0.11), (0, 0.42), "head", (0, 0), "muzzle", 5),
    *eye((0.12, -0.08), 0.055),
    Part("horn", "horn", curl(), (0.2, 0.2), (-0.3, -0.2), "head", (-30, 30), "horn", 8, chance=0.45),
)
SHEEP_FACE = (
    Part("head", "head", LONG_FACE, (0.32, 0.4), (0, -0.35), "neck", (-8, 8), "face", 4),
    Part("fringe", "head", wool(9), (0.26, 0.16), (0, -0.46), "head", paint="coat", order=6),
    Part("ear left", "ear", drop(), (0.24, 0.12), (-0.36, -0.24), "head", (160, 190), "ear", 3),
    Part("ear right", "ear", drop(), (0.24, 0.12), (0.36, -0.24), "head", (-10, 20), "ear", 3),
    *eye((-0.25, -0.08), 0.068, "eye left"),
    *eye((0.25, -0.08), 0.068, "eye right"),
    Part("muzzle", "muzzle", box(0.42), (0.2, 0.15), (0, 0.38), "head", paint="muzzle", order=5),
    Part("horn left", "horn", curl(), (-0.24, 0.24), (-0.5, -0.3), "head", (-20, 20), "horn", 7, chance=0.4),
    Part("horn right", "horn", curl(), (0.24, 0.24), (0.5, -0.3), "head", (-20, 20), "horn", 7, chance=0.4),
)
SHEEP = Figure(
    "sheep",
    (View(SHEEP_SIDE, 0.85, weight=2), View(standing(SHEEP_FACE, None, 0.62, 0.56, 0.3, wool(15)), 0.75)),
    {
        "coat": ("white", "cream", "white", "grey", "brown"),
        "face": ("dark", "black", "cream", "brown"),
        "leg": Tint("face", (0.9, 1.2)),
        "ear": Tint("face", (0.9, 1.3)),
        "muzzle": Tint("face", (1.2, 1.8)),
        "hoof": ("dark",),
        "horn": ("cream", "grey"),
        "eye": ("white", "yellow"),
        "dark": ("dark",),
    },
)

ANIMALS = (CAT, COW, DOG, HORSE, SHEEP)
