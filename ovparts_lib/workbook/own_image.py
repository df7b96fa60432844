"""Own photographs and own words: scores, overlays, score maps and attention, without any annotation."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets
import torch
from IPython.display import display
from torch import Tensor, nn

from ovparts_lib import inspection
from ovparts_lib.atomic import safe_name
from ovparts_lib.checkpoints.reading import LoadReport
from ovparts_lib.data.labels import read_image, read_masks
from ovparts_lib.evaluation.label_maps import pred_all_map
from ovparts_lib.images import write_picture
from ovparts_lib.inspection import Panel
from ovparts_lib.progress_bar import is_attended
from ovparts_lib.runs import resolve_path
from ovparts_lib.runs.parameters import OwnImageParameters
from ovparts_lib.systems.registry import SYSTEMS, system_of, untrained
from ovparts_lib.systems.registry import load_system as read_system
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import PartVocabulary
from ovparts_lib.workbook.output import RunOutput
from ovparts_lib.workbook.pictures import image_panels
from ovparts_lib.workbook.systems import describe_weights, device_of, weight_hashes

WORDS_PER_FIGURE = 12


@dataclass(frozen=True)
class View:
    """One photograph as a system sees it.

    Attributes:
        name: the file's name without extension, made unique.
        image: uint8 (3, H, W) RGB.
        scores: a score map per word.
        label_map: int64 (H, W), the winning word per pixel; ``len(words.parts)`` where none of them wins.
        masks: bool (k, H, W), the user's own; None for what the system finds.
    """

    name: str
    image: Tensor
    scores: Scores
    label_map: Tensor
    masks: Tensor | None = None


def load_system(params: OwnImageParameters, output: RunOutput) -> tuple[nn.Module, LoadReport]:
    """The system whose weights ``params.model`` names, on the run's device.

    What a file lacks, if ``params.allow_untrained`` takes such a file, is drawn from ``params.seed`` and named in a
    warning.

    Raises:
        CheckpointError: nothing there, a file that does not fit, or one that does not hold all of its system.
    """
    torch.manual_seed(params.seed)
    clip_path = resolve_path(params.clip_weights) if params.clip_weights else None
    path = resolve_path(params.model)
    asked = {"templates": (params.templates, None), "test_shortest_edge": (params.test_shortest_edge, "as_trained")}
    options = {name: value for name, (value, default) in asked.items() if value != default}
    model, report = read_system(path, clip_path, allow_untrained=params.allow_untrained, **options)
    if report.initialised:
        print(f"Warning: {untrained(report, system_of(model))}: scores and maps that depend on them mean nothing.")
    output.note(weights=describe_weights(report), weight_hashes=weight_hashes(params))
    return model.to(device_of(params)).eval(), report


def look_at_images(
    model: nn.Module,
    words: PartVocabulary,
    images: Sequence[str],
    *,
    background: bool = True,
    masks: Sequence[str] | None = None,
) -> list[View]:
    """Score every word on every photograph.

    Args:
        model: the system.
        words: what to look for.
        images: files.
        background: also offer "none of these words".
        masks: own masks of each photograph, see :func:`ovparts_lib.data.labels.read_masks`, for a system that takes
            them in place of its proposals.

    Raises:
        DatasetError: a photograph or its masks are missing or damaged.
        ValueError: masks for a system that has no proposals, or for another number of photographs.
    """
    if masks is not None and "masks" not in model.image_inputs:
        able = ", ".join(system.title for system in SYSTEMS.values() if "masks" in system.model_class.image_inputs)
        raise ValueError(
            f"{system_of(model).title} classifies no mask proposals, so own masks cannot replace them; take {able}, or "
            "leave masks out"
        )
    if masks is not None and len(masks) != len(images):
        raise ValueError(f"masks: {len(masks)} given for {len(images)} photographs; give a folder or file for each")
    views = []
    for number, (source, name) in enumerate(zip(images, unique_names(images), strict=True)):
        image = read_image(resolve_path(source))
        own = None if masks is None else read_masks(resolve_path(masks[number]), tuple(image.shape[-2:]))
        given: dict[str, Any] = {} if own is None else {"masks": [own]}
        scores = model.predict([image], words, background=background, **given)[0]
        views.append(View(name, image, scores, pred_all_map(scores, vocabulary=words).cpu(), own))
    return views


def unique_names(files: Sequence[str]) -> list[str]:
    """The files' names without extension; where two look the same, in whatever case, all of them behind numbers."""
    stems = [Path(file).stem for file in files]
    if len({unicodedata.normalize("NFKC", stem).casefold() for stem in stems}) == len(stems):
        return stems
    return [f"{number}_{stem}" for number, stem in enumerate(stems, 1)]


def overlay_panels(views: Sequence[View], words: PartVocabulary) -> Iterator[Panel]:
    """Which word wins where: a figure with a legend per photograph."""
    return (inspection.overlay(view.image, view.label_map, words, view.name) for view in views)


def save_overlays(views: Sequence[View], words: PartVocabulary, folder: Path) -> None:
    """The overlay of each photograph alone at its full size, ``overlay_<name>_full.png``."""
    for view in views:
        painted = inspection.render_overlay(view.image, view.label_map, inspection.class_colours(words))
        write_picture(folder / f"{safe_name(f'overlay_{view.name}_full')}.png", painted, compress_level=1)


def score_panels(views: Sequence[View], words: PartVocabulary) -> Iterator[Panel]:
    """A score map per word, in the order given."""
    for view in views:
        for start in range(0, len(words.parts), WORDS_PER_FIGURE):
            number = f"_{start // WORDS_PER_FIGURE + 1}" if len(words.parts) > WORDS_PER_FIGURE else ""
            chosen = words.parts[start : start + WORDS_PER_FIGURE]
            name = f"{view.name}{number}"
            yield inspection.score_maps(view.image, view.scores, words.parts, name, chosen=chosen)


def view_panels(model: nn.Module, views: Sequence[View], words: PartVocabulary) -> Iterator[Panel]:
    """What the system can show of the highest scoring words of each photograph: attention, cost maps, proposals."""
    for view in views:
        peaks = view.scores.class_maps().amax(dim=(1, 2))
        best = [view.scores.class_ids[int(index)] for index in peaks.argsort(descending=True)]
        yield from image_panels(model, view.image, words, best, view.name, masks=view.masks)


def browse(views: Sequence[View], words: PartVocabulary) -> ipywidgets.interactive | None:
    """The scores of any word over any photograph, drawn when they are asked for, where a person runs the notebook.

    An executed notebook keeps figures but not what a menu would show, so the first figure stays in it.

    Returns:
        The viewer; None where the first photograph, with the first word, was displayed.
    """

    def draw(photograph: int, word: str) -> None:
        view = views[photograph]
        panel = inspection.score_maps(view.image, view.scores, words.parts, view.name, chosen=[word], columns=1)
        display(panel.figure)

    if not is_attended():
        return draw(0, words.parts[0])
    photographs = [(view.name, number) for number, view in enumerate(views)]
    return ipywidgets.interactive(draw, photograph=photographs, word=list(words.parts))
