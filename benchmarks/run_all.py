"""Measure every system, CLIPSeg beside its peer too, and append the rows to ``benchmarks/results/systems_*.csv``."""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch
from measure import IMPLEMENTATIONS, PICTURE, TASKS, TRAINING
from recorded import RECORDED, write_recorded_weights
from rows import HERE, MeasurementError, about, append, in_own_process, results_file

from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.vocabularies import OBJECT_VOCABULARIES, PART_VOCABULARIES

PEERED = "clipseg"  # the system that the other implementations are of; all start from one file of weights
BATCH = 2
# Also measured with these numbers of images: PartCLIPSeg's step was recorded with one, and stands beside CLIPSeg's.
OTHER_BATCHES = {"clipseg": (1,)}
FIGURES = ("gflops", "peak_mib", "cpu_seconds")
# For every size of vocabulary: 116, 234 and 482 parts; of whole objects 150 and 847.
VOCABULARIES = ("pascal_part_116", "ade20k_part_234", "partimagenet_ood")
OBJECTS = {"train_step": ("coco_stuff_171",), "evaluate": ("ade20k_150", "ade20k_847")}
LARGEST = {"ade20k_847": "640x2560"}  # the longest list is measured with the largest test picture


def write_weights(path: Path) -> None:
    """Random weights under the released key names: each tensor N(0, 1/fan-in), norms and biases near 1 and 0."""
    from clipseg_peer import PeerClipseg  # needs transformers, which nothing else here does

    torch.manual_seed(0)
    state = PeerClipseg(full_context=True).state_dict()
    for name, tensor in state.items():
        if not tensor.is_floating_point() or name.endswith("logit_scale"):
            continue
        if tensor.ndim <= 1:
            centre = 1.0 if name.endswith("weight") else 0.0
            state[name] = centre + 0.1 * torch.randn_like(tensor)
        else:
            state[name] = torch.randn_like(tensor) / tensor[0].numel() ** 0.5
    torch.save({"model": state}, path)


def references() -> list[dict[str, str]]:
    """What was recorded of the reference implementations."""
    with (HERE / "reference.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def with_reference(row: dict) -> dict:
    """The row with the reference implementation's figures, and ours as a share of them; blank if none were recorded."""
    keys = ("system", "size", "task", "classes", "images")
    found = next((one for one in references() if all(one[key] == str(row[key]) for key in keys)), {})
    row = row | {f"reference_{name}": found.get(name, "") for name in (*FIGURES, "loss", "origin")}
    for name in FIGURES:
        both = row[name] and row[f"reference_{name}"]
        row[f"{name}_share"] = round(float(row[name]) / float(row[f"reference_{name}"]), 3) if both else ""
    both = row["loss"] != "" and row["reference_loss"]
    row["loss_difference"] = f"{abs(row['loss'] / float(row['reference_loss']) - 1):.2g}" if both else ""
    return row


def batches_of(system: str, task: str, size: str = "released") -> list[int]:
    """Images of a step: as many as the reference was recorded with, and what else is wanted for comparison."""
    recorded = int((recordings(system, "train_step", size) or [{"images": BATCH}])[0]["images"])
    return [recorded, *OTHER_BATCHES.get(system, ())] if task == "train_step" else [recorded]


def recordings(system: str, task: str, size: str) -> list[dict[str, str]]:
    """What was recorded of a system in a task and size."""
    asked = (system, task, size)
    return [one for one in references() if (one["system"], one["task"], one["size"]) == asked]


def sizes_of(system: str) -> list[str]:
    """The sizes that a system was recorded in; of others than the first, FLOPs, time and memory follow from it."""
    return list(dict.fromkeys(one["size"] for one in references() if one["system"] == system))


def vocabularies_of(system: str, task: str, size: str) -> tuple[str, ...]:
    """The class lists of a task: parts, or whole objects for a system that was recorded with them."""
    recorded = recordings(system, "evaluate", size)
    if recorded and recorded[0]["classes"] == "150" and task in OBJECTS:
        return OBJECTS[task]
    return VOCABULARIES if task == "evaluate" else VOCABULARIES[:1]


def picture_of(system: str, task: str, size: str, vocabulary: str) -> str:
    """Height x width of the pictures of a task, as they were recorded."""
    recorded = (recordings(system, task, size) or [{"picture": PICTURE.get(task, "")}])[0]["picture"]
    return LARGEST.get(vocabulary, recorded)


def option_sets(system: str, task: str) -> list[str]:
    """As the system comes, or as it was recorded; in training also with all it can compute again instead of keeping."""
    given = RECORDED[system].options if task == "recorded_step" else {}
    saving = {name: True for name in SYSTEMS[system].model_arguments if name.startswith("checkpoint_")}
    return [json.dumps(one) for one in ([given, given | saving] if task in TRAINING and saving else [given])]


def difference(task: str, first: Path, other: Path) -> str:
    """Largest absolute difference of logits or embeddings, or relative difference of losses."""
    a, b = (torch.load(path, weights_only=True) for path in (first, other))
    gap = (a - b).abs().max()
    return f"{float(gap / a.abs().max() if task == 'train_step' else gap):.2g}"


def main() -> None:
    """Measure all combinations in turn; one that fails is named at the end and keeps no other from being measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    known = PART_VOCABULARIES + OBJECT_VOCABULARIES
    parser.add_argument("--vocabularies", nargs="+", choices=known, help="of evaluate; by default the system's")
    parser.add_argument("--options", nargs="+", help="JSON objects, arguments of the model's class")
    parser.add_argument("--implementations", nargs="+", choices=IMPLEMENTATIONS, default=list(IMPLEMENTATIONS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32"])
    parser.add_argument("--compile", nargs="+", choices=["off", "on"], default=["off"])
    parser.add_argument("--batch", type=int, help="images of train_step; by default as the reference's")
    parser.add_argument("--sizes", nargs="+", help="of the models; miniature for a quick look, with --out")
    parser.add_argument("--out", type=Path, help="CSV file for the rows; by default results/systems_<device>.csv")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--note", default="", help="what else a reader of the row should know of the machine")
    wanted = parser.parse_args()
    if "miniature" in (wanted.sizes or ()) and wanted.out is None:
        parser.error("--sizes: rows of the miniature belong into a file of their own; name it with --out")
    machine, out = about(wanted.device), wanted.out or results_file("systems", wanted.device)
    compared = PEERED in wanted.systems and set(wanted.implementations) != {"ovparts"}
    machine |= {"transformers": version("transformers") if compared else ""}
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        settings = (one for system in wanted.systems for one in settings_of(system, wanted))
        for row in settings:
            system, task = row["system"], row["task"]
            files, first = weights_of(system, task, wanted, Path(folder)), None
            for number, variant in enumerate(variants_of(system, task, wanted)):
                keep = Path(folder) / f"{number}.pt"
                try:
                    found = measured({**row, **variant}, files | {"keep": keep}, wanted)
                except MeasurementError as error:
                    failed += 1
                    print(error)
                    continue
                first = first or keep
                found = {key: row[key] for key in ("system", "size", "task")} | variant | found
                found = with_reference(machine | found)
                found |= {"difference": difference(task, first, keep), "note": wanted.note}
                append(out, found)
                print(json.dumps(found), flush=True)
    if failed:
        raise SystemExit(f"{failed} measurements failed, see above")


def settings_of(system: str, wanted: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is measured of a system: every size, task, class list and number of images."""
    for size, task in product(wanted.sizes or sizes_of(system), wanted.tasks):
        if task == "recorded_step" and (system not in RECORDED or size != "released"):
            continue
        chosen = wanted.vocabularies if task == "evaluate" else None
        batches = [wanted.batch] if wanted.batch else batches_of(system, task, size)
        for vocabulary, batch in product(chosen or vocabularies_of(system, task, size), batches):
            row = {"system": system, "size": size, "task": task, "vocabulary": vocabulary, "batch": batch}
            yield row | {"picture": picture_of(system, task, size, vocabulary)}


def peers_of(system: str, task: str, wanted: argparse.Namespace) -> list[str]:
    """The other implementations that are measured beside ours."""
    beside = system == PEERED and task in ("evaluate", "train_step") and wanted.sizes in (None, ["released"])
    return [one for one in wanted.implementations if one != "ovparts" and beside]


def weights_of(system: str, task: str, wanted: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """The file of weights a measurement needs: the recorded ones, or those that implementations share."""
    if task == "recorded_step":
        path, write = folder / f"recorded_{system}.pth", partial(write_recorded_weights, system)
    elif peers_of(system, task, wanted):
        path, write = folder / "shared.pth", write_weights
    else:
        return {}
    if not path.exists():
        write(path)
    return {"weights": path}


def variants_of(system: str, task: str, wanted: argparse.Namespace) -> list[dict[str, Any]]:
    """What distinguishes the rows that are compared with the first of them."""
    ours = wanted.options or option_sets(system, task)
    pairs = [("ovparts", one) for one in ours if "ovparts" in wanted.implementations]
    pairs += [(one, "{}") for one in peers_of(system, task, wanted)]
    return [
        {"implementation": implementation, "options": options, "precision": precision, "compile": compiled == "on"}
        for precision, compiled in product(wanted.precision, wanted.compile)
        for implementation, options in pairs
    ]


def measured(row: dict, files: dict[str, Path], wanted: argparse.Namespace) -> dict:
    """What ``measure.py`` finds for a row."""
    settings = {name: value for name, value in row.items() if name != "compile"} | files
    settings |= {name: getattr(wanted, name) for name in ("device", "repeats", "threads")}
    command = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return in_own_process(HERE / "measure.py", [*command, *(["--compile"] if row["compile"] else [])], wanted.device)


if __name__ == "__main__":
    main()
