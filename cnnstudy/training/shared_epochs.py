"""First epochs that several trials have in common: trained once, and continued by all of them.

    the head's phase    of two-phase trials that differ only in later phases
    all epochs          of a finished trial, for one that has more epochs and otherwise is the same

The state after such epochs is cached under a content address of everything that the numbers so far depend on: the
specification, the source weights, the code, TensorFlow, the device and its threads. What the address leaves out is
checked when the state is written (no batch was split for lack of memory, no phase did without features because the disk
was full) or read (what was measured at equal updates). The file has the form of a checkpoint. A trial that finds no
state, or a broken one, trains from the start; two trials that train the same epochs do not wait for each other.
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
from cnnstudy.system.cache import (
    ABOUT,
    build_entry,
    content_address,
    entry_folder,
    entry_folders,
    try_lock,
    why_untrusted,
)
from cnnstudy.system.code_version import training_code
from cnnstudy.system.files import ChunkedWriter
from cnnstudy.training import checkpoints
from cnnstudy.training.checkpoints import READ_ERRORS, Checkpoint, TrialProgress
from cnnstudy.training.transfer import Phase

KIND, FILE = "prefixes", "state.npz"
#: Part of the address: raise it when the same state is written in a different form.
VERSION = 1
#: Bytes that all states may take in the cache, and the share of them that one state may take.
LIMIT, SHARE_OF_LIMIT = 2 << 30, 0.5
#: The share of the training time that writing a state may take.
WRITE_SHARE = 0.03
#: Bytes of the smallest state whose writing is timed.
MIN_TIMED_BYTES = 1_000_000
#: Fields and levels that change the training but are in the address in another form:
_LEFT_OUT = {
    *("epochs", "head_epochs"),  # as phases
    "weights_file",  # as the digest of the weights
    *("precision", "xla"),  # as their effect on this device
}
_LEFT_OUT_LEVELS = {  # as phases
    *("transfer", "backbone_learning_rate_multiplier", "discriminative", "unfreeze", "batch_norm"),
}
#: A point of the training: the index of a phase, and how many of its epochs are finished.
Place = tuple[int, int]


class _Disk:
    """The speed at which the cache's disk writes states."""

    def __init__(self) -> None:
        # half the speed measured on a busy machine, until the first state has been written
        self.bytes_per_second = 400e6

    def written(self, bytes_: int, seconds: float) -> None:
        """Record how long it took to write a state."""
        if bytes_ >= MIN_TIMED_BYTES:
            self.bytes_per_second = bytes_ / max(seconds, 1e-9)


#: One for the process.
disk = _Disk()


class SharedEpochs:
    """Finds and keeps the first epochs that one trial shares with others.

    `trained_as` is a content address of everything that the numbers of the trial's epochs depend on, except for its
    phases; "" if the trial shares none.

    Args:
        begun_with: a digest of the source weights that the trial starts from.
        computed_on: the result of devices.describe_device.
        tell: called with a message when something goes wrong.
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

    def find_states(self) -> Iterator[Checkpoint]:
        """Yield the states from which the trial can continue, the longest first; none of them is its last one."""
        cached = {folder.name for folder in entry_folders(KIND)} if self.trained_as else set()
        for at in self._places() if cached else ():
            addresses = [self.address(at)]
            if not at[1]:  # the start of a phase may be the end of another trial
                before = at[0] - 1
                addresses.append(self.address((before, self._phases[before].epochs)))
            for address in addresses:
                state = self._read(address, at) if address in cached else None
                if state is not None:
                    yield state

    def keep(
        self,
        at: Place,
        trained: float,
        bytes_: int,
        state: Callable[[str], tuple[TrialProgress, Mapping[str, np.ndarray]]],
    ) -> None:
        """Write the current state, unless it is cached already or writing it would take too long.

        Args:
            trained: seconds of training so far.
            bytes_: size of the state.
            state: returns the state for its address.
        """
        if not self.trained_as:
            return
        address = self.address(at)
        folder = entry_folder(KIND, address)
        if folder.is_dir():
            _mark_as_used(folder)
            return
        if bytes_ > SHARE_OF_LIMIT * LIMIT or bytes_ / disk.bytes_per_second > WRITE_SHARE * trained:
            return
        try:
            checkpoints.check_free_space(bytes_)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with try_lock(folder) as lock:
                if lock is None:  # another worker is writing it
                    return
            _make_room(LIMIT - bytes_)
            started = time.perf_counter()
            build_entry(KIND, address, lambda entry: self._write(entry, *state(address)))
            disk.written(bytes_, time.perf_counter() - started)
        except OSError as error:
            self._tell(f"can't share its first epochs with other trials: {error}")

    def address(self, at: Place) -> str:
        """Return the cache address of the state at that point: a digest of everything that its numbers depend on."""
        phase, done = at
        finished = [[one.epochs, *_describe(one)] for one in self._phases[:phase]]
        current = [done, *_describe(self._phases[phase])] if done else []
        return content_address([self.trained_as, finished, current])

    def _places(self) -> Iterator[Place]:
        """Yield the points from which the trial could continue, the last one first."""
        for number, phase in reversed(list(enumerate(self._phases))):
            yield from ((number, done) for done in range(phase.epochs - 1, 0, -1))
            if number:
                yield number, 0

    def _read(self, address: str, at: Place) -> Checkpoint | None:
        folder = entry_folder(KIND, address)
        try:
            if why := why_untrusted(folder):
                self._tell(why)
                return None
            found = checkpoints.read_checkpoint(folder / FILE)
            if (found.reached.address, found.reached.trained_as) != (address, self.trained_as):
                raise ValueError("it belongs to other trials")
        except READ_ERRORS as error:
            if folder.is_dir():  # otherwise another worker has just removed it to make room
                self._tell(
                    f"the epochs in {folder} can't be shared ({type(error).__name__}: {error}); the entry is removed"
                )
                checkpoints.remove_entry(folder)
            return None
        _mark_as_used(folder)
        start, records = found.reached.start, found.reached.records
        reached = replace(
            found.reached,
            phase=at[0],
            done=at[1],
            begun_with=self._begun_with,
            start=start and replace(start, replayed=False, shared=True),
            records=tuple(replace(record, replayed=False, shared=True) for record in records),
        )
        return _with_own_measurement(Checkpoint(reached, found.arrays), self._spec.equal_updates)

    def _write(self, entry: Path, reached: TrialProgress, arrays: Mapping[str, np.ndarray]) -> None:
        spec = self._spec
        about = f"{spec.architecture}, epochs 1 to {reached.epoch} of {spec.key} of study {spec.study}"
        (entry / ABOUT).write_text(about, encoding="utf-8", errors="replace")
        with ChunkedWriter(entry / FILE) as file:
            np.savez(file, allow_pickle=False, **checkpoints.serialize_checkpoint(reached, arrays))


def broken_reason(folder: Path) -> str:
    """Return why no trial can continue from the state; "" if one can."""
    try:
        if checkpoints.read_checkpoint(folder / FILE).reached.address != folder.name:
            return "it belongs to another address"
    except READ_ERRORS as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _trained_as(spec: TrialSpec, begun_with: str, computed_on: Mapping[str, str]) -> str:
    """Return SharedEpochs.trained_as of a trial."""
    fields = {name: value for name, value in spec.fields_that_change("training").items() if name not in _LEFT_OUT}
    fields["levels"] = {name: level for name, level in spec.levels.items() if name not in _LEFT_OUT_LEVELS}
    fields["micro_batch"] = spec.micro_batch  # batches split into other parts give slightly different numbers
    pixels = Path(spec.images.folder).name  # a content address too
    code = training_code((spec.architecture,), spec.fits_head).digest
    return content_address([VERSION, fields, pixels, begun_with, dict(computed_on), code])


def _with_own_measurement(state: Checkpoint, equal_updates: int | None) -> Checkpoint | None:
    """Return the state as if this trial had trained it, with its own number of equal updates.

    Returns:
        None if the measurement at that number is missing and the state is past it.
    """
    reached = state.reached
    if equal_updates == reached.equal_updates:
        return state
    if equal_updates is not None and equal_updates <= reached.updates:
        return None
    arrays = {name: array for name, array in state.arrays.items() if not name.startswith("equal updates/")}
    return Checkpoint(reached, arrays)


def _mark_as_used(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another worker has just removed it to make room
        os.utime(folder / FILE)


def _make_room(limit: int) -> None:
    """Remove the least recently used states until the others take no more than `limit` bytes."""
    entries = []
    for folder in entry_folders(KIND):
        with contextlib.suppress(OSError):  # another worker may be removing it too
            status = (folder / FILE).stat()
            entries.append((status.st_mtime, status.st_size, folder))
    total = sum(size for _, size, _ in entries)
    for _, size, folder in sorted(entries):
        if total <= limit:
            return
        checkpoints.remove_entry(folder)
        total -= size


def _describe(phase: Phase) -> list[object]:
    return [phase.backbone, phase.multiplier, phase.batch_norm, phase.discriminative, phase.fits_head]
