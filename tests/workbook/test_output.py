"""Panels: shown, saved and listed by one call."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
from PIL import Image

from ovparts_lib.inspection import Panel
from ovparts_lib.inspection.figures import new_figure
from ovparts_lib.runs.parameters import StartHereParameters
from ovparts_lib.workbook import RunOutput, output
from ovparts_lib.workbook.output import shown_table


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's output, and what a notebook has displayed."""
    displayed, facts = [], {}
    monkeypatch.setattr(output, "display", displayed.append)
    folder = SimpleNamespace(path=tmp_path, figures=tmp_path / "figures", tables=tmp_path / "tables")
    folder.finish = lambda results: facts.update(results) or tmp_path / "results.json"
    folder.figures.mkdir()
    folder.tables.mkdir()
    return RunOutput(folder), displayed, facts


def panels():
    table = pd.DataFrame({"stage": ["after"], "vocabulary_hash": ["abc"], "mIoU": [12.3456789]})
    yield Panel("bars a/b", new_figure(2, 1), table, "Bars", "What bars show.")
    yield Panel("numbers", table=table, title="Numbers")
    yield Panel("nothing", title="Nothing", caption="switched off")


def test_figures_and_tables_are_saved_shown_and_listed(run, capsys):
    shown, displayed, facts = run
    _, second, _ = everything = list(panels())
    shown.show(iter(everything))
    (saved,) = shown.run.figures.glob("*.png")
    assert displayed[0].data == saved.read_bytes() and displayed[0].width == 200
    assert "12.35" in displayed[1].to_html() and "<caption>Numbers</caption>" in displayed[1].to_html()
    assert len(displayed) == 2
    assert capsys.readouterr().out == "Nothing: switched off\n"
    shown.finish(headline=[second])
    figure, table = facts["figures"][0], facts["tables"][0]
    assert (figure["title"], figure["caption"], table["title"]) == ("Bars", "What bars show.", "Numbers")
    with Image.open(shown.path / figure["file"]) as picture:
        assert picture.format == "PNG"
    beside = (shown.path / figure["file"]).with_suffix(".csv")
    assert pd.read_csv(beside)["mIoU"].tolist() == pd.read_csv(shown.path / table["file"])["mIoU"].tolist()
    assert facts["headline"] == [{"label": "after", "vocabulary": "abc", "mIoU": 12.3456789}]
    json.dumps(facts)


def test_a_panel_shown_again_replaces_itself(run):
    shown, _, facts = run
    for title in ("Draft", "Final"):
        shown.show(Panel("numbers", table=pd.DataFrame({"a": [1]}), title=title))
    shown.finish()
    assert [table["title"] for table in facts["tables"]] == ["Final"]


def test_long_tables_are_cut_where_nobody_reads_on():
    html = shown_table(Panel("long", table=pd.DataFrame({"row": range(900)}), title="Long")).to_html()
    assert "Long: the first 250 of 900 rows" in html and html.count("<tr>") == 251


def test_texts_stand_at_the_left_and_numbers_where_jupyter_puts_them():
    table = pd.DataFrame({"paper": ["a, b"], "year": [2022], "note": ["c"]})
    html = shown_table(Panel("p", table=table, title="P")).to_html()
    assert all(f" {place} {{\n  text-align: left" in html for place in ("caption", ".col0", ".col2"))
    assert " .col1" not in html


def test_neither_digests_nor_empty_columns_are_shown():
    columns = {"vocabulary_hash": "19c6a9a68a013efd", "vocabulary": "19c6a9a68a013efd", "boundary_IoU": float("nan")}
    html = shown_table(Panel("p", table=pd.DataFrame([{"run": "a", "mIoU": 20.301234} | columns]), title="P")).to_html()
    assert "20.30" in html and "20.301" not in html
    assert not any(word in html for word in ("19c6", "vocabulary", "boundary"))


def test_small_shares_keep_their_digits():
    table = pd.DataFrame({"mIoU": [20.301234, 0.25], "strength": [0.0146026, 0.0035281], "images": [118, 0]})
    html = shown_table(Panel("p", table=table, title="P")).to_html()
    assert all(f">{number}<" in html for number in ("20.30", "0.25", "0.0146", "0.0035", "118", "0"))


def test_explanations_of_parameters_are_shown_whole():
    params = StartHereParameters(setting="miniature", run="a", samples=3)
    html = output.parameter_table(params).to_html()
    assert "auto takes the first CUDA device if there is one, else the CPU" in html and "recipe: 8" in html
