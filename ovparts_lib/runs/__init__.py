"""Runs: parameters that are checked, folders that are locked, notebooks that are executed, and reports."""

from ovparts_lib.atomic import DiskFullError
from ovparts_lib.runs.folder import RunConflictError, RunFolder, run_state
from ovparts_lib.runs.listing import find_runs
from ovparts_lib.runs.load_params import ParameterError, load_parameters, read_parameters, validate_parameters
from ovparts_lib.runs.lock import RunLockedError
from ovparts_lib.runs.parameters import RunParameters, parameter_model
from ovparts_lib.runs.project import project_root, resolve_path
