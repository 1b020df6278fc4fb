"""Files that outlive whatever is killed, so that a trial goes on where the last of them was written.

One file for each trial under way, in the cache under a content address of all that its numbers depend on: another
study, another setting, other code or another TensorFlow finds none. It is an .npz, read without pickle; its entry
`reached` is JSON, the others are arrays (resumption.py says of what). The one before stays until the next is whole.

    true           when a minute of training, and twenty times what writing took, have passed since the last one
    every-epoch    after every epoch
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnstudy.records import EpochRecord, TrialSpec
from cnnstudy.system.cache import ABOUT, build_entry, cache_folder, content_address, entry_folder, lock_for
from cnnstudy.system.code_version import training_code
from cnnstudy.system.files import ChunkedWriter

KIND = "checkpoints"
FILE, TRIAL = "checkpoint.npz", "trial.json"
#: Part of the address: raise it when the same state is written otherwise.
VERSION = 1
#: TrialSpec.checkpoints.
NONE, SPARING, EVERY_EPOCH = "none", "sparing", "every-epoch"
#: Sparing: seconds of training that are worth a checkpoint, and the share of the time that writing may take.
WORTH, SHARE = 60.0, 0.05
#: A checkpoint takes no more than this share of what is free on the disk: MLflow needs room too.
SHARE_OF_FREE = 0.25
#: What reading a broken file raises.
BROKEN = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Reached:
    """How far a trial is."""

    address: str
    begun_with: str  # digest of the source weights
    phase: int  # the one that goes on, from 0
    done: int  # epochs of that phase
    epoch: int
    updates: int
    images_seen: int
    seconds: float  # that it took so far
    best_epoch: int
    best_rank: tuple[float, ...]
    records: tuple[EpochRecord, ...]
    sources: tuple[tuple[str, str], ...]  # features.Source's `what` and `why` of each phase so far
    trained_as: str = ""  # prefixes.Prefixes' of all its epochs; "": not known, or not of all of them
    equal_updates: int | None = None  # the trial's
    computed_on: str = ""  # in words; "": not known


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds."""

    reached: Reached
    arrays: Mapping[str, np.ndarray]


class Checkpoints:
    """The checkpoints of one trial that is being trained.

    Args:
        begun_with: a digest of the source weights that the trial starts from.
        tell: told what does not go as it should.
        clock: tells seconds.
    """

    def __init__(
        self,
        spec: TrialSpec,
        begun_with: str,
        tell: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.address = checkpoint_address(spec) if spec.checkpoints != NONE else ""
        self.begun_with = begun_with
        self.notes: list[str] = []
        self._spec, self._tell, self._clock = spec, tell, clock
        self._started = self._last = clock()
        self._earlier = self._cost = 0.0

    @property
    def seconds_of_this_try(self) -> float:
        """That it took so far."""
        return self._clock() - self._started

    @property
    def seconds(self) -> float:
        """That the trial took so far, in all its tries."""
        return self._earlier + self.seconds_of_this_try

    @property
    def is_due(self) -> bool:
        """Whether the next one is to be written now."""
        if self._spec.checkpoints == EVERY_EPOCH:
            return True
        passed = self._clock() - self._last
        return self._spec.checkpoints == SPARING and passed >= max(WORTH, self._cost / SHARE)

    def read(self) -> Checkpoint | None:
        """The one that an earlier try left; None where there is none that can be used."""
        path = entry_folder(KIND, self.address) / FILE
        if not self.address or not path.exists():
            return None
        try:
            found = read_file(path)
        except BROKEN as error:
            self.note(f"the checkpoint {path} can't be read ({type(error).__name__}: {error})")
            return None
        if (found.reached.address, found.reached.begun_with) != (self.address, self.begun_with):
            self.note(f"the checkpoint {path} is of a trial that began with other weights or settings")
            return None
        return found

    def take_up(self, reached: Reached) -> None:
        """The trial goes on from there."""
        self._earlier = reached.seconds

    def write(self, reached: Reached, arrays: Mapping[str, np.ndarray]) -> None:
        """Write it in place of the one before; a disk that has no room for it is noted, and stops nothing."""
        started = self._clock()
        try:
            refuse_to_fill_the_disk(sum(array.nbytes for array in arrays.values()))
            _write(self._spec, reached, arrays)
        except OSError as error:
            self.note(f"no checkpoint could be written: {error}")
        self._last = self._clock()
        self._cost = self._last - started

    def note(self, text: str) -> None:
        """Say it, once."""
        if text not in self.notes:
            self.notes.append(text)
            self._tell(text)


def checkpoint_address(spec: TrialSpec) -> str:
    """Of the trial, by all that its numbers depend on."""
    asked = spec.fields_that_change("training", "record")
    return content_address([VERSION, asked, training_code((spec.architecture,)).digest])


def remove_checkpoint(spec: TrialSpec) -> None:
    """Remove the trial's checkpoint, if there is one: the trial has ended."""
    if spec.checkpoints != NONE:
        remove_entry(entry_folder(KIND, checkpoint_address(spec)))


def remove_entry(folder: Path) -> None:
    """Remove a checkpoint by its folder; nothing happens where it is gone already."""
    leaving = folder.with_name(f".{folder.name}-ended")
    shutil.rmtree(leaving, ignore_errors=True)  # left by one that was killed here
    with contextlib.suppress(OSError):
        folder.rename(leaving)  # whole or not there
    shutil.rmtree(leaving, ignore_errors=True)
    with contextlib.suppress(OSError):
        Path(lock_for(folder).lock_file).unlink()


def why_broken(folder: Path) -> str:
    """Why the checkpoint can't be gone on from; "" where it can."""
    try:
        read_file(folder / FILE)
        read_owner(folder)
    except BROKEN as error:
        return f"{type(error).__name__}: {error}"
    return ""


def read_owner(folder: Path) -> tuple[str, str]:
    """The study and the trial that a checkpoint is of.

    Raises:
        OSError, ValueError, KeyError: it does not say.
    """
    asked = json.loads((folder / TRIAL).read_text(encoding="utf-8"))
    return asked["study"], asked["key"]


def read_file(path: Path) -> Checkpoint:
    """What `contents_of` gave.

    Raises one of BROKEN where it can't be that.
    """
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:  # it leaves one that is broken open
        arrays = {name: file[name] for name in file.files}  # each with a checksum of its own
    given = json.loads(arrays.pop("reached").tobytes())
    given["records"] = tuple(map(EpochRecord.from_json, given["records"]))
    given["sources"] = tuple(map(tuple, given["sources"]))
    given["best_rank"] = tuple(given["best_rank"])
    return Checkpoint(Reached(**given), arrays)


def _write(spec: TrialSpec, reached: Reached, arrays: Mapping[str, np.ndarray]) -> None:
    contents, folder = serialize_checkpoint(reached, arrays), entry_folder(KIND, reached.address)

    def begin(entry: Path) -> None:
        about = f"{spec.key} of study {spec.study}, under way"
        (entry / ABOUT).write_text(about, encoding="utf-8", errors="replace")
        (entry / TRIAL).write_text(json.dumps({"study": spec.study, "key": spec.key}), encoding="utf-8")
        _replace(entry / FILE, contents)

    if folder.is_dir():
        _replace(folder / FILE, contents)
    else:
        build_entry(KIND, reached.address, begin)
        _flush(folder.parent)


def serialize_checkpoint(reached: Reached, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a file."""
    text = json.dumps(dataclasses.asdict(reached))
    return {**arrays, "reached": np.frombuffer(text.encode(), np.uint8)}


def _replace(path: Path, contents: Mapping[str, np.ndarray]) -> None:
    for left in path.parent.glob(".*.npz"):  # by a worker that was killed here
        left.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".npz", dir=path.parent)
    os.close(descriptor)
    try:
        with ChunkedWriter(Path(name)) as file:
            np.savez(file, allow_pickle=False, **contents)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    _flush(path.parent)


def _flush(folder: Path) -> None:
    """Let a new name in the folder outlive a power cut, where folders can be flushed."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def refuse_to_fill_the_disk(needed: int) -> None:
    """Raise OSError where so many bytes are too large a share of what is free."""
    folder = cache_folder()
    free = shutil.disk_usage(next(there for there in (folder, *folder.parents) if there.exists())).free
    if needed > SHARE_OF_FREE * free:
        raise OSError(f"it would take {needed / 1e6:.0f} MB, and {free / 1e6:.0f} are free in {folder}")
