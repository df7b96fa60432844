import shutil
from pathlib import Path

import pytest

from ovparts_lib.data import PascalPart116
from tests.data.released_layout import write_layout


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return write_layout(tmp_path_factory.mktemp("released") / "PascalPart116")


@pytest.fixture
def root(template, tmp_path):
    """A released-layout tree of eight small pictures that a test may damage."""
    return Path(shutil.copytree(template, tmp_path / "obj_part" / "PascalPart116"))


@pytest.fixture
def reader(root):
    return PascalPart116(root)
