"""Reading parameters inside a notebook, where they are variables that papermill or a person has assigned.

papermill injects a cell of assignments below the notebook's ``parameters`` cell and does not mind names that the
notebook never reads, so a misspelled key would silently leave the default in force. Here the cells that were executed
are read back: what a parameter cell assigned must be a parameter.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovparts_lib.runs.load_params import ParameterError, check_hardware, validate_parameters
from ovparts_lib.runs.parameters import RunParameters, parameter_model

_INJECTED = "# Parameters"


@dataclass(frozen=True)
class _Cell:
    names: frozenset[str]
    injected: bool


def read_parameters(notebook: str, values: Mapping[str, Any] | None = None) -> RunParameters:
    """The parameters of the notebook that calls this, checked.

    Under IPython, the parameter cells are found among the cells executed so far: cells of nothing but assignments that
    papermill has injected (first line ``# Parameters``), or whose names are mostly parameters of ``model``. Values come
    from the notebook's variables; other variables of the session are left alone. Cells may be edited and run again.

    Args:
        notebook: the name of this notebook.
        values: an explicit mapping, needed outside IPython.

    Raises:
        ParameterError: as :func:`ovparts_lib.runs.load_params.validate_parameters`, or this machine lacks the device.
        KeyError: there is no such notebook.
        RuntimeError: no IPython session is running and no ``values`` are given.
    """
    model = parameter_model(notebook)
    params = validate_parameters(model, values) if values is not None else _read_session(model)
    check_hardware(params)
    return params


def _read_session(model: type[RunParameters]) -> RunParameters:
    from IPython import get_ipython  # takes most of a second, which commands need not wait for

    shell = get_ipython()
    if shell is None:
        raise RuntimeError("read_parameters needs a notebook, or the values: read_parameters(notebook, {'key': value})")
    found = assigned_parameters(shell.user_ns.get("In", []), shell.user_ns, model.model_fields)
    try:
        return validate_parameters(model, found, "parameters cell")
    except ParameterError as error:
        stray = [name for name in found if name not in model.model_fields]
        if not stray:
            raise
        hint = f"(after correcting a cell, forget the old name with: del {', '.join(stray)})"
        raise ParameterError(f"{error}\n{hint}") from None


def assigned_parameters(
    history: Sequence[str], variables: Mapping[str, Any], known: Mapping[str, Any]
) -> dict[str, Any]:
    """What the parameter cells among ``history`` assigned, with the values that ``variables`` hold now.

    Args:
        history: sources of the executed cells, oldest first.
        variables: the variables of the session.
        known: the keys that are parameters.
    """
    cells = [cell for source in history if (cell := _parameter_cell(source, known))]
    names = {name for cell in cells for name in cell.names if name in known}
    for position, cell in enumerate(cells):
        if not any(_replaces(later, cell) for later in cells[position + 1 :]):
            names |= cell.names
    return {name: variables[name] for name in sorted(names) if name in variables}


def _parameter_cell(source: str, known: Mapping[str, Any]) -> _Cell | None:
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return None
    names = [_assigned_name(statement) for statement in statements]
    if not names or None in names:
        return None
    injected = source.lstrip().splitlines()[0].strip() == _INJECTED
    # A scratch cell that happens to share a name (`seed = 1; model = build(seed)`) is not taken for parameters.
    if not injected and 2 * sum(name in known for name in names) <= len(names):
        return None
    return _Cell(frozenset(name for name in names if name), injected)


def _assigned_name(statement: ast.stmt) -> str | None:
    """``seed`` for ``seed = 0`` and ``seed: int = 0``; None for any other statement."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        target = statement.target
    else:
        return None
    return target.id if isinstance(target, ast.Name) else None


def _replaces(later: _Cell, earlier: _Cell) -> bool:
    """Whether ``later`` is ``earlier`` edited and run again: of the same kind and half of the names are the same."""
    return later.injected == earlier.injected and 2 * len(later.names & earlier.names) >= len(earlier.names)
