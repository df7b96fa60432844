"""What all systems share: choosing what trains, and one way into prediction and inspection."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ovparts_lib.checkpoints.clip import load_clip_into
from ovparts_lib.checkpoints.reading import LoadReport
from ovparts_lib.models.clip.text import refuse_alike
from ovparts_lib.models.clip.text_cache import TextCache
from ovparts_lib.systems.parameter_groups import known_group, train_only
from ovparts_lib.systems.scores import Maps, Request, Scores, checked_class_ids
from ovparts_lib.vocabularies import PartVocabulary, Vocabulary

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.Embedding)


class SegmentationSystem(nn.Module):
    """Open-vocabulary segmentation: ``loss`` of a batch, ``predict`` and ``inspect`` of images under a vocabulary.

    A system defines ``loss(batch) -> dict[str, Tensor]`` and ``score(images, request)``, which gives the scores and, if
    ``request.inspected``, the maps of each image. What a system can be told of an image beside its pixels it names in
    ``image_inputs``, and ``score`` takes it by that name where it was given. A system that is given ``regions`` gives a
    pair per region, image by image; what does not depend on the region it computes once per image.

    Attributes:
        groups: ``{group: beginnings of parameter names}``, what :meth:`set_trainable` knows.
        frozen: beginnings of the names of parameters that never train, whatever group they are in.
        undecayed: endings of the names of parameters without weight decay, beside those of norms and embedding tables.
        lr_multipliers: factors of the learning rate by group; a parameter of several groups has that of the first.
        needs_parts: whether it takes a :class:`PartVocabulary` only.
        needs_regions: whether scores depend on the masks of the records' objects; without them, such a system finds
            the objects by itself.
        text_cache: of a system that encodes names without learned prompts.
        image_inputs: ``regions``, for each image those of its records; ``masks``, for each image a user's own;
            ``proposed``, for each image the proposals that the system has made before.
    """

    groups: ClassVar[Mapping[str, tuple[str, ...]]]
    frozen: tuple[str, ...] = ()
    undecayed: ClassVar[tuple[str, ...]] = ()
    lr_multipliers: Mapping[str, float] = {}
    needs_parts: ClassVar[bool] = False
    needs_regions: ClassVar[bool] = False
    image_inputs: ClassVar[tuple[str, ...]] = ()
    text_cache: TextCache | None = None
    score: Callable[..., list[tuple[Scores, Maps]]]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def set_trainable(self, groups: Collection[str]) -> list[str]:
        """Choose what trains; everything else is frozen.

        Args:
            groups: of ``groups``; the published choice is ``RELEASED_GROUPS`` beside the model.

        Returns:
            Names of the parameters that train.

        Raises:
            ValueError: no such group.
        """
        return train_only(self, self.groups, groups, self.frozen)

    def set_rates(self, lr_multipliers: Mapping[str, float]) -> None:
        """Set ``lr_multipliers``. Raises ValueError for a group that does not exist."""
        for group in lr_multipliers:
            known_group(self.groups, group)
        self.lr_multipliers = dict(lr_multipliers)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """What trains, for the optimiser: norms and embedding tables without weight decay, all else, biases too, with.

        Args:
            weight_decay: of what decays.
        """
        modules = (module for module in self.modules() if isinstance(module, _NORMS))
        norms = {id(parameter) for module in modules for parameter in module.parameters(recurse=False)}
        found: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                decay = 0.0 if id(parameter) in norms or name.endswith(self.undecayed) else weight_decay
                factors = (rate for group, rate in self.lr_multipliers.items() if name.startswith(self.groups[group]))
                found.setdefault((next(factors, 1.0), decay), []).append(parameter)
        return [
            {"params": parameters, "weight_decay": decay, "lr_multiplier": multiplier}
            for (multiplier, decay), parameters in found.items()
        ]

    def load_clip(self, path: str | Path) -> LoadReport:
        """Give a new system CLIP weights, see :func:`~ovparts_lib.checkpoints.clip.load_clip_into`."""
        return load_clip_into(self.clip, path)

    @contextmanager
    def without_unused_towers(self, vocabulary: Vocabulary) -> Iterator[Callable[[], AbstractContextManager[None]]]:
        """A system may let go of what it does without while only one method is called, with this vocabulary alone.

        The method is :meth:`loss` in training mode, and :meth:`predict` in evaluation mode.

        Yields:
            A context in which everything works all the same, for periodic evaluation of a training.
        """
        yield nullcontext

    def predict(
        self,
        images: Sequence[Tensor],
        vocabulary: Vocabulary,
        *,
        class_ids: Sequence[int] | None = None,
        background: bool = True,
        **inputs: Sequence[Any] | None,
    ) -> list[Scores]:
        """Score the classes of a vocabulary on images.

        Args:
            images: uint8 (3, H, W) RGB each; sizes may differ.
            vocabulary: the words to look for.
            class_ids: indices of the classes to score, in that order; None for all. Only these are decoded.
            background: also give the background's logits, if the system has them, and the objects' scores of a system
                that also predicts objects: what pred-all needs and the oracle does not.
            **inputs: what the system can be told of each image, by the names of ``image_inputs``; None for nothing.

        Returns:
            One :class:`Scores` per image; with regions one per region, image by image.

        Raises:
            ValueError: no image, an image of another kind, class ids that do not exist or repeat, a vocabulary the
                system cannot read, or regions or masks for a system that takes none, or for another number of images.
        """
        request = Request(vocabulary, checked_class_ids(class_ids, vocabulary), background, inspected=False)
        return [scores for scores, _ in self._scored(images, request, inputs)]

    def inspect(
        self,
        images: Sequence[Tensor],
        vocabulary: Vocabulary,
        *,
        class_ids: Sequence[int] | None = None,
        background: bool = True,
        **inputs: Sequence[Any] | None,
    ) -> list[tuple[Scores, Maps]]:
        """As :meth:`predict`, with what can be looked at beside the scores; see :data:`Maps`.

        In the released sizes one class's attention maps take 11 MiB (the CLIPSeg family) and those of CLIP's image
        tower 160 MB (the CAT-Seg family), so ask for a few classes.
        """
        request = Request(vocabulary, checked_class_ids(class_ids, vocabulary), background, inspected=True)
        return self._scored(images, request, inputs)

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
        self, images: Sequence[Tensor], request: Request, inputs: Mapping[str, Sequence[Any] | None]
    ) -> list[tuple[Scores, Maps]]:
        self.check_vocabulary(request.vocabulary)
        given = {name: values for name, values in inputs.items() if values is not None}
        for name, values in given.items():
            if name not in self.image_inputs:
                raise ValueError(f"{type(self).__name__} takes no {name}")
            if len(values) != len(images):
                raise ValueError(f"there are {len(images)} images, and {name} for {len(values)} images")
        return self.score(images, request, **given)


def chosen_queries(targets: Tensor, count: int, number: int | None) -> Tensor:
    """Channels to decode in a training step, ascending: the classes in ``targets``, others at random, the background.

    Processes that train together choose together, from the targets of all of them, so that a batch spread over devices
    gives the loss that it has on one.

    Args:
        targets: channels 0..count, any shape; ``count`` is the background.
        count: number of classes.
        number: of classes to choose, if no more occur; None for all.

    Returns:
        int64 (m + 1,), the last one ``count``.
    """
    if number is None or number >= count:
        return torch.arange(count + 1, device=targets.device)
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
