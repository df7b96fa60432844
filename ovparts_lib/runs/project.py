"""Where the project lies, so that everything works from any working directory."""

import os
from pathlib import Path

ROOT_VARIABLE, CACHE_VARIABLE = "OVPARTS_ROOT", "OVPARTS_CACHE"


def project_root() -> Path:
    """The folder that relative paths in parameters start from.

    In this order: the environment variable ``OVPARTS_ROOT``; the nearest folder at or above the working directory that
    holds ``ovparts_lib/`` and ``notebooks/``; the folder that the package was imported from.

    Raises:
        NotADirectoryError: ``OVPARTS_ROOT`` names something that is not a folder.
    """
    named = os.environ.get(ROOT_VARIABLE)
    if named:
        root = Path(named).expanduser()
        if not root.is_dir():
            raise NotADirectoryError(f"{ROOT_VARIABLE} is {named!r}, which is not a folder")
        return root.resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "ovparts_lib").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return package_parent()


def package_parent() -> Path:
    """The folder from which ``import ovparts_lib`` finds the package that is running."""
    return Path(__file__).resolve().parents[2]


def import_path() -> str:
    """``PYTHONPATH`` with which another process imports the package that is running, installed or not."""
    return os.pathsep.join(filter(None, [str(package_parent()), os.environ.get("PYTHONPATH")]))


def resolve_path(path: str | Path) -> Path:
    """An absolute path: ``~`` expanded, relative ones taken from the project root.

    Raises:
        FileNotFoundError: it is an address, such as ``https://…``.
    """
    if "://" in str(path):
        raise FileNotFoundError(f"{path} is an address; only files on this machine are read, so download it first")
    return project_root() / Path(path).expanduser()


def cache_folder() -> Path:
    """Where results lie that all projects share and that can be made again: text embeddings.

    The environment variable ``OVPARTS_CACHE``, or ``ovparts`` in ``XDG_CACHE_HOME``, by default ``~/.cache``.
    """
    named = os.environ.get(CACHE_VARIABLE)
    folder = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ovparts"
    return folder.expanduser().absolute()


def display_path(path: str | Path) -> str:
    """``path`` as shown to people and stored in records: relative to the project root when it lies inside it."""
    absolute = Path(path).resolve()
    root = project_root()
    return absolute.relative_to(root).as_posix() if absolute.is_relative_to(root) else str(path)
