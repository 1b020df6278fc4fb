"""How a command is asked to stop: once, and it ends cleanly; twice, and it leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

#: Seconds: what wraps a command passes on a Ctrl-C that the command gets by itself too; that is asking once.
SAME = 1.0

INTERRUPTED = 130
_asked: list[float] = []  # when
_deferring = 0


@contextlib.contextmanager
def terminate_as_interrupt(leave_at_once: bool = False) -> Iterator[None]:
    """SIGTERM, as Slurm and Docker send it, ends a command as cleanly as Ctrl-C does.

    Args:
        leave_at_once: when asked twice, end the process there and then. Only for what may be killed at any moment: to
            be interrupted while it cleans up would be worse.
    """

    def interrupt(*_: object) -> None:
        now = time.monotonic()
        if _asked and now - _asked[0] < SAME:
            return
        if _asked and leave_at_once:
            _leave()
        _asked.append(now)
        if not _deferring:
            raise KeyboardInterrupt

    before = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, interrupt)
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        yield
        return
    _asked.clear()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.clear()


@contextlib.contextmanager
def not_within() -> Iterator[None]:
    """An interrupt waits for the end of the block: half of what it does would be worse than all or nothing.

    In the main thread, that is: no other is interrupted.
    """
    global _deferring
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = len(_asked)
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1
        if not _deferring and len(_asked) > asked:
            raise KeyboardInterrupt


def stop_if_asked() -> None:
    """For a loop: Python loses an interrupt that comes while an object is being cleared away.

    Raises:
        KeyboardInterrupt: the command was asked to stop, and goes on all the same.
    """
    if _asked:
        raise KeyboardInterrupt


def _leave() -> None:
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), b"\x1b[?25h")  # a live view had hidden the cursor
        os.write(sys.stderr.fileno(), b"stopped at once; the next call puts right what was left\n")
    os._exit(INTERRUPTED)
