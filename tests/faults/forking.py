"""Processes forked from one that has done all heavy imports."""

from __future__ import annotations

import json
import os
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
