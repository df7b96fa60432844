"""The parameters of the notebooks that train and score a system: those of every run, and the system's options."""

from __future__ import annotations

from functools import cache
from typing import Literal

from pydantic import Field, create_model

from ovparts_lib.runs.base_parameters import RunParameters
from ovparts_lib.systems.system import System


@cache
def system_parameters(system: System) -> type[RunParameters]:
    """The parameters model of a system's notebook."""
    return create_model(
        f"{system.title}Parameters",
        __base__=(system.options, RunParameters),
        __doc__=f"{system.notebook}: train {system.title} or load a checkpoint, then score and inspect it.",
        notebook=(Literal[system.notebook], Field(system.notebook, description="the notebook that this run executes")),
    )
