"""Read the runs of a large study straight from MLflow's SQLite database.

MLflow itself makes an object of SQLAlchemy's for every tag, parameter and metric: 10,000 trials have half a million.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections import defaultdict

from mlflow.entities import RunInfo
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from cnnstudy.names import Metric
from cnnstudy.tracking.entities import StoredRun
from cnnstudy.tracking.shown_names import own_metric, own_tags
from cnnstudy.tracking.sqlite import sqlite_file

#: Smaller studies are read with MLflow, which takes less than a second.
MANY = 500
_ACTIVE = "FROM runs WHERE experiment_id = ? AND lifecycle_stage = 'active'"


class LargeStudyReader:
    """Reads the runs of large studies and their metrics; answers None where MLflow is to be asked.

    That is where the runs are few, not in an SQLite file, or can't be read now.
    """

    def __init__(self, uri: str) -> None:
        self._path = sqlite_file(uri)
        self._lock = threading.Lock()  # guards the connection
        self._database: sqlite3.Connection | None = None  # since runs were read; the file may be another one later

    def find_runs(self, experiment_id: str) -> list[StoredRun] | None:
        """Return the experiment's runs as MLflow's search does, oldest first."""
        with self._lock:
            self._close()
            if self._path is None or not self._path.is_file():
                return None
            try:
                self._database = sqlite3.connect(
                    f"{self._path.as_uri()}?mode=ro", uri=True, timeout=5, isolation_level=None, check_same_thread=False
                )
                self._database.execute("BEGIN")  # what is read is of one moment
                ((count,),) = self._database.execute(f"SELECT count(*) {_ACTIVE}", [experiment_id])
                found = _read(self._database, experiment_id) if count >= MANY else None
                self._database.execute("COMMIT")
            except sqlite3.Error:
                found = None
            if found is None:
                self._close()
            return found

    def find_history(self, run_id: str, key: str) -> dict[int, float] | None:
        """Return a metric's values by step, as MLflow's history has them."""
        with self._lock:
            if self._database is None:
                return None
            try:
                rows = self._database.execute(
                    "SELECT step, value, is_nan FROM metrics WHERE run_uuid = ? AND key = ?", [run_id, key]
                )
                return {step: math.nan if is_nan else value for step, value, is_nan in rows}
            except sqlite3.Error:
                return None

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _read(database: sqlite3.Connection, experiment_id: str) -> list[StoredRun]:
    known: dict[str, str] = {}  # texts that many runs share are in memory once
    tags, params = (_read_texts(database, experiment_id, table, known) for table in ("tags", "params"))
    metrics: defaultdict[str, dict[str, float]] = defaultdict(dict)
    epochs: dict[str, int] = {}
    for run_id, key, value, step, is_nan in _rows_of(database, experiment_id, "latest_metrics", "value, step, is_nan"):
        metrics[run_id][own_metric(key)] = math.nan if is_nan else value
        if key == Metric.VAL_ACCURACY:
            epochs[run_id] = step
    rows = database.execute(
        "SELECT run_uuid, name, user_id, status, start_time, end_time, lifecycle_stage, artifact_uri "
        f"{_ACTIVE} ORDER BY start_time, run_uuid",
        [experiment_id],
    )
    return [
        StoredRun(
            RunInfo(run_id, experiment_id, *rest, name or tags[run_id].get(MLFLOW_RUN_NAME)),
            own_tags(tags.pop(run_id, {})),
            params[run_id],
            metrics[run_id],
            epochs.get(run_id, 0),
        )
        for run_id, name, *rest in rows
    ]


def _read_texts(
    database: sqlite3.Connection, experiment_id: str, table: str, known: dict[str, str]
) -> defaultdict[str, dict[str, str]]:
    """Return a table's texts by run and key."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for run_id, key, value in _rows_of(database, experiment_id, table, "value"):
        found[run_id][known.setdefault(key, key)] = known.setdefault(value, value)
    return found


def _rows_of(database: sqlite3.Connection, experiment_id: str, table: str, columns: str) -> sqlite3.Cursor:
    """Return run, key and these columns of a table's rows."""
    within = f"run_uuid IN (SELECT run_uuid {_ACTIVE})"
    return database.execute(f"SELECT run_uuid, key, {columns} FROM {table} WHERE {within}", [experiment_id])
