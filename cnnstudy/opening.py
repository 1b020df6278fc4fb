"""The test split, opened once: for the champion, with the time and a hash on the study's run."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cnnstudy.analysis.champion import Standing
from cnnstudy.analysis.confirmed import Opening
from cnnstudy.driver import Workshop
from cnnstudy.execution import Job
from cnnstudy.jobs import result_of
from cnnstudy.records import RecordedRun, Split
from cnnstudy.registry import Registry
from cnnstudy.training import layout

#: The tag of the study's run that says when the test split was opened, for what, and what came of it.
TEST_TAG = "cnnstudy.test_split"


def open_test(
    workshop: Workshop, champion: Standing, runs: Sequence[RecordedRun], tags: Mapping[str, str], again: bool
) -> tuple[Opening | None, str]:
    """The champion's test, or why it was not made. What was opened for these very models is not opened again.

    Args:
        runs: of the champion's models.
        tags: of the study's own run.
        again: open it though it was opened for other models.
    """
    recorder, ids = workshop.recorder, tuple(run.run_id for run in runs)
    before = Opening.from_json(json.loads(tags[TEST_TAG])) if TEST_TAG in tags else None
    if before is not None and before.runs == ids and before.values:
        return before, ""
    if before is not None and before.runs != ids and not again:
        return None, (
            f"the test split was opened on {before.opened} for {before.champion} with {len(before.runs)} seeds, and "
            f"this is {champion.trial} with {len(runs)}. To open it again would be to choose by it; `python "
            f"-m cnnstudy confirm {recorder.study.name} --open-test-again` does so, and says so."
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    same = before is not None and before.runs == ids  # opened, and stopped before the result was recorded
    openings = 1 if before is None else before.openings + (not same)
    opened = Opening(before.opened if same and before is not None else now, champion.trial, ids, openings)
    # recorded first: an opening that nobody knows of would be the one that misleads
    recorder.outbox.set_tags(recorder.study.run_id, {TEST_TAG: json.dumps(_light(opened))})
    measured = _measure(workshop, champion, runs)
    test = _with_results(opened, measured)
    recorder.outbox.set_tags(recorder.study.run_id, {TEST_TAG: json.dumps(_light(test))})
    return test, ""


def _measure(workshop: Workshop, champion: Standing, runs: Sequence[RecordedRun]) -> dict[str, Any]:
    config, registry = workshop.config, Registry(workshop.recorder.tracker.uri)
    models = []
    for run in runs:
        stored = workshop.recorder.outbox.ask(functools.partial(registry.at, run.tags["cnnstudy.model"]))
        place = registry.bring(stored, workshop.folder / run.run_id)
        models.append(str(layout.keras_file(place) or place))
    images = workshop.images[champion.candidate.architecture]
    split = Split(config.data.validation, config.data.test, config.seed)
    payload = {"models": models, "images": images.to_json(), "split": split.to_json()}
    result: dict[str, Any] = result_of(workshop.executor, Job("test", "open_test", payload), workshop.display)
    return result


def _with_results(opened: Opening, measured: dict[str, Any]) -> Opening:
    from scipy import stats

    mean, images = sum(measured["accuracy"]) / len(measured["accuracy"]), measured["images"]
    interval = stats.binomtest(round(mean * images), images).proportion_ci(0.95, "wilson")
    return replace(
        opened,
        images=images,
        digest=measured["digest"],
        values=tuple(measured["accuracy"]),
        losses=tuple(measured["loss"]),
        mean=mean,
        low=float(interval.low),
        high=float(interval.high),
        confusion=tuple(map(tuple, measured["confusion"])),
    )


def _light(test: Opening) -> dict[str, Any]:
    """What a tag takes: all but the confusion matrix."""
    return {name: value for name, value in vars(test).items() if name != "confusion"}
