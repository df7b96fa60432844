"""The vehicles of the miniature: car, bus, train, bicycle, motorbike and aeroplane."""

# One part a line, as a table.
# fmt: off
from __future__ import annotations

from ovparts_lib.miniature.figure import Figure, Part, Tint, View
from ovparts_lib.miniature.shapes import Points, blob, box, ellipse, limb, poly, ring, spokes


def panel(key: str, label: str | None, points: Points, paint: str = "coat", order: int = 0, **more: object) -> Part:
    """A fixed polygon given directly in the figure's coordinates."""
    return Part(key, label, poly(points), (1.0, 1.0), paint=paint, order=order, vary=0.0, **more)


def patch(key: str, label: str | None, at: tuple[float, float], size: tuple[float, float], paint: str, order: int,
          rounding: float = 0.2, **more: object) -> Part:
    """A rounded rectangle (ellipse for ``rounding`` 0.5) at a fixed place of the figure."""
    return Part(key, label, box(rounding), size, at, paint=paint, order=order, **more)


def wheel(key: str, at: tuple[float, float], size: float, order: int = 5, shade: float = 1.0) -> tuple[Part, ...]:
    """A car's or bus's wheel: tyre and hub cap."""
    return (
        Part(key, "wheel", ellipse(), (size, size), at, paint="tyre", order=order, shade=shade),
        Part(f"{key} hub", "wheel", ellipse(18), (size * 0.52, size * 0.52), (0, 0), key, paint="metal",
             order=order + 1),
        Part(f"{key} axle", "wheel", ellipse(10), (size * 0.16, size * 0.16), (0, 0), key, paint="tyre",
             order=order + 2),
    )


def tube(
    key: str,
    start: tuple[float, float],
    end: tuple[float, float],
    width: float = 0.034,
    order: int = 5,
    paint: str = "coat",
) -> Part:
    """A straight tube of a frame; it belongs to no part, as in the real labels."""
    (x0, y0), (x1, y1) = start, end
    length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
    ax, ay = (y0 - y1) / length * width / 2, (x1 - x0) / length * width / 2
    return panel(key, None, ((x0 + ax, y0 + ay), (x1 + ax, y1 + ay), (x1 - ax, y1 - ay), (x0 - ax, y0 - ay)), paint,
                 order)


def spoked_wheel(key: str, at: tuple[float, float], size: float, tyre: float, order: int = 1) -> tuple[Part, ...]:
    """A bicycle's or motorbike's wheel: a see-through disc with spokes inside a tyre."""
    return (
        Part(key, "wheel", ellipse(), (size, size), at, paint="metal", order=order, alpha=0.3),
        Part(f"{key} spokes", "wheel", spokes(10, 0.012), (size, size), (0, 0), key, (0, 36), "metal", order + 1, 0.0,
             outline=False),
        Part(f"{key} tyre", "wheel", ring(1 - tyre), (size, size), (0, 0), key, paint="tyre", order=order + 2, vary=0.0,
             outline=False),
        Part(f"{key} hub", "wheel", ellipse(12), (size * 0.16, size * 0.16), (0, 0), key, paint="tyre",
             order=order + 2),
    )


CAR_END = blob(((-0.42, 0.22), (-0.42, 0.0), (-0.3, -0.06), (0.3, -0.06), (0.42, 0.0), (0.42, 0.22), (0.2, 0.26),
                (-0.2, 0.26)))

# Car from the side: bonnet (front), boot (back), doors, two side windows, roof, mirror, headlight.
CAR_SIDE = (
    panel("cabin", "side", ((-0.38, 0.0), (-0.25, -0.19), (0.1, -0.19), (0.27, 0.0)), order=0),
    panel("roof", "roof", ((-0.265, -0.165), (-0.22, -0.215), (0.07, -0.215), (0.125, -0.165)), order=2),
    panel("side", "side", ((-0.4, -0.02), (0.28, -0.02), (0.3, 0.03), (0.3, 0.16), (-0.4, 0.16)), order=1),
    panel("back", "back", ((-0.5, 0.01), (-0.39, -0.02), (-0.39, 0.16), (-0.49, 0.15)), order=1, shade=0.88),
    panel("tail lamp", "back", ((-0.5, 0.02), (-0.46, 0.015), (-0.46, 0.06), (-0.5, 0.06)), "red", 3),
    panel("front", "front", ((0.28, -0.02), (0.42, 0.0), (0.5, 0.045), (0.5, 0.15), (0.29, 0.16)), order=1, shade=0.9),
    panel("window back", "window", ((-0.325, -0.015), (-0.235, -0.155), (-0.1, -0.155), (-0.1, -0.015)), "glass", 3),
    panel("window front", "window", ((-0.065, -0.015), (-0.065, -0.155), (0.085, -0.155), (0.215, -0.015)), "glass", 3),
    panel("door back", "door", ((-0.31, 0.0), (-0.095, 0.0), (-0.095, 0.145), (-0.2, 0.145), (-0.31, 0.07)), order=3,
          shade=1.06, chance=0.7),
    panel("door front", "door", ((-0.08, 0.0), (0.19, 0.0), (0.2, 0.08), (0.16, 0.145), (-0.08, 0.145)), order=3,
          shade=1.06),
    patch("handle", "door", (-0.035, 0.045), (0.05, 0.018), "tyre", 4),
    patch("mirror", "mirror", (0.2, -0.03), (0.07, 0.055), "coat", 6, 0.4, shade=0.7),
    patch("headlight", "headlight", (0.465, 0.065), (0.06, 0.055), "lamp", 4, 0.45),
    *wheel("wheel back", (-0.28, 0.16), 0.2),
    *wheel("wheel front", (0.29, 0.16), 0.2),
)


def car_end(front: bool) -> tuple[Part, ...]:
    """A car seen from the front (headlights, mirrors, grille) or from the back (red lamps, rear window)."""
    end = "front" if front else "back"
    parts = [
        panel("roof", "roof", ((-0.24, -0.27), (-0.2, -0.34), (0.2, -0.34), (0.24, -0.27)), order=2),
        panel("cabin", end, ((-0.33, -0.03), (-0.24, -0.29), (0.24, -0.29), (0.33, -0.03)), order=1, shade=0.9),
        panel("window", "window", ((-0.28, -0.055), (-0.21, -0.25), (0.21, -0.25), (0.28, -0.055)), "glass", 3),
        Part(end, end, CAR_END, (1, 1), order=2),
        patch("bumper", end, (0, 0.21), (0.84, 0.08), "metal", 3),
        patch("license plate", "license plate", (0, 0.17 if front else 0.1), (0.24, 0.085), "plate", 5, 0.1),
        patch("plate text", "license plate", (0, 0.17 if front else 0.1), (0.17, 0.03), "tyre", 6, 0.1, outline=False),
        patch("wheel left", "wheel", (-0.31, 0.27), (0.14, 0.16), "tyre", 0, 0.3),
        patch("wheel right", "wheel", (0.31, 0.27), (0.14, 0.16), "tyre", 0, 0.3),
    ]
    for side, sign in (("left", -1), ("right", 1)):
        parts.append(patch(f"mirror {side}", "mirror", (sign * 0.38, -0.09), (0.1, 0.075), "coat", 4, 0.4, shade=0.7))
        if front:
            parts.append(
                Part(f"headlight {side}", "headlight", ellipse(16), (0.13, 0.1), (sign * 0.3, 0.06), paint="lamp",
                     order=5)
            )
        else:
            parts.append(patch(f"tail lamp {side}", "back", (sign * 0.34, 0.05), (0.1, 0.09), "red", 5))
    if front:
        parts.append(patch("grille", "front", (0, 0.06), (0.34, 0.07), "tyre", 4, 0.3))
    return tuple(parts)


VEHICLE_SLOTS = {
    "coat": ("red", "blue", "green", "yellow", "white", "black", "silver", "orange", "purple"),
    "glass": ("glass", "glass", "dark"),
    "tyre": ("tyre",),
    "metal": ("silver", "grey"),
    "lamp": ("lamp",),
    "plate": ("white", "yellow"),
    "red": ("red",),
}
CAR = Figure(
    "car",
    (View(CAR_SIDE, 1.0, weight=2, tilt=4), View(car_end(True), 0.8, tilt=3), View(car_end(False), 0.8, tilt=3)),
    VEHICLE_SLOTS,
)

# Bus from the side with its front turned towards us; from the front; from the back.
BUS_SIDE = (
    panel("roof", "roof", ((-0.5, -0.25), (-0.46, -0.3), (0.47, -0.3), (0.5, -0.25)), order=2, shade=0.85),
    panel("side", "side", ((-0.5, -0.26), (0.34, -0.26), (0.34, 0.17), (-0.5, 0.17)), order=1),
    panel("stripe", "side", ((-0.5, 0.05), (0.34, 0.05), (0.34, 0.08), (-0.5, 0.08)), "metal", 2, chance=0.6,
          outline=False),
    *(
        panel(f"window {i}", "window", ((x, -0.2), (x + 0.13, -0.2), (x + 0.13, -0.02), (x, -0.02)), "glass", 3)
        for i, x in enumerate((-0.46, -0.305, -0.15, 0.005))
    ),
    panel("door", "door", ((0.17, -0.21), (0.31, -0.21), (0.31, 0.165), (0.17, 0.165)), "door", 3),
    panel("door glass", "door", ((0.19, -0.18), (0.29, -0.18), (0.29, 0.06), (0.19, 0.06)), "glass", 4, shade=0.75),
    panel("door split", "door", ((0.235, -0.2), (0.245, -0.2), (0.245, 0.16), (0.235, 0.16)), "tyre", 5, outline=False),
    panel("front", "front", ((0.34, -0.26), (0.5, -0.25), (0.5, 0.15), (0.34, 0.17)), order=2, shade=0.85),
    panel("windscreen", "window", ((0.36, -0.215), (0.485, -0.205), (0.485, 0.0), (0.36, 0.01)), "glass", 4),
    patch("headlight", "headlight", (0.38, 0.075), (0.055, 0.055), "lamp", 4, 0.45),
    patch("headlight right", "headlight", (0.47, 0.07), (0.045, 0.055), "lamp", 4, 0.45),
    patch("license plate", "license plate", (0.425, 0.125), (0.09, 0.045), "plate", 4, 0.05),
    patch("mirror", "mirror", (0.325, -0.15), (0.04, 0.1), "tyre", 6, 0.3),
    *wheel("wheel back", (-0.32, 0.17), 0.17),
    *wheel("wheel front", (0.1, 0.17), 0.17),
)


def bus_end(front: bool) -> tuple[Part, ...]:
    """A bus seen from the front or from the back: a tall box."""
    end = "front" if front else "back"
    parts = [
        panel("roof", "roof", ((-0.32, -0.4), (-0.28, -0.47), (0.28, -0.47), (0.32, -0.4)), order=2, shade=0.85),
        patch(end, end, (0, 0.0), (0.66, 0.84), "coat", 1, 0.08, shade=0.95),
        patch("window", "window", (0, -0.17 if front else -0.22), (0.56, 0.36 if front else 0.2), "glass", 3, 0.1),
        patch("license plate", "license plate", (0, 0.31), (0.22, 0.085), "plate", 4, 0.05),
        patch("plate text", "license plate", (0, 0.31), (0.15, 0.03), "tyre", 5, 0.1, outline=False),
        patch("wheel left", "wheel", (-0.23, 0.44), (0.13, 0.14), "tyre", 0, 0.3),
        patch("wheel right", "wheel", (0.23, 0.44), (0.13, 0.14), "tyre", 0, 0.3),
    ]
    for side, sign in (("left", -1), ("right", 1)):
        if front:
            parts.append(patch(f"mirror {side}", "mirror", (sign * 0.38, -0.2), (0.075, 0.16), "tyre", 4, 0.3))
            parts.append(
                Part(f"headlight {side}", "headlight", ellipse(16), (0.12, 0.1), (sign * 0.22, 0.19), paint="lamp",
                     order=4)
            )
        else:
            parts.append(patch(f"tail lamp {side}", "back", (sign * 0.26, 0.16), (0.07, 0.14), "red", 4))
    if front:
        parts.append(patch("sign", "front", (0, -0.375), (0.4, 0.05), "tyre", 3, 0.1))
    return tuple(parts)


BUS = Figure(
    "bus",
    (View(BUS_SIDE, 1.1, weight=2, tilt=3), View(bus_end(True), 0.9, tilt=3), View(bus_end(False), 0.9, tilt=3)),
    {**VEHICLE_SLOTS, "door": Tint("coat", (0.6, 0.85))},
)

# Train: the engine is "head", its nose "front"; coaches follow, their lower panel is "side", the last end "back".
TRAIN_SIDE = (
    panel("head", "head", ((0.06, -0.15), (0.36, -0.15), (0.4, 0.13), (0.06, 0.13)), order=2),
    Part("front", "front", blob(((0.34, -0.15), (0.44, -0.12), (0.5, 0.02), (0.49, 0.13), (0.34, 0.13))), (1, 1),
         order=3, shade=0.85),
    panel("cab window", "front", ((0.37, -0.1), (0.43, -0.09), (0.465, -0.01), (0.37, -0.01)), "glass", 4),
    panel("engine window", "head", ((0.12, -0.1), (0.3, -0.1), (0.3, -0.01), (0.12, -0.01)), "glass", 4),
    patch("headlight", "headlight", (0.455, 0.055), (0.06, 0.05), "lamp", 5, 0.45),
    panel("roof", "roof", ((-0.5, -0.15), (-0.47, -0.195), (0.3, -0.195), (0.38, -0.15)), "roof", 4),
    panel("coach 1", "coach", ((-0.21, -0.15), (0.03, -0.15), (0.03, 0.04), (-0.21, 0.04)), "coach", 2),
    panel("coach 2", "coach", ((-0.45, -0.15), (-0.24, -0.15), (-0.24, 0.04), (-0.45, 0.04)), "coach", 2),
    panel("side 1", "side", ((-0.21, 0.04), (0.03, 0.04), (0.03, 0.13), (-0.21, 0.13)), order=2, shade=0.75),
    panel("side 2", "side", ((-0.45, 0.04), (-0.24, 0.04), (-0.24, 0.13), (-0.45, 0.13)), order=2, shade=0.75),
    panel("back", "back", ((-0.5, -0.14), (-0.45, -0.15), (-0.45, 0.13), (-0.5, 0.12)), order=2, shade=0.6),
    *(
        panel(f"window {i}", "coach", ((x, -0.1), (x + 0.085, -0.1), (x + 0.085, -0.01), (x, -0.01)), "glass", 4)
        for i, x in enumerate((-0.43, -0.34, -0.19, -0.08))
    ),
    *(
        Part(f"bogie {i}", None, ellipse(16), (0.09, 0.09), (x, 0.15), paint="tyre", order=1)
        for i, x in enumerate((-0.4, -0.28, -0.16, -0.03, 0.12, 0.2, 0.32))
    ),
    panel("frame", None, ((-0.46, 0.12), (0.46, 0.12), (0.44, 0.16), (-0.46, 0.16)), "tyre", 1),
)
TRAIN_FRONT = (
    panel("coach", "coach", ((-0.5, -0.26), (-0.06, -0.38), (-0.06, 0.34), (-0.5, 0.2)), "coach", 0),
    panel("side", "side", ((-0.5, 0.07), (-0.06, 0.12), (-0.06, 0.36), (-0.5, 0.2)), order=1, shade=0.75),
    *(
        panel(f"window {i}", "coach", ((x, y), (x + 0.09, y - 0.03), (x + 0.09, y + 0.22), (x, y + 0.2)), "glass", 2)
        for i, (x, y) in enumerate(((-0.47, -0.16), (-0.34, -0.2), (-0.21, -0.24)))
    ),
    panel("roof", "roof", ((-0.5, -0.28), (-0.02, -0.46), (0.4, -0.46), (0.44, -0.38), (-0.06, -0.38)), "roof", 2),
    Part("head", "head", box(0.2), (0.54, 0.34), (0.19, -0.22), order=3),
    Part("front", "front", box(0.12), (0.54, 0.44), (0.19, 0.16), order=4, shade=0.85),
    patch("cab window", "head", (0.19, -0.2), (0.42, 0.2), "glass", 5, 0.15),
    Part("headlight left", "headlight", ellipse(16), (0.12, 0.12), (0.04, 0.12), paint="lamp", order=6),
    Part("headlight right", "headlight", ellipse(16), (0.12, 0.12), (0.34, 0.12), paint="lamp", order=6),
    patch("buffer", "front", (0.19, 0.3), (0.48, 0.07), "tyre", 6, 0.3),
)
TRAIN = Figure(
    "train",
    (View(TRAIN_SIDE, 1.25, weight=1.5, tilt=3), View(TRAIN_FRONT, 0.95, tilt=3)),
    {**VEHICLE_SLOTS, "coach": Tint("coat", (0.85, 1.15)), "roof": ("grey", "silver", "dark")},
)

# Bicycle: frame and pedals belong to no part, as in the real labels.
BICYCLE_SIDE = (
    *spoked_wheel("wheel back", (-0.3, 0.14), 0.4, 0.1),
    *spoked_wheel("wheel front", (0.3, 0.14), 0.4, 0.1),
    tube("top tube", (-0.12, -0.13), (0.2, -0.15)),
    tube("down tube", (0.21, -0.12), (-0.03, 0.15)),
    tube("seat tube", (-0.145, -0.25), (-0.03, 0.16)),
    tube("chain stay", (-0.03, 0.16), (-0.3, 0.14)),
    tube("seat stay", (-0.115, -0.13), (-0.3, 0.14), 0.026),
    tube("fork", (0.205, -0.2), (0.3, 0.14), 0.036, 6),
    Part("saddle", "saddle", blob(((-0.5, -0.3), (0.0, -0.4), (0.5, -0.25), (0.5, 0.1), (0.0, 0.2), (-0.5, 0.5))),
         (0.2, 0.1), (-0.14, -0.27), angle=(-5, 5), paint="tyre", order=8),
    Part("handlebar", "handlebar", limb(0.8), (0.2, 0.055), (0.2, -0.27), angle=(-60, -25), paint="metal", order=8),
    Part("grip", "handlebar", limb(0.9), (0.12, 0.065), (0.9, 0), "handlebar", (150, 200), "tyre", 9),
    panel("stem", None, ((0.185, -0.29), (0.225, -0.29), (0.235, -0.19), (0.195, -0.19)), "metal", 7),
    Part("headlight", "headlight", ellipse(16), (0.09, 0.09), (0.29, -0.19), paint="lamp", order=9),
    Part("chainwheel", "chainwheel", ellipse(), (0.15, 0.15), (-0.03, 0.16), paint="chainwheel", order=9),
    Part("chainwheel hole", "chainwheel", ellipse(12), (0.06, 0.06), (0, 0), "chainwheel", paint="tyre", order=10),
    Part("crank", None, limb(0.9), (0.13, 0.025), (0, 0), "chainwheel", (0, 360), "metal", 10),
)
CYCLE_SLOTS = {
    "coat": ("red", "blue", "green", "yellow", "black", "orange", "white", "purple"),
    "tyre": ("tyre",),
    "metal": ("silver", "grey"),
    "lamp": ("lamp",),
    "chainwheel": ("grey", "golden", "dark"),
}
BICYCLE = Figure("bicycle", (View(BICYCLE_SIDE, 0.95, tilt=6),), CYCLE_SLOTS)

MOTORBIKE_SIDE = (
    *spoked_wheel("wheel back", (-0.31, 0.17), 0.38, 0.24),
    *spoked_wheel("wheel front", (0.33, 0.17), 0.36, 0.24),
    panel("fork", None, ((0.17, -0.18), (0.22, -0.19), (0.35, 0.15), (0.31, 0.18)), "metal", 5),
    Part("engine", None, box(0.2), (0.26, 0.2), (0.0, 0.12), paint="metal", order=5),
    *(Part(f"rib {i}", None, box(0.4), (0.22, 0.02), (0.0, 0.07 + 0.045 * i), paint="tyre", order=6) for i in range(3)),
    Part("tank", None, blob(((-0.5, 0.3), (-0.35, -0.35), (0.15, -0.5), (0.5, -0.1), (0.4, 0.5))), (0.32, 0.18),
         (0.06, -0.08), order=6),
    Part("tail unit", None, blob(((-0.5, -0.4), (0.5, -0.3), (0.5, 0.5), (-0.1, 0.3))), (0.34, 0.14), (-0.27, -0.04),
         order=5),
    Part("exhaust", None, limb(1.2), (0.42, 0.055), (0.0, 0.2), angle=(172, 182), paint="metal", order=7),
    Part("saddle", "saddle", blob(((-0.5, -0.5), (-0.1, -0.1), (0.5, -0.3), (0.45, 0.3), (0.0, 0.5), (-0.45, 0.1))),
         (0.34, 0.13), (-0.2, -0.12), angle=(-4, 4), paint="tyre", order=8),
    Part("handlebar", "handlebar", limb(0.8), (0.21, 0.06), (0.19, -0.16), angle=(-125, -95), paint="metal", order=8),
    Part("grip", "handlebar", limb(0.9), (0.13, 0.075), (0.95, 0), "handlebar", (-80, -40), "tyre", 9),
    Part("headlight", "headlight", ellipse(18), (0.13, 0.13), (0.26, -0.15), paint="lamp", order=9),
)
MOTORBIKE = Figure("motorbike", (View(MOTORBIKE_SIDE, 0.95, tilt=6),), CYCLE_SLOTS)

# Aeroplane from the side, nose to the right: the stern is the tapering rear of the fuselage.
AEROPLANE_SIDE = (
    Part("wing far", "wing", poly(((0, -0.5), (1, -0.9), (1, -0.55), (0, 0.5))), (0.24, 0.16), (0.02, -0.02),
         angle=(-112, -96), paint="wing", order=-2, shade=0.75),
    panel("stern", "stern", ((-0.5, -0.08), (-0.22, -0.085), (-0.22, 0.085), (-0.3, 0.06), (-0.5, -0.05)), "stern", 0),
    Part("body", "body",
         blob(((-0.24, -0.085), (0.1, -0.09), (0.36, -0.08), (0.5, 0.01), (0.36, 0.08), (0.1, 0.09), (-0.24, 0.085))),
         (1, 1), order=1),
    panel("cockpit", "body", ((0.37, -0.06), (0.43, -0.035), (0.43, 0.0), (0.37, 0.0)), "glass", 2),
    *(
        Part(f"porthole {i}", "body", ellipse(10), (0.03, 0.035), (-0.18 + 0.075 * i, -0.03), paint="glass", order=2,
             outline=False)
        for i in range(7)
    ),
    panel("fin", "tail", ((-0.5, -0.3), (-0.41, -0.3), (-0.27, -0.07), (-0.48, -0.06)), "tail", 2),
    panel("tailplane", "tail", ((-0.4, -0.07), (-0.5, 0.02), (-0.58, 0.02), (-0.5, -0.075)), "tail", 3, shade=0.85),
    Part("wing", "wing", poly(((0, -0.5), (1, -0.25), (1, 0.15), (0, 0.5))), (0.38, 0.22), (0.05, 0.02),
         angle=(112, 132), paint="wing", order=4),
    Part("engine", "engine", box(0.4), (0.16, 0.085), (0.09, 0.14), angle=(-3, 3), paint="engine", order=5),
    Part("intake", "engine", ellipse(14), (0.035, 0.075), (0.46, 0), "engine", paint="dark", order=6),
    Part("engine rear", "engine", box(0.4), (0.13, 0.07), (-0.2, 0.25), angle=(-3, 3), paint="engine", order=6,
         chance=0.4),
    panel("gear", "wheel", ((0.345, 0.06), (0.365, 0.06), (0.365, 0.16), (0.345, 0.16)), "dark", 0, outline=False),
    Part("wheel front", "wheel", ellipse(16), (0.08, 0.08), (0.355, 0.18), paint="tyre", order=1),
    Part("wheel rear", "wheel", ellipse(16), (0.09, 0.09), (-0.06, 0.2), paint="tyre", order=0),
)
AEROPLANE = Figure(
    "aeroplane",
    (View(AEROPLANE_SIDE, 1.1, tilt=16, grounded=False),),
    {
        "coat": ("white", "silver", "grey", "blue", "yellow", "red"),
        "stern": Tint("coat", (0.75, 0.95)),
        "wing": Tint("coat", (0.65, 0.85)),
        "tail": ("red", "blue", "green", "orange", "white"),
        "engine": ("grey", "silver", "white"),
        "glass": ("glass", "dark"),
        "tyre": ("tyre",),
        "dark": ("dark",),
    },
)

VEHICLES = (AEROPLANE, BICYCLE, BUS, CAR, MOTORBIKE, TRAIN)
