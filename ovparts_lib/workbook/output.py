"""What a notebook leaves in its run folder: figures, tables, and the results that make the run complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

from ovparts_lib.atomic import safe_name, write_atomically
from ovparts_lib.inspection import save_figure
from ovparts_lib.runs import RunFolder, RunParameters


def parameter_table(params: RunParameters) -> pd.DataFrame:
    """Every parameter with its value and explanation; ``differs`` shows what the recipe or default would be."""
    rows = [
        {
            "parameter": row["parameter"],
            "value": str(row["value"]),
            "differs": "" if row["value"] == row["recipe"] else f"recipe: {row['recipe']}",
            "explanation": row["explanation"],
        }
        for row in params.explained()
    ]
    return pd.DataFrame(rows).set_index("parameter")


class RunOutput:
    """Saves what a notebook shows and lists it in ``results.json``, in the order it was shown.

    Args:
        run: the run folder, open.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._figures: dict[str, dict[str, str]] = {}
        self._tables: dict[str, dict[str, str]] = {}

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.run.path

    def note(self, **facts: Any) -> None:
        """Add facts to the run's ``provenance.json``."""
        self.run.record(**facts)

    def figure(self, figure: Figure, name: str, *, title: str, caption: str, data: pd.DataFrame | None = None) -> None:
        """Show a figure and save it as ``figures/<name>.png``, with its data as CSV beside it.

        The file's name is the :func:`ovparts_lib.atomic.safe_name` of ``name``, which may hold a user's text.
        """
        file = f"{safe_name(name)}.png"
        save_figure(figure, self.run.figures / file, data)
        self._figures[name] = {"file": f"figures/{file}", "title": title, "caption": caption}
        display(figure)

    def table(self, frame: pd.DataFrame, name: str, *, title: str) -> pd.DataFrame:
        """Save a table as ``tables/<name>.csv``, named as figures are, and give it back to be shown."""
        file = f"{safe_name(name)}.csv"
        write_atomically(self.run.tables / file, frame.to_csv(index=False))
        self._tables[name] = {"file": f"tables/{file}", "title": title}
        return frame

    def finish(self, headline: list[dict[str, Any]] | None = None, **facts: Any) -> None:
        """Write ``results.json``, last of all, and say where it is.

        Args:
            headline: the rows a results table shows, as :func:`ovparts_lib.workbook.scoring.summarise` gives them.
            facts: further plain data for ``results.json``.
        """
        path = self.run.finish(
            {
                "headline": headline or [],
                "figures": list(self._figures.values()),
                "tables": list(self._tables.values()),
                **facts,
            }
        )
        print(f"complete: {path}")
