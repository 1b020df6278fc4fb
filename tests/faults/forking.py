"""Processes that are forked from one that has imported all that is heavy."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def serve(run: Callable[[dict[str, Any]], None]) -> None:
    """For each line of JSON on standard input a fork that runs it and never returns; answered with the fork's process
    id, and when it has ended with its exit code as `os.waitstatus_to_exitcode` has it.
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
