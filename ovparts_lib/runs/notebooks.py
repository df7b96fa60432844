"""The notebooks of the project, and whether their ``parameters`` cells agree with their models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat

from ovparts_lib.options import RECIPES
from ovparts_lib.runs.load_params import ParameterError, validate_parameters
from ovparts_lib.runs.notebook_params import literal_assignments
from ovparts_lib.runs.parameters import RunParameters
from ovparts_lib.runs.project import display_path, project_root


class NotebookError(RuntimeError):
    """A notebook is missing, unreadable, or disagrees with its parameters model."""


def notebook_path(name: str) -> Path:
    """``notebooks/<name>.ipynb`` of the project.

    Raises:
        NotebookError: there is no such file.
    """
    path = project_root() / "notebooks" / f"{name}.ipynb"
    if not path.is_file():
        raise NotebookError(f"there is no notebook {display_path(path)} in {project_root()}")
    return path


def declared_parameters(path: Path) -> dict[str, Any]:
    """What the notebook's ``parameters`` cell assigns, in order.

    Raises:
        NotebookError: the file is no notebook, has not exactly one cell tagged ``parameters``, or that cell holds
            anything but plain assignments.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise NotebookError(f"{display_path(path)}: cannot be read as a notebook: {error}") from error
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise NotebookError(f"{display_path(path)}: {len(cells)} cells are tagged `parameters`, expected one")
    try:
        return literal_assignments(cells[0].source)
    except (ValueError, SyntaxError) as error:
        raise NotebookError(f"{display_path(path)}: parameters cell: {error}") from None


def check_notebook(path: Path, model: type[RunParameters]) -> None:
    """Make sure that a notebook and its model mean the same, whether it is run by us, by papermill, or by hand.

    The ``parameters`` cell must be valid as it stands, must give what has no default, and must not give another default
    than the model does, whatever the recipe: otherwise a key left out of a YAML file would mean two things. An option
    that follows the recipe is None in the cell, or not there.

    Raises:
        NotebookError: they disagree; the message names every key.
    """
    declared = declared_parameters(path)
    try:
        validate_parameters(model, {"notebook": path.stem} | declared, display_path(path))
    except ParameterError as error:
        raise NotebookError(f"the parameters cell does not fit {model.__name__}: {error}") from None
    named = {"notebook": path.stem, "setting": "", "run": ""}
    wrong = {
        f"{key} is {value!r} in the notebook, {expected[key]!r} in the model"
        for recipe in RECIPES
        for expected in [model.completed(named | {"recipe": recipe})]
        for key, value in declared.items()
        if key in expected and key not in (*named, "recipe") and value != expected[key]
        # None leaves an option to the recipe, unless None is a value of its own.
        if value is not None or not model.needs_value(key)
    }
    if wrong:
        raise NotebookError(f"{display_path(path)}: defaults differ from {model.__name__}: {'; '.join(sorted(wrong))}")
