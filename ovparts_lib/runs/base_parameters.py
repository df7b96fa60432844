"""What the parameters of every notebook have in common."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ovparts_lib.runs.project import resolve_path
from ovparts_lib.runs.values import Device, Name, Text, Whole, free


class RunParameters(BaseModel):
    """What every run has. Read with :func:`ovparts_lib.runs.load_params.validate_parameters` for readable errors.

    Attributes:
        reuse: whether a complete run stands for itself, or is redone because it collects what others have left since.
    """

    reuse: ClassVar[bool] = True
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    notebook: Text = Field(description="the notebook that this run executes, without .ipynb")
    setting: Name = Field(description="first folder level below outputs, e.g. zero_shot")
    run: Name = Field(description="second folder level below outputs: the name of this run")
    outputs: Text = free("outputs", description="folder that holds all runs, relative to the project root")
    seed: Whole = Field(0, ge=0, lt=2**32, description="seed of every random choice")
    device: Device = free("auto", description="auto takes the first CUDA device if there is one, else the CPU")

    def rules(self) -> list[str]:
        """Rules that concern several fields: one line for each that is broken."""
        return []

    @model_validator(mode="after")
    def _check_rules(self) -> RunParameters:
        broken = self.rules()
        if broken:
            raise ValueError("\n".join(broken))
        return self

    @property
    def folder(self) -> Path:
        """The run folder, ``outputs/<setting>/<run>``, as an absolute path."""
        return resolve_path(self.outputs) / self.setting / self.run

    @classmethod
    def free_keys(cls) -> frozenset[str]:
        """Keys that do not change results: those declared with ``free``, and the names that say where a run lies."""
        marked = {
            key
            for key, field in cls.model_fields.items()
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("changes_results") is False
        }
        return frozenset(marked | {"setting", "run"})
