"""Processes forked from one that has done all heavy imports, and that may be told when to die.

A durable operation is a database commit, or a file or folder that is created, opened for writing, renamed or removed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def serve(run: Callable[[dict[str, Any]], None]) -> None:
    """Fork for each line of JSON on standard input; print the fork's process id and, after it has ended, its exit code.

    Args:
        run: executes a request in the fork, and never returns.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            run(request)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


class Operations:
    """Counts this process's durable operations, and kills the process before that of number `kill_at`, from 1."""

    EVENTS = frozenset({"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"})

    def __init__(self, kill_at: int) -> None:
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        self.count, self._kill_at = 0, kill_at
        event.listen(Engine, "commit", lambda connection: self._next())
        sys.addaudithook(self._hear)

    def _hear(self, name: str, given: tuple[Any, ...]) -> None:
        if name in self.EVENTS or (name == "open" and self._writes(*given)):
            self._next()

    @staticmethod
    def _writes(path: Any, mode: str | None, flags: int) -> bool:
        return not isinstance(path, int) and path != os.devnull and bool(flags & (os.O_WRONLY | os.O_RDWR))

    def _next(self) -> None:
        self.count += 1
        if self.count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
