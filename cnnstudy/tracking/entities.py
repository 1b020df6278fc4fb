"""cnnstudy's records as MLflow's entities and tags, and back; and how MLflow's client is to behave,
with the files of models too.

Only this module, client.py and registry.py know MLflow.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnstudy.errors import TrackingError, TrackingUnavailableError, without_secrets
from cnnstudy.names import Metric, Tag
from cnnstudy.records import PreparedImages
from cnnstudy.system.files import hardlink_tree
from cnnstudy.system.processes import defer_interrupt
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, read_config
from cnnstudy.tracking.retry import is_disk_full, is_transient

# An unreachable server is to be said soon, not after MLflow's default of four minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
# What a study does is nobody else's business.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A bar for each small file, one after the other, is noise.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# The screen is the display's.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModel, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

for _name in ("mlflow", "alembic"):  # the tables of a fresh database are nobody's news
    logging.getLogger(_name).setLevel(logging.WARNING)
for _name in ("mlflow.store.db", "urllib3.connectionpool"):  # what goes wrong there is told by our errors
    logging.getLogger(_name).setLevel(logging.CRITICAL)

# A server that takes a request and then says nothing is to be said soon too: the default is two minutes for each try.
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_timeout_is_ours = _TIMEOUT not in os.environ
os.environ.setdefault(_TIMEOUT, "15")

LONGEST_TAG = 5000  # characters


class _Meanwhile:
    """A value that an environment variable has while any thread is in such a block."""

    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value
        self._lock, self._inside = threading.Lock(), 0
        self._before: str | None = None

    @contextlib.contextmanager
    def block(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._before = os.environ.get(self.name)
                os.environ[self.name] = self.value
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    os.environ.pop(self.name)
                if not self._inside and self._before is not None:
                    os.environ[self.name] = self._before


_once = _Meanwhile("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
_long = _Meanwhile(_TIMEOUT, "120")


def without_client_retries() -> AbstractContextManager[None]:
    """MLflow's client sends a request again by itself where the reply was lost: a run would be made twice."""
    return _once.block()


def with_file_timeout() -> AbstractContextManager[None]:
    """Files on their way to or from a server: where it has to bring a large one further, it answers late.

    The user's own timeout, where there is one, holds for them too.
    """
    return _long.block() if _timeout_is_ours else contextlib.nullcontext()


def log_model_files(client: MlflowClient, model: LoggedModel, folder: Path) -> None:
    """The folder's files as those of the model; on this disk they are linked, where MLflow would copy all of them."""
    if is_local_uri(model.artifact_location, is_tracking_or_registry_uri=False):
        hardlink_tree(folder, Path(local_file_uri_to_path(model.artifact_location)))
        return
    with with_file_timeout():
        client.log_model_artifacts(model.model_id, str(folder))


@contextlib.contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """MLflow's, SQLAlchemy's, a missing database driver's and the network's errors as TrackingError.

    An interrupt waits: within a transaction it would leave the database locked by this very process.

    Raises:
        TrackingUnavailableError: where the same may succeed later.
    """
    try:
        with defer_interrupt():
            yield
    except Exception as error:
        expected = isinstance(error, MlflowException | OSError | ImportError)
        if not expected and "sqlalchemy" not in type(error).__module__:
            raise
        text = without_secrets(str(error)).split("\n")[0][:500]
        message = f"MLflow at {without_secrets(uri)} does not answer as it should: {text}"
        if not is_transient(error):
            raise TrackingError(message) from error
        unavailable = TrackingUnavailableError(message)
        here = isinstance(error, OSError) or uri.startswith("sqlite:")
        unavailable.disk_full = here and is_disk_full(error)
        raise unavailable from error


def all_pages(search: Callable[[str | None], Any]) -> list[Any]:
    """What a search finds, told the token of each page."""
    page = search(None)
    found = list(page)
    while page.token:
        page = search(page.token)
        found.extend(page)
    return found


def recorded_study(name: str, run: Run) -> RecordedStudy:
    """The study whose own run this is."""
    return RecordedStudy(name, run.info.experiment_id, run.info.run_id, read_config(run.data.tags))


def recorded_run(run: Run) -> RecordedRun:
    """A run that cnnstudy made."""
    tags = run.data.tags
    return RecordedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        kind=tags[Tag.KIND],
        state=tags.get(Tag.STATE, "running"),
        reason=tags.get(Tag.REASON, ""),
        started=run.info.start_time,
        parameters=run.data.params,
        metrics=run.data.metrics,
        tags=tags,
        ended=run.info.end_time or 0,
        epoch=_epoch(run) if run.info.status == "RUNNING" else 0,
        status=run.info.status,
    )


def _epoch(run: Run) -> int:
    return max((metric.step for metric in run.data.to_proto().metrics if metric.key == Metric.VAL_ACCURACY), default=0)


def dataset_input(images: PreparedImages) -> DatasetInput:
    """The images as the data set that a run was trained with."""
    counts = {"train": images.train, "validation": images.validation, "test": images.test}
    dataset = Dataset(
        name=images.name,
        digest=shorten_digest(images.digest),
        source_type="local",
        source=json.dumps({"uri": images.folder}),
        schema=json.dumps({"classes": list(images.classes)[:200], "pixels": images.size}),
        profile=json.dumps({f"{part}_images": sum(of_class) for part, of_class in counts.items()}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def tag_text(key: str, value: str) -> str:
    """A tag's value as MLflow takes it: cut, where it is long.

    Raises:
        TrackingError: it is long and JSON; cut it would be none.
    """
    text = value.encode(errors="replace").decode()
    if len(text) > LONGEST_TAG and text.startswith(("{", "[")):
        with contextlib.suppress(ValueError):
            json.loads(text)
            raise TrackingError(
                f"the tag {key} is JSON of {len(text)} characters; MLflow takes {LONGEST_TAG} of a tag."
            )
    return text[:LONGEST_TAG]


def shorten_digest(digest: str) -> str:
    """MLflow takes digests of up to 36 characters."""
    return digest[:36]


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


def choose_mlflow_status(state: str, reason: str) -> str:
    """MLflow's status of a run with that state and reason."""
    if reason == "interrupted":
        return "KILLED"
    return "FAILED" if state == "failed" else "FINISHED"
