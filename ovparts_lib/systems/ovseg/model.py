"""OVSeg: mask proposals classified by text, and again by a CLIP that has learned to look at masked crops.

A MaskFormer proposes masks, each with an embedding that is compared with the classes' texts and a learned "no object";
every mask is also cropped out of the image and classified by CLIP, with mask prompts in place of blank patches. The two
distributions are multiplied, and the masks' classes summed over pixels.
Source: Liang et al., "Open-Vocabulary Semantic Segmentation with Mask-adapted CLIP", CVPR 2023, and its released code.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovparts_lib.checked import checked_arguments, hyper_parameters
from ovparts_lib.models.backbones.resnet import RESNET_101C, ResNetSize
from ovparts_lib.models.backbones.swin import SwinSize
from ovparts_lib.models.clip import token_masks
from ovparts_lib.models.clip.crops import CropRule
from ovparts_lib.models.clip.prompts import checked_templates
from ovparts_lib.models.clip.towers import MINIATURE, VIT_B_16, AfterBlock, build_clip
from ovparts_lib.models.maskformer.losses import maskformer_losses
from ovparts_lib.models.maskformer.pixel_decoder import PixelDecoder
from ovparts_lib.models.maskformer.size import ProposalSize
from ovparts_lib.models.maskformer.transformer_decoder import TransformerDecoder
from ovparts_lib.systems.ensemble import clip_classes, proposal_classes
from ovparts_lib.systems.mask_classifier import Crops, MaskClassifier, cut, embed_crops
from ovparts_lib.systems.ovseg.options import Fusion, MaskFill
from ovparts_lib.systems.proposals import ProposalMaps, check_masks
from ovparts_lib.systems.scores import Maps, Request, Scores
from ovparts_lib.systems.shared_options import WithoutCrop


@hyper_parameters
class OvsegSize(ProposalSize):
    """Hyper-parameters of OVSeg.

    Attributes:
        dropout: of the transformer decoder, in training.
        prompt_depth: layers of the image tower that have mask prompts, the input being the first.
        templates: key of :data:`models.clip.prompts.TEMPLATES`.
    """

    dropout: float = 0.1
    prompt_depth: int = 3
    templates: str = "vild"

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_templates(self.templates)
        if not 0 <= self.prompt_depth <= self.clip.vision_layers:
            raise ValueError(f"prompt_depth must be 0 to {self.clip.vision_layers}, not {self.prompt_depth}")


RELEASED = OvsegSize()
RELEASED_R101C = OvsegSize(VIT_B_16, RESNET_101C, shortest_edge=512, longest_edge=2048)
MINIATURE_OVSEG = OvsegSize(
    MINIATURE,
    SwinSize(24, (1, 1, 2, 1), (1, 2, 4, 8), window=4, drop_path=0.0),
    width=48,
    groups=4,
    queries=24,
    layers=3,
    heads=4,
    hidden=96,
    class_hidden=96,
    dropout=0.0,
    prompt_depth=2,
    templates="miniature",
    shortest_edge=96,
    longest_edge=192,
)
SIZES = {"released": RELEASED, "released_r101c": RELEASED_R101C, "miniature": MINIATURE_OVSEG}


class Ovseg(MaskClassifier):
    """OVSeg. See the module's docstring; the proposal network trains, CLIP and the mask prompts are given.

    A user's own ``masks``, bool (k, H, W) for each image, can replace the proposals; CLIP alone classifies them. The
    map ``proposals`` is what was said of each mask. With ``best_mask`` and with own masks there is a background: pixels
    in none of them.

    Args:
        size: hyper-parameters, ``RELEASED`` (Swin-B, ViT-L/14), ``RELEASED_R101C`` (ViT-B/16) or ``MINIATURE_OVSEG``.
        mask_threshold: probability above which a pixel belongs to a mask's crop; None for 0.4, or 0.5 with a ResNet.
        without_crop: see :func:`geometric_ensemble`.
        mask_prompts: use them; otherwise blank patches show the crop's fill.
        mask_expand, mask_fill, mask_matting: see :class:`CropRule`.
        fusion: ``sum`` of all soft masks; or ``best_mask``, the released demo's rule: for each class the one mask
            that fits it best, cut at the threshold, and pixels in none of them are background.
        no_object_weight: weight of unmatched queries in the class loss.
        mask_weight: weight of the focal loss.
        **shared: those of :class:`MaskClassifier`; a ResNet trains at 0.1 of the rate unless ``lr_multipliers`` are
            given.

    Raises:
        ValueError: an option out of its range.
    """

    # CLIP and the mask prompts are adapted elsewhere, see `fine_tuning.py`.
    groups: ClassVar = {
        "backbone": ("backbone.",),
        "proposals": ("pixel_decoder.", "transformer_decoder."),
        "no_object": ("no_object_text",),
    }
    frozen = ("backbone.stem.", "backbone.res2.")  # as released, of ResNets
    image_inputs = ("masks",)

    @checked_arguments
    def __init__(
        self,
        size: OvsegSize = RELEASED,
        *,
        mask_threshold: float | None = None,
        without_crop: WithoutCrop = "proposals",
        mask_prompts: bool = True,
        mask_expand: float = 1.0,
        mask_fill: MaskFill = "mean",
        mask_matting: bool = False,
        fusion: Fusion = "sum",
        no_object_weight: float = 0.1,
        mask_weight: float = 20.0,
        **shared: Any,
    ) -> None:
        if isinstance(size.backbone, ResNetSize):  # whose recipe differs
            mask_threshold = 0.5 if mask_threshold is None else mask_threshold
            shared.setdefault("lr_multipliers", {"backbone": 0.1})
        mask_threshold = 0.4 if mask_threshold is None else mask_threshold
        super().__init__(size, CropRule(mask_threshold, mask_expand, mask_fill, mask_matting), **shared)
        self.without_crop, self.mask_prompts, self.fusion = without_crop, mask_prompts, fusion
        self.no_object_weight, self.mask_weight = no_object_weight, mask_weight
        # proposal network
        self.backbone = size.build_backbone()
        self.pixel_decoder = PixelDecoder(size, self.backbone.channels)
        self.transformer_decoder = TransformerDecoder(size, self.backbone.channels[-1], size.dropout)
        # what classifies
        self.clip = build_clip(size.clip, quick_gelu=True)
        self.mask_prompt = nn.Parameter(torch.zeros(size.prompt_depth, size.grid**2, size.clip.vision_width))
        self._add_texts()
        self.set_trainable(self.groups)

    @property
    def query_decoder(self) -> TransformerDecoder:
        """Reads a mask and a class embedding from each query."""
        return self.transformer_decoder

    @property
    def cut_at(self) -> float | None:
        """Probability at which each class's best mask is cut; None sums all soft masks."""
        return self.crop_rule.threshold if self.fusion == "best_mask" else None

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Class, focal and dice loss of every decoder layer, matched to one mask for each class of an image.

        Args:
            batch: ``images`` (list of uint8 (3, h, w), resized, cropped and padded already), ``part_maps`` (list of
                int64 (h, w), ids of ``vocabulary`` or its ignore label), ``vocabulary``; ``image_ids``, if given, are
                used in messages.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice``, and with ``_0``, ``_1``, … of the earlier layers; weighted.

        Raises:
            ValueError: see :func:`batch_labels`.
        """
        inputs = self.padded(batch["images"])
        segments = self.targets(batch, tuple(inputs.shape[-2:]))
        states, mask_features = self._query_states(inputs)
        embeddings = self.transformer_decoder.class_embed(states)
        return maskformer_losses(
            self._class_logits(embeddings, self.encode_classes(batch["vocabulary"].classes)),
            self.transformer_decoder.mask_logits(states, mask_features),
            segments,
            mask_weight=self.mask_weight,
            no_object_weight=self.no_object_weight,
        )

    def score(
        self, images: Sequence[Tensor], request: Request, masks: Sequence[Tensor] | None = None
    ) -> list[tuple[Scores, Maps]]:
        """As :meth:`MaskClassifier.score`. Raises ValueError if masks do not fit the images."""
        own = {} if masks is None else {"masks": check_masks(masks, images)}
        return super().score(images, request, **own)

    def classified(self, image: Tensor, classes: tuple[str, ...], text: Tensor, masks: Tensor | None = None) -> Maps:
        """Masks of one image with everything that is said of them.

        Args:
            image: uint8 (3, h, w), resized already.
            classes: n names.
            text: (n + 1, embed_dim), of :meth:`encode_classes`.
            masks: a user's own, bool (k, H, W).
        """
        proposals, clip, valid, boxes = None, None, None, None
        # mask proposals, with the proposal network's classes
        if masks is None:
            probabilities, logits = self.propose(image, text)
            proposals = proposal_classes(logits)
        else:
            own = masks[None].to(self.device, torch.float32)
            probabilities = F.interpolate(own, size=image.shape[-2:], mode="nearest")[0]
        # mask-adapted CLIP's classes of the crops
        if masks is not None or self.classifier != "proposals":
            regions = self.encode_regions(image, probabilities)
            clip = clip_classes(self.size.clip.temperature * regions.embeddings @ text.T)
            valid, boxes = regions.valid, regions.boxes
        # ensemble
        combined = self.combine(proposals, clip, valid)
        maps = ProposalMaps(
            image, probabilities, proposals, clip, valid, boxes, combined, classes, self.crop_rule.threshold
        )
        return {"proposals": maps}

    def propose(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Mask proposals of one image and their class logits.

        Args:
            image: uint8 (3, h, w), resized already.
            text: (n + 1, embed_dim), of :meth:`encode_classes`.

        Returns:
            Probabilities float32 (queries, h, w), and logits (queries, n + 1).
        """
        probabilities, embeddings = self.propose_masks(image)
        return probabilities, self._class_logits(embeddings, text)

    def encode_regions(
        self, image: Tensor, masks: Tensor, *, prompts: bool | None = None, rule: CropRule | None = None
    ) -> Crops:
        """The crops of masks, with their CLIP embeddings.

        Args:
            image: (3, h, w).
            masks: (k, h, w), probabilities or bool.
            prompts: use the mask prompts; None for the option ``mask_prompts``.
            rule: how masks become crops; None for that of the options.
        """
        visual, prompts = self.clip.visual, self.mask_prompts if prompts is None else prompts

        def prompted(rows: Tensor) -> AfterBlock:
            return token_masks.mask_prompts(visual, self.mask_prompt, crops.kept[rows])

        crops = cut(image.to(self.device), masks, rule or self.crop_rule, visual)
        hook_of = prompted if prompts and len(self.mask_prompt) else None
        crops.embeddings = embed_crops(visual, crops, self.at_once, hook_of)
        return crops

    def _query_states(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """States of the queries after each layer (layers, b, queries, width), and mask features at stride 4."""
        features = self.backbone(inputs)
        return self.transformer_decoder(features[-1]), self.pixel_decoder(features)
