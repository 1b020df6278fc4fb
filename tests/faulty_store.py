"""A tracking store that breaks on demand, below Tracker; and all that MLflow holds of a study, to compare."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from cnnstudy.tracking import TOKEN, Tracker

WRITES = (
    *("create_run", "update_run", "set_terminated", "log_batch", "log_inputs", "log_outputs", "log_artifacts"),
    *("create_logged_model", "log_model_artifacts", "finalize_logged_model"),
)


class FaultyClient:
    """MLflow's client, whose calls that write are counted, and fail where `fails` says so.

    Args:
        fails: told the number of the call, from 0, and its name; "before" it is done, or "after" that, or "".
    """

    def __init__(self, client: Any, fails: Callable[[int, str], str] = lambda number, name: "") -> None:
        self.client, self.fails = client, fails
        self.calls: list[str] = []
        self.down = False  # no call gets anywhere

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        return lambda *given, **named: self._call(method, name, given, named)

    def _call(self, method: Callable[..., Any], name: str, given: Any, named: Any) -> Any:
        when = "before" if self.down else ""
        if name in WRITES:
            when = self.fails(len(self.calls), name) or when
            self.calls.append(name)
        if when == "before":
            raise MlflowException("the database is locked", TEMPORARILY_UNAVAILABLE)
        answer = method(*given, **named)
        if when == "after":
            raise MlflowException("the reply was lost", TEMPORARILY_UNAVAILABLE)
        return answer


def whole_record(tracker: Tracker, experiment: str, times: bool = True) -> dict[str, Any]:
    """Everything of an experiment, by names instead of ids, less what differs between two studies by nature."""
    client = getattr(tracker._client, "client", tracker._client)
    runs = list(client.search_runs([experiment], run_view_type=ViewType.ALL))
    names = {run.info.run_id: run.info.run_name for run in runs}
    models = {model.model_id: model for model in client.search_logged_models([experiment])}
    return {
        "runs": sorted((_run(client, client.get_run(run_id), models, times) for run_id in names), key=str),
        "models": sorted((_model(client, model, names, times) for model in models.values()), key=str),
    }


def _run(client: Any, run: Any, models: dict[str, Any], times: bool) -> dict[str, Any]:
    left_out = {TOKEN, "cnnstudy.called", "cnnstudy.model", "mlflow.user"}
    history = {
        key: [(m.step, m.value, m.timestamp if times else 0) for m in client.get_metric_history(run.info.run_id, key)]
        for key in sorted(run.data.metrics)
    }
    study = run.data.tags["cnnstudy.kind"] == "study"
    given = run.data.tags.get("cnnstudy.model", "").removeprefix("models:/")
    return {
        "name": run.info.run_name,
        "life": (run.info.status, run.info.lifecycle_stage),
        "times": (0 if study else run.info.start_time, run.info.end_time) if times else (),
        "parameters": run.data.params,
        "metrics": history,
        "latest": run.data.metrics,
        "tags": {key: value for key, value in run.data.tags.items() if key not in left_out},
        "model": models[given].name if given else "",
        "inputs": [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs],
        "outputs": [
            (models[one.model_id].name, one.step) for one in (run.outputs.model_outputs if run.outputs else [])
        ],
        "files": _files(Path(run.info.artifact_uri.removeprefix("file://"))),
    }


def _model(client: Any, model: Any, names: dict[str, str], times: bool) -> dict[str, Any]:
    return {
        "name": model.name,
        "run": names[model.source_run_id],
        "status": str(model.status),
        "tags": {key: value for key, value in model.tags.items() if key not in {TOKEN, "mlflow.user"}},
        "metrics": sorted((m.key, m.value, m.step, m.timestamp if times else 0) for m in model.metrics or []),
        "files": _files(Path(model.artifact_location.removeprefix("file://"))),
    }


def _files(folder: Path) -> dict[str, str]:
    """By path what is in them, less the name of the temporary folder that the images' place has here."""
    return {
        str(path.relative_to(folder)): re.sub(r'"[^"]*/cnnstudy-[^"/]*"', '"images"', path.read_text(errors="replace"))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
