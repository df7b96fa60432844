"""The log of a run: one JSON object a line, each step once, however often the run was stopped."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from ovparts_lib.atomic import write_atomically


class TrainingLog:
    """Appends to ``log.jsonl``; an entry is about one step (``{"step": 20, "loss": 0.7, …}``).

    Args:
        path: the log file; its folder must exist.
        step: the step the run stands at. Entries about later steps, and a line cut short by a crash, are removed:
            the run is about to write them again.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self._entries = [entry for entry in read_log(path) if entry["step"] <= step]
        kept = "".join(_line(entry) for entry in self._entries)
        if path.exists() and path.read_bytes() != kept.encode():
            write_atomically(path, kept)

    def write(self, entry: dict[str, Any]) -> None:
        """Append one entry and hand it to the operating system; numbers that are not finite become null.

        Raises:
            OSError: the log cannot be written; the message names it.
        """
        entry = _finite(entry)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(entry))
        except OSError as error:
            raise OSError(error.errno, f"the log {self.path} could not be written: {error.strerror}") from error
        self._entries.append(entry)

    def was_evaluated(self, step: int) -> bool:
        """Whether the log holds an evaluation of this step."""
        return any(entry["step"] == step and "evaluation" in entry for entry in self._entries)

    def history(self) -> pd.DataFrame:
        """The log as a table; see :func:`history_frame`."""
        return history_frame(self._entries)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a ``log.jsonl`` in order; none if there is no such file.

    A last line cut short is left out; so are damaged ones, with a warning: a history may lack a step, but a run must
    not fail for it.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    read = [_entry(line) for line in lines]
    damaged = [number for number, entry in enumerate(read[:-1], start=1) if entry is None]
    if damaged:
        warnings.warn(f"{path}: damaged and left out: line {', '.join(map(str, damaged[:5]))}", stacklevel=2)
    return [entry for entry in read if entry is not None]


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def history_frame(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """A table with one row per logged step, in order of step.

    Columns: ``step``, ``loss``, ``losses/<term>``, ``gradient_norm``, ``learning_rate``, ``seconds``,
    ``images_per_second``, ``peak_memory_mib`` and, filled where the step was evaluated, ``evaluation/<metric>``.
    """
    if not entries:
        return pd.DataFrame({"step": pd.Series(dtype="int64")})
    return pd.json_normalize(entries, sep="/").groupby("step", sort=True).first().reset_index()


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) or (hasattr(value, "__float__") and not isinstance(value, int)):
        return float(value) if math.isfinite(value) else None
    return value
