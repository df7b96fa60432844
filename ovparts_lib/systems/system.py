"""What a system's folder says of the system. Imports no torch; what needs it is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovparts_lib.systems.options import SystemOptions

if TYPE_CHECKING:
    from torch import nn

    from ovparts_lib.checkpoints.reading import LoadReport


@dataclass(frozen=True)
class System:
    """A system, as its folder's ``__init__.py`` describes it.

    ``model.py`` holds the model's class and ``SIZES`` (``{name: hyper-parameters}`` with ``released`` and
    ``miniature``); ``weights.py`` holds ``load_<name>(path, size, clip_path, **options) -> (model, report)``. What the
    system needs (parts, the objects' regions) and which groups of its parameters can train stand in its model.

    Attributes:
        name: of the folder, and in weight files.
        title: as in tables.
        paper: authors, venue, year.
        licence: of the published code and weights.
        notebook: that trains and scores it, without ``.ipynb``; systems are listed in this order.
        options: its options.
        model: name of the model's class; called with a size and options. Its CLIP is ``model.clip``.
        marks: pieces of tensor names that all occur in its released files. Where those of several systems do, the one
            with the most is meant.
        stored: attributes of the model that weight files state and that are options of the loader.
    """

    name: str
    title: str
    paper: str
    licence: str
    notebook: str
    options: type[SystemOptions]
    model: str
    marks: tuple[str, ...]
    stored: tuple[str, ...] = ()

    def module(self, name: str) -> Any:
        """A module of the system's folder."""
        return import_module(f"ovparts_lib.systems.{self.name}.{name}")

    @property
    def model_class(self) -> type[nn.Module]:
        """The model's class."""
        return getattr(self.module("model"), self.model)

    @property
    def sizes(self) -> Mapping[str, Any]:
        """Hyper-parameters by name."""
        return self.module("model").SIZES

    @property
    def model_arguments(self) -> set[str]:
        """Names of the arguments that the model takes, those of the classes it is built on included."""
        makers = [vars(kind)["__init__"] for kind in self.model_class.__mro__[:-1] if "__init__" in vars(kind)]
        return {name for maker in makers for name in signature(maker).parameters}

    @property
    def loader_options(self) -> set[str]:
        """Names of the arguments that :meth:`load` and, through it, the model take."""
        return self.model_arguments | set(signature(getattr(self.module("weights"), f"load_{self.name}")).parameters)

    def build(self, size: str | Any = "released", **options: Any) -> nn.Module:
        """A new model, by the name of a size or its hyper-parameters."""
        return self.model_class(self.sizes[size] if isinstance(size, str) else size, **options)

    def load(
        self, path: str | Path, size: Any = None, clip_path: str | Path | None = None, **options: Any
    ) -> tuple[nn.Module, LoadReport]:
        """The model with the weights of a file: one of ours, a released one, or one that a training can begin from.

        Args:
            path: file or folder.
            size: hyper-parameters; None for those of the file.
            clip_path: CLIP weights, for a file that does not hold them.
            **options: of the loader and the model.

        Raises:
            CheckpointError: unreadable, not recognised, or a tensor missing, unexpected or misshapen.
        """
        return getattr(self.module("weights"), f"load_{self.name}")(path, size, clip_path, **options)

    def load_own(
        self,
        path: str | Path,
        size: Any,
        options: Mapping[str, Any],
        *,
        read_as: Callable[[Any], Any] = lambda size: size,
        **beside: str | Path | None,
    ) -> tuple[nn.Module, LoadReport] | None:
        """The model of one of our own files of this system; None for a file of another origin.

        Args:
            path: the file.
            size: hyper-parameters; None for those that it states.
            options: of the model, beside what it states.
            read_as: what becomes of either of these sizes.
            **beside: other files, by option (``clip_weights``), which must be None: ours hold everything.

        Raises:
            CheckpointError: of another system, or a tensor missing, unexpected or misshapen.
        """
        from ovparts_lib.checkpoints.native import load_weights, read_metadata
        from ovparts_lib.checkpoints.reading import load_strictly, refuse_beside

        if read_metadata(path) is None:
            return None
        state, metadata = load_weights(path, self.name)
        for option, given in beside.items():
            refuse_beside(given, path, option)
        stated = {key: metadata[key] for key in self.stored if key in metadata}
        size = size or type(self.sizes["released"])(**metadata["size"])
        model = self.build(read_as(size), **{**stated, **options})
        return model, load_strictly(model, state, path, "ovparts weights")

    def initialise(self, model: nn.Module, clip_path: str | Path, **files: str | Path) -> LoadReport:
        """Load what the training of a new model begins from: CLIP, and what the folder's ``weights.initialise`` takes.

        Args:
            model: the rest of it keeps its initial values.
            clip_path: CLIP weights.
            **files: others, by the argument of the folder's ``initialise``.

        Raises:
            CheckpointError: a file is unreadable or does not fit.
        """
        weights = self.module("weights")
        if hasattr(weights, "initialise"):
            return weights.initialise(model, clip_path, **files)
        return model.load_clip(clip_path)

    def save(self, model: nn.Module, path: str | Path, **metadata: object) -> Path:
        """Write a model as our own file, so that :meth:`load` needs no more than its path.

        Args:
            model: the model.
            path: file to write, ``….safetensors``; replaced as a whole or not at all.
            **metadata: anything JSON can say that should be kept with the weights.
        """
        from ovparts_lib.checkpoints.native import save_weights

        described = {key: getattr(model, key) for key in self.stored}
        return save_weights(model, path, {**metadata, "system": self.name, "size": asdict(model.size), **described})
