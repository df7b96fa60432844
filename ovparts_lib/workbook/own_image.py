"""Own photographs and own words: scores, overlays, score maps and attention, without any annotation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ovparts_lib import inspection
from ovparts_lib.atomic import safe_name
from ovparts_lib.checkpoints.reading import LoadReport
from ovparts_lib.data import read_image
from ovparts_lib.evaluation import pred_all_map
from ovparts_lib.runs import resolve_path
from ovparts_lib.systems.registry import load_system as read_system
from ovparts_lib.systems.registry import system_of, untrained
from ovparts_lib.systems.scores import BACKGROUND, Scores
from ovparts_lib.vocabularies import PartVocabulary
from ovparts_lib.workbook.output import RunOutput
from ovparts_lib.workbook.pictures import save_full_size_attention, show_attention, show_proposals
from ovparts_lib.workbook.systems import describe_weights, device_of

WORDS_PER_FIGURE = 12


@dataclass(frozen=True)
class View:
    """One photograph as a system sees it.

    Attributes:
        name: the file's name without extension, made unique.
        image: uint8 (3, H, W) RGB.
        scores: a score map per word.
        label_map: int64 (H, W), the winning word per pixel; ``len(words.parts)`` where none of them wins.
    """

    name: str
    image: Tensor
    scores: Scores
    label_map: Tensor


def load_system(params: Any, output: RunOutput) -> tuple[nn.Module, LoadReport]:
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
    output.note(weights=describe_weights(report, [params.model, params.clip_weights]))
    return model.to(device_of(params)).eval(), report


def own_words(params: Any, output: RunOutput) -> PartVocabulary:
    """The words as a vocabulary, in the order given."""
    words = PartVocabulary.from_words(params.words)
    output.note(vocabulary_hash=words.hash, words=list(words.parts))
    return words


def look_at_images(model: nn.Module, words: PartVocabulary, params: Any) -> list[View]:
    """Score every word on every photograph.

    Raises:
        DatasetError: a photograph is missing or damaged.
    """
    views = []
    for source, name in zip(params.images, unique_names(params.images), strict=True):
        image = read_image(resolve_path(source))
        scores = model.predict([image], words, background=params.background)[0]
        views.append(View(name, image, scores, pred_all_map(scores, vocabulary=words).cpu()))
    return views


def unique_names(files: Sequence[str]) -> list[str]:
    """The files' names without extension; one that another file has too, in whatever case, is numbered from 2."""
    stems = [Path(file).stem for file in files]
    taken, names = set[str](), []
    for stem in stems:
        numbered = (f"{stem}_{number}" for number in count(2))
        others = {other.lower() for other in stems} | taken
        name = stem if stem.lower() not in taken else next(each for each in numbered if each.lower() not in others)
        taken.add(name.lower())
        names.append(name)
    return names


def overlay_figures(views: list[View], words: PartVocabulary, output: RunOutput) -> None:
    """Which word wins where: a figure with a legend per photograph, and the overlay alone at full size."""
    colours = inspection.class_colours(words)
    for view in views:
        output.figure(
            inspection.overlay(view.image, view.label_map, words, title=view.name),
            f"overlay_{view.name}",
            title=f"Words: {view.name}",
            caption="The word with the highest score at each pixel; plain where none of the words wins.",
            data=word_table(view, words),
        )
        painted = inspection.render_overlay(view.image, view.label_map, colours)
        inspection.save_picture(painted, output.run.figures / f"{safe_name(f'overlay_{view.name}_full')}.png")


def word_table(view: View, words: PartVocabulary) -> pd.DataFrame:
    """Pixels that each word wins on a photograph, and their share of it."""
    pixels = torch.bincount(view.label_map.flatten(), minlength=len(words.parts) + 1).numpy()
    names = [*words.parts, BACKGROUND]
    return pd.DataFrame({"word": names, "pixels": pixels, "percent": 100 * pixels / pixels.sum()})


def score_map_figures(views: list[View], words: PartVocabulary, output: RunOutput) -> None:
    """A score map per word, in the order given; a table of peaks beside them."""
    for view in views:
        for start in range(0, len(words.parts), WORDS_PER_FIGURE):
            number = f"_{start // WORDS_PER_FIGURE + 1}" if len(words.parts) > WORDS_PER_FIGURE else ""
            chosen = words.parts[start : start + WORDS_PER_FIGURE]
            output.figure(
                inspection.score_maps(view.image, view.scores, words.parts, chosen=chosen),
                f"scores_{view.name}{number}",
                title=f"Score maps: {view.name}",
                caption="Sigmoid of each word's logit, all on one scale from 0 to 1.",
                data=inspection.score_table(view.scores, words.parts),
            )


def attention_of_views(
    model: nn.Module, views: list[View], words: PartVocabulary, params: Any, output: RunOutput
) -> None:
    """Attention maps for the highest scoring words of each photograph, if the parameters ask for them."""
    if not params.attention:
        print("attention maps are switched off (attention)")
        return
    for view in views:
        if model.needs_regions:
            show_proposals(model, view.image, words, view.name, output)
            continue
        peaks = view.scores.class_maps().amax(dim=(1, 2))
        best = [view.scores.class_ids[int(index)] for index in peaks.argsort(descending=True)]
        scores, maps = show_attention(model, view.image, words, best, view.name, output)
        save_full_size_attention(view.image, scores, maps, view.name, output)


def browse(views: list[View], words: PartVocabulary) -> Any:
    """A viewer with a slider over the photographs and a choice of word; plain pictures where no widgets run."""

    def draw(index: int, word: str) -> Figure:
        return inspection.score_maps(views[index].image, views[index].scores, words.parts, chosen=[word], columns=1)

    return inspection.browse(draw, [view.name for view in views], word=words.parts)
