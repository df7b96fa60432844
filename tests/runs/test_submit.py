import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
import submitit
import yaml

from ovparts_lib.runs import ParameterError, RunFolder, run_state
from ovparts_lib.runs.parameters import StartHereParameters
from ovparts_lib.runs.project import package_parent
from ovparts_lib.runs.submit import RunFailedError, RunJob, SubmissionError, submit


@pytest.fixture
def start(root, notebook):
    path = root / "start.yaml"
    path.write_text("notebook: 00_start_here\nsetting: miniature\nrun: start\n")
    return path


def test_a_job_runs_to_completion(root, start):
    """submitit's local executor: the same pickled job, in another process, as on a node."""
    job = submit(start, ["samples=2"], cluster="local", gpus=0, cpus=1)
    params = StartHereParameters(setting="miniature", run="start", samples=2)
    assert job.result() == str(params.folder / "slurm" / "params.yaml")
    assert run_state(params) == "complete"
    assert yaml.safe_load((params.folder / "slurm" / "params.yaml").read_text())["samples"] == 2
    assert "complete after" in job.stdout()


def test_again_empties_the_folder_once_when_the_job_is_submitted(root, start, monkeypatch):
    params = StartHereParameters(setting="miniature", run="start")
    RunFolder.open(params).finish({})
    monkeypatch.setattr(submitit.AutoExecutor, "submit", lambda self, job: job)
    job = submit(start, ["samples=2"], cluster="local", again=True)
    assert not (params.folder / "results.json").exists()
    assert job == RunJob(str(params.folder / "slurm" / "params.yaml"), str(root))


def test_nothing_is_submitted_when_something_is_wrong(root, start, monkeypatch):
    with pytest.raises(ParameterError, match="did you mean `samples`"):
        submit(start, ["sample=2"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SubmissionError, match=r"not submitted.*srun.*--cluster local"):
        submit(start)
    assert not (root / "outputs").exists()


@pytest.mark.parametrize("cluster", ["slurm", "local"])
def test_requests(root, start, monkeypatch, cluster):
    monkeypatch.setattr(submitit.slurm.slurm.shutil, "which", lambda name: name)  # there is no SLURM here
    monkeypatch.setattr(submitit.AutoExecutor, "submit", lambda executor, job: executor)
    asked = {"partition": "gpu", "account": "lab", "gpus": 4, "cpus": 16, "memory_gb": 64, "hours": 1.5}
    parameters = submit(start, cluster=cluster, **asked).parameters
    if cluster == "local":
        assert (parameters["timeout_min"], "partition" in parameters) == (90, False)
        return
    assert (parameters["time"], parameters["partition"], parameters["account"]) == (90, "gpu", "lab")
    assert (parameters["gpus_per_node"], parameters["cpus_per_task"], parameters["mem"]) == (4, 16, "64GB")
    assert "partition" not in submit(start, cluster=cluster).parameters


def test_a_failed_run_is_a_failed_job(root):
    with pytest.raises(RunFailedError, match="ended with exit code 2"):
        RunJob(str(root / "missing.yaml"), str(package_parent()))()


PREEMPTED = """
import signal, sys
from ovparts_lib.runs.submit import RunJob
job = RunJob(sys.argv[1], sys.argv[2])
def preempt(number, frame):
    import pickle
    again = pickle.loads(pickle.dumps(job.checkpoint())).function
    print("requeued", again == job, flush=True)
    sys.exit(0)
signal.signal(signal.SIGUSR2, preempt)
job()
"""


def test_preemption_stops_the_run_in_order(root, start):
    """SLURM signals every process of a job; only the job itself may act on it."""
    start.write_text(start.read_text() + "data_root: sleep\n")
    log = root / "job.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", PREEMPTED, str(start), str(root)],
            env=os.environ | {"PYTHONPATH": str(package_parent())},
            start_new_session=True,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    kernel = root / "outputs" / "miniature" / "start" / "kernel"
    deadline = time.monotonic() + 60
    while not (kernel.exists() and kernel.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGUSR2)
    os.kill(int(kernel.read_text()), signal.SIGUSR2)
    assert process.wait(timeout=60) == 0
    printed = log.read_text()
    assert "requeued True" in printed
    assert "00_start_here was stopped after" in printed
    with pytest.raises(ProcessLookupError):
        os.kill(int(kernel.read_text()), 0)


def test_jobs_can_be_pickled(root):
    job = RunJob("params.yaml", str(root))
    assert pickle.loads(pickle.dumps(job)) == job
