"""Outlines of the miniature's shapes as polygons in a unit frame.

Every function returns float arrays (n, 2) of x, y with y pointing down. *Centred* shapes span -0.5..0.5 on both axes;
*limbs* start at the origin and end at (1, 0), so that a joint is the origin of the part that hangs on it.
"""

from functools import cache

import numpy as np

Points = tuple[tuple[float, float], ...]


@cache
def ellipse(points: int = 28) -> np.ndarray:
    """Centred ellipse inscribed in the unit square."""
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], 1) / 2


@cache
def limb(end: float = 0.7, bulge: float = 0.0) -> np.ndarray:
    """Rounded limb from (0, 0) to (1, 0); unit width at its joint and ``end`` times that at its far end.

    Args:
        end: width at the far end relative to the joint.
        bulge: extra half-width in the middle (thighs, tails).
    """
    x = np.linspace(0, 1, 7)
    half = 0.5 + (end - 1) * 0.5 * x + bulge * np.sin(np.pi * x)
    turn = np.linspace(np.pi / 2, -np.pi / 2, 6)[1:-1]
    cap = np.stack([1 + np.cos(turn) * 0.12, np.sin(turn) * half[-1]], 1)
    base = np.stack([-np.cos(turn[::-1]) * 0.12, np.sin(turn[::-1]) * half[0]], 1)
    return np.concatenate([np.stack([x, half], 1), cap, np.stack([x, -half], 1)[::-1], base])


@cache
def drop(tip: float = 0.0) -> np.ndarray:
    """Drop-like limb: narrow at the joint, widest near 0.65, round (or pointed with ``tip`` > 0) at its end."""
    return blob(((0, -0.14), (0.35, -0.42), (0.7, -0.5), (1 - 0.08 * (1 - tip), -0.22 * (1 - tip)), (1, 0),
                 (1 - 0.08 * (1 - tip), 0.22 * (1 - tip)), (0.7, 0.5), (0.35, 0.42), (0, 0.14)))  # fmt: skip


@cache
def spike() -> np.ndarray:
    """Triangle-like limb: unit width at the joint, pointed at (1, 0), with slightly curved flanks."""
    return np.array([(0, -0.5), (0.35, -0.4), (0.7, -0.2), (1, 0), (0.7, 0.2), (0.35, 0.4), (0, 0.5)])


@cache
def box(rounding: float = 0.2) -> np.ndarray:
    """Centred rectangle with rounded corners (``rounding`` in 0..0.5 of each side)."""
    if rounding == 0:
        return np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    turn = np.linspace(0, np.pi / 2, 5)
    arc = np.stack([np.cos(turn), np.sin(turn)], 1) * rounding
    corners = []
    for quarter, (sx, sy) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        c, s = np.cos(quarter * np.pi / 2), np.sin(quarter * np.pi / 2)
        corners.append(arc @ np.array([[c, s], [-s, c]]) + np.array([sx, sy]) * (0.5 - rounding))
    return np.concatenate(corners)


@cache
def poly(points: Points) -> np.ndarray:
    """The polygon with exactly these corners."""
    return np.array(points, float)


@cache
def blob(points: Points, steps: int = 5) -> np.ndarray:
    """Smooth closed curve (Catmull-Rom) through the given points."""
    p1 = np.array(points, float)
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (p[:, None] for p in (p0, p1, p2, p3))
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    return curve.reshape(-1, 2)


@cache
def tube(x0: float, y0: float, x1: float, y1: float, width: float) -> np.ndarray:
    """A straight bar of a width from one point to another, as a polygon in the coordinates of the points."""
    length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
    ax, ay = (y0 - y1) / length * width / 2, (x1 - x0) / length * width / 2
    return poly(((x0 + ax, y0 + ay), (x1 + ax, y1 + ay), (x1 - ax, y1 - ay), (x0 - ax, y0 - ay)))


@cache
def wool(bumps: int = 13, depth: float = 0.06) -> np.ndarray:
    """Centred ellipse with a scalloped edge, as children draw sheep and tree crowns."""
    turn = np.linspace(0, 2 * np.pi, bumps * 6, endpoint=False)
    radius = 0.5 - depth + depth * np.abs(np.sin(turn * bumps / 2)) * 1.6
    return np.stack([np.cos(turn) * radius, np.sin(turn) * radius], 1)


@cache
def horn() -> np.ndarray:
    """Curved, pointed limb."""
    return blob(((0, -0.5), (0.4, -0.45), (0.75, -0.6), (1, -1.1), (0.9, -0.2), (0.5, 0.4), (0, 0.5)))


@cache
def curl() -> np.ndarray:
    """A curled ram's horn around the origin, about one unit across."""
    turn = np.linspace(-0.6 * np.pi, 1.15 * np.pi, 26)
    outer = np.linspace(0.5, 0.34, 26)
    inner = np.linspace(0.16, 0.3, 26)
    ring = np.stack([np.cos(turn), np.sin(turn)], 1)
    return np.concatenate([ring * outer[:, None], (ring * inner[:, None])[::-1]])


@cache
def ring(inner: float = 0.8, points: int = 28) -> np.ndarray:
    """Centred ring as one polygon (outer circle, then inner circle backwards)."""
    circle = ellipse(points)
    circle = np.concatenate([circle, circle[:1]])
    return np.concatenate([circle, circle[::-1] * inner])


@cache
def spokes(count: int = 8, width: float = 0.03) -> np.ndarray:
    """A star of thin spokes inscribed in the unit circle."""
    corners = []
    for turn in np.linspace(0, 2 * np.pi, count, endpoint=False):
        along = np.array([np.cos(turn), np.sin(turn)])
        across = np.array([-along[1], along[0]])
        corners += [along * 0.03 - across * width, along * 0.48 - across * width]
        corners += [along * 0.48 + across * width, along * 0.03 + across * width]
    return np.array(corners)


@cache
def foot() -> np.ndarray:
    """Bird's foot: three toes from the ankle at the origin, spanning about one unit."""
    return np.array([(-0.08, -0.1), (0.08, -0.1), (0.6, 0.3), (0.55, 0.45), (0.15, 0.2), (0.1, 0.5), (-0.05, 0.5),
                     (-0.08, 0.22), (-0.4, 0.45), (-0.48, 0.32)])  # fmt: skip
