"""MLflow: the durable record. Only this module and registry.py talk to its server.

An experiment per study. In it, as flat runs with the tag `cnnstudy.kind`:

    study      the study's own run: its file
    pretrain   one for each network that learnt source weights
    trial      one for each trial
    confirm    one for each candidate and fresh seed
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, LoggedModel, LoggedModelOutput, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

from cnnstudy.errors import TrackingError, UnknownNameError, did_you_mean, without_secrets
from cnnstudy.names import Tag
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.entities import (
    all_pages,
    choose_mlflow_status,
    dataset_input,
    log_model_files,
    recorded_run,
    recorded_study,
    shorten_digest,
    tag_text,
    translate_errors,
    with_file_timeout,
    without_client_retries,
)
from cnnstudy.tracking.operations import (
    FIRST_ATTEMPT,
    Attempt,
    EndRun,
    LogFiles,
    LogMetrics,
    LogModel,
    Operation,
    SetTags,
    StartRun,
)
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, config_tags
from cnnstudy.tracking.retry import is_transient
from cnnstudy.tracking.sqlite import analyze_metrics, create_database
from cnnstudy.tracking.ui_layout import VIEW_TAG, layout_tag


def study_runs(client: MlflowClient, experiments: Sequence[str]) -> list[Run]:
    """The own runs of the studies with those experiments; of more than one of a study the one that counts first."""
    runs = client.search_runs(list(experiments), f"tags.`{Tag.KIND}` = 'study'") if experiments else []
    # a driver that has begun is not to lose its study to one whose clock is slow
    return sorted(runs, key=lambda run: (not run.data.tags.get(Tag.DRIVER), run.info.start_time, run.info.run_id))


def find_or_create_study(client: MlflowClient, name: str, config: dict[str, Any]) -> Run:
    """The study's own run, made where there is none, with the configuration recorded there.

    To be called with requests that are sent once.

    Raises:
        TrackingError: its experiment was deleted.
    """
    experiment = client.get_experiment_by_name(name) or _new_experiment(client, name)
    if experiment.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the experiment {name!r} was deleted in MLflow; restore it there, or give the study another name."
        )
    client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, layout_tag())
    client.set_experiment_tag(experiment.experiment_id, Tag.KIND, "study")
    runs = study_runs(client, [experiment.experiment_id])
    return runs[0] if runs else _make(client, experiment.experiment_id, name, config)


def _new_experiment(client: MlflowClient, name: str) -> Experiment:
    tags = {"mlflow.experimentKind": "custom_model_development", Tag.KIND: "study", VIEW_TAG: layout_tag()}
    try:
        client.create_experiment(name, tags=tags)
    except MlflowException as error:  # another driver's in the same moment, or our own, and the reply was lost
        if error.error_code != "RESOURCE_ALREADY_EXISTS" and not is_transient(error):
            raise
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found
    return client.get_experiment_by_name(name)


def _make(client: MlflowClient, experiment: str, name: str, config: dict[str, Any]) -> Run:
    token, lost = uuid.uuid4().hex, None
    tags = {Tag.KIND: "study", Tag.TOKEN: token, **config_tags(config)}
    try:
        client.create_run(experiment, run_name=f"study {name}", tags=tags)
    except MlflowException as error:
        if not is_transient(error):
            raise
        lost = error  # or only its reply
    runs = study_runs(client, [experiment])
    if lost is not None and not runs:
        raise lost
    for run in runs[1:]:
        if run.data.tags.get(Tag.TOKEN) == token:  # another driver's came first
            client.set_terminated(run.info.run_id, "KILLED")
            client.delete_run(run.info.run_id)
    return runs[0]


DEFAULT_URI = "sqlite:///mlflow.db"


def tracking_uri(given: str | None) -> str:
    """The given one, else `MLFLOW_TRACKING_URI`, else mlflow.db in this folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


class Tracker:
    """One tracking server or database."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._counted = False
        with self._translated():
            create_database(uri, lambda new: MlflowClient(new).search_experiments(max_results=1))
            try:
                self._client = MlflowClient(uri)
            except ValueError as error:  # SQLAlchemy reads the port so
                raise TrackingError(f"{uri} is no address that MLflow can use: {error}") from error

    def _translated(self) -> AbstractContextManager[None]:
        return translate_errors(self.uri)

    @property
    def client(self) -> MlflowClient:
        """MLflow's own, for tracking/registry.py."""
        return self._client

    # ---- studies

    def studies(self) -> list[RecordedStudy]:
        """All studies, the one that was run last first."""
        with self._translated():
            names = {
                experiment.experiment_id: experiment.name
                for experiment in self._client.search_experiments(filter_string=f"tags.`{Tag.KIND}` = 'study'")
            }
            runs = study_runs(self._client, list(names))
        own = {run.info.experiment_id: run for run in reversed(runs)}.values()
        latest = sorted(own, key=lambda run: -int(run.data.tags.get(Tag.CALLED, run.info.start_time)))
        return [recorded_study(names[run.info.experiment_id], run) for run in latest]

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
        """The study's experiment and run, made where there are none, with the configuration recorded there.

        Drivers that make the same new study in the same moment get the same run, and so one of them its claim.
        """
        with self._translated(), without_client_retries():
            return recorded_study(name, find_or_create_study(self._client, name, config))

    def start_study(
        self, study: RecordedStudy, config: dict[str, Any], file: Path, text: str, tags: Mapping[str, str] | None = None
    ) -> None:
        """Mark the study as running, with the configuration that holds from here (a larger budget, say)."""
        self.restart_study(study, {**config_tags(config), **(tags or {}), Tag.CALLED: str(_now())})
        with scratch_folder() as folder:
            (folder / "study").mkdir()
            (folder / "study" / file.name).write_text(text, encoding="utf-8")
            self.log_files(study.run_id, folder)

    def restart_study(self, study: RecordedStudy, tags: Mapping[str, str] | None = None) -> None:
        """Mark the study as running, with the configuration that it has."""
        with self._translated():
            self._client.update_run(study.run_id, status="RUNNING")
        self.set_tags(study.run_id, {**(tags or {}), Tag.STATE: "running", Tag.REASON: "", Tag.MESSAGE: ""})

    def artifacts_of(self, experiment_id: str) -> str:
        """Where the files of its runs go: a folder, or an address."""
        with self._translated():
            return str(self._client.get_experiment(experiment_id).artifact_location)

    # ---- runs

    def runs(self, experiment_id: str, where: str = "") -> list[RecordedRun]:
        """Every run of the experiment that cnnstudy made (and that MLflow's filter lets pass), oldest first."""
        search, order = self._client.search_runs, ["start_time ASC"]
        with self._translated():
            found = all_pages(lambda token: search([experiment_id], where, order_by=order, page_token=token))
        return [recorded_run(run) for run in found if Tag.KIND in run.data.tags]

    def recent_runs(self, experiment_id: str, since: int) -> list[RecordedRun]:
        """Those under way, and those that ended at `since` (milliseconds since 1970) or later: quick, where all runs
        would take a second for each 200."""
        under_way = self.runs(experiment_id, "attributes.status = 'RUNNING'")
        # asked for afterwards, so that a run that ends in between is not missed
        ended = self.runs(experiment_id, f"attributes.end_time >= {since}")
        return list({run.run_id: run for run in [*under_way, *ended]}.values())

    def write(self, operation: Operation, experiment_id: str, run_id: str, attempt: Attempt = FIRST_ATTEMPT) -> str:
        """Carry out an operation.

        Args:
            run_id: "" to start a run.

        Returns:
            What was made: a run's id or a model's address; else "".
        """
        match operation:
            case StartRun():
                return self.start_run(experiment_id, operation, attempt)
            case LogModel():
                return self.log_model(experiment_id, run_id, operation, attempt)
            case LogMetrics():
                self.log_metrics(run_id, operation.metrics, operation.step, attempt.at)
            case SetTags():
                self.set_tags(run_id, operation.tags)
            case LogFiles():
                self.log_files(run_id, operation.folder)
            case EndRun():
                self.end_run(run_id, operation.state, operation.tags, attempt.at)
        return ""

    def start_run(self, experiment_id: str, run: StartRun, attempt: Attempt = FIRST_ATTEMPT) -> str:
        """A new run with its parameters and the data set as its input; its id."""
        with self._translated(), without_client_retries():
            run_id = self.find_run(experiment_id, attempt.token) if attempt.again else None
            if run_id is None:
                tags = _with_token(run.tags, attempt)
                run_id = str(self._client.create_run(experiment_id, attempt.at, tags, run.name).info.run_id)
            self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in run.parameters.items()])
            self._client.log_inputs(run_id, [dataset_input(run.images)])
            return run_id

    def find_run(self, experiment_id: str, token: str) -> str | None:
        """The id of the run that carries the token, were it deleted; None where there is none."""
        with self._translated():
            found = self._client.search_runs([experiment_id], f"tags.`{Tag.TOKEN}` = '{token}'", ViewType.ALL, 1)
        return str(found[0].info.run_id) if found else None

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int, at: int | None = None) -> None:
        """All metrics of one step, in calls of the 1000 that MLflow takes.

        MLflow keeps a metric of the same name, value, step and time (`at`; None: now) once.
        """
        logged = [Metric(key, value, at or _now(), step) for key, value in metrics.items()]
        with self._translated(), without_client_retries():
            for start in range(0, len(logged), 1000):
                self._client.log_batch(run_id, logged[start : start + 1000])

    def metric_history(self, run_id: str, key: str) -> dict[int, float]:
        """Step -> value."""
        if not self._counted:  # many requests like this one follow
            self._counted = True
            analyze_metrics(self.uri)
        with self._translated():
            return {metric.step: metric.value for metric in self._client.get_metric_history(run_id, key)}

    def log_files(self, run_id: str, folder: Path) -> None:
        """The folder's content as the run's artifacts."""
        with self._translated(), without_client_retries(), with_file_timeout():
            self._client.log_artifacts(run_id, str(folder))

    def files(self, run_id: str, folder: str) -> list[str]:
        """The paths of the run's artifacts in that folder of it, without those in its subfolders."""
        with self._translated():
            return [found.path for found in self._client.list_artifacts(run_id, folder) if not found.is_dir]

    def read_text(self, run_id: str, path: str) -> str | None:
        """A text among the run's artifacts; None where there is none at that path."""
        if path not in self.files(run_id, path.rpartition("/")[0]):
            return None
        with self._translated(), scratch_folder() as folder:
            found = Path(self._client.download_artifacts(run_id, path, str(folder)))
            return found.read_text(encoding="utf-8", errors="replace")

    def tags(self, run_id: str) -> dict[str, str]:
        """As they are now."""
        with self._translated():
            return dict(self._client.get_run(run_id).data.tags)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags may be cut to what MLflow takes.

        Raises:
            TrackingError: JSON that is longer; cut it would be none.
        """
        texts = {key: tag_text(key, value) for key, value in tags.items()}
        with self._translated(), without_client_retries():
            self._client.log_batch(run_id, tags=[RunTag(key, text) for key, text in texts.items()])

    def end_run(self, run_id: str, state: str, tags: Mapping[str, str] | None = None, at: int | None = None) -> None:
        """The last word on a run: its state, and MLflow's status to match; `at`: milliseconds since 1970; None: now."""
        self.set_tags(run_id, {**(tags or {}), Tag.STATE: state})
        self.end_status(run_id, choose_mlflow_status(state, (tags or {}).get(Tag.REASON, "")), at)

    def end_status(self, run_id: str, status: str, at: int | None = None) -> None:
        """MLflow's own status of a run that has its state; `at`: milliseconds since 1970; None: now."""
        with self._translated(), without_client_retries():
            self._client.set_terminated(run_id, status, at)

    # ---- models

    def log_model(self, experiment_id: str, run_id: str, model: LogModel, attempt: Attempt = FIRST_ATTEMPT) -> str:
        """The model as an output of the run, with its metrics; `models:/<id>`.

        MLflow itself says when a model was made.
        """
        with self._translated(), without_client_retries():
            made = self._find_model(experiment_id, attempt.token) if attempt.again else None
            if made is None:
                made = self._client.create_logged_model(
                    experiment_id,
                    name=model.name,
                    source_run_id=run_id,
                    tags=_with_token(model.tags, attempt),
                    model_type="classifier",
                )
            model_id = made.model_id
            log_model_files(self._client, made, model.folder)
            self._client.finalize_logged_model(model_id, "READY")
            if not (attempt.again and self._has_output(run_id, model_id)):
                self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=model.step)])
            images = model.images
            where = (attempt.at or _now(), model.step, model_id, images.name, shorten_digest(images.digest), run_id)
            logged = [Metric(key, value, *where) for key, value in model.metrics.items()]
            about = {Tag.MODEL: f"models:/{model_id}", Tag.MODEL_HASH: model.tags.get(Tag.MODEL_HASH, "")}
            self._client.log_batch(run_id, logged, tags=[RunTag(key, text) for key, text in about.items()])
        return f"models:/{model_id}"

    def _find_model(self, experiment_id: str, token: str) -> LoggedModel | None:
        found = self._client.search_logged_models([experiment_id], f"tags.`{Tag.TOKEN}` = '{token}'", max_results=1)
        return found[0] if found else None

    def _has_output(self, run_id: str, model_id: str) -> bool:
        outputs = self._client.get_run(run_id).outputs
        return outputs is not None and any(output.model_id == model_id for output in outputs.model_outputs)


def _with_token(tags: Mapping[str, str], attempt: Attempt) -> dict[str, str]:
    return {**tags, Tag.TOKEN: attempt.token} if attempt.token else dict(tags)


def _now() -> int:
    return int(time.time() * 1000)
