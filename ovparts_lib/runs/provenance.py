"""What a number was made from: code, libraries, machine, seeds, data; and how it is written as JSON."""

import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pydantic_core

import ovparts_lib
from ovparts_lib.runs.parameters import RunParameters
from ovparts_lib.runs.project import project_root

COMMAND_VARIABLE = "OVPARTS_COMMAND"
LIBRARIES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "lightning-fabric",
    "numpy",
    "scipy",
    "pandas",
    "pillow",
    "safetensors",
    "transformers",
    "pydantic",
    "papermill",
)


def collect_provenance(params: RunParameters) -> dict[str, Any]:
    """Everything about a run that is known when it starts, as plain data without paths of this machine.

    The host's name is left out on purpose: what computes is told by CPU and device names.
    """
    return {
        "ovparts": ovparts_lib.__version__,
        "code": code_digest(),
        "git": git_state(project_root()),
        "command": os.environ.get(COMMAND_VARIABLE, f"notebook {params.notebook}"),
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": params.seed,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "libraries": library_versions(),
        "machine": machine(),
    }


@cache
def code_digest() -> str:
    """12 hexadecimal digits that change with any module of the package: what tells its state where there is no git."""
    package, digest = Path(ovparts_lib.__file__).parent, hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def git_state(root: Path) -> dict[str, Any] | None:
    """``{"commit": …, "dirty": …}`` of the project; None without git or if ``root`` is not a repository of its own."""
    top = _git(root, "rev-parse", "--show-toplevel")
    # A project unpacked somewhere inside another repository must not report that one's commit.
    if not top or Path(top).resolve() != root.resolve():
        return None
    commit, changed = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changed)} if commit else None


def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a number, those that are installed."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def machine() -> dict[str, Any]:
    """CPU model, cores this process may use, PyTorch's threads, CUDA version and device names."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "cpu": cpu_model(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if devices else None,
        "devices": devices,
    }


def cpu_model() -> str:
    """The processor's name as the kernel tells it, or what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def to_json(value: Any) -> str:
    """Indented JSON that any reader accepts: NaN and infinities become null, NumPy scalars become numbers."""
    content = pydantic_core.to_json(value, indent=2, inf_nan_mode="null", fallback=lambda scalar: scalar.item())
    return content.decode() + "\n"
