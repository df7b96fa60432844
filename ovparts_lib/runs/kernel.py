"""The process that executes a notebook: always the interpreter that is running, whatever kernels are registered."""

import contextlib
import os
import signal
from typing import ClassVar

import zmq
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from traitlets import default

# Half of it until an interrupted kernel, which finishes its training step and saves, is sent SIGTERM, then SIGKILL.
_SECONDS_TO_STOP = 240.0


class InterpreterKernelManager(AsyncKernelManager):
    """Starts ``python3`` as the Python that runs this code, and remembers how the process ended.

    Attributes:
        exit_status: exit status of the last kernel that ended by itself: negative for a signal, None if none did.
        busy: whether a cell is being executed.
    """

    exit_status: ClassVar[int | None] = None
    busy: ClassVar[bool] = False

    @default("kernel_spec_manager")
    def _without_registered_kernels(self) -> KernelSpecManager:
        # With no folder to search, jupyter_client falls back on ipykernel's own entry, which is sys.executable.
        return KernelSpecManager(parent=self, kernel_dirs=[])

    @default("transport_encryption")
    def _encrypted_if_possible(self) -> str:
        # On a shared node, other users can reach the kernel's ports; jupyter_client 8.9 and later can encrypt.
        return "auto" if zmq.has("curve") else "disabled"

    @default("shutdown_wait_time")
    def _time_to_save(self) -> float:
        return _SECONDS_TO_STOP

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """The command, with which the kernel keeps to itself that its sockets closed while it was being stopped."""
        return [*super().format_kernel_cmd(extra_arguments), "--log-level=CRITICAL"]

    async def _async_interrupt_kernel(self) -> None:
        # jupyter_client interrupts before every shutdown, and a kernel that has nothing to do calls that an error.
        if type(self).busy:
            await super()._async_interrupt_kernel()

    async def is_alive(self) -> bool:
        """Whether the kernel process runs; if it has died, what it started is ended too."""
        alive = await super().is_alive()
        if not alive and self.provisioner is not None and self.provisioner.has_process:
            type(self).exit_status = await self.provisioner.poll()
            # The kernel leads a process group of its own; a data worker or a training process that outlives a killed
            # kernel would go on writing into a folder that is no longer locked.
            group = getattr(self.provisioner, "pgid", None)
            if group and group != os.getpgrp():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)
        return alive


def describe_exit(status: int | None) -> str:
    """``-9`` -> ``"killed by SIGKILL; out of memory is the most common reason"``."""
    if status is None:
        return "ended without an exit status"
    if status >= 0:
        return f"ended with exit status {status}"
    name = signal.Signals(-status).name if -status in signal.valid_signals() else f"signal {-status}"
    why = {"SIGKILL": "; out of memory is the most common reason", "SIGSEGV": "; native code crashed"}
    return f"killed by {name}{why.get(name, '')}"
