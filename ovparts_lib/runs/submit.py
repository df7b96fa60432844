"""Sending a run to SLURM with submitit: requeued and resumed after a preemption, logs in the run folder."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import submitit
import yaml
from submitit.core.job_environment import JobEnvironment
from submitit.helpers import Checkpointable, DelayedSubmission

from ovparts_lib.atomic import write_atomically
from ovparts_lib.processes import environment
from ovparts_lib.runs.execute import TERMINATED, find_notebook
from ovparts_lib.runs.folder import make_folder, prepare_folder
from ovparts_lib.runs.load_params import load_parameters
from ovparts_lib.runs.project import ROOT_VARIABLE, import_path, project_root

_CHILDREN: list[subprocess.Popen[bytes]] = []
_SECONDS_TO_STOP = 45
_SECONDS_OF_GRACE = 600
_SECONDS_BETWEEN_LOOKS = 0.5
_REQUEUES_AFTER_TIMEOUT = 20


class SubmissionError(RuntimeError):
    """The job could not be handed to the scheduler."""


class RunFailedError(RuntimeError):
    """``ovparts run`` inside a job ended with an exit code other than 0."""


@dataclass(frozen=True)
class RunJob(Checkpointable):
    """``ovparts run`` as a job; called by submitit on the node, and asked for a checkpoint before a preemption.

    Attributes:
        params_file: parameters as they were checked when the job was submitted.
        root: the project root.
    """

    params_file: str
    root: str

    def __call__(self) -> str:
        """Run to the end.

        Raises:
            RunFailedError: the run did not complete.
        """
        command = [sys.executable, "-m", "ovparts_lib.cli", "run", self.params_file]
        # SLURM sends the preemption signal to all processes of the job, but only this one is to act on it: the child
        # is started while it is ignored, and inherits that.
        preempted = JobEnvironment._usr_sig()
        before = signal.signal(preempted, signal.SIG_IGN)
        child = subprocess.Popen(command, cwd=self.root)
        signal.signal(preempted, before)
        _CHILDREN.append(child)
        # Not child.wait(): a signal that arrives in it could not wait for the child itself (Popen's lock is held).
        while child.poll() is None:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if child.returncode == TERMINATED and "SLURM_JOB_ID" in os.environ:
            # SLURM has sent SIGTERM and decides what follows: a preempted job is requeued when its time of grace is
            # over, a cancelled one is killed. Ending now would make a preempted job a failed one.
            time.sleep(_SECONDS_OF_GRACE)
        if child.returncode:
            raise RunFailedError(f"ovparts run {self.params_file} ended with exit code {child.returncode}")
        return self.params_file

    def checkpoint(self) -> DelayedSubmission:
        """Stop the run in order and ask for it to be resumed: training goes on from its last checkpoint."""
        for child in _CHILDREN:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=_SECONDS_TO_STOP)
        return DelayedSubmission(self)


def submit(
    params_file: str | Path,
    overrides: Iterable[str] = (),
    *,
    again: bool = False,
    cluster: Literal["slurm", "local"] = "slurm",
    partition: str | None = None,
    account: str | None = None,
    gpus: int = 1,
    cpus: int = 8,
    memory_gb: int = 32,
    hours: float = 12.0,
) -> submitit.Job[str]:
    """Check a run now and execute it in a job.

    Args:
        params_file: YAML file of parameters.
        overrides: ``key=value`` items that replace its values.
        again: throw away what the run folder holds, now: a job that is requeued must not do so again.
        cluster: ``slurm``, or ``local`` for a background process on this machine.
        partition: partition to submit to; the cluster's default if None.
        account: account to charge; the user's default if None.
        gpus: GPUs on one node.
        cpus: CPU cores.
        memory_gb: memory in GB.
        hours: time limit of one stretch; the run is requeued and resumed when it needs longer.

    Returns:
        The submitted job; its logs are in ``slurm/`` in the run folder.

    Raises:
        ParameterError, NotebookError, RunLockedError, RunConflictError: as for ``ovparts run``, before anything is
            submitted.
        SubmissionError: there is no SLURM here, or it refused the job.
    """
    params = load_parameters(params_file, overrides)
    find_notebook(params.notebook)
    if cluster == "slurm" and shutil.which("srun") is None:
        raise SubmissionError("not submitted: no SLURM here (no srun); --cluster local runs it on this machine")
    prepare_folder(params, again=again)
    folder = params.folder / "slurm"
    make_folder(folder)
    checked = folder / "params.yaml"
    write_atomically(checked, yaml.safe_dump(params.model_dump(), sort_keys=False))
    job = RunJob(str(checked), str(project_root()))
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=_REQUEUES_AFTER_TIMEOUT)
        executor.update_parameters(
            name=f"{params.setting}-{params.run}",
            timeout_min=max(1, round(60 * hours)),
            nodes=1,
            tasks_per_node=1,
            cpus_per_task=cpus,
            gpus_per_node=gpus,
            mem_gb=memory_gb,
            # Handed to SLURM alone, and None to nobody.
            slurm_partition=partition,
            slurm_account=account,
            slurm_signal_delay_s=2 * _SECONDS_TO_STOP,
            slurm_additional_parameters={"requeue": True},
        )
        with environment(PYTHONPATH=import_path(), **{ROOT_VARIABLE: str(project_root())}):
            return executor.submit(job)
    except (RuntimeError, submitit.core.utils.FailedJobError) as error:
        raise SubmissionError(f"the job was not submitted: {error}") from error
