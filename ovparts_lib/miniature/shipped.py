"""The MiniClip that comes with the package: its file, what is known of its training, and how it is read.

The file holds half precision, and of CLIP's 49408 token embeddings only those of words that captions use; the others
are zero when it is read. Texts of other words are therefore told apart by their length alone.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import pandas as pd
import torch

from ovparts_lib.checkpoints.native import load_weights, save_weights
from ovparts_lib.miniature.miniclip import MiniClipResult, MiniClipSettings, train_miniclip
from ovparts_lib.miniature.naming import close_up_naming, held_out_scenes, patch_naming
from ovparts_lib.miniature.pictures import CaptionedPictures
from ovparts_lib.miniature.region_captions import CaptionedScenes
from ovparts_lib.models.clip.towers import MINIATURE, ClipSize, build_clip
from ovparts_lib.vocabularies import load_vocabulary

FILE = Path(__file__).with_name("miniclip.safetensors")
TEST_SEED = 2  # of the scenes whose patches and close-ups the stated accuracy is of
FIRST_SCENES = 24  # a few of these, for a quick check
_TABLE = "token_embedding.weight"


def make_miniclip(
    path: Path,
    settings: MiniClipSettings,
    size: ClipSize = MINIATURE,
    *,
    pictures: int = 25_600,
    scenes: int = 25_600,
    test_pictures: int = 400,
    commit: str = "",
    **training: Any,
) -> None:
    """Train a MiniClip and write it with all that is known of it; see :func:`train_miniclip`, :func:`save_miniclip`.

    Args:
        path: of the weights, ``.safetensors``.
        settings: the recipe.
        size: hyper-parameters.
        pictures: drawn pictures with captions that it learns from.
        scenes: with captioned regions, that it learns from too.
        test_pictures: scenes, and close-ups of parts, that its accuracy is stated for.
        commit: of the code.
        training: what else :func:`train_miniclip` takes.

    Raises:
        ValueError: ``path`` has another ending.
        OSError: nothing can be written there.
    """
    # An hour before they are needed: the device, and a place to write to.
    torch.empty(0, device=training.get("device", "cpu"))
    if path.suffix != ".safetensors" or path.is_dir():
        raise ValueError(f"{path}: expected the name of a .safetensors file to write")
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part"):
        pass
    drawing = {"seed": settings.seed, "processes": os.cpu_count() or 1}
    drawn = CaptionedPictures(pictures, size=size.image_size, **drawing)
    result = train_miniclip(drawn, CaptionedScenes(scenes, **drawing), size, settings=settings, **training)
    facts = {
        "settings": asdict(settings) | {"pictures": pictures, "captioned_scenes": scenes},
        "commit": commit,
        "seconds": round(float(result.history["seconds"].iloc[-1])),
        "accuracy": accuracy(result.clip, size, test_pictures),
        "history": json.loads(result.history.iloc[::5].round(4).to_json(orient="records")),
    }
    save_miniclip(result, size, facts, path)


def accuracy(clip: open_clip.CLIP, size: ClipSize, count: int) -> dict[str, dict[str, dict[str, float]]]:
    """How a MiniClip names patches of ``count`` scenes, of the first of these, and close-ups it has not seen."""
    vocabulary = load_vocabulary("pascal_part_116")
    scenes = held_out_scenes(vocabulary, count, TEST_SEED)
    close_ups = CaptionedPictures(count, size=size.image_size, seed=TEST_SEED, shares={"part": 1.0}, progress=False)
    tables = {
        "patches": patch_naming(clip, scenes, vocabulary),
        "patches_of_first_scenes": patch_naming(clip, scenes[:FIRST_SCENES], vocabulary),
        "close_ups": close_up_naming(clip, close_ups, vocabulary),
    }
    return {name: table.round(2).to_dict("index") for name, table in tables.items()}


def save_miniclip(result: MiniClipResult, size: ClipSize, facts: Mapping[str, Any], path: Path) -> None:
    """Write a MiniClip, and beside it, as JSON, what is known of its training, with the hash of the file.

    Args:
        result: the model, and the tokens it knows.
        size: its hyper-parameters.
        facts: recipe, seed, commit, seconds, history, accuracy; anything JSON can say.
        path: of the weights, ``.safetensors``.
    """
    state = result.clip.state_dict()
    tensors = {name: tensor.half() for name, tensor in state.items() if name != _TABLE}
    tensors |= {"tokens": result.tokens.int(), "token_rows": state[_TABLE].cpu()[result.tokens].half()}
    save_weights(tensors, path, {"system": "miniclip", "size": asdict(size)})
    described = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": asdict(size), **facts}
    path.with_suffix(".json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def load_miniclip(path: Path = FILE) -> tuple[MiniClipResult, ClipSize]:
    """A MiniClip in evaluation mode, float32, with the history of its training, and its size.

    Raises:
        CheckpointError: the file is not one of :func:`save_miniclip`.
    """
    tensors, metadata = load_weights(path, "miniclip")
    size = ClipSize(**metadata["size"])
    clip = build_clip(size)
    tokens = tensors.pop("tokens").long()
    table = torch.zeros_like(clip.token_embedding.weight)
    table[tokens] = tensors.pop("token_rows").float()
    clip.load_state_dict({_TABLE: table, **{name: tensor.float() for name, tensor in tensors.items()}})
    return MiniClipResult(clip.eval(), pd.DataFrame(miniclip_facts(path)["history"]), tokens), size


def miniclip_facts(path: Path = FILE) -> dict[str, Any]:
    """What was written beside the weights: hash, size, recipe, history, accuracy."""
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
