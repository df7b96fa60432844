"""Label maps on pictures: overlays with a legend of words, and ground truth beside prediction beside error."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy.ndimage import maximum_filter, minimum_filter, uniform_filter

from ovparts_lib.inspection.arrays import LabelMap, Picture, as_labels, as_picture, panel_aspect, panel_picture, thinned
from ovparts_lib.inspection.figures import Panel, new_figure, picture_panels, styled, wrapped
from ovparts_lib.inspection.palette import RIGHT, UNLABELLED, WRONG, class_colours
from ovparts_lib.systems.scores import BACKGROUND
from ovparts_lib.vocabularies import Vocabulary

_DIMMED = 0.45  # brightness that is left of unlabelled pixels' surroundings in an error picture
_CROWDED = 0.4  # share of lines around a pixel above which lines hide what they separate
_LEGEND_ROWS, _LEGEND_WORDS = 24, 48  # lines in a column beside a picture; words in a legend
_WORD = 26  # characters on a line of a legend
_COLUMNS = 4  # pictures side by side
_PANEL = 960  # pixels of a picture's longer side in a figure
_GIVEN = {
    "oracle_obj": "Objects and their masks are given; only an object's own parts compete inside it.",
    "pred_all": "Nothing is given; all classes compete everywhere, and 'none of them' where a system has that.",
}


def render_overlay(
    image: Picture, label_map: LabelMap, colours: np.ndarray, *, opacity: float = 0.6, boundaries: bool = True
) -> np.ndarray:
    """Paint labels on a picture, at the picture's full size.

    Args:
        image: uint8 (3, H, W) or (H, W, 3).
        label_map: integer (H, W); labels without a colour (nothing, ignore) leave the picture as it is.
        colours: uint8 (N, 3).
        opacity: of the colours, 0..1.
        boundaries: outline regions in white, with a line that stays visible when a large picture is shown small; left
            out wherever regions are so small that lines would hide them.

    Returns:
        uint8 (H, W, 3).
    """
    picture = as_picture(image)
    labels = as_labels(label_map, picture.shape[:2])
    count, share = len(colours), np.float32(opacity)
    index = np.where((labels >= 0) & (labels < count), labels, count).astype(np.int32)
    # What each label makes of each brightness; the last one leaves it as it is.
    levels = np.arange(256, dtype=np.float32)[:, None].repeat(3, axis=1)
    mixed = levels * (1 - share) + np.asarray(colours, np.float32).reshape(-1, 1, 3) * share
    table = np.rint(np.concatenate([mixed, levels[None]])).astype(np.uint8)
    result = np.empty(picture.shape, np.uint8)
    for channel in range(3):
        result[..., channel] = table[..., channel].ravel()[256 * index + picture[..., channel]]
    if boundaries:
        result[_boundaries(index)] = 255
    return result


@styled
def overlay(image: Picture, label_map: LabelMap, vocabulary: Vocabulary, name: str) -> Panel:
    """A label map on its picture, with a legend of the words that occur, largest first.

    Args:
        image: the picture.
        label_map: integer (H, W), ids of ``vocabulary``; others leave the picture as it is.
        vocabulary: of the ids.
        name: of the picture.

    Returns:
        With a table of the pixels that each word wins, and their share in percent.
    """
    picture = as_picture(image)
    labels = as_labels(label_map, picture.shape[:2])
    pixels = _pixels(labels, vocabulary)
    words, painted = _largest_first(pixels), _painted(picture, labels, class_colours(vocabulary))
    lines = sum(_legend_word(vocabulary.classes[part]).count("\n") + 1 for part in words[:_LEGEND_WORDS])
    columns = -(-lines // _LEGEND_ROWS)
    aspect = panel_aspect(painted)
    width, height = min(6.4, 5.4 / aspect), min(5.4, 6.4 * aspect)
    figure = new_figure(width + 0.2 + 2.2 * columns, max(height + 0.35, 0.21 * min(lines, _LEGEND_ROWS) + 0.4))
    _show(figure.add_subplot(), painted, name)
    _legend(figure, words, vocabulary, "outside right upper", columns)
    table = pd.DataFrame({"word": [*vocabulary.classes, BACKGROUND], "pixels": pixels})
    table["percent"] = 100 * pixels / pixels.sum()
    caption = "The word with the highest score at each pixel; plain where none of the words wins."
    return Panel(f"overlay_{name}", figure, table, f"Words: {name}", caption)


@styled
def comparison(
    images: Sequence[Picture],
    ground_truths: Sequence[LabelMap],
    predictions: Sequence[LabelMap],
    vocabulary: Vocabulary,
    names: Sequence[str],
    mode: str,
) -> Panel:
    """Ground truth, prediction and error of pictures, a row each, with the picture's own mean IoU.

    Green is right, red wrong (also where nothing was predicted), grey has no label. The IoU is the mean over the
    classes labelled in this picture, on labelled pixels; published figures are never means over pictures.

    Args:
        images: the pictures.
        ground_truths: a label map for each.
        predictions: another.
        vocabulary: of the labels.
        names: of the pictures.
        mode: ``oracle_obj`` or ``pred_all``, in which they were predicted.

    Returns:
        With a table of :func:`comparison_table`'s rows.
    """
    colours, pictures = class_colours(vocabulary), [as_picture(image) for image in images]
    truths = [as_labels(m, p.shape[:2]) for m, p in zip(ground_truths, pictures, strict=True)]
    guesses = [as_labels(m, p.shape[:2]) for m, p in zip(predictions, pictures, strict=True)]
    words = _largest_first(sum(_pixels(labels, vocabulary) for labels in (*truths, *guesses)))
    tables = [comparison_table(*maps, vocabulary) for maps in zip(truths, guesses, strict=True)]
    width = 11.0
    heights = [min(width / 3 * panel_aspect(p), 4.6) + 0.25 for p in pictures]
    figure = new_figure(width, sum(heights) + _legend_height(words, width), pictures=True)
    axes = figure.subplots(len(pictures), 3, squeeze=False, gridspec_kw={"height_ratios": heights})
    for row, picture, truth, guess, name, table in zip(axes, pictures, truths, guesses, names, tables, strict=True):
        _show(row[0], _painted(picture, truth, colours), f"{name}: ground truth")
        _show(row[1], _painted(picture, guess, colours), "prediction")
        verdict = "no labels" if table["IoU"].isna().all() else f"mean IoU {table['IoU'].mean():.1f} %"
        small = (thinned(array, _PANEL) for array in (picture, truth, guess))
        _show(row[2], render_error(*small, vocabulary.ignore_label), f"error, {verdict}")
    marks = {"right": RIGHT, "wrong": WRONG, "no label": UNLABELLED}
    verdicts = [Patch(color=np.array(colour) / 255, label=name) for name, colour in marks.items()]
    _legend(figure, words, vocabulary, "outside lower center", _columns_below(words, width), verdicts)
    data = pd.concat([table.assign(image=name) for table, name in zip(tables, names, strict=True)], ignore_index=True)
    title = f"Ground truth, prediction, error: {mode.replace('_', '-')}"
    caption = f"{_GIVEN[mode]} Green is right, red is wrong, grey has no label."
    return Panel(f"comparison_{mode}", figure, data, title, caption)


@styled
def label_grid(
    images: Sequence[Picture], label_maps: Sequence[LabelMap], vocabulary: Vocabulary, names: Sequence[str], split: str
) -> Panel:
    """Several label maps on their pictures, with one legend, and a table of the pixels of each class in each."""
    colours = class_colours(vocabulary)
    pictures = [as_picture(image) for image in images]
    labels = [as_labels(label_map, p.shape[:2]) for label_map, p in zip(label_maps, pictures, strict=True)]
    pixels = [_pixels(label_map, vocabulary) for label_map in labels]
    words = _largest_first(sum(pixels))
    painted = [_painted(picture, label_map, colours) for picture, label_map in zip(pictures, labels, strict=True)]
    columns = min(_COLUMNS, len(painted))
    rows, width = -(-len(painted) // columns), min(11.0, 5.5 * columns)
    shapes = [painted[row * columns : (row + 1) * columns] for row in range(rows)]
    heights = [width / columns * min(1.4, max(map(panel_aspect, row))) + 0.28 for row in shapes]
    figure = new_figure(width, sum(heights) + _legend_height(words, width), pictures=True)
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights}).ravel()
    for ax in axes[len(painted) :]:
        ax.set_axis_off()
    for ax, picture, name in zip(axes, painted, names, strict=False):
        _show(ax, picture, name)
    _legend(figure, words, vocabulary, "outside lower center", _columns_below(words, width))
    cells = [
        (name, word, count)
        for name, counts in zip(names, pixels, strict=True)
        for word, count in zip(vocabulary.classes, counts[:-1], strict=True)
        if count
    ]
    table = pd.DataFrame(cells, columns=["image", "class", "pixels"])
    caption = "Labels laid over their pictures; the legend names the classes that occur."
    return Panel(f"samples_{split}", figure, table, f"Samples of {split}", caption)


@styled
def caption_grid(images: Sequence[Picture], captions: Sequence[str]) -> Panel:
    """Several pictures with their captions, wrapped to the width of a picture."""
    figure, axes = picture_panels(len(images), _COLUMNS, np.empty((1, 1, 3)), gap=0.9)
    for ax, image, caption in zip(axes.ravel(), images, captions, strict=False):
        _show(ax, panel_picture(image, _PANEL), wrapped(caption, 34, lines=6))
    table = pd.DataFrame({"picture": range(1, len(captions) + 1), "caption": captions})
    text = "Random picture-caption pairs as MiniClip sees them."
    return Panel("captions", figure, table, "Pictures and captions", text)


def render_error(image: Picture, ground_truth: np.ndarray, prediction: np.ndarray, ignore_label: int) -> np.ndarray:
    """Right in green, wrong in red, unlabelled in grey, over the dimmed picture: uint8 (H, W, 3)."""
    picture = as_picture(image)
    labelled = ground_truth != ignore_label
    verdict = np.where(labelled, np.where(prediction == ground_truth, 0, 1), 2)
    dim = np.rint(picture.mean(axis=2, keepdims=True).repeat(3, axis=2) * _DIMMED + 60).astype(np.uint8)
    result = render_overlay(dim, verdict, np.array([RIGHT, WRONG, UNLABELLED]), opacity=0.7, boundaries=False)
    result[~labelled] = np.rint(0.6 * np.array(UNLABELLED) + 0.4 * dim[~labelled]).astype(np.uint8)
    return result


def comparison_table(ground_truth: LabelMap, prediction: LabelMap, vocabulary: Vocabulary) -> pd.DataFrame:
    """Data behind :func:`comparison`: per part that occurs in either map, pixels and IoU on labelled pixels.

    Returns:
        Columns part, labelled (pixels), predicted (pixels, anywhere), right (pixels), IoU (percent; NaN if the part is
        not labelled).
    """
    truth = as_labels(ground_truth, tuple(ground_truth.shape))
    guess = as_labels(prediction, truth.shape)
    maps = truth, guess, np.where(truth == guess, truth, -1), np.where(truth != vocabulary.ignore_label, guess, -1)
    labelled, predicted, right, counted = (_pixels(labels, vocabulary)[:-1] for labels in maps)
    iou = np.where(labelled > 0, 100 * right / np.maximum(labelled + counted - right, 1), np.nan)
    table = pd.DataFrame({"part": vocabulary.classes, "labelled": labelled, "predicted": predicted, "right": right})
    return table.assign(IoU=iou)[labelled + predicted > 0].reset_index(drop=True)


def _painted(picture: np.ndarray, labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """An overlay at the size that a figure shows."""
    return render_overlay(thinned(picture, _PANEL), thinned(labels, _PANEL), colours)


def _boundaries(labels: np.ndarray) -> np.ndarray:
    """Pixels next to another label, but where such lines crowd; a line is as thick as the picture is large.

    Of large pictures, whose lines are many pixels thick, every k-th pixel is looked at.
    """
    height, width = labels.shape
    thickness = max(2, round(max(labels.shape) / 450))
    step = max(1, thickness // 4)
    labels, thickness = labels[::step, ::step], max(2, round(thickness / step))
    lines = maximum_filter(labels, thickness) != minimum_filter(labels, thickness)
    around = uniform_filter(lines.astype(np.float32), 8 * thickness + 1)
    lines &= around < _CROWDED
    return lines.repeat(step, axis=0).repeat(step, axis=1)[:height, :width]


def _pixels(labels: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Pixels of each class, and, last, of what is no class."""
    count = len(vocabulary.classes)
    return np.bincount(np.where((labels >= 0) & (labels < count), labels, count).ravel(), minlength=count + 1)


def _largest_first(pixels: np.ndarray) -> list[int]:
    """Ids of the classes that occur, of :func:`_pixels`."""
    return [int(part) for part in np.argsort(-pixels[:-1], kind="stable") if pixels[part]]


def _show(ax: Axes, picture: np.ndarray, title: str) -> None:
    ax.imshow(picture)
    ax.set_axis_off()
    ax.set_title(title)


def _legend_word(word: str) -> str:
    """A word as a legend shows it; matplotlib leaves out labels that begin with an underscore."""
    return " " * word.startswith("_") + wrapped(word, _WORD)


def _columns_below(words: Sequence[int], width: float) -> int:
    return max(1, min(len(words), int(width / 1.75)))


def _legend_height(words: Sequence[int], width: float) -> float:
    return 0.3 + 0.2 * -(-(min(len(words), _LEGEND_WORDS) + 4) // _columns_below(words, width))


def _legend(
    figure: Figure, words: Sequence[int], vocabulary: Vocabulary, place: str, columns: int, more: Sequence[Patch] = ()
) -> None:
    colours, names = class_colours(vocabulary) / 255, vocabulary.classes
    handles = [Patch(color=colours[part], label=_legend_word(names[part])) for part in words[:_LEGEND_WORDS]]
    if len(words) > _LEGEND_WORDS:
        handles.append(Patch(color="none", label=f"and {len(words) - _LEGEND_WORDS} smaller"))
    handles += more
    if handles:
        spacing = {"handlelength": 1.2, "handleheight": 1.0, "columnspacing": 1.2, "labelspacing": 0.35}
        figure.legend(handles=handles, loc=place, ncols=max(1, columns), **spacing)
