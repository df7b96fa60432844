"""The MiniClip that comes with the package: its file, what is known of its training, and how it is read.

The file holds half precision, and of CLIP's 49408 token embeddings only those of words that captions use; the others
are zero when it is read. A text of other words is therefore told apart by their number alone: :func:`unknown_words`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch

from ovparts_lib.checkpoints.native import load_weights, save_weights
from ovparts_lib.miniature.miniclip import MiniClipSettings, train_miniclip
from ovparts_lib.miniature.naming import close_up_naming, held_out_scenes, patch_naming
from ovparts_lib.miniature.token_rows import known_tokens
from ovparts_lib.miniature.words import Words
from ovparts_lib.models.clip.text import tokenize
from ovparts_lib.models.clip.towers import MINIATURE, ClipSize, build_clip
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary

FILE = Path(__file__).with_name("miniclip.safetensors")
TEST_SEED = 2  # of the scenes whose patches and close-ups the stated accuracy is of
FIRST_SCENES = 24  # a few of these, for a quick check
_TABLE = "token_embedding.weight"


def make_miniclip(
    path: Path,
    settings: MiniClipSettings,
    size: ClipSize = MINIATURE,
    *,
    commit: str = "",
    test_scene_count: int = 400,
    **training: Any,
) -> None:
    """Train a MiniClip and write it with all that is known of it; see :func:`train_miniclip`, :func:`save_miniclip`."""
    result = train_miniclip(size, settings=settings, **training)
    vocabulary = load_vocabulary("pascal_part_116")
    scenes = held_out_scenes(vocabulary, test_scene_count, TEST_SEED)
    tables = {
        "patches": patch_naming(result.clip, scenes, vocabulary),
        "patches_of_first_scenes": patch_naming(result.clip, scenes[:FIRST_SCENES], vocabulary),
        "close_ups": close_up_naming(result.clip, scenes, vocabulary, size.image_size),
    }
    facts = {
        "settings": asdict(settings),
        "commit": commit,
        "seconds": float(result.history["seconds"].iloc[-1]),
        "accuracy": {name: table.round(2).to_dict("index") for name, table in tables.items()},
        "history": json.loads(result.history.to_json(orient="records")),
    }
    save_miniclip(result.clip, size, facts, path)


def save_miniclip(
    clip: open_clip.CLIP, size: ClipSize, facts: Mapping[str, Any], path: Path, vocabulary: PartVocabulary | None = None
) -> None:
    """Write a MiniClip, and beside it, as JSON, what is known of its training, with the hash of the file.

    Args:
        clip: trained on the words of the vocabulary.
        size: its hyper-parameters.
        facts: recipe, seed, commit, seconds, history, accuracy; anything JSON can say.
        path: of the weights, ``.safetensors``.
        vocabulary: None for Pascal-Part-116's.
    """
    state = clip.state_dict()
    numbers = known_tokens(Words(vocabulary or load_vocabulary("pascal_part_116")).texts())
    tensors = {name: tensor.half() for name, tensor in state.items() if name != _TABLE}
    tensors |= {"tokens": numbers.int(), "token_rows": state[_TABLE].cpu()[numbers].half()}
    save_weights(tensors, path, {"system": "miniclip", "size": asdict(size)})
    described = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": asdict(size), **facts}
    path.with_suffix(".json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def load_miniclip(path: Path = FILE) -> tuple[open_clip.CLIP, ClipSize]:
    """A MiniClip in evaluation mode, float32, and its size.

    Raises:
        CheckpointError: the file is not one of :func:`save_miniclip`.
    """
    tensors, metadata = load_weights(path, "miniclip")
    size = ClipSize(**metadata["size"])
    clip = build_clip(size)
    table = torch.zeros_like(clip.token_embedding.weight)
    table[tensors.pop("tokens").long()] = tensors.pop("token_rows").float()
    clip.load_state_dict({_TABLE: table, **{name: tensor.float() for name, tensor in tensors.items()}})
    return clip.eval(), size


def miniclip_facts(path: Path = FILE) -> dict[str, Any]:
    """What was written beside the weights: hash, size, recipe, history, accuracy."""
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def unknown_words(texts: Sequence[str], path: Path = FILE) -> list[str]:
    """Those of the texts that hold a token which no caption of MiniClip's had."""
    known = load_weights(path, "miniclip")[0]["tokens"]
    return [text for text in texts if not bool(torch.isin(tokenize([text]), known).all())]
