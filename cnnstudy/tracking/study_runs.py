"""A study's own run in its experiment: find it, or create both."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from cnnstudy.errors import TrackingError
from cnnstudy.names import Tag
from cnnstudy.tracking.recorded import config_tags, tag_filter
from cnnstudy.tracking.relocation import FOLDER
from cnnstudy.tracking.retry import is_transient
from cnnstudy.tracking.sqlite import sqlite_file
from cnnstudy.tracking.ui_layout import VIEW_TAG, layout_tag


def study_runs(client: MlflowClient, experiments: Sequence[str]) -> list[Run]:
    """Return the own runs of the studies in those experiments; if a study has several, the valid one comes first."""
    runs = client.search_runs(list(experiments), tag_filter(Tag.KIND, "study")) if experiments else []
    # by driver before time: a driver on a machine with a slow clock must not take over a study that has begun
    return sorted(runs, key=lambda run: (not run.data.tags.get(Tag.DRIVER), run.info.start_time, run.info.run_id))


def find_or_create_study_run(client: MlflowClient, uri: str, name: str, config: dict[str, Any]) -> Run:
    """Return the study's own run; create it, with the configuration, if there is none.

    Call it within `without_client_retries`.

    Raises:
        TrackingError: the study's experiment was deleted.
    """
    experiment = client.get_experiment_by_name(name) or _create_experiment(client, uri, name)
    refuse_deleted(experiment)
    client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, layout_tag())
    client.set_experiment_tag(experiment.experiment_id, Tag.KIND, "study")
    runs = study_runs(client, [experiment.experiment_id])
    return runs[0] if runs else _create_study_run(client, experiment.experiment_id, name, config)


def refuse_deleted(experiment: Experiment) -> None:
    """Raise TrackingError if a study's experiment was deleted."""
    if experiment.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the experiment {experiment.name!r} was deleted in MLflow; restore it there, or give the study another "
            "name."
        )


def _create_experiment(client: MlflowClient, uri: str, name: str) -> Experiment:
    tags = {"mlflow.experimentKind": "custom_model_development", Tag.KIND: "study", VIEW_TAG: layout_tag()}
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
    tags = {Tag.KIND: "study", Tag.TOKEN: token, **config_tags(config)}
    try:
        client.create_run(experiment, run_name=f"study {name}", tags=tags)
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
