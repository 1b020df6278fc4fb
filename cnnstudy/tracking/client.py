"""Read and write studies and runs in MLflow; registry.py does the same for models.

Each study is an experiment. In it are, without nesting, runs with a tag `cnnstudy.kind`:

    study      the study's own run, with its file and configuration
    pretrain   one for each network, or network and seed, that was trained for source weights
    trial      one for each trial
    confirm    one for each candidate and new seed
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric, Param, ViewType
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from cnnstudy.errors import TrackingError, UnknownNameError, did_you_mean, without_secrets
from cnnstudy.names import Tag
from cnnstudy.records import PreparedImages
from cnnstudy.system.output import print_note
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking import study_run
from cnnstudy.tracking.entities import (
    StoredRun,
    choose_mlflow_status,
    log_model_files,
    search_all_pages,
    shorten_digest,
    to_dataset_input,
    to_metrics,
    to_recorded_run,
    to_recorded_study,
    to_stored_run,
    to_tags,
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
    Step,
    current_time,
)
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, config_tags, describe_left_out, tag_filter
from cnnstudy.tracking.relocation import corrected_copy, find_moved, require_writable
from cnnstudy.tracking.retry import await_answer, telling
from cnnstudy.tracking.shown_names import own_tags, shown_metric
from cnnstudy.tracking.sqlite import analyze_metrics, check_schema, create_database, sqlite_file
from cnnstudy.tracking.sqlite_runs import LargeStudyReader
from cnnstudy.tracking.study_run import find_or_create_study_run, last_called, refuse_lost, study_runs

DEFAULT_URI = "sqlite:///mlflow.db"


def tracking_uri(given: str | None) -> str:
    """Return the given URI, or `MLFLOW_TRACKING_URI`, or mlflow.db in the current folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def find_tracker(uri: str, tells: bool = False) -> Tracker | None:
    """Return the tracker at the URI; None if its database does not exist yet: a Tracker would create it.

    Args:
        tells: as for Tracker.
    """
    path = sqlite_file(uri)
    if path is None and urlsplit(uri).scheme in ("", "file"):
        path = Path(unquote(urlsplit(uri).path))
    if path is not None and not path.exists() and path.parent.is_dir():
        return None
    return Tracker(uri, tells)


def existing_tracker(given: str | None, writes: bool = False, tells: bool = True) -> Tracker:
    """Return the tracker at `tracking_uri(given)`, for a command that must not create a database.

    Args:
        writes: whether the command may add files to a study. One that does not finds those of a moved project, too.
        tells: as for Tracker.

    Raises:
        UnknownNameError: there is no database, so that there is no study.
        TrackingError: the command writes, and the project was moved.
    """
    uri = tracking_uri(given)
    moved = None
    with telling(f"MLflow at {uri}") if tells else contextlib.nullcontext():  # they may wait for a lock
        if writes:
            require_writable(uri)
        else:
            moved = find_moved(uri)
    if moved:
        print_note(f"{moved}; `python -m cnnstudy doctor --repair` corrects that.")
        uri = corrected_copy(moved)
    tracker = find_tracker(uri, tells)
    if tracker is None:
        raise UnknownNameError(_no_study(uri))
    return tracker


def _no_study(uri: str) -> str:
    return (
        f"there is no study in {sqlite_file(uri) or without_secrets(uri)} yet. Create one with "
        "`python -m cnnstudy run-study`, or choose another tracking server or database with --tracking-uri or "
        "MLFLOW_TRACKING_URI."
    )


def _refuse_damaged(study: RecordedStudy) -> RecordedStudy:
    if study.damage:
        raise TrackingError(study.damage)
    return study


class Tracker:
    """The studies and runs of one tracking server or database.

    Its methods raise TrackingError if MLflow refuses a request, TrackingUnavailableError if the same request may
    succeed later.

    Args:
        tells: whether to say on stderr that MLflow is waited for, where an answer takes long.
    """

    def __init__(self, uri: str, tells: bool = False) -> None:
        self.uri, self.tells = uri, tells
        self._analyzed, self._large = False, LargeStudyReader(uri)
        self._left_out: set[str] = set()  # runs that the user was told of
        self._artifact_uris: dict[str, str] = {}  # of the runs that were started here and have not ended
        path = sqlite_file(uri)
        if path is not None and path.is_dir():  # MLflow would retry for minutes
            raise TrackingError(f"{path} is a folder, not a database; move it, or choose another with --tracking-uri.")
        await_answer(uri)
        with self._translate_errors():
            check_schema(uri)
            create_database(uri, lambda new: MlflowClient(new).search_experiments(max_results=1))
            try:
                self._client = MlflowClient(uri)
            except ValueError as error:  # from SQLAlchemy, of an invalid port
                raise TrackingError(f"MLflow can't use the tracking URI {uri}: {error}") from error

    def _translate_errors(self) -> AbstractContextManager[None]:
        return translate_errors(self.uri, self.tells)

    @property
    def client(self) -> MlflowClient:
        """Return MLflow's own client, for tracking/registry.py."""
        return self._client

    # ---- studies

    def studies(self) -> list[RecordedStudy]:
        """Return all studies, the most recently run first; a damaged one has its `damage`."""
        with self._translate_errors():
            names = {
                experiment.experiment_id: experiment.name
                for experiment in self._client.search_experiments(filter_string=study_run.STUDIES)
            }
            runs = study_runs(self._client, list(names))
        by_study = {run.info.experiment_id: run for run in reversed(runs)}.values()
        latest = sorted(by_study, key=last_called, reverse=True)
        return [to_recorded_study(names[run.info.experiment_id], run) for run in latest]

    def study(self, name: str | None) -> RecordedStudy:
        """Return the study of that name; without a name, the most recently run that has trials or is running.

        A study that ended before its first trial, such as one whose images can't be used, has nothing to show.

        Raises:
            UnknownNameError: there is no such study.
            TrackingError: its record is damaged.
        """
        studies = self.studies()
        where = without_secrets(self.uri)
        lost = "" if name is None or name in {study.name for study in studies} else self._describe_lost_name(name)
        if lost:
            raise UnknownNameError(lost)
        if not studies:
            raise UnknownNameError(_no_study(self.uri))
        names = [study.name for study in studies]
        if name is None:
            return _refuse_damaged(next(filter(self._has_begun, studies), studies[0]))
        if name not in names:
            raise UnknownNameError(
                f"there is no study {name!r} in {where}{did_you_mean(name, names)} Available studies: "
                f"{', '.join(names)}."
            )
        return _refuse_damaged(studies[names.index(name)])

    def find_study(self, name: str) -> RecordedStudy | None:
        """Return the study of that name; None if `open_study` would create it.

        Raises:
            TrackingError: as `open_study`.
        """
        with self._translate_errors():
            refuse_lost(self._client, name)
            experiment = self._client.get_experiment_by_name(name)
            if experiment is None:
                return None
            runs = study_runs(self._client, [experiment.experiment_id])
            return _refuse_damaged(to_recorded_study(name, runs[0])) if runs else None

    def _has_begun(self, study: RecordedStudy) -> bool:
        """Return whether the study has runs besides its own, or a driver."""
        others = f"tags.`{Tag.KIND}` != 'study'"
        with self._translate_errors():
            if self._client.search_runs([study.experiment_id], others, max_results=1):
                return True
        return self.tags(study.run_id).get(Tag.STATE) == "running"

    def _describe_lost_name(self, name: str) -> str:
        with self._translate_errors():
            return study_run.describe_lost_name(self._client, name)

    def list_lost_studies(self) -> list[tuple[str, str]]:
        """Return the name of each study that was renamed or has lost its own run, and what became of it."""
        with self._translate_errors():
            return study_run.list_lost_studies(self._client)

    def describe_loss(self, study: RecordedStudy) -> str:
        """Say what became of a study that was there when this command began; "" if it still is."""
        with self._translate_errors():
            return study_run.describe_loss(self._client, self.uri, study)

    def describe_lost_run(self, run_id: str) -> str:
        """Say what became of a run that was there when its first record was written; "" if it still is."""
        with self._translate_errors():
            return study_run.describe_lost_run(self._client, self.uri, run_id)

    def open_study(self, name: str, config: dict[str, Any]) -> RecordedStudy:
        """Return the study; create its experiment and run, with the configuration, if there are none.

        Drivers that create the same study at the same time get the same run, so that only one gets the driver lock.

        Raises:
            LostRunError: the study's experiment or own run was deleted, or its experiment renamed.
            TrackingError: its record is damaged.
        """
        with self._translate_errors(), without_client_retries():
            own = find_or_create_study_run(self._client, self.uri, name, config)
            return _refuse_damaged(to_recorded_study(name, own))

    def start_study(
        self, study: RecordedStudy, config: dict[str, Any], file: Path, text: str, tags: Mapping[str, str] | None = None
    ) -> None:
        """Mark the study as running, and record its file and its configuration, which may have changed."""
        self.restart_study(study, {**config_tags(config), **(tags or {}), Tag.CALLED: str(current_time())})
        with scratch_folder() as folder:
            (folder / "study").mkdir()
            # MLflow takes an artifact's path for a part of an address
            (folder / "study" / re.sub(r"[#?%\x00-\x1f\x7f]", "_", file.name)).write_text(text, encoding="utf-8")
            self.log_files(study.run_id, folder)

    def restart_study(self, study: RecordedStudy, tags: Mapping[str, str] | None = None) -> None:
        """Mark the study as running, with its configuration unchanged."""
        with self._translate_errors():
            self._client.update_run(study.run_id, status="RUNNING")
            ended = self._client.get_run(study.run_id).data.tags
            for tag in {Tag.REASON, Tag.MESSAGE} & ended.keys():  # of how it ended before; an empty one would be shown
                self._client.delete_tag(study.run_id, tag)
        self.set_tags(study.run_id, {**(tags or {}), Tag.STATE: "running"})

    def artifact_location(self, experiment_id: str) -> str:
        """Return where the files of the experiment's runs are stored: a folder's path or a URI."""
        with self._translate_errors():
            return str(self._client.get_experiment(experiment_id).artifact_location)

    # ---- runs

    def runs(self, experiment_id: str, where: str = "") -> list[RecordedRun]:
        """Return the experiment's runs that cnnstudy created, oldest first; tell once of those whose kind was edited.

        Args:
            where: a filter in MLflow's search syntax; "" for all runs.
        """
        search, order = self._client.search_runs, ["start_time ASC"]
        found: Iterable[StoredRun] | None = None if where else self._large.find_runs(experiment_id)
        with self._translate_errors():
            if found is None:
                pages = search_all_pages(lambda token: search([experiment_id], where, order_by=order, page_token=token))
                found = map(to_stored_run, pages)
        runs = []
        for run in found:
            left_out = describe_left_out(run.info.run_id, run.info.run_name, run.tags)
            if left_out and run.info.run_id not in self._left_out:
                self._left_out.add(run.info.run_id)
                print_note(left_out)
            if Tag.KIND in run.tags:
                runs.append(to_recorded_run(run))
        return runs

    def recent_runs(self, experiment_id: str, since: int) -> list[RecordedRun]:
        """Return the experiment's runs that are running or ended at `since` or later.

        Fast; reading all runs takes a second for each 200.

        Args:
            since: milliseconds since 1970.
        """
        running = self.runs(experiment_id, "attributes.status = 'RUNNING'")
        # queried second, so that a run that ends in between is not missed
        ended = self.runs(experiment_id, f"attributes.end_time >= {since}")
        return list({run.run_id: run for run in [*running, *ended]}.values())

    def write(self, operation: Operation, experiment_id: str, run_id: str, attempt: Attempt = FIRST_ATTEMPT) -> str:
        """Carry out an operation.

        Args:
            run_id: of the run to write to; "" for StartRun.

        Returns:
            The id of the run or the address of the model that was created; otherwise "".
        """
        match operation:
            case StartRun():
                return self.start_run(experiment_id, operation, attempt)
            case LogModel():
                return self.log_model(experiment_id, run_id, operation, attempt)
            case LogMetrics():
                self.log_metrics(run_id, operation.metrics, operation.step, attempt.at, operation.earlier)
            case SetTags():
                self.set_tags(run_id, operation.tags)
            case LogFiles():
                self.log_files(run_id, operation.folder)
            case EndRun():
                self._end(run_id, operation, attempt.at)
        return ""

    def start_run(self, experiment_id: str, run: StartRun, attempt: Attempt = FIRST_ATTEMPT) -> str:
        """Create a run with its parameters and the data set as its input; return its id."""
        with self._translate_errors(), without_client_retries():
            run_id = self.find_run(experiment_id, attempt.token) if attempt.again else None
            if run_id is None:
                tags = attempt.mark(run.tags)
                created = self._client.create_run(experiment_id, attempt.at, tags, run.name).info
                run_id = str(created.run_id)
                self._artifact_uris[run_id] = str(created.artifact_uri)
            self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in run.parameters.items()])
            self._client.log_inputs(run_id, [to_dataset_input(run.images)])
            return run_id

    def find_run(self, experiment_id: str, token: str) -> str | None:
        """Return the id of the run with the token as a tag, even if it is deleted; None if there is none."""
        with self._translate_errors():
            runs = self._client.search_runs([experiment_id], tag_filter(Tag.TOKEN, token), ViewType.ALL, 1)
        return str(runs[0].info.run_id) if runs else None

    def log_metrics(
        self, run_id: str, metrics: Mapping[str, float], step: int, at: int | None = None, earlier: Sequence[Step] = ()
    ) -> None:
        """Log all metrics of one step, and those of earlier ones, in requests of 1000, MLflow's limit.

        Repeating it changes nothing: MLflow stores metrics of equal name, value, step and time once.

        Args:
            at: milliseconds since 1970; None for now.
        """
        logged = [metric for one in earlier for metric in to_metrics(one.metrics, one.step, one.at)]
        logged += to_metrics(metrics, step, at or current_time())
        with self._translate_errors(), without_client_retries():
            for start in range(0, len(logged), 1000):
                self._client.log_batch(run_id, logged[start : start + 1000])

    def metric_history(self, run_id: str, key: str) -> dict[int, float]:
        """Return the metric's values by step; {} if the run has no such metric."""
        if not self._analyzed:  # before the first of many such queries
            self._analyzed = True
            analyze_metrics(self.uri)
        for name in dict.fromkeys((shown_metric(key), key)):  # an earlier version recorded it by its own name
            if found := self._read_history(run_id, name):
                return found
        return {}

    def _read_history(self, run_id: str, name: str) -> dict[int, float]:
        if (found := self._large.find_history(run_id, name)) is not None:
            return found
        with self._translate_errors():
            return {metric.step: metric.value for metric in self._client.get_metric_history(run_id, name)}

    def log_files(self, run_id: str, folder: Path) -> None:
        """Log the folder's contents as artifacts of the run."""
        uri = self._artifact_uris.get(run_id)
        with self._translate_errors(), without_client_retries(), with_file_timeout():
            if uri:  # MLflow's client would ask for the run first, and keep 10 kB of each of its last 1,000 runs
                get_artifact_repository(uri, self.uri).log_artifacts(str(folder))
            else:
                self._client.log_artifacts(run_id, str(folder))

    def files(self, run_id: str, folder: str) -> list[str]:
        """Return the paths of the run's artifacts directly in that folder, without subfolders."""
        with self._translate_errors():
            return [entry.path for entry in self._client.list_artifacts(run_id, folder) if not entry.is_dir]

    def read_text(self, run_id: str, path: str) -> str | None:
        """Return the text of the run's artifact at that path; None if there is no such file."""
        if path not in self.files(run_id, path.rpartition("/")[0]):
            return None
        with self._translate_errors(), scratch_folder() as folder:
            file = Path(self._client.download_artifacts(run_id, path, str(folder)))
            return file.read_text(encoding="utf-8", errors="replace")

    def tags(self, run_id: str) -> dict[str, str]:
        """Return the run's current tags."""
        with self._translate_errors():
            return own_tags(self._client.get_run(run_id).data.tags)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags; values longer than MLflow allows are cut.

        Raises:
            TrackingError: a value is JSON and too long, so that cutting would break it.
        """
        fitting = to_tags(tags)
        with self._translate_errors(), without_client_retries():
            self._client.log_batch(run_id, tags=fitting)

    def end_run(self, run_id: str, state: str, tags: Mapping[str, str] | None = None, at: int | None = None) -> None:
        """Set the final state of a run, and MLflow's status to match.

        Args:
            at: milliseconds since 1970; None for now.
        """
        self._end(run_id, EndRun(state, tags or {}), at)

    def _end(self, run_id: str, end: EndRun, at: int | None, metrics: Sequence[Metric] = ()) -> None:
        """End a run: with one request for all its metrics, also those given, and its tags; one for MLflow's status."""
        tags = to_tags({**end.tags, Tag.STATE: end.state})
        logged = to_metrics(end.metrics, end.step, at or current_time())
        with self._translate_errors(), without_client_retries():
            self._client.log_batch(run_id, [*metrics, *logged], tags=tags)
        self.set_status(run_id, choose_mlflow_status(end.state, end.tags.get(Tag.REASON, "")), at)

    def set_status(self, run_id: str, status: str, at: int | None = None) -> None:
        """Set only MLflow's status of a run.

        Args:
            at: milliseconds since 1970; None for now.
        """
        with self._translate_errors(), without_client_retries():
            self._client.set_terminated(run_id, status, at)
        self._artifact_uris.pop(run_id, None)

    # ---- models

    def log_model(self, experiment_id: str, run_id: str, model: LogModel, attempt: Attempt = FIRST_ATTEMPT) -> str:
        """Log the model as an output of the run, with the model's metrics; return its address, `models:/<id>`.

        The time of the attempt applies to the metrics; MLflow itself sets the model's creation time.
        """
        with self._translate_errors(), without_client_retries():
            logged = self._find_model(experiment_id, attempt.token) if attempt.again else None
            if logged is None:
                logged = self._client.create_logged_model(
                    experiment_id, model.name, run_id, attempt.mark(model.tags), model_type="classifier"
                )
            model_id = logged.model_id
            log_model_files(self._client, self.uri, logged, model.folder)
            self._client.finalize_logged_model(model_id, "READY")
            if not (attempt.again and self._has_output(run_id, model_id)):
                self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=model.step)])
            where = (model_id, model.images.name, shorten_digest(model.images.digest), run_id)
            metrics = to_metrics(model.metrics, model.step, attempt.at or current_time(), *where)
            tags = {Tag.MODEL: f"models:/{model_id}", Tag.MODEL_HASH: model.tags.get(Tag.MODEL_HASH, "")}
            if model.end is None:
                self._client.log_batch(run_id, metrics, tags=to_tags(tags))
        if model.end is not None:
            self._end(run_id, replace(model.end, tags={**tags, **model.end.tags}), attempt.at, metrics)
        return f"models:/{model_id}"

    def add_inputs(self, run_id: str, images: Sequence[PreparedImages]) -> None:
        """Record images as the data sets of a run; those that it has already stay as they are."""
        with self._translate_errors(), without_client_retries():
            self._client.log_inputs(run_id, [to_dataset_input(one) for one in images])

    def _find_model(self, experiment_id: str, token: str) -> LoggedModel | None:
        found = self._client.search_logged_models([experiment_id], tag_filter(Tag.TOKEN, token), max_results=1)
        return found[0] if found else None

    def _has_output(self, run_id: str, model_id: str) -> bool:
        outputs = self._client.get_run(run_id).outputs
        return outputs is not None and any(output.model_id == model_id for output in outputs.model_outputs)
