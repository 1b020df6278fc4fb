"""MLflow's SQLite database: find its file, check it, create it atomically, and keep its queries fast.

MLflow takes seconds to create its tables, one after the other; killed meanwhile it would leave a database that it can
neither use nor complete.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import sqlite3
from collections.abc import Callable
from functools import cache
from pathlib import Path

from cnnstudy.errors import TrackingError
from cnnstudy.system.cache import lock_for
from cnnstudy.system.scratch import scratch_folder

#: Rows of each index that SQLite samples for its statistics: takes 10 ms, however large the index.
_SAMPLED_ROWS = 400


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a database `sqlite:///...`; None for any other URI."""
    name = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(name).absolute() if uri.startswith("sqlite:///") and name not in ("", ":memory:") else None


def check_schema(uri: str) -> None:
    """Check that the installed MLflow can use an SQLite database as it is; MLflow would convert it without a word.

    Raises:
        TrackingError: another version of MLflow, or another program, has made it, or has removed a part of it.
    """
    path = sqlite_file(uri)
    if path is None or not path.is_file():
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            rows = database.execute("SELECT version_num FROM alembic_version") if "alembic_version" in tables else ()
            found = next(iter(rows), ("",))[0]
            lack = _find_lack(database) if found and found == _list_schemas()[1] else ""
    except sqlite3.Error:  # MLflow says it, or waits for a lock
        return
    if tables and "experiments" not in tables:
        raise TrackingError(
            f"{path} is a database, but not MLflow's: it has the tables {', '.join(sorted(tables)[:5])}. Give another "
            "with --tracking-uri."
        )
    if lack:
        raise TrackingError(
            f"{path} lacks {lack}, which MLflow needs: it is damaged, or another program has changed it. MLflow would "
            "make it anew, empty. Restore the database from a copy."
        )
    if found and (text := describe_schema(str(path), f"sqlite:///{path}", found)):
        raise TrackingError(text)


def describe_schema(database: str, uri: str, found: str) -> str:
    """Say what to do about a database's schema; "" if it is the one of the installed MLflow, or that can't be told."""
    known, latest = _list_schemas()
    version = importlib.metadata.version("mlflow")
    if not latest or found == latest:
        return ""
    if found in known:
        return (
            f"{database} was written by an older MLflow (schema {found}). MLflow {version}, which is installed, needs "
            f"schema {latest}; older versions can't read the database after that. Keep a copy of {database}, convert "
            f"it with `mlflow db upgrade {uri}`, and run the command again."
        )
    return (
        f"{database} was written by a newer MLflow: MLflow {version}, which is installed, does not know its schema "
        f"{found}. Install that version, or choose another database with --tracking-uri."
    )


def _find_lack(database: sqlite3.Connection) -> str:
    """Return the first table or column that the installed MLflow needs and the database lacks; "" if it has all."""
    from mlflow.store.db.base_sql_model import Base

    for table, needed in sorted(Base.metadata.tables.items()):
        columns = {row[1] for row in database.execute(f"PRAGMA table_xinfo('{table}')")}
        if not columns:
            return f"the table {table}"
        if lacking := sorted({column.name for column in needed.columns} - columns):
            return f"the column {lacking[0]} of the table {table}"
    return ""


@cache
def _list_schemas() -> tuple[set[str], str]:
    """Return the schemas that the installed MLflow can convert, and the one that it uses; "" if that can't be told."""
    spec = importlib.util.find_spec("mlflow")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "store" / "db_migrations" / "versions"
    texts = [file.read_text(encoding="utf-8") for file in folder.glob("*.py")]
    known = {match[1] for text in texts if (match := re.search(r'^revision = "(\w+)"', text, re.MULTILINE))}
    before = {match[1] for text in texts if (match := re.search(r'^down_revision = "(\w+)"', text, re.MULTILINE))}
    latest = known - before
    return known, latest.pop() if len(latest) == 1 else ""


def create_database(uri: str, make: Callable[[str], object]) -> None:
    """Create the database atomically if it is an SQLite file that does not exist, in a folder that does.

    Args:
        make: creates a database at the URI that it is given.

    Raises:
        OSError: the database can't be written.
    """
    path = sqlite_file(uri)
    if path is None or path.exists() or not path.parent.is_dir():
        return
    new = path.with_name(f".{path.name}-new")
    with lock_for(new) as lock:
        if not path.exists():  # another process may have created it meanwhile
            with scratch_folder() as folder:
                scratch = folder / "new.db"
                make(f"sqlite:///{scratch}")
                new.unlink(missing_ok=True)  # left by a process that was killed
                with contextlib.closing(sqlite3.connect(scratch)) as source:
                    source.execute("VACUUM INTO ?", [str(new)])
            os.replace(new, path)
    Path(lock.lock_file).unlink(missing_ok=True)


def analyze_metrics(uri: str) -> None:
    """Update SQLite's statistics of the metrics table; do nothing if the database can't be written now.

    Without statistics SQLite reads a metric's history by an index over all runs, which takes 40 times as long in a
    study of 4,000 trials.
    """
    path = sqlite_file(uri)
    if path is None:
        return
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=0)) as database,
        database,
    ):
        database.execute(f"PRAGMA analysis_limit = {_SAMPLED_ROWS}")
        database.execute("ANALYZE metrics")
