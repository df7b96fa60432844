"""What inspection returns: a figure with the table it is drawn from, and what a reader needs to understand both."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """A figure and its data, or a table alone.

    Attributes:
        name: of its files in the run folder; may hold a user's text.
        figure: None for a table alone.
        table: data behind the figure; an empty table without a figure is nothing to show.
        title: one line.
        caption: what is seen, or why there is nothing to see.
    """

    name: str
    figure: Figure | None = None
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    title: str = ""
    caption: str = ""
