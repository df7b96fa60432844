from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from ovparts_lib.evaluation.per_image import ImageCounts
from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.runs import RunConflictError
from ovparts_lib.vocabularies import PartVocabulary
from ovparts_lib.workbook import scoring

WORDS = PartVocabulary.from_words({"dog": ["head", "tail"]})


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """``evaluate_stage`` of a run, with a scorer that counts its calls."""
    calls = []

    def evaluate(model, dataset, **options):
        calls.append(model)
        counts = ImageCounts.of_matrix(np.zeros((3, 3), np.int64))
        return Evaluation({"oracle_obj": counts}, ("a",), 1, 0, 1, vocabulary=WORDS)

    monkeypatch.setattr(scoring, "evaluate", evaluate)
    dataset, output = SimpleNamespace(vocabulary=WORDS), SimpleNamespace(path=tmp_path)

    def run(model):
        scoring.evaluate_stage("before", model, dataset, output)
        return len(calls)

    run.file = tmp_path / "evaluation" / "before" / "matrices.npz"
    return run


def test_counts_are_reused_for_the_weights_they_are_of_and_refused_for_others(stage):
    model = nn.Linear(2, 2)
    assert [stage(model), stage(model)] == [1, 1]
    model.weight.data[0, 0] += 1  # the weight file was replaced
    with pytest.raises(RunConflictError, match=r"matrices.npz holds counts of other weights"):
        stage(model)
    with pytest.raises(RunConflictError, match=r"matrices.npz holds counts of other weights"):
        stage(nn.Sequential(model))  # another system


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_damaged_counts_are_set_aside_and_made_again(stage, kept):
    model = nn.Linear(2, 2)
    stage(model)
    content = stage.file.read_bytes()
    stage.file.write_bytes(content[: int(kept * len(content))])
    with pytest.warns(UserWarning, match=r"matrices.npz is damaged"):
        assert stage(model) == 2
    assert stage(model) == 2
    assert stage.file.with_name("matrices.npz.damaged").exists()
