"""This machine, the runs there are, and the miniature: what the first notebook shows."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ovparts_lib.runs import find_runs, resolve_path
from ovparts_lib.runs.provenance import library_versions, machine
from ovparts_lib.workbook.systems import device_of


def environment_table(params: Any) -> pd.DataFrame:
    """The device of this run, the machine, and the versions of the libraries that can change a number."""
    facts = {"device": str(device_of(params)), **machine(), **library_versions()}
    rows = {key: ", ".join(value) if isinstance(value, list) else value for key, value in facts.items()}
    return pd.DataFrame({"what": list(rows), "value": [str(value) for value in rows.values()]})


def runs_table(params: Any) -> pd.DataFrame:
    """One row per run folder: setting, run, notebook, state."""
    runs = find_runs(resolve_path(params.outputs))
    columns = ["setting", "run", "notebook", "state"]
    return pd.DataFrame([{name: getattr(run, name) for name in columns} for run in runs], columns=columns)
