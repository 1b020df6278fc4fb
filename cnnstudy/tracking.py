"""MLflow: the only durable record. Only this module and registry.py talk to its server, and only the driver to them.

An experiment per study. In it, as flat runs with the tag `cnnstudy.kind`:

    study      the study's own run: its file
    pretrain   one for each network that learnt source weights
    trial      one for each trial
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnnstudy.database import make_whole
from cnnstudy.errors import TrackingError, UnknownNameError, did_you_mean, without_secrets
from cnnstudy.leftovers import mlflow_status
from cnnstudy.mlflow_view import VIEW_TAG, view_state
from cnnstudy.records import PreparedImages, RecordedRun, RecordedStudy
from cnnstudy.scratch import scratch_folder
from cnnstudy.signals import not_within

# An unreachable server is to be said soon, not after MLflow's default of four minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
# What a study does is nobody else's business.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

for _name in ("mlflow", "alembic"):  # the tables of a fresh database are nobody's news
    logging.getLogger(_name).setLevel(logging.WARNING)

DEFAULT_URI = "sqlite:///mlflow.db"
KIND, STATE, REASON, LEVELS = "cnnstudy.kind", "cnnstudy.state", "cnnstudy.reason", "cnnstudy.levels"
CALLED, CONFIG, DRIVER = "cnnstudy.called", "cnnstudy.config", "cnnstudy.driver"


def tracking_uri(given: str | None) -> str:
    """The given one, else `MLFLOW_TRACKING_URI`, else mlflow.db in this folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


class Tracker:
    """One tracking server or database."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        with self._translated():
            make_whole(uri, lambda new: MlflowClient(new).search_experiments(max_results=1))
            self._client = MlflowClient(uri)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """MLflow's, SQLAlchemy's, a missing database driver's and the network's errors as TrackingError.

        An interrupt waits: within a transaction it would leave the database locked by this very process.
        """
        try:
            with not_within():
                yield
        except Exception as error:
            expected = isinstance(error, MlflowException | OSError | ImportError)
            if not expected and "sqlalchemy" not in type(error).__module__:
                raise
            text = without_secrets(str(error)).split("\n")[0][:500]
            raise TrackingError(
                f"MLflow at {without_secrets(self.uri)} does not answer as it should: {text}"
            ) from error

    # ---- studies

    def studies(self) -> list[RecordedStudy]:
        """All studies, the one that was run last first."""
        with self._translated():
            names = {
                experiment.experiment_id: experiment.name
                for experiment in self._client.search_experiments(filter_string=f"tags.`{KIND}` = 'study'")
            }
            runs = self._client.search_runs(list(names), f"tags.`{KIND}` = 'study'") if names else []
        latest = sorted(runs, key=lambda run: -int(run.data.tags.get(CALLED, run.info.start_time)))
        return [_recorded_study(names[run.info.experiment_id], run) for run in latest]

    def study(self, name: str | None) -> RecordedStudy:
        """The study of that name; without a name the one that was run last.

        Raises:
            UnknownNameError: there is none.
        """
        studies = self.studies()
        where = without_secrets(self.uri)
        if not studies:
            raise UnknownNameError(
                f"there is no study in {where} yet; `python -m cnnstudy run-study` makes one, and --tracking-uri or "
                "MLFLOW_TRACKING_URI names another place."
            )
        names = [study.name for study in studies]
        if name is None:
            return studies[0]
        if name not in names:
            raise UnknownNameError(
                f"there is no study {name!r} in {where}{did_you_mean(name, names) or '.'} There are {', '.join(names)}."
            )
        return studies[names.index(name)]

    def open_study(self, name: str, config: dict[str, Any]) -> RecordedStudy:
        """The study's experiment and run, made where there are none, with the configuration recorded there."""
        with self._translated():
            experiment = self._client.get_experiment_by_name(name)
            if experiment is not None and experiment.lifecycle_stage == "deleted":
                raise TrackingError(
                    f"the experiment {name!r} was deleted in MLflow; restore it there, or give the study another name."
                )
            if experiment is None:
                kind = {"mlflow.experimentKind": "custom_model_development", KIND: "study", VIEW_TAG: view_state()}
                experiment_id = self._client.create_experiment(name, tags=kind)
            else:
                experiment_id = experiment.experiment_id
                self._client.set_experiment_tag(experiment_id, VIEW_TAG, view_state())
                self._client.set_experiment_tag(experiment_id, KIND, "study")
            runs = self._client.search_runs([experiment_id], f"tags.`{KIND}` = 'study'", max_results=1)
            if runs:
                return _recorded_study(name, runs[0])
            tags = {KIND: "study", **_config_tags(config)}
            return _recorded_study(name, self._client.create_run(experiment_id, run_name=f"study {name}", tags=tags))

    def start_study(self, study: RecordedStudy, config: dict[str, Any], file: Path, text: str) -> None:
        """Mark the study as running, with the configuration that holds from here (a larger budget, say)."""
        with self._translated():
            self._client.update_run(study.run_id, status="RUNNING")
            tags = {CALLED: str(int(time.time() * 1000)), STATE: "running", REASON: "", "cnnstudy.message": ""}
            self.set_tags(study.run_id, {**_config_tags(config), **tags})
        with scratch_folder() as folder:
            (folder / "study").mkdir()
            (folder / "study" / file.name).write_text(text, encoding="utf-8")
            self.log_files(study.run_id, folder)

    def restart_study(self, study: RecordedStudy) -> None:
        """Mark the study as running, with the configuration that it has."""
        with self._translated():
            self._client.update_run(study.run_id, status="RUNNING")
        self.set_tags(study.run_id, {STATE: "running", REASON: "", "cnnstudy.message": ""})

    def artifacts_of(self, experiment_id: str) -> str:
        """Where the files of its runs go: a folder, or an address."""
        with self._translated():
            return str(self._client.get_experiment(experiment_id).artifact_location)

    # ---- runs

    def runs(self, experiment_id: str) -> list[RecordedRun]:
        """Every run of the experiment that cnnstudy made, oldest first."""
        with self._translated():
            found: list[Run] = []
            token = None
            while True:
                page = self._client.search_runs([experiment_id], order_by=["start_time ASC"], page_token=token)
                found.extend(page)
                token = page.token
                if not token:
                    break
        return [_recorded(run) for run in found if KIND in run.data.tags]

    def start_run(
        self,
        experiment_id: str,
        name: str,
        tags: Mapping[str, str],
        parameters: Mapping[str, Any],
        images: PreparedImages,
    ) -> str:
        """A new run with its parameters and the data set as its input; its id."""
        with self._translated():
            run_id = self._client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id
            self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in parameters.items()])
            self._client.log_inputs(run_id, [_dataset_input(images)])
            return str(run_id)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """All metrics of one step, in calls of the 1000 that MLflow takes."""
        logged = [Metric(key, value, int(time.time() * 1000), step) for key, value in metrics.items()]
        with self._translated():
            for start in range(0, len(logged), 1000):
                self._client.log_batch(run_id, logged[start : start + 1000])

    def metric_history(self, run_id: str, key: str) -> dict[int, float]:
        """Step -> value."""
        with self._translated():
            return {metric.step: metric.value for metric in self._client.get_metric_history(run_id, key)}

    def log_files(self, run_id: str, folder: Path) -> None:
        """The folder's content as the run's artifacts."""
        with self._translated():
            self._client.log_artifacts(run_id, str(folder))

    def tags(self, run_id: str) -> dict[str, str]:
        """As they are now."""
        with self._translated():
            return dict(self._client.get_run(run_id).data.tags)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags may be cut to what MLflow takes."""
        texts = {key: value.encode(errors="replace").decode()[:5000] for key, value in tags.items()}
        with self._translated():
            self._client.log_batch(run_id, tags=[RunTag(key, text) for key, text in texts.items()])

    def end_run(self, run_id: str, state: str, tags: Mapping[str, str] | None = None) -> None:
        """The last word on a run: its state, and MLflow's status to match."""
        self.set_tags(run_id, {**(tags or {}), STATE: state})
        self.end_status(run_id, mlflow_status(state, (tags or {}).get(REASON, "")))

    def end_status(self, run_id: str, status: str) -> None:
        """MLflow's own status of a run that has its state."""
        with self._translated():
            self._client.set_terminated(run_id, status)

    # ---- models

    def log_model(
        self,
        experiment_id: str,
        run_id: str,
        name: str,
        folder: Path,
        metrics: Mapping[str, float],
        step: int,
        images: PreparedImages,
        tags: Mapping[str, str],
    ) -> str:
        """The folder, a model that a worker packaged, as an output of the run, with its metrics; `models:/<id>`."""
        now = int(time.time() * 1000)
        with self._translated():
            model_id = self._client.create_logged_model(
                experiment_id, name=name, source_run_id=run_id, tags=dict(tags), model_type="classifier"
            ).model_id
            self._client.log_model_artifacts(model_id, str(folder))
            self._client.finalize_logged_model(model_id, "READY")
            self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=step)])
            where = (now, step, model_id, images.name, _short(images.digest), run_id)
            logged = [Metric(key, value, *where) for key, value in metrics.items()]
            self._client.log_batch(run_id, logged, tags=[RunTag("cnnstudy.model", f"models:/{model_id}")])
        return f"models:/{model_id}"


def _config_tags(config: dict[str, Any]) -> dict[str, str]:
    """The configuration as JSON, in as many tags as it takes: `cnnstudy.config.0`, `cnnstudy.config.1` and so on."""
    text = json.dumps(config)
    return {f"{CONFIG}.{number}": text[5000 * number :][:5000] for number in range(1 + len(text) // 5000)}


def _recorded_study(name: str, run: Run) -> RecordedStudy:
    tags = run.data.tags
    text = "".join(itertools.takewhile(bool, (tags.get(f"{CONFIG}.{number}") for number in itertools.count())))
    config, _ = json.JSONDecoder().raw_decode(text)  # a longer one that held before may have left tags behind
    return RecordedStudy(name, run.info.experiment_id, run.info.run_id, config)


def _recorded(run: Run) -> RecordedRun:
    tags = run.data.tags
    return RecordedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        kind=tags[KIND],
        state=tags.get(STATE, "running"),
        reason=tags.get(REASON, ""),
        started=run.info.start_time,
        parameters=run.data.params,
        metrics=run.data.metrics,
        tags=tags,
        status=run.info.status,
    )


def _dataset_input(images: PreparedImages) -> DatasetInput:
    counts = {"train": images.train, "validation": images.validation, "test": images.test}
    dataset = Dataset(
        name=images.name,
        digest=_short(images.digest),
        source_type="local",
        source=json.dumps({"uri": images.folder}),
        schema=json.dumps({"classes": list(images.classes)[:200], "pixels": images.size}),
        profile=json.dumps({f"{part}_images": sum(of_class) for part, of_class in counts.items()}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _short(digest: str) -> str:
    """MLflow takes digests of up to 36 characters."""
    return digest[:36]
