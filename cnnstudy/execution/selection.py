"""Which executor runs a command's jobs, by the name of a place."""

from __future__ import annotations

import math
import os
from pathlib import Path

from cnnstudy.config.execution import Execution
from cnnstudy.errors import WorkerError
from cnnstudy.execution import Executor
from cnnstudy.system.processes import list_gpus


def make_executor(slots: int, folder: Path, execution: Execution | None = None) -> Executor:
    """Return the executor for a place: worker processes on this machine, or slots on the nodes of a Ray cluster.

    Args:
        slots: jobs at a time.
        folder: for the files of trials.
        execution: the place, and what each slot gets there; None: this machine.

    Raises:
        WorkerError: the place can't be used, or has fewer GPUs than the slots are to get.
    """
    if execution is not None and execution.on != "local":
        from cnnstudy.execution.ray_cluster import RayExecutor
        from cnnstudy.execution.ray_connection import SlotNeeds

        needs = SlotNeeds(execution.cpus, execution.gpus, int(1e9 * (execution.memory or 0)))
        return RayExecutor(slots, folder, needs, execution.on if "://" in execution.on else None)
    from cnnstudy.execution.local import LocalExecutor

    gpus = execution.gpus if execution is not None else 0
    if gpus:
        _require_gpus(slots, gpus)
    return LocalExecutor(slots, folder, gpus=max(1, int(gpus)))


def _require_gpus(slots: int, each: float) -> None:
    """Raise WorkerError if this machine has not as many GPUs for each slot, or that share of one."""
    there = list_gpus()
    needed = slots * int(each) if each >= 1 else math.ceil(slots / int(1 / each + 1e-9))
    if needed <= len(there):
        return
    has = "CUDA_VISIBLE_DEVICES leaves" if "CUDA_VISIBLE_DEVICES" in os.environ else "this machine has"
    raise WorkerError(
        f"slots: {slots}, with execution.gpus: {each:g} for each, need {needed} NVIDIA GPU{'s' if needed > 1 else ''}, "
        f"and {has} {len(there) or 'none'}{': ' * bool(there)}{', '.join(there)}. Lower --jobs (execution.slots) or "
        "execution.gpus; with 0 each worker takes one of the GPUs there are, or else the CPU."
    )
