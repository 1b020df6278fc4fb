"""Projects that were moved or copied: MLflow's database stores absolute places of files, which then lead elsewhere.

The files of an experiment lie in `mlruns/NAME` beside an SQLite database, and those of each run in a folder of the
run's id. A stored place is known to be outdated if such a folder lies beside the database and the place is another one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cnnstudy.errors import TrackingError
from cnnstudy.system.scratch import Scratch
from cnnstudy.tracking.sqlite import sqlite_file

FOLDER = "mlruns"
#: Where MLflow stores places: table and columns.
_STORED = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


@dataclass(frozen=True)
class Moved:
    """A database whose files lie beside it, and not where it says."""

    database: Path
    places: dict[str, str]  # of experiments, as stored -> as they should be

    def __str__(self) -> str:
        stored = next(iter(self.places))
        return f"{self.database} was moved or copied: it says that its files are in {stored}, and they are beside it"

    @property
    def earlier(self) -> set[Path]:
        """Return where the database was before."""
        folders = {folder.parent.parent for place in self.places if (folder := local_folder(place)) is not None}
        return {folder / self.database.name for folder in folders}


def find_moved(uri: str) -> Moved | None:
    """Return what is outdated in an SQLite database; None if nothing is, or it can't be read."""
    given = sqlite_file(uri)
    if given is None or not given.is_file():
        return None
    database = given.resolve()  # a link to a database is no copy of it
    try:
        with _open(database, "ro") as connection:
            stored = connection.execute(
                "SELECT e.artifact_location, r.run_uuid FROM experiments e JOIN runs r USING (experiment_id)"
            ).fetchall()
    except sqlite3.Error:
        return None
    places: dict[str, str] = {}
    for place, run in stored:
        folder = local_folder(place or "")
        if place in places or folder is None or folder.parent.name != FOLDER:
            continue
        beside = database.parent / FOLDER / folder.name
        if folder != beside and (beside / run).is_dir() and not (folder.exists() and folder.samefile(beside)):
            encoded = place.startswith("file:") or set("%#?") & set(str(beside))
            places[place] = beside.as_uri() if encoded else str(beside)
    return Moved(database, places) if places else None


def require_writable(uri: str) -> None:
    """Raise TrackingError if an SQLite database can't be written, or its files would go into another project."""
    if place := find_unwritable(uri):
        raise TrackingError(
            f"{place} can't be written, and results are recorded there. Make it writable, or choose another "
            "database with --tracking-uri."
        )
    if moved := find_moved(uri):
        raise TrackingError(
            f"{moved}. New files would go to the other place. `python -m cnnstudy doctor --repair` corrects every "
            "place that the database stores; then run the command again."
        )


def find_unwritable(uri: str) -> Path | None:
    """Return the SQLite database, its folder or that of its files, whichever can't be written; None if all can."""
    file = sqlite_file(uri)
    places = () if file is None else (file.resolve(), file.resolve().parent, file.resolve().parent / FOLDER)
    return next((place for place in places if place.exists() and not os.access(place, os.W_OK)), None)


def correct_places(moved: Moved) -> None:
    """Correct every place that the database stores, in one transaction.

    Raises:
        TrackingError: it can't be written; nothing is changed.
    """
    try:
        with _open(moved.database, "rw") as connection, connection:
            _correct(connection, moved)
    except sqlite3.Error as error:
        raise TrackingError(f"can't correct the places in {moved.database}: {error}") from error


def corrected_copy(moved: Moved) -> str:
    """Return the URI of a copy of the database with correct places, for commands that only read.

    It is removed when the process ends.
    """
    scratch = Scratch()
    atexit.register(scratch.close)
    copy = scratch.folder / "mlflow.db"
    with _open(moved.database, "ro") as connection:
        connection.execute("VACUUM INTO ?", [str(copy)])
    correct_places(Moved(copy, moved.places))
    return f"sqlite:///{copy}"


def local_folder(address: str) -> Path | None:
    """Return the folder of an artifact location; None if it is not on this machine's file system."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path)).absolute()
    return None if len(parts.scheme) > 1 else Path(address).absolute()  # a scheme of one letter is a Windows drive


@contextlib.contextmanager
def _open(database: Path, mode: str) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode={mode}", uri=True, timeout=30)) as connection:
        yield connection


def _correct(connection: sqlite3.Connection, moved: Moved) -> None:
    for table, columns in _STORED.items():
        known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        for column in known.intersection(columns):
            for old, new in moved.places.items():
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    [new, len(old) + 1, old, len(old) + 1, f"{old}/"],
                )
