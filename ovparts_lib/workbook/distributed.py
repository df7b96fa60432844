"""``python -m ovparts_lib.workbook.distributed params.yaml``: the training part of a run, one process per device."""

import sys

from ovparts_lib.checkpoints.reading import CheckpointError
from ovparts_lib.data.dataset import EvaluationDataset
from ovparts_lib.data.registry import open_reader
from ovparts_lib.processes import end_with_parent
from ovparts_lib.runs import load_parameters, resolve_path
from ovparts_lib.runs.folder import read_json
from ovparts_lib.training import TrainingInterrupted
from ovparts_lib.workbook.data import open_training, with_shots
from ovparts_lib.workbook.scoring import quick_scores
from ovparts_lib.workbook.systems import build_model, train_in_process, weight_hashes


def main(params_file: str) -> None:
    """Train with the parameters of a run folder, whose notebook holds the lock, and leave the weights there."""
    params = load_parameters(params_file)
    reader, _ = with_shots(params, open_reader(params.dataset, resolve_path(params.data_root)))
    # On the CPU, for this process does not know its device before Fabric has started the others.
    model, _ = build_model(params.model_copy(update={"device": "cpu"}))
    if read_json(params.folder / "provenance.json").get("weight_hashes") != weight_hashes(params):
        raise CheckpointError("the weight files have changed since the run began; restore them or start over (--again)")
    evaluate = None
    if params.evaluate_every:
        scored = open_reader(params.scored_dataset, resolve_path(params.scored_root)) if params.test_dataset else reader
        evaluate = quick_scores(EvaluationDataset(scored, params.test_split), params)
    train_in_process(model, open_training(params, reader), params, params.folder, evaluate)


if __name__ == "__main__":
    end_with_parent()
    try:
        main(sys.argv[1])
    except TrainingInterrupted as stop:
        print(stop, flush=True)
        sys.exit(128 + stop.signal_number)
