"""The training loop and what it stands on: settings, optimiser, schedule, checkpoints, log."""

from ovparts_lib.training.checkpoint_files import CheckpointWriteError, CorruptCheckpointError
from ovparts_lib.training.distribution import launch
from ovparts_lib.training.interruption import TrainingInterrupted
from ovparts_lib.training.log import history_frame, read_log
from ovparts_lib.training.loop import train
from ovparts_lib.training.non_finite import NonFiniteLossError
from ovparts_lib.training.optimisers import ParameterGroupError
from ovparts_lib.training.settings import TrainingSettings
from ovparts_lib.training.state import ResumeError
