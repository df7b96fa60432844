"""Text embeddings on disk: found again by another process, never another's, never damaged, never half."""

import copy
import fcntl
import logging
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from ovparts_lib.models.clip import text_cache
from ovparts_lib.models.clip.prompted_names import encode_names
from ovparts_lib.models.clip.text_cache import TextCache, read_embeddings, write_embeddings
from ovparts_lib.models.clip.towers import build_clip
from ovparts_lib.runs.project import cache_folder
from tests.systems.tiny import TINY_CLIP

NAMES, TEMPLATES = ("dog", "chest of drawers", "wing, feather"), ("a photo of a {}.", "a {} in the scene")


def seeded_clip():
    torch.manual_seed(0)
    return build_clip(TINY_CLIP).eval()


@pytest.fixture
def encoded(monkeypatch):
    """Names that were really encoded."""
    calls = []

    def encode(clip, names, templates, **options):
        calls.append(names)
        return encode_names(clip, names, templates, **options)

    monkeypatch.setattr(text_cache, "encode_names", encode)
    return calls


def new_cache(folder, **options):
    """As of a process that has just begun."""
    cache = TextCache(**options)
    cache.folder = folder
    return cache


def test_another_process_reads_what_was_encoded(tmp_path, encoded):
    folder = tmp_path / "made" / "texts"
    first = new_cache(folder).encode(seeded_clip(), NAMES, TEMPLATES)
    with torch.inference_mode():
        again = new_cache(folder).encode(seeded_clip(), NAMES, TEMPLATES)
    assert len(encoded) == 1 and len(list(folder.iterdir())) == 1
    assert torch.equal(first, again) and not again.is_inference() and not again.requires_grad


def test_what_embeddings_depend_on_is_in_the_name(tmp_path, encoded):
    clip, changed = seeded_clip(), seeded_clip()
    changed.transformer.resblocks[1].mlp.c_fc.weight.data[3, 5] += 1
    new_cache(tmp_path).encode(clip, NAMES, TEMPLATES)
    cases = [
        (clip, NAMES[::-1], TEMPLATES, {}),
        (clip, NAMES, TEMPLATES[::-1], {}),
        (clip, NAMES, TEMPLATES, {"synonyms": False}),
        (changed, NAMES, TEMPLATES, {}),
        (copy.deepcopy(clip).double(), NAMES, TEMPLATES, {}),
    ]
    for tower, names, templates, options in cases:
        found = new_cache(tmp_path, **options).encode(tower, names, templates)
        with torch.no_grad():
            assert torch.equal(found, encode_names(tower, names, templates, **options))
    with torch.autocast("cpu", torch.bfloat16):
        new_cache(tmp_path).encode(clip, NAMES, TEMPLATES)
    assert len(encoded) == len(list(tmp_path.iterdir())) == 7


def cut_short(content):
    return content[:-9]


def one_bit_changed(content):
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def emptied(content):
    return b""


@pytest.mark.parametrize("damage", [cut_short, one_bit_changed, emptied])
def test_a_damaged_file_is_set_aside_and_made_again(tmp_path, encoded, damage):
    clip = seeded_clip()
    expected = new_cache(tmp_path).encode(clip, NAMES, TEMPLATES)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="is damaged; set aside as"):
        found = new_cache(tmp_path).encode(clip, NAMES, TEMPLATES)
    assert torch.equal(found, expected) and len(encoded) == 2
    assert {file.name for file in tmp_path.iterdir()} == {path.name, f"{path.name}.damaged"}
    new_cache(tmp_path).encode(clip, NAMES, TEMPLATES)
    assert len(encoded) == 2


def encode_in_a_process(folder):
    return new_cache(folder).encode(seeded_clip(), NAMES, TEMPLATES).sum().item()


def test_processes_that_begin_together_leave_one_whole_file(tmp_path):
    (tmp_path / ".killed.safetensors.x.part").write_bytes(b"left by a process that was killed")
    with ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as pool:
        sums = list(pool.map(encode_in_a_process, [tmp_path] * 3))
    assert len(set(sums)) == 1
    assert len(list(tmp_path.iterdir())) == 1
    assert encode_in_a_process(tmp_path) == sums[0]


def test_a_folder_that_cannot_be_written_costs_no_more_than_the_time(tmp_path, encoded, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        found = new_cache(tmp_path / "file").encode(seeded_clip(), NAMES, TEMPLATES)
    assert found.shape[:2] == (3, 2)
    assert "cannot keep text embeddings in" in caplog.text


def test_what_was_used_longest_ago_makes_room(tmp_path, monkeypatch):
    now = time.time()
    for age, name in enumerate(("newest", "read", "old", "oldest")):
        write_embeddings(tmp_path / f"{name}.safetensors", torch.ones(1000))
        os.utime(tmp_path / f"{name}.safetensors", (now - 100 * age - 100,) * 2)
    (tmp_path / ".another.part").write_bytes(bytes(9000))  # is being written
    (tmp_path / "x.safetensors.damaged").write_bytes(bytes(9000))
    os.utime(tmp_path / "x.safetensors.damaged", (0, 0))
    assert read_embeddings(tmp_path / "read.safetensors") is not None
    monkeypatch.setattr(text_cache, "LIMIT", 3 * 4200)
    with (tmp_path / ".another.part").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_embeddings(tmp_path / "written.safetensors", torch.ones(1000))
        kept = {file.name.partition(".safetensors")[0] for file in tmp_path.iterdir()}
    assert kept == {"written", "read", "newest", ".another.part"}


def test_the_folder_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.delenv("OVPARTS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ovparts"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ovparts"
    monkeypatch.setenv("OVPARTS_CACHE", "~/elsewhere")
    assert cache_folder() == tmp_path / "elsewhere"
