import base64
import re
import struct
import zlib
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ovparts_lib.runs import RunFolder
from ovparts_lib.runs.listing import HEADLINE_COLUMNS, find_runs, format_table, headline_rows
from ovparts_lib.runs.report import comparisons, format_number, write_report


def png(width, height):
    """The smallest picture of a given size, without an imaging library."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress((b"\0" + b"\x80" * width) * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def entry(label, mode, seen, unseen, protocol="recommended"):
    harmonic = 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0
    counts = {"classes_seen": 74, "classes_unseen": 42}
    return {"label": label, "mode": mode, "protocol": protocol, "version": "1", "seen": seen, "unseen": unseen} | {
        "harmonic": harmonic,
        "mIoU": (74 * seen + 42 * unseen) / 116,
        **counts,
    }


@pytest.fixture
def runs(root, params):
    folder = RunFolder.open(params)
    (folder.figures / "overlay.png").write_bytes(png(40, 10))
    (folder.tables / "classes.csv").write_text(
        "part,seen,IoU,pixels\ndog's head,False,12.34,1234567\n<script>alert(1)</script>,True,,5\n"
    )
    folder.finish(
        {
            "note": "about the miniature",
            "headline": [
                entry("before training", "oracle_obj", 0.0, 0.0),
                entry("before training", "pred_all", 2.0, 1.0),
                entry("after training", "oracle_obj", 40.0, 10.0),
                entry("after training", "pred_all", 30.0, 20.0),
                entry("after training", "oracle_obj", 41.0, 11.0, "ov_parts"),
            ],
            "figures": [{"file": "figures/overlay.png", "title": "Overlay & legend", "caption": "What it <sees>"}],
            "tables": [{"file": "tables/classes.csv", "title": "Every class"}],
        }
    )
    RunFolder.open(params.model_copy(update={"run": "unfinished"})).close()
    return find_runs(root / "outputs")


def test_runs_are_found_with_their_states(root, params, runs):
    assert [(run.setting, run.run, run.notebook, run.state) for run in runs] == [
        ("zero_shot", "clipseg", "20_clipseg", "complete"),
        ("zero_shot", "unfinished", "20_clipseg", "partial"),
    ]
    assert find_runs(root / "outputs", ["few_shot"]) == []
    assert find_runs(root / "nowhere") == []
    folder = RunFolder.open(params.model_copy(update={"run": "unfinished"}))
    assert [run.state for run in find_runs(root / "outputs")] == ["complete", "running"]
    folder.close()
    (folder.path / "params.yaml").write_text("notebook: 99_of_the_future\n")
    assert find_runs(root / "outputs")[1].state == "partial"


def test_headline_rows(runs):
    rows = headline_rows(runs)
    assert len(rows) == 5
    assert [rows[3][key] for key in ("run", "mode", "seen", "unseen")] == ["clipseg", "pred_all", 30, 20]
    text = format_table(rows).splitlines()
    assert text[0].split() == ["setting", "run", *HEADLINE_COLUMNS]
    assert (
        " ".join(text[4].split()) == "zero_shot clipseg after training pred_all recommended 30.0 20.0 24.0 26.4 74 42"
    )
    assert format_table([]) == ""


def test_the_report_tells_every_session(runs, tmp_path):
    text = write_report(runs, tmp_path / "report.html").read_text()
    assert "sessions.1.command" in text
    assert "{&#39;command&#39;" not in text


def test_protocols_are_not_mixed(runs):
    recommended, ov_parts = comparisons(runs)
    assert recommended["title"] == "zero_shot · protocol recommended · version 1"
    assert recommended["modes"] == ["Oracle-Obj", "Pred-All"]
    assert ov_parts["modes"] == ["Oracle-Obj"]
    before, after = recommended["rows"]
    assert [cell["value"] for cell in before["cells"]] == [
        *(0.0, 0.0, 0.0, 0.0),
        *(2.0, 1.0, pytest.approx(4 / 3), pytest.approx(190 / 116)),
    ]
    assert recommended["metrics"] == ("seen", "unseen", "harmonic", "mIoU")
    assert [cell["gain"] for cell in after["cells"]][:2] == [40.0, 10.0]
    assert {cell["best"] for cell in after["cells"]} == {True}
    assert {cell["best"] for cell in before["cells"]} == {False}
    assert after["classes"] == "74 + 42"


class Page(HTMLParser):
    """Counts elements, and checks that each is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.sources = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.sources += [value for key, value in attributes if key in ("src", "href")]
        if tag not in ("meta", "img", "input", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(runs, tmp_path):
    text = write_report(runs, tmp_path / "new" / "report.html").read_text()
    page = Page(text)
    assert page.seen.count("section") == 3  # results and two runs
    assert page.seen.count("script") == 1  # ours; the one in the table is text
    assert "&lt;script&gt;alert(1)" in text
    assert "Overlay &amp; legend" in text
    assert "What it &lt;sees&gt;" in text
    pictures = [source for source in page.sources if source.startswith("data:")]
    with Image.open(BytesIO(base64.b64decode(pictures[0].removeprefix("data:image/webp;base64,")))) as picture:
        assert (picture.format, picture.size) == ("WEBP", (40, 10))
    (full,) = [source for source in page.sources if not source.startswith(("#", "data:"))]
    assert (tmp_path / "new" / full).resolve() == (runs[0].path / "figures" / "overlay.png").resolve()
    assert not re.search(r"https?://|url\(|@import", text)
    assert 'width="40" height="10"' in text
    assert "1,234,567" in text
    assert ">–</td>" in text  # the IoU that is not there
    assert "about the miniature" in text
    assert "This run is not complete" in text
    assert "params_hash" not in text


def test_large_pictures_make_a_small_page(runs, tmp_path):
    """A figure of a notebook: 150 dots an inch, noise in a picture, megabytes as PNG."""
    pixels = np.random.default_rng(0).integers(0, 256, (500, 1800, 3), dtype=np.uint8)
    smooth = np.repeat(np.repeat(pixels[::10, ::10], 10, 0), 10, 1)
    Image.fromarray(smooth).resize((3600, 1000)).save(runs[0].path / "figures" / "overlay.png")
    text = write_report(runs, tmp_path / "report.html").read_text()
    assert len(text) < 200_000
    assert 'width="800" height="222"' in text


@pytest.mark.parametrize("damage", ["missing", "outside", "no picture", "no table"])
def test_what_cannot_be_shown_is_left_out(root, runs, tmp_path, damage):
    run = runs[0]
    if damage == "missing":
        (run.path / "figures" / "overlay.png").unlink()
        (run.path / "tables" / "classes.csv").unlink()
    if damage == "outside":
        secret = root / "secret.png"
        secret.write_bytes(png(1, 1))
        run.results["figures"] = [{"file": "../../../secret.png"}, {"file": str(secret)}]
        run.results["tables"] = []
    if damage == "no picture":
        (run.path / "figures" / "overlay.png").write_text("<svg onload=alert(1)>")
        run.results["tables"] = []
    if damage == "no table":
        run.results["figures"] = []
        (run.path / "tables" / "classes.csv").write_bytes(b"\xff\xfe\x00")
    page = Page(write_report(runs, tmp_path / "report.html").read_text())
    assert "figure" not in page.seen
    assert "input" not in page.seen
    assert page.seen.count("section") == 3


def test_numbers():
    assert [format_number(value) for value in (1.25, 12345, float("nan"), None, True, "text")] == [
        "1.2",
        "12,345",
        "–",
        "–",
        "yes",
        "text",
    ]
