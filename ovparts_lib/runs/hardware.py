"""Whether this machine has the devices that a run asks for: found out before anything is computed."""

from __future__ import annotations

from ovparts_lib.runs.load_params import ParameterError
from ovparts_lib.runs.parameters import RunParameters


def check_hardware(params: RunParameters) -> None:
    """Refuse parameters that need a CUDA device which is not here.

    Not one of the parameters' own rules, for a run may be prepared and submitted on a machine without a GPU.

    Raises:
        ParameterError: ``device`` names a CUDA device that torch does not find, or ``precision: 16-mixed`` meets
            ``device: auto`` where there is no CUDA device.
    """
    half = getattr(params, "precision", None) == "16-mixed"
    if not half and not params.device.startswith("cuda"):
        return
    import torch  # takes seconds, which a run on the CPU need not wait for

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(params.device.partition(":")[2] or 0)
    if half and not found:
        raise ParameterError(
            f"precision, device: 16-mixed needs a CUDA device, and torch finds none for device = {params.device!r}; "
            "on a CPU use 32-true or bf16-mixed"
        )
    if index >= found:
        there = f"the CUDA devices are cuda:0 to cuda:{found - 1}" if found else "torch finds no CUDA device"
        raise ParameterError(f"device = {params.device!r}: {there}; use auto or cpu, or run where there is one")
