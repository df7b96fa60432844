"""What MiniClip learns from: pictures and captions, and the words that are true of a picture, asked of its patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.images import square_pixels
from ovparts_lib.miniature.pictures import CaptionedPicture
from ovparts_lib.miniature.token_rows import TokenRows
from ovparts_lib.miniature.words import Words
from ovparts_lib.models.clip.dense import value_block
from ovparts_lib.models.clip.towers import image_hidden_states


def miniclip_losses(
    clip: open_clip.CLIP,
    texts: TokenRows,
    words: Words,
    pictures: Sequence[CaptionedPicture],
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """CLIP's loss on captions, and what the words alone ask of patches.

    - ``captions``: symmetric InfoNCE of class tokens and captions; equal captions are true of each other's pictures.
    - ``close_ups``: class token, and mean of the patches, against all object-specific parts, where a picture is about
      one.
    - ``patches``: every patch shows one of the words that are true of its picture, whichever.
    - ``words``: every word that is true of a picture is shown by some patch of it.

    The last two are those of multiple-instance learning, summed over the tables of words that exclude one another
    (:class:`Words`). Patches are the dense features that cost-aggregation systems compare with words.
    """
    device = texts.rows.device
    images = [torch.tensor(picture.picture).permute(2, 0, 1) for picture in pictures]
    pixels = square_pixels(images, images[0].shape[-1], device)
    true = torch.from_numpy(np.stack([picture.words for picture in pictures])).to(device)
    about = torch.tensor([-1 if picture.part is None else picture.part for picture in pictures], device=device)
    captions = [picture.caption for picture in pictures]
    # encoded apart: a batch is as long as its longest text, and captions are long
    word, caption = texts.encode(words.wordings(rng)), texts.encode(captions)
    whole, dense = embed(clip, pixels)
    scale = clip.logit_scale.exp().clamp(max=100)
    numbers = torch.tensor([captions.index(text) for text in captions], device=device)
    same = (numbers[:, None] == numbers) | ((about[:, None] == about) & (about >= 0))
    losses = {"captions": contrastive_loss(scale * F.normalize(whole, dim=-1) @ caption.T, same)}
    close = about >= 0
    if close.any():
        views = [F.normalize(view[close], dim=-1) @ word[: len(words.parts)].T for view in (whole, dense.mean(1))]
        losses["close_ups"] = sum(F.cross_entropy(scale * view, about[close]) for view in views) / 2
    similarity = scale * F.normalize(dense, dim=-1) @ word.T
    tables = [word_losses(similarity[:, :, table], true[:, table]) for table in words.tables]
    losses["patches"], losses["words"] = (sum(values) / 2 for values in zip(*tables, strict=True))
    return losses


def embed(clip: open_clip.CLIP, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Embedding of each picture (n, embed_dim), CLIP's own, and those of its patches (n, patches, embed_dim).

    One pass gives both: the dense features leave the last block by its value path (:mod:`models.clip.dense`).
    """
    visual = clip.visual
    depth = len(visual.transformer.resblocks)
    states = image_hidden_states(visual, pixels, (depth - 1, depth)).states
    patches = value_block(visual.transformer.resblocks[-1], states[depth - 1][:, 1:])
    return visual.ln_post(states[depth][:, 0]) @ visual.proj, visual.ln_post(patches) @ visual.proj


def word_losses(similarity: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Multiple-instance losses of patches and words that exclude one another.

    Args:
        similarity: logits (n, patches, words).
        true: bool (n, words), which are true of the picture; pictures of which none is true do not count.

    Returns:
        Mean over patches of ``-log`` of the probability that lies on true words; mean over true words of ``-log`` of
        their probability in the picture, the mean over patches weighted by itself (linear softmax pooling: Wang et
        al., ICASSP 2019), which asks for some patch that is sure, and not for many.
    """
    known = true.any(1)
    shares, true = similarity[known].softmax(-1), true[known]
    if not len(true):
        return similarity.sum() * 0, similarity.sum() * 0
    on_true = (shares * true[:, None]).sum(-1).clamp(min=1e-6)
    pooled = (shares.square().sum(1) / shares.sum(1).clamp(min=1e-9)).clamp(min=1e-6)
    return -on_true.log().mean(), -(pooled.log() * true).sum() / true.sum()


def contrastive_loss(logits: Tensor, true: Tensor) -> Tensor:
    """Symmetric InfoNCE in which several captions may be true of a picture, and of several pictures.

    Args:
        logits: (n, n) of pictures and their captions.
        true: bool, same shape, True on the diagonal; the target mass is shared among what is true.
    """
    directions = [(logits, true), (logits.T, true.T)]
    return sum(-(t / t.sum(1, keepdim=True) * m.log_softmax(1)).sum(1).mean() for m, t in directions) / 2
