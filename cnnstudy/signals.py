"""How a command is asked to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

_asked = False


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM, as Slurm and Docker send it, ends a command as cleanly as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        global _asked
        _asked = True
        raise KeyboardInterrupt

    global _asked
    before = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, interrupt)
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        yield
        return
    _asked = False
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked = False


def stop_if_asked() -> None:
    """For a loop: Python loses an interrupt that comes while an object is being cleared away.

    Raises:
        KeyboardInterrupt: the command was asked to stop, and goes on all the same.
    """
    global _asked
    if _asked:
        _asked = False
        raise KeyboardInterrupt
