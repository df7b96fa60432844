"""The notebooks and the parameter files shipped with them."""

import ast
from pathlib import Path

import nbformat
import pytest
import yaml

from ovparts_lib.options import RECIPES
from ovparts_lib.runs import load_parameters, parameter_model, validate_parameters
from ovparts_lib.runs.parameters import parameter_models

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMS = sorted((ROOT / "params").glob("*/*.yaml"))
names = [path.stem for path in NOTEBOOKS]


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def parameters_cell(path):
    (cell,) = (cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", []))
    return cell.source


def declared_parameters(path):
    """What the parameters cell assigns: values that are written out, and nothing else."""
    statements = ast.parse(parameters_cell(path)).body
    return {
        (node.target if isinstance(node, ast.AnnAssign) else node.targets[0]).id: ast.literal_eval(node.value)
        for node in statements
    }


def test_every_parameter_model_has_its_notebook():
    assert names == list(parameter_models())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_outputs_are_stripped_and_the_kernel_is_python3(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_notebooks_hold_calls_and_no_logic(path):
    forbidden = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.While, ast.Try)
    for cell in code_cells(path):
        tree = ast.parse(cell.source)
        assert not [node for node in ast.walk(tree) if isinstance(node, forbidden)], cell.source
        modules = {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert modules <= {"ovparts_lib", "IPython"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_the_parameters_cell_fits_its_model_and_is_short(path):
    """A key left out of a YAML file means the same, whether the notebook is run by us, by papermill, or by hand.

    An option that follows the recipe is None in the cell, or not there.
    """
    model, declared = parameter_model(path.stem), declared_parameters(path)
    validate_parameters(model, {"notebook": path.stem} | declared, path.name)
    assert set(declared) <= set(model.model_fields)
    assert len(parameters_cell(path).splitlines()) <= 25
    named = {"notebook": path.stem, "setting": "", "run": ""}
    for recipe in RECIPES:
        expected = model.completed(named | {"recipe": recipe})
        for key in declared.keys() & expected.keys() - {*named, "recipe"}:
            follows = declared[key] is None and model.needs_value(key)
            assert follows or declared[key] == expected[key], key


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_a_notebook_opened_by_hand_is_the_shipped_miniature_run(path):
    shipped = load_parameters(ROOT / "params" / "miniature" / f"{path.stem}.yaml")
    by_hand = parameter_model(path.stem)(**declared_parameters(path))
    changed = {key for key in type(shipped).model_fields if getattr(by_hand, key) != getattr(shipped, key)}
    assert changed <= {"baseline"}


@pytest.mark.parametrize("path", PARAMS, ids=[f"{path.parent.name}/{path.stem}" for path in PARAMS])
def test_every_parameter_file_is_valid_short_explained_and_says_only_what_differs(path):
    params = load_parameters(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    given = yaml.safe_load("\n".join(lines))
    assert lines[0].startswith("# ") and len(lines) <= 20
    differs = {row["parameter"] for row in params.explained() if row["value"] != row["recipe"]}
    assert not [value for value in given.values() if isinstance(value, str) and "#" in value], (
        "a comment without a space"
    )
    for key in set(given) - {"notebook", "setting", "run", "recipe", "dataset"}:
        assert key in differs or type(params).model_fields[key].is_required(), f"{key} is the recipe's"
        line = next(line for line in lines if line.startswith(f"{key}:"))
        assert "# " in line, f"{path.name}: {key} is not explained"


def test_the_folder_of_a_parameter_file_is_its_setting():
    for path in PARAMS:
        assert load_parameters(path).setting == path.parent.name
