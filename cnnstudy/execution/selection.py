"""Which executor runs a command's jobs, by the name of a place."""

from __future__ import annotations

from pathlib import Path

from cnnstudy.config.execution import Execution
from cnnstudy.execution import Executor


def make_executor(slots: int, folder: Path, execution: Execution | None = None) -> Executor:
    """Return the executor for a place: worker processes on this machine, or slots on the nodes of a Ray cluster.

    Args:
        slots: jobs at a time.
        folder: for the files of trials.
        execution: the place, and what each slot gets there; None: this machine.

    Raises:
        WorkerError: the place can't be used.
    """
    if execution is not None and execution.on != "local":
        from cnnstudy.execution.ray_cluster import RayExecutor
        from cnnstudy.execution.ray_connection import SlotNeeds

        needs = SlotNeeds(execution.cpus, execution.gpus, int(1e9 * (execution.memory or 0)))
        return RayExecutor(slots, folder, needs, execution.on if "://" in execution.on else None)
    from cnnstudy.execution.local import LocalExecutor

    return LocalExecutor(slots, folder)
