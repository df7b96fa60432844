"""Pictures of what a system did on test images: errors and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ovparts_lib import inspection
from ovparts_lib.atomic import safe_name
from ovparts_lib.evaluation import oracle_map, pred_all_map
from ovparts_lib.systems.proposals import CalibrationMaps, ProposalMaps
from ovparts_lib.systems.scores import AttentionMaps, CostMaps, Maps, Scores
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary
from ovparts_lib.workbook.data import PartData
from ovparts_lib.workbook.output import RunOutput

WORDS_WITH_ATTENTION = 4  # per picture; one word's maps take 11 MiB in the released size


def comparison_figures(model: nn.Module, data: PartData, params: Any, output: RunOutput) -> None:
    """Ground truth, prediction and error of a few test images, seen and unseen objects in turn, in both modes."""
    vocabulary = data.evaluation.vocabulary
    samples = [data.evaluation[index] for index in chosen_images(data, params.comparison_images)]
    scores = [model.predict([sample.image], vocabulary)[0] for sample in samples]
    truths = [sample.part_map if data.of_parts else sample.label_map for sample in samples]
    predictions = {"pred_all": [pred_all_map(found, vocabulary=vocabulary) for found in scores]}
    if data.of_parts:
        predictions["oracle_obj"] = [
            oracle_prediction(of_records(model, sample, vocabulary, found), sample, vocabulary)
            for found, sample in zip(scores, samples, strict=True)
        ]
    captions = {
        "oracle_obj": "Objects and their masks are given; only an object's own parts compete inside it.",
        "pred_all": "Nothing is given; all classes compete everywhere, and 'none of them' where a system has that.",
    }
    for mode, maps in predictions.items():
        tables = [
            inspection.comparison_table(truth, label_map.cpu(), vocabulary).assign(image=sample.image_id)
            for sample, truth, label_map in zip(samples, truths, maps, strict=True)
        ]
        output.figure(
            inspection.comparison_grid(
                [sample.image for sample in samples],
                truths,
                [label_map.cpu() for label_map in maps],
                vocabulary,
                titles=[sample.image_id for sample in samples],
            ),
            f"comparison_{mode}",
            title=f"Ground truth, prediction, error: {mode.replace('_', '-')}",
            caption=f"{captions[mode]} Green is right, red is wrong, grey has no label.",
            data=pd.concat(tables, ignore_index=True),
        )


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


def attention_figures(model: nn.Module, data: PartData, params: Any, output: RunOutput) -> None:
    """Attention and cost maps for the labelled parts of a few test images, as far as the system has them."""
    vocabulary = data.evaluation.vocabulary
    for index in chosen_images(data, params.attention_images):
        sample = data.evaluation[index]
        if model.needs_regions:
            show_proposals(model, sample.image, vocabulary, sample.image_id, output, sample)
            continue
        largest = largest_classes(sample.part_map if data.of_parts else sample.label_map, vocabulary)
        show_attention(model, sample.image, vocabulary, largest, sample.image_id, output)


def largest_classes(label_map: Tensor, vocabulary: Vocabulary) -> list[int]:
    """Ids of the classes that are labelled in a map (H, W), the one with most pixels first."""
    labels, pixels = torch.unique(label_map, return_counts=True)
    return [int(number) for number in labels[pixels.argsort(descending=True)] if number < len(vocabulary.classes)]


def show_attention(
    model: nn.Module, image: Tensor, vocabulary: Vocabulary, class_ids: list[int], name: str, output: RunOutput
) -> tuple[Scores, Maps]:
    """What the system can show of the first few words on one image: attention, cost maps; each with its data as CSV.

    Returns:
        The scores of those words, and the maps that were drawn.
    """
    shown = class_ids[:WORDS_WITH_ATTENTION]
    scores, maps = model.inspect([image], vocabulary, class_ids=shown, background=False)[0]
    if "generic_cost" in maps:
        of = ("_generic", ", generic parts and objects")
        show_cost(image, scores, maps["generic_cost"], name, output, of, words=maps["generic_cost"].queries)
    if "cost" in maps:
        show_cost(image, scores, maps["cost"], name, output)
    if "proposals" in maps:
        show_opinions(maps["proposals"], name, output)
    if "calibration" in maps:
        show_calibration(maps["proposals"], maps["calibration"], name, output)
    attention = maps.get("attention")
    if attention is not None and attention.decoder:
        output.figure(
            inspection.decoder_attention(image, scores, attention),
            f"attention_decoder_{name}",
            title=f"Decoder attention: {name}",
            caption="Where the decoder looks from the patch in which the word scores highest, layer by layer.",
            data=decoder_attention_data(scores, attention),
        )
    if attention is not None and attention.clip:
        output.figure(
            inspection.clip_attention(image, scores, attention, source="peak"),
            f"attention_clip_{name}",
            title=f"CLIP attention: {name}",
            caption="Where CLIP's image tower looks from the patch in which the best word peaks, block by block.",
            data=clip_attention_data(scores, attention),
        )
    return scores, maps


def show_opinions(proposals: ProposalMaps, name: str, output: RunOutput) -> None:
    """The masks that count most on a picture: mask, crop, and what the proposal network, CLIP and both together say."""
    table = inspection.opinion_table(proposals)
    output.figure(
        inspection.opinions(proposals, table),
        f"proposals_{name}",
        title=f"Mask proposals: {name}",
        caption="Masks that count most; the crop that CLIP is shown, blank pixels in grey; and the first classes of "
        "the proposal network (which also weighs the mask), of CLIP, and of both combined.",
        data=table,
    )


def show_proposals(
    model: nn.Module, image: Tensor, vocabulary: PartVocabulary, name: str, output: RunOutput, sample: Any = None
) -> None:
    """Masks that a two-stage system proposes, and the regions they make, each with what both stages call it.

    Args:
        model: a system that needs regions.
        image: uint8 (3, H, W) RGB.
        vocabulary: the words.
        name: of the picture.
        output: keeps the figures.
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
        if kind not in maps:
            print(f"{name}: no object found, so there are no {kind}")
            continue
        table = inspection.proposal_table(maps[kind], truth, len(vocabulary.parts))
        output.figure(
            inspection.proposal_grid(maps[kind], table),
            f"{kind}_{name}",
            title=f"{kind.capitalize()}: {name}{of}",
            caption=caption,
            data=table,
        )


def show_cost(
    image: Tensor,
    scores: Scores,
    cost: CostMaps,
    name: str,
    output: RunOutput,
    stage: tuple[str, str] = ("", ""),
    words: Sequence[str] | None = None,
) -> None:
    """Cost maps before and after aggregation, and which words attend to which.

    Args:
        image: the picture.
        scores: of the picture.
        cost: what is shown.
        name: of the picture.
        output: keeps the figures.
        stage: what is added to file names and to titles.
        words: those shown; the highest scoring ones by default.
    """
    file, of = stage
    output.figure(
        inspection.cost_maps(image, scores, cost, words=words),
        f"cost{file}_{name}",
        title=f"Cost maps{of}: {name}",
        caption="Similarity of every patch with the words (mean over prompt templates), and the scores aggregation "
        "makes of it.",
        data=inspection.cost_table(cost),
    )
    if cost.class_attention:
        table = inspection.class_attention_table(cost)
        output.figure(
            inspection.class_attention(cost),
            f"class_attention{file}_{name}",
            title=f"Class attention{of}: {name}",
            caption="How much each word (row) attends to itself and the others in the last layer of class aggregation, "
            "mean over pixels and heads; the columns behind the words are the other classes attended to most.",
            data=table.rename_axis("attending").reset_index(),
        )


def show_calibration(proposals: ProposalMaps, calibration: CalibrationMaps, name: str, output: RunOutput) -> None:
    """What SIM and CS did to the mask proposals of a picture that score most."""
    changed = inspection.changed_by_integration(calibration)
    output.figure(
        inspection.calibrated_proposals(proposals, calibration),
        f"calibration_{name}",
        title=f"Proposals, before and after calibration: {name}",
        caption="Each row is a mask proposal, its crop, and what is said of it. Grey patches of a crop hold nothing of "
        "the mask; the more layers overwrite one of them with the image's class token, the more orange it is. SIM "
        f"changed the best class of {changed} of {len(calibration.after)} proposals.",
        data=inspection.calibration_table(proposals, calibration),
    )


def save_full_size_attention(image: Tensor, scores: Scores, maps: Maps, name: str, output: RunOutput) -> None:
    """The last decoder layer's map of each word in ``scores`` over the picture, at the picture's full size."""
    attention = maps.get("attention")
    if attention is None or not attention.decoder:
        return
    last = max(attention.decoder)
    for number, word in enumerate(attention.queries):
        place = inspection.peak_patch(scores.logits[number], attention.grid)
        heat = inspection.attention_map(attention.decoder[last][number], attention.grid, place)
        file = f"{safe_name(f'attention_{name}_{word}_full')}.jpg"
        inspection.save_picture(inspection.render_heat(image, heat), output.run.figures / file)


def clip_attention_data(scores: Scores, attention: AttentionMaps) -> pd.DataFrame:
    """The maps behind the CLIP figure: block, patch row and column, attention."""
    best = int(scores.logits.amax(dim=(1, 2)).argmax())
    place = inspection.peak_patch(scores.logits[best], attention.grid)
    maps = {f"block {k}": inspection.attention_map(w, attention.grid, place) for k, w in attention.clip.items()}
    return inspection.attention_table(maps)


def decoder_attention_data(scores: Scores, attention: AttentionMaps) -> pd.DataFrame:
    """The maps behind the decoder figure: word, layer, patch row and column, attention."""
    maps = {}
    for number, word in enumerate(attention.queries):
        place = inspection.peak_patch(scores.logits[number], attention.grid)
        for layer, weights in attention.decoder.items():
            maps[f"{word}, layer {layer}"] = inspection.attention_map(weights[number], attention.grid, place)
    return inspection.attention_table(maps)


def chosen_images(data: PartData, count: int) -> list[int]:
    """Indices of test images to show: images of unseen and of seen objects in turn, spread over the dataset."""
    dataset = data.evaluation
    if not data.of_parts:
        return np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), count)).astype(int)).tolist()
    unseen = set(dataset.vocabulary.unseen_object_ids)
    spread = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), 8 * count)).astype(int)) if count else []
    groups: dict[bool, list[int]] = {True: [], False: []}
    for index in spread:
        groups[bool(unseen & set(dataset.object_ids(int(index))))].append(int(index))
    turns = [group[position] for position in range(len(spread)) for group in groups.values() if position < len(group)]
    return turns[:count]
