"""Painting polygons into an image and its label maps from the same geometry."""

import numpy as np
from PIL import Image, ImageDraw

from ovparts_lib.miniature.figure import Colour, Piece, scale_colour

SUPERSAMPLING = 3
NOTHING = 255


def rgb(colour: Colour) -> tuple[int, int, int]:
    """A colour of 0..1 floats as 8-bit integers."""
    return tuple(int(min(max(c, 0.0), 1.0) * 255 + 0.5) for c in colour)


class Canvas:
    """An RGB image and three label maps (part, object, instance) painted side by side.

    Everything is drawn at ``SUPERSAMPLING`` times the size, without antialiasing. :meth:`image` averages each block of
    pixels; the label maps take its central pixel, so that labels are never mixed and stay centred on the picture.

    Args:
        width: width of the finished image in pixels.
        height: its height.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.picture = Image.new("RGB", (width * SUPERSAMPLING, height * SUPERSAMPLING))
        self.pen = ImageDraw.Draw(self.picture)
        self._maps = [Image.new("L", self.picture.size, NOTHING) for _ in range(3)]
        self._map_pens = [ImageDraw.Draw(image) for image in self._maps]

    def polygon(self, points: np.ndarray, colour: Colour, *, alpha: float = 1.0, outline: Colour | None = None) -> None:
        """Fill a polygon (n, 2) given in finished pixels; background shapes use this, labels stay untouched."""
        corners = (points * SUPERSAMPLING).ravel().tolist()
        if alpha < 1:
            self._paste(points, rgb(colour), alpha)
        else:
            self.pen.polygon(corners, fill=rgb(colour))
        if outline is not None:
            self.pen.line(corners + corners[:2], fill=rgb(outline), width=2)

    def piece(self, piece: Piece, points: np.ndarray, labels: tuple[int, int, int], rng: np.random.Generator) -> None:
        """Paint one posed piece.

        Args:
            piece: colour, texture, opacity.
            points: its polygon (n, 2) in finished pixels.
            labels: part id (255 = object pixels without a part), object id, instance number.
            rng: source of the texture's randomness.
        """
        outline = scale_colour(piece.colour, 0.62) if piece.outline else None
        if piece.texture == "plain":
            self.polygon(points, piece.colour, alpha=piece.alpha, outline=outline)
        else:
            self._paste(points, self._texture(piece, points, rng), piece.alpha)
            corners = (points * SUPERSAMPLING).ravel().tolist()
            self.pen.line(corners + corners[:2], fill=rgb(outline or piece.colour), width=2)
        corners = (points * SUPERSAMPLING).ravel().tolist()
        for pen, label in zip(self._map_pens, labels, strict=True):
            pen.polygon(corners, fill=label)

    def image(self) -> np.ndarray:
        """The picture at its finished size, uint8 (height, width, 3)."""
        return np.asarray(self.picture.reduce(SUPERSAMPLING))

    def label_maps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Part ids, object ids and instance numbers, uint8 (height, width) each; 255 where there is none."""
        middle = SUPERSAMPLING // 2
        return tuple(np.asarray(image)[middle::SUPERSAMPLING, middle::SUPERSAMPLING].copy() for image in self._maps)

    def _box(self, points: np.ndarray) -> tuple[int, int, int, int] | None:
        low = np.maximum(np.floor(points.min(0) * SUPERSAMPLING).astype(int), 0)
        high = np.minimum(np.ceil(points.max(0) * SUPERSAMPLING).astype(int) + 1, self.picture.size)
        return None if (low >= high).any() else (*low.tolist(), *high.tolist())

    def _paste(self, points: np.ndarray, fill: tuple[int, int, int] | Image.Image | None, alpha: float) -> None:
        box = self._box(points)
        if box is None:
            return
        mask = Image.new("L", (box[2] - box[0], box[3] - box[1]), 0)
        corners = (points * SUPERSAMPLING - box[:2]).ravel().tolist()
        ImageDraw.Draw(mask).polygon(corners, fill=int(alpha * 255))
        self.picture.paste(fill, box, mask)

    def _texture(self, piece: Piece, points: np.ndarray, rng: np.random.Generator) -> Image.Image | None:
        box = self._box(points)
        if box is None:
            return None
        width, height = box[2] - box[0], box[3] - box[1]
        tile = Image.new("RGB", (width, height), rgb(piece.colour))
        pen, extent = ImageDraw.Draw(tile), np.ptp(points * SUPERSAMPLING, axis=0)
        size = float(extent.max())
        if piece.texture == "stripes":
            dark, step = rgb(scale_colour(piece.colour, 0.62)), max(size / rng.uniform(4.5, 8), 5.0)
            lean = rng.uniform(-0.3, 0.3) * height
            for x in np.arange(-abs(lean), width + abs(lean), step):
                pen.line((x, 0, x + lean, height), fill=dark, width=max(int(step * 0.42), 1))
        else:
            count, low, high = (9, 0.06, 0.1) if piece.texture == "spots" else (4, 0.14, 0.3)
            for x, y, a, b in rng.random((count, 4)):
                rx, ry = (low + (high - low) * a) * size, (low + (high - low) * b) * size * 0.8
                pen.ellipse((x * width - rx, y * height - ry, x * width + rx, y * height + ry), fill=rgb(piece.accent))
        return tile
