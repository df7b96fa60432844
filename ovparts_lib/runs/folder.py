"""The run folder: ``outputs/<setting>/<run>/``, its lock, its parameters, and the file that makes a run complete."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import ValidationError

from ovparts_lib.atomic import saying_disk_full, sweep, write_atomically
from ovparts_lib.processes import allow_open_files
from ovparts_lib.runs.lock import FolderLock
from ovparts_lib.runs.parameters import RunParameters
from ovparts_lib.runs.project import display_path
from ovparts_lib.runs.provenance import collect_provenance, to_json
from ovparts_lib.strict_yaml import StrictLoader

RunState = Literal["absent", "partial", "complete"]
LOCK, EXECUTION_LOCK, EMPTYING = ".lock", ".execution.lock", ".emptying"
EXECUTION_VARIABLE = "OVPARTS_EXECUTION"
_KEPT_WHEN_EMPTIED = frozenset({LOCK, EXECUTION_LOCK, EMPTYING, "slurm"})
# What takes long to compute. A folder without any of it makes way for other parameters.
_COMPUTED = ("checkpoints/*", "evaluation/*", "*.safetensors")
_START_OVER = "or start over with --again, which empties the folder"
_VERSION = ("ovparts", "code", "git")
_SESSION_FACTS = (*_VERSION, "command", "started_utc", "machine", "python", "libraries")
_OPEN: dict[Path, "RunFolder"] = {}


class RunConflictError(RuntimeError):
    """The folder holds a run with other parameters, or one made from something else."""


class IncompleteResultsError(ValueError):
    """Results that name files which are not in the run folder."""


class RunFolder:
    """A run folder that this process may write to. Open with :meth:`open`; the run ends with :meth:`finish`.

    Attributes:
        path: the folder.
        params: the parameters of the run.
        found: what the folder held when it was opened: ``absent``, ``partial`` (to be resumed) or ``complete``.
        figures: folder of the pictures (PNG, with their data as CSV).
        tables: folder of the tables (CSV).
        checkpoints: folder of the weights.
        log: one JSON object per line.
        provenance: what the run was made from: the facts of its first session, and ``sessions``, one entry per opening.
    """

    def __init__(self, params: RunParameters, lock: FolderLock, found: RunState) -> None:
        self.params = params
        self.path = params.folder
        self.found: RunState = found
        self.figures = self.path / "figures"
        self.tables = self.path / "tables"
        self.checkpoints = self.path / "checkpoints"
        self.log = self.path / "log.jsonl"
        self.provenance = self.path / "provenance.json"
        self._lock = lock

    @classmethod
    def open(cls, params: RunParameters, *, again: bool = False) -> Self:
        """Create or resume the run folder of ``params`` and lock it.

        Calling this again in the same process (a notebook cell run twice) takes over the lock. A complete run stays
        complete when it is opened, for it may be opened to be looked at; :meth:`finish` replaces its results. A folder
        with other parameters of the same notebook is emptied where it holds nothing that took computing: no weights,
        checkpoints or counts.

        Args:
            params: parameters of the run.
            again: throw away what the folder holds and start over.

        Raises:
            RunLockedError: another process works in the folder.
            RunConflictError: the folder holds a run with other parameters; the message names them.
            DiskFullError: no space for the first files.
        """
        path = params.folder
        make_folder(path)
        opened = _OPEN.pop(path, None)
        lock = opened._lock if opened else FolderLock(path / LOCK)
        lock.acquire()
        try:
            _make_way(params, again)
            folder = cls(params, lock, run_state(params))
            allow_open_files()
            for inner in (folder.figures, folder.tables, folder.checkpoints):
                make_folder(inner)
            write_atomically(path / "params.yaml", yaml.safe_dump(params.model_dump(), sort_keys=False))
            folder._record_opening()
        except BaseException:
            lock.release()
            raise
        _OPEN[path] = folder
        return folder

    def record(self, **facts: Any) -> None:
        """Add facts to ``provenance.json``, in place of older ones of the same names: hashes of weights, and so on."""
        write_atomically(self.provenance, to_json(read_json(self.provenance) | facts))

    def record_once(self, **facts: Any) -> None:
        """Add facts to ``provenance.json`` that must stay the same over all sessions, such as a dataset's fingerprint.

        Raises:
            RunConflictError: an earlier session of this run recorded another value; nothing is recorded then.
        """
        known, now = read_json(self.provenance), json.loads(to_json(facts))
        changed = [key for key in now if key in known and known[key] != now[key]]
        if changed:
            lines = "\n".join(f"  - {key}: {known[key]!r} then, {now[key]!r} now" for key in changed)
            raise RunConflictError(
                f"{display_path(self.path)} was begun from something else:\n{lines}\n"
                f"Restore what it was begun from, give this run another name (run: …), {_START_OVER}"
            )
        self.record(**now)

    def _record_opening(self) -> None:
        """Keep the facts of the first session, add this one to the list, and say if another version goes on."""
        now, known = collect_provenance(self.params), read_json(self.provenance)
        begun = {key: known[key] for key in _VERSION if known.get(key) is not None}
        changed = [f"{key} {_brief(was)} then, {_brief(now[key])} now" for key, was in begun.items() if was != now[key]]
        if changed:
            print(f"Note: this run was begun with another version of the code ({'; '.join(changed)})")
        sessions = known.get("sessions", [_session(known)] if known else [])
        write_atomically(self.provenance, to_json((known or now) | {"sessions": [*sessions, _session(now)]}))

    def finish(self, results: Mapping[str, Any]) -> Path:
        """Write ``results.json``, which makes the run complete, and release the lock.

        Args:
            results: plain data; ``figures`` and ``tables`` are lists of mappings whose ``file`` lies in this folder.

        Raises:
            IncompleteResultsError: a listed file is not there.
            DiskFullError: no space left; the run is not complete.
        """
        listed = [str(entry["file"]) for kind in ("figures", "tables") for entry in results.get(kind, [])]
        missing = [name for name in listed if not (self.path / name).is_file()]
        if missing:
            raise IncompleteResultsError(f"results name files that are not in {self.path}: {', '.join(missing)}")
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        self.record(finished_utc=finished)
        about = {
            "status": "complete",
            "params_hash": params_hash(self.params.model_dump(), self.params.free_keys()),
            "execution": os.environ.get(EXECUTION_VARIABLE),
            "finished_utc": finished,
            **self.params.model_dump(include={"notebook", "setting", "run"}),
        }
        path = self.path / "results.json"
        write_atomically(path, to_json({**results, **about}))
        self.close()
        return path

    def close(self) -> None:
        """Release the lock; the run stays as it is."""
        if _OPEN.get(self.path) is self:
            del _OPEN[self.path]
        self._lock.release()


def _brief(version: Any) -> Any:
    """A version as it is told to people: of a commit its first digits."""
    return str(version.get("commit"))[:10] if isinstance(version, Mapping) else version


def _session(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What may differ from one opening of a run folder to the next."""
    return {key: facts[key] for key in _SESSION_FACTS if key in facts}


def run_state(params: RunParameters) -> RunState:
    """What is in the folder of these parameters; a run with other parameters that matter counts as ``absent``."""
    stored = read_params(params.folder)
    if stored is None or differing_keys(params, stored):
        return "absent"
    return folder_state(params.folder, params.free_keys())


def folder_state(path: Path, free_keys: frozenset[str]) -> RunState:
    """The state of any run folder: complete only if its ``results.json`` says so and belongs to its ``params.yaml``."""
    stored = read_params(path)
    if stored is None:
        return "absent"
    results = read_json(path / "results.json")
    belongs = results.get("params_hash") == params_hash(stored, free_keys)
    return "complete" if results.get("status") == "complete" and belongs else "partial"


def differing_keys(params: RunParameters, stored: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Parameters that matter and differ: key -> (stored value, value now).

    A parameter that did not exist when the run was stored counts as having had the value that the others give it.
    """
    now, free = params.model_dump(), params.free_keys()
    try:
        completed = type(params)(**{key: value for key, value in stored.items() if key in now}).model_dump()
    except ValidationError:  # stored by another version, under other rules
        completed = {}
    was = completed | dict(stored)
    keys = [key for key in (*now, *(key for key in was if key not in now)) if key not in free]
    # A key that is on one side only differs, unless it has no value on the other.
    return {key: (was.get(key), now.get(key)) for key in keys if was.get(key) != now.get(key)}


def params_hash(values: Mapping[str, Any], free_keys: frozenset[str]) -> str:
    """16 hexadecimal digits that stand for the parameters that change results."""
    kept = {key: value for key, value in values.items() if key not in free_keys}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def read_params(path: Path) -> dict[str, Any] | None:
    """The ``params.yaml`` of a run folder; None if there is none that can be read."""
    try:
        values = yaml.load((path / "params.yaml").read_text(encoding="utf-8"), Loader=StrictLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return values if isinstance(values, dict) else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if the file is missing or damaged, for then it says nothing."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def prepare_folder(params: RunParameters, *, again: bool = False, redo: bool = False) -> None:
    """Find out, without keeping the lock, whether :meth:`RunFolder.open` would succeed in another process just now.

    Args:
        params: parameters of the run.
        again: throw away what the folder holds.
        redo: the run is executed now, so that a complete one is complete again only when it has finished.

    Raises:
        RunLockedError: another process works in the folder.
        RunConflictError: the folder holds a run with other parameters.
        DiskFullError: no space for the folder.
    """
    make_folder(params.folder)
    lock = FolderLock(params.folder / LOCK)
    lock.acquire()
    try:
        _make_way(params, again)
        if redo:
            (params.folder / "results.json").unlink(missing_ok=True)
    finally:
        lock.release()


def _make_way(params: RunParameters, again: bool) -> None:
    """Prepare a locked folder for these parameters: emptied, swept of what killed processes left, or refused."""
    path = params.folder
    sweep(path, "**/.*.part")
    if again or (path / EMPTYING).exists():
        _empty(path)
    stored = read_params(path)
    computed = any(True for pattern in _COMPUTED for _ in path.glob(pattern))
    if stored is None and computed:
        what = "holds what a run computed, but its params.yaml is missing or damaged: restore it"
        raise RunConflictError(f"{display_path(path)} {what}, {_START_OVER}")
    differing = differing_keys(params, stored) if stored is not None else {}
    if not differing:
        return
    lines = "\n".join(f"  - {key}: {was!r} there, {now!r} now" for key, (was, now) in differing.items())
    if computed or "notebook" in differing:
        advice = f"Give this run another name (run: …), {_START_OVER}"
        raise RunConflictError(f"{display_path(path)} holds a run with other parameters:\n{lines}\n{advice}")
    print(f"{display_path(path)}: what an earlier run left makes way for other parameters:\n{lines}")
    _empty(path)


def make_folder(path: Path) -> None:
    """Create a folder and those above it, if need be.

    Raises:
        DiskFullError: there is no space for it.
        NotADirectoryError: something else has its name, or that of a folder above it.
    """
    try:
        with saying_disk_full(path):
            path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        place = next(each for each in (path, *path.parents) if each.is_symlink() or each.exists())
        problem = "a link to nowhere" if place.is_symlink() and not place.exists() else "a file"
        reason = f"is {problem}, where a folder is needed; move it away, or choose another folder"
        raise NotADirectoryError(error.errno, reason, str(place)) from error


def _empty(path: Path) -> None:
    """Remove what a run left. Killed halfway, it is gone on with when the folder is next opened."""
    (path / "results.json").unlink(missing_ok=True)
    write_atomically(path / EMPTYING, "")
    for entry in path.iterdir():
        if entry.name in _KEPT_WHEN_EMPTIED:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    (path / EMPTYING).unlink()
