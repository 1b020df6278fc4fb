"""Read the runs of a large study straight from MLflow's SQLite database.

MLflow itself makes an object of SQLAlchemy's for every tag, parameter and metric: 10,000 trials have half a million.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections import defaultdict
from typing import Any

from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from cnnstudy.tracking.sqlite import sqlite_file

#: Smaller studies are read with MLflow, which takes less than a second.
MANY = 500
_ACTIVE = "FROM runs WHERE experiment_id = ? AND lifecycle_stage = 'active'"


def find_many_runs(uri: str, experiment_id: str) -> list[Run] | None:
    """Return the experiment's runs as MLflow's search does, oldest first.

    Returns:
        None if MLflow is to be asked: the runs are few, they are not in an SQLite file, or it can't be read now.
    """
    path = sqlite_file(uri)
    if path is None or not path.is_file():
        return None
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5, isolation_level=None)
        ) as database:
            database.execute("BEGIN")  # what is read is of one moment
            ((count,),) = database.execute(f"SELECT count(*) {_ACTIVE}", [experiment_id])
            return _read(database, experiment_id) if count >= MANY else None
    except sqlite3.Error:
        return None


def _read(database: sqlite3.Connection, experiment_id: str) -> list[Run]:
    tags = _by_run(database, experiment_id, "tags", "key, value", RunTag)
    params = _by_run(database, experiment_id, "params", "key, value", Param)
    metrics = _by_run(database, experiment_id, "latest_metrics", "key, value, timestamp, step, is_nan", _to_metric)
    rows = database.execute(
        "SELECT run_uuid, name, user_id, status, start_time, end_time, lifecycle_stage, artifact_uri "
        f"{_ACTIVE} ORDER BY start_time, run_uuid",
        [experiment_id],
    )
    runs = []
    for run_id, name, user, status, start, end, stage, place in rows:
        named = name or next((tag.value for tag in tags[run_id] if tag.key == MLFLOW_RUN_NAME), None)
        info = RunInfo(run_id, experiment_id, user, status, start, end, stage, place, named)
        runs.append(Run(info, RunData(metrics[run_id], params[run_id], tags[run_id])))
    return runs


def _by_run(
    database: sqlite3.Connection, experiment_id: str, table: str, columns: str, make: Any
) -> defaultdict[str, list[Any]]:
    """Return what `make` makes of a table's rows, by run."""
    found: defaultdict[str, list[Any]] = defaultdict(list)
    within = f"run_uuid IN (SELECT run_uuid {_ACTIVE})"
    for run_id, *values in database.execute(f"SELECT run_uuid, {columns} FROM {table} WHERE {within}", [experiment_id]):
        found[run_id].append(make(*values))
    return found


def _to_metric(key: str, value: float, timestamp: int, step: int, is_nan: int) -> Metric:
    return Metric(key, math.nan if is_nan else value, timestamp, step)
