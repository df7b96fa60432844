"""The bird and the person of the miniature."""

# One part a line, as a table.
# fmt: off
from __future__ import annotations

from ovparts_lib.miniature.figure import Figure, Part, Range, Tint, View
from ovparts_lib.miniature.figures_animals import eye
from ovparts_lib.miniature.shapes import blob, box, drop, ellipse, foot, limb, poly, spike

BIRD_TORSO = blob(((-0.5, 0.05), (-0.25, -0.35), (0.15, -0.5), (0.45, -0.3), (0.5, 0.05), (0.25, 0.45), (-0.15, 0.45)))
WING = blob(
    ((0, -0.35), (0.4, -0.5), (0.8, -0.3), (1, 0.2), (0.75, 0.2), (0.65, 0.42), (0.45, 0.3), (0.3, 0.5), (0.05, 0.3))
)
TAIL_FAN = poly(((0, -0.25), (1, -0.5), (0.93, -0.17), (1, 0), (0.93, 0.17), (1, 0.5), (0, 0.25)))


def bird(wings: tuple[Part, ...], torso: Range, legs: bool) -> tuple[Part, ...]:
    """A bird from the side with the given wings, standing on two legs or flying with them tucked away."""
    parts = [
        Part("torso", "torso", BIRD_TORSO, (0.56, 0.38), angle=torso),
        Part("tail", "tail", TAIL_FAN, (0.34, 0.19), (-0.42, 0.0), "torso", (165, 195), "tail", -1),
        Part("neck", "neck", limb(0.75), (0.19, 0.2), (0.36, -0.26), "torso", (-70, -40), "coat", 1, upright=True),
        Part("head", "head", ellipse(), (0.25, 0.24), (1.0, 0.0), "neck", (-10, 14), "head", 4, upright=True),
        Part("beak", "beak", spike(), (0.17, 0.11), (0.42, 0.06), "head", (-4, 12), "beak", 3),
        *eye((0.14, -0.1), 0.065),
        *wings,
    ]
    if legs:
        for side, at, order, shade in (("far", -0.02, -3, 0.75), ("near", 0.12, -2, 1.0)):
            parts += [
                Part(f"leg {side}", "leg", limb(0.8), (0.24, 0.05), (at, 0.42), "torso", (75, 105), "beak", order,
                     shade=shade, upright=True),
                Part(f"foot {side}", "foot", foot(), (0.17, 0.12), (1.0, 0.0), f"leg {side}", (-5, 5), "beak", order,
                     shade=shade, upright=True),
            ]
    return tuple(parts)


FOLDED = (
    Part("wing", "wing", drop(0.8), (0.46, 0.24), (0.26, -0.16), "torso", (158, 180), "wing", 3),
    Part("feathers", "wing", drop(0.8), (0.3, 0.14), (0.2, -0.05), "torso", (162, 176), "wing", 4, shade=0.8),
)
RAISED = (
    Part("wing far", "wing", WING, (0.5, 0.26), (0.16, -0.3), "torso", (-108, -72), "wing", -2, shade=0.75),
    Part("wing", "wing", WING, (0.56, 0.3), (0.0, -0.2), "torso", (-145, -100), "wing", 3),
)
BIRD = Figure(
    "bird",
    (
        View(bird(FOLDED, (-34, -8), legs=True), 0.6, weight=2),
        View(bird(RAISED, (-14, 14), legs=False), 0.8, tilt=14, grounded=False),
        View(bird(RAISED, (-30, -8), legs=True), 0.75, weight=0.6),
    ),
    {
        "coat": ("blue", "red", "yellow", "white", "black", "brown", "grey", "green"),
        "wing": Tint("coat", (0.6, 0.85)),
        "tail": Tint("coat", (0.5, 1.0)),
        "head": Tint("coat", (0.75, 1.15)),
        "beak": ("beak", "beak", "grey"),
        "eye": ("white", "yellow"),
        "dark": ("dark",),
    },
    ("plain", "plain"),
)

TRUNK = blob(
    (
        (-0.42, -0.5),
        (0, -0.46),
        (0.42, -0.5),
        (0.5, -0.4),
        (0.38, 0.1),
        (0.4, 0.5),
        (-0.4, 0.5),
        (-0.38, 0.1),
        (-0.5, -0.4),
    )
)
SKULL = blob(
    ((0, -0.5), (0.42, -0.35), (0.46, 0.05), (0.26, 0.42), (0, 0.5), (-0.26, 0.42), (-0.46, 0.05), (-0.42, -0.35))
)
HAIR_SHORT = blob(
    ((-0.52, 0.05), (-0.5, -0.42), (0, -0.72), (0.5, -0.42), (0.52, 0.05), (0.4, -0.2), (0, -0.3), (-0.4, -0.2))
)
HAIR_LONG = blob(((-0.5, 0.7), (-0.62, 0), (-0.5, -0.46), (0, -0.68), (0.5, -0.46), (0.62, 0), (0.5, 0.7), (0, 0.55)))


def face(scale: float) -> tuple[Part, ...]:
    """A person's head from the front; ``scale`` is its height."""
    parts = [
        Part("head", "head", SKULL, (scale * 0.82, scale), (0, -1.05), "neck", (-8, 8), "skin", 5),
        Part("hair", "hair", HAIR_SHORT, (scale * 0.86, scale * 0.95), (0, 0.02), "head", (-3, 3), "hair", 8),
        Part("long hair", "hair", HAIR_LONG, (scale * 0.86, scale), (0, 0.06), "head", (-2, 2), "hair", 3, chance=0.4),
        Part("nose", "nose", poly(((-0.15, -0.5), (0.15, -0.5), (0.5, 0.4), (0, 0.5), (-0.5, 0.4))),
             (scale * 0.15, scale * 0.2), (0, 0.1), "head", paint="nose", order=7),
        Part("mouth", "mouth", blob(((-0.5, -0.25), (0, -0.45), (0.5, -0.25), (0, 0.5))), (scale * 0.32, scale * 0.12),
             (0, 0.31), "head", paint="mouth", order=7),
    ]
    for side, sign in (("left", -1), ("right", 1)):
        parts += [
            Part(f"ear {side}", "ear", ellipse(14), (scale * 0.15, scale * 0.24), (sign * 0.5, 0.05), "head",
                 paint="ear", order=6),
            *eye((sign * 0.21, -0.05), scale * 0.15, f"eye {side}", 6),
            Part(f"eyebrow {side}", "eyebrow", box(0.4), (scale * 0.23, scale * 0.065), (sign * 0.22, -0.2), "head",
                 (-8, 8), "hair", 9),
        ]
    return tuple(parts)


def arm(side: str, sign: int, upper: Range, lower: Range, length: float, width: float) -> tuple[Part, ...]:
    """Upper arm, lower arm and hand; angles from straight down, positive away from the body."""

    def outward(limits: Range) -> Range:
        return tuple(sorted(90 - sign * angle for angle in limits))

    return (
        Part(f"upper arm {side}", "upper arm", limb(0.85), (length, width), (sign * 0.44, -0.38), "torso",
             outward(upper), "shirt", 3, upright=True),
        Part(f"lower arm {side}", "lower arm", limb(0.7), (length, width * 0.82), (0.95, 0), f"upper arm {side}",
             outward(lower), "sleeve", 4, upright=True),
        Part(f"hand {side}", "hand", ellipse(16), (width * 1.05, width * 0.95), (1.08, 0), f"lower arm {side}",
             paint="skin", order=5),
    )


def walking_leg(side: str, sign: int, swing: Range) -> tuple[Part, ...]:
    """Thigh, shin and foot below the trunk."""
    return (
        Part(f"leg {side}", "leg", limb(0.75), (0.25, 0.15), (sign * 0.2, 0.42), "torso", swing, "trousers", -1,
             upright=True),
        Part(f"shin {side}", "leg", limb(0.8), (0.24, 0.11), (0.96, 0), f"leg {side}", (84, 96), "trousers", -1,
             upright=True),
        Part(f"foot {side}", "foot", box(0.4), (0.15, 0.075), (1.04, -0.3 * sign), f"shin {side}", (-6, 6), "shoe", 0,
             upright=True),
    )


PERSON_STANDING = (
    Part("torso", "torso", TRUNK, (0.32, 0.42), angle=(-4, 4), paint="shirt", textured=True),
    Part("neck", "neck", box(0.2), (0.11, 0.15), (0, -0.55), "torso", paint="skin", order=1),
    *walking_leg("left", -1, (86, 112)),
    *walking_leg("right", 1, (68, 94)),
    *arm("left", -1, (5, 70), (-15, 150), 0.2, 0.1),
    *arm("right", 1, (5, 70), (-15, 150), 0.2, 0.1),
    *face(0.3),
)
PERSON_BUST = (
    Part("torso", "torso", TRUNK, (0.62, 0.6), angle=(-4, 4), paint="shirt", textured=True),
    Part("neck", "neck", box(0.2), (0.21, 0.3), (0, -0.55), "torso", paint="skin", order=1),
    *arm("left", -1, (2, 28), (-30, 165), 0.3, 0.16),
    *arm("right", 1, (2, 28), (-30, 165), 0.3, 0.16),
    *face(0.58),
)
PERSON = Figure(
    "person",
    (View(PERSON_STANDING, 1.0, weight=1.4), View(PERSON_BUST, 0.85, grounded=False)),
    {
        "shirt": ("red", "blue", "green", "yellow", "white", "black", "purple", "orange", "grey"),
        "trousers": ("blue", "black", "brown", "grey", "cream"),
        "skin": ("skin",),
        "sleeve": ("skin",),
        "ear": Tint("skin", (0.85, 1.0)),
        "nose": Tint("skin", (0.75, 0.9)),
        "hair": ("black", "brown", "golden", "grey", "dark"),
        "mouth": ("red", "rose"),
        "shoe": ("dark", "white", "red"),
        "eye": ("white",),
        "dark": ("dark",),
    },
    ("plain", "stripes", "plain"),
)

BEINGS = (BIRD, PERSON)
