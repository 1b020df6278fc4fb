"""MLflow's errors: which are transient, how long to retry, and what they say; a first sign of life of a server."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from cnnstudy.errors import TrackingUnavailableError, as_sentence, without_secrets
from cnnstudy.system.output import print_error
from cnnstudy.tracking import TIMEOUT_IS_DEFAULT

#: MLflow's codes for transient errors; a locked, read-only or restarting database is temporarily unavailable.
_TRANSIENT_CODES = {
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
    "CANCELLED",
}
#: MLflow's codes for errors that it has no code for; the cause decides.
_UNSPECIFIC_CODES = {"INTERNAL_ERROR", "BAD_REQUEST"}
#: SQLAlchemy's errors for a broken connection, or a database that accepts no writes at present.
_CONNECTION_ERRORS = {"OperationalError", "InterfaceError", "InternalError", "TimeoutError", "PendingRollbackError"}
#: The same in the message of a server that uses the database.
_CONNECTION_MESSAGE = re.compile(r"\b(InterfaceError|ReadOnlySqlTransaction|PendingRollbackError|AdminShutdown)\b")
#: A database's messages that refuse access: OperationalErrors too, but permanent.
_ACCESS_DENIED = re.compile(
    r"(?i)authentication failed|access denied for user|no pg_hba\.conf entry|role .* does not exist"
)
#: Libraries of artifact stores, which MLflow calls without translating their errors: Amazon's S3, its kin, and others.
_STORE_LIBRARIES = {"botocore", "boto3", "s3transfer", "google", "azure", "requests", "urllib3"}
#: Their errors for a connection, or a base class of these.
_STORE_CONNECTION_ERRORS = {
    *("ConnectionError", "HTTPClientError", "HTTPError", "TransportError"),
    *("ServiceRequestError", "ServiceResponseError"),
}
#: The same in the text of MLflow's error when files could not be downloaded, which has lost its cause.
_STORE_MESSAGE = re.compile(
    r"Could not connect to the endpoint|(?:Connect|Read) timeout on endpoint|Connection was closed before"
    r"|An error occurred \((?:5\d\d|SlowDown|InternalError|ServiceUnavailable|Throttling\w*|RequestTimeout)\)"
    r"|\b(?:408|429|5\d\d) (?:Server|Client) Error\b|Max retries exceeded with url|failed with error code 5\d\d"
)
#: HTTP statuses below 500 that are transient.
_BUSY_STATUS = {408, 425, 429}
#: OSErrors that are permanent: the path is wrong.
_PERMANENT_ERRNO = {
    *(errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
    *(errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP),
}
#: HTTP statuses of a missing login and of a missing right.
_REFUSED = (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
#: MLflow's codes for them.
_REFUSED_CODES = dict(zip(("UNAUTHENTICATED", "PERMISSION_DENIED"), _REFUSED, strict=True))
#: A line that SQLAlchemy puts before what the database says.
_NO_CAUSE = "(raised as a result of "
_DISK_FULL_ERRNO = {errno.ENOSPC, errno.EDQUOT}
_DISK_FULL_MESSAGE = re.compile(r"(?i)no space left on device|disk quota exceeded|database or disk is full")

#: For how many seconds a server is asked for a sign of life, each time.
_PATIENCE = (3.0, 7.0, 10.0, 10.0, 10.0, 10.0)

Value = TypeVar("Value")


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for MLflow, in seconds."""

    wait_per_record: float = 5.0  # for one record, before the study continues without it
    pauses: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 60)  # between tries; the last one repeats
    give_up_after: float = 3600.0  # for all records, when nothing can continue without them
    say_after: float = 10.0  # that the wait goes on, again and again

    def pause(self, failures: int) -> float:
        """Return the pause before the next try, after this many failures.

        The first failure is retried immediately: a connection may have been broken by a restart.
        """
        return 0.0 if failures <= 1 else self.pauses[min(failures - 2, len(self.pauses) - 1)]

    def call(self, action: Callable[[], Value], say: Callable[[str], None]) -> Value:
        """Return the result of `action`, retrying while MLflow is unavailable.

        Args:
            say: receives a message for the user.

        Raises:
            TrackingUnavailableError: MLflow is unavailable for longer than `give_up_after`.
        """
        deadline, failures, why = time.monotonic() + self.give_up_after, 0, "MLflow has not answered yet."
        with self.saying(lambda: f"{why} Waiting for MLflow", say):
            while True:
                try:
                    return action()
                except TrackingUnavailableError as error:
                    failures, why = failures + 1, as_sentence(error)
                    pause = self.pause(failures)
                    if time.monotonic() + pause >= deadline:
                        raise
                    if failures == 2:
                        say(f"{why} Waiting for MLflow; press Ctrl-C to stop, and run again to continue.")
                    time.sleep(pause)

    @contextlib.contextmanager
    def saying(self, what: Callable[[], str], say: Callable[[str], None]) -> Iterator[None]:
        """Say what the block is waiting for, and for how long it has been, again and again until it ends."""
        ended, begun = threading.Event(), time.monotonic()

        def tell() -> None:
            while not ended.wait(self.say_after):
                say(f"{what()}, for {time.monotonic() - begun:.0f} s so far")

        thread = threading.Thread(target=tell, name="cnnstudy-waiting", daemon=True)
        try:
            thread.start()  # an interrupt may arrive while it starts, and it must end then too
            yield
        finally:
            ended.set()
            if thread.ident is not None:
                thread.join()


#: Seconds after which a command that answers once says that it waits.
_TELLING = RetryPolicy(say_after=5.0)


def is_server(uri: str) -> bool:
    """Check whether the tracking URI is that of a server, which has its own UI."""
    return uri.startswith(("http://", "https://"))


def await_answer(uri: str) -> None:
    """Wait until a tracking server answers anything at all, and say so on stderr; MLflow would wait in silence.

    Any other trouble is left to MLflow's own requests, and so is a server for which the user has set a timeout.

    Raises:
        TrackingUnavailableError: it has not answered.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return
    if not is_server(uri) or not TIMEOUT_IS_DEFAULT:
        return
    health = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=f"{parts.path.rstrip('/')}/health").geturl()
    waited = 0.0
    for patience in _PATIENCE:
        try:
            with urllib.request.urlopen(health, timeout=patience):
                return
        except (OSError, ValueError, http.client.HTTPException) as error:
            if not isinstance(getattr(error, "reason", error), TimeoutError):
                return
        waited += patience
        print_error(f"the tracking server at {without_secrets(uri)} has not answered for {waited:g} s")
    raise TrackingUnavailableError(
        f"the tracking server at {without_secrets(uri)} does not answer. Restart it, or choose another with "
        "--tracking-uri or MLFLOW_TRACKING_URI."
    )


def telling(place: str) -> AbstractContextManager[None]:
    """Say on stderr, again and again, that the block waits for an answer from that place."""
    return _TELLING.saying(lambda: f"waiting for {without_secrets(place)}", print_error)


def comes_from_store(error: BaseException) -> bool:
    """Check whether an error is one of MLflow, its database, the network or an artifact store, and not a mistake."""
    library = type(error).__module__.split(".")[0]
    return isinstance(error, OSError | ImportError) or library in {"mlflow", "sqlalchemy", *_STORE_LIBRARIES}


def is_transient(error: BaseException) -> bool:
    """Check whether the same call may succeed later: a broken or refused connection, a lock, a server's failure."""
    code = getattr(error, "error_code", None)
    if code is not None and code not in _UNSPECIFIC_CODES:
        return code in _TRANSIENT_CODES and not _ACCESS_DENIED.search(str(error))
    return any(map(_is_transient_cause, _causes(error)))


def is_disk_full(error: BaseException) -> bool:
    """Check whether the error or one of its causes is a full disk, on whichever machine."""
    return any(
        getattr(cause, "errno", None) in _DISK_FULL_ERRNO or bool(_DISK_FULL_MESSAGE.search(str(cause).split("\n")[0]))
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, then its causes."""
    cause: BaseException | None = error
    for _ in range(20):  # a chain may be circular
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_transient_cause(error: BaseException) -> bool:
    library, name, text = type(error).__module__.split(".")[0], type(error).__name__, str(error)
    if library == "sqlalchemy":
        broken = name in _CONNECTION_ERRORS or getattr(error, "connection_invalidated", False)
        return broken and not _ACCESS_DENIED.search(text)
    if library == "mlflow":
        # a server reports its status 500 as INTERNAL_ERROR, and the client a request without a reply
        from_server = name == "RestException" and getattr(error, "error_code", "") == "INTERNAL_ERROR"
        request_failed = text.startswith("API request to") and name != "InvalidUrlException"
        refused = (status := _status_in(text)) is not None and not _is_transient_status(status)
        by_text = _CONNECTION_MESSAGE.search(text) or (not refused and _STORE_MESSAGE.search(text))
        return from_server or (request_failed and not refused) or bool(by_text)
    if library in _STORE_LIBRARIES:
        status = _status_of_reply(error)
        if status is not None:
            return _is_transient_status(status)
        if library == "requests":
            return not isinstance(error, ValueError)  # such as an invalid address
        names = {kind.__name__ for kind in type(error).__mro__}
        return bool(names & _STORE_CONNECTION_ERRORS)
    return isinstance(error, OSError) and error.errno not in _PERMANENT_ERRNO


def _is_transient_status(status: int) -> bool:
    return status >= 500 or status in _BUSY_STATUS


def _status_of_reply(error: BaseException) -> int | None:
    """Return the HTTP status of the reply that an error of `requests` or of a store's library is about, or None."""
    reply = getattr(error, "response", None)
    if isinstance(reply, Mapping):  # botocore
        return reply.get("ResponseMetadata", {}).get("HTTPStatusCode")
    given = (getattr(reply, "status_code", None), getattr(error, "status_code", None), getattr(error, "code", None))
    return next((int(status) for status in given if isinstance(status, int)), None)


def _status_in(text: str) -> int | None:
    """Return the HTTP status in a message such as `failed with error code 404`, or None."""
    match = re.search(r"failed with error code (\d{3})\b", text)
    return int(match[1]) if match else None


def describe_error(error: BaseException, uri: str) -> str:
    """Return what an error of MLflow means to the user: a missing login or right, no connection, else its own words."""
    lines = [line for line in without_secrets(str(error)).split("\n") if not line.startswith(_NO_CAUSE)]
    text, where = lines[0] if lines else "", without_secrets(uri)
    status = next((found for cause in _causes(error) if (found := _status_of(cause)) in _REFUSED), None)
    if is_server(uri) and status is not None:
        return _describe_refusal(status, text, uri)
    unconnected = re.search(
        r"Failed to (?:establish a new connection|resolve)[^\"]*?((?:\[Errno -?\d+\])[^\")]*)", text
    )
    text = f"no connection: {unconnected[1]}" if unconnected else text[:500]
    if uri.startswith("sqlite:") and re.search("file is not a database|disk image is malformed", text):
        text = f"{as_sentence(text)} The file is damaged: put a copy of it back, or move it away to begin a new record"
    return f"MLflow at {where} failed: {text}{_name_proxy(uri)}"


def _status_of(error: BaseException) -> int | None:
    if (code := getattr(error, "error_code", None)) in _REFUSED_CODES:
        return _REFUSED_CODES[code]
    status = getattr(getattr(error, "response", None), "status_code", None)
    return _status_in(str(error)) if status is None else int(status)


def _describe_refusal(status: int, text: str, uri: str) -> str:
    where, user = without_secrets(uri), os.environ.get("MLFLOW_TRACKING_USERNAME")
    login = "the login in its address" if "@" in urlsplit(uri).netloc else f"MLFLOW_TRACKING_USERNAME ({user})"
    known = bool(user) or "@" in urlsplit(uri).netloc
    if status == http.HTTPStatus.UNAUTHORIZED and known:
        return f"the tracking server at {where} refuses {login} or its password; correct them"
    if status == http.HTTPStatus.UNAUTHORIZED:
        return (
            f"the tracking server at {where} wants a login; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
            "or MLFLOW_TRACKING_TOKEN"
        )
    asked = re.search(r"/mlflow(?:-artifacts)?/([\w/-]+)|endpoint (\S+)", text)
    what = next(filter(None, asked.groups())) if asked else "this request"
    right = "READ" if re.search(r"search|get|list|download", what) else "MANAGE" if "delete" in what else "EDIT"
    return (
        f"the tracking server at {where} does not allow {login if known else 'you'} to do this ({what}): the "
        f"permission {right} is missing. Ask the experiment's owner or an administrator for it; to record a study of "
        f"your own, give it another name (`--set name=...`){_name_proxy(uri)}"
    )


def _name_proxy(uri: str) -> str:
    """Name the proxy that requests to a tracking server on this machine go through; "" if there is none."""
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
    except ValueError:
        return ""
    proxy = urllib.request.getproxies().get(parts.scheme, "") if is_server(uri) else ""
    if not proxy or host not in ("127.0.0.1", "localhost", "::1") or urllib.request.proxy_bypass(host):
        return ""
    variable = f"{parts.scheme}_proxy".upper()
    return (
        f" (requests to {host} go through the proxy {without_secrets(proxy)} that {variable} names; set "
        f"NO_PROXY={host} to leave it out)"
    )
