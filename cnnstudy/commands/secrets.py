"""A password in a tracking address is nobody else's to read: not in the list of processes, not in a traceback."""

from __future__ import annotations

import os
import re
import sys
import threading
import traceback
from types import TracebackType
from urllib.parse import unquote

from cnnstudy.errors import without_secrets

_OPTION, _VARIABLE = "--tracking-uri", "MLFLOW_TRACKING_URI"


def guard(uri: str | None) -> str | None:
    """The same address, its secrets hidden. Where it stands on the command line, this process begins anew without it
    there and with it in the environment, which only its user can read.
    """
    if uri is not None and without_secrets(uri) != uri:
        _hide_in_tracebacks(uri)
        _hide_in_process_list(uri)
    return uri


def _hide_in_process_list(uri: str) -> None:
    kept = _without_option(sys.orig_argv)
    if uri not in "\0".join(sys.orig_argv) or kept == sys.orig_argv:  # it came from the environment
        return
    print(
        f"note: {_OPTION} holds a password, and the list of processes shows what stands on a command line; give the "
        f"address as {_VARIABLE} in the environment",
        file=sys.stderr,
        flush=True,
    )
    if os.name == "posix":  # elsewhere it would be another process, that nobody waits for
        os.environ[_VARIABLE] = uri
        os.execv(sys.executable, [sys.executable, *kept[1:]])


def _without_option(arguments: list[str]) -> list[str]:
    kept, values = [], 0
    for argument in arguments:
        if values:
            values -= 1
        elif argument == _OPTION:
            values = 1
        elif not argument.startswith(f"{_OPTION}="):
            kept.append(argument)
    return kept


def _hide_in_tracebacks(uri: str) -> None:
    """Of errors that nobody expected; libraries may have the address, or its password alone, in theirs."""
    password = re.search(r"//[^:@/]*:(.*)@", uri)
    hidden = {uri, *((password[1], unquote(password[1])) if password and password[1] else ())}

    def show(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        for secret in sorted(hidden, key=len, reverse=True):
            text = text.replace(secret, without_secrets(uri) if secret == uri else "***")
        sys.stderr.write(without_secrets(text))

    sys.excepthook = show
    threading.excepthook = lambda given: show(given.exc_type, given.exc_value, given.exc_traceback)
