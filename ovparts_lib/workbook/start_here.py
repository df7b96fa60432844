"""This machine, the systems and the runs there are, and the miniature: what the first notebook shows."""

from __future__ import annotations

import pandas as pd
import torch

from ovparts_lib.data import PascalPart116
from ovparts_lib.inspection import Panel
from ovparts_lib.runs import find_runs, resolve_path
from ovparts_lib.runs.provenance import library_versions, machine
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.workbook.data import sample_panel


def systems_table() -> Panel:
    """The systems there are, with their papers and notebooks."""
    rows = [(each.notebook, each.title, each.paper, each.licence) for each in SYSTEMS.values()]
    table = pd.DataFrame(rows, columns=["notebook", "system", "paper", "licence"])
    return Panel("systems", table=table, title="Systems")


def environment_table(device: torch.device) -> Panel:
    """The device of this run, the machine, and the versions of the libraries that can change a number."""
    facts = {"device": str(device), **machine(), **library_versions()}
    rows = {key: ", ".join(value) if isinstance(value, list) else value for key, value in facts.items()}
    table = pd.DataFrame({"what": list(rows), "value": [str(value) for value in rows.values()]})
    return Panel("environment", table=table, title="This machine")


def runs_table(outputs: str) -> Panel:
    """One row per run folder: setting, run, notebook, state."""
    columns = ["setting", "run", "notebook", "state"]
    rows = [[getattr(run, name) for name in columns] for run in find_runs(resolve_path(outputs))]
    return Panel("runs_found", table=pd.DataFrame(rows, columns=columns), title="Runs", caption="no run yet")


def glance_at_miniature(data_root: str, count: int) -> Panel:
    """Samples of the miniature, or which notebook makes it."""
    root = resolve_path(data_root)
    if not (root / "miniature.json").is_file():
        return Panel("samples_val", title="The miniature", caption="not rendered yet: run 01_miniature")
    return sample_panel(PascalPart116(root), "val", count)
