"""Which executor runs a command's jobs."""

from __future__ import annotations

from pathlib import Path

from cnnstudy.execution import Executor


def make_executor(slots: int, folder: Path) -> Executor:
    """Return the executor that all commands use: worker processes on this machine.

    Args:
        slots: jobs at a time.
        folder: for the files of trials.
    """
    from cnnstudy.execution.local import LocalExecutor

    return LocalExecutor(slots, folder)
