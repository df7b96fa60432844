"""Train systems and ablated variants on the miniature with several seeds.

Needs ``outputs/miniature/world`` (``ovparts run params/miniature/01_miniature.yaml``). Every row of
``benchmarks/results/miniature_ablations.csv`` is one mode and stage of one run, scored on all test images; printed are
means over seeds, and how well the order of systems agrees with the published one. Runs are resumable: what is complete
is not trained again.

The budget is that of each system in the demo or, with ``--iterations`` (steps of CLIPSeg's batch), the same number of
pictures for all. PartCATSeg is trained in two stages, as published: it begins from the CATSeg of
the same seed and guidance (which is trained too where it was not asked for), has CATSeg's budget and its own, and its
rows say so.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ovparts_lib.evaluation.tables import published_results
from ovparts_lib.runs import load_parameters, project_root
from ovparts_lib.runs.batch import default_jobs, run_beside

UNGUIDED = {"model_size": "miniature_unguided", "trainable": ["aggregator"]}
FROM_NOTHING = {"initialise_from": None, "clip_weights": "outputs/miniature/world/miniclip.safetensors"}
ADAPTED = {"adaptation_iterations": 200}


@dataclass(frozen=True)
class Variant:
    """A system, or a part of it.

    Attributes:
        notebook: that trains or scores it.
        changes: what differs from ``params/miniature``.
        first: the variant whose weights it begins from.
        trained: whether it is trained, or scored with the weights that ``first`` leaves.
    """

    notebook: str
    changes: dict[str, Any] = field(default_factory=dict)
    first: str | None = None
    trained: bool = True


def _scored(first: str, notebook: str, **changes: Any) -> Variant:
    return Variant(notebook, changes, first, trained=False)


VARIANTS: dict[str, Variant] = {
    "CLIPSeg": Variant("20_clipseg"),
    "PartCLIPSeg, object context only": Variant(
        "23_partclipseg", {"separation_weight": 0.0, "enhancement_weight": 0.0}
    ),
    "PartCLIPSeg": Variant("23_partclipseg"),
    "PartCLIPSeg, attention losses x10": Variant(
        "23_partclipseg", {"separation_weight": 1.0, "enhancement_weight": 0.1}
    ),
    "CATSeg": Variant("21_catseg"),
    "CATSeg without guidance": Variant("21_catseg", UNGUIDED),
    "PartCATSeg": Variant("24_partcatseg", first="CATSeg"),
    "PartCATSeg without guidance": Variant("24_partcatseg", UNGUIDED, "CATSeg without guidance"),
    "PartCATSeg without compositional loss": Variant("24_partcatseg", {"compositional_weight": 0.0}, "CATSeg"),
    "PartCATSeg, background weight as published": Variant("24_partcatseg", {"background_weight": 0.05}, "CATSeg"),
    "PartCATSeg from nothing": Variant("24_partcatseg", FROM_NOTHING),
    "ZSSeg+": Variant("22_zsseg_plus"),
    "ZSSeg+, CLIP alone": _scored("ZSSeg+", "22_zsseg_plus", ensemble="clip"),
    "ZSSeg+, stage 1 alone": _scored("ZSSeg+", "22_zsseg_plus", ensemble="stage1"),
    "OVSeg": Variant("25_ovseg", {"adaptation_iterations": 0}),
    "OVSeg, proposals alone": _scored("OVSeg", "25_ovseg", classifier="proposals"),
    "OVSeg, CLIP alone": _scored("OVSeg", "25_ovseg", classifier="clip"),
    "OVSeg, CLIP fine-tuned": _scored("OVSeg", "25_ovseg", adaptation=["fine_tuning"], **ADAPTED),
    "OVSeg, CLIP fine-tuned, mask prompts": _scored(
        "OVSeg", "25_ovseg", adaptation=["fine_tuning", "mask_prompts"], mask_prompts=True, **ADAPTED
    ),
    "SCAN": Variant("26_scan"),
    "SCAN without CS": _scored("SCAN", "26_scan", shift_ratio=0.0),
    "SCAN without SIM": Variant("26_scan", {"integration": False}),
}
ATTENTION = ("object_overlap", "shared", "strength", "on_part")
FIGURES = ("seen", "unseen", "harmonic", "mIoU")
QUICK = {"comparison_images": 1, "attention_images": 0, "intervals": None}


def shipped_file(notebook: str) -> Path:
    """The parameters of a notebook in ``params/miniature``."""
    return project_root() / "params" / "miniature" / f"{notebook}.yaml"


def shipped(notebook: str) -> dict[str, Any]:
    """These parameters, with all that follows from their recipe."""
    return load_parameters(shipped_file(notebook)).model_dump()


def budget(iterations: int | None, notebook: str) -> tuple[int, int]:
    """Steps and batch of a run.

    Args:
        iterations: steps of CLIPSeg's batch: every system makes as many of its own batch as take the same number of
            pictures. None: each makes those of its parameter file.
        notebook: of the system.

    Raises:
        ValueError: that is no whole number of steps.
    """
    own = shipped(notebook)
    batch = own["batch_size"]
    if iterations is None:
        return own["iterations"], batch
    pictures = iterations * shipped("20_clipseg")["batch_size"]
    if pictures % batch:
        raise ValueError(f"{pictures} pictures are no whole number of steps of {batch}, the batch of {notebook}")
    return pictures // batch, batch


def run_name(variant: str, seed: int, iterations: int) -> str:
    """Name of a run's folder; runs of another budget stand beside it."""
    return variant.lower().replace(",", "").replace(" ", "_") + f"_{iterations}_steps_seed_{seed}"


def parameter_values(variant: str, seed: int, outputs: Path, iterations: int | None) -> dict[str, Any]:
    """Parameters of one run."""
    chosen = VARIANTS[variant]
    values = yaml.safe_load(shipped_file(chosen.notebook).read_text(encoding="utf-8"))
    steps, batch = budget(iterations, chosen.notebook)
    values |= QUICK | chosen.changes | {"seed": seed, "setting": "ablations", "outputs": str(outputs)}
    values["evaluate_before_training"] = chosen.trained
    values |= {"iterations": steps if chosen.trained else 0, "batch_size": batch}
    values["run"] = run_name(variant, seed, steps)
    if chosen.first:
        folder = run_name(chosen.first, seed, budget(iterations, VARIANTS[chosen.first].notebook)[0])
        key = "initialise_from" if chosen.trained else "checkpoint"
        values[key] = str(outputs / "ablations" / folder / "weights.safetensors")
    return values


def parameter_file(folder: Path, values: dict[str, Any]) -> Path:
    """The same as a YAML file."""
    path = folder / f"{values['run']}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def budget_columns(variant: str, values: dict[str, Any], iterations: int | None) -> dict[str, Any]:
    """What a row says of its budget, the stage its weights are from included."""
    first = VARIANTS[variant].first
    before = budget(iterations, VARIANTS[first].notebook) if first else (0, 0)
    own = values["iterations"]
    return {
        "iterations": own,
        "batch_size": values["batch_size"],
        "iterations_before": before[0],
        "images_trained": own * values["batch_size"] + before[0] * before[1],
        "budget": f"{before[0]} of {first} + {own}" if before[0] else str(own),
    }


def missing_first_stages(variants: Sequence[str]) -> list[str]:
    """What variants begin from, where it is not among them."""
    needed = dict.fromkeys(VARIANTS[variant].first for variant in variants)
    return [first for first in needed if first and first not in variants]


def rows_of(run: Path, variant: str, values: dict[str, Any], iterations: int | None) -> list[dict[str, Any]]:
    """What a complete run's files say: a row per stage and mode under the recommended protocol.

    Of whole objects, seen and unseen are the test classes that training has labelled, and the others.

    Raises:
        ValueError: the run was trained for another number of steps than its parameters say.
    """
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines() if values["iterations"] else []
    steps = [entry for entry in map(json.loads, lines) if "loss" in entry]
    attention, groups = {}, {}
    if (run / "tables" / "attention_after.csv").is_file():
        table = pd.read_csv(run / "tables" / "attention_after.csv")
        attention = {f"attention_{key}": round(float(table[key].mean()), 4) for key in ATTENTION}
    if (run / "tables" / "seen_in_training.csv").is_file():
        table = pd.read_csv(run / "tables" / "seen_in_training.csv").set_index("classes of")["mean IoU"]
        # a run that trains nothing does not know which classes were labelled where it was trained
        known = table if steps else {}
        groups = {"seen": known.get("seen in training"), "unseen": known.get("unseen"), "harmonic": None}
    if steps and steps[-1]["step"] != values["iterations"]:
        raise ValueError(f"{run} has {steps[-1]['step']} steps, not {values['iterations']}")
    made = json.loads((run / "provenance.json").read_text(encoding="utf-8"))
    git = made["git"] or {"commit": "", "dirty": False}
    return [
        {
            "date": made["finished_utc"][:10],
            "commit": git["commit"][:12] + "+" * git["dirty"],
            "hardware": made["machine"]["cpu"],
            "torch": made["libraries"]["torch"],
            "variant": variant,
            "seed": values["seed"],
            "mode": row["mode"],
            "stage": row["label"],
            **_figures(row | (dict.fromkeys(groups) if row["label"] == "before" else groups)),
            "images": row["images"],
            **budget_columns(variant, values, iterations),
            "training_seconds": round(steps[-1]["seconds"], 1) if steps else 0.0,
            **(dict.fromkeys((f"attention_{key}" for key in ATTENTION), "") | attention),
        }
        for row in results["headline"]
        if row["protocol"] in ("recommended", "recommended_objects")
    ]


def _figures(row: dict[str, Any]) -> dict[str, float | str]:
    return {key: "" if row.get(key) is None else round(row[key], 2) for key in FIGURES}


def rank_correlations(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Spearman's correlation of the systems' order here with the published one on Pascal-Part-116, for each seed.

    Of a system's published figures the best zero-shot one counts; figures that stand in issue threads do not.

    Args:
        rows: of :func:`rows_of`; systems as they are, after training, count.

    Returns:
        Columns mode, figure, seed, systems (how many are compared), correlation.
    """
    published = published_results("pascal_part_116", "zero_shot")
    published = published[published["evidence"] != "issue"].groupby(["system", "mode"])[["unseen", "harmonic"]].max()
    table = pd.DataFrame(rows)
    table = table[table["stage"] == "after"].merge(
        published, left_on=["variant", "mode"], right_index=True, suffixes=("", "_published")
    )
    found = []
    for (mode, seed), compared in table.groupby(["mode", "seed"]):
        for figure in ("unseen", "harmonic"):
            both = compared[[figure, f"{figure}_published"]].astype(float).dropna()
            if len(both) > 2:
                correlation = both.corr("spearman").iloc[0, 1]
                found.append(
                    {"mode": mode, "figure": figure, "seed": seed, "systems": len(both), "correlation": correlation}
                )
    return pd.DataFrame(found)


def main() -> None:
    """Train what is missing, then write and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument(
        "--iterations", type=int, help="one budget for all, in steps of CLIPSeg's batch; default: the demo's own"
    )
    parser.add_argument("--jobs", type=int, default=0, help="runs at a time (one per core)")
    parser.add_argument("--collect", action="store_true", help="train nothing; write the table of what is complete")
    options = parser.parse_args()
    outputs = project_root() / "outputs" / "ablations"
    outputs.mkdir(parents=True, exist_ok=True)
    variants = [*missing_first_stages(options.variants), *options.variants]
    wanted = [(variant, seed) for seed in options.seeds for variant in variants]
    values = [
        parameter_values(variant, seed, project_root() / "outputs", options.iterations) for variant, seed in wanted
    ]
    runs = [(load_parameters(file), file) for file in (parameter_file(outputs, one) for one in values)]
    jobs = options.jobs or default_jobs(runs)
    code = 0 if options.collect else run_beside(runs, jobs)
    rows = []
    for (variant, _), given, (params, _) in zip(wanted, values, runs, strict=True):
        if (params.folder / "results.json").is_file():
            rows += rows_of(params.folder, variant, given, options.iterations)
    if not rows:
        raise SystemExit("no run is complete, so there is no table to write")
    path = Path(__file__).parent / "results" / "miniature_ablations.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    table = pd.DataFrame(rows).replace({key: {"": math.nan} for key in FIGURES})
    table = table.astype(dict.fromkeys(FIGURES, float))  # where a column had no figure at all, it holds objects
    groups = table.groupby(["mode", "variant", "stage", "budget"], sort=False)
    print(groups[list(FIGURES)].agg(["mean", "std"]).round(1).to_string())
    correlations = rank_correlations(rows)
    if len(correlations):
        groups = correlations.groupby(["mode", "figure", "systems"])["correlation"]
        print(groups.agg(["mean", "min", "max", "count"]).round(2).to_string())
    attention = table[table["attention_strength"] != ""].drop_duplicates(["variant", "seed"])  # both modes have it
    if len(attention):
        attention = attention.astype(dict.fromkeys((f"attention_{key}" for key in ATTENTION), float))
        groups = attention.groupby(["variant", "budget"], sort=False)
        print(groups[[f"attention_{key}" for key in ATTENTION]].agg(["mean", "std"]).round(3).to_string())
    raise SystemExit(code)


if __name__ == "__main__":
    main()
