"""The runs that lie below an outputs folder, read without disturbing them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovparts_lib.runs.folder import LOCK, folder_state, read_json, read_params
from ovparts_lib.runs.lock import FolderLock
from ovparts_lib.runs.parameters import RunParameters, parameter_model

_PLAIN = (str, int, float, bool)
HEADLINE_COLUMNS = ("label", "mode", "protocol", "seen", "unseen", "harmonic", "mIoU", "classes_seen", "classes_unseen")


@dataclass(frozen=True)
class RunRecord:
    """What one run folder says about itself.

    Attributes:
        path: the run folder.
        setting: the first folder level.
        run: the second folder level.
        notebook: that the run executes.
        state: ``complete``, ``partial`` or ``running`` (a process holds its lock).
        params: its parameters.
        results: ``results.json``, empty unless the run is complete.
        provenance: ``provenance.json``.
    """

    path: Path
    setting: str
    run: str
    notebook: str
    state: str
    params: dict[str, Any]
    results: dict[str, Any]
    provenance: dict[str, Any]


def find_runs(outputs: Path, settings: Collection[str] = ()) -> list[RunRecord]:
    """All runs below ``outputs``, by setting, notebook and name.

    Args:
        outputs: folder of all runs; it need not exist.
        settings: only these settings; all if empty.
    """
    found = [read_run(path.parent) for path in outputs.glob("*/*/params.yaml")]
    runs = [run for run in found if run is not None and (not settings or run.setting in settings)]
    return sorted(runs, key=lambda run: (run.setting, run.notebook, run.run))


def read_run(path: Path) -> RunRecord | None:
    """One run; None if the folder holds none."""
    params = read_params(path)
    if params is None:
        return None
    try:
        model = parameter_model(params.get("notebook"))
    except (KeyError, TypeError):
        model = RunParameters  # a notebook of another version: its files can still be shown
    state = folder_state(path, model.free_keys())
    results = _well_formed(read_json(path / "results.json")) if state == "complete" else {}
    if FolderLock(path / LOCK).is_taken():
        state = "running"
    names = path.parent.name, path.name, str(params.get("notebook", "?"))
    return RunRecord(path, *names, state, params, results, read_json(path / "provenance.json"))


def _well_formed(results: dict[str, Any]) -> dict[str, Any]:
    """Results without what no notebook writes, so that one odd file does not spoil the view of all other runs."""
    kept = {key: value for key, value in results.items() if key not in ("headline", "figures", "tables")}
    for key in ("headline", "figures", "tables"):
        entries = results.get(key)
        entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        kept[key] = [{name: v for name, v in e.items() if v is None or isinstance(v, _PLAIN)} for e in entries]
    for key in ("title", "note"):
        kept[key] = str(results.get(key) or "")
    return kept


def headline_rows(runs: Iterable[RunRecord]) -> list[dict[str, Any]]:
    """Headline results of all runs in percent: a row per run, stage (before or after training), mode and protocol."""
    return [
        {"setting": run.setting, "run": run.run, **{key: entry.get(key) for key in HEADLINE_COLUMNS}}
        for run in runs
        for entry in run.results.get("headline", [])
    ]


def format_table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned text under a heading: floats with one decimal, nothing for None."""
    lines = [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:5.1f}" if isinstance(value, float) else str(value)
