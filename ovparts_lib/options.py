"""Options: each declared once, with its type, range, explanation, published and miniature value.

Values are read strictly and explained in words when they do not fit.

Parameters arrive from YAML, from ``--set``, from papermill's command line, or from a notebook cell. Two habits of those
tools are met here: YAML 1.1 reads ``1e-4`` as text (its floats need a dot), and papermill hands that text on.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator
from pydantic.fields import FieldInfo

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_LONGEST_NAME = 120


def _read_number(value: Any, *, kind: str = "number") -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a {kind}")
    if not math.isfinite(value):
        raise ValueError("expected a finite number")
    return float(value)


def _read_whole(value: Any) -> int:
    number = value if type(value) is int else _read_number(value, kind="whole number")
    if number != int(number):
        raise ValueError("expected a whole number")
    return int(number)


def _read_edge(value: Any) -> int | str | None:
    try:
        edge = value if value in (None, "as_trained") else _read_whole(value)
    except ValueError:
        edge = 0
    if isinstance(edge, int) and edge < 1:
        raise ValueError("expected a whole number of at least 1, as_trained, or null")
    return edge


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
    if "\0" in value:
        raise ValueError("expected text without a zero byte, which no file name holds")
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
        wrong = [word for word in items if not isinstance(word, str) or not word.strip()]
        if wrong:
            raise ValueError(f"{expected}, each word text that is not empty; put it in quotes{_yaml_words(wrong[0])}")
        stripped = [word.strip() for word in items]
        repeated = sorted({word for word in stripped if stripped.count(word) > 1})
        if repeated:
            raise ValueError(f"expected each word once{where}; twice there are: {', '.join(repeated)}")
        return stripped

    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        raise ValueError(f"{expected}, not as the text of one; papermill's -p passes text, its -y reads YAML")
    if isinstance(value, dict):
        owners = zip(words(list(value)), value.values(), strict=True)
        return {owner: words(parts, f" for {owner}") for owner, parts in owners}
    return words(value)


Number = Annotated[float, BeforeValidator(_read_number)]
"""A finite number; ``"1e-4"`` is read as one."""

Whole = Annotated[int, BeforeValidator(_read_whole)]
"""A whole number; ``20000.0`` and ``"2e4"`` are read as one, ``0.5`` and ``True`` are not."""

Edge = Annotated[int | Literal["as_trained"] | None, PlainValidator(_read_edge)]
"""A side in pixels; None for a picture's own size, ``as_trained`` for what the model's recipe has."""

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

_PROTOCOLS = json.loads(files("ovparts_lib.evaluation").joinpath("protocols.json").read_text(encoding="utf-8"))
Protocol = Literal[tuple(_PROTOCOLS["protocols"])]  # type: ignore[valid-type]
"""Name of a scoring protocol, of parts or of whole objects."""

Protocols = Annotated[list[Protocol], Listed, Field(min_length=1)]
"""Names of scoring protocols."""

RECIPES = ("published", "miniature")
_SAME = object()


def option(published: Any, miniature: Any = _SAME, *, free: bool = False, **about: Any) -> Any:
    """A pydantic ``Field`` whose value, where none is given, follows from the recipe.

    Args:
        published: value of the published recipe; or a function of the values above it, where it depends on them.
        miniature: likewise of the miniature; the published one if left out.
        free: it does not change the results of a run, so that a run may be resumed with another value.
        **about: description and range.
    """
    values = {"published": published, "miniature": published if miniature is _SAME else miniature}
    return Field(json_schema_extra={"recipe": values, "changes_results": not free}, **about)


def free(default: Any, **about: Any) -> Any:
    """A pydantic ``Field`` that does not change the results of a run, so that a run may be resumed with another value.

    Where to compute, how many workers load data, how often to write a log line: such parameters are recorded, but they
    are no part of what makes two runs the same run.
    """
    return Field(default, json_schema_extra={"changes_results": False}, **about)


def by_dataset(otherwise: Any, **values: Any) -> Callable[[Mapping[str, Any]], Any]:
    """A recipe's value that depends on the data set trained on, by its name."""
    return lambda given: values.get(str(given.get("dataset")), otherwise)


class Options(BaseModel):
    """Options that are checked, completed from their recipe, and frozen.

    Attributes:
        recipe_values: ``{option: (published, miniature)}``, where a subclass has other values for inherited options.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())
    recipe_values: ClassVar[Mapping[str, tuple[Any, Any]]] = {}

    seed: Whole = Field(0, ge=0, lt=2**32, description="seed of every random choice")
    device: Device = free("auto", description="auto takes the first CUDA device if there is one, else the CPU")

    def rules(self) -> list[str]:
        """Rules that concern several fields: one line for each that is broken."""
        return []

    @classmethod
    def recipe_value(cls, key: str, recipe: str, given: Mapping[str, Any]) -> Any:
        """What an option is by its recipe, after the values of the options above it."""
        tables = (vars(parent).get("recipe_values", {}) for parent in cls.__mro__)
        changed = next((table[key] for table in tables if key in table), None)
        value = changed[RECIPES.index(recipe)] if changed else _facts(cls.model_fields[key])["recipe"][recipe]
        return value(given) if callable(value) else value

    @classmethod
    def follows_recipe(cls, key: str) -> bool:
        """Whether an option has a value for each recipe, rather than one default."""
        return key in cls.model_fields and "recipe" in _facts(cls.model_fields[key])

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """``values`` and, for options not among them, those of the recipe.

        None stands for the recipe's value, too, where None is no value of an option.
        """
        values = {key: value for key, value in values.items() if value is not None or not cls.needs_value(key)}
        recipe = values.get("recipe")
        recipe = recipe if recipe in RECIPES else RECIPES[0]
        given: dict[str, Any] = {}
        for key, field in cls.model_fields.items():
            if key in values:
                given[key] = values[key]
            elif cls.follows_recipe(key):
                given[key] = cls.recipe_value(key, recipe, given)
            elif not field.is_required():
                given[key] = field.get_default(call_default_factory=True)
        return {**values, **given}

    @classmethod
    def needs_value(cls, key: str) -> bool:
        """Whether an option follows the recipe and cannot be None, so that None stands for the recipe's value."""
        return cls.follows_recipe(key) and type(None) not in get_args(cls.model_fields[key].annotation)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        return cls.completed(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = self.rules()
        if broken:
            raise ValueError("\n".join(broken))
        return self

    def explained(self) -> list[dict[str, Any]]:
        """A row for each option: name, value, what its recipe or default would be, and explanation."""
        chosen = {key: getattr(self, key) for key in type(self).model_fields}
        rows = []
        for key, field in type(self).model_fields.items():
            above = {name: value for name, value in chosen.items() if name != key}
            default = type(self).completed(above).get(key, chosen[key])
            rows.append({"parameter": key, "value": chosen[key], "recipe": default, "explanation": field.description})
        return rows

    @classmethod
    def free_keys(cls) -> frozenset[str]:
        """Keys that do not change results."""
        return frozenset(k for k, f in cls.model_fields.items() if not _facts(f).get("changes_results", True))


def _facts(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
