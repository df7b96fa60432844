"""The scripts in benchmarks/: what they would run and say; what they measure is not tested."""

import argparse
import csv
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ovparts_lib.runs import load_parameters
from ovparts_lib.runs.batch import _begins_from

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def ablations(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("ablations")


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("recorded")


@pytest.fixture
def run_all(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("run_all")


# --- ablations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [None, 8])
def test_all_variants_have_the_demos_budget_or_as_many_pictures(ablations, tmp_path, iterations):
    def pictures(variant):
        demo = ablations.shipped("20_clipseg" if iterations else ablations.VARIANTS[variant].notebook)
        return (iterations or demo["iterations"]) * demo["batch_size"]

    folders = set()
    for variant in ablations.VARIANTS:
        values = ablations.parameter_values(variant, 1, tmp_path, iterations)
        params = load_parameters(ablations.parameter_file(tmp_path, values))
        folders.add(params.folder)
        chosen = ablations.VARIANTS[variant]
        assert params.iterations * params.batch_size == (pictures(variant) if chosen.trained else 0)
        assert (params.seed, params.setting) == (1, "ablations")
        row = ablations.budget_columns(variant, values, iterations)
        first, own = row["iterations_before"], params.iterations
        assert row["iterations"] == own
        both = [variant] * chosen.trained + [chosen.first] * bool(chosen.first)
        assert row["images_trained"] == sum(map(pictures, both))
        assert row["budget"] == (f"{first} of {chosen.first} + {own}" if first else f"{own}")
        assert bool(first) == bool(chosen.first)
    assert len(folders) == len(ablations.VARIANTS)


def test_the_clipseg_family_has_one_batch_and_one_number_of_steps(ablations, tmp_path):
    family = [name for name, variant in ablations.VARIANTS.items() if "clipseg" in variant.notebook]
    assert family == [
        "CLIPSeg",
        "PartCLIPSeg, object context only",
        "PartCLIPSeg",
        "PartCLIPSeg, attention losses x10",
    ]
    files = [ablations.parameter_file(tmp_path, ablations.parameter_values(name, 0, tmp_path, None)) for name in family]
    values = [load_parameters(file).model_dump() for file in files]
    for key in ("iterations", "batch_size", "queries_per_step", "learning_rate", "trainable", "clip_weights"):
        assert all(one[key] == values[0][key] for one in values), key
    weights = [(one["separation_weight"], one["enhancement_weight"]) for one in values[1:]]
    assert weights == [(0.0, 0.0), (0.1, 0.01), (1.0, 0.1)]


def test_a_second_stage_waits_for_the_first_of_its_seed_and_budget(ablations, tmp_path):
    def params(variant, seed, iterations=9):
        values = ablations.parameter_values(variant, seed, tmp_path, iterations)
        return load_parameters(ablations.parameter_file(tmp_path, values))

    second = params("PartCATSeg", 2)
    assert _begins_from(second, params("CATSeg", 2))
    assert not _begins_from(second, params("CATSeg", 1))
    assert not _begins_from(second, params("CATSeg", 2, iterations=8))
    assert ablations.missing_first_stages(["CLIPSeg", "PartCATSeg"]) == ["CATSeg"]
    assert ablations.missing_first_stages(["CATSeg", "PartCATSeg"]) == []
    unguided = "PartCATSeg without guidance"
    assert ablations.missing_first_stages(["PartCATSeg", unguided]) == ["CATSeg", "CATSeg without guidance"]
    assert _begins_from(params(unguided, 2), params("CATSeg without guidance", 2))
    assert ablations.missing_first_stages(["CLIPSeg", "PartCATSeg from nothing"]) == []


def test_a_run_becomes_a_row_per_stage_and_mode_with_its_budget_and_its_attention(ablations, tmp_path):
    values = ablations.parameter_values("PartCLIPSeg", 0, tmp_path, 9)
    scored = {"seen": 1.234, "unseen": 2.0, "harmonic": 1.5, "images": 4, "protocol": "recommended", "label": "after"}
    headline = [scored | {"mode": mode} for mode in ("oracle_obj", "pred_all")]
    headline += [scored | {"mode": "oracle_obj", "label": "before"}, scored | {"mode": "pred_all", "protocol": "other"}]
    (tmp_path / "results.json").write_text(json.dumps({"headline": headline}))
    (tmp_path / "log.jsonl").write_text('{"step": 9, "loss": 1.0, "seconds": 3.21}\n{"step": 9, "evaluation": {}}\n')
    (tmp_path / "tables").mkdir()
    table = "object,part,images,strength,shared,on_part,object_overlap\n"
    (tmp_path / "tables" / "attention_after.csv").write_text(
        table + "dog,a,1,0.2,0.5,0.1,0.4\ndog,b,1,0.4,,0.3,0.2\n", encoding="utf-8"
    )
    made = {"finished_utc": "2030-01-02T03:04:05", "git": {"commit": "a" * 40, "dirty": True}}
    made |= {"machine": {"cpu": "a processor"}, "libraries": {"torch": "9.9"}}
    (tmp_path / "provenance.json").write_text(json.dumps(made))
    rows = ablations.rows_of(tmp_path, "PartCLIPSeg", values, 9)
    assert [rows[0][key] for key in ("date", "commit", "hardware", "torch")] == [
        "2030-01-02", "a" * 12 + "+", "a processor", "9.9",
    ]  # fmt: skip
    stages = [("oracle_obj", "after"), ("pred_all", "after"), ("oracle_obj", "before")]
    assert [(row["mode"], row["stage"]) for row in rows] == stages
    assert (rows[0]["iterations"], rows[0]["budget"], rows[0]["images_trained"]) == (9, "9", 18)
    assert (rows[0]["seen"], rows[0]["training_seconds"]) == (1.23, 3.2)
    found = [rows[0][f"attention_{key}"] for key in ("object_overlap", "shared", "strength", "on_part")]
    assert found == pytest.approx([0.3, 0.5, 0.3, 0.2])
    with pytest.raises(ValueError, match="has 9 steps, not 8"):
        ablations.rows_of(tmp_path, "PartCLIPSeg", values | {"iterations": 8}, 8)


def test_the_order_of_systems_is_compared_with_the_published_one(ablations):
    published = {"PartCATSeg": 50.41, "PartCLIPSeg": 38.79, "CLIPSeg": 35.04, "CATSeg": 32.76}  # harmonic, oracle-obj
    ranks = {"as published": [4, 3, 2, 1], "reversed": [1, 2, 3, 4], "two neighbours exchanged": [4, 2, 3, 1]}
    rows = [
        {"variant": name, "mode": "oracle_obj", "stage": stage, "seed": seed, "unseen": 1.0, "harmonic": value}
        for seed, values in enumerate(ranks.values())
        for name, rank in [*zip(published, values, strict=True), ("CATSeg without guidance", 9)]
        for stage, value in (("before", -rank), ("after", rank))
    ]
    found = ablations.rank_correlations(rows)
    harmonic = found[found["figure"] == "harmonic"]
    assert harmonic["systems"].tolist() == [4, 4, 4]
    assert harmonic["correlation"].tolist() == pytest.approx([1, -1, 1 - 6 * 2 / (4 * 15)])
    assert set(found[found["figure"] == "unseen"]["systems"]) == {3}  # PartCATSeg's is not published


def test_a_budget_that_no_whole_number_of_steps_has_is_refused(ablations, monkeypatch):
    monkeypatch.setattr(ablations, "shipped", lambda name: {"iterations": 5, "batch_size": 2 if "20" in name else 4})
    assert ablations.budget(6, "21_catseg") == (3, 4)
    assert ablations.budget(None, "21_catseg") == (5, 4)
    with pytest.raises(ValueError, match="10 pictures are no whole number of steps of 4"):
        ablations.budget(5, "21_catseg")


# --- systems ----------------------------------------------------------------------------------------------------------


def reference_rows():
    with (BENCHMARKS / "reference.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("system", ["clipseg", "partclipseg"])
def test_the_recorded_step_is_that_of_the_reference(recorded, system):
    golden = ROOT / "tests" / "golden" / system
    facts = json.loads((golden / "golden_train_voc.json").read_text(encoding="utf-8"))
    row = next(row for row in reference_rows() if (row["system"], row["task"]) == (system, "recorded_step"))
    assert float(row["loss"]) == facts["loss"]["total"]
    pictures, parts, objects = recorded.recorded_batch(system)
    assert len(pictures) == len(parts) == int(row["images"])
    assert facts["train_classes"]["n"] == int(row["classes"])
    assert (objects is not None) == (system == "partclipseg")
    with np.load(golden / "golden_train_voc.npz") as arrays:
        for picture, part_map, number in zip(pictures, parts, range(len(parts)), strict=True):
            assert picture.dtype == torch.uint8
            assert picture.shape[1:] == part_map.shape == arrays[f"target_part_{number}"].shape
            assert (part_map.numpy() == arrays[f"target_part_{number}"]).all()
            if objects is not None:
                assert (objects[number].numpy() == arrays[f"target_obj_{number}"]).all()


def test_partclipsegs_reference_has_a_row_of_clipseg_beside_it(run_all):
    images = {row["system"]: int(row["images"]) for row in reference_rows() if row["task"] == "train_step"}
    assert run_all.batches_of("partclipseg", "train_step") == [images["partclipseg"]]
    assert run_all.batches_of("clipseg", "train_step") == [images["clipseg"], images["partclipseg"]]


def test_rows_say_how_far_they_are_from_the_reference(run_all):
    row = {"system": "partclipseg", "size": "released", "task": "recorded_step", "classes": 74, "images": 1}
    row |= {"gflops": 10.0, "peak_mib": 4301.0, "cpu_seconds": 37.0, "loss": 2.846122980117798 * (1 + 1e-6)}
    found = run_all.with_reference(row)
    assert (found["peak_mib_share"], found["cpu_seconds_share"], found["gflops_share"]) == (0.5, 2.0, "")
    assert float(found["loss_difference"]) == pytest.approx(1e-6, rel=0.05)
    assert found["reference_loss"] == "2.846122980117798"
    for other in (row | {"images": 2}, row | {"loss": "", "task": "train_step"}):
        assert run_all.with_reference(other)["loss_difference"] == ""
    assert run_all.with_reference(row | {"size": "miniature"})["reference_peak_mib"] == ""


def test_every_recorded_size_is_measured_with_its_pictures_and_class_lists(run_all):
    wanted = argparse.Namespace(sizes=None, tasks=["evaluate", "train_step"], vocabularies=None, batch=None)
    rows = [row for system in ("zsseg_plus", "ovseg", "scan") for row in run_all.settings_of(system, wanted)]
    found = {(row["system"], row["size"], row["vocabulary"]): (row["picture"], row["batch"]) for row in rows}
    assert found["zsseg_plus", "released", "partimagenet_ood"] == ("375x500", 2)
    assert found["ovseg", "released_r101c", "ade20k_150"] == ("512x800", 2)
    assert found["ovseg", "released", "coco_stuff_171"] == ("640x640", 1)
    assert found["scan", "released_vitb", "coco_stuff_171"] == ("256x256", 2)
    assert found["scan", "released", "ade20k_847"][0] == found["ovseg", "released", "ade20k_847"][0] == "640x2560"
    assert ("ovseg", "released", "pascal_part_116") not in found


def test_the_recorded_step_runs_with_the_released_options(run_all):
    released = {"attention_rule": "released", "label_resize": "floor", "loss_mean": "batch", "object_text": "released"}
    plain, saving = map(json.loads, run_all.option_sets("partclipseg", "recorded_step"))
    assert plain == released
    assert saving == released | {"checkpoint_decoder": True}
    assert run_all.option_sets("partclipseg", "evaluate") == ["{}"]
    assert [json.loads(one) for one in run_all.option_sets("clipseg", "train_step")] == [
        {},
        {"checkpoint_decoder": True},
    ]


@pytest.mark.slow
def test_measuring_in_miniature_appends_rows_with_the_recorded_columns(tmp_path):
    out = tmp_path / "rows.csv"
    command = [sys.executable, str(BENCHMARKS / "run_all.py"), "--sizes", "miniature", "--device", "cpu"]
    command += ["--systems", "clipseg", "partclipseg", "--tasks", "train_step", "--implementations", "ovparts"]
    command += ["--options", "{}", "--repeats", "1"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "--out" in refused.stderr
    subprocess.run([*command, "--out", str(out)], cwd=ROOT, check=True, capture_output=True)
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["system"], row["images"]) for row in rows] == [
        ("clipseg", "2"),
        ("clipseg", "1"),
        ("partclipseg", "1"),
    ]
    assert all(float(row["loss"]) > 0 for row in rows)
    with (BENCHMARKS / "results" / "systems_cpu.csv").open(newline="", encoding="utf-8") as file:
        assert list(rows[0]) == next(csv.reader(file))
