"""Convert cnnstudy's records to MLflow's entities and tags, and back; control how MLflow's client behaves."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModel, Run, RunInfo, RunTag
from mlflow.entities import Metric as LoggedMetric
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import (
    _artifact_repository_registry as artifact_stores,  # its method `register` is what MLflow offers to plugins
)
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from cnnstudy.errors import TrackingError, TrackingUnavailableError, without_secrets
from cnnstudy.names import Metric, Tag
from cnnstudy.records import INTERRUPTED, PreparedImages
from cnnstudy.system.files import hardlink_tree
from cnnstudy.system.processes import defer_interrupt
from cnnstudy.tracking import REQUEST_RETRIES, REQUEST_TIMEOUT, TIMEOUT_IS_DEFAULT
from cnnstudy.tracking.recorded import (
    LONGEST_TAG,
    RecordedRun,
    RecordedStudy,
    describe_damaged_tag,
    name_run,
    read_config,
)
from cnnstudy.tracking.retry import comes_from_store, describe_error, is_disk_full, is_server, is_transient, telling
from cnnstudy.tracking.shown_names import own_metric, own_tags, shown_metric, shown_tag
from cnnstudy.tracking.sqlite import describe_schema

_OTHER_SCHEMA = re.compile(r"out-of-date database schema \(found version (\w+),")

for _name in ("mlflow", "alembic"):  # they report the tables of every new database
    logging.getLogger(_name).setLevel(logging.WARNING)
for _name in ("mlflow.store.db", "urllib3.connectionpool"):  # our own errors report what goes wrong there
    logging.getLogger(_name).setLevel(logging.CRITICAL)


# ---- how MLflow's client behaves


class _EnvironmentOverride:
    """A value that an environment variable has while any thread is in an `applied` block."""

    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value
        self._lock, self._users = threading.Lock(), 0
        self._before: str | None = None

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._before = os.environ.get(self.name)
                os.environ[self.name] = self.value
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    os.environ.pop(self.name)
                if not self._users and self._before is not None:
                    os.environ[self.name] = self._before


_no_retries = _EnvironmentOverride(REQUEST_RETRIES, "0")
_file_timeout = _EnvironmentOverride(REQUEST_TIMEOUT, "120")


def without_client_retries() -> AbstractContextManager[None]:
    """Send each request within the block once.

    By default MLflow's client repeats a request whose reply was lost, which would create a run twice.
    """
    return _no_retries.applied()


def with_file_timeout() -> AbstractContextManager[None]:
    """Allow more time for each request within the block, to transfer files.

    A server that passes a large file on to its own store replies late. A timeout that the user has set applies to
    files too.
    """
    return _file_timeout.applied() if TIMEOUT_IS_DEFAULT else contextlib.nullcontext()


#: Seconds until a connection and until a reply, and tries of each request: by default one takes three minutes to fail.
_S3_CONNECT_TIMEOUT, _S3_READ_TIMEOUT, _S3_ATTEMPTS = 10, 15, 2


def _open_s3(*arguments: Any, **named: Any) -> ArtifactRepository:
    """Return MLflow's store for files in S3, after setting time limits for boto3's default session.

    It then fails about as soon as a tracking server that does not answer. A default session that is there already stays
    as it is, and so do tries that `AWS_MAX_ATTEMPTS` sets. Without boto3 MLflow says that it is missing.
    """
    with contextlib.suppress(ImportError):
        import boto3
        import botocore.config
        import botocore.session

        if boto3.DEFAULT_SESSION is None:
            tries = {} if "AWS_MAX_ATTEMPTS" in os.environ else {"retries": {"total_max_attempts": _S3_ATTEMPTS}}
            session = botocore.session.get_session()
            session.set_default_client_config(
                botocore.config.Config(connect_timeout=_S3_CONNECT_TIMEOUT, read_timeout=_S3_READ_TIMEOUT, **tries)
            )
            boto3.setup_default_session(botocore_session=session)
    return S3ArtifactRepository(*arguments, **named)


artifact_stores.register("s3", _open_s3)


@contextlib.contextmanager
def translate_errors(uri: str, tells: bool = False) -> Iterator[None]:
    """Raise errors of MLflow, SQLAlchemy, a missing driver, the network or an artifact store as TrackingError.

    An interrupt is deferred: within a transaction it would leave the database locked by this very process.

    Args:
        tells: whether to say on stderr that the block waits for MLflow, if it takes long.

    Raises:
        TrackingUnavailableError: the same call may succeed later.
        TrackingError: it won't.
    """
    try:
        with defer_interrupt(), telling(f"MLflow at {uri}") if tells else contextlib.nullcontext():
            yield
    except Exception as error:
        if not comes_from_store(error):
            raise
        if schema := _OTHER_SCHEMA.search(str(error)):  # MLflow advises to upgrade, also a database that is newer
            shown = without_secrets(uri)
            raise TrackingError(describe_schema(shown, shown, schema[1]) or str(error)) from error
        message = describe_error(error, uri)
        if not is_transient(error):
            raise TrackingError(message) from error
        unavailable = TrackingUnavailableError(message)
        on_this_machine = isinstance(error, OSError) or uri.startswith("sqlite:")
        unavailable.disk_full = on_this_machine and is_disk_full(error)
        raise unavailable from error


def search_all_pages(search: Callable[[str | None], Any]) -> list[Any]:
    """Return the results of all pages of a search.

    Args:
        search: searches one page, given its token; None for the first.
    """
    page = search(None)
    results = list(page)
    while page.token:
        page = search(page.token)
        results.extend(page)
    return results


def log_model_files(client: MlflowClient, uri: str, model: LoggedModel, folder: Path) -> None:
    """Log the folder's files as those of the model; on this disk as hard links, where MLflow would copy them."""
    if is_local_uri(model.artifact_location, is_tracking_or_registry_uri=False):
        hardlink_tree(folder, Path(local_file_uri_to_path(model.artifact_location)))
        return
    with with_file_timeout():
        if is_server(uri):  # where MLflow's client would ask for the model first
            get_artifact_repository(model.artifact_location, uri).log_artifacts(str(folder))
        else:
            client.log_model_artifacts(model.model_id, str(folder))


# ---- from MLflow


def to_recorded_study(name: str, run: Run) -> RecordedStudy:
    """Return the study whose own run this is; one whose configuration can't be read, with its `damage`."""
    tags, run_id = own_tags(run.data.tags), run.info.run_id
    try:
        return RecordedStudy(name, run.info.experiment_id, run_id, read_config(tags), begun=Tag.STATE in tags)
    except (TypeError, ValueError):
        damage = describe_damaged_tag(run_id, f"study {name!r}", f"{Tag.CONFIG}.0", tags)
        return RecordedStudy(name, run.info.experiment_id, run_id, {}, damage)


@dataclass(frozen=True)
class StoredRun:
    """A run as MLflow stores it, with cnnstudy's names of tags and metrics."""

    info: RunInfo
    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]  # the latest value of each
    epoch: int  # the step of the latest validation accuracy; 0 if there is none


def to_stored_run(run: Run) -> StoredRun:
    """Return a run that MLflow's search has found."""
    steps = (metric.step for metric in run.data.to_proto().metrics if metric.key == Metric.VAL_ACCURACY)
    metrics = {own_metric(name): value for name, value in run.data.metrics.items()}
    return StoredRun(run.info, own_tags(run.data.tags), run.data.params, metrics, max(steps, default=0))


def to_recorded_run(run: StoredRun) -> RecordedRun:
    """Return the record of a run that cnnstudy created."""
    return RecordedRun(
        run_id=run.info.run_id,
        name=name_run(run.info.run_name, run.tags),
        kind=run.tags[Tag.KIND],
        state=run.tags.get(Tag.STATE, "running"),
        reason=run.tags.get(Tag.REASON, ""),
        started=run.info.start_time,
        parameters=run.parameters,
        metrics=run.metrics,
        tags=run.tags,
        ended=run.info.end_time or 0,
        epoch=run.epoch if run.info.status == "RUNNING" else 0,
        status=run.info.status,
    )


@dataclass(frozen=True)
class FoundModel:
    """A model that a run logged."""

    model_id: str
    name: str
    status: str  # MLflow's: PENDING, READY, FAILED
    run_id: str


@dataclass(frozen=True)
class FoundVersion:
    """A version of a registered model."""

    name: str
    version: str
    status: str  # MLflow's: PENDING_REGISTRATION, READY, FAILED_REGISTRATION


# ---- to MLflow


def to_dataset_input(images: PreparedImages) -> DatasetInput:
    """Return the images as the data set that a run was trained on."""
    counts = {"train": images.train, "validation": images.validation, "test": images.test}
    dataset = Dataset(
        name=images.name,
        digest=shorten_digest(images.digest),
        source_type="local",
        source=json.dumps({"uri": images.folder}),
        schema=json.dumps({"classes": list(images.classes)[:200], "pixels": images.size}),
        profile=json.dumps({f"{part}_images": sum(by_class) for part, by_class in counts.items()}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def to_metrics(metrics: Mapping[str, float], step: int, at: int, *where: str) -> list[LoggedMetric]:
    """Return metrics of one step and time (milliseconds since 1970); `where` says of which model and data they are."""
    return [LoggedMetric(shown_metric(name), value, at, step, *where) for name, value in metrics.items()]


def to_tags(tags: Mapping[str, str]) -> list[RunTag]:
    """Return tags as MLflow accepts them.

    Raises:
        TrackingError: as `fit_tag`.
    """
    return [RunTag(shown_tag(key), fit_tag(key, value)) for key, value in tags.items()]


def fit_tag(key: str, value: str) -> str:
    """Return a tag's value as MLflow accepts it: cut to LONGEST_TAG characters.

    Raises:
        TrackingError: the value is JSON and longer, so that cutting would break it.
    """
    text = value.encode(errors="replace").decode()
    if len(text) > LONGEST_TAG and text.startswith(("{", "[")):
        with contextlib.suppress(ValueError):
            json.loads(text)
            raise TrackingError(
                f"the tag {key} is JSON of {len(text)} characters; MLflow allows {LONGEST_TAG} in a tag."
            )
    return text[:LONGEST_TAG]


def shorten_digest(digest: str) -> str:
    """Cut a digest to the 36 characters that MLflow allows."""
    return digest[:36]


def choose_mlflow_status(state: str, reason: str) -> str:
    """Return MLflow's status for a run with that state and reason."""
    if reason == INTERRUPTED:
        return "KILLED"
    return "FAILED" if state == "failed" else "FINISHED"
