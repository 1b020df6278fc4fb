"""What travels between the driver and other machines: entries of the cache and files, by content and in pieces.

A path means something on one machine only. On its way a job names a cache entry by kind and address, and any other file
as an entry of the kind `received` under the address of its content; the machine that gets the job puts its own paths in
their places. A parcel lists its files with their sizes and hashes, by which the receiver checks them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

from cnnstudy.errors import DataError, EnvironmentTrouble
from cnnstudy.execution import Job
from cnnstudy.system.cache import (
    SEAL,
    build_entry,
    cache_folder,
    content_address,
    entry_folder,
    is_intact,
    try_lock,
    why_damaged,
)
from cnnstudy.system.scratch import remove_tree

#: Bytes of a file that travel at once.
PIECE = 8 * 2**20
#: The kind of files that were not in the sender's cache: weights that a study file names.
RECEIVED = "received"
#: The folder of the cache with parcels that have not arrived completely.
INCOMING = "incoming"
#: How a place in the cache is named on its way.
_PREFIX = "cnnstudy-cache:"

#: Name relative to the parcel's folder -> bytes and XXH3 hash.
Files = dict[str, tuple[int, str]]
Translate = Callable[[str], str]


@dataclass(frozen=True)
class Parcel:
    """An entry of the cache, as it is to be on the other machine."""

    kind: str
    address: str
    files: Files

    @property
    def bytes(self) -> int:
        """Its size."""
        return sum(size for size, _ in self.files.values())


# ---- what a job needs


def pack_job(job: Job) -> tuple[Job, list[tuple[Parcel, Path]]]:
    """Return a trial's job without this machine's paths, and the parcels that it needs, each with its folder.

    Paths where nothing is stay as they are, so that the worker reports them.

    Raises:
        DataError: an entry of the cache is damaged.
    """
    parcels: dict[str, tuple[Parcel, Path]] = {}

    def name(path: str) -> str:
        if not Path(path).exists():
            return path
        entry, rest = _find_entry(Path(path))
        if entry is None:
            parcel, folder, rest = _wrap_file(Path(path))
        else:
            parcel, folder = _pack_entry(entry.parent.name, entry.name), entry
        parcels[f"{parcel.kind}/{parcel.address}"] = parcel, folder
        return f"{_PREFIX}{parcel.kind}/{parcel.address}/{rest}".rstrip("/")

    payload = _map_paths(job, name)
    architecture = str(payload.get("architecture") or payload.get("spec", {}).get("architecture") or "")
    address = content_address(architecture)  # of one's own network; others have no such entry
    if entry_folder("networks", address).is_dir():
        parcels[f"networks/{address}"] = _pack_entry("networks", address), entry_folder("networks", address)
    return dataclasses.replace(job, payload=payload), list(parcels.values())


def unpack_job(job: Job) -> Job:
    """Return a job that was packed elsewhere, with this machine's paths."""

    def find(name: str) -> str:
        return str(cache_folder() / name.removeprefix(_PREFIX)) if name.startswith(_PREFIX) else name

    return dataclasses.replace(job, payload=_map_paths(job, find))


def _map_paths(job: Job, translate: Translate) -> dict[str, Any]:
    """Return the payload of a job that trains, with its paths translated; others hold none that travel."""
    if job.kind == "measure_speed":
        return {**job.payload, "spec": _map_spec(job.payload["spec"], translate)}
    return _map_spec(job.payload, translate) if job.kind == "run_trial" else job.payload


def _map_spec(spec: dict[str, Any], translate: Translate) -> dict[str, Any]:
    if not isinstance(spec.get("images"), dict):  # a mistake, which the worker reports
        return spec
    paths = {name: translate(path) for name, path in spec["images"].items() if name in ("folder", "groups") and path}
    mapped = {**spec, "images": {**spec["images"], **paths}}
    return {**mapped, "weights_file": translate(spec["weights_file"])} if spec.get("weights_file") else mapped


def _find_entry(path: Path) -> tuple[Path | None, str]:
    """Return the entry of the cache that a path is in, and where in it."""
    try:
        kind, address, *rest = path.relative_to(cache_folder()).parts
    except ValueError:
        return None, ""
    found = entry_folder(kind, address) if re.fullmatch(r"[0-9a-f]{24}", address) else None
    return found, "/".join(rest)


def _pack_entry(kind: str, address: str) -> Parcel:
    folder = entry_folder(kind, address)
    if why := why_damaged(folder):
        raise DataError(
            f"the cache entry {folder} is damaged ({why}), so it was not sent to another machine. Remove it; the study "
            "makes it anew when it is run again."
        )
    return Parcel(kind, address, measure(folder))


def _wrap_file(path: Path) -> tuple[Parcel, Path, str]:
    ((size, digest),) = measure(path).values()
    files = {path.name: (size, digest)}
    return Parcel(RECEIVED, content_address([path.name, size, digest]), files), path.parent, path.name


# ---- files and pieces


def measure(path: Path) -> Files:
    """Return the files of a folder, or a single file, with their sizes and hashes; without the seal of an entry."""
    names = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    root, files = (path.parent if path.is_file() else path), Files()
    for one in names:
        if one != root / SEAL:
            with one.open("rb") as stream:
                digest = hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()
                files[one.relative_to(root).as_posix()] = stream.tell(), digest
    return files


def read_piece(folder: Path, name: str, offset: int) -> bytes:
    """Return the bytes of a file from there on, at most PIECE."""
    with (folder / name).open("rb") as stream:
        stream.seek(offset)
        return stream.read(PIECE)


class Arrival:
    """A folder into which files come in pieces; what has arrived stays there if the sender is interrupted.

    Args:
        folder: made on first use.
        files: that are to be in it.

    Raises:
        EnvironmentTrouble: a name leads out of the folder.
    """

    def __init__(self, folder: Path, files: Files) -> None:
        for name in files:
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or "\\" in name:
                raise EnvironmentTrouble(f"another machine sent a file named {name!r}, which leads out of its folder.")
        self.folder, self.files = folder, files

    def next_missing(self) -> tuple[str, int] | None:
        """Return the first file that is incomplete, and how many of its bytes are there; None: all are complete."""
        for name, (size, _) in self.files.items():
            path = self.folder / name
            there = path.stat().st_size if path.is_file() else -1
            if there > size:  # of an earlier state
                path.unlink()
                there = -1
            if there < size:
                return name, max(0, there)
        return None

    def add(self, name: str, offset: int, data: bytes) -> None:
        """Write a piece; one that comes twice is the same piece."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "wb") as stream:
            stream.seek(offset)
            stream.write(data)

    def find_altered(self) -> list[str]:
        """Return the complete files that are not what was sent, and remove them, so that they come again."""
        found = measure(self.folder)
        altered = [name for name, measures in self.files.items() if found.get(name) != tuple(measures)]
        for name in altered:
            (self.folder / name).unlink(missing_ok=True)
        return altered


class ArrivingEntry(Arrival):
    """An entry that comes into this machine's cache; it holds the lock of its unfinished files until it is closed.

    Attributes:
        is_ours: whether it has the lock; else another process receives the entry, and nothing can be done with this.
    """

    def __init__(self, parcel: Parcel) -> None:
        super().__init__(cache_folder() / INCOMING / f"{parcel.kind}-{parcel.address}", parcel.files)
        self.parcel = parcel
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._held = contextlib.ExitStack()
        self.is_ours = self._held.enter_context(try_lock(self.folder)) is not None

    @property
    def is_there(self) -> bool:
        """Whether the cache has the entry."""
        return is_intact(self.parcel.kind, self.parcel.address)

    def store(self) -> list[str]:
        """Put the entry into the cache; return the files that are not what was sent, which keep it out."""
        if altered := self.find_altered():
            return altered

        def move(entry: Path) -> None:
            for name in self.files:
                (entry / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).replace(entry / name)

        build_entry(self.parcel.kind, self.parcel.address, move)
        return []

    def close(self) -> None:
        """Give the lock back; what has arrived of an unfinished entry stays."""
        if self.is_ours and self.is_there:
            remove_tree(self.folder)
        self._held.close()


def name_files(files: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return a result's files as names relative to the folder of its worker; others stay as they are."""
    inside = {name: Path(path) for name, path in files.items() if folder in Path(path).parents}
    return {**files, **{name: path.relative_to(folder).as_posix() for name, path in inside.items()}}
