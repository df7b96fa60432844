import errno
import os
import subprocess
import sys
import time

import pytest

from ovparts_lib.atomic import (
    DiskFullError,
    replacing,
    replacing_folder,
    safe_name,
    set_aside,
    sweep,
    write_atomically,
)


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "bytes are free"), (errno.EDQUOT, "quota")])
def test_a_full_quota_is_not_reported_beside_the_free_space_of_the_disk(tmp_path, number, said):
    with pytest.raises(DiskFullError, match=said) as raised, replacing(tmp_path / "w"):
        raise OSError(number, os.strerror(number))
    assert ("bytes are free" in str(raised.value)) == (number == errno.ENOSPC)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    target = tmp_path / "world"
    for content in ("old", "new"):
        with replacing_folder(target) as draft:
            (draft / "file").write_text(content)
    assert (target / "file").read_text() == "new"
    with pytest.raises(ZeroDivisionError), replacing_folder(target) as draft:
        (draft / "file").write_text(str(1 / 0))
    assert (target / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


WRITER = """
import sys, time
from pathlib import Path
from ovparts_lib.atomic import replacing, replacing_folder
with replacing_folder(Path(sys.argv[1]) / "world") as draft, replacing(Path(sys.argv[1]) / "w") as partial:
    (draft / "file").write_text("half")
    partial.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    before = set(tmp_path.iterdir())
    assert len(before) == 3  # a file, the new folder, and a place for the old one
    sweep(tmp_path, ".*.part")
    sweep(tmp_path, ".*.draft")
    assert set(tmp_path.iterdir()) == before
    writer.kill()
    writer.wait()
    deadline = time.monotonic() + 60
    while list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        sweep(tmp_path, ".*.part")
        sweep(tmp_path, ".*.draft")


def test_a_damaged_file_is_set_aside_with_a_warning(tmp_path):
    (tmp_path / "w").write_text("broken")
    with pytest.warns(UserWarning, match="w is damaged; set aside as w.damaged and made again"):
        set_aside(tmp_path / "w", "no zip file")
    assert [path.name for path in tmp_path.iterdir()] == ["w.damaged"]


@pytest.mark.parametrize("obstacle", ["missing", "file", "folder"])
def test_what_cannot_be_written_is_named_by_its_own_name(tmp_path, obstacle):
    path = tmp_path / "there" / "report.html"
    if obstacle == "file":
        path.parent.write_text("in the way")
    if obstacle == "folder":
        path.mkdir(parents=True)
    with pytest.raises(OSError, match=r"No such file|Not a directory|is a folder, where a file") as caught:
        write_atomically(path, "page")
    assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "copy"):
        (tmp_path / "original").read_bytes()
    assert caught.value.filename == str(tmp_path / "original")


def test_no_two_texts_get_one_name():
    texts = [
        "a b",
        "a_b",
        "a  b",
        "a__b",
        "a/b",
        "a\\b",
        "a:b",
        "a.",
        "a. ",
        "_",
        " ",
        "-",
        "..",
        "",
        "a\n",
        "e\u0301",
        "\xe9",
    ]
    texts += ["x" * length for length in (100, 101, 102)]
    names = [safe_name(text) for text in texts]
    assert len(set(names)) == len(texts) and all(name.strip(".") and "/" not in name for name in names)
    assert [safe_name(text) for text in ("overlay_dog", "Brücke-1.2")] == ["overlay_dog", "Brücke-1.2"]
