"""SCAN: mask proposals calibrated by CLIP's view of the whole image, and a CLIP that sees crops with their context.

A Mask2Former proposes masks, each with an embedding that SIM calibrates before it is compared with the classes' texts;
every mask is also cropped out of the image and classified by CLIP, which CS shows some of the image's context. The two
distributions are multiplied, and the masks' classes summed over pixels.
Source: Liu et al., "Open-Vocabulary Segmentation with Semantic-Assisted Calibration", CVPR 2024, and its released code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor

from ovparts_lib.checked import checked_arguments
from ovparts_lib.checkpoints.clip import load_clip_into
from ovparts_lib.checkpoints.reading import LoadReport
from ovparts_lib.images import CLIP_STATISTICS
from ovparts_lib.models.clip.crops import CropRule
from ovparts_lib.models.clip.towers import build_clip, image_hidden_states
from ovparts_lib.models.mask2former.losses import PointLosses
from ovparts_lib.models.mask2former.masked_decoder import MaskedDecoder
from ovparts_lib.models.mask2former.pixel_decoder import DeformablePixelDecoder
from ovparts_lib.systems.ensemble import clip_classes, normalised_again, proposal_classes
from ovparts_lib.systems.mask_classifier import MaskClassifier, cut, embed_crops
from ovparts_lib.systems.proposals import CalibrationMaps, ProposalMaps
from ovparts_lib.systems.scan.contextual_shift import contextual_shift, draw_shifted
from ovparts_lib.systems.scan.semantic_integration import ImageContext, SemanticIntegration
from ovparts_lib.systems.scan.sizes import MINIATURE_SCAN, RELEASED, RELEASED_VITB, ScanSize
from ovparts_lib.systems.scores import Maps

SIZES = {"released": RELEASED, "released_vitb": RELEASED_VITB, "miniature": MINIATURE_SCAN}


class Scan(MaskClassifier):
    """SCAN. See the module's docstring; the proposal network and SIM train, both CLIPs are given.

    Args:
        size: hyper-parameters, ``RELEASED`` (ViT-L/14), ``RELEASED_VITB`` (ViT-B/16) or ``MINIATURE_SCAN``.
        mask_threshold: probability above which a pixel belongs to a mask's crop.
        second_normalisation: see :func:`normalised_again`; released for ADE20K-847 and PASCAL-Context-459.
        integration: SIM; otherwise the proposals' embeddings are compared with the texts as they are.
        shift_ratio: share of background tokens that CS overwrites, 0..1; 0 is no CS.
        shift_seed: of CS's random choice, the same for every image. The released code's is not repeatable.
        last_auxiliary_loss: count the losses of the last but one decoder layer. The released code computes them, but
            its table of weights ends before.
        losses: weights and points of :class:`PointLosses`, where they are others.
        **shared: those of :class:`MaskClassifier`.

    Raises:
        ValueError: an option out of its range.
    """

    # Both CLIPs are frozen; the one for crops is fine-tuned elsewhere, see `fine_tuning.py`.
    groups: ClassVar = {
        "backbone": ("backbone.",),
        "proposals": ("pixel_decoder.", "decoder."),
        "integration": ("integration.",),
        "no_object": ("no_object_text",),
    }
    image_inputs = ("proposed",)

    @checked_arguments
    def __init__(
        self,
        size: ScanSize = RELEASED,
        *,
        mask_threshold: float = 0.4,
        second_normalisation: bool = False,
        integration: bool = True,
        shift_ratio: Annotated[float, Field(ge=0, le=1)] = 0.15,
        shift_seed: int = 0,
        last_auxiliary_loss: bool = False,
        losses: Mapping[str, Any] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(size, CropRule(mask_threshold), **shared)
        self.second_normalisation, self.last_auxiliary_loss = second_normalisation, last_auxiliary_loss
        self.calibrates, self.shift_ratio, self.shift_seed = integration, shift_ratio, shift_seed
        self.losses = PointLosses(**losses or {})
        self.frozen = () if integration else ("integration.",)
        # proposal network
        self.backbone = size.build_backbone()
        self.pixel_decoder = DeformablePixelDecoder(size, self.backbone.channels)
        self.decoder = MaskedDecoder(size)
        # calibration by the image
        self.integration = SemanticIntegration(size)
        quick_gelu = size.activation == "quick_gelu"
        self.original_clip = build_clip(replace(size.clip, text_layers=1, vocab_size=1), quick_gelu=quick_gelu).visual
        # what classifies
        self.clip = build_clip(size.clip, quick_gelu=quick_gelu)
        self._add_texts()
        self.set_trainable(self.groups)

    @property
    def query_decoder(self) -> MaskedDecoder:
        """Reads a mask and a class embedding from each query."""
        return self.decoder

    def load_clip(self, path: str | Path) -> LoadReport:
        """Give both CLIPs the same weights: as released DataComp's, ``datacomp_xl_s13b_b90k``."""
        report = load_clip_into(self.clip, path, activation=self.size.activation)
        self.original_clip.load_state_dict(self.clip.visual.state_dict())
        return report

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Class, mask and dice loss of the decoder's predictions, matched to one mask for each class of an image.

        Args:
            batch: ``images`` (list of uint8 (3, h, w), resized, cropped and padded already), ``part_maps`` (list of
                int64 (h, w), ids of ``vocabulary`` or its ignore label), ``vocabulary``; ``image_ids``, if given, are
                used in messages.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice``, and with ``_0``, ``_1``, … of the initial queries and the layers
            before the last; weighted.

        Raises:
            ValueError: see :func:`batch_labels`.
        """
        inputs = self.padded(batch["images"])
        segments = self.targets(batch, tuple(inputs.shape[-2:]))
        context = self.encode_context(batch["images"]) if self.calibrates else None
        states, mask_features = self._query_states(inputs)
        if not self.last_auxiliary_loss:
            states = torch.cat([states[:-2], states[-1:]])
        embeddings = self._calibrated(self.decoder.class_embed(states), context)
        return self.losses(
            self._class_logits(embeddings, self.encode_classes(batch["vocabulary"].classes)),
            self.decoder.mask_logits(states, mask_features),
            segments,
        )

    def classified(
        self, image: Tensor, classes: tuple[str, ...], text: Tensor, proposed: tuple[Tensor, Tensor] | None = None
    ) -> Maps:
        """Masks of one image with everything that is said of them: ``proposals``, and in ``calibration`` SIM and CS.

        Args:
            image: uint8 (3, h, w), resized already.
            classes: n names.
            text: (n + 1, embed_dim), of :meth:`encode_classes`.
            proposed: of :meth:`propose_masks` for this image, where it has been asked before.
        """
        # the whole image, as the frozen CLIP sees it
        needs_context = self.calibrates or (self.classifier != "proposals" and self.shift_ratio > 0)
        context = self.encode_context([image]) if needs_context else None
        # in-vocabulary branch: proposals, before and after SIM
        masks, embeddings = proposed or self.propose_masks(image)
        before = self._class_logits(embeddings, text)
        logits = self._class_logits(self._calibrated(embeddings[None, None], context)[0, 0], text)
        proposals = combined = proposal_classes(logits)
        # out-of-vocabulary branch: crops, with context
        valid, boxes, clip, kept, shifted = None, None, None, None, {}
        if self.classifier != "proposals":
            crops = cut(image, masks, self.crop_rule, self.clip.visual)
            valid, boxes, kept = crops.valid, crops.boxes, crops.kept
            if self.shift_ratio > 0:
                generator = torch.Generator().manual_seed(self.shift_seed)
                shifted = draw_shifted(kept, self.size.shift_blocks, self.shift_ratio, generator)
            class_tokens = {block: context.class_tokens[block][0] for block in shifted}
            regions = embed_crops(
                self.clip.visual, crops, self.at_once, partial(contextual_shift, class_tokens, shifted)
            )
            clip = clip_classes(self.size.clip.temperature * regions @ text.T)
            combined = self.join_branches(logits, clip, valid)
        return {
            "proposals": ProposalMaps(
                image, masks, proposals, clip, valid, boxes, combined, classes, self.crop_rule.threshold
            ),
            "calibration": CalibrationMaps(proposal_classes(before), proposals, kept, shifted, self.size.grid),
        }

    def join_branches(self, logits: Tensor, clip: Tensor, valid: Tensor) -> Tensor:
        """What each mask counts for each class, (k, n).

        Args:
            logits: (k, n + 1), of the in-vocabulary branch.
            clip: (v, n), probabilities of the out-of-vocabulary branch.
            valid: bool (k,), which masks have a crop.
        """
        combined = self.combine(proposal_classes(logits), clip, valid)
        if self.second_normalisation and self.classifier == "ensemble":
            return normalised_again(combined, logits.float().softmax(-1)[:, -1])
        return combined

    def encode_context(self, images: Sequence[Tensor]) -> ImageContext:
        """What the frozen CLIP says of whole images, (3, h, w) RGB each, 0..255.

        As released they are padded like the proposal network's input, and reduced to a square by nearest neighbour. The
        gradient goes through what SIM makes of the patches.
        """
        visual, size = self.original_clip, self.size
        with torch.no_grad():
            side, depth = size.clip.image_size, size.clip.vision_layers
            pixels = F.interpolate(self.padded(images, CLIP_STATISTICS), size=(side, side), mode="nearest")
            states = image_hidden_states(visual, pixels, {*size.context_blocks, *size.shift_blocks, depth}).states
            embedding = (visual.ln_post(states[depth][:, 0]) @ visual.proj).float()
            class_tokens = {block: states[block][:, 0] for block in size.shift_blocks}
        patches = [states[block][:, 1:] for block in size.context_blocks]
        return ImageContext(self.integration.memory(patches, size.grid), embedding, class_tokens)

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
