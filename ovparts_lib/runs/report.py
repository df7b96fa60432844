"""One self-contained HTML page about any number of runs: results, pictures, tables, and how they were made."""

import base64
import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ovparts_lib.atomic import write_atomically
from ovparts_lib.runs.listing import RunRecord

MODES = {"oracle_obj": "Oracle-Obj", "pred_all": "Pred-All"}
METRICS = ("seen", "unseen", "harmonic", "mIoU")
_MOST_ROWS = 1000
_BAR_COLUMNS = frozenset({"IoU", "recall", "precision"})
_WIDEST, _HIGHEST, _QUALITY = 800, 1700, 54  # pixels and WebP quality of the pictures in the page
_TOLD_ELSEWHERE = frozenset(
    ("headline", "figures", "tables", "title", "note", "status", "execution", "params_hash", "setting", "run")
)


def write_report(runs: Sequence[RunRecord], target: Path) -> Path:
    """Write a report that needs no other file and no network; its pictures link to those of full size in the runs.

    Args:
        runs: what to show, in this order.
        target: HTML file to write; its folder is created.

    Returns:
        ``target``.

    Raises:
        DiskFullError: no space left.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": format_number, "finite": _finite}
    template = environment.from_string(files("ovparts_lib.runs").joinpath("report.html").read_text(encoding="utf-8"))
    page = template.render(
        written=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        comparisons=comparisons(runs),
        runs=[_run(run, target.parent) for run in runs],
        complete=sum(run.state == "complete" for run in runs),
        bars=_BAR_COLUMNS,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, page)
    return target


def comparisons(runs: Iterable[RunRecord]) -> list[dict[str, Any]]:
    """Headline results as tables of what may be compared: one per setting, protocol and vocabulary.

    Each has ``title``, ``modes`` (column groups), ``metrics`` (columns of each) and ``rows``; a row has
    ``run``, ``anchor``, ``label``, ``classes`` and ``cells``: for each mode and metric ``value`` (percent or None),
    ``gain`` over the same run before training, and ``best``, whether no other row of the table is higher.
    """
    groups: dict[tuple[str, ...], list[tuple[RunRecord, dict[str, Any]]]] = {}
    for run in runs:
        for entry in run.results.get("headline", []):
            names = (run.setting, *(str(entry.get(key) or "") for key in ("protocol", "version", "vocabulary")))
            groups.setdefault(names, []).append((run, entry))
    return [_comparison(names, entries) for names, entries in groups.items()]


def _comparison(names: tuple[str, ...], entries: list[tuple[RunRecord, dict[str, Any]]]) -> dict[str, Any]:
    setting, protocol, version, _ = names
    modes = [mode for mode in MODES if any(entry.get("mode") == mode for _, entry in entries)]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for run, entry in entries:
        label = str(entry.get("label") or "")
        row = rows.setdefault(
            (_anchor(run), label), {"run": run.run, "anchor": _anchor(run), "label": label, "classes": "", "values": {}}
        )
        if entry.get("classes_seen") is not None:
            row["classes"] = f"{entry['classes_seen']} + {entry.get('classes_unseen') or 0}"
        row["values"] |= {(entry.get("mode"), metric): _finite(entry.get(metric)) for metric in METRICS}
    columns = [(mode, metric) for mode in modes for metric in METRICS]
    for row in rows.values():
        row["cells"] = [_cell(row, column, list(rows.values())) for column in columns]
    title = [setting, protocol and f"protocol {protocol}", version and f"version {version}"]
    return {
        "title": " · ".join(filter(None, title)),
        "modes": [MODES[mode] for mode in modes],
        "metrics": METRICS,
        "rows": list(rows.values()),
    }


def _cell(row: dict[str, Any], column: tuple[str, str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    value = row["values"].get(column)
    known = [other["values"][column] for other in rows if other["values"].get(column) is not None]
    earlier = [other for other in rows if other["anchor"] == row["anchor"] and other["label"].startswith("before")]
    gain = None
    if value is not None and row["label"].startswith("after") and earlier:
        before = earlier[0]["values"].get(column)
        gain = None if before is None else value - before
    return {"value": value, "gain": gain, "best": len(rows) > 1 and value is not None and value == max(known)}


def _run(run: RunRecord, page_folder: Path) -> dict[str, Any]:
    """What the template shows of one run."""
    figures = [_figure(path, entry, page_folder) for path, entry in _files(run, "figures")]
    tables = [_table(path, entry) for path, entry in _files(run, "tables")]
    more = {key: value for key, value in run.results.items() if key not in _TOLD_ELSEWHERE}
    facts = {"results": more, "parameters": run.params, "provenance": run.provenance}
    return {
        "record": run,
        "anchor": _anchor(run),
        "title": run.results.get("title") or run.run.replace("_", " "),
        "note": run.results.get("note") or "",
        "figures": [figure for figure in figures if figure],
        "tables": [table for table in tables if table],
        "facts": [(kind, _flat(values)) for kind, values in facts.items()],
    }


def _anchor(run: RunRecord) -> str:
    return f"{run.setting}/{run.run}"


def _files(run: RunRecord, kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What a run's results list of a kind, with the file; without those that are missing or lie elsewhere."""
    for entry in run.results.get(kind, []):
        path = (run.path / str(entry.get("file"))).resolve()
        if path.is_relative_to(run.path.resolve()) and path.is_file():
            yield path, entry


def _figure(path: Path, entry: dict[str, Any], page_folder: Path) -> dict[str, Any] | None:
    """A picture small enough to be part of the page, and where the whole one lies; None for what is no picture."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as picture:
            picture.thumbnail((_WIDEST, _HIGHEST), reducing_gap=None)
            buffer = io.BytesIO()
            picture.convert("RGB").save(buffer, format="WEBP", quality=_QUALITY, method=4)
            width, height = picture.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return {
        "source": "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "full": quote(Path(os.path.relpath(path, page_folder.resolve())).as_posix()),
        "title": entry.get("title") or path.stem.replace("_", " "),
        "caption": entry.get("caption") or "",
        # The size keeps the page from jumping while it loads.
        "width": width,
        "height": height,
        "wide": width > 1.6 * height,
    }


def _table(path: Path, entry: dict[str, Any]) -> dict[str, Any] | None:
    """A CSV file: title, columns with whether they hold numbers, rows of values, and how many rows are left out."""
    import pandas as pd

    try:
        frame = pd.read_csv(path)
    except (ValueError, OSError):
        return None
    numeric = [pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) for kind in frame.dtypes]
    rows = list(frame.head(_MOST_ROWS).itertuples(index=False, name=None))
    return {
        "title": entry.get("title") or path.stem.replace("_", " "),
        "columns": list(zip(map(str, frame.columns), numeric, strict=True)),
        "rows": rows,
        "left_out": len(frame) - len(rows),
    }


def _flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings, and lists of them, as ``[("machine.cpu", "…"), ("sessions.1.command", "…"), …]``."""
    if isinstance(values, list) and any(isinstance(value, dict) for value in values):
        values = dict(enumerate(values, start=1))
    if isinstance(values, dict):
        return [pair for key, value in values.items() for pair in _flat(value, f"{prefix}.{key}".lstrip("."))]
    if isinstance(values, list):
        values = ", ".join(map(str, values))
    return [(prefix, "–" if values is None or values == "" else str(values))]


def _finite(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None


def format_number(value: Any) -> str:
    """``12.345`` -> ``"12.3"``, ``12345`` -> ``"12,345"``, NaN and None -> ``"–"``, True -> ``"yes"``."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
