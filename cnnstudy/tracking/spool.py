"""Records on disk that MLflow has not taken yet: one folder a study, one JSON file a record, in order.

A record that is there is whole: it is written under another name, brought to the disk, and renamed. Its files lie
beside it. Nobody's password is in it: where MLflow is, the next call knows.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnstudy.errors import TrackingError, without_secrets
from cnnstudy.system.cache import cache_folder, content_address
from cnnstudy.system.files import hardlink_tree
from cnnstudy.system.processes import defer_interrupt
from cnnstudy.system.scratch import Scratch, is_held
from cnnstudy.tracking.sqlite import sqlite_file

#: Kept free for the last words: some hundred records without files.
RESERVE_BYTES = 1 << 20
_ABOUT, _RESERVE = "about.json", "reserve"


@dataclass
class Envelope:
    """One write on its way, as plain data: which of tracking/operations.py's, with what, and when it was meant."""

    what: str
    at: int  # milliseconds since 1970
    run: str  # MLflow's id of it, or the token of one that MLflow has not been seen to have
    arguments: dict[str, Any] = field(default_factory=dict)  # of JSON's types
    token: str = ""  # of what it makes: a run or a model that carries it is not made again
    files: Path | None = None  # a folder that is nobody else's
    number: int = 0  # in the spool, from 1; 0: not there
    kept: Path | None = None  # the folder that the record in the spool names


@dataclass(frozen=True)
class Waiting:
    """Records of a study that wait for MLflow."""

    study: str
    tracking: str  # without secrets
    records: int
    folder: Path


class Spool:
    """The folder of one study in one tracking store."""

    def __init__(self, study: str, uri: str) -> None:
        self._about = {"study": study, "tracking": _place(uri)}
        # two schemas of one database differ in the query alone, whose values are not shown
        query = "" if sqlite_file(uri) else uri.rpartition("@")[2].partition("?")[2]
        self.folder = _outbox() / content_address([self._about, query] if query else self._about)
        self._next = 1

    def reserve(self) -> None:
        """Make the folder, with room for what has to be said on a full disk.

        Raises:
            OSError: there is no room even for that.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._next = 1 + max((_number(path) for path in self.folder.glob("*.json")), default=0)
        _write(self.folder / _ABOUT, json.dumps(self._about).encode())
        if not (self.folder / _RESERVE).exists():
            _write(self.folder / _RESERVE, os.urandom(RESERVE_BYTES))

    def release(self) -> None:
        """Give up the room that was kept free; the folder too, where nothing is left in it."""
        with contextlib.suppress(OSError):
            (self.folder / _RESERVE).unlink(missing_ok=True)
            if not any(_number(path) for path in self.folder.glob("*.json")):
                shutil.rmtree(self.folder)

    def add(self, envelope: Envelope, in_use: bool = False) -> OSError | None:
        """Keep the record; the error where there was room only for the last words.

        Its files stay where they are then, and belong to the record all the same.

        Args:
            in_use: somebody is reading the files: they are to be where they are, too.

        Raises:
            OSError: there was no room for it at all.
        """
        with defer_interrupt():  # half a record would be taken for a whole one
            trouble = self._keep(envelope)
        if not in_use:
            self.forget(envelope)
            envelope.files = envelope.kept
        return trouble

    def _keep(self, envelope: Envelope) -> OSError | None:
        if not self.folder.is_dir():
            self.reserve()
        envelope.number, envelope.kept, trouble = self._next, envelope.files, None
        if envelope.files is not None:
            try:
                envelope.kept = self._take(envelope.files, envelope.number)
            except OSError as error:
                trouble = error
        try:
            trouble = self._write_record(envelope) or trouble
        except OSError:
            if envelope.kept is not None and envelope.kept != envelope.files:
                shutil.rmtree(envelope.kept, ignore_errors=True)
            envelope.number, envelope.kept = 0, None
            raise
        self._next += 1
        return trouble

    def remove(self, envelope: Envelope) -> None:
        """MLflow has it. What can't be removed is written once more by the next call, which changes nothing."""
        if envelope.number:
            with contextlib.suppress(OSError):
                self._path(envelope.number).unlink(missing_ok=True)
        for folder in filter(None, (envelope.files, envelope.kept)):
            shutil.rmtree(folder, ignore_errors=True)

    def forget(self, envelope: Envelope) -> None:
        """Remove the files that no record needs."""
        if envelope.files is not None and envelope.files != envelope.kept:
            shutil.rmtree(envelope.files, ignore_errors=True)

    def load(self) -> Iterator[Envelope]:
        """What an earlier call left, in order.

        Raises:
            TrackingError: a record that can't be read.
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
                    f"the record {path}, which an earlier call left for MLflow, can't be read ({error}); remove that "
                    "file to give it up."
                ) from error

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.json"

    def _write_record(self, envelope: Envelope) -> OSError | None:
        record = {**vars(envelope), "files": str(envelope.kept) if envelope.kept else None}
        del record["kept"]
        content = json.dumps(record).encode()
        try:
            _write(self._path(envelope.number), content)
        except OSError as error:
            (self.folder / _RESERVE).unlink(missing_ok=True)
            _write(self._path(envelope.number), content)
            return error
        return None

    def _take(self, files: Path, number: int) -> Path:
        """The files beside the record; they are linked, not copied, where that can be."""
        folder = self.folder / f"{number:08d}"
        shutil.rmtree(folder, ignore_errors=True)  # without a record: left by a driver that was killed
        try:
            folder.mkdir(mode=0o700)
            hardlink_tree(files, folder, durable=True)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder


def spool_folder_for(scratch: Scratch) -> Path:
    """A name for files of a record: in the temporary folder, for they may have to stay there, and a link costs nothing.

    Args:
        scratch: of the driver: while it is held, nobody removes them.
    """
    token = scratch.folder.name.removeprefix("cnnstudy-")
    return scratch.folder.with_name(f"cnnstudy-outbox-{token}-{secrets.token_hex(8)}")


def remove_abandoned_files() -> None:
    """Remove what drivers that were killed had set aside and no record names."""
    needed = set()
    for path in _outbox().glob("*/*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            needed.add(json.loads(path.read_text(encoding="utf-8")).get("files"))
    for folder in Path(tempfile.gettempdir()).glob("cnnstudy-outbox-*"):
        named = re.fullmatch(r"cnnstudy-outbox-([0-9a-f]{16})-[0-9a-f]{16}", folder.name)
        holder = folder.with_name(f"cnnstudy-{named[1]}") if named else None
        if holder is not None and str(folder) not in needed and not (holder.is_dir() and is_held(holder)):
            shutil.rmtree(folder, ignore_errors=True)


def waiting_for(study: str, uri: str) -> Waiting | None:
    """The records of the study in that store that wait."""
    place = Spool(study, uri).folder
    return next((one for one in waiting() if one.folder == place), None)


def waiting() -> list[Waiting]:
    """All studies with records that wait."""
    found = []
    for folder in sorted(_outbox().glob("*/")):
        records = sum(_number(path) > 0 for path in folder.glob("*.json"))
        with contextlib.suppress(OSError, ValueError):
            about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            found += [Waiting(about["study"], about["tracking"], records, folder)] if records else []
    return found


def _write(path: Path, content: bytes) -> None:
    """The whole file or none, that a power cut leaves too."""
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


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() else 0


def _outbox() -> Path:
    return cache_folder() / "outbox"


def _place(uri: str) -> str:
    """The same for all ways to write a database's file, and whoever's password is used."""
    file = sqlite_file(uri)
    return without_secrets(uri) if file is None else f"sqlite:///{file}"
