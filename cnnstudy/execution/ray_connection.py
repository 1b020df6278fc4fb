"""The connection to a Ray cluster: start or join one, make actors, wait for them, and say in words what went wrong."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnstudy.errors import WorkerError, as_sentence, printable
from cnnstudy.system.cache import require_cache
from cnnstudy.system.code_version import Code, code_differences, training_code
from cnnstudy.system.display import format_size

#: Calls of an actor that may be under way at once: one waits for events, others move files.
_CONCURRENCY = 4
#: Seconds that a cluster may take to answer.
_CONNECT_SECONDS = 10
#: Nodes listed, and differences in their code.
_MOST_LISTED = 5
#: The address with which Ray starts a cluster of its own.
_NEW = "local"
#: The ids of open connections, and that the first of them joined the cluster.
_open: set[int] = set()
_JOINED = 0
_INSTALL = "python -m pip install -c constraints.txt -e '.[ray]'"


@dataclass(frozen=True)
class SlotNeeds:
    """What each slot gets of its node."""

    cpus: float = 1.0
    gpus: float = 0.0  # a fraction shares a GPU
    memory: int = 0  # bytes; 0: not looked at

    @property
    def threads(self) -> int:
        """Threads of its worker."""
        return max(1, int(self.cpus))

    @property
    def devices(self) -> int:
        """GPUs, or the only device, among which its worker divides each update."""
        return max(1, int(self.gpus))

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPUs", f"{self.gpus:g} GPUs" if self.gpus else ""]
        return ", ".join(filter(None, [*parts, f"{format_size(self.memory)} of memory" if self.memory else ""]))


class Connection:
    """This process in a Ray cluster.

    Args:
        needs: of each slot.
        address: as `ray.init` takes it; None: the cluster that runs on this machine, or a new one.

    Raises:
        WorkerError: Ray is missing, the cluster can't be reached, or no node has what a slot needs.
    """

    def __init__(self, needs: SlotNeeds, address: str | None = None) -> None:
        # otherwise a call that comes too late would start a cluster of its own
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
        address = address or os.environ.get("RAY_ADDRESS")
        if address and address.startswith("ray://"):
            _show_token()
        try:
            import ray
        except ImportError as error:
            raise WorkerError(f"Ray can't be imported ({error}); install it with `{_INSTALL}`.") from None
        self._ray = ray
        self.needs = needs
        #: Raised by calls that did not reach their actor, which may be there all the same.
        self.unavailable = ray.exceptions.ActorUnavailableError
        if not ray.is_initialized():
            _join(ray, address)
            _open.add(_JOINED)
        _open.add(id(self))
        #: A file in the cache of this machine; where a node has it too, they share the cache.
        self.mark = require_cache("locks") / f"driver-{secrets.token_hex(8)}"
        self.mark.touch()
        try:
            self._require_room()
        except BaseException:
            self.close()
            raise

    def _require_room(self) -> None:
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        wanted = {"CPU": self.needs.cpus, "GPU": self.needs.gpus, "memory": self.needs.memory}
        if not any(all(node["Resources"].get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
            have = [_describe_node(node) for node in nodes]
            more = [f"and {len(have) - _MOST_LISTED} more"] if len(have) > _MOST_LISTED else []
            raise WorkerError(
                f"no node of the Ray cluster has what each worker is to get: {self.needs}. The nodes have: "
                f"{'; '.join([*have[:_MOST_LISTED], *more])}. Lower execution.cpus, gpus or memory, or add such a node."
            )

    def make_actor(self, kind: type, *arguments: Any) -> Any:
        """Ask the cluster for an actor; it starts as soon as a node has room."""
        options = {"num_cpus": self.needs.cpus, "num_gpus": self.needs.gpus, "memory": self.needs.memory or None}
        made = self._ray.remote(kind).options(max_concurrency=_CONCURRENCY, max_restarts=0, **options)
        return made.remote(*arguments)

    def wait(self, answer: Any, timeout: float | None = None) -> Any:
        """Wait for what a call returns.

        Raises:
            one of ray_errors(): the actor is lost, or did not answer in time.
            Others that the method itself raised.
        """
        try:
            return self._ray.get(answer, timeout=timeout)
        except self._ray.exceptions.RayTaskError as error:
            raise (error.cause or error) from None

    def kill(self, actor: Any) -> None:
        """End an actor's process at once."""
        with contextlib.suppress(*ray_errors()):
            self._ray.kill(actor)

    def has_node(self, node: str) -> bool:
        """Check whether a node is still part of the cluster."""
        try:
            return any(one["NodeID"] == node and one["Alive"] for one in self._ray.nodes())
        except ray_errors():
            return False

    def close(self) -> None:
        """Leave the cluster, unless others still use it or the process had joined it before there was a connection."""
        self.mark.unlink(missing_ok=True)
        _open.discard(id(self))
        if _open == {_JOINED}:
            _open.clear()
            self._ray.shutdown()


def _join(ray: Any, address: str | None) -> None:
    """Join a cluster or start one.

    Raises:
        WorkerError: it can't be reached, or has other versions.
    """
    address = address or _find_here(ray)
    # Ray prints pages of its logs to standard output when a node is lost, and knows no setting against it; the executor
    # says in a line what was lost
    ray._private.worker.print_to_stdstream = lambda *given, **named: None
    where = "a Ray cluster on this machine" if address == _NEW else f"the Ray cluster {printable(address)}"
    try:
        _knock(address)
        with _without_secrets():
            ray.init(
                address=address,
                log_to_driver=False,  # of actors; what matters comes as events
                logging_level="ERROR",
                include_dashboard=False,
            )
    except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as error:
        text = " ".join(str(error).split())
        if "ersion mismatch" in text:
            raise WorkerError(
                f"{where} runs other versions of Ray or Python than this machine: {text} Install the same ones."
            ) from None
        raise WorkerError(
            f"can't reach {where}: {as_sentence(text)} Check the address (`ray://HOST:10001` by default) and that the "
            "cluster runs (`ray status` on its head); where it wants a token, set RAY_AUTH_TOKEN to what `ray "
            "get-auth-token` prints on its head. Without an address, `--on ray` uses this machine."
        ) from None


def _show_token() -> None:
    """Let Ray's client show the token that this user has; without it, clusters that `ray start` starts are silent.

    Elsewhere Ray does so by itself (https://docs.ray.io/en/latest/ray-security/token-auth.html). It reads the variable
    when it is imported.
    """
    tokens = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if tokens or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _find_here(ray: Any) -> str:
    """Return the address of the cluster that runs on this machine; _NEW if there is none, though one may have been."""
    with contextlib.suppress(OSError):
        if address := ray._private.utils.read_ray_address():
            _knock(address)
            return str(address)
    return _NEW


def _knock(address: str) -> None:
    """Raise OSError if nobody answers at HOST:PORT, or ray://HOST:PORT; Ray itself would try for minutes."""
    if found := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address):
        socket.create_connection((found[1], int(found[2])), _CONNECT_SECONDS).close()


@contextlib.contextmanager
def _without_secrets() -> Iterator[None]:
    """Hide the tracking server's address and password: the processes that Ray starts inherit the environment."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    for name in hidden:
        del os.environ[name]
    before = os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report each cluster to its makers
    try:
        yield
    finally:
        os.environ.update(hidden)
        os.environ["RAY_USAGE_STATS_ENABLED"] = before


def ray_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions of calls whose actor is lost or does not answer."""
    from ray.exceptions import RayError

    return RayError, ConnectionError


def explain_loss(error: BaseException, node: str, host: str, connection: Connection) -> tuple[str, str]:
    """Return the reason, as in records.FAILURE_REASONS, and in words why an actor is lost.

    Args:
        node: Ray's id; "": it had not started yet.
        host: the node's name.
    """
    where = f"node {host} ({node[:8]})"
    if getattr(error, "actor_init_failed", False):
        return "environment", f"a worker could not be started on the cluster: {_last_line(error)}"
    if not node:
        return "lost", f"the cluster ended a worker before it started: {_last_line(error)}"
    if getattr(error, "preempted", False):
        return "lost", f"{where} was preempted"
    if not connection.has_node(node):
        return "lost", f"{where} was lost"
    if "OutOfMemory" in type(error).__name__ or "running low on memory" in str(error):
        return "oom", f"Ray ended the worker because {where} was running out of memory"
    return "lost", f"the worker's Ray actor on {where} was ended; the node is still there"


def is_lasting(error: BaseException) -> bool:
    """Check whether another actor would fail in the same way."""
    return bool(getattr(error, "actor_init_failed", False))


def describe_code(code: dict[str, Any], understands: bool, host: str) -> str:
    """Return why a node's code can't train this driver's trials; "" if it is the same.

    Args:
        code: that trains there, as Code.to_json.
        understands: whether its executors are the same.
    """
    differences = code_differences(training_code(()), Code.from_json(code))
    differences += [] if understands or differences else ["cnnstudy"]
    if not differences:
        return ""
    more = f", and {len(differences) - _MOST_LISTED} more" if len(differences) > _MOST_LISTED else ""
    return (
        f"node {host} has other versions than this machine, so its results could not be compared: "
        f"{', '.join(differences[:_MOST_LISTED])}{more} (here -> there). Install the same ones on all nodes."
    )


def _last_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()


def _describe_node(node: dict[str, Any]) -> str:
    has, host = node["Resources"], node["NodeManagerHostname"]
    memory = format_size(int(has.get("memory", 0)))
    return f"{host}: {has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs, {memory} of memory"
