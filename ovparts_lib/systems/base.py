"""What all systems share: choosing what trains, and one way into prediction and inspection."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ovparts_lib.checkpoints.clip import load_clip_into
from ovparts_lib.checkpoints.reading import LoadReport
from ovparts_lib.data.dataset import ObjectRegion
from ovparts_lib.models.clip.text import refuse_alike
from ovparts_lib.systems.scores import Maps, Scores, checked_class_ids
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary


class SegmentationSystem(nn.Module):
    """Open-vocabulary segmentation: ``loss`` of a batch, ``predict`` and ``inspect`` of images under a vocabulary.

    A system defines ``loss(batch) -> dict[str, Tensor]`` and ``score(images, vocabulary, class_ids, background,
    inspected)``, which gives the scores and, if ``inspected``, the maps of each image. A system that needs regions
    takes these as one more argument and gives a pair per region, image by image; what does not depend on the region it
    computes once per image.

    Attributes:
        groups: ``{group: beginnings of parameter names}``, what :meth:`set_trainable` knows.
        needs_parts: whether it takes a :class:`PartVocabulary` only.
        needs_regions: whether scores depend on the masks of the records' objects; without them, such a system finds
            the objects by itself.
        takes_masks: whether ``predict`` and ``inspect`` take a user's ``masks`` in place of its own proposals.
    """

    groups: ClassVar[Mapping[str, tuple[str, ...]]]
    needs_parts: ClassVar[bool] = False
    needs_regions: ClassVar[bool] = False
    takes_masks: ClassVar[bool] = False
    score: Callable[..., list[tuple[Scores, Maps]]]

    def set_trainable(self, groups: Collection[str]) -> list[str]:
        """Choose what trains; everything else is frozen.

        Args:
            groups: of ``groups``; the published choice is ``RELEASED_GROUPS`` beside the model.

        Returns:
            Names of the parameters that train.

        Raises:
            ValueError: no such group.
        """
        beginnings = tuple(beginning for group in groups for beginning in self.beginnings(group))
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(beginnings) if beginnings else False)
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def beginnings(self, group: str) -> tuple[str, ...]:
        """Beginnings of the parameter names of a trainable group. Raises ValueError that names the nearest group."""
        if group not in self.groups:
            near = get_close_matches(group, self.groups, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.groups)}"
            raise ValueError(f"no trainable group {group!r}; {hint}")
        return self.groups[group]

    def load_clip(self, path: str | Path) -> LoadReport:
        """Give a new system CLIP weights, see :func:`~ovparts_lib.checkpoints.clip.load_clip_into`."""
        return load_clip_into(self.clip, path)

    def predict(
        self,
        images: Sequence[Tensor],
        vocabulary: Vocabulary,
        *,
        class_ids: Sequence[int] | None = None,
        background: bool = True,
        regions: Sequence[Sequence[ObjectRegion]] | None = None,
    ) -> list[Scores]:
        """Score the classes of a vocabulary on images.

        Args:
            images: uint8 (3, H, W) RGB each; sizes may differ.
            vocabulary: the words to look for.
            class_ids: indices of the classes to score, in that order; None for all. Only these are decoded.
            background: also give the background's logits, if the system has them, and the objects' scores of a system
                that also predicts objects: what pred-all needs and the oracle does not.
            regions: for each image those of its records, if the system needs them; None otherwise, and to have the
                objects found.

        Returns:
            One :class:`Scores` per image; with regions one per region, image by image.

        Raises:
            ValueError: no image, an image of another kind, class ids that do not exist or repeat, a vocabulary the
                system cannot read, or regions for a system that takes none.
        """
        return [scores for scores, _ in self._scored(images, vocabulary, class_ids, background, regions, False)]

    def inspect(
        self,
        images: Sequence[Tensor],
        vocabulary: Vocabulary,
        *,
        class_ids: Sequence[int] | None = None,
        background: bool = True,
        regions: Sequence[Sequence[ObjectRegion]] | None = None,
    ) -> list[tuple[Scores, Maps]]:
        """As :meth:`predict`, with what can be looked at beside the scores; see :data:`Maps`.

        In the released sizes one class's attention maps take 11 MiB (the CLIPSeg family) and those of CLIP's image
        tower 160 MB (the CAT-Seg family), so ask for a few classes.
        """
        return self._scored(images, vocabulary, class_ids, background, regions, True)

    def check_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Raise ValueError for a vocabulary that lacks parts where they are needed, or holds one word twice."""
        if self.needs_parts and not isinstance(vocabulary, PartVocabulary):
            raise ValueError(
                f"{type(self).__name__} composes objects and parts, so it needs a PartVocabulary; {vocabulary.name!r} "
                "is a list of classes without parts"
            )
        refuse_alike(self.texts_of(vocabulary), vocabulary.classes)

    def texts_of(self, vocabulary: Vocabulary) -> list[tuple[str, ...]]:
        """The text, or texts, that stand for each class: what makes it another class to this system."""
        return [(name,) for name in vocabulary.classes]

    @torch.inference_mode()
    def _scored(
        self,
        images: Sequence[Tensor],
        vocabulary: Vocabulary,
        class_ids: Sequence[int] | None,
        background: bool,
        regions: Sequence[Sequence[ObjectRegion]] | None,
        inspected: bool,
    ) -> list[tuple[Scores, Maps]]:
        self.check_vocabulary(vocabulary)
        chosen = checked_class_ids(class_ids, vocabulary)
        if regions is not None and not self.needs_regions:
            raise ValueError(f"{type(self).__name__} takes no regions")
        arguments = () if regions is None else (regions,)
        return self.score(images, vocabulary, chosen, background, inspected, *arguments)


def chosen_queries(targets: Tensor, count: int, number: int) -> Tensor:
    """Channels to decode in a training step, ascending: the classes in ``targets``, others at random, the background.

    Processes that train together choose together, from the targets of all of them, so that a batch spread over devices
    gives the loss that it has on one.

    Args:
        targets: channels 0..count, any shape; ``count`` is the background.
        count: number of classes.
        number: of classes to choose, if no more occur.

    Returns:
        int64 (m + 1,), the last one ``count``.
    """
    present = torch.zeros(count + 1, dtype=torch.bool, device=targets.device)
    present[targets.unique()] = True
    draws = torch.rand(count).to(targets.device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        anywhere = present.int()
        torch.distributed.all_reduce(anywhere, torch.distributed.ReduceOp.MAX)
        torch.distributed.broadcast(draws, 0)
        present = anywhere.bool()
    # Classes that occur come first, the rest in random order.
    order = torch.argsort(draws - present[:count].float())
    kept = order[: max(number, int(present[:count].sum()))]
    return torch.cat([kept.sort().values, torch.tensor([count], device=targets.device)])


def batch_labels(batch: Mapping[str, Any], kind: Literal["part", "object"] = "part") -> list[Tensor]:
    """Label maps of a training batch, int64 (H, W) each, with the number of classes where there is no label.

    Args:
        batch: ``part_maps`` holds ids of the vocabulary's classes, ``object_maps`` of its objects.
        kind: which of them.

    Raises:
        ValueError: there are no such maps, or a label is neither a class nor the ignore label; the message names the
            image.
    """
    vocabulary, image_ids = batch["vocabulary"], batch.get("image_ids")
    if f"{kind}_maps" not in batch:
        raise ValueError(f"this system learns from {kind} maps too: the batch has no {kind}_maps")
    count = len(vocabulary.classes if kind == "part" else vocabulary.objects)
    maps = []
    for number, labels in enumerate(batch[f"{kind}_maps"]):
        labels = labels.long()  # loaders hand over the small type
        ignored = labels == vocabulary.ignore_label
        wrong = ~ignored & ((labels < 0) | (labels >= count))
        if bool(wrong.any()):
            name = f"image {image_ids[number]!r}" if image_ids else f"image {number} of the batch"
            raise ValueError(
                f"the {kind} map of {name} holds label {int(labels[wrong][0])}; the vocabulary {vocabulary.name!r} has "
                f"{kind}s 0 to {count - 1} and ignore label {vocabulary.ignore_label}: remap the labels to it first"
            )
        maps.append(labels.masked_fill(ignored, count))
    return maps
