"""The recorded prediction that ``benchmarks/gpu_check.py`` compares a GPU with: on a CPU it is the reference's."""

from importlib import import_module

import numpy as np
import pytest
import torch

from ovparts_lib.systems.registry import SYSTEMS


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_recorded_evaluation_is_the_references(system):
    case = import_module(f"tests.golden.released_{system}").recorded_evaluation()
    with torch.inference_mode():
        found = case.predict().numpy()
    expected = np.asarray(case.expected)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 1e-4, error
