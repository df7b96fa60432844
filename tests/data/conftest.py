import shutil
from pathlib import Path

import pytest

from ovparts_lib.data.readers.pascal_part_116 import PascalPart116
from tests.data import ade_layout
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


@pytest.fixture(scope="session")
def ade_template(tmp_path_factory):
    return ade_layout.write_layout(tmp_path_factory.mktemp("released") / "ADE20KPart234")


@pytest.fixture
def ade_root(ade_template, tmp_path):
    """A released-layout tree of four small pictures with instances that a test may damage."""
    return Path(shutil.copytree(ade_template, tmp_path / "images" / "ADE20KPart234"))
