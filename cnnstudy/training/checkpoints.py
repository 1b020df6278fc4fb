"""Checkpoints, from which a trial that was killed continues.

Each running trial has one file in the cache, under a content address of everything that its numbers depend on: another
study, other settings, other code or another TensorFlow version never find it. The file is an .npz that is read without
pickle; its entry `reached` is JSON, and the others are arrays (see phases.py). Each checkpoint replaces the previous
one, which stays until the new one is complete.

training.checkpoints:

    true           a minute of training after the previous one, or 20 times what writing that one took if it is longer
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
from cnnstudy.system.cache import (
    ABOUT,
    build_entry,
    cache_folder,
    content_address,
    entry_folder,
    lock_for,
    why_untrusted,
)
from cnnstudy.system.code_version import training_code
from cnnstudy.system.files import ChunkedWriter

KIND = "checkpoints"
FILE, TRIAL = "checkpoint.npz", "trial.json"
#: Part of the address: raise it when the same state is written in a different form.
VERSION = 1
#: Values of TrialSpec.checkpoints.
NONE, SPARING, EVERY_EPOCH = "none", "sparing", "every-epoch"
#: SPARING: seconds of training between two checkpoints, and the share of the time that writing may take.
MIN_INTERVAL, WRITE_SHARE = 60.0, 0.05
#: The share of the free disk space that a checkpoint may take; MLflow needs space too.
SHARE_OF_FREE = 0.25
#: Exceptions that reading a broken file raises.
READ_ERRORS = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class TrialProgress:
    """The progress of a trial."""

    address: str
    begun_with: str  # digest of the source weights
    phase: int  # index of the current phase
    done: int  # finished epochs of that phase
    epoch: int
    updates: int
    images_seen: int
    seconds: float  # spent so far
    best_epoch: int
    best_rank: tuple[float, ...]
    records: tuple[EpochRecord, ...]
    sources: tuple[tuple[str, str], ...]  # `what` and `why` of the features.Source of each phase so far
    trained_as: str = ""  # SharedEpochs.trained_as, if the same for all epochs; "" otherwise, or if not known
    equal_updates: int | None = None  # TrialSpec.equal_updates
    computed_on: str = ""  # the device, in words; "" if not known
    start: EpochRecord | None = None  # epoch 0


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file."""

    reached: TrialProgress
    arrays: Mapping[str, np.ndarray]


class TrialCheckpoints:
    """Reads and writes the checkpoints of one running trial, and keeps its time.

    Args:
        begun_with: a digest of the source weights that the trial starts from.
        tell: called with a message when something goes wrong.
        clock: returns the time in seconds.
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
        self._started = self._last_write = clock()
        self._earlier_seconds = self._write_seconds = 0.0

    @property
    def seconds_of_this_attempt(self) -> float:
        """Seconds since this attempt started."""
        return self._clock() - self._started

    @property
    def seconds(self) -> float:
        """Seconds spent on the trial so far, in all its attempts."""
        return self._earlier_seconds + self.seconds_of_this_attempt

    @property
    def is_due(self) -> bool:
        """Whether it is time to write the next checkpoint."""
        if self._spec.checkpoints == EVERY_EPOCH:
            return True
        passed = self._clock() - self._last_write
        return self._spec.checkpoints == SPARING and passed >= max(MIN_INTERVAL, self._write_seconds / WRITE_SHARE)

    def read(self) -> Checkpoint | None:
        """Return the checkpoint that an earlier attempt left; None if there is none or it can't be used."""
        path = entry_folder(KIND, self.address) / FILE
        if not self.address or not path.exists():
            return None
        if why := why_untrusted(path.parent):
            self.note(why)
            return None
        try:
            checkpoint = read_checkpoint(path)
        except READ_ERRORS as error:
            self.note(f"the checkpoint {path} can't be read ({type(error).__name__}: {error})")
            return None
        if (checkpoint.reached.address, checkpoint.reached.begun_with) != (self.address, self.begun_with):
            self.note(f"the checkpoint {path} belongs to a trial that started with other weights or settings")
            return None
        return checkpoint

    def take_up(self, reached: TrialProgress) -> None:
        """Count the time of the earlier attempts: the trial continues from there."""
        self._earlier_seconds = reached.seconds

    def write(self, reached: TrialProgress, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a checkpoint in place of the previous one; if that fails, note it and let the trial continue."""
        started = self._clock()
        try:
            check_free_space(sum(array.nbytes for array in arrays.values()))
            _write_entry(self._spec, reached, arrays)
        except OSError as error:
            self.note(f"no checkpoint could be written: {error}")
        self._last_write = self._clock()
        self._write_seconds = self._last_write - started

    def note(self, text: str) -> None:
        """Report the message and add it to `notes`, once."""
        if text not in self.notes:
            self.notes.append(text)
            self._tell(text)


def checkpoint_address(spec: TrialSpec) -> str:
    """Return the cache address of the trial's checkpoint: a digest of everything that its numbers depend on."""
    fields = spec.fields_that_change("training", "record")
    # a machine on which the trial goes on has the weights elsewhere; `begun_with` says whether they are the same
    fields["weights_file"] = fields["weights_file"] and Path(str(fields["weights_file"])).name
    return content_address([VERSION, fields, training_code((spec.architecture,), spec.fits_head).digest])


def remove_checkpoint(spec: TrialSpec) -> None:
    """Remove the checkpoint of a trial that has ended; do nothing if there is none."""
    if spec.checkpoints != NONE:
        remove_entry(entry_folder(KIND, checkpoint_address(spec)))


def remove_entry(folder: Path) -> None:
    """Remove a checkpoint's folder; do nothing if it is gone already."""
    leaving = folder.with_name(f".{folder.name}-ended")
    shutil.rmtree(leaving, ignore_errors=True)  # left by a process that was killed here
    with contextlib.suppress(OSError):
        folder.rename(leaving)  # atomic: an entry is never incomplete
    shutil.rmtree(leaving, ignore_errors=True)
    with contextlib.suppress(OSError):
        Path(lock_for(folder).lock_file).unlink()


def find_epoch(address: str) -> int:
    """Return the epoch that a checkpoint on this machine has reached; -1 if there is none that can be read."""
    try:
        with np.load(entry_folder(KIND, address) / FILE, allow_pickle=False) as file:
            return int(json.loads(file["reached"].tobytes())["epoch"])
    except READ_ERRORS:
        return -1


def store_checkpoint(address: str, folder: Path) -> None:
    """Put a checkpoint that another machine wrote in the place of the one here.

    Args:
        folder: with the files of its entry, on the disk of the cache; they are moved.
    """
    entry = entry_folder(KIND, address)

    def move(building: Path) -> None:
        for name in (ABOUT, TRIAL, FILE):
            (folder / name).replace(building / name)

    if entry.is_dir():
        (folder / FILE).replace(entry / FILE)
    else:
        build_entry(KIND, address, move)


def broken_reason(folder: Path) -> str:
    """Return why no trial can continue from the checkpoint; "" if one can."""
    try:
        read_checkpoint(folder / FILE)
        read_owner(folder)
    except READ_ERRORS as error:
        return f"{type(error).__name__}: {error}"
    return ""


def read_owner(folder: Path) -> tuple[str, str]:
    """Return the names of the study and the trial to which a checkpoint belongs.

    Raises:
        OSError, ValueError, KeyError: they can't be read.
    """
    owner = json.loads((folder / TRIAL).read_text(encoding="utf-8"))
    return owner["study"], owner["key"]


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a file.

    Raises:
        one of BROKEN: it can't be read.
    """
    # given a path instead of a stream, np.load leaves a broken file open
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}  # checks each array's checksum
    given = json.loads(arrays.pop("reached").tobytes())
    given["records"] = tuple(map(EpochRecord.from_json, given["records"]))
    given["start"] = given["start"] and EpochRecord.from_json(given["start"])
    given["sources"] = tuple(map(tuple, given["sources"]))
    given["best_rank"] = tuple(given["best_rank"])
    return Checkpoint(TrialProgress(**given), arrays)


def _write_entry(spec: TrialSpec, reached: TrialProgress, arrays: Mapping[str, np.ndarray]) -> None:
    contents, folder = serialize_checkpoint(reached, arrays), entry_folder(KIND, reached.address)

    def build(entry: Path) -> None:
        about = f"{spec.key} of study {spec.study}, under way"
        (entry / ABOUT).write_text(about, encoding="utf-8", errors="replace")
        (entry / TRIAL).write_text(json.dumps({"study": spec.study, "key": spec.key}), encoding="utf-8")
        _replace_file(entry / FILE, contents)

    if folder.is_dir():
        _replace_file(folder / FILE, contents)
    else:
        build_entry(KIND, reached.address, build)
        _flush_folder(folder.parent)


def serialize_checkpoint(reached: TrialProgress, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of a checkpoint file."""
    text = json.dumps(dataclasses.asdict(reached))
    return {**arrays, "reached": np.frombuffer(text.encode(), np.uint8)}


def _replace_file(path: Path, contents: Mapping[str, np.ndarray]) -> None:
    for leftover in path.parent.glob(".*.npz"):  # of a worker that was killed while writing
        leftover.unlink(missing_ok=True)
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
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make new names in the folder survive a power failure, if the system can flush folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_free_space(needed: int) -> None:
    """Raise OSError if `needed` bytes are too large a share of the free disk space."""
    folder = cache_folder()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if needed > SHARE_OF_FREE * free:
        raise OSError(
            f"it would take {needed / 1e6:.0f} MB, more than {SHARE_OF_FREE:.0%} of the {free / 1e6:.0f} MB free in "
            f"{folder}"
        )
