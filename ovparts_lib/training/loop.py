"""The training loop, read top to bottom."""

import math
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader

from ovparts_lib.training.checkpoint_files import newest_checkpoint, read_checkpoint, write_checkpoint
from ovparts_lib.training.distribution import (
    LossModule,
    OpaqueBatch,
    launch,
    mean_over_ranks,
    move_batch,
    on_rank_zero,
    within_patience,
)
from ovparts_lib.training.endless import EndlessBatches
from ovparts_lib.training.interruption import Interruption, TrainingInterrupted
from ovparts_lib.training.log import TrainingLog
from ovparts_lib.training.non_finite import non_finite_loss
from ovparts_lib.training.optimisers import build_optimiser, check_gradients, set_learning_rate
from ovparts_lib.training.progress import Pace, Progress
from ovparts_lib.training.randomness import isolated_generators, random_state, seed_generators, set_random_state
from ovparts_lib.training.settings import TrainingSettings
from ovparts_lib.training.state import capture_state, check_state, frozen_digest, restore_state

Evaluate = Callable[[nn.Module, int], dict[str, float]]


def train(
    model: nn.Module,
    loader: DataLoader,
    settings: TrainingSettings,
    *,
    run_dir: Path,
    evaluate: Evaluate | None = None,
    progress: bool = True,
    fabric: Fabric | None = None,
) -> pd.DataFrame:
    """Train a model; stopped at any moment and started again with the same arguments, it gives the same weights.

    The model is left on the training device, in the mode (training or evaluation) it came in.

    ``run_dir`` receives ``log.jsonl``, ``checkpoints/`` (the last two) and, if it comes to that, ``non_finite/``.

    Args:
        model: has ``loss(batch) -> dict[str, Tensor]`` of scalar terms, whose sum is minimised, and
            ``parameter_groups(weight_decay)``. Parameters that require no gradient are not touched and not saved.
        loader: endless batches for ``model.loss``; see ``endless.EndlessBatches``.
        settings: optimisation, precision and pace.
        run_dir: folder of the run.
        evaluate: called on rank 0 as ``evaluate(model, step)`` every ``evaluate_every`` steps, with the model in
            evaluation mode; the metrics it returns go to the log. It cannot change the training's random numbers.
        progress: show a bar, or plain lines where nobody watches.
        fabric: what ``launch(settings)`` returned, where the loader had to be built for a rank; by default it is
            called here.

    Returns:
        The log as a table, one row per logged or evaluated step, also before a resume; see ``history_frame``.

    Raises:
        NonFiniteLossError: a loss or gradient was not finite; the weights are those before that step.
        TrainingInterrupted: SIGINT, SIGTERM or SIGHUP came; the step was finished and a checkpoint written.
        CheckpointWriteError: the disk is full, say; earlier checkpoints are intact.
        ResumeError: the newest checkpoint belongs to other settings, another model or other data.
        CorruptCheckpointError: there are checkpoints, but none is intact.
        RankLostError: another rank has ended or stands still.
    """
    fabric = launch(settings) if fabric is None else fabric
    run_dir = Path(run_dir)
    checkpoints, log = run_dir / "checkpoints", run_dir / "log.jsonl"
    with within_patience(fabric), Interruption() as interruption:
        # Data, optimiser, precision, devices.
        seed_generators(settings.seed + fabric.global_rank)
        endless = EndlessBatches(loader, settings, rank=fabric.global_rank, world_size=fabric.world_size)
        optimiser = build_optimiser(model, settings)
        frozen, was_training = frozen_digest(model), model.training
        module, optimiser = fabric.setup(LossModule(model), optimiser)
        module.train()
        if fabric.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(fabric.device)

        # Where an earlier process stopped.
        path = on_rank_zero(fabric, newest_checkpoint, checkpoints)
        step, seconds = 0, 0.0
        if path is not None:
            saved = read_checkpoint(path)
            check_state(saved, model, optimiser, settings, frozen, source=str(path))
            own = restore_state(saved, fabric, model, optimiser)
            endless.restore(own["loader"], source=str(path))
            set_random_state(own["random"])
            step, seconds = saved["step"], saved["seconds"]
            del saved, own

        run_dir.mkdir(parents=True, exist_ok=True)
        training_log = on_rank_zero(fabric, TrainingLog, log, step)
        bar = Progress(settings.iterations, step, shown=progress and fabric.is_global_zero)
        pace = Pace(seconds)

        def evaluate_now() -> None:
            if training_log.was_evaluated(step):  # before an earlier process was stopped
                return
            model.eval()
            with isolated_generators(), interruption.at_once(_resumable(step, path)):
                metrics = evaluate(model, step)
            model.train()
            training_log.write({"step": step, "evaluation": metrics, "seconds": pace.seconds})
            bar.say(f"step {step}  " + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items()))

        try:
            while True:
                # Evaluation follows the checkpoint of its step, so that nothing is lost when it is interrupted.
                if evaluate is not None and _is_due(step, settings.evaluate_every):
                    on_rank_zero(fabric, evaluate_now)
                if step == settings.iterations:
                    break

                # The gradient: mean over the micro-batches of all ranks.
                pace.start_step()
                learning_rate = set_learning_rate(optimiser, settings, step)
                random = random_state()
                batches, losses = [], []
                for index in range(settings.accumulate):
                    batch = move_batch(endless.take(), fabric.device)
                    with fabric.no_backward_sync(module, enabled=index + 1 < settings.accumulate):
                        terms = module(OpaqueBatch(batch))
                        fabric.backward(sum(terms.values()) / settings.accumulate)
                    batches.append(batch)
                    losses.append({name: term.detach() for name, term in terms.items()})
                if endless.taken == settings.accumulate:  # the first step of this process
                    check_gradients(model, distributed=fabric.world_size > 1)
                clip = math.inf if settings.gradient_clip is None else settings.gradient_clip
                norm = fabric.clip_gradients(module, optimiser, max_norm=clip, error_if_nonfinite=False)

                # All ranks agree on the numbers, and on whether to stop.
                means = [torch.stack([loss[name] for loss in losses]).mean() for name in sorted(terms)]
                *means, norm, stop = mean_over_ranks(fabric, [*means, norm, float(interruption.requested)])
                values = dict(zip(sorted(terms), means, strict=True))
                if _must_not_update(fabric, values, norm):
                    found = {"batches": batches, "losses": losses, "random": random}
                    found |= {"step": step + 1, "rank": fabric.global_rank}
                    raise non_finite_loss({**values, "gradient_norm": norm}, model, run_dir / "non_finite", found)

                # The update. (With loss scaling, the scaler leaves it out where the scaled gradient overflowed.)
                optimiser.step()
                optimiser.zero_grad()
                step += 1
                pace.end_step(settings.batch_size * settings.accumulate)
                bar.advance()

                finished = step == settings.iterations
                if step == 1 or finished or _is_due(step, settings.log_every):
                    images_per_second, seconds_per_step = pace.read()
                    entry = {
                        "step": step,
                        "loss": sum(values.values()),
                        "losses": values,
                        "gradient_norm": norm,
                        "learning_rate": learning_rate,
                        "seconds": pace.seconds,
                        "images_per_second": images_per_second,
                        "peak_memory_mib": peak_memory_mib(fabric.device),
                    }
                    on_rank_zero(fabric, training_log.write, entry)
                    bar.report(entry, seconds_left=(settings.iterations - step) * seconds_per_step)

                evaluating = evaluate is not None and _is_due(step, settings.evaluate_every)
                if stop or finished or evaluating or _is_due(step, settings.checkpoint_every):
                    facts = {"step": step, "seconds": pace.seconds, "frozen": frozen}
                    state = capture_state(fabric, model, optimiser, settings, endless.state(), **facts)
                    path = on_rank_zero(fabric, write_checkpoint, state, checkpoints, step)
                if stop:
                    raise TrainingInterrupted(_resumable(step, path), interruption.signal_number or signal.SIGTERM)
        finally:
            bar.close()
            endless.close()

        if interruption.requested:  # while the last checkpoint was written
            raise TrainingInterrupted(_resumable(step, path), interruption.signal_number)

    model.train(was_training)
    return on_rank_zero(fabric, training_log.history)


def peak_memory_mib(device: torch.device) -> float:
    """Most memory used so far, in MiB: allocated by torch on a CUDA device, resident in this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in kilobytes, except for macOS
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


def _must_not_update(fabric: Fabric, losses: dict[str, float], gradient_norm: float) -> bool:
    if not all(map(math.isfinite, losses.values())):
        return True
    # Float16 gradients overflow now and then by design; the scaler then skips the update and halves its scale.
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    return not math.isfinite(gradient_norm) and (scaler is None or scaler.get_scale() <= 1)


def _resumable(step: int, path: Path) -> str:
    return f"training was interrupted after step {step}; everything is in {path}: start it again to go on from there"
