"""From an image and its objects to scores: both stages, one object at a time, what they share computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.data.dataset import ObjectRegion
from ovparts_lib.data.transforms import LabelResize, resize_image, resize_labels, shortest_edge_size
from ovparts_lib.systems.scores import PartScores
from ovparts_lib.systems.zsseg_plus.ensemble import allowed_classes, ensembled, region_map
from ovparts_lib.systems.zsseg_plus.maps import Naming, ProposalMaps
from ovparts_lib.systems.zsseg_plus.objects import find_objects
from ovparts_lib.systems.zsseg_plus.prompt_learner import class_pairs
from ovparts_lib.systems.zsseg_plus.proposals import ImageFeatures, class_map, normalised, padded, padded_size
from ovparts_lib.systems.zsseg_plus.regions import cut_object, dense_features, pool_regions, region_logits, squashed
from ovparts_lib.vocabularies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ovparts_lib.systems.zsseg_plus.model import ZssegPlus

Stage2Object = Literal["own", "first_as_released"]


@dataclass(frozen=True)
class PreparedImage:
    """An image resized for stage 1, with everything that does not depend on an object.

    Attributes:
        pixels: uint8 (3, h, w) RGB.
        features: of this one image.
        padded_size: (hp, wp).
        image_size: (height, width) of the image as it was given.
    """

    pixels: Tensor
    features: ImageFeatures
    padded_size: tuple[int, int]
    image_size: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return tuple(self.pixels.shape[-2:])


def prepare_image(model: ZssegPlus, image: Tensor) -> PreparedImage:
    """Resize an image, uint8 (3, H, W) RGB, and encode it for stage 1."""
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"an image is {image.dtype} of shape {tuple(image.shape)}; wanted uint8 (3, height, width)")
    image_size = tuple(image.shape[-2:])
    size = shortest_edge_size(*image_size, model.size.shortest_edge, model.size.longest_edge)
    pixels = resize_image(image, tuple(max(1, side) for side in size)).to(model.device)
    features = model.encode_images(normalised([pixels], model.device))
    return PreparedImage(pixels, features, padded_size([pixels]), image_size)


def resized_mask(region: ObjectRegion, image: PreparedImage, rule: LabelResize) -> Tensor:
    """A region's mask at the size of stage 1, bool (h, w); a region between the sampled pixels keeps those it touches.

    Raises:
        ValueError: the region is empty or does not fit the image.
    """
    whole = torch.zeros(image.image_size, dtype=torch.uint8)
    if whole[region.box].shape != region.mask.shape or not region.mask.any():
        raise ValueError(
            f"a region of {tuple(region.mask.shape)} pixels at row {region.top}, column {region.left} "
            f"{'does not fit' if region.mask.any() else 'is empty in'} an image of {image.image_size} (height, width)"
        )
    whole[region.box] = region.mask.to(whole)
    mask = resize_labels(whole, image.size, rule) > 0
    if not mask.any():
        mask = F.adaptive_max_pool2d(whole[None].float(), image.size)[0] > 0
    return mask.to(image.pixels.device)


def name_regions(
    model: ZssegPlus,
    pixels: Tensor,
    labels: Tensor,
    object_mask: Tensor,
    texts: Tensor,
    vocabulary: Vocabulary,
    allowed: Sequence[int],
) -> Naming:
    """Stage 2: one dense CLIP pass over the object's crop names every region inside the object.

    Args:
        model: has CLIP and the prompts.
        pixels: uint8 (3, h, w) RGB.
        labels: int64 (h, w), which region a pixel belongs to.
        object_mask: bool (h, w).
        texts: (classes, embed_dim).
        vocabulary: of the classes.
        allowed: the classes that compete.
    """
    crop = cut_object(pixels, object_mask, labels, model.size.crop_side)
    region_ids = tuple(labels[object_mask].unique().tolist())
    features = pool_regions(dense_features(model.clip, crop.pixels[None])[0], crop, region_ids)
    chosen, pairs = list(allowed), class_pairs(vocabulary)
    logits = region_logits(
        model.clip, model.prompt_learner, features, texts[chosen], [pairs[number] for number in chosen]
    )
    return Naming(region_ids, logits.softmax(-1), crop.box)


def score_object(
    model: ZssegPlus,
    image: PreparedImage,
    logits: Tensor,
    mask_logits: Tensor,
    mask: Tensor,
    stage2: tuple[Tensor, int],
    vocabulary: Vocabulary,
    texts: Tensor,
    class_ids: Sequence[int],
    inspected: bool,
) -> tuple[Tensor, ProposalMaps | None]:
    """Both stages on one object.

    Args:
        model: the system.
        image: the object's.
        logits: (queries, classes + 1), of stage 1.
        mask_logits: (queries, hp / 4, wp / 4), of stage 1.
        mask: bool (h, w), the object.
        stage2: mask and class of the object that stage 2 is told.
        vocabulary: of the classes.
        texts: (classes, embed_dim).
        class_ids: the classes that are scored.
        inspected: also return what can be looked at.

    Returns:
        float32 (len(class_ids), h, w), 0 for classes that may not be found on the object; and the maps.
    """
    allowed = allowed_classes(vocabulary, stage2[1], model.class_rule)
    probabilities = logits.softmax(-1)
    # semantic inference: which class wins where makes the regions
    kept = [number for number in class_ids if model.ensemble == "stage1" or number in allowed]
    labels, scores = class_map(probabilities[:, :-1], mask_logits, image.size, image.padded_size, kept)
    naming = None
    if model.ensemble != "stage1":
        # CLIP names the regions, and both stages are joined
        naming = name_regions(model, image.pixels, labels, stage2[0], texts, vocabulary, allowed)
        columns = [allowed.index(number) for number in kept]
        clip = region_map(labels, naming.region_ids, naming.probabilities[:, columns])
        seen = [vocabulary.is_seen_part(number) for number in kept]
        scores = clip if model.ensemble == "clip" else ensembled(scores, clip, seen, model.ensemble_weight)
    values = scores
    if len(kept) < len(class_ids):
        values = scores.new_zeros(len(class_ids), *image.size)
        values[[list(class_ids).index(number) for number in kept]] = scores
    if not inspected:
        return values, None
    full = F.interpolate(mask_logits[None], size=image.padded_size, mode="bilinear", align_corners=False)[0]
    full = full[:, : image.size[0], : image.size[1]].sigmoid()
    masks = F.adaptive_avg_pool2d(full, tuple(-(-side // 4) for side in image.size))
    return values, ProposalMaps(masks, probabilities, mask, labels, naming, allowed)


def score_image(
    model: ZssegPlus,
    image: Tensor,
    vocabulary: Vocabulary,
    texts: Tensor,
    class_ids: Sequence[int],
    regions: Sequence[ObjectRegion] | None,
    first: ObjectRegion | None,
    inspected: bool,
) -> list[tuple[PartScores, list[ProposalMaps]]]:
    """Scores of one image, per region, or of the objects that are found in it.

    Args:
        model: the system.
        image: uint8 (3, H, W) RGB.
        vocabulary: of the classes.
        texts: (classes, embed_dim).
        class_ids: the classes that are scored.
        regions: the objects; None to find them.
        first: the region that stage 2 uses for all, if the model does as released.
        inspected: also return what can be looked at.
    """
    prepared = prepare_image(model, image)
    if regions is None:
        masks = _found(model, prepared, texts, vocabulary)
    else:
        masks = [(region.object_id, resized_mask(region, prepared, model.label_resize)) for region in regions]
    results = []
    if masks:
        # stage 1 on all objects of the image at once
        prompts = torch.stack([padded(mask.float(), prepared.padded_size) for _, mask in masks])
        proposals = model.propose(prepared.features, prompts, last_only=True)
        logits = model.class_logits(proposals.class_embeddings[-1], texts)
        for number, (object_id, mask) in enumerate(masks):
            stage2 = (mask, object_id)
            if regions is not None and model.stage2_object == "first_as_released":
                stage2 = (resized_mask(first, prepared, model.label_resize), first.object_id)
            arguments = logits[number], proposals.mask_logits[-1, number], mask, stage2
            results.append(score_object(model, prepared, *arguments, vocabulary, texts, class_ids, inspected))
    if regions is not None:
        return [
            (PartScores(values, tuple(class_ids), None, prepared.image_size), [maps] if maps else [])
            for values, maps in results
        ]
    # every object's scores inside its mask
    whole = torch.zeros(len(class_ids), *prepared.size, device=model.device)
    background = torch.ones(prepared.size, device=model.device)
    for (_, mask), (values, _) in zip(masks, results, strict=True):
        whole[:, mask], background[mask] = values[:, mask], 0.0
    scores = PartScores(whole, tuple(class_ids), background, prepared.image_size)
    return [(scores, [maps for _, maps in results if maps])]


def _found(
    model: ZssegPlus, image: PreparedImage, texts: Tensor, vocabulary: Vocabulary
) -> list[tuple[int, Tensor]]:
    """Objects that stage 1 without a prompt and CLIP agree upon: id and mask, bool (h, w)."""
    nothing = torch.zeros(1, *image.padded_size, device=model.device)
    proposals = model.propose(image.features, nothing, last_only=True)
    probabilities = model.class_logits(proposals.class_embeddings[-1, 0], texts).softmax(-1)[:, :-1]
    features = dense_features(model.clip, squashed(image.pixels, model.size.crop_side)[None])[0]
    mask_logits = proposals.mask_logits[-1, 0]
    return find_objects(probabilities, mask_logits, features, texts, vocabulary, image.size, image.padded_size)
