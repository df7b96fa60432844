"""`workbook` and `inspection` import a module when one of its functions is first used."""

import fnmatch
import tomllib
from pathlib import Path

import pytest

from ovparts_lib import inspection, workbook

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("package", [workbook, inspection])
def test_every_name_is_what_its_module_has_whatever_was_used_before(package):
    for _ in range(2):  # a module of a function's name would replace it once it is imported
        for name in package.__all__:
            assert callable(getattr(package, name)), name
    modules = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
    assert not modules & set(package.__all__)


def test_stubs_are_part_of_the_package():
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["ovparts_lib"]
    for package in (workbook, inspection):
        stub = Path(package.__file__).with_suffix(".pyi")
        assert stub.is_file()
        assert any(fnmatch.fnmatch(f"{stub.parent.name}/{stub.name}", glob) for glob in globs)
