"""OVSeg: mask proposals classified by text, and again by a CLIP that has learned to look at masked crops.

A MaskFormer proposes masks, each with an embedding that is compared with the classes' texts and a learned "no object";
every mask is also cropped out of the image and classified by CLIP, with mask prompts in place of blank patches. The two
distributions are multiplied, and the masks' classes summed over pixels.
Source: Liang et al., "Open-Vocabulary Semantic Segmentation with Mask-adapted CLIP", CVPR 2023, and its released code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovparts_lib.data.transforms import resize_image, shortest_edge_size
from ovparts_lib.models.clip.crops import CropRule
from ovparts_lib.models.clip.prompts import TEMPLATES
from ovparts_lib.models.clip.text_cache import TextCache
from ovparts_lib.models.clip.towers import build_clip
from ovparts_lib.models.cost_aggregation.inputs import IMAGENET_STATISTICS, checked_images
from ovparts_lib.models.maskformer.losses import maskformer_losses
from ovparts_lib.models.maskformer.pixel_decoder import PixelDecoder
from ovparts_lib.models.maskformer.targets import joined_inputs, segments_of
from ovparts_lib.models.maskformer.transformer_decoder import TransformerDecoder
from ovparts_lib.systems.base import SegmentationSystem, batch_labels
from ovparts_lib.systems.ovseg.ensemble import (
    CLASSIFIERS,
    OTHERS,
    WITHOUT_CROP,
    Classifier,
    clip_classes,
    fuse_masks,
    geometric_ensemble,
    proposal_classes,
)
from ovparts_lib.systems.ovseg.regions import TEMPERATURE, Regions, encode_regions
from ovparts_lib.systems.ovseg.sizes import MINIATURE_OVSEG, RELEASED, RELEASED_R101C, OvsegSize
from ovparts_lib.systems.parameter_groups import parameter_groups
from ovparts_lib.systems.proposals import ProposalMaps, check_masks
from ovparts_lib.systems.scores import Maps, Scores, checked_class_ids
from ovparts_lib.vocabularies import Vocabulary

SIZES = {"released": RELEASED, "released_r101c": RELEASED_R101C, "miniature": MINIATURE_OVSEG}
# Beginnings of parameter names. CLIP and the mask prompts are adapted elsewhere, see `adaptation`.
TRAINABLE_GROUPS = {
    "backbone": ("backbone.",),
    "proposals": ("pixel_decoder.", "transformer_decoder."),
    "no_object": ("no_object_text",),
}
FROZEN_STAGES = ("backbone.stem.", "backbone.res2.")  # as released, of ResNets
_CROPS_AT_ONCE = {"cpu": 8, "cuda": 64}


class Ovseg(SegmentationSystem):
    """OVSeg. See the module's docstring; the proposal network trains, CLIP and the mask prompts are given.

    Args:
        size: hyper-parameters, ``RELEASED`` (Swin-B, ViT-L/14), ``RELEASED_R101C`` (ViT-B/16) or ``MINIATURE_OVSEG``.
        mask_threshold: probability above which a pixel belongs to a mask's crop; 0.4, and 0.5 with R-101c.
        classifier: ``ensemble`` of both, ``proposals`` alone (CLIP's image tower is not run), or ``clip`` alone, which
            the release calls an ensemble weight of 0: masks without a crop are then dropped.
        ensemble_weight: share of CLIP in the ensemble's exponent, above 0 and below 1.
        without_crop: see :func:`geometric_ensemble`.
        mask_prompts: use them; otherwise blank patches show the crop's fill.
        mask_expand, mask_fill, mask_matting: see :class:`CropRule`.
        fusion: ``sum`` of all soft masks; or ``best_mask``, the released demo's rule: for each class the one mask
            that fits it best, cut at the threshold, and pixels in none of them are background.
        crops_at_once: crops in one pass of CLIP; None chooses by device.
        no_object_weight: weight of unmatched queries in the class loss.
        mask_weight: weight of the focal loss.
        lr_multipliers: factors of the learning rate by trainable group; the release trains R-101c at 0.1.

    Raises:
        ValueError: an option out of its range.
    """

    groups = TRAINABLE_GROUPS
    takes_masks = True

    def __init__(
        self,
        size: OvsegSize = RELEASED,
        *,
        mask_threshold: float = 0.4,
        classifier: Classifier = "ensemble",
        ensemble_weight: float = 0.7,
        without_crop: Literal["as_released", "proposals"] = "as_released",
        mask_prompts: bool = True,
        mask_expand: float = 1.0,
        mask_fill: Literal["mean", "zero"] = "mean",
        mask_matting: bool = False,
        fusion: Literal["sum", "best_mask"] = "sum",
        crops_at_once: int | None = None,
        no_object_weight: float = 0.1,
        mask_weight: float = 20.0,
        lr_multipliers: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        for option, value, allowed in (
            ("classifier", classifier, CLASSIFIERS),
            ("without_crop", without_crop, WITHOUT_CROP),
            ("fusion", fusion, ("sum", "best_mask")),
        ):
            if value not in allowed:
                raise ValueError(f"{option} must be one of {', '.join(allowed)}, not {value!r}")
        if not 0 < ensemble_weight < 1:
            raise ValueError(
                f"ensemble_weight must be above 0 and below 1, not {ensemble_weight}; for one of both alone set "
                "classifier to 'proposals' or 'clip'"
            )
        if crops_at_once is not None and crops_at_once < 1:
            raise ValueError(f"crops_at_once must be at least 1, or None, not {crops_at_once}")
        for group in lr_multipliers or {}:
            self.beginnings(group)
        self.size, self.classifier, self.ensemble_weight = size, classifier, ensemble_weight
        self.without_crop, self.mask_prompts, self.fusion = without_crop, mask_prompts, fusion
        self.crop_rule = CropRule(mask_threshold, mask_expand, mask_fill, mask_matting)
        self.crops_at_once, self.lr_multipliers = crops_at_once, dict(lr_multipliers or {})
        self.no_object_weight, self.mask_weight = no_object_weight, mask_weight

        # proposal network
        self.backbone = size.build_backbone()
        self.pixel_decoder = PixelDecoder(self.backbone.channels, size.width, size.groups)
        self.transformer_decoder = TransformerDecoder(
            self.backbone.channels[-1],
            size.clip.embed_dim,
            width=size.width,
            queries=size.queries,
            layers=size.layers,
            heads=size.heads,
            hidden=size.hidden,
            class_hidden=size.class_hidden,
            dropout=size.dropout,
        )
        # what classifies
        self.clip = build_clip(size.clip, quick_gelu=True)
        self.mask_prompt = nn.Parameter(torch.zeros(size.prompt_depth, size.patches, size.clip.vision_width))
        self.no_object_text = nn.Parameter(torch.randn(1, size.clip.embed_dim) * size.clip.text_width**-0.5)
        self.templates = TEMPLATES[size.templates]
        self.text_cache = TextCache(synonyms=False)
        self.set_trainable(TRAINABLE_GROUPS)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.no_object_text.device

    def set_trainable(self, groups: Collection[str]) -> list[str]:
        """As in :class:`SegmentationSystem`; a ResNet's stem and first stage never train, as released."""
        names = super().set_trainable(groups)
        for name in names:
            self.get_parameter(name).requires_grad_(not name.startswith(FROZEN_STAGES))
        return [name for name in names if not name.startswith(FROZEN_STAGES)]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """What trains, for the optimiser: norms, queries and position biases without weight decay, all else with."""
        return parameter_groups(
            self,
            self.groups,
            weight_decay,
            self.lr_multipliers,
            undecayed=lambda name: name.endswith("relative_position_bias_table"),
        )

    def encode_classes(self, names: Sequence[str]) -> Tensor:
        """Text embeddings of classes, each the mean over templates, and of "no object" as the last one.

        Returns:
            float32 (names + 1, embed_dim), normalised; the names' without gradient.
        """
        text = F.normalize(self.text_cache.encode(self.clip, names, self.templates).mean(1), dim=-1)
        return torch.cat([text, F.normalize(self.no_object_text.float(), dim=-1)])

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Class, focal and dice loss of every decoder layer, matched to one mask for each class of an image.

        Args:
            batch: ``images`` (list of uint8 (3, h, w), resized, cropped and padded already), ``part_maps`` (list of
                int64 (h, w), ids of ``vocabulary`` or its ignore label), ``vocabulary``; ``image_ids``, if given, are
                used in messages. Unlabelled pixels and padding are negatives for every mask, as released.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice``, and with ``_0``, ``_1``, … of the earlier layers; weighted.

        Raises:
            ValueError: see :func:`batch_labels`.
        """
        classes = batch["vocabulary"].classes
        inputs = joined_inputs([self.normalised(image) for image in batch["images"]], self.size.divisor)
        labels = [labels.to(self.device) for labels in batch_labels(batch)]
        count = len(classes)
        segments = segments_of(labels, tuple(inputs.shape[-2:]), count=count, ignore_label=count)
        states, mask_features = self._query_states(inputs)
        return maskformer_losses(
            self._class_logits(states, self.encode_classes(classes)),
            self.transformer_decoder.mask_logits(states, mask_features),
            segments,
            mask_weight=self.mask_weight,
            no_object_weight=self.no_object_weight,
        )

    def predict(
        self,
        images: Sequence[Tensor],
        vocabulary: Vocabulary,
        *,
        class_ids: Sequence[int] | None = None,
        background: bool = True,
        regions: None = None,
        masks: Sequence[Tensor] | None = None,
    ) -> list[Scores]:
        """As in :class:`SegmentationSystem`; every class takes part in the softmax, whatever is asked for.

        A vocabulary of one word is scored against "others", which becomes the background. There also is a background
        with ``best_mask`` and with own masks: pixels in none of them.

        Args:
            images: uint8 (3, H, W) RGB each; sizes may differ.
            vocabulary: the words to look for; parts are words like any.
            class_ids: indices of the classes wanted, in that order; None for all.
            background: also give the background's scores, where there is one.
            regions: must be None.
            masks: for each image bool (k, H, W), masks of any origin in place of the proposals, which CLIP alone
                classifies.

        Raises:
            ValueError: also if masks do not fit the images.
        """
        if masks is None:
            return super().predict(images, vocabulary, class_ids=class_ids, background=background, regions=regions)
        return [scores for scores, _ in self._own_masks(images, vocabulary, class_ids, background, masks)]

    def inspect(
        self,
        images: Sequence[Tensor],
        vocabulary: Vocabulary,
        *,
        class_ids: Sequence[int] | None = None,
        background: bool = True,
        regions: None = None,
        masks: Sequence[Tensor] | None = None,
    ) -> list[tuple[Scores, Maps]]:
        """As :meth:`predict`, and under ``proposals`` what was said of each mask, see :class:`ProposalMaps`."""
        if masks is None:
            return super().inspect(images, vocabulary, class_ids=class_ids, background=background, regions=regions)
        return self._own_masks(images, vocabulary, class_ids, background, masks)

    @torch.inference_mode()
    def _own_masks(
        self,
        images: Sequence[Tensor],
        vocabulary: Vocabulary,
        class_ids: Sequence[int] | None,
        background: bool,
        masks: Sequence[Tensor],
    ) -> list[tuple[Scores, Maps]]:
        check_masks(masks, images)
        self.check_vocabulary(vocabulary)
        return self.score(images, vocabulary, checked_class_ids(class_ids, vocabulary), background, True, masks)

    def score(
        self,
        images: Sequence[Tensor],
        vocabulary: Vocabulary,
        class_ids: tuple[int, ...],
        background: bool,
        inspected: bool,
        masks: Sequence[Tensor] | None = None,
    ) -> list[tuple[Scores, Maps]]:
        """Scores of soft masks and their classes, at the size of test pictures; the maps are ``proposals``."""
        names = vocabulary.classes
        classes = names if len(names) > 1 else (*names, OTHERS)
        text, results = self.encode_classes(classes), []
        for number, image in enumerate(checked_images(images)):
            maps = self._classified(image, classes, text, None if masks is None else masks[number])
            scores = fuse_masks(
                maps,
                tuple(image.shape[-2:]),
                class_ids,
                cut_at=self.crop_rule.threshold if self.fusion == "best_mask" else None,
                background=background,
                single=len(names) == 1,
            )
            results.append((scores, {"proposals": maps} if inspected else {}))
        return results

    def propose(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Mask proposals of one image and their class logits.

        Args:
            image: uint8 (3, h, w), resized already.
            text: (n + 1, embed_dim), of :meth:`encode_classes`.

        Returns:
            Probabilities float32 (queries, h, w), and logits (queries, n + 1).
        """
        inputs = joined_inputs([self.normalised(image)], self.size.divisor)
        states, mask_features = self._query_states(inputs)
        logits = self.transformer_decoder.mask_logits(states[-1], mask_features)
        del mask_features
        enlarged = F.interpolate(logits.float(), size=inputs.shape[-2:], mode="bilinear", align_corners=False)
        return enlarged[0, :, : image.shape[-2], : image.shape[-1]].sigmoid_(), self._class_logits(states[-1], text)[0]

    def encode_regions(
        self, image: Tensor, masks: Tensor, *, prompts: bool | None = None, rule: CropRule | None = None
    ) -> Regions:
        """CLIP embeddings of the crops of masks.

        Args:
            image: (3, h, w).
            masks: (k, h, w), probabilities or bool.
            prompts: use the mask prompts; None for the option ``mask_prompts``.
            rule: how masks become crops; None for that of the options.
        """
        prompts = self.mask_prompts if prompts is None else prompts
        return encode_regions(
            self.clip.visual,
            image.to(self.device),
            masks,
            rule or self.crop_rule,
            prompts=self.mask_prompt if prompts and len(self.mask_prompt) else None,
            at_once=self.crops_at_once or _CROPS_AT_ONCE.get(self.device.type, 8),
        )

    def combine(self, proposals: Tensor | None, clip: Tensor | None, regions: Regions | None) -> Tensor:
        """What each mask counts for each class, (k, n).

        Args:
            proposals: P, (k, n); None for a user's own masks, which CLIP alone classifies.
            clip: Q, (v, n), and
            regions: the masks it was asked about; None where it was not.
        """
        if regions is None:
            return proposals
        if proposals is not None and self.classifier == "ensemble":
            return geometric_ensemble(proposals, clip, regions.valid, self.ensemble_weight, self.without_crop)
        combined = clip.new_zeros(len(regions.valid), clip.shape[1])
        combined[regions.valid] = clip
        return combined

    def _classified(self, image: Tensor, classes: tuple[str, ...], text: Tensor, own: Tensor | None) -> ProposalMaps:
        """Masks of one image with everything that is said of them."""
        image = self.resized(image)
        # masks, with the proposal network's classes
        proposals, clip, regions = None, None, None
        if own is None:
            masks, logits = self.propose(image, text)
            proposals = proposal_classes(logits)
        else:
            masks = F.interpolate(own[None].to(self.device, torch.float32), size=image.shape[-2:], mode="nearest")[0]
        # CLIP's classes of the crops
        if own is not None or self.classifier != "proposals":
            regions = self.encode_regions(image, masks)
            clip = clip_classes(TEMPERATURE * regions.embeddings @ text.T)
        combined = self.combine(proposals, clip, regions)
        valid, boxes = (None, None) if regions is None else (regions.valid, regions.boxes)
        return ProposalMaps(image, masks, proposals, clip, valid, boxes, combined, classes, self.crop_rule.threshold)

    def resized(self, image: Tensor) -> Tensor:
        """An image uint8 (3, h, w) at the size of a test picture."""
        size = shortest_edge_size(*image.shape[-2:], self.size.shortest_edge, self.size.longest_edge)
        return resize_image(image, size)

    def normalised(self, image: Tensor) -> Tensor:
        """An image (3, h, w) as the proposal network takes it."""
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in IMAGENET_STATISTICS)
        return (image.to(self.device).float() - mean) / std

    def _query_states(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """States of the queries after each layer (layers, b, queries, width), and mask features at stride 4."""
        features = self.backbone(inputs)
        return self.transformer_decoder(features[-1]), self.pixel_decoder(features)

    def _class_logits(self, states: Tensor, text: Tensor) -> Tensor:
        embeddings = self.transformer_decoder.class_embed(states).float()
        return TEMPERATURE * (embeddings / embeddings.norm(dim=-1, keepdim=True)) @ text.T
