"""CLIPSeg with trainable text embeddings and a visual adapter: the one-stage baseline of OV-PARTS.

A frozen CLIP image tower gives three activations; a small decoder, conditioned on the text embedding of one part name
at a time, turns them into that part's binary logits. One more fixed vector stands for the background.
Sources: Lüddecke and Ecker, "Image Segmentation Using Text and Image Prompts", CVPR 2022; Wei et al., "OV-PARTS",
NeurIPS 2023 (VA+L+F+D fine-tuning); and the code released with both.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ovparts_lib.images import square_pixels
from ovparts_lib.models.film_decoder import binary_segmentation_loss
from ovparts_lib.systems.base import batch_labels, chosen_queries
from ovparts_lib.systems.query_segmenter import MINIATURE_QUERY, RELEASED, QuerySegmenter
from ovparts_lib.systems.scores import AttentionMaps, Maps, Request, Scores
from ovparts_lib.vocabularies.vocabulary import Vocabulary

SIZES = {"released": RELEASED, "miniature": MINIATURE_QUERY}


class Clipseg(QuerySegmenter):
    """CLIPSeg for object-specific parts, or any classes. See the module's docstring.

    Its arguments are those of :class:`QuerySegmenter`; ``size`` is ``RELEASED`` or ``MINIATURE_QUERY``.
    """

    def texts_of(self, vocabulary: Vocabulary) -> list[tuple[str, ...]]:
        """The prompt of each class, ``"dog head"``: "car's wheel" and "car wheel" are one to CLIPSeg."""
        return [(prompt,) for prompt in vocabulary.prompts]

    def encode_vocabulary(self, vocabulary: Vocabulary) -> Tensor:
        """Conditions of a vocabulary's classes, (n, embed_dim), unnormalised; the background's is not among them.

        With gradient if the model is in training mode, gradients are enabled and the text tower has parameters that
        train; otherwise from the cache.
        """
        return self._encode_prompts(vocabulary.prompts)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Training loss of a batch: weighted binary cross-entropy over parts and background.

        A pixel without a part of the vocabulary, inside an object or not, is background. The embeddings of the words
        get gradients in training mode only (``model.train()``), see :meth:`encode_vocabulary`.

        Args:
            batch: ``images`` (list of uint8 (3, h, w)), ``part_maps`` (list of integer (H, W), ids of ``vocabulary`` or
                its ignore label), ``vocabulary``; ``image_ids``, if given, are used in messages.

        Returns:
            ``{"loss_sem_seg": scalar}``, float32.

        Raises:
            ValueError: a label is neither a part of the vocabulary nor its ignore label; the message names the image.
        """
        vocabulary = batch["vocabulary"]
        self.check_vocabulary(vocabulary)
        pixels = square_pixels(batch["images"], self.size.image_size, self.device)
        targets = self._resized_labels(batch_labels(batch), tuple(pixels.shape[-2:]))
        reduced, grid, _ = self._encode_images(pixels)
        conditions = torch.cat([self.encode_vocabulary(vocabulary), self.background_query])
        chosen = chosen_queries(targets, len(vocabulary.classes), self.training_queries)
        targets = torch.searchsorted(chosen, targets)
        logits, _ = self._decode(reduced, conditions[chosen], grid)
        return {"loss_sem_seg": binary_segmentation_loss(logits, targets, self.background_weight)}

    def score(self, images: Sequence[Tensor], request: Request) -> list[tuple[Scores, Maps]]:
        """Logits at ``image_size`` squared; the ``attention`` of the decoder for every class and of the image tower."""
        vocabulary, class_ids = request.vocabulary, request.class_ids
        # image encoder, once per image: activations of three blocks, reduced to the decoder's width
        pixels = square_pixels(images, self.size.image_size, self.device)
        reduced, grid, clip_attention = self._encode_images(pixels, request.inspected)
        # conditional vectors: text embeddings of the classes, and the background's fixed vector
        conditions = self.encode_vocabulary(vocabulary)[list(class_ids)]
        if request.background:
            conditions = torch.cat([conditions, self.background_query])
        # decoder, once per image and query
        logits, attention = self._decode(reduced, conditions, grid, request.inspected)
        logits, count, results = logits.float(), len(class_ids), []
        for number, image in enumerate(images):
            size, maps = tuple(image.shape[-2:]), {}
            background = logits[number, count] if request.background else None
            scores = Scores(logits[number, :count], class_ids, background, size)
            if request.inspected:
                maps["attention"] = AttentionMaps(
                    grid=grid,
                    decoder={layer: weights[number, :count] for layer, weights in enumerate(attention)},
                    clip={block: weights[number] for block, weights in clip_attention.items()},
                    queries=tuple(vocabulary.prompts[number] for number in class_ids),
                )
            results.append((scores, maps))
        return results

    def _decode(
        self, reduced: list[Tensor], conditions: Tensor, grid: tuple[int, int], keep_attention: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits (b, n, h, w), and the decoder's attention if asked for, a chunk of the queries at a time."""
        chunks = conditions.split(self._chunk_length(len(reduced[0])))
        parts = [self._recomputed(self.decoder, reduced, chunk, grid, keep_attention) for chunk in chunks]
        logits, attention = zip(*parts, strict=True)
        return torch.cat(logits, dim=1), [torch.cat(maps, dim=1) for maps in zip(*attention, strict=True)]
