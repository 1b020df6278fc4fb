"""Records on disk that MLflow does not have yet: a folder for each study, a numbered JSON file for each record.

Records are written atomically: under another name, synced to disk, then renamed. A record's files are in a folder
beside it. Records contain no password: the next run gets the tracking URI from its user.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cnnstudy.errors import TrackingError, without_secrets
from cnnstudy.system.cache import cache_folder, content_address
from cnnstudy.system.files import hardlink_tree
from cnnstudy.system.processes import defer_interrupt
from cnnstudy.system.scratch import Scratch, is_held
from cnnstudy.tracking.sqlite import sqlite_file

#: Disk space reserved for final records on a full disk: enough for about a hundred without files.
RESERVE_BYTES = 1 << 20
_DESCRIPTION_FILE, _RESERVE_FILE = "about.json", "reserve"


@dataclass
class Envelope:
    """One write to MLflow, as plain data: an operation of tracking/operations.py, its arguments and its time."""

    what: str  # the operation's name on disk
    at: int  # milliseconds since 1970
    run: str  # the run's id, or the token of a run that MLflow may not have yet
    arguments: dict[str, Any] = field(default_factory=dict)  # in JSON types
    token: str = ""  # tag of the run or model that it creates: one with this tag is not created again
    files: Path | None = None  # a folder that only this record uses
    number: int = 0  # in the spool, from 1; 0: not in the spool
    kept: Path | None = None  # the folder that the record in the spool names


@dataclass(frozen=True)
class WaitingRecords:
    """A study whose records are waiting for MLflow."""

    study: str
    tracking: str  # without secrets
    records: int
    folder: Path


class Spool:
    """The folder of records for one study in one tracking store."""

    def __init__(self, study: str, uri: str) -> None:
        self._description = {"study": study, "tracking": _database_address(uri)}
        # two schemas of one database differ only in the query, which `tracking` leaves out
        query = "" if sqlite_file(uri) else uri.rpartition("@")[2].partition("?")[2]
        self.folder = _outbox_folder() / content_address([self._description, query] if query else self._description)
        self._next = 1
        self._aside: Path | None = None  # where records were set aside

    def reserve(self) -> None:
        """Create the folder, and reserve disk space for final records on a full disk.

        Raises:
            OSError: there is no space for that.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._next = 1 + max((_number(path) for path in self.folder.glob("*.json")), default=0)
        _write(self.folder / _DESCRIPTION_FILE, json.dumps(self._description).encode())
        if not (self.folder / _RESERVE_FILE).exists():
            _write(self.folder / _RESERVE_FILE, os.urandom(RESERVE_BYTES))

    def release(self) -> None:
        """Free the reserved disk space; remove the folder if it holds no records."""
        with contextlib.suppress(OSError):
            (self.folder / _RESERVE_FILE).unlink(missing_ok=True)
            if not any(_number(path) for path in self.folder.glob("*.json")):
                shutil.rmtree(self.folder)

    def add(self, envelope: Envelope, in_use: bool = False) -> OSError | None:
        """Store the record with its files.

        Args:
            in_use: the files are being read: store them, but leave the originals where they are.

        Returns:
            An error if the disk is full and the record took reserved space, or its files had to stay where they are;
            it refers to them there. Otherwise None.

        Raises:
            OSError: there is no space for the record at all.
        """
        with defer_interrupt():  # else an incomplete record would be taken for a complete one
            problem = self._store(envelope)
        if not in_use:
            self.forget(envelope)
            envelope.files = envelope.kept
        return problem

    def _store(self, envelope: Envelope) -> OSError | None:
        if not self.folder.is_dir():
            self.reserve()
        envelope.number, envelope.kept, problem = self._next, envelope.files, None
        if envelope.files is not None:
            try:
                envelope.kept = self._store_files(envelope.files, envelope.number)
            except OSError as error:
                problem = error
        try:
            problem = self._write_record(envelope) or problem
        except OSError:
            if envelope.kept is not None and envelope.kept != envelope.files:
                shutil.rmtree(envelope.kept, ignore_errors=True)
            envelope.number, envelope.kept = 0, None
            raise
        self._next += 1
        return problem

    def remove(self, envelope: Envelope) -> None:
        """Remove a record that MLflow has, with its files; one that can't be removed is sent again, without effect."""
        if envelope.number:
            with contextlib.suppress(OSError):
                self._path(envelope.number).unlink(missing_ok=True)
        for folder in filter(None, (envelope.files, envelope.kept)):
            shutil.rmtree(folder, ignore_errors=True)

    def forget(self, envelope: Envelope) -> None:
        """Remove the original files if the record has its own."""
        if envelope.files is not None and envelope.files != envelope.kept:
            shutil.rmtree(envelope.files, ignore_errors=True)

    def set_aside(self, envelope: Envelope) -> Path:
        """Move a stored record, with its files, to a folder from which nothing is sent; return that folder.

        Moved back from there, it is sent.

        Raises:
            OSError: there is no space for that.
        """
        if self._aside is None:
            places = (_aside_folder() / f"{self.folder.name}-{number}" for number in itertools.count(1))
            self._aside = next(place for place in places if not place.exists())
            self._aside.mkdir(parents=True)
            _write(self._aside / _DESCRIPTION_FILE, json.dumps(self._description).encode())
        record = self._path(envelope.number)
        if envelope.kept is not None:
            (self._aside / record.stem).mkdir(mode=0o700)
            hardlink_tree(envelope.kept, self._aside / record.stem, durable=True)
        files = None if envelope.kept is None else record.with_suffix("")
        _write(self._aside / record.name, _to_json(envelope, files))
        self.remove(envelope)
        return self._aside

    def take_over(self, other: Spool) -> int:
        """Move another spool's records behind those of this one; return their number.

        Raises:
            OSError: there is no space for that.
            TrackingError: a record can't be read.
        """
        records = list(other.load())
        self.reserve()
        for envelope in records:
            self.add(replace(envelope, number=0, kept=None))
            other.remove(envelope)
        for spool in (other, self):
            spool.release()
        return len(records)

    def load(self) -> Iterator[Envelope]:
        """Yield the stored records in order.

        Raises:
            TrackingError: a record can't be read.
        """
        for path in sorted(self.folder.glob("*.json"), key=_number):
            if not _number(path):
                continue
            try:
                values = json.loads(path.read_text(encoding="utf-8"))
                files = Path(values["files"]) if values["files"] else None
                if files is not None and not files.is_dir():
                    raise FileNotFoundError(f"its files in {files} are gone")
                yield Envelope(**{**values, "files": files, "kept": files})
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise TrackingError(
                    f"the record {path}, stored for MLflow by an earlier run, can't be read ({error}); delete that "
                    "file to discard the record."
                ) from error

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.json"

    def _write_record(self, envelope: Envelope) -> OSError | None:
        content = _to_json(envelope, envelope.kept)
        try:
            _write(self._path(envelope.number), content)
        except OSError as error:
            (self.folder / _RESERVE_FILE).unlink(missing_ok=True)
            _write(self._path(envelope.number), content)
            return error
        return None

    def _store_files(self, files: Path, number: int) -> Path:
        """Copy the files beside the record, as hard links where possible; return their folder."""
        folder = self.folder / f"{number:08d}"
        shutil.rmtree(folder, ignore_errors=True)  # a driver that was killed may have left it without a record
        try:
            folder.mkdir(mode=0o700)
            hardlink_tree(files, folder, durable=True)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder


def spool_folder_for(scratch: Scratch) -> Path:
    """Return a new path in the temporary folder for the files of a record.

    They may have to stay there, and hard links from there cost no space.

    Args:
        scratch: the driver's: while it is held, `remove_abandoned_files` leaves the files alone.
    """
    token = scratch.folder.name.removeprefix("cnnstudy-")
    return scratch.folder.with_name(f"cnnstudy-outbox-{token}-{secrets.token_hex(8)}")


def remove_abandoned_files() -> None:
    """Remove files of killed drivers in the temporary folder that no record names."""
    in_use = set()
    for path in _outbox_folder().glob("*/*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            in_use.add(json.loads(path.read_text(encoding="utf-8")).get("files"))
    for folder in Path(tempfile.gettempdir()).glob("cnnstudy-outbox-*"):
        match = re.fullmatch(r"cnnstudy-outbox-([0-9a-f]{16})-[0-9a-f]{16}", folder.name)
        holder = folder.with_name(f"cnnstudy-{match[1]}") if match else None
        if holder is not None and str(folder) not in in_use and not (holder.is_dir() and is_held(holder)):
            shutil.rmtree(folder, ignore_errors=True)


def find_waiting(uri: str) -> dict[str, WaitingRecords]:
    """Return the records that are waiting for that store, by study."""
    return {entry.study: entry for entry in list_waiting() if entry.folder == Spool(entry.study, uri).folder}


def list_waiting() -> list[WaitingRecords]:
    """Return every study with records that are waiting for MLflow."""
    studies = []
    for folder in sorted(_outbox_folder().glob("*/")):
        records = sum(_number(path) > 0 for path in folder.glob("*.json"))
        with contextlib.suppress(OSError, ValueError):
            description = json.loads((folder / _DESCRIPTION_FILE).read_text(encoding="utf-8"))
            if records:
                studies.append(WaitingRecords(description["study"], description["tracking"], records, folder))
    return studies


def _write(path: Path, content: bytes) -> None:
    """Write the file atomically, so that even a power failure leaves all of it or nothing."""
    temporary = path.with_name(f".{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _to_json(envelope: Envelope, files: Path | None) -> bytes:
    """Return the record as it is stored, with its files in that folder."""
    record = {**vars(envelope), "files": str(files) if files else None}
    del record["kept"]
    return json.dumps(record).encode()


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() else 0


def _outbox_folder() -> Path:
    return cache_folder() / "outbox"


def _aside_folder() -> Path:
    return cache_folder() / "outbox-set-aside"


def _database_address(uri: str) -> str:
    """Return the URI without secrets; an SQLite file's path absolute and without options."""
    file = sqlite_file(uri)
    return without_secrets(uri) if file is None else f"sqlite:///{file}"
