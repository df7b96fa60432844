import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ovparts_lib.atomic import write_atomically
from ovparts_lib.runs import (
    DiskFullError,
    RunConflictError,
    RunFolder,
    RunLockedError,
    run_state,
)
from ovparts_lib.runs import provenance as provenance_module
from ovparts_lib.runs.folder import IncompleteResultsError, params_hash, prepare_folder, read_json
from ovparts_lib.runs.lock import FolderLock
from ovparts_lib.runs.parameters import OwnImageParameters, StartHereParameters
from ovparts_lib.runs.project import package_parent, project_root
from ovparts_lib.runs.provenance import to_json


def test_a_run_from_absent_to_complete(root, params):
    assert run_state(params) == "absent"
    folder = RunFolder.open(params)
    assert folder.path == root / "outputs" / "zero_shot" / "clipseg"
    assert folder.found == "absent"
    assert run_state(params) == "partial"
    folder.record(dataset={"fingerprint": "abc"})
    (folder.tables / "classes.csv").write_text("a,b\n")
    folder.finish({"headline": [{"seen": float("nan")}], "tables": [{"file": "tables/classes.csv"}]})
    assert run_state(params) == "complete"
    results = json.loads((folder.path / "results.json").read_text())
    assert (results["status"], results["headline"]) == ("complete", [{"seen": None}])
    provenance = json.loads((folder.path / "provenance.json").read_text())
    assert provenance["dataset"] == {"fingerprint": "abc"}
    assert provenance["libraries"]["torch"]
    assert provenance["machine"]["threads"] >= 1
    assert str(root) not in json.dumps(provenance)
    assert RunFolder.open(params).found == "complete"


def trained(folder):
    """Leave something in a run folder that took computing."""
    (folder.checkpoints / "step_00000001-0123456789abcdef.pt").write_text("weights")


def read_provenance(folder):
    return json.loads((folder.path / "provenance.json").read_text())


def test_provenance_keeps_the_first_session_and_lists_all(root, params, monkeypatch):
    monkeypatch.setenv("OVPARTS_COMMAND", "the first command")
    first = RunFolder.open(params)
    first.record(weights="abc")
    first.close()
    before = read_provenance(first)
    monkeypatch.setenv("OVPARTS_COMMAND", "the second command")
    monkeypatch.setattr(provenance_module, "machine", lambda: {"cpu": "another"})
    second = RunFolder.open(params.model_copy(update={"device": "cpu"}))
    after = read_provenance(second)
    assert {key: after[key] for key in before if key != "sessions"} == {
        key: before[key] for key in before if key != "sessions"
    }
    assert (after["command"], after["weights"]) == ("the first command", "abc")
    assert [session["command"] for session in after["sessions"]] == ["the first command", "the second command"]
    assert after["sessions"][0] == before["sessions"][0]
    assert after["sessions"][1]["machine"] == {"cpu": "another"}
    assert {"command", "git", "started_utc", "machine", "libraries"} <= after["sessions"][1].keys()
    second.close()
    again = RunFolder.open(params, again=True)
    assert [session["command"] for session in read_provenance(again)["sessions"]] == ["the second command"]


def test_provenance_without_a_list_of_sessions_counts_as_the_first(root, params):
    folder = RunFolder.open(params)
    facts = read_provenance(folder)
    del facts["sessions"]
    (folder.path / "provenance.json").write_text(json.dumps(facts | {"command": "long ago"}))
    sessions = read_provenance(RunFolder.open(params))["sessions"]
    assert [session["command"] for session in sessions] == ["long ago", facts["command"]]


def test_opening_a_complete_run_to_look_at_it_leaves_it_complete(root, params):
    RunFolder.open(params).finish({"headline": [{"mIoU": 1.0}]})
    looked = RunFolder.open(params)
    assert looked.found == "complete"
    assert run_state(params) == "complete"
    assert read_json(looked.path / "results.json")["headline"] == [{"mIoU": 1.0}]
    assert "finished_utc" in read_provenance(looked)
    looked.finish({"headline": [{"mIoU": 2.0}]})
    assert read_json(looked.path / "results.json")["headline"] == [{"mIoU": 2.0}]


def test_a_run_that_is_executed_anew_is_complete_only_when_it_has_finished(root, params):
    RunFolder.open(params).finish({})
    prepare_folder(params)  # `ovparts submit` of a complete run
    assert run_state(params) == "complete"
    prepare_folder(params, redo=True)
    assert run_state(params) == "partial"


def test_another_attempt_with_other_parameters_leaves_the_results(root, params):
    folder = RunFolder.open(params)
    trained(folder)
    folder.finish({})
    with pytest.raises(RunConflictError):
        RunFolder.open(params.model_copy(update={"seed": 5}))
    assert run_state(params) == "complete"


def test_a_fact_that_changes_between_sessions_is_a_conflict(root, params):
    folder = RunFolder.open(params)
    folder.record_once(dataset_fingerprint="abc", shape=(1, 2))
    folder.close()
    resumed = RunFolder.open(params)
    resumed.record_once(dataset_fingerprint="abc", shape=(1, 2), vocabulary="v")
    with pytest.raises(RunConflictError) as caught:
        resumed.record_once(dataset_fingerprint="xyz", vocabulary="v", more=1)
    assert "dataset_fingerprint: 'abc' then, 'xyz' now" in str(caught.value)
    assert "vocabulary" not in str(caught.value)
    facts = read_provenance(resumed)
    assert (facts["dataset_fingerprint"], facts["vocabulary"], facts["shape"]) == ("abc", "v", [1, 2])
    assert "more" not in facts


def test_a_run_without_its_listed_files_is_not_complete(params, root):
    folder = RunFolder.open(params)
    with pytest.raises(IncompleteResultsError, match=r"figures/lost\.png"):
        folder.finish({"figures": [{"file": "figures/lost.png"}]})
    assert run_state(params) == "partial"


@pytest.mark.parametrize(
    "damage",
    [
        lambda results: results.unlink(),
        lambda results: results.write_text(results.read_text()[:40]),
        lambda results: results.write_text(results.read_text().replace('"complete"', '"running"')),
        lambda results: results.write_text(json.dumps(json.loads(results.read_text()) | {"params_hash": "0" * 16})),
        lambda results: results.write_text("[]"),
    ],
)
def test_damaged_results_are_no_complete_run(root, params, damage):
    folder = RunFolder.open(params)
    damage(folder.finish({}))
    assert run_state(params) == "partial"


def test_other_parameters_are_refused_and_named(root, params):
    folder = RunFolder.open(params)
    trained(folder)
    folder.close()
    other = params.model_copy(update={"learning_rate": 1e-3, "trainable": ["film"]})
    with pytest.raises(RunConflictError) as caught:
        RunFolder.open(other)
    message = str(caught.value)
    assert "learning_rate: 0.0001 there, 0.001 now" in message
    assert "trainable: " in message
    assert "iterations" not in message
    assert "--again" in message
    assert run_state(other) == "absent"
    RunFolder.open(params).close()  # the refused attempt left no lock and no change


@pytest.mark.parametrize("complete", [False, True])
def test_what_took_no_computing_makes_way_for_other_parameters(root, complete, capsys):
    params = OwnImageParameters(setting="own", run="dog", images=["a.jpg"], words=["head"], model="m")
    folder = RunFolder.open(params)
    (folder.figures / "overlay_a.png").write_text("old")
    folder.finish({"figures": [{"file": "figures/overlay_a.png"}]}) if complete else folder.close()
    corrected = params.model_copy(update={"words": ["tail"]})
    assert RunFolder.open(corrected).found == "absent"
    assert not any(folder.figures.iterdir())
    assert run_state(corrected) == "partial"
    assert "outputs/own/dog: what an earlier run left makes way" in capsys.readouterr().out
    other = StartHereParameters(setting="own", run="dog")
    with pytest.raises(RunConflictError, match="notebook: '31_own_image' there, '00_start_here' now"):
        RunFolder.open(other)


@pytest.mark.parametrize("left", ["evaluation/before/matrices.npz", "weights.safetensors", "checkpoints/a.pt"])
def test_what_took_computing_never_makes_way(root, params, left):
    folder = RunFolder.open(params)
    (folder.path / left).parent.mkdir(parents=True, exist_ok=True)
    (folder.path / left).write_text("hours")
    folder.close()
    with pytest.raises(RunConflictError):
        RunFolder.open(params.model_copy(update={"seed": 5}))
    assert (folder.path / left).read_text() == "hours"


@pytest.mark.parametrize("deletions", range(8))
def test_a_kill_while_a_folder_is_emptied_leaves_no_false_complete_and_nothing_of_the_old(
    root, params, monkeypatch, deletions
):
    folder = RunFolder.open(params)
    trained(folder)
    for name in ("evaluation", "world"):
        (folder.path / name).mkdir()
        (folder.path / name / "old").write_text("old")
    folder.finish({})
    left, unlink, rmtree = [deletions], Path.unlink, shutil.rmtree

    def counted(function):
        def call(path, *arguments, **options):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return function(path, *arguments, **options)

        return call

    monkeypatch.setattr(Path, "unlink", counted(unlink))
    monkeypatch.setattr(shutil, "rmtree", counted(rmtree))
    with contextlib.suppress(KeyboardInterrupt):
        RunFolder.open(params, again=True)
    monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    other = params.model_copy(update={"seed": 5})
    if deletions:
        assert run_state(params) != "complete"
        folder = RunFolder.open(other)  # goes on emptying, whatever the parameters
        assert not list(folder.path.rglob("old")) + list(folder.checkpoints.iterdir())
    else:
        assert run_state(params) == "complete"


def test_temporary_files_of_a_killed_process_are_swept_when_the_folder_is_opened(root, params):
    folder = RunFolder.open(params)
    folder.close()
    for place in (folder.path, folder.tables):
        (place / ".weights.safetensors.x1.part").write_bytes(b"0" * 1000)
    RunFolder.open(params).close()
    assert not list(folder.path.rglob("*.part"))


def test_a_session_of_another_version_is_recorded_and_told(root, params, monkeypatch, capsys):
    first = RunFolder.open(params)
    first.close()
    RunFolder.open(params).close()
    assert "another version" not in capsys.readouterr().out
    monkeypatch.setattr(provenance_module, "code_digest", lambda: "0" * 12)
    monkeypatch.setattr(provenance_module.ovparts_lib, "__version__", "9.9")
    second = RunFolder.open(params)
    sessions = read_provenance(second)["sessions"]
    assert (sessions[-1]["ovparts"], sessions[-1]["code"]) == ("9.9", "0" * 12)
    assert sessions[0]["ovparts"] != "9.9"
    printed = capsys.readouterr().out
    assert "begun with another version" in printed
    assert "9.9 now" in printed


def test_where_and_how_often_are_no_other_parameters(root, params):
    RunFolder.open(params).finish({})
    moved = params.model_copy(update={"device": "cpu", "workers": 7, "log_every": 1, "checkpoint_every": 3})
    assert run_state(moved) == "complete"
    assert params_hash(moved.model_dump(), moved.free_keys()) == params_hash(params.model_dump(), params.free_keys())


def test_a_parameter_added_later_counts_as_its_default(root, params):
    folder = RunFolder.open(params)
    folder.close()
    stored = folder.path / "params.yaml"
    lines = stored.read_text().splitlines()
    stored.write_text("\n".join(line for line in lines if not line.startswith("poly_power")))
    assert run_state(params) == "partial"
    assert run_state(params.model_copy(update={"poly_power": 1.0})) == "absent"


def test_again_empties_the_folder(root, params):
    folder = RunFolder.open(params)
    (folder.checkpoints / "step.pt").write_text("old")
    folder.log.write_text("old")
    folder.finish({})
    again = RunFolder.open(params.model_copy(update={"seed": 5}), again=True)
    assert again.found == "absent"
    assert not again.log.exists()
    assert list(again.checkpoints.iterdir()) == []


HOLDER = """
import sys, time
from ovparts_lib.runs import RunFolder, parameter_model
folder = RunFolder.open(parameter_model("20_clipseg").model_validate_json(sys.argv[1]))
if sys.argv[2] == "fork":
    import multiprocessing
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(20,), daemon=True).start()
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(root, params, request):
    """Another process that has the run folder of ``params`` open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, params.model_dump_json(), request.param],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(package_parent())},
        start_new_session=True,
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("holder", ["fork"], indirect=True)
def test_two_processes_and_kill_9(params, holder):
    for attempt in (lambda: RunFolder.open(params), lambda: prepare_folder(params)):
        with pytest.raises(RunLockedError, match=rf"process {holder.pid} on \S+ has been working in it since 2"):
            attempt()
    holder.send_signal(signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    # Its forked worker lives on and must not keep the lock.
    os.killpg(holder.pid, 0)
    folder = RunFolder.open(params)
    assert folder.found == "partial"
    folder.close()


def test_opening_twice_in_one_process_is_a_cell_run_twice(root, params):
    first = RunFolder.open(params)
    second = RunFolder.open(params)
    assert second.path == first.path
    with pytest.raises(RunLockedError):
        FolderLock(params.folder / ".lock").acquire()
    second.close()
    prepare_folder(params)


def test_a_full_disk_leaves_the_old_files(root, params, monkeypatch):
    folder = RunFolder.open(params)
    before = {path.name: path.read_text() for path in folder.path.iterdir() if path.is_file()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"no space left to write .*/provenance\.json, ") as caught:
        folder.finish({"headline": []})
    assert "make room" in str(caught.value)
    monkeypatch.undo()
    monkeypatch.setenv("OVPARTS_ROOT", str(root))
    assert {path.name: path.read_text() for path in folder.path.iterdir() if path.is_file()} == before
    assert run_state(params) == "partial"


def test_atomic_writing(tmp_path):
    target = tmp_path / "file.json"
    write_atomically(target, "one")
    write_atomically(target, b"two")
    assert target.read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]
    umask = os.umask(0o027)
    try:
        write_atomically(target, "three")
    finally:
        os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o640


def test_json_of_numpy_and_nan():
    import numpy as np

    text = to_json({"a": np.float32(0.5), "b": [np.int64(3), float("inf")], "c": (True, None, "é")})
    assert json.loads(text) == {"a": 0.5, "b": [3, None], "c": [True, None, "é"]}


def test_git_state(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    assert provenance_module.git_state(tmp_path) is None
    git("init")
    assert provenance_module.git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("a")
    git("add", "a")
    git("-c", "user.name=n", "-c", "user.email=e@example.org", "commit", "-m", "m")
    state = provenance_module.git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "a").write_text("b")
    assert provenance_module.git_state(tmp_path)["dirty"] is True
    (tmp_path / "inner").mkdir()
    assert provenance_module.git_state(tmp_path / "inner") is None
    monkeypatch.setenv("PATH", "")
    assert provenance_module.git_state(tmp_path) is None


def test_project_root(tmp_path, monkeypatch):
    monkeypatch.delenv("OVPARTS_ROOT", raising=False)
    deep = tmp_path / "project" / "notebooks" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert project_root() == package_parent()
    (tmp_path / "project" / "ovparts_lib").mkdir()
    assert project_root() == tmp_path / "project"
    monkeypatch.setenv("OVPARTS_ROOT", str(tmp_path))
    assert project_root() == tmp_path
    monkeypatch.setenv("OVPARTS_ROOT", str(tmp_path / "missing"))
    with pytest.raises(NotADirectoryError, match="OVPARTS_ROOT"):
        project_root()


@pytest.mark.parametrize("content", [None, b"", b"notebook: [", b"\xff\xfe", b"- x"])
@pytest.mark.parametrize("computed", ["checkpoints/step_00000007.pt", "evaluation/before.npz", "weights.safetensors"])
def test_what_belongs_to_no_known_run_is_not_taken_for_this_one(root, params, content, computed):
    RunFolder.open(params).close()
    path = params.folder / computed
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"of other parameters, perhaps")
    stored = params.folder / "params.yaml"
    stored.unlink() if content is None else stored.write_bytes(content)
    with pytest.raises(RunConflictError, match=r"its params\.yaml is missing or damaged.* start over with --again"):
        RunFolder.open(params)
    assert path.exists()
    RunFolder.open(params, again=True).close()
    assert not path.exists()


def test_what_stands_where_a_folder_is_needed_is_named(root, params, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    for name, kind in (("file", "a file"), ("link", "a link to nowhere")):
        with pytest.raises(NotADirectoryError, match=rf"is {kind}, where a folder is needed.*{name}'"):
            RunFolder.open(params.model_copy(update={"outputs": str(tmp_path / name)}))
    (params.folder / "results.json").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=r"is a folder, where a file is to be written.*results\.json'"):
        RunFolder.open(params).finish({})
