"""Progress bars: widgets where a person looks on, text in logs and executed notebooks, which would keep no widget."""

import sys
from typing import Any

from tqdm import tqdm as text_bar

_SECONDS_BETWEEN_LINES = 10.0  # in a log


def is_attended() -> bool:
    """Whether somebody watches: a terminal, or a notebook a person has open.

    A kernel driven by papermill or nbconvert is told that it may not ask for input, one driven by Jupyter or an editor
    that it may: that tells them apart.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stderr is not None and sys.stderr.isatty()


def tqdm(*arguments: Any, **options: Any) -> text_bar:
    """A bar of tqdm's, with its arguments."""
    if is_attended():
        from tqdm.auto import tqdm as widget_bar  # which imports asyncio, for which `ovparts --help` need not wait

        return widget_bar(*arguments, **options)
    return text_bar(*arguments, mininterval=_SECONDS_BETWEEN_LINES, **options)
