"""How well a CLIP names what the miniature shows: patches of scenes, and close-ups of parts."""

from collections.abc import Sequence

import numpy as np
import open_clip
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ovparts_lib.images import square_pixels
from ovparts_lib.miniature.miniclip import normalise
from ovparts_lib.miniature.pictures import CaptionedPictures
from ovparts_lib.miniature.region_captions import SCENE_SIZE
from ovparts_lib.miniature.scene import Scene, generator, render_scene
from ovparts_lib.models.clip.dense import dense_image_features
from ovparts_lib.models.clip.prompts import MINIATURE
from ovparts_lib.models.clip.text import encode_text, tokenize
from ovparts_lib.vocabularies import PartVocabulary


def held_out_scenes(vocabulary: PartVocabulary, count: int, seed: int = 1) -> list[Scene]:
    """Scenes of a stream that MiniClip does not learn from."""
    return [render_scene(generator(seed, "val", number), vocabulary) for number in range(count)]


@torch.no_grad()
def patch_naming(clip: open_clip.CLIP, scenes: Sequence[Scene], vocabulary: PartVocabulary) -> pd.DataFrame:
    """How often the part nearest to a patch of a scene is the right one, in percent.

    Counted are patches of which a part covers at least half. Scenes are squashed to ``SCENE_SIZE``.

    Returns:
        See :func:`naming_table`.
    """
    text, device = _part_texts(clip, vocabulary), clip.logit_scale.device
    images = [torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes]
    patch = clip.visual.patch_size[0]
    side = SCENE_SIZE // patch
    similarities, truths = [], []
    for start in range(0, len(scenes), 32):
        pixels = square_pixels(images[start : start + 32], SCENE_SIZE, device)
        features = F.normalize(dense_image_features(clip.visual, pixels).features, dim=1)
        similarities.append(torch.einsum("bdhw,cd->bhwc", features, text).flatten(0, 2).cpu())
    for scene in scenes:
        rows, columns = (
            ((np.arange(SCENE_SIZE) + 0.5) * length / SCENE_SIZE).astype(int) for length in scene.part_map.shape
        )
        blocks = scene.part_map[np.ix_(rows, columns)].reshape(side, patch, side, patch).swapaxes(1, 2)
        counts = np.stack([np.bincount(block, minlength=256) for block in blocks.reshape(side * side, -1)])
        counts[:, 255] = 0
        truths.append(np.where(counts.max(1) >= patch * patch / 2, counts.argmax(1), -1))
    truth = torch.from_numpy(np.concatenate(truths))
    return naming_table(torch.cat(similarities)[truth >= 0], truth[truth >= 0], vocabulary)


@torch.no_grad()
def close_up_naming(clip: open_clip.CLIP, pictures: CaptionedPictures, vocabulary: PartVocabulary) -> pd.DataFrame:
    """The same of close-ups of parts and the class token; of the pictures, only close-ups count."""
    shown = [number for number, (kind, _, _) in enumerate(pictures.topics) if kind == "part"]
    truth = torch.tensor([vocabulary.pairs.index(pictures.topics[number][1:]) for number in shown])
    device = clip.logit_scale.device
    batches = torch.tensor(shown).split(128)
    images = torch.cat([clip.visual(normalise(pictures.pictures[batch].to(device))) for batch in batches])
    similarity = F.normalize(images, dim=-1) @ _part_texts(clip, vocabulary).T
    return naming_table(similarity.cpu(), truth, vocabulary)


def naming_table(similarity: Tensor, truth: Tensor, vocabulary: PartVocabulary) -> pd.DataFrame:
    """How often the most similar of all parts is the right one, in percent.

    Args:
        similarity: (n, parts).
        truth: int64 (n,).
        vocabulary: of the parts.

    Returns:
        Rows ``seen`` and ``unseen``; columns ``count``, ``among_all_parts``, ``among_own_parts`` (of the object shown,
        which is given), ``right_object``, ``right_generic_part``, and the chance levels ``chance_all`` and
        ``chance_own``.
    """
    owner, generic = torch.tensor(vocabulary.part_to_object), torch.tensor(vocabulary.part_to_generic)
    own = owner[truth][:, None] == owner
    named, named_own = similarity.argmax(1), similarity.masked_fill(~own, -torch.inf).argmax(1)
    facts = pd.DataFrame(
        {
            "group": ["seen" if vocabulary.is_seen_part(int(i)) else "unseen" for i in truth],
            "among_all_parts": 100.0 * (named == truth).numpy(),
            "among_own_parts": 100.0 * (named_own == truth).numpy(),
            "right_object": 100.0 * (owner[named] == owner[truth]).numpy(),
            "right_generic_part": 100.0 * (generic[named] == generic[truth]).numpy(),
            "chance_all": 100.0 / len(vocabulary.parts),
            "chance_own": (100.0 / own.sum(1)).numpy(),
        }
    )
    table = facts.groupby("group").mean()
    table.insert(0, "count", facts.groupby("group").size())
    return table


def _part_texts(clip: open_clip.CLIP, vocabulary: PartVocabulary) -> Tensor:
    """Normalised mean embeddings of all parts in the templates of the systems' miniatures, (parts, embed_dim)."""
    embeddings = [
        F.normalize(encode_text(clip, tokenize([template.format(name) for name in vocabulary.parts])), dim=-1)
        for template in MINIATURE
    ]
    return F.normalize(sum(embeddings), dim=-1)
