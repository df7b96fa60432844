"""Systems that classify mask proposals by text, and again by CLIP on the masks' crops."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from pydantic import Field, PositiveInt
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ovparts_lib.checked import checked_arguments
from ovparts_lib.images import checked_images
from ovparts_lib.models.clip.crops import CropRule, cut_crops, mask_boxes
from ovparts_lib.models.clip.prompts import TEMPLATES
from ovparts_lib.models.clip.text_cache import TextCache
from ovparts_lib.models.clip.token_masks import patch_masks
from ovparts_lib.models.clip.towers import AfterBlock, image_embeddings
from ovparts_lib.models.mask2former.masked_decoder import MaskedDecoder
from ovparts_lib.models.maskformer.size import ProposalSize
from ovparts_lib.models.maskformer.transformer_decoder import TransformerDecoder
from ovparts_lib.systems.ensemble import OTHERS, fuse_masks, geometric_ensemble, only_clip
from ovparts_lib.systems.proposal_segmenter import ProposalSegmenter, enlarged_masks
from ovparts_lib.systems.scores import Maps, Request, Scores
from ovparts_lib.systems.shared_options import Classifier, WithoutCrop
from ovparts_lib.vocabularies import Vocabulary

logger = logging.getLogger(__name__)
_CROPS_AT_ONCE = {"cpu": 8, "cuda": 64}
TEXT_TOWER = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
_MASKS_AT_ONCE = 16  # of bool masks, to bound memory


@dataclass
class Crops:
    """Masks of an image that have a pixel, v of k, as CLIP is shown them.

    Attributes:
        valid: bool (k,), which have.
        boxes: int64 (v, 4), x0, y0, x1, y1, the last two exclusive.
        pixels: float32 (v, 3, side, side), normalised.
        kept: bool (v, patches), patches that hold any of the mask.
        embeddings: float32 (v, embed_dim), normalised; None until they are made.
    """

    valid: Tensor
    boxes: Tensor
    pixels: Tensor
    kept: Tensor
    embeddings: Tensor | None = None


def cut(image: Tensor, masks: Tensor, rule: CropRule, visual: VisionTransformer) -> Crops:
    """Crops of masks.

    Args:
        image: (3, h, w) RGB, 0..255.
        masks: (k, h, w), probabilities or bool.
        rule: how masks become crops.
        visual: the image tower that will see them.
    """
    boxes = torch.cat([mask_boxes(some > rule.threshold) for some in masks.split(_MASKS_AT_ONCE)])
    valid = boxes[:, 2] > 0
    side, patch = visual.image_size[0], visual.patch_size[0]
    if not valid.any():
        empty = image.new_zeros(0, 3, side, side, dtype=torch.float32)
        return Crops(valid, boxes[valid], empty, valid.new_zeros(0, (side // patch) ** 2))
    shown = [masks[number] for number in valid.nonzero()[:, 0]]  # views: all masks at once may take half a gigabyte
    pixels, crop_masks = cut_crops(image, shown, boxes[valid], side, rule)
    return Crops(valid, boxes[valid], pixels, patch_masks(crop_masks, patch))


def embed_crops(
    visual: VisionTransformer, crops: Crops, at_once: int, hook_of: Callable[[Tensor], AfterBlock] | None = None
) -> Tensor:
    """CLIP embeddings of crops, normalised, float32 (v, embed_dim).

    Args:
        visual: the image tower.
        crops: of one image.
        at_once: crops in one pass; bounds memory and changes no result.
        hook_of: gives the ``after_block`` hook of some of the crops, int64 (n,); None for none.
    """
    embeddings = [crops.pixels.new_zeros(0, visual.output_dim)]
    for rows in torch.arange(len(crops.pixels), device=crops.pixels.device).split(at_once):
        hook = None if hook_of is None else hook_of(rows)
        features = image_embeddings(visual, crops.pixels[rows], after_block=hook)
        embeddings.append(F.normalize(features.float(), dim=-1))
    return torch.cat(embeddings)


def competing_classes(vocabulary: Vocabulary) -> tuple[str, ...]:
    """The classes of the softmax in which images are scored: a single word competes with "others"."""
    return tuple(vocabulary.classes) if len(vocabulary.classes) > 1 else (*vocabulary.classes, OTHERS)


class MaskClassifier(ProposalSegmenter):
    """Mask proposals, an embedding of each that is compared with the classes' texts, and CLIP on the masks' crops.

    A system adds the networks: ``_query_states`` of a batch, the decoder whose heads read masks and embeddings from
    them, and ``classified``, which says everything of the masks of one image.

    Args:
        size: hyper-parameters.
        crop_rule: how masks become crops.
        classifier: ``ensemble`` of both, ``proposals`` alone (CLIP sees no crops), or ``clip`` alone, which OVSeg's
            release calls an ensemble weight of 0: masks without a crop are then dropped.
        ensemble_weight: share of CLIP in the ensemble's exponent, above 0 and below 1.
        crops_at_once: crops in one pass of CLIP; None chooses by device.
        lr_multipliers: factors of the learning rate by trainable group.

    Raises:
        ValueError: an option out of its range.
    """

    query_decoder: TransformerDecoder | MaskedDecoder
    undecayed = ("relative_position_bias_table",)
    without_crop: WithoutCrop = "as_released"
    cut_at: float | None = None  # probability at which each class's best mask is cut; None sums all soft masks

    @checked_arguments
    def __init__(
        self,
        size: ProposalSize,
        crop_rule: CropRule,
        *,
        classifier: Classifier = "ensemble",
        ensemble_weight: Annotated[float, Field(gt=0, lt=1)] = 0.7,
        crops_at_once: PositiveInt | None = None,
        lr_multipliers: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.set_rates(lr_multipliers or {})
        self.size, self.crop_rule, self.classifier = size, crop_rule, classifier
        self.ensemble_weight, self.crops_at_once = ensemble_weight, crops_at_once

    def _add_texts(self) -> None:
        """The learned "no object", and what encodes the classes' names."""
        clip = self.size.clip
        self.no_object_text = nn.Parameter(torch.randn(1, clip.embed_dim) * clip.text_width**-0.5)
        self.templates = TEMPLATES[self.size.templates]
        self.text_cache = TextCache(synonyms=False)
        self._texts: dict[tuple[str, ...], Tensor] = {}  # of one vocabulary, while the text tower is out of memory

    @property
    def at_once(self) -> int:
        """Crops in one pass of CLIP."""
        return self.crops_at_once or _CROPS_AT_ONCE.get(self.device.type, 8)

    def encode_classes(self, names: Sequence[str]) -> Tensor:
        """Text embeddings of classes, each the mean over templates, and of "no object" as the last one.

        Returns:
            float32 (names + 1, embed_dim), normalised; the names' without gradient.

        Raises:
            ValueError: the text tower is out of memory, and these are not the names it was asked for before.
        """
        text = self._encode_names(tuple(name.strip() for name in names)).to(self.device)
        return torch.cat([text, F.normalize(self.no_object_text.float(), dim=-1)])

    def _encode_names(self, names: tuple[str, ...]) -> Tensor:
        if self._texts:
            if names not in self._texts:
                raise ValueError("CLIP's text tower is out of memory for now; only the vocabulary at hand can be used")
            return self._texts[names]
        return F.normalize(self.text_cache.encode(self.clip, names, self.templates).mean(1), dim=-1)

    @contextmanager
    def without_unused_towers(self, vocabulary: Vocabulary) -> Iterator[Callable[[], AbstractContextManager[None]]]:
        """Keep out of memory what one vocabulary does without: in training CLIP, otherwise CLIP's text tower.

        It is written to a temporary file (1.7 GB for ViT-L/14, its text tower 0.5 GB) and read back in the end, and in
        the context that is yielded; where no file can be written, it stays in memory. The texts of the vocabulary are
        computed before; no other can be used meanwhile.
        """
        classes = vocabulary.classes if self.training else competing_classes(vocabulary)
        names = tuple(name.strip() for name in classes)
        texts = {names: self._encode_names(names)}
        owner, unused = (self, ("clip",)) if self.training else (self.clip, TEXT_TOWER)
        modules = {name: getattr(owner, name) for name in unused}
        tensors = {name: tensor for name, tensor in owner.named_parameters() if name.split(".")[0] in unused}

        def let_go() -> None:
            for name in unused:
                setattr(owner, name, None)
            for tensor in tensors.values():
                tensor.data = tensor.data.new_empty(0)
            self._texts = texts

        def bring_back() -> None:
            for name, values in load_file(file).items():
                tensors[name].data = values.to(self.device)
            for name, module in modules.items():
                setattr(owner, name, module)
            self._texts = {}

        @contextmanager
        def brought_back() -> Iterator[None]:
            bring_back()
            try:
                yield
            finally:
                let_go()

        with ExitStack() as held:
            try:
                file = Path(held.enter_context(tempfile.TemporaryDirectory())) / "clip.safetensors"
                save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, file)
            except (OSError, SafetensorError) as error:  # a full disk is no reason to stop
                held.close()
                logger.warning("CLIP's unused towers stay in memory: no temporary file can be written (%s)", error)
                yield nullcontext
                return
            let_go()
            try:
                yield brought_back
            finally:
                bring_back()

    def score(self, images: Sequence[Tensor], request: Request, **inputs: Sequence[Any]) -> list[tuple[Scores, Maps]]:
        """Scores of soft masks and their classes, at the size of test pictures.

        Every class of the vocabulary takes part in the softmax, whatever is asked for. A vocabulary of one word is
        scored against "others", which becomes the background. Maps: what :meth:`classified` gives.
        """
        classes = competing_classes(request.vocabulary)
        text, results = self.encode_classes(classes), []
        for number, image in enumerate(checked_images(images)):
            own = {name: values[number] for name, values in inputs.items()}
            maps = self.classified(self.resized(image).to(self.device), classes, text, **own)
            scores = fuse_masks(
                maps["proposals"],
                tuple(image.shape[-2:]),
                request.class_ids,
                cut_at=self.cut_at,
                background=request.background,
                single=len(request.vocabulary.classes) == 1,
            )
            results.append((scores, maps if request.inspected else {}))
        return results

    def combine(self, proposals: Tensor | None, clip: Tensor | None, valid: Tensor | None) -> Tensor:
        """What each mask counts for each class, (k, n).

        Args:
            proposals: P, (k, n); None for a user's own masks, which CLIP alone classifies.
            clip: Q, (v, n), of the masks that CLIP was asked about; None where it was not.
            valid: bool (k,), which masks these are.
        """
        if clip is None:
            return proposals
        if proposals is None or self.classifier == "clip":
            return only_clip(clip, valid)
        return geometric_ensemble(proposals, clip, valid, self.ensemble_weight, self.without_crop)

    def propose_masks(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mask proposals of one image, uint8 (3, h, w) and resized already, and their embeddings.

        Returns:
            Probabilities float32 (queries, h, w), and embeddings (queries, embed_dim).
        """
        inputs, decoder = self.padded([image]), self.query_decoder
        states, mask_features = self._query_states(inputs)
        logits = decoder.mask_logits(states[-1], mask_features)
        del mask_features
        masks = enlarged_masks(logits[0], inputs.shape[-2:], image.shape[-2:])
        return masks.sigmoid_(), decoder.class_embed(states[-1, 0])

    def _class_logits(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """Cosines of proposals' embeddings and texts, at the temperature."""
        embeddings = embeddings.float()
        return self.size.clip.temperature * (embeddings / embeddings.norm(dim=-1, keepdim=True)) @ text.T
