"""A Ray cluster on this machine whose nodes have folders of their own, as other machines do."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

#: Bytes of each node's object store.
STORE = 100 * 2**20
#: A raylet that was killed is noticed within seconds.
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


class Nodes:
    """A cluster of a head without cores, and nodes with one core each.

    Args:
        folder: each node has its cache and its temporary files in a folder there.
        count: of nodes.
    """

    def __init__(self, folder: Path, count: int) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.nodes: list[Any] = []
        self._number = 0
        self._places: dict[str, Any] = {}
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE, "_system_config": QUICK}
        with without_tracking():
            self.cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(count):
            self.add()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self, hides_tracking: bool = True) -> Any:
        """Start another node and return it.

        Args:
            hides_tracking: as `ray start` is run; it changes the environment of this process meanwhile.
        """
        self._number += 1
        place = self.folder / f"node-{self._number}"
        (place / "temporary").mkdir(parents=True)
        variables = {"CNNSTUDY_CACHE": str(place / "cache"), "TMPDIR": str(place / "temporary")}
        with without_tracking() if hides_tracking else contextlib.nullcontext():
            node = self.cluster.add_node(num_cpus=1, object_store_memory=STORE, env_vars=variables)
        self._places[str(place / "cache")] = node
        self.nodes.append(node)
        return node

    def at(self, cache: str) -> Any:
        """The node with that cache, unless it was killed."""
        node = self._places.get(cache)
        return node if node in self.nodes else None

    def kill(self, node: Any) -> None:
        """Kill a node's raylet, with which the node is lost."""
        self.nodes.remove(node)
        (info,) = node.all_processes["raylet"]
        info.process.kill()
        info.process.wait()  # else it stays as a zombie, which its actors take for alive

    def actors(self) -> list[psutil.Process]:
        """The processes of slots on all nodes."""
        return [one for one in self.processes() if _command(one)[:1] and _command(one)[0].startswith("ray::NodeSlot")]

    def workers(self) -> list[psutil.Process]:
        """The worker processes on all nodes."""
        return [one for one in self.processes() if any(word.startswith("--folder=") for word in _command(one))]

    def processes(self) -> list[psutil.Process]:
        """All processes of the nodes, whose environment names their folders."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("CNNSTUDY_CACHE", "").startswith(f"{self.folder}/node-"):
                    found.append(process)
        return found

    def close(self) -> None:
        self.cluster.shutdown()
        for process in self.processes():  # of nodes that were killed
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextlib.contextmanager
def without_tracking() -> Iterator[None]:
    """Hide the tracking server from processes that are started: so `ray start` is run."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("MLFLOW_")}
    before = os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        yield
    finally:
        os.environ.update(hidden)
        os.environ["RAY_USAGE_STATS_ENABLED"] = before
