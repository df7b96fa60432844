"""What the parameters of every notebook have in common."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from ovparts_lib.options import Name, Options, Text, free
from ovparts_lib.runs.project import resolve_path


class RunParameters(Options):
    """What every run has. Read with :func:`ovparts_lib.runs.load_params.validate_parameters` for readable errors.

    Attributes:
        reuse: whether a complete run stands for itself, or is redone because it collects what others have left since.
    """

    reuse: ClassVar[bool] = True

    notebook: Text = Field(description="the notebook that this run executes, without .ipynb")
    setting: Name = Field(description="first folder level below outputs, e.g. zero_shot")
    run: Name = Field(description="second folder level below outputs: the name of this run")
    outputs: Text = free("outputs", description="folder that holds all runs, relative to the project root")

    @property
    def folder(self) -> Path:
        """The run folder, ``outputs/<setting>/<run>``, as an absolute path."""
        return resolve_path(self.outputs) / self.setting / self.run

    @classmethod
    def free_keys(cls) -> frozenset[str]:
        """Keys that do not change results, and the names that say where a run lies."""
        return super().free_keys() | {"setting", "run"}
