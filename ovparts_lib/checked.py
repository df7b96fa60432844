"""Values that are checked where they are made, by their types: hyper-parameters, and the options of models."""

from pydantic import ConfigDict, validate_call
from pydantic.dataclasses import dataclass

hyper_parameters = dataclass(frozen=True, config=ConfigDict(extra="forbid"))
"""For a frozen dataclass; nested ones are also read from mappings, as weight files state them."""

checked_arguments = validate_call(config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
"""For a constructor: ValueError for an argument outside its type and range, or of no such name."""
