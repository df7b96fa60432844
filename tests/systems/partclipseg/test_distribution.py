"""PartCLIPSeg on two devices, whichever of its terms are left out."""

import json
import os
import subprocess
import sys

import pytest
import torch

from ovparts_lib.training import launch
from tests.systems.partclipseg.test_model import tiny_partclipseg
from tests.systems.partclipseg.train_tiny import settings, trained
from tests.training.processes import SECONDS

# Each is the mean over pictures, so that two processes with a picture each are one with both.
SAME = [
    {},
    {"object_weight": 0.0, "part_weight": 0.0},
    {"separation_weight": 0.0, "enhancement_weight": 0.0},
    {"object_weight": 0.0, "part_weight": 0.0, "separation_weight": 0.0, "enhancement_weight": 0.0},
    {"checkpoint_decoder": True, "query_chunk": 3},
    {"attention_rule": "released", "object_text": "released", "label_resize": "floor"},
]
# These take a batch, or random parts, in each process by itself.
OWN = [{"loss_mean": "batch", "attention_rule": "released"}, {"training_queries": 2}]


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    """No rank waits for a gradient, also where its picture shows no part or a head is left without a term."""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "tests.systems.partclipseg.train_tiny", str(tmp_path)]
    command += [json.dumps(options) for options in SAME + OWN]
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    for number, options in enumerate(SAME + OWN):
        together = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        begun = tiny_partclipseg(**options).state_dict()
        assert any(not torch.equal(together[name], begun[name]) for name in begun)
        if options in SAME:
            alone = trained(options, tmp_path / f"alone_{number}", launch(settings(devices=1)))
            for name, tensor in alone.items():
                torch.testing.assert_close(together[name], tensor, rtol=1e-3, atol=1e-5, msg=f"{options}: {name}")
