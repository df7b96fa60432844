"""SCAN: mask proposals calibrated by CLIP's view of the whole image, and a CLIP that sees crops with their context.

A Mask2Former proposes masks, each with an embedding that SIM calibrates before it is compared with the classes' texts;
every mask is also cropped out of the image and classified by CLIP, which CS shows some of the image's context. The two
distributions are multiplied, and the masks' classes summed over pixels.
Source: Liu et al., "Open-Vocabulary Segmentation with Semantic-Assisted Calibration", CVPR 2024, and its released code.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ovparts_lib.checkpoints.clip import load_clip_into
from ovparts_lib.checkpoints.reading import LoadReport
from ovparts_lib.data.transforms import resize_image, shortest_edge_size
from ovparts_lib.models.backbones.swin import Swin
from ovparts_lib.models.clip.crops import CLIP_MEAN, CLIP_STD, CropRule
from ovparts_lib.models.clip.prompts import TEMPLATES
from ovparts_lib.models.clip.text_cache import TextCache
from ovparts_lib.models.clip.towers import build_clip
from ovparts_lib.models.cost_aggregation.inputs import IMAGENET_STATISTICS, checked_images, normalise
from ovparts_lib.models.mask2former.losses import PointLosses
from ovparts_lib.models.mask2former.masked_decoder import MaskedDecoder
from ovparts_lib.models.mask2former.pixel_decoder import DeformablePixelDecoder
from ovparts_lib.models.maskformer.targets import joined_inputs, segments_of
from ovparts_lib.systems.base import SegmentationSystem, batch_labels
from ovparts_lib.systems.ovseg.ensemble import (
    CLASSIFIERS,
    OTHERS,
    Classifier,
    clip_classes,
    fuse_masks,
    geometric_ensemble,
    proposal_classes,
)
from ovparts_lib.systems.parameter_groups import parameter_groups
from ovparts_lib.systems.proposals import CalibrationMaps, ProposalMaps
from ovparts_lib.systems.scan.context import ImageContext, image_context
from ovparts_lib.systems.scan.contextual_shift import draw_shifted
from ovparts_lib.systems.scan.ensemble import normalised_again
from ovparts_lib.systems.scan.regions import cut, embed_crops
from ovparts_lib.systems.scan.semantic_integration import SemanticIntegration
from ovparts_lib.systems.scan.sizes import MINIATURE_SCAN, RELEASED, RELEASED_VITB, ScanSize
from ovparts_lib.systems.scores import Maps, Scores
from ovparts_lib.vocabularies.vocabulary import Vocabulary

# Beginnings of parameter names. Both CLIPs are frozen; the one for crops is fine-tuned elsewhere, see `adaptation`.
TRAINABLE_GROUPS = {
    "backbone": ("backbone.",),
    "proposals": ("pixel_decoder.", "decoder."),
    "integration": ("integration.",),
    "no_object": ("no_object_text",),
}
TEMPERATURE = 100.0
SIZES = {"released": RELEASED, "released_vitb": RELEASED_VITB, "miniature": MINIATURE_SCAN}
CLIP_STATISTICS = (CLIP_MEAN, CLIP_STD)
Statistics = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation of each colour
_CROPS_AT_ONCE = {"cpu": 8, "cuda": 64}


class Scan(SegmentationSystem):
    """SCAN. See the module's docstring; the proposal network and SIM train, both CLIPs are given.

    Args:
        size: hyper-parameters, ``RELEASED`` (ViT-L/14), ``RELEASED_VITB`` (ViT-B/16) or ``MINIATURE_SCAN``.
        mask_threshold: probability above which a pixel belongs to a mask's crop.
        classifier: ``ensemble`` of both branches, ``proposals`` alone (CLIP does not see crops), or ``clip`` alone:
            masks without a crop are then dropped.
        ensemble_weight: share of CLIP in the ensemble's exponent, above 0 and below 1.
        second_normalisation: see :func:`normalised_again`; released for ADE20K-847 and PASCAL-Context-459.
        integration: SIM; otherwise the proposals' embeddings are compared with the texts as they are.
        shift_ratio: share of background tokens that CS overwrites, 0..1; 0 is no CS.
        shift_seed: of CS's random choice, the same for every image. The released code's is not repeatable.
        crops_at_once: crops in one pass of CLIP; None chooses by device.
        last_auxiliary_loss: count the losses of the last but one decoder layer. The released code computes them, but
            its table of weights ends before.
        losses: weights and points of :class:`PointLosses`, where they are others.
        lr_multipliers: factors of the learning rate by trainable group.

    Raises:
        ValueError: an option out of its range.
    """

    groups = TRAINABLE_GROUPS

    def __init__(
        self,
        size: ScanSize = RELEASED,
        *,
        mask_threshold: float = 0.4,
        classifier: Classifier = "ensemble",
        ensemble_weight: float = 0.7,
        second_normalisation: bool = False,
        integration: bool = True,
        shift_ratio: float = 0.15,
        shift_seed: int = 0,
        crops_at_once: int | None = None,
        last_auxiliary_loss: bool = False,
        losses: Mapping[str, Any] | None = None,
        lr_multipliers: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if classifier not in CLASSIFIERS:
            raise ValueError(f"classifier must be one of {', '.join(CLASSIFIERS)}, not {classifier!r}")
        if not 0 < ensemble_weight < 1:
            raise ValueError(
                f"ensemble_weight must be above 0 and below 1, not {ensemble_weight}; for one branch alone set "
                "classifier to 'proposals' or 'clip'"
            )
        if not 0 <= shift_ratio <= 1:
            raise ValueError(f"shift_ratio must be 0 to 1, not {shift_ratio}")
        if crops_at_once is not None and crops_at_once < 1:
            raise ValueError(f"crops_at_once must be at least 1, or None, not {crops_at_once}")
        for group in lr_multipliers or {}:
            self.beginnings(group)
        self.size, self.crop_rule, self.classifier = size, CropRule(mask_threshold), classifier
        self.ensemble_weight, self.second_normalisation = ensemble_weight, second_normalisation
        self.calibrates, self.shift_ratio, self.shift_seed = integration, shift_ratio, shift_seed
        self.crops_at_once, self.last_auxiliary_loss = crops_at_once, last_auxiliary_loss
        self.losses, self.lr_multipliers = PointLosses(**losses or {}), dict(lr_multipliers or {})

        # proposal network
        self.backbone = Swin(size.backbone)
        self.pixel_decoder = DeformablePixelDecoder(
            self.backbone.channels,
            width=size.width,
            groups=size.groups,
            layers=size.encoder_layers,
            heads=size.heads,
            points=size.points,
            hidden=size.encoder_hidden,
        )
        self.decoder = MaskedDecoder(
            size.clip.embed_dim,
            width=size.width,
            queries=size.queries,
            layers=size.layers,
            heads=size.heads,
            hidden=size.hidden,
            class_hidden=size.class_hidden,
        )
        # calibration by the image
        self.integration = SemanticIntegration(
            size.clip.vision_width,
            size.clip.embed_dim,
            size.sigmas,
            heads=size.heads,
            layers=size.fusion_layers,
            hidden=size.hidden,
            dropout=size.dropout,
        )
        quick_gelu = size.activation == "quick_gelu"
        self.original_clip = build_clip(replace(size.clip, text_layers=1, vocab_size=1), quick_gelu=quick_gelu).visual
        # what classifies
        self.clip = build_clip(size.clip, quick_gelu=quick_gelu)
        self.no_object_text = nn.Parameter(torch.randn(1, size.clip.embed_dim) * size.clip.text_width**-0.5)
        self.templates = TEMPLATES[size.templates]
        self.text_cache = TextCache(synonyms=False)
        self._texts: dict[tuple[str, ...], Tensor] = {}  # of the training vocabulary, while CLIP is out of memory
        self.set_trainable(TRAINABLE_GROUPS)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.no_object_text.device

    def set_trainable(self, groups: Collection[str]) -> list[str]:
        """As in :class:`SegmentationSystem`; without SIM its parameters do not train."""
        names = super().set_trainable(groups)
        if self.calibrates:
            return names
        self.integration.requires_grad_(False)
        return [name for name in names if not name.startswith("integration.")]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """What trains, for the optimiser: norms, queries and position biases without weight decay, all else with."""
        return parameter_groups(
            self,
            self.groups,
            weight_decay,
            self.lr_multipliers,
            undecayed=lambda name: name.endswith("relative_position_bias_table"),
        )

    def load_clip(self, path: str | Path) -> LoadReport:
        """Give both CLIPs the same weights: as released DataComp's, ``datacomp_xl_s13b_b90k``."""
        report = load_clip_into(self.clip, path, activation=self.size.activation)
        self.original_clip.load_state_dict(self.clip.visual.state_dict())
        return report

    @contextmanager
    def without_frozen_towers(self, vocabulary: Vocabulary, folder: str | Path | None = None) -> Iterator[None]:
        """Keep the CLIP that classifies crops and encodes texts out of memory while the rest trains.

        It is written to a file and read back in the end. The texts of the vocabulary are computed before; no other can
        be used meanwhile, nor :meth:`predict` with a classifier that sees crops.

        Args:
            vocabulary: of the training.
            folder: where the file goes while it is needed, 1.7 GB for ViT-L/14; None for the system's temporary one.
        """
        names = vocabulary.classes
        self._texts = {names: self._encode_names(names)}
        with tempfile.TemporaryDirectory(dir=folder) as place:
            file = Path(place) / "clip.safetensors"
            save_file({name: tensor.contiguous() for name, tensor in self.clip.state_dict().items()}, file)
            self.clip = None
            try:
                yield
            finally:
                clip = build_clip(self.size.clip, quick_gelu=self.size.activation == "quick_gelu").requires_grad_(False)
                clip.load_state_dict(load_file(file))
                self.clip, self._texts = clip.to(self.device), {}

    def encode_classes(self, names: Sequence[str]) -> Tensor:
        """Text embeddings of classes, each the mean over templates, and of "no object" as the last one.

        Returns:
            float32 (names + 1, embed_dim), normalised; the names' without gradient.

        Raises:
            ValueError: other classes than those of the training, while CLIP is out of memory.
        """
        names = tuple(names)
        if self.clip is None and names not in self._texts:
            raise ValueError("CLIP's text tower is out of memory during this training; only its vocabulary can be used")
        text = self._texts[names] if self.clip is None else self._encode_names(names)
        return torch.cat([text.to(self.device), F.normalize(self.no_object_text.float(), dim=-1)])

    def _encode_names(self, names: Sequence[str]) -> Tensor:
        stripped = [name.strip() for name in names]
        return F.normalize(self.text_cache.encode(self.clip, stripped, self.templates).mean(1), dim=-1)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Class, mask and dice loss of the decoder's predictions, matched to one mask for each class of an image.

        Args:
            batch: ``images`` (list of uint8 (3, h, w), resized, cropped and padded already), ``part_maps`` (list of
                int64 (h, w), ids of ``vocabulary`` or its ignore label), ``vocabulary``; ``image_ids``, if given, are
                used in messages. Unlabelled pixels and padding are negatives for every mask, as released.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice``, and with ``_0``, ``_1``, … of the initial queries and the layers
            before the last; weighted.

        Raises:
            ValueError: see :func:`batch_labels`.
        """
        names = batch["vocabulary"].classes
        images = [image.to(self.device) for image in batch["images"]]
        inputs = self.normalised(images)
        labels = [labels.to(self.device) for labels in batch_labels(batch)]
        count = len(names)
        segments = segments_of(labels, tuple(inputs.shape[-2:]), count=count, ignore_label=count)
        context = self.encode_context(images) if self.calibrates else None
        states, mask_features = self._query_states(inputs)
        if not self.last_auxiliary_loss:
            states = torch.cat([states[:-2], states[-1:]])
        embeddings = self._calibrated(self.decoder.class_embed(states), context)
        return self.losses(
            self._class_logits(embeddings, self.encode_classes(names)),
            self.decoder.mask_logits(states, mask_features),
            segments,
        )

    def score(
        self,
        images: Sequence[Tensor],
        vocabulary: Vocabulary,
        class_ids: tuple[int, ...],
        background: bool,
        inspected: bool,
    ) -> list[tuple[Scores, Maps]]:
        """Scores of soft masks and their classes, at the size of test pictures.

        Every class of the vocabulary takes part in the softmax, whatever is asked for. A vocabulary of one word is
        scored against "others", which becomes the background. Maps: ``proposals``, what was said of each mask;
        ``calibration``, what SIM and CS did.
        """
        names = vocabulary.classes
        classes = names if len(names) > 1 else (*names, OTHERS)
        text, results = self.encode_classes(classes), []
        for image in checked_images(images):
            maps, calibration = self._classified(image, classes, text)
            size = tuple(image.shape[-2:])
            scores = fuse_masks(maps, size, class_ids, background=background, single=len(names) == 1)
            results.append((scores, {"proposals": maps, "calibration": calibration} if inspected else {}))
        return results

    def _classified(
        self, image: Tensor, classes: tuple[str, ...], text: Tensor
    ) -> tuple[ProposalMaps, CalibrationMaps]:
        """Masks of one image with everything that is said of them."""
        image = self.resized(image).to(self.device)
        # the whole image, as the frozen CLIP sees it
        needs_context = self.calibrates or (self.classifier != "proposals" and self.shift_ratio > 0)
        context = self.encode_context([image]) if needs_context else None
        # in-vocabulary branch: proposals, before and after SIM
        masks, embeddings = self.propose(image)
        before = self._class_logits(embeddings, text)
        logits = self._class_logits(self._calibrated(embeddings[None, None], context)[0, 0], text)
        proposals, combined = proposal_classes(logits), proposal_classes(logits)
        # out-of-vocabulary branch: crops, with context
        valid, boxes, clip, kept, shifted = None, None, None, None, {}
        if self.classifier != "proposals":
            crops = cut(image, masks, self.crop_rule, self.clip.visual)
            valid, boxes, kept = crops.valid, crops.boxes, crops.kept
            if self.shift_ratio > 0:
                generator = torch.Generator().manual_seed(self.shift_seed)
                shifted = draw_shifted(kept, self.size.shift_blocks, self.shift_ratio, generator)
            class_tokens = {block: context.class_tokens[block][0] for block in shifted}
            at_once = self.crops_at_once or _CROPS_AT_ONCE.get(self.device.type, 8)
            regions = embed_crops(self.clip.visual, crops, class_tokens, shifted, at_once)
            clip = clip_classes(TEMPERATURE * regions @ text.T)
            combined = self.combine(logits, clip, valid)
        maps = ProposalMaps(image, masks, proposals, clip, valid, boxes, combined, classes, self.crop_rule.threshold)
        return maps, CalibrationMaps(proposal_classes(before), proposals, kept, shifted, self.size.grid)

    def combine(self, logits: Tensor, clip: Tensor, valid: Tensor) -> Tensor:
        """What each mask counts for each class, (k, n).

        Args:
            logits: (k, n + 1), of the in-vocabulary branch.
            clip: (v, n), probabilities of the out-of-vocabulary branch.
            valid: bool (k,), which masks have a crop.
        """
        if self.classifier == "clip":
            combined = clip.new_zeros(len(valid), clip.shape[1])
            combined[valid] = clip
            return combined
        combined = geometric_ensemble(proposal_classes(logits), clip, valid, self.ensemble_weight)
        return normalised_again(combined, logits.float().softmax(-1)[:, -1]) if self.second_normalisation else combined

    def propose(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mask proposals of one image, uint8 (3, h, w) and resized already, and their embeddings before SIM.

        Returns:
            Probabilities float32 (queries, h, w), and embeddings (queries, embed_dim).
        """
        inputs = self.normalised([image])
        states, mask_features = self._query_states(inputs)
        logits = self.decoder.mask_logits(states[-1], mask_features)
        del mask_features
        enlarged = F.interpolate(logits.float(), size=inputs.shape[-2:], mode="bilinear", align_corners=False)
        probabilities = enlarged[0, :, : image.shape[-2], : image.shape[-1]].sigmoid()
        return probabilities, self.decoder.class_embed(states[-1, 0])

    def encode_context(self, images: Sequence[Tensor]) -> ImageContext:
        """What the frozen CLIP says of whole images, (3, h, w) RGB each, 0..255.

        As released they are padded like the proposal network's input, and reduced to a square by nearest neighbour.
        """
        return image_context(self.original_clip, self.integration, self.normalised(images, CLIP_STATISTICS), self.size)

    def resized(self, image: Tensor) -> Tensor:
        """An image uint8 (3, h, w) at the size of a test picture."""
        size = shortest_edge_size(*image.shape[-2:], self.size.shortest_edge, self.size.longest_edge)
        return resize_image(image, size)

    def normalised(self, images: Sequence[Tensor], statistics: Statistics = IMAGENET_STATISTICS) -> Tensor:
        """Images (3, h, w), 0..255, as the proposal network takes them, padded with zeros to one size."""
        pixels = [normalise(image[None].to(self.device).float(), statistics)[0] for image in images]
        return joined_inputs(pixels, self.size.divisor)

    def _query_states(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """States of the queries before and after each layer (layers + 1, b, queries, width), and mask features."""
        maps, mask_features = self.pixel_decoder(self.backbone(inputs))
        return self.decoder(maps, mask_features), mask_features

    def _calibrated(self, embeddings: Tensor, context: ImageContext | None) -> Tensor:
        """Proposal embeddings (levels, b, q, embed_dim) after SIM, where queries and levels do not see each other."""
        if not self.calibrates:
            return embeddings
        queries = rearrange(embeddings, "l b q d -> b (l q) d")
        calibrated = self.integration(queries, context.memory, context.embedding)
        return rearrange(calibrated, "b (l q) d -> l b q d", l=len(embeddings))

    def _class_logits(self, embeddings: Tensor, text: Tensor) -> Tensor:
        embeddings = embeddings.float()
        return TEMPERATURE * (embeddings / embeddings.norm(dim=-1, keepdim=True)) @ text.T
