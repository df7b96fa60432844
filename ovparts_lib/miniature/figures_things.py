"""The still things of the miniature: bottle, potted plant, monitor; and the objects that have no parts."""

# One part a line, as a table.
# fmt: off
from __future__ import annotations

from ovparts_lib.miniature.figure import Figure, Part, Tint, View
from ovparts_lib.miniature.figures_vehicles import panel, patch
from ovparts_lib.miniature.shapes import blob, drop, ellipse, limb, poly, wool

BOTTLE_BODY = blob(
    (
        (-0.13, -0.3),
        (0.13, -0.3),
        (0.14, -0.16),
        (0.32, 0.05),
        (0.34, 0.47),
        (0.2, 0.5),
        (-0.2, 0.5),
        (-0.34, 0.47),
        (-0.32, 0.05),
        (-0.14, -0.16),
    )
)
BOTTLE = Figure(
    "bottle",
    (
        View(
            (
                Part("body", "body", BOTTLE_BODY, (0.9, 1.0)),
                patch("label", "body", (0, 0.25), (0.56, 0.26), "label", 1, 0.05),
                patch("label line", "body", (0, 0.25), (0.36, 0.06), "coat", 2, 0.2, outline=False),
                patch("shine", "body", (-0.2, 0.05), (0.05, 0.3), "shine", 1, 0.4, alpha=0.5, outline=False),
                patch("cap", "cap", (0, -0.36), (0.28, 0.14), "cap", 3, 0.15),
            ),
            0.65,
            stretch=(0.75, 1.0),
            tilt=8,
        ),
    ),
    {
        "coat": ("green", "brown", "glass", "blue", "white", "red"),
        "label": ("white", "yellow", "cream", "red"),
        "shine": ("white",),
        "cap": ("red", "golden", "white", "blue", "dark"),
    },
)


def leaf(i: int, angle: float, length: float, paint: str) -> Part:
    """One leaf springing from the pot's mouth."""
    return Part(f"leaf {i}", "plant", drop(0.7), (length, 0.15), (0, -0.42), "pot", (angle - 8, angle + 8), paint,
                -i % 3 - 3)


POT = poly(((-0.5, -0.5), (0.5, -0.5), (0.36, 0.5), (-0.36, 0.5)))
PLANT_SLOTS = {
    "leaf": ("green",),
    "leaf dark": Tint("leaf", (0.6, 0.85)),
    "flower": ("red", "pink", "yellow", "purple", "white"),
    "pot": ("orange", "brown", "white", "blue", "grey"),
    "earth": ("brown",),
}
POTTED = (
    Part("pot", "pot", POT, (0.4, 0.34), (0, 0.32), paint="pot"),
    patch("rim", "pot", (0, 0.15), (0.46, 0.075), "pot", 1, 0.2, shade=0.88),
)
POTTEDPLANT = Figure(
    "pottedplant",
    (
        View(
            (
                *POTTED,
                *(
                    leaf(i, -90 + turn, length, "leaf" if i % 2 else "leaf dark")
                    for i, (turn, length) in enumerate(
                        ((-62, 0.4), (62, 0.4), (-40, 0.52), (40, 0.52), (-18, 0.6), (20, 0.58), (0, 0.62))
                    )
                ),
            ),
            0.75,
        ),
        View(
            (
                *POTTED,
                Part("stem", "plant", limb(0.8), (0.3, 0.05), (0, -0.4), "pot", (-95, -85), "earth", -1),
                Part("crown", "plant", wool(11), (0.56, 0.46), (1.3, 0), "stem", paint="leaf", order=0, upright=True),
                *(
                    Part(f"flower {i}", "plant", wool(5, 0.12), (0.1, 0.1), at, "crown", paint="flower", order=2,
                         chance=0.6)
                    for i, at in enumerate(((-0.25, -0.1), (0.2, -0.25), (0.05, 0.15), (0.3, 0.12), (-0.1, -0.32)))
                ),
            ),
            0.75,
        ),
    ),
    PLANT_SLOTS,
)

TVMONITOR = Figure(
    "tvmonitor",
    (
        View(
            (
                patch("case", None, (0, -0.05), (1.0, 0.7), "coat", 0, 0.06),
                patch("screen", "screen", (0, -0.06), (0.88, 0.56), "screen", 1, 0.02),
                Part("hill", "screen", poly(((-0.4, 0.3), (-0.1, -0.15), (0.1, 0.1), (0.25, -0.05), (0.4, 0.3))),
                     (1, 0.72), (0, 0), "screen", paint="picture", order=2, chance=0.5, outline=False),
                Part("ball", "screen", ellipse(16), (0.16, 0.16), (-0.25, -0.2), "screen", paint="shine", order=2,
                     chance=0.5, outline=False),
                Part("glare", "screen", poly(((-0.45, -0.45), (-0.15, -0.45), (-0.35, 0.45), (-0.45, 0.45))),
                     (0.88, 0.56), (0, 0), "screen", paint="shine", order=3, alpha=0.25, outline=False),
                patch("stand", None, (0, 0.34), (0.14, 0.12), "coat", -1, 0.0),
                patch("base", None, (0, 0.41), (0.46, 0.06), "coat", -1, 0.4),
            ),
            0.8,
            stretch=(0.9, 1.15),
            tilt=4,
        ),
    ),
    {
        "coat": ("dark", "grey", "silver", "white"),
        "screen": ("blue", "glass", "dark", "green", "grey"),
        "picture": ("green", "orange", "purple", "brown"),
        "shine": ("white", "yellow"),
    },
)

WOOD = {
    "coat": ("brown", "red", "blue", "white", "grey", "green"),
    "dim": Tint("coat", (0.65, 0.85)),
    "sail": ("white", "cream", "red", "yellow"),
}
CHAIR = Figure(
    "chair",
    (
        View(
            (
                panel("leg 1", None, ((-0.28, 0.1), (-0.2, 0.1), (-0.22, 0.5), (-0.28, 0.5)), "dim", 0),
                panel("leg 2", None, ((0.2, 0.1), (0.28, 0.1), (0.3, 0.5), (0.24, 0.5)), "dim", 0),
                panel("leg 3", None, ((-0.14, 0.1), (-0.08, 0.1), (-0.08, 0.4), (-0.13, 0.4)), "dim", -1, shade=0.8),
                panel("seat", None, ((-0.32, 0.05), (0.26, 0.05), (0.34, 0.15), (-0.3, 0.15)), "coat", 1),
                panel("rest", None, ((-0.36, -0.5), (-0.28, -0.5), (-0.24, 0.1), (-0.32, 0.1)), "coat", 2),
                panel("rest back", None, ((-0.36, -0.5), (-0.1, -0.46), (-0.1, -0.2), (-0.33, -0.22)), "dim", 1),
            ),
            0.7,
            tilt=4,
        ),
    ),
    WOOD,
)
SOFA = Figure(
    "sofa",
    (
        View(
            (
                patch("rest", None, (0, -0.1), (0.92, 0.36), "coat", 0, 0.2),
                patch("seat", None, (0, 0.12), (0.8, 0.2), "dim", 1, 0.2),
                patch("arm left", None, (-0.44, 0.08), (0.16, 0.32), "coat", 2, 0.3),
                patch("arm right", None, (0.44, 0.08), (0.16, 0.32), "coat", 2, 0.3),
                patch("foot left", None, (-0.4, 0.26), (0.06, 0.07), "dim", 0, 0.1),
                patch("foot right", None, (0.4, 0.26), (0.06, 0.07), "dim", 0, 0.1),
            ),
            1.0,
            tilt=3,
        ),
    ),
    WOOD,
)
DININGTABLE = Figure(
    "diningtable",
    (
        View(
            (
                panel("top", None,
                      ((-0.5, -0.12), (-0.34, -0.22), (0.34, -0.22), (0.5, -0.12), (0.5, -0.07), (-0.5, -0.07)), "coat",
                      1),
                *(
                    panel(f"leg {i}", None, ((x, -0.08), (x + 0.05, -0.08), (x + 0.05, y), (x, y)), "dim", 0)
                    for i, (x, y) in enumerate(((-0.46, 0.3), (0.41, 0.3), (-0.3, 0.2), (0.25, 0.2)))
                ),
            ),
            1.0,
            tilt=3,
        ),
    ),
    WOOD,
)
BOAT = Figure(
    "boat",
    (
        View(
            (
                Part("hull", None, blob(((-0.5, 0.1), (0, 0.14), (0.5, 0.06), (0.34, 0.32), (-0.36, 0.32))), (1, 1)),
                panel("mast", None, ((-0.02, -0.5), (0.01, -0.5), (0.02, 0.14), (-0.02, 0.14)), "dim", 0),
                panel("sail", None, ((0.03, -0.46), (0.34, 0.06), (0.03, 0.08)), "sail", 1),
                panel("jib", None, ((-0.04, -0.4), (-0.04, 0.06), (-0.3, 0.07)), "sail", 1, shade=0.85),
            ),
            0.95,
            tilt=8,
            grounded=False,
        ),
    ),
    WOOD,
)

THINGS = (BOTTLE, POTTEDPLANT, TVMONITOR)
PARTLESS = (BOAT, CHAIR, DININGTABLE, SOFA)
