"""Own photographs and own words: scores, overlays, score maps and attention, without any annotation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ovparts_lib import inspection
from ovparts_lib.checkpoints.reading import LoadReport
from ovparts_lib.checkpoints.systems import load_system as read_system
from ovparts_lib.data import read_image
from ovparts_lib.evaluation import pred_all_map
from ovparts_lib.models.scores import PartScores
from ovparts_lib.runs import resolve_path
from ovparts_lib.vocabularies import Vocabulary
from ovparts_lib.workbook.output import RunOutput
from ovparts_lib.workbook.systems import describe_weights, device_of


@dataclass(frozen=True)
class View:
    """One photograph as a system sees it.

    Attributes:
        name: the file's name without extension, made unique.
        image: uint8 (3, H, W) RGB.
        scores: a score map per word, and attention if it was asked for.
        label_map: int64 (H, W), the winning word per pixel; ``len(words.parts)`` where none of them wins.
    """

    name: str
    image: Tensor
    scores: PartScores
    label_map: Tensor


def load_system(params: Any, output: RunOutput) -> tuple[nn.Module, LoadReport]:
    """The system whose weights ``params.model`` names, on the run's device.

    Raises:
        CheckpointError: nothing there, or a file that does not fit.
    """
    clip_path = resolve_path(params.clip_weights) if params.clip_weights else None
    model, report = read_system(resolve_path(params.model), clip_path)
    output.note(weights=describe_weights(report, []))
    return model.to(device_of(params)).eval(), report


def own_words(params: Any, output: RunOutput) -> Vocabulary:
    """The words as a vocabulary, in the order given."""
    words = Vocabulary.from_words(params.words)
    output.note(vocabulary_hash=words.hash, words=list(words.parts))
    return words


def look_at_images(model: nn.Module, words: Vocabulary, params: Any) -> list[View]:
    """Score every photograph; attention is kept only if ``params.attention`` says so.

    Raises:
        DatasetError: a photograph is missing or damaged.
    """
    views, names = [], set()
    for number, source in enumerate(params.images):
        image = read_image(resolve_path(source))
        name = Path(source).stem
        name = name if name not in names else f"{name}_{number}"
        names.add(name)
        scores = model.predict([image], words, background=params.background, keep_attention=params.attention)[0]
        views.append(View(name, image, scores, pred_all_map(scores).cpu()))
    return views
