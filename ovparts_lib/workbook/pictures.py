"""Pictures of what a system did on test images: errors, attention, cost maps, proposals."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ovparts_lib import inspection
from ovparts_lib.data.dataset import EvaluationSample
from ovparts_lib.evaluation.label_maps import oracle_map, pred_all_map
from ovparts_lib.inspection import Panel
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary

WORDS_WITH_ATTENTION = 4  # per picture; one word's maps take 11 MiB in the released size


def comparison_panels(model: nn.Module, dataset: Any, count: int) -> Iterator[Panel]:
    """Ground truth, prediction and error of a few test images, in each mode that the dataset has.

    Args:
        model: the system.
        dataset: an :class:`~ovparts_lib.data.dataset.EvaluationDataset`.
        count: images shown, of seen and unseen objects in turn.
    """
    vocabulary = dataset.vocabulary
    samples = [dataset[index] for index in chosen_images(dataset, count)]
    scores = [model.predict([sample.image], vocabulary)[0] for sample in samples]
    predictions = {"pred_all": [pred_all_map(found, vocabulary=vocabulary) for found in scores]}
    if isinstance(vocabulary, PartVocabulary):
        predictions["oracle_obj"] = [
            oracle_prediction(of_records(model, sample, vocabulary, found), sample, vocabulary)
            for found, sample in zip(scores, samples, strict=True)
        ]
    images, truths = [sample.image for sample in samples], [sample.part_map for sample in samples]
    names = [sample.image_id for sample in samples]
    for mode, maps in predictions.items():
        yield inspection.comparison(images, truths, [label_map.cpu() for label_map in maps], vocabulary, names, mode)


def of_records(model: nn.Module, sample: Any, vocabulary: PartVocabulary, scores: Scores) -> list[Scores]:
    """Scores for each record of a sample: those of the image, unless they depend on the record's object."""
    if model.needs_regions:
        return model.predict([sample.image], vocabulary, regions=[sample.regions])
    return [scores] * len(sample.regions)


def oracle_prediction(scores: Sequence[Scores], sample: Any, vocabulary: PartVocabulary) -> Tensor:
    """The oracle-obj label maps of all records of an image in one map, later ones on top; the ignore label outside."""
    labels = torch.full_like(sample.part_map, vocabulary.ignore_label)
    for region, found in zip(sample.regions, scores, strict=True):
        predicted = oracle_map(found, region.object_id, vocabulary).cpu()[region.box]
        labels[region.box] = torch.where(region.mask, predicted, labels[region.box])
    return labels


def inspection_panels(model: nn.Module, dataset: Any, count: int) -> Iterator[Panel]:
    """What the system can show of the largest labelled classes of a few test images; see :func:`image_panels`."""
    for index in chosen_images(dataset, count):
        sample = dataset[index]
        largest = largest_classes(sample.part_map, dataset.vocabulary)
        given = {"sample": sample} if model.needs_regions else {}
        yield from image_panels(model, sample.image, dataset.vocabulary, largest, sample.image_id, **given)


def image_panels(
    model: nn.Module,
    image: Tensor,
    vocabulary: Vocabulary,
    class_ids: list[int],
    name: str,
    *,
    sample: Any = None,
    masks: Tensor | None = None,
) -> Iterator[Panel]:
    """What a system can show of one image: cost maps, proposals, attention.

    Args:
        model: the system.
        image: uint8 (3, H, W) RGB.
        vocabulary: the words.
        class_ids: of the classes to look at, of which the first few are shown; at least one.
        name: of the picture.
        sample: the image's labels, for a system that is told the object; without, it finds the objects.
        masks: bool (k, H, W), in place of a system's own proposals.
    """
    if model.needs_regions:
        yield from region_panels(model, image, vocabulary, name, sample)
        return
    given = {} if masks is None else {"masks": [masks]}
    shown = class_ids[:WORDS_WITH_ATTENTION] or None
    scores, maps = model.inspect([image], vocabulary, class_ids=shown, background=False, **given)[0]
    for kind, generic in (("generic_cost", True), ("cost", False)):
        if kind in maps:
            yield inspection.cost_maps(image, scores, maps[kind], name, generic=generic)
            if maps[kind].class_attention:
                yield inspection.class_attention(maps[kind], name, generic=generic)
    if "proposals" in maps:
        yield inspection.opinions(maps["proposals"], name, maps.get("calibration"))
    attention = maps.get("attention")
    if attention is not None and attention.decoder:
        yield inspection.decoder_attention(image, scores, attention, name)
    if attention is not None and attention.clip:
        yield inspection.clip_attention(image, scores, attention, name)


def region_panels(
    model: nn.Module, image: Tensor, vocabulary: PartVocabulary, name: str, sample: EvaluationSample | None
) -> Iterator[Panel]:
    """Masks that a two-stage system proposes for an object, and the regions they make, as both stages call them.

    Args:
        model: a system that needs regions.
        image: uint8 (3, H, W) RGB.
        vocabulary: the words.
        name: of the picture.
        sample: the image's labels, whose first record is shown; None: the objects that the system finds.
    """
    regions, truth, of = None, None, ""
    if sample is not None:
        region = sample.regions[0]
        regions, of = [[region]], f", {vocabulary.objects[region.object_id]}"
        truth = torch.full_like(sample.part_map, vocabulary.ignore_label)
        truth[region.box] = torch.where(region.mask, sample.part_map[region.box], vocabulary.ignore_label)
    _, maps = model.inspect([image], vocabulary, regions=regions)[0]
    captions = {
        "proposals": "Queries of stage 1, those that count most first: mask, best class and its probability, quality.",
        "regions": "Regions where one class wins over all queries, as CLIP is shown them, and what either stage says.",
    }
    for kind, caption in captions.items():
        title = f"{kind.capitalize()}: {name}{of}"
        if kind not in maps:
            yield Panel(f"{kind}_{name}", title=title, caption="no object found")
            continue
        table = inspection.proposal_table(maps[kind], truth, len(vocabulary.parts))
        yield inspection.proposal_grid(maps[kind], table, f"{kind}_{name}", title, caption)


def largest_classes(label_map: Tensor, vocabulary: Vocabulary) -> list[int]:
    """Ids of the classes that are labelled in a map (H, W), the one with most pixels first."""
    labels, pixels = torch.unique(label_map, return_counts=True)
    return [int(number) for number in labels[pixels.argsort(descending=True)] if number < len(vocabulary.classes)]


def chosen_images(dataset: Any, count: int) -> list[int]:
    """Indices of test images to show: images of unseen and of seen objects in turn, spread over the dataset."""
    of_parts = isinstance(dataset.vocabulary, PartVocabulary)
    number = min(len(dataset), 8 * count if of_parts else count)
    spread = np.unique(np.linspace(0, len(dataset) - 1, number).astype(int)).tolist()
    if not of_parts:
        return spread
    unseen = set(dataset.vocabulary.unseen_object_ids)
    groups: dict[bool, list[int]] = {True: [], False: []}
    for index in spread:
        groups[bool(unseen & set(dataset.object_ids(index)))].append(index)
    turns = [group[position] for position in range(len(spread)) for group in groups.values() if position < len(group)]
    return turns[:count]
