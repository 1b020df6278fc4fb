"""A study's experiment and own run in MLflow: found, or made once, however many begin it in the same moment."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from cnnstudy.availability import goes_away
from cnnstudy.config_record import config_tags
from cnnstudy.errors import TrackingError
from cnnstudy.mlflow_view import VIEW_TAG, view_state
from cnnstudy.names import Tag


def study_runs(client: MlflowClient, experiments: Sequence[str]) -> list[Run]:
    """The own runs of the studies with those experiments; of more than one of a study the one that counts first."""
    runs = client.search_runs(list(experiments), f"tags.`{Tag.KIND}` = 'study'") if experiments else []
    # a driver that has begun is not to lose its study to one whose clock is slow
    return sorted(runs, key=lambda run: (not run.data.tags.get(Tag.DRIVER), run.info.start_time, run.info.run_id))


def find_or_make(client: MlflowClient, name: str, config: dict[str, Any]) -> Run:
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
    client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, view_state())
    client.set_experiment_tag(experiment.experiment_id, Tag.KIND, "study")
    runs = study_runs(client, [experiment.experiment_id])
    return runs[0] if runs else _make(client, experiment.experiment_id, name, config)


def _new_experiment(client: MlflowClient, name: str) -> Experiment:
    tags = {"mlflow.experimentKind": "custom_model_development", Tag.KIND: "study", VIEW_TAG: view_state()}
    try:
        client.create_experiment(name, tags=tags)
    except MlflowException as error:  # another driver's in the same moment, or our own, and the reply was lost
        if error.error_code != "RESOURCE_ALREADY_EXISTS" and not goes_away(error):
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
        if not goes_away(error):
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
