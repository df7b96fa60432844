"""What a notebook leaves in its run folder: panels, and the results that make the run complete."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Image, display
from pandas.io.formats.style import Styler

from ovparts_lib.atomic import safe_name, write_atomically
from ovparts_lib.inspection import Panel, save_figure
from ovparts_lib.runs import RunFolder, RunParameters

_ROWS = 250  # of a table in a notebook; its file holds all


def parameter_table(params: RunParameters) -> Styler:
    """Every parameter with its value and explanation; ``differs`` shows what the recipe or default would be."""
    table = pd.DataFrame(params.explained(), dtype=object)
    pairs = zip(table["value"], table.pop("recipe"), strict=True)
    table.insert(2, "differs", ["" if value == recipe else f"recipe: {recipe}" for value, recipe in pairs])
    return shown_table(Panel("parameters", table=table.assign(value=table["value"].map(str)), title="Parameters"))


class RunOutput:
    """Saves what a notebook shows and lists it in ``results.json``, in the order it was shown.

    Args:
        run: the run folder, open.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._kept: dict[str, dict[str, dict[str, str]]] = {"figures": {}, "tables": {}}

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.run.path

    def note(self, **facts: Any) -> None:
        """Add facts to the run's ``provenance.json``."""
        self.run.record(**facts)

    def show(self, panels: Panel | Iterable[Panel]) -> None:
        """Show panels one after the other, each saved as by :meth:`keep`; say why where there is nothing to show."""
        for panel in [panels] if isinstance(panels, Panel) else panels:
            if panel.figure is None and panel.table.empty:
                print(f"{panel.title}: {panel.caption or 'nothing to show'}")
                continue
            picture = self.keep(panel)
            # the saved picture, rather than drawing the figure once more
            display(Image(picture, width=round(panel.figure.bbox.width)) if picture else shown_table(panel))

    def keep(self, panel: Panel) -> bytes | None:
        """Save ``figures/<name>.png`` with its data as CSV beside it, or ``tables/<name>.csv`` of a table alone.

        The file's name is the :func:`ovparts_lib.atomic.safe_name` of the panel's.

        Returns:
            The PNG of a figure.
        """
        name = safe_name(panel.name)
        if panel.figure is not None:
            picture = save_figure(panel.figure, self.run.figures / f"{name}.png", panel.table)
            entry = {"file": f"figures/{name}.png", "title": panel.title, "caption": panel.caption}
            self._kept["figures"][panel.name] = entry
            return picture
        write_atomically(self.run.tables / f"{name}.csv", panel.table.to_csv(index=False))
        self._kept["tables"][panel.name] = {"file": f"tables/{name}.csv", "title": panel.title}
        return None

    def finish(self, headline: Sequence[Panel] = (), **facts: Any) -> None:
        """Write ``results.json``, last of all, and say where it is.

        Args:
            headline: the tables whose rows a results table shows, as :func:`ovparts_lib.workbook.scoring.summaries`
                gives them; each row says its protocol.
            **facts: further plain data for ``results.json``.
        """
        names = {"stage": "label", "vocabulary_hash": "vocabulary"}
        rows = [row for panel in headline for row in panel.table.rename(columns=names).to_dict("records")]
        kept = {kind: list(entries.values()) for kind, entries in self._kept.items()}
        print(f"complete: {self.run.finish({'headline': rows, **kept, **facts})}")


def shown_table(panel: Panel) -> Styler:
    """A table as notebooks show it: whole texts, at the left; two decimals, or four below 1; at most 250 rows."""
    count = len(panel.table)
    title = panel.title if count <= _ROWS else f"{panel.title}: the first {_ROWS} of {count} rows"
    # Digests tell machines that two vocabularies are one; people learn nothing from them, nor from empty columns.
    told = panel.table.drop(columns=["vocabulary", "vocabulary_hash"], errors="ignore").dropna(axis=1, how="all")
    shown = told.head(_ROWS).reset_index(drop=True)
    small = [name for name, values in shown.select_dtypes("number").items() if values.abs().max() < 1]
    styled = shown.style.format(precision=2, na_rep="–").format(precision=4, na_rep="–", subset=small)
    styled = styled.hide(axis="index").set_caption(title)
    # JupyterLab puts everything at the right.
    left = [{"selector": "", "props": "text-align: left"}]
    texts = dict.fromkeys(shown.select_dtypes(exclude="number"), left)
    return styled.set_table_styles([left[0] | {"selector": "caption"}]).set_table_styles(texts, overwrite=False)
