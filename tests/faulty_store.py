"""A study on a tracking store that fails on demand, and its whole record in MLflow, for comparison."""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_executor import FakeExecutor
from mlflow.artifacts import download_artifacts
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from pictures import leave_out_pictures

from cnnstudy.config.load import load_study
from cnnstudy.execution import Epoch, Event, Workers
from cnnstudy.names import Tag
from cnnstudy.study.run import Outcome, confirm_study, run_study
from cnnstudy.system.display import PlainDisplay
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.tracking.retry import RetryPolicy
from cnnstudy.tracking.spool import list_waiting
from cnnstudy.tracking.system_metrics import SECTION

WRITES = (
    *("create_run", "update_run", "set_terminated", "log_batch", "log_inputs", "log_outputs", "log_artifacts"),
    *("create_logged_model", "log_model_artifacts", "finalize_logged_model"),
)


class FaultyClient:
    """MLflow's client; calls that write are counted, and fail on demand.

    Args:
        fails: given the number of the call, from 0, and its name, returns "before" or "after" for a failure before or
            after the call, or "" for none.
    """

    def __init__(self, client: Any, fails: Callable[[int, str], str] = lambda number, name: "") -> None:
        self.client, self.fails = client, fails
        self.calls: list[str] = []
        self.down = False  # every call fails
        self.on_call: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        return lambda *given, **named: self._call(method, name, given, named)

    def _call(self, method: Callable[..., Any], name: str, given: Any, named: Any) -> Any:
        self.on_call()
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
    """Return everything in an experiment, by names instead of ids, without what always differs between studies."""
    client = getattr(tracker._client, "client", tracker._client)
    runs = list(client.search_runs([experiment], run_view_type=ViewType.ALL))
    names = {run.info.run_id: run.info.run_name for run in runs}
    models = {model.model_id: model for model in client.search_logged_models([experiment])}
    return {
        "runs": sorted((_run(client, client.get_run(run_id), models, times, tracker.uri) for run_id in names), key=str),
        "models": sorted((_model(model, names, times, tracker.uri) for model in models.values()), key=str),
    }


def _run(client: Any, run: Any, models: dict[str, Any], times: bool, uri: str) -> dict[str, Any]:
    left_out = {Tag.TOKEN, "cnnstudy.called", "cnnstudy.model", "mlflow.user"}
    # what the machine does is measured every few seconds, so that only slow trials have it
    metrics = {key: value for key, value in run.data.metrics.items() if not key.startswith(f"{SECTION}/")}
    history = {
        key: [(m.step, m.value, m.timestamp if times else 0) for m in client.get_metric_history(run.info.run_id, key)]
        for key in sorted(metrics)
    }
    study = run.data.tags["cnnstudy.kind"] == "study"
    given = run.data.tags.get("cnnstudy.model", "").removeprefix("models:/")
    return {
        "name": run.info.run_name,
        "life": (run.info.status, run.info.lifecycle_stage),
        "times": (0 if study else run.info.start_time, run.info.end_time) if times else (),
        "parameters": run.data.params,
        "metrics": history,
        "latest": metrics,
        "tags": {key: value for key, value in run.data.tags.items() if key not in left_out},
        "model": models[given].name if given else "",
        "inputs": [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs],
        "outputs": [
            (models[one.model_id].name, one.step) for one in (run.outputs.model_outputs if run.outputs else [])
        ],
        "files": _files(run.info.artifact_uri, uri),
    }


def _model(model: Any, names: dict[str, str], times: bool, uri: str) -> dict[str, Any]:
    return {
        "name": model.name,
        "run": names[model.source_run_id],
        "status": str(model.status),
        "tags": {key: value for key, value in model.tags.items() if key not in {Tag.TOKEN, "mlflow.user"}},
        "metrics": sorted((m.key, m.value, m.step, m.timestamp if times else 0) for m in model.metrics or []),
        "files": _files(model.artifact_location, uri),
    }


def _files(location: str, uri: str) -> dict[str, str]:
    """Return the contents by path, without the name of the temporary folder of the images."""
    folder = Path(location.removeprefix("file://"))
    if location.startswith("mlflow-artifacts:"):
        folder = Path(download_artifacts(artifact_uri=location, dst_path=tempfile.mkdtemp(), tracking_uri=uri))
    return {
        str(path.relative_to(folder)): re.sub(r'"[^"]*/cnnstudy-[^"/]*"', '"images"', path.read_text(errors="replace"))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


FILE = """
name: fake
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {batch_size: [8, 16, 32, 64]}
training: {epochs: 1}
strategy: {sampler: grid}
budget: {trials: 2}
"""
ONE = "budget.trials=1"
#: Wait until each record has arrived or failed, however long that takes.
SURE = RetryPolicy(wait_per_record=60, pauses=(0.01,), give_up_after=60)
#: Wait for nothing at the end.
BRIEF = RetryPolicy(wait_per_record=60, pauses=(0.001,), give_up_after=0)


class Desk:
    """Runs a study on a tracker whose client may fail, with times that count up from 1."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "fake.yaml"
        self.file.write_text(FILE, encoding="utf-8")
        self.said: list[str] = []
        self.on_say: Callable[[str], None] = lambda text: None
        self.executor: FakeExecutor | None = None
        monkeypatch.setattr("cnnstudy.tracking.outbox.current_time", lambda: next(self.times))
        leave_out_pictures(monkeypatch)

    def use(self, tracker: Tracker, fails: Callable[[int, str], str] = lambda number, name: "") -> None:
        """Start over with this tracker."""
        self.tracker = tracker
        self.client = tracker._client = FaultyClient(tracker._client, fails)
        self.begin()

    def begin(self) -> None:
        self.times = itertools.count(1)
        self.said.clear()

    def show_message(self, text: str) -> None:
        if " was left by a process that no longer exists" not in text:  # by a test that runs beside this one
            self.said.append(text)
        self.on_say(text)

    def run(self, *overrides: str, retry_policy: RetryPolicy = SURE, take_over: bool = False, **script: Any) -> Outcome:
        self.executor = None

        def make(folder: Path) -> FakeExecutor:
            self.executor = FakeExecutor(folder, **script)
            return self.executor

        study = load_study(str(self.file), overrides)
        return run_study(study, self.tracker, Workers(make), PlainDisplay(self.show_message), take_over, retry_policy)

    def confirm(self, retry_policy: RetryPolicy = SURE, **script: Any) -> Outcome:
        options = {"top": 2, "seeds": 2, "most_seeds": 2}
        make = lambda folder: FakeExecutor(folder, **script)  # noqa: E731
        return confirm_study(
            "fake",
            options,
            self.tracker,
            Workers(make),
            PlainDisplay(self.show_message),
            again=False,
            retry_policy=retry_policy,
        )

    @property
    def trained(self) -> list[str]:
        return [] if self.executor is None else self.executor.trials

    def runs(self, kind: str = "trial") -> list[RecordedRun]:
        return [run for run in self.tracker.runs(self.tracker.study("fake").experiment_id) if run.kind == kind]

    def put_aside(self, name: str) -> None:
        """Rename the study's experiment and take it out of the studies, so that another may have its name."""
        experiment = self.tracker.study("fake").experiment_id
        self.client.client.rename_experiment(experiment, name)
        self.client.client.set_experiment_tag(experiment, Tag.KIND, name)

    def record(self, times: bool = True) -> dict[str, Any]:
        return whole_record(self.tracker, self.tracker.study("fake").experiment_id, times)

    def down(self, event: Event) -> None:
        """Take the store down from the first epoch on; for an executor's `on_event`."""
        self.client.down = self.client.down or isinstance(event, Epoch)

    def at_the_end(self, act: Callable[[], None]) -> None:
        """Call `act` when the study is done, and only waits for MLflow."""
        self.on_say = lambda text: act() if text.startswith("waiting for MLflow") else None

    def up(self) -> None:
        """Bring the store back."""
        self.client.down = False

    def told(self, beginning: str) -> list[str]:
        return [line for line in self.said if line.startswith(beginning)]


def is_clean(folder: Path) -> bool:
    """Check that no records wait, and no files of the outbox are left."""
    return not list_waiting() and not any((folder / "cache" / "outbox").glob("*/"))
