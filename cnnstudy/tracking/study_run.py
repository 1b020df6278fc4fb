"""A study's experiment and own run in MLflow: find them, create them, or say what became of them.

Users may rename, delete, restore and remove them for good with MLflow's UI and commands.
"""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException

from cnnstudy.errors import LostRunError
from cnnstudy.names import NOBODY, Tag
from cnnstudy.tracking.recorded import RecordedStudy, config_tags, name_run, tag_filter
from cnnstudy.tracking.relocation import FOLDER
from cnnstudy.tracking.retry import is_transient
from cnnstudy.tracking.shown_names import shown_tag
from cnnstudy.tracking.sqlite import sqlite_file
from cnnstudy.tracking.ui_layout import VIEW_TAG, layout_tag

#: A filter for the experiments of studies, in MLflow's search syntax.
STUDIES = tag_filter(Tag.KIND, "study")


def run_name(study: str) -> str:
    """Return the name of a study's own run."""
    return f"study {study}"


def study_runs(client: MlflowClient, experiments: Sequence[str]) -> list[Run]:
    """Return the own runs of the studies in those experiments; if a study has several, the valid one comes first."""
    runs = client.search_runs(list(experiments), tag_filter(Tag.KIND, "study")) if experiments else []
    # by driver before time: a driver on a machine with a slow clock must not take over a study that has begun
    idle = {run.info.run_id: run.data.tags.get(Tag.DRIVER, "") in ("", NOBODY) for run in runs}
    return sorted(runs, key=lambda run: (idle[run.info.run_id], run.info.start_time, run.info.run_id))


def find_or_create_study_run(client: MlflowClient, uri: str, name: str, config: dict[str, Any]) -> Run:
    """Return the study's own run; create it, with the configuration, if there is none.

    Call it within `without_client_retries`.

    Raises:
        LostRunError: its experiment or its own run was deleted, or its experiment renamed.
    """
    refuse_lost(client, name)
    experiment = client.get_experiment_by_name(name) or _create_experiment(client, uri, name)
    client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, layout_tag(config))
    client.set_experiment_tag(experiment.experiment_id, Tag.KIND, "study")
    runs = study_runs(client, [experiment.experiment_id])
    return runs[0] if runs else _create_study_run(client, experiment.experiment_id, name, config)


#: What MLflow's UI says of a study's experiment, in Markdown.
_DESCRIPTION = (
    "A study of cnnstudy. The run `study {name}` is the study itself, with its file and its answer; every other run is "
    "a trial.\n\n`gap/accuracy` is train minus validation accuracy, both measured in inference mode after each epoch; "
    "a trial that overfits has a large one. Curves end with the last epoch; `best_...` and a trial's model are of "
    "the best epoch. Metrics are shares of 1, so that 0.05 is 5 % or 5 points. "
    "`python -m cnnstudy report {name}` writes the page with all figures."
)


def refuse_lost(client: MlflowClient, name: str) -> None:
    """Raise LostRunError if a study's experiment or own run was deleted, or its experiment renamed."""
    if lost := describe_lost_name(client, name):
        raise LostRunError(f"{lost} To begin anew, give the study another name (`name:` in its file).")


def _create_experiment(client: MlflowClient, uri: str, name: str) -> Experiment:
    tags = {
        "mlflow.experimentKind": "custom_model_development",
        Tag.KIND: "study",
        Tag.NOTE: _DESCRIPTION.format(name=name),
    }
    try:
        client.create_experiment(name, _encoded_location(uri), tags)
    except MlflowException as error:  # another driver created it at the same time, or the reply to our request was lost
        if error.error_code != "RESOURCE_ALREADY_EXISTS" and not is_transient(error):
            raise
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return experiment
    return client.get_experiment_by_name(name)


def _encoded_location(uri: str) -> str | None:
    """Return a place for an experiment's files, as an encoded address; None: MLflow's own choice will do.

    They belong beside the database, from whatever folder it is reached. MLflow chooses the working folder, and takes
    its path for an encoded one: `%2F` in it would become `/`, and files would be written elsewhere.
    """
    database = sqlite_file(uri)
    if database is None:
        return None
    folder = database.resolve().parent / FOLDER
    if folder.parent == Path.cwd() and not set("%#?") & set(str(folder)):
        return None
    return f"{folder.as_uri()}/{uuid.uuid4().hex}"


def _create_study_run(client: MlflowClient, experiment: str, name: str, config: dict[str, Any]) -> Run:
    token, lost = uuid.uuid4().hex, None
    tags = {Tag.KIND: "study", Tag.TOKEN: token, **{shown_tag(key): text for key, text in config_tags(config).items()}}
    try:
        client.create_run(experiment, run_name=run_name(name), tags=tags)
    except MlflowException as error:
        if not is_transient(error):
            raise
        lost = error  # MLflow may have created it and only the reply was lost
    runs = study_runs(client, [experiment])
    if lost is not None and not runs:
        raise lost
    for run in runs[1:]:
        if run.data.tags.get(Tag.TOKEN) == token:  # another driver was first
            client.set_terminated(run.info.run_id, "KILLED")
            client.delete_run(run.info.run_id)
    return runs[0]


# ---- what became of them


def describe_lost_name(client: MlflowClient, name: str) -> str:
    """Say what became of the study of that name, and how to restore it; "" if it is there, or never was."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return _describe_renamed(client, name)
    if experiment.lifecycle_stage == "deleted":
        return _describe_deleted_experiment(name, experiment.experiment_id)
    if study_runs(client, [experiment.experiment_id]):
        return ""
    deleted = client.search_runs([experiment.experiment_id], tag_filter(Tag.KIND, "study"), ViewType.DELETED_ONLY)
    begun = [run for run in deleted if Tag.STATE in run.data.tags]  # not one that lost a race to be the study's
    return _describe_deleted_run(f"the own run of study {name!r}", begun[0].info.run_id) if begun else ""


def list_lost_studies(client: MlflowClient) -> list[tuple[str, str]]:
    """Return the name of each study that was renamed or has lost its own run, and what became of it."""
    names = {one.experiment_id: one.name for one in client.search_experiments(filter_string=STUDIES)}
    own = {run.info.experiment_id: run.info.run_name for run in reversed(study_runs(client, list(names)))}
    found = {name: describe_lost_name(client, name) for place, name in names.items() if place not in own}
    gone = {
        name: f"the own run of study {name!r}, with its settings, is not in MLflow any more. Its next run-study makes "
        "a new one."
        for place, name in names.items()
        if found.get(name) == "" and client.search_runs([place], max_results=1)
    }
    before = {place: (title or "").removeprefix(run_name("")) for place, title in own.items()}
    renamed = {name: _describe_renamed(client, name) for place, name in before.items() if name != names[place]}
    return [(name, text) for name, text in {**found, **gone, **renamed}.items() if text]


def describe_loss(client: MlflowClient, uri: str, study: RecordedStudy) -> str:
    """Say what became of a study that was there when this command began; "" if it still is."""
    try:
        experiment = client.get_experiment(study.experiment_id)
        life = client.get_run(study.run_id).info.lifecycle_stage
    except MlflowException as error:
        if is_missing(error):
            return f"study {study.name!r} is not in MLflow any more: {_why_missing(uri)}"
        raise
    if experiment.lifecycle_stage == "deleted":
        return _describe_deleted_experiment(study.name, study.experiment_id)
    return _describe_deleted_run(f"the own run of study {study.name!r}", study.run_id) if life == "deleted" else ""


def describe_lost_run(client: MlflowClient, uri: str, run_id: str) -> str:
    """Say what became of a run that was there when its first record was written; "" if it still is."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if is_missing(error):
            return f"MLflow does not have the run {run_id} any more: {_why_missing(uri)}"
        raise
    name = f"the run of {name_run(run.info.run_name, run.data.tags)}"
    return _describe_deleted_run(name, run_id) if run.info.lifecycle_stage == "deleted" else ""


def is_missing(reason: Exception) -> bool:
    """Return whether what was asked for is not there."""
    return isinstance(reason, FileNotFoundError) or getattr(reason, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"


def last_called(run: Run) -> int:
    """Return when the study of this run was last called, in milliseconds since 1970."""
    called = run.data.tags.get(Tag.CALLED, "")
    return int(called) if called.isdecimal() else int(run.info.start_time)


def _describe_renamed(client: MlflowClient, name: str) -> str:
    others = {one.experiment_id: one.name for one in client.search_experiments(filter_string=STUDIES)}
    for run in study_runs(client, list(others)):
        if run.info.run_name == run_name(name):
            place = run.info.experiment_id
            return (
                f"the experiment of study {name!r} was renamed {others[place]!r} in MLflow. Rename it back: `mlflow "
                f"experiments rename --experiment-id {place} --new-name {shlex.quote(name)}`."
            )
    return ""


def _describe_deleted_experiment(name: str, experiment: str) -> str:
    return (
        f"the experiment of study {name!r} was deleted in MLflow. Restore it: `mlflow experiments restore "
        f"--experiment-id {experiment}`."
    )


def _describe_deleted_run(what: str, run_id: str) -> str:
    return f"{what} was deleted in MLflow. Restore it: `mlflow runs restore --run-id {run_id}`."


def _why_missing(uri: str) -> str:
    place = sqlite_file(uri) or "its database"
    return (
        f"{place} was replaced, or `mlflow gc` removed what had been deleted. Put {place} back from a copy that has it."
    )
