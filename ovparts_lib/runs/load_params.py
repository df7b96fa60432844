"""From a mapping, a YAML file or the cells of a notebook to valid parameters, or one error that names every problem.

papermill injects a cell of assignments below the notebook's ``parameters`` cell and does not mind names that the
notebook never reads, so a misspelled key would silently leave the default in force. Here the cells that were executed
are read back: what a parameter cell assigned must be a parameter.
"""

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ovparts_lib.runs.parameters import RunParameters, parameter_model, parameter_models
from ovparts_lib.runs.project import display_path, project_root
from ovparts_lib.strict_yaml import StrictLoader

Model = TypeVar("Model", bound=RunParameters)
_LONGEST_VALUE = 80
_INJECTED = "# Parameters"  # how the cell that papermill injects begins


class ParameterError(ValueError):
    """Parameters that cannot be used; the message has one line for each problem."""


def validate_parameters(model: type[Model], values: Mapping[str, Any], source: str | None = None) -> Model:
    """Parameters of a notebook from plain values.

    Args:
        model: the parameters model of the notebook.
        values: flat mapping of keys to plain values.
        source: where the values come from, for the message (a file name, for example).

    Raises:
        ParameterError: unknown keys (with the nearest known one), missing keys, wrong types, values out of range,
            values that contradict each other: all of them at once.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = [line for detail in error.errors() for line in _explain(model, detail)]
        # A hand-written message says more than the chain of pydantic's own frames, so that chain is cut here.
        raise ParameterError(_message(problems, model.model_fields["notebook"].default, source)) from None


def load_parameters(path: str | Path, overrides: Iterable[str] = ()) -> RunParameters:
    """Parameters from a YAML file and ``key=value`` overrides, whose values are read as YAML.

    A relative ``path`` is looked for in the working directory, then in the project root.

    Raises:
        ParameterError: the file is missing, empty, no mapping, repeats a key, names no known notebook, or its values
            do not fit the notebook.
    """
    file = _find(Path(path).expanduser())
    source = display_path(file)
    values = _read_yaml(file, source) | _read_overrides(overrides)
    models = parameter_models()
    notebook = values.get("notebook")
    if notebook is None:
        raise ParameterError(f"{source}: the key `notebook` is missing; it is one of {', '.join(models)}")
    if str(notebook) not in models:
        nearest = _nearest(str(notebook), list(models))
        raise ParameterError(f"{source}: notebook = {notebook!r}: there is no such notebook{nearest}")
    return validate_parameters(models[notebook], values, source)


def check_hardware(params: RunParameters) -> None:
    """Refuse parameters that need a CUDA device which is not here.

    Not one of the parameters' own rules, for a run may be prepared and submitted on a machine without a GPU.

    Raises:
        ParameterError: ``device`` names a CUDA device that torch does not find, or ``precision: 16-mixed`` meets
            ``device: auto`` where there is no CUDA device.
    """
    half = getattr(params, "precision", None) == "16-mixed"
    if not half and not params.device.startswith("cuda"):
        return
    import torch  # takes seconds, which a run on the CPU need not wait for

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(params.device.partition(":")[2] or 0)
    if half and not found:
        none = f"torch finds none for device = {params.device!r}; on a CPU use 32-true or bf16-mixed"
        raise ParameterError(f"precision, device: 16-mixed needs a CUDA device, and {none}")
    if index >= found:
        there = f"the CUDA devices are cuda:0 to cuda:{found - 1}" if found else "torch finds no CUDA device"
        raise ParameterError(f"device = {params.device!r}: {there}; use auto or cpu, or run where there is one")


def _find(path: Path) -> Path:
    for candidate in (path, project_root() / path):
        if candidate.is_file():
            return candidate.resolve()
        if candidate.is_dir():
            raise ParameterError(f"{path}: is a folder; name a parameter file (.yaml)")
    looked = " and ".join(dict.fromkeys(str(folder) for folder in (Path.cwd(), project_root())))
    raise ParameterError(f"{path}: there is no such parameter file (looked in {looked})")


def _read_yaml(file: Path, source: str) -> dict[str, Any]:
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), Loader=StrictLoader)
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ParameterError(f"{source}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ParameterError(f"{source}{place}: {getattr(error, 'problem', None) or error}") from None
    if values is None:
        raise ParameterError(f"{source}: the file is empty; it should hold lines like `notebook: 20_clipseg`")
    if not isinstance(values, dict):
        raise ParameterError(f"{source}: expected `key: value` lines, found {_shown(values)}")
    return {str(key): value for key, value in values.items()}


def _read_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ParameterError(f"--set {override}: expected key=value")
        try:
            values[key.strip()] = yaml.load(text, Loader=StrictLoader)
        except (yaml.YAMLError, RecursionError) as error:
            raise ParameterError(f"--set {override}: the value cannot be read as YAML: {error}") from None
    return values


def _explain(model: type[RunParameters], detail: ErrorDetails) -> list[str]:
    """One problem found by pydantic, in our words."""
    kind, location = detail["type"], detail["loc"]
    if not location:  # a rule that concerns several keys
        return str(detail["ctx"]["error"]).splitlines()
    key = str(location[0])
    if kind == "extra_forbidden":
        return [f"{key}: unknown parameter{_nearest(key, list(model.model_fields))}"]
    if kind == "missing":
        return [f"{key}: missing; {model.model_fields[key].description}"]
    place = key + "".join(f"[{part!r}]" for part in location[1:])
    if kind == "value_error":
        expected = str(detail["ctx"]["error"])
    else:
        expected = re.sub(r".* (at (least|most) \d+ items?) .*", r"expected \1", detail["msg"])
        expected = re.sub("^Input should be (?=greater|less)", "expected a value ", expected)
        expected = expected.replace("Input should be", "expected")
    hint = ""
    if kind == "literal_error" and isinstance(detail["input"], str):
        hint = _nearest(detail["input"], detail["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", "))
        hint = hint if hint.startswith("; did") else ""
    return [f"{place} = {_shown(detail['input'])}: {expected}{hint}"]


def _message(problems: list[str], notebook: str, source: str | None) -> str:
    where = f"{source} ({notebook})" if source else notebook
    if len(problems) == 1:
        return f"{where}: {problems[0]}"
    return f"{len(problems)} problems with the parameters of {where}:\n" + "\n".join(f"  - {line}" for line in problems)


def _nearest(word: str, known: list[str]) -> str:
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else f"; known: {', '.join(known)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


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
    names = {name for own, _ in cells for name in own if name in known}
    for place, (own, injected) in enumerate(cells):
        # A later cell of the same kind with half of the names is this one, edited and run again.
        later = [others for others, kind in cells[place + 1 :] if kind == injected]
        if not any(2 * len(others & own) >= len(own) for others in later):
            names |= own
    return {name: variables[name] for name in sorted(names) if name in variables}


def _parameter_cell(source: str, known: Mapping[str, Any]) -> tuple[frozenset[str], bool] | None:
    """The names that a cell of parameters assigns, and whether papermill has injected it; None for any other cell."""
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
    return frozenset(names), injected


def _assigned_name(statement: ast.stmt) -> str | None:
    """``seed`` for ``seed = 0`` and ``seed: int = 0``; None for any other statement."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
            return name
    return None
