"""Beginnings of trials that other trials have too: trained once, and gone on from by all.

    the head's phase    of two-phase trials that differ in what comes after it
    all epochs          of a trial that trained them all, for one that has more of them and is else the same

The state after such a beginning lies in the cache under a content address of all that the numbers up to there depend
on: the specification, the source weights, the code, TensorFlow, the device and its threads. What is not in the address
is checked when the state is written (no batch was split for want of memory, no phase did without its features because
the disk was full) or read (what was measured at equal updates). It is a checkpoint's file. Whoever finds none, or one
that is broken, trains; two that train the same do not wait for each other.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cnnstudy.records import TrialSpec
from cnnstudy.system.cache import ABOUT, build_entry, content_address, entry_folder, entry_folders, try_lock
from cnnstudy.system.code_version import training_code
from cnnstudy.system.files import ChunkedWriter
from cnnstudy.training import checkpoints
from cnnstudy.training.checkpoints import BROKEN, Checkpoint, Reached
from cnnstudy.training.transfer import Phase

KIND, FILE = "prefixes", "state.npz"
#: Part of the address: raise it when the same state is written otherwise.
VERSION = 1
#: Bytes in the cache of all of them, those used longest ago go first; and the share of it that one may take.
LIMIT, SHARE_OF_LIMIT = 2 << 30, 0.5
#: Writing one takes no more than this share of the time that was trained.
SHARE = 0.03
#: Of fewer bytes the time to write them says nothing.
ENOUGH_TO_TIME = 1_000_000
#: What changes the training, and the address has in another form.
_LEFT_OUT = {
    *("epochs", "head_epochs"),  # the phases up to there
    "weights_file",  # what the trial began with
    *("precision", "xla"),  # what they come to on this device
}
_LEFT_OUT_LEVELS = {"transfer", "backbone_learning_rate_multiplier"}  # the phases
#: A phase (from 0), and how many of its epochs are done; 0: it is to be started.
Place = tuple[int, int]


class _Disk:
    """How fast it takes states."""

    def __init__(self) -> None:
        self.bytes_per_second = 400e6  # half of what was measured on a busy machine; then by the last one written

    def written(self, bytes_: int, seconds: float) -> None:
        if bytes_ >= ENOUGH_TO_TIME:
            self.bytes_per_second = bytes_ / max(seconds, 1e-9)


#: Of this process' cache.
disk = _Disk()


class SharedEpochs:
    """The beginnings that one trial may share.

    Args:
        begun_with: a digest of the source weights that the trial starts from.
        computed_on: devices.computed_on's.
        tell: told what does not go as it should.
    """

    def __init__(
        self,
        spec: TrialSpec,
        phases: Sequence[Phase],
        begun_with: str,
        computed_on: Mapping[str, str],
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.trained_as = _trained_as(spec, begun_with, computed_on) if spec.share_epochs else ""
        self._spec, self._phases, self._begun_with, self._tell = spec, phases, begun_with, tell

    def found(self) -> Iterator[Checkpoint]:
        """Those that the trial can go on from, the longest first; none of them is all of it."""
        there = {folder.name for folder in entry_folders(KIND)} if self.trained_as else set()
        for at in self._places() if there else ():
            addresses = [self.address(at)]
            if not at[1]:  # begun by a trial that ended there
                before = at[0] - 1
                addresses.append(self.address((before, self._phases[before].epochs)))
            for address in addresses:
                state = self._read(address, at) if address in there else None
                if state is not None:
                    yield state

    def keep(
        self,
        at: Place,
        trained: float,
        bytes_: int,
        state: Callable[[str], tuple[Reached, Mapping[str, np.ndarray]]],
    ) -> None:
        """Write the state of this moment, if that is worth its time and there is none.

        Args:
            trained: seconds so far.
            bytes_: that the state takes.
            state: makes it, given its address.
        """
        if not self.trained_as:
            return
        address = self.address(at)
        folder = entry_folder(KIND, address)
        if folder.is_dir():
            _mark_as_used(folder)
            return
        if bytes_ > SHARE_OF_LIMIT * LIMIT or bytes_ / disk.bytes_per_second > SHARE * trained:
            return
        try:
            checkpoints.refuse_to_fill_the_disk(bytes_)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with try_lock(folder) as lock:
                if lock is None:  # another worker is about the same
                    return
            _make_room(LIMIT - bytes_)
            started = time.perf_counter()
            build_entry(KIND, address, lambda entry: self._write(entry, *state(address)))
            disk.written(bytes_, time.perf_counter() - started)
        except OSError as error:
            self._tell(f"its first epochs can't be kept for other trials: {error}")

    def address(self, at: Place) -> str:
        """Of the state there, by all that its numbers depend on."""
        phase, done = at
        before = [[one.epochs, one.backbone, one.multiplier] for one in self._phases[:phase]]
        now = [done, self._phases[phase].backbone, self._phases[phase].multiplier] if done else []
        return content_address([self.trained_as, before, now])

    def _places(self) -> Iterator[Place]:
        """Where the trial can go on, the last first."""
        for number, phase in reversed(list(enumerate(self._phases))):
            yield from ((number, done) for done in range(phase.epochs - 1, 0, -1))
            if number:
                yield number, 0

    def _read(self, address: str, at: Place) -> Checkpoint | None:
        folder = entry_folder(KIND, address)
        try:
            found = checkpoints.read_file(folder / FILE)
            if (found.reached.address, found.reached.trained_as) != (address, self.trained_as):
                raise ValueError("it is of other trials")
        except BROKEN as error:
            if folder.is_dir():  # else another worker made room in this very moment
                self._tell(f"the epochs in {folder} can't be shared ({type(error).__name__}: {error}); it is removed")
                checkpoints.remove_entry(folder)
            return None
        _mark_as_used(folder)
        records = tuple(replace(record, replayed=False, shared=True) for record in found.reached.records)
        reached = replace(found.reached, phase=at[0], done=at[1], begun_with=self._begun_with, records=records)
        return _as_measured(Checkpoint(reached, found.arrays), self._spec.equal_updates)

    def _write(self, entry: Path, reached: Reached, arrays: Mapping[str, np.ndarray]) -> None:
        spec = self._spec
        about = f"{spec.architecture}, epochs 1 to {reached.epoch} of {spec.key} of study {spec.study}"
        (entry / ABOUT).write_text(about, encoding="utf-8", errors="replace")
        with ChunkedWriter(entry / FILE) as file:
            np.savez(file, allow_pickle=False, **checkpoints.serialize_checkpoint(reached, arrays))


def why_broken(folder: Path) -> str:
    """Why the beginning can't be gone on from; "" where it can."""
    try:
        if checkpoints.read_file(folder / FILE).reached.address != folder.name:
            return "it is of another address"
    except BROKEN as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _trained_as(spec: TrialSpec, begun_with: str, computed_on: Mapping[str, str]) -> str:
    """A content address of all that the numbers of the trial's epochs depend on, but for its phases."""
    asked = {name: value for name, value in spec.fields_that_change("training").items() if name not in _LEFT_OUT}
    asked["levels"] = {name: level for name, level in spec.levels.items() if name not in _LEFT_OUT_LEVELS}
    asked["micro_batch"] = spec.micro_batch  # equal to the last bit are only those that begin with the same parts
    pixels = Path(spec.images.folder).name  # a content address too
    code = training_code((spec.architecture,)).digest
    return content_address([VERSION, asked, pixels, begun_with, dict(computed_on), code])


def _as_measured(found: Checkpoint, equal_updates: int | None) -> Checkpoint | None:
    """With what the trial itself would have measured at equal updates; None where it was not measured, and is over."""
    reached = found.reached
    if equal_updates == reached.equal_updates:
        return found
    if equal_updates is not None and equal_updates <= reached.updates:
        return None
    arrays = {name: array for name, array in found.arrays.items() if not name.startswith("equal updates/")}
    return Checkpoint(reached, arrays)


def _mark_as_used(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another worker made room in this very moment
        os.utime(folder / FILE)


def _make_room(limit: int) -> None:
    """Remove those that were used longest ago, until the others take no more than `limit` bytes."""
    entries = []
    for folder in entry_folders(KIND):
        with contextlib.suppress(OSError):  # another worker may be about the same
            status = (folder / FILE).stat()
            entries.append((status.st_mtime, status.st_size, folder))
    total = sum(size for _, size, _ in entries)
    for _, size, folder in sorted(entries):
        if total <= limit:
            return
        checkpoints.remove_entry(folder)
        total -= size
