"""How long MLflow is waited for."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from cnnstudy.errors import TrackingUnavailableError, sentence

#: MLflow's codes for what may succeed later. A locked, read-only or restarting database is temporarily unavailable.
_LATER = {
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
    "CANCELLED",
}
#: Its codes for whatever it has no code for: what lies below has to tell.
_UNTOLD = {"INTERNAL_ERROR", "BAD_REQUEST"}
#: SQLAlchemy's: the connection broke, or the database takes no writes for now.
_CONNECTION = {"OperationalError", "InterfaceError", "InternalError", "TimeoutError", "PendingRollbackError"}
#: The same in the words of a server that has the database.
_IN_WORDS = re.compile(r"\b(InterfaceError|ReadOnlySqlTransaction|PendingRollbackError|AdminShutdown)\b")
#: A database's words for who may not come in: it is no OperationalError that waiting helps.
_NO_ENTRY = re.compile(r"(?i)authentication failed|access denied for user|no pg_hba\.conf entry|role .* does not exist")
_BUSY_STATUS = {408, 425, 429}
#: Not in the way but wrong: what is to be read or written is no such thing.
_NO_SUCH_FILE = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_IN_WORDS = re.compile(r"(?i)no space left on device|disk quota exceeded|database or disk is full")


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: a broken or refused connection, a lock, a server's own trouble."""
    told = getattr(error, "error_code", None)
    if told is not None and told not in _UNTOLD:
        return told in _LATER and not _NO_ENTRY.search(str(error))
    return any(map(_is_trouble, _chain(error)))


def is_disk_full(error: BaseException) -> bool:
    """Whether it is for want of room, on whichever disk."""
    return any(
        getattr(one, "errno", None) in _FULL or bool(_FULL_IN_WORDS.search(str(one).split("\n")[0]))
        for one in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it."""
    found: BaseException | None = error
    for _ in range(20):
        if found is None:
            return
        yield found
        found = found.__cause__ or found.__context__


def _is_trouble(error: BaseException) -> bool:
    library, name, text = type(error).__module__.split(".")[0], type(error).__name__, str(error)
    if library == "sqlalchemy":
        return (name in _CONNECTION or getattr(error, "connection_invalidated", False)) and not _NO_ENTRY.search(text)
    if library == "mlflow":
        # a server says INTERNAL_ERROR for its 500, the client for a request that got no answer
        from_server = name == "RestException" and getattr(error, "error_code", "") == "INTERNAL_ERROR"
        no_answer = text.startswith("API request to") and name != "InvalidUrlException"
        return from_server or (no_answer and not _refused(text)) or bool(_IN_WORDS.search(text))
    if library == "requests":
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return status >= 500 or status in _BUSY_STATUS
        return not isinstance(error, ValueError)  # as an address that is none
    return isinstance(error, OSError) and error.errno not in _NO_SUCH_FILE


def _refused(text: str) -> bool:
    """`failed with error code 404`: an answer, and one that stays as it is."""
    found = re.search(r"failed with error code (\d{3})\b", text)
    return found is not None and int(found[1]) < 500 and int(found[1]) not in _BUSY_STATUS


Answer = TypeVar("Answer")


@dataclass(frozen=True)
class RetryPolicy:
    """How long MLflow is waited for, seconds."""

    answer: float = 5.0  # for one record, before the study goes on without
    pauses: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 60)  # between tries; the last one again and again
    end: float = 3600.0  # for all records, where nothing goes on without

    def pause(self, failures: int) -> float:
        """Before the next try, after so many that failed; the first is repeated at once, on a new connection."""
        return 0.0 if failures <= 1 else self.pauses[min(failures - 2, len(self.pauses) - 1)]

    def ask(self, read: Callable[[], Answer], say: Callable[[str], None]) -> Answer:
        """What MLflow answers; asked again, with pauses, while it does not.

        Raises:
            TrackingUnavailableError: it does not within `end`.
        """
        deadline, failures = time.monotonic() + self.end, 0
        while True:
            try:
                return read()
            except TrackingUnavailableError as error:
                failures += 1
                pause = self.pause(failures)
                if time.monotonic() + pause >= deadline:
                    raise
                if failures == 2:
                    say(f"{sentence(error)} Waiting for it; Ctrl-C stops, and the next call goes on.")
                time.sleep(pause)
