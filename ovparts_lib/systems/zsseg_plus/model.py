"""ZSSeg+: mask proposals prompted with the object's mask, and a frozen CLIP that names the regions they make.

Stage 1 is a MaskFormer whose queries are classified against CLIP's text embeddings; stage 2 shows CLIP the object's
crop and classifies the mean feature of every region. Prompts, and the weight that fuses region and object, are tuned
beforehand (:mod:`systems.zsseg_plus.prompt_tuning`).
Source: Wei et al., "OV-PARTS: Towards Open-Vocabulary Part Segmentation", NeurIPS 2023 (datasets track), section 4, and
the code released with it.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ovparts_lib.checked import checked_arguments, hyper_parameters
from ovparts_lib.data.dataset import ObjectRegion
from ovparts_lib.images import LabelResize, checked_images
from ovparts_lib.models.backbones.resnet import RESNET_50, ResNetSize
from ovparts_lib.models.clip.towers import MINIATURE, VIT_B_16, ClipSize, build_clip
from ovparts_lib.models.maskformer.losses import maskformer_losses
from ovparts_lib.models.maskformer.pixel_decoder import PixelDecoder
from ovparts_lib.models.maskformer.size import ProposalSize
from ovparts_lib.models.maskformer.transformer_decoder import TransformerDecoder
from ovparts_lib.systems.proposal_segmenter import ProposalSegmenter
from ovparts_lib.systems.scores import Maps, Request, Scores
from ovparts_lib.systems.zsseg_plus.ensemble import ClassRule
from ovparts_lib.systems.zsseg_plus.inference import score_image
from ovparts_lib.systems.zsseg_plus.options import Ensemble, FeatureMean, KeyMask, Stage2Object
from ovparts_lib.systems.zsseg_plus.prompt_learner import PromptLearner
from ovparts_lib.systems.zsseg_plus.proposals import ImageFeatures, Proposals, key_bias, object_feature, record_masks
from ovparts_lib.vocabularies import PartVocabulary

LR_MULTIPLIERS = {"backbone": 0.1}
Share = Annotated[float, Field(ge=0, le=1)]


@hyper_parameters
class ZssegPlusSize(ProposalSize):
    """Hyper-parameters of ZSSeg+; edges are of the image in stage 1.

    Attributes:
        crop_side: side of the object's crop in stage 2, a multiple of CLIP's patch size.
        prefix: number of learned vectors before the object's name.
        connection: number of learned vectors between object and part.

    Raises:
        ValueError: the crop is not made of whole patches; or see :class:`ProposalSize`.
    """

    clip: ClipSize = VIT_B_16
    backbone: ResNetSize = RESNET_50
    queries: int = 50
    shortest_edge: int = 512
    longest_edge: int = 768
    crop_side: int = 384
    prefix: int = 4
    connection: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop_side < 1 or self.crop_side % self.clip.patch_size:
            raise ValueError(f"crop_side {self.crop_side} is not a multiple of CLIP's patches, {self.clip.patch_size}")


RELEASED = ZssegPlusSize()
MINIATURE_ZSSEG_PLUS = ZssegPlusSize(
    clip=MINIATURE,
    backbone=ResNetSize((1, 1, 1, 1), width=16, multi_grid=(1,)),
    width=64,
    groups=8,
    queries=20,
    layers=3,
    heads=4,
    hidden=128,
    class_hidden=128,
    shortest_edge=96,
    longest_edge=192,
    crop_side=96,
)
SIZES = {"released": RELEASED, "miniature": MINIATURE_ZSSEG_PLUS}


class ZssegPlus(ProposalSegmenter):
    """ZSSeg+. See the module's docstring.

    Args:
        size: hyper-parameters, ``RELEASED`` or ``MINIATURE_ZSSEG_PLUS``.
        conditional: CPTCoOp's prompts (False) or CPTCoCoOp's, to which the object's image feature is added in stage 2.
        ensemble: ``both`` stages, or the scores of one of them alone.
        ensemble_weight: exponent of stage 1 for seen classes and of CLIP for unseen ones, 0..1.
        class_rule: which classes may be found on an object, see :func:`systems.zsseg_plus.ensemble.allowed_classes`.
        stage2_object: whose mask and class stage 2 uses where several regions are given at once: each its ``own``; or
            those of the first one, as released, which was evaluated one region at a time.
        key_mask: see :func:`systems.zsseg_plus.proposals.key_bias`.
        feature_mean: see :func:`systems.zsseg_plus.proposals.object_feature`.
        label_resize: how object masks come to the size of stage 1: ``centre``, or ``floor`` as released.
        dropout: of the transformer decoder, in training.
        prompt_dropout: share of training records whose object mask is withheld, so that stage 1 also works without one
            (pred-all). 0 as published.
        withheld_objects: objects whose masks are withheld in training, as a fault did in the released one.
        mask_weight: of the focal loss, in matching too.
        no_object_weight: of queries without a match in the classification loss.
        lr_multipliers: factors of the learning rate by trainable group; None for a backbone at 0.1, as released.

    Raises:
        ValueError: an option out of its range.
    """

    # CLIP and the prompts never train with stage 1.
    groups: ClassVar = {
        "backbone": ("backbone.",),
        "proposals": ("pixel_decoder.", "transformer_decoder."),
        "no_object": ("no_object_text",),
    }
    needs_parts = True
    needs_regions = True
    image_inputs = ("regions",)

    @checked_arguments
    def __init__(
        self,
        size: ZssegPlusSize = RELEASED,
        *,
        conditional: bool = False,
        ensemble: Ensemble = "both",
        ensemble_weight: Share = 0.5,
        class_rule: ClassRule = "exact",
        stage2_object: Stage2Object = "own",
        key_mask: KeyMask = "released",
        feature_mean: FeatureMean = "image",
        label_resize: LabelResize = "centre",
        dropout: float = 0.1,
        prompt_dropout: Share = 0.0,
        withheld_objects: frozenset[str] = frozenset(),
        mask_weight: float = 20.0,
        no_object_weight: float = 0.1,
        lr_multipliers: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.set_rates(LR_MULTIPLIERS if lr_multipliers is None else lr_multipliers)
        self.size = size
        self.ensemble, self.ensemble_weight, self.class_rule = ensemble, ensemble_weight, class_rule
        self.stage2_object, self.label_resize = stage2_object, label_resize
        self.key_mask, self.feature_mean = key_mask, feature_mean
        self.prompt_dropout, self.withheld_objects = prompt_dropout, withheld_objects
        self.mask_weight, self.no_object_weight = mask_weight, no_object_weight
        self.clip = build_clip(size.clip, quick_gelu=True)
        self.prompt_learner = PromptLearner(size.clip.text_width, size.prefix, size.connection, conditional=conditional)
        self.no_object_text = nn.Parameter(torch.randn(1, size.clip.embed_dim) * size.clip.embed_dim**-0.5)
        self.backbone = size.build_backbone()
        self.pixel_decoder = PixelDecoder(size, self.backbone.channels)
        self.transformer_decoder = TransformerDecoder(size, self.backbone.channels[-1], dropout)
        self.set_trainable(self.groups)

    @property
    def conditional(self) -> bool:
        """Whether the prompts depend on the object's image."""
        return self.prompt_learner.conditional

    def encode_vocabulary(self, vocabulary: PartVocabulary) -> Tensor:
        """Text embeddings (classes, embed_dim) of length 1, without gradient; computed once for the same weights."""
        return self.prompt_learner.encode_once(self.clip, vocabulary.pairs)

    def class_logits(self, class_embeddings: Tensor, texts: Tensor) -> Tensor:
        """Logits (…, queries, classes + 1) of queries, "no object" last."""
        with torch.autocast(self.device.type, enabled=False):  # a temperature of 100 is too much for half precision
            texts = torch.cat([texts.float(), F.normalize(self.no_object_text, dim=-1)])
            return self.size.clip.temperature * F.normalize(class_embeddings.float(), dim=-1) @ texts.T

    def encode_images(self, pixels: Tensor) -> ImageFeatures:
        """Backbone and pixel decoder on (b, 3, hp, wp), normalised."""
        maps = self.backbone(pixels)
        return ImageFeatures(maps[-1], self.pixel_decoder(maps))

    def propose(self, features: ImageFeatures, object_masks: Tensor, *, last_only: bool = False) -> Proposals:
        """Proposals for objects.

        Args:
            features: of b images; of one, for several objects of it.
            object_masks: float (b, hp, wp), 1 inside; all 0 for no prompt.
            last_only: of the decoder's last layer only.
        """
        count = len(object_masks)
        states = self.transformer_decoder(
            features.coarse.expand(count, -1, -1, -1), key_bias(object_masks, self.key_mask)
        )
        if last_only:
            states = states[-1:]
        mask_features = features.mask_features.expand(count, -1, -1, -1)
        prompt = object_feature(mask_features, object_masks, self.feature_mean)
        return Proposals(
            self.transformer_decoder.class_embed(states + prompt[:, None]),
            self.transformer_decoder.mask_logits(states, mask_features),
        )

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Training loss of stage 1: classification, focal and dice loss of every decoder layer.

        Args:
            batch: ``images`` (list of uint8 (3, h, w)), ``part_maps`` and ``object_maps`` (lists of int64 (h, w), ids
                of ``vocabulary`` or its ignore label; one object each), ``vocabulary``.

        Returns:
            See :func:`models.maskformer.losses.maskformer_losses`.

        Raises:
            ValueError: a record shows several objects, or a label is neither in the vocabulary nor its ignore label.
        """
        vocabulary, pixels = batch["vocabulary"], self.padded(batch["images"])
        size = tuple(pixels.shape[-2:])
        segments = self.targets(batch, size)
        withheld = [number for number, name in enumerate(vocabulary.objects) if name in self.withheld_objects]
        object_maps = [object_map.to(self.device) for object_map in batch["object_maps"]]
        masks = record_masks(object_maps, size, vocabulary.ignore_label, withheld)
        if self.prompt_dropout and self.training:
            masks = masks * (torch.rand(len(masks)) >= self.prompt_dropout).to(masks).view(-1, 1, 1)
        proposals = self.propose(self.encode_images(pixels), masks)
        return maskformer_losses(
            self.class_logits(proposals.class_embeddings, self.encode_vocabulary(vocabulary)),
            proposals.mask_logits,
            segments,
            mask_weight=self.mask_weight,
            no_object_weight=self.no_object_weight,
        )

    def score(
        self, images: Sequence[Tensor], request: Request, regions: Sequence[Sequence[ObjectRegion]] | None = None
    ) -> list[tuple[Scores, Maps]]:
        """What :meth:`predict` and :meth:`inspect` give.

        Args:
            images: uint8 (3, H, W) RGB each; sizes may differ.
            request: the background says, without regions, where no object was found. The maps are ``proposals``, the
                queries of stage 1, and ``regions``, what they make of the object and what CLIP said of each; without
                regions, those of all objects found in the image, or the queries by themselves where there is none.
            regions: for each image, the objects in it, each of them a mask or, all True, a box. None: the objects are
                found first, see :mod:`systems.zsseg_plus.objects`.

        Returns:
            With regions, scores for each, image by image: 0 for parts of other objects. Without, scores for each image,
            with every part inside the objects it was found on, and ``background`` 1 outside of them. They are
            probabilities, at the size of stage 1.

        Raises:
            ValueError: no image, an image of another kind, or a region that is empty, does not fit its image, or is of
                an object without parts.
        """
        checked_images(images)
        texts = self.encode_vocabulary(request.vocabulary)
        first = next((region for of_image in regions or () for region in of_image), None)
        scored = []
        for image, of_image in zip(images, regions or [None] * len(images), strict=True):
            scored += score_image(self, image, texts, request, of_image, first)
        if not request.background:
            for scores, _ in scored:
                scores.background = None
        return scored
