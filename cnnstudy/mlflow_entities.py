"""cnnstudy's records as MLflow's entities and tags, and back; and how MLflow's client is to behave.

Only this module, tracking.py and registry.py know MLflow.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

from cnnstudy.records import PreparedImages, RecordedRun, RecordedStudy

# An unreachable server is to be said soon, not after MLflow's default of four minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
# What a study does is nobody else's business.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The screen is the display's.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow.entities import Dataset, DatasetInput, InputTag, Run

for _name in ("mlflow", "alembic"):  # the tables of a fresh database are nobody's news
    logging.getLogger(_name).setLevel(logging.WARNING)
for _name in ("mlflow.store.db", "urllib3.connectionpool"):  # what goes wrong there is told by our errors
    logging.getLogger(_name).setLevel(logging.CRITICAL)

KIND, STATE, REASON = "cnnstudy.kind", "cnnstudy.state", "cnnstudy.reason"
CALLED, CONFIG = "cnnstudy.called", "cnnstudy.config"
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_sending, _senders, _retries_before = threading.Lock(), 0, ""


@contextlib.contextmanager
def sent_once() -> Iterator[None]:
    """MLflow's client sends a request again by itself where the reply was lost: a run would be made twice."""
    global _senders, _retries_before
    with _sending:
        if not _senders:
            _retries_before = os.environ.get(_RETRIES, "3")
            os.environ[_RETRIES] = "0"
        _senders += 1
    try:
        yield
    finally:
        with _sending:
            _senders -= 1
            if not _senders:
                os.environ[_RETRIES] = _retries_before


def config_tags(config: dict[str, Any]) -> dict[str, str]:
    """The configuration as JSON, in as many tags as it takes: `cnnstudy.config.0`, `cnnstudy.config.1` and so on."""
    text = json.dumps(config)
    return {f"{CONFIG}.{number}": text[5000 * number :][:5000] for number in range(1 + len(text) // 5000)}


def recorded_study(name: str, run: Run) -> RecordedStudy:
    """The study whose own run this is."""
    tags = run.data.tags
    text = "".join(itertools.takewhile(bool, (tags.get(f"{CONFIG}.{number}") for number in itertools.count())))
    config, _ = json.JSONDecoder().raw_decode(text)  # a longer one that held before may have left tags behind
    return RecordedStudy(name, run.info.experiment_id, run.info.run_id, config)


def recorded_run(run: Run) -> RecordedRun:
    """A run that cnnstudy made."""
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
    )


def dataset_input(images: PreparedImages) -> DatasetInput:
    """The images as the data set that a run was trained with."""
    counts = {"train": images.train, "validation": images.validation, "test": images.test}
    dataset = Dataset(
        name=images.name,
        digest=short(images.digest),
        source_type="local",
        source=json.dumps({"uri": images.folder}),
        schema=json.dumps({"classes": list(images.classes)[:200], "pixels": images.size}),
        profile=json.dumps({f"{part}_images": sum(of_class) for part, of_class in counts.items()}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def short(digest: str) -> str:
    """MLflow takes digests of up to 36 characters."""
    return digest[:36]
