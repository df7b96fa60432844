"""Train systems and ablated variants on the miniature, each under the budget of its parameters, with several seeds.

Needs ``outputs/miniature/world`` (``ovparts run params/miniature/01_miniature.yaml``). Every row of
``benchmarks/results/miniature_ablations.csv`` is one trained run, scored on all test images. Runs are resumable: what
is complete is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from ovparts_lib.runs import load_parameters, project_root
from ovparts_lib.runs.batch import default_jobs, run_beside
from ovparts_lib.runs.provenance import cpu_model, git_state

# name: (notebook, what differs from params/miniature)
GUIDED = {"model_size": "miniature", "trainable": ["guidance", "aggregator"]}
FROM_NOTHING = {"initialise_from": None, "clip_weights": "outputs/miniature/world/miniclip.safetensors"}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "CLIPSeg": ("20_clipseg", {}),
    "PartCLIPSeg, object context only": ("23_partclipseg", {"separation_weight": 0.0, "enhancement_weight": 0.0}),
    "PartCLIPSeg": ("23_partclipseg", {}),
    "CATSeg": ("21_catseg", {}),
    "CATSeg with guidance": ("21_catseg", GUIDED),
    "PartCATSeg": ("24_partcatseg", {}),
    "PartCATSeg without compositional loss": ("24_partcatseg", {"compositional_weight": 0.0}),
    "PartCATSeg from nothing": ("24_partcatseg", FROM_NOTHING),
    "PartCATSeg from nothing, with guidance": ("24_partcatseg", FROM_NOTHING | GUIDED),
}
QUICK = {"evaluate_before_training": False, "comparison_images": 1, "attention_images": 0, "intervals": None}


def parameter_file(folder: Path, variant: str, seed: int, outputs: Path) -> Path:
    """Parameters of one run, as a YAML file."""
    notebook, changes = VARIANTS[variant]
    values = yaml.safe_load((project_root() / "params" / "miniature" / f"{notebook}.yaml").read_text(encoding="utf-8"))
    name = variant.lower().replace(",", "").replace(" ", "_") + f"_seed_{seed}"
    values |= QUICK | {"statistics_images": 40} if "statistics_images" in values else QUICK
    values |= changes | {"seed": seed, "run": name, "setting": "ablations", "outputs": str(outputs)}
    if values["initialise_from"]:  # CATSeg of the same seed
        values["initialise_from"] = str(outputs / "ablations" / f"catseg_seed_{seed}" / "weights.safetensors")
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def rows_of(run: Path, variant: str, seed: int) -> list[dict[str, Any]]:
    """What a complete run's files say: a row per mode under the protocol ``recommended``."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [entry for entry in log if "loss" in entry]
    attention = {}
    if (run / "tables" / "attention_after.csv").is_file():
        table = pd.read_csv(run / "tables" / "attention_after.csv")
        attention = {f"attention_{key}": round(float(table[key].mean()), 4) for key in ("shared", "strength")}
    return [
        {
            "variant": variant,
            "seed": seed,
            "mode": row["mode"],
            **{key: round(row[key], 2) for key in ("seen", "unseen", "harmonic")},
            "images": row["images"],
            "steps": steps[-1]["step"],
            "training_seconds": round(steps[-1]["seconds"], 1),
            **({"attention_shared": "", "attention_strength": ""} | attention),
        }
        for row in results["headline"]
        if row["protocol"] == "recommended" and row["label"] == "after"
    ]


def main() -> None:
    """Train what is missing, then write and show the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=0, help="runs at a time (one per core)")
    parser.add_argument("--collect", action="store_true", help="train nothing; write the table of what is complete")
    options = parser.parse_args()
    outputs = project_root() / "outputs" / "ablations"
    outputs.mkdir(parents=True, exist_ok=True)
    wanted = [(variant, seed) for seed in options.seeds for variant in options.variants]
    files = [parameter_file(outputs, variant, seed, project_root() / "outputs") for variant, seed in wanted]
    runs = [(load_parameters(file), file) for file in files]
    jobs = options.jobs or default_jobs(runs, torch.cuda.is_available)
    code = 0 if options.collect else run_beside(runs, jobs)
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": (git_state(project_root()) or {}).get("commit", "")[:12],
        "hardware": cpu_model(),
        "torch": torch.__version__,
    }
    rows = []
    for (variant, seed), (params, _) in zip(wanted, runs, strict=True):
        if (params.folder / "results.json").is_file():
            rows += [about | row for row in rows_of(params.folder, variant, seed)]
    path = Path(__file__).parent / "results" / "miniature_ablations.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    table = pd.DataFrame(rows)
    shown = table.groupby(["mode", "variant"], sort=False)[["seen", "unseen", "harmonic"]].agg(["mean", "std"]).round(1)
    print(shown.to_string())
    raise SystemExit(code)


if __name__ == "__main__":
    main()
