"""Which files the nodes of a cluster have, and the checkpoints that come from them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

from cnnstudy.execution import Job
from cnnstudy.execution.parcels import INCOMING, Arrival
from cnnstudy.system.cache import cache_folder, content_address
from cnnstudy.system.scratch import remove_tree
from cnnstudy.training import checkpoints


class Holder(Protocol):
    """A slot of a node that has files."""

    is_lost: bool

    @property
    def node(self) -> str:
        """Ray's id of the node."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Call the slot's actor and wait."""

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call the slot's actor, and return what another call can take for its result."""


class NodeFiles:
    """What the slots of an executor know together: the entries that nodes have, and who can pass them on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sending: dict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)  # by node and entry
        self._there: set[tuple[str, str]] = set()
        self._made: dict[str, dict[str, Holder]] = defaultdict(dict)  # likeness of trials -> entry -> a slot

    def sending(self, node: str, entry: str) -> threading.Lock:
        """Return the lock of the slot that sends an entry to a node."""
        with self._lock:
            return self._sending[node, entry]

    def has(self, node: str, entry: str) -> bool:
        """Check whether the node is known to have the entry."""
        with self._lock:
            return (node, entry) in self._there

    def note_sent(self, node: str, entry: str) -> None:
        """Note that the node has the entry."""
        with self._lock:
            self._there.add((node, entry))

    def forget(self, node: str, entry: str = "") -> None:
        """Note that the node may have lost that entry, or all."""
        with self._lock:
            self._there = {one for one in self._there if one[0] != node or (entry and one[1] != entry)}

    def note_made(self, likeness: str, entry: str, slot: Holder) -> None:
        """Note that a trial on the slot's node made an entry, which trials like it can use."""
        with self._lock:
            self._made[likeness][entry] = slot
            self._there.add((slot.node, entry))

    def find_made(self, likeness: str) -> list[tuple[str, Holder]]:
        """Return the entries that such trials have made, each with a slot of a node that has it."""
        with self._lock:
            return list(self._made[likeness].items())


def describe_likeness(job: Job) -> str:
    """Return a digest that trials have in common whose frozen layers may have the same outputs; "" of other jobs."""
    if job.kind != "run_trial" or not isinstance(job.payload.get("images"), dict):
        return ""
    spec, levels = job.payload, job.payload.get("levels") or {}
    images = [spec["images"].get(name) for name in ("digest", "size")]
    return content_address(
        [spec.get("architecture"), spec.get("weights_file"), spec.get("block"), images, levels.get("transfer")]
    )


class CheckpointFetch:
    """Brings the running trial's checkpoint here, piece by piece.

    Args:
        call: calls the trial's actor.
        address: of the checkpoint.
    """

    _numbers = iter(range(1, 2**62))

    def __init__(self, call: Callable[..., Any], address: str) -> None:
        self._call, self._address = call, address
        self._place = f"checkpoint-{next(self._numbers)}"
        folder = cache_folder() / INCOMING / f"{checkpoints.KIND}-{address}-{self._place}"
        self._arrival = Arrival(folder, call("copy_checkpoint", self._place))

    def go_on(self) -> bool:
        """Fetch the next piece; return whether the checkpoint is complete, and in the cache."""
        missing = self._arrival.next_missing()
        if missing is not None:
            self._arrival.add(*missing, self._call("read", self._place, *missing))
            return False
        if self._arrival.find_altered():
            return False
        checkpoints.store_checkpoint(self._address, self._arrival.folder)
        self.close()
        return True

    def close(self) -> None:
        """Remove what is left of it, here and on the node."""
        remove_tree(self._arrival.folder)
        self._call("remove", self._place)
