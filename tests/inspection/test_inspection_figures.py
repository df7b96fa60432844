from io import BytesIO

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from ovparts_lib.images import write_picture
from ovparts_lib.inspection import save_figure
from ovparts_lib.inspection.figures import figure_png, new_figure, styled, wrapped


def small_figure(text="a"):
    figure = new_figure(2, 1)
    figure.add_subplot().set_title(text)
    return figure


def test_a_notebook_shows_a_figure_as_a_picture():
    """In the kernel, IPython's formatters ask the object itself; pyplot, which would teach them, is not in use."""
    data, _ = DisplayFormatter().format(small_figure())
    with Image.open(BytesIO(data["image/png"])) as picture:
        assert picture.format == "PNG"


def test_a_figure_is_saved_with_its_data(tmp_path):
    data = pd.DataFrame({"word": ["car's wheel", "a, b"], "IoU": [1.5, np.nan]})
    save_figure(small_figure(), tmp_path / "chart.png", data)
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.format == "PNG"
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "chart.csv"), data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chart.csv", "chart.png"]


def test_rows_that_have_a_name_keep_it(tmp_path):
    matrix = pd.DataFrame({"head": [1]}, index=pd.Index(["tail"], name="ground truth"))
    save_figure(small_figure(), tmp_path / "confusion.png", matrix)
    assert (tmp_path / "confusion.csv").read_text() == "ground truth,head\ntail,1\n"


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    path, data = tmp_path / "chart.png", pd.DataFrame({"IoU": [1.5]})
    save_figure(small_figure(), path, data)
    before = path.read_bytes()

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", no_space)
    with pytest.raises(OSError, match=r"no space left to write .*chart"):
        save_figure(small_figure("other"), path, data)
    assert path.read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["chart.csv", "chart.png"]


def test_pictures_are_saved_at_full_size(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    write_picture(tmp_path / "overlay.png", pixels)
    with Image.open(tmp_path / "overlay.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), pixels)
    write_picture(tmp_path / "overlay.jpg", pixels)
    with Image.open(tmp_path / "overlay.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (50, 30))


def test_the_users_style_neither_changes_nor_matters():
    @styled
    def draw():
        return small_figure()

    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        figure = draw()
        assert mpl.rcParams["font.size"] == 30
    assert figure.axes[0].get_facecolor() == (1, 1, 1, 1)


@pytest.mark.parametrize("word", ["$5 and $6", r"$\\frac$", "$x$", "_hidden", "50 % ^ {x}"])
def test_signs_of_mathematics_are_plain_text(word):
    @styled
    def draw(text):
        figure = new_figure(3, 1)
        ax = figure.add_subplot()
        ax.set_title(text)
        ax.set_yticks([0, 1], [text, "a"])
        return figure

    assert draw(word).axes[0].title.get_parse_math() is False
    # Drawn as mathematics, dollar signs would vanish: the picture would be that of the text without them.
    if word == "$x$":
        assert figure_png(draw(word)) != figure_png(draw("x"))
    assert figure_png(draw(word))[:4] == b"\x89PNG"


def test_a_missing_font_is_named_once_with_its_characters():
    @styled
    def draw():
        return small_figure("\U000e0041 狗的头")  # a private character that no font has

    with pytest.warns(UserWarning, match="no installed font has the characters") as caught:
        figure_png(draw())
    assert len([one for one in caught if "Glyph" in str(one.message)]) == 0
    assert len([one for one in caught if "no installed font" in str(one.message)]) == 1


def test_the_users_font_comes_first():
    @styled
    def draw():
        return small_figure("a")

    with mpl.rc_context({"font.family": "DejaVu Serif"}):
        family = draw().axes[0].title.get_fontfamily()
    assert family[:2] == ["DejaVu Serif", "DejaVu Sans"]


def test_texts_are_wrapped_and_cut():
    assert wrapped("dog's head", 26) == "dog's head"
    assert wrapped("a b c d e f g", 5) == "a b c\nd e…"
    assert wrapped("狗" * 30, 20).count("\n") == 1
    assert max(map(len, wrapped("狗" * 30, 20).split("\n"))) <= 10
    assert wrapped("x" * 100, 20, lines=1) == "x" * 19 + "…"
    assert wrapped("\udcff.jpg", 20) == "?.jpg"
