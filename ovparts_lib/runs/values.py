"""Types of parameter values, each read strictly and explained in words when a value does not fit.

Parameters arrive from YAML, from ``--set``, from papermill's command line, or from a notebook cell. Two habits of those
tools are met here: YAML 1.1 reads ``1e-4`` as text (its floats need a dot), and papermill hands that text on.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_LONGEST_NAME = 120


def _read_number(value: Any) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("expected a number")
    if not math.isfinite(value):
        raise ValueError("expected a finite number")
    return float(value)


def _read_whole(value: Any) -> int:
    try:
        number = value if isinstance(value, int) and not isinstance(value, bool) else _read_number(value)
    except ValueError:
        raise ValueError("expected a whole number") from None
    if number != int(number):
        raise ValueError("expected a whole number")
    return int(number)


def _read_flag(value: Any) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _yaml_words(value: Any) -> str:
    """Why a word is not there: YAML takes on, off, yes and no for true and false."""
    return " (YAML reads on, off, yes, no and their like as true or false)" if isinstance(value, bool) else ""


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text; put it in quotes if it is meant as text{_yaml_words(value)}")
    if not value.strip():
        raise ValueError("expected text that is not empty")
    return value


def _read_name(value: Any) -> str:
    """A name that is safe as a folder name on every file system: no separators, no leading dot, not too long."""
    text = _read_text(value)
    if not _NAME.fullmatch(text) or text.endswith(".") or len(text) > _LONGEST_NAME:
        raise ValueError(
            "expected a folder name: letters, digits and . _ + - only, beginning with a letter or digit, "
            f"at most {_LONGEST_NAME} characters"
        )
    return text


def _read_device(value: Any) -> str:
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        raise ValueError("expected auto, cpu, cuda or cuda:N")
    return value


def _read_list(value: Any) -> list[Any]:
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        raise ValueError("expected a list, not the text of one; papermill's -p passes text, its -y reads YAML")
    if not isinstance(value, list):
        raise ValueError("expected a list, for example [a, b]")
    if len({repr(item) for item in value}) != len(value):
        raise ValueError("expected a list without repetitions")
    return value


def _read_words(value: Any) -> dict[str, list[str]] | list[str]:
    expected = "expected words as a list ([head, tail]) or as objects with their parts ({dog: [head, tail]})"

    def words(items: Any, where: str = "") -> list[str]:
        if not isinstance(items, list | tuple) or not items:
            raise ValueError(expected)
        wrong = next((word for word in items if not isinstance(word, str) or not word.strip()), None)
        if wrong is not None:
            raise ValueError(f"{expected}, each word text that is not empty; put it in quotes{_yaml_words(wrong)}")
        stripped = [word.strip() for word in items]
        repeated = sorted({word for word in stripped if stripped.count(word) > 1})
        if repeated:
            raise ValueError(f"expected each word once{where}; twice there are: {', '.join(repeated)}")
        return stripped

    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        raise ValueError(f"{expected}, not as the text of one; papermill's -p passes text, its -y reads YAML")
    if isinstance(value, dict):
        return {
            owner: words(value[given], f" for {owner}") for owner, given in zip(words(list(value)), value, strict=True)
        }
    return words(value)


Number = Annotated[float, BeforeValidator(_read_number)]
"""A finite number; ``"1e-4"`` is read as one."""

Whole = Annotated[int, BeforeValidator(_read_whole)]
"""A whole number; ``20000.0`` and ``"2e4"`` are read as one, ``0.5`` and ``True`` are not."""

Flag = Annotated[bool, BeforeValidator(_read_flag)]
"""``True`` or ``False``; the words ``"true"`` and ``"false"`` are read, 0 and 1 are not."""

Text = Annotated[str, BeforeValidator(_read_text)]
"""Text that is not empty; numbers are refused rather than turned into text."""

Name = Annotated[str, BeforeValidator(_read_name)]
"""A folder name."""

Device = Annotated[str, BeforeValidator(_read_device)]
"""``auto``, ``cpu``, ``cuda``, ``cuda:1``."""

Listed = BeforeValidator(_read_list)
"""For lists: ``Annotated[list[Text], Listed]``. A lone value is refused, a tuple is read as a list."""

Words = Annotated[dict[str, list[str]] | list[str], PlainValidator(_read_words)]
"""One's own vocabulary: a flat list of words, or objects with lists of their parts."""

Protocol = Literal[
    "recommended",
    "recommended_strict",
    "ov_parts",
    "partclipseg_oracle",
    "partclipseg_pred_all",
    "partcatseg_oracle",
    "partcatseg_pred_all",
]
"""Name of a scoring protocol of parts."""

Protocols = Annotated[list[Protocol], Listed, Field(min_length=1)]
"""Names of scoring protocols."""


def free(default: Any, **about: Any) -> Any:
    """A pydantic ``Field`` that does not change the results of a run, so that a run may be resumed with another value.

    Where to compute, how many workers load data, how often to write a log line: such parameters are recorded, but they
    are no part of what makes two runs the same run.
    """
    return Field(default, json_schema_extra={"changes_results": False}, **about)
