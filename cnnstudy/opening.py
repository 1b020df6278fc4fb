"""The test split, opened once: for the champion, with the time and a hash on the study's run."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cnnstudy.analysis.champion import Standing
from cnnstudy.analysis.confirmed import Opening
from cnnstudy.cache import content_address
from cnnstudy.driver import StudyResources
from cnnstudy.errors import TrackingError
from cnnstudy.execution import Job
from cnnstudy.jobs import result_of
from cnnstudy.names import Tag
from cnnstudy.operations import LogFiles, SetTags
from cnnstudy.recording import Recorder
from cnnstudy.records import RecordedRun, Split
from cnnstudy.registry import Registry
from cnnstudy.scratch import scratch_folder
from cnnstudy.training import layout

#: All of what came of it, among the run's artifacts: a tag has no room for every seed.
TEST_FILE = "confirm/test.json"


@dataclass(frozen=True)
class _Before:
    """What the tag tells of an opening."""

    opened: str  # ISO 8601
    champion: str
    openings: int  # of the study's test split, in all
    models: str  # a digest of the runs of the models
    seeds: int


def open_test(
    resources: StudyResources, champion: Standing, runs: Sequence[RecordedRun], told: str, again: bool
) -> tuple[Opening | None, str]:
    """The champion's test, or why it was not made. What was opened for these very models is not opened again.

    Args:
        runs: of the champion's models.
        told: by the study's own run of an earlier opening (`RecordedRun.test_split`); "": it was not opened.
        again: open it though it was opened for other models.

    Raises:
        TrackingError: the tag that tells of an earlier opening can't be read, and `again` is not given.
    """
    recorder, ids = resources.recorder, tuple(run.run_id for run in runs)
    before = _before(told, recorder.study.name, again) if told else None
    same = before is not None and before.models == content_address(ids)
    if before is not None and not same and not again:
        return None, (
            f"the test split was opened on {before.opened} for {before.champion} with {before.seeds} seeds, and "
            f"this is {champion.trial} with {len(runs)}. To open it again would be to choose by it; `python "
            f"-m cnnstudy confirm {recorder.study.name} --open-test-again` does so, and says so."
        )
    found = _recorded(recorder, ids) if same else None
    if found is not None:
        return found, ""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    # the same ones: opened, and stopped before the result was recorded
    openings = 1 if before is None else before.openings + (not same)
    opened = Opening(before.opened if same and before is not None else now, champion.trial, ids, openings)
    # recorded first: an opening that nobody knows of would be the one that misleads
    recorder.outbox.write(recorder.study.run_id, SetTags({Tag.TEST_SPLIT: _tag(opened)}))
    test = _with_results(opened, _measure(resources, champion, runs))
    with scratch_folder() as folder:
        (folder / TEST_FILE).parent.mkdir()
        (folder / TEST_FILE).write_text(json.dumps(vars(test)), encoding="utf-8")
        recorder.outbox.write(recorder.study.run_id, LogFiles(folder))
    recorder.outbox.write(recorder.study.run_id, SetTags({Tag.TEST_SPLIT: _tag(test)}))
    return test, ""


def _before(tag: str, study: str, again: bool) -> _Before:
    """The opening that the tag tells of; of one that can't be read, where that is no matter, that there was one."""
    try:
        plain = json.loads(tag)
        # versions before this one kept the runs themselves
        models = plain["models"] if "models" in plain else content_address(plain["runs"])
        seeds = plain["seeds"] if "seeds" in plain else len(plain["runs"])
        return _Before(str(plain["opened"]), str(plain["champion"]), int(plain["openings"]), str(models), int(seeds))
    except (KeyError, TypeError, ValueError) as reason:
        if again:
            return _Before("", "", 1, "", 0)
        raise TrackingError(
            f"the tag {Tag.TEST_SPLIT} of study {study!r}, which tells when its test split was opened and for what, "
            f"can't be read: {reason}. An earlier version cut it where a champion had many seeds. `python -m cnnstudy "
            f"confirm {study} --open-test-again` opens the test split again, and counts that as the second time at "
            "least."
        ) from reason


def _recorded(recorder: Recorder, runs: tuple[str, ...]) -> Opening | None:
    """What came of the test of these models; None where that was not recorded."""
    tracker, study = recorder.tracker, recorder.study
    text = recorder.outbox.delivery.ask(lambda: tracker.read_text(study.run_id, TEST_FILE))
    with contextlib.suppress(KeyError, TypeError, ValueError):
        found = Opening.from_json(json.loads(text or ""))
        return found if found.runs == runs and found.mean is not None else None
    return None


def _tag(test: Opening) -> str:
    """What is told where there is little room."""
    models = {"models": content_address(test.runs), "seeds": len(test.runs)}
    kept = {name: getattr(test, name) for name in ("opened", "champion", "openings", "digest", "mean")}
    return json.dumps(kept | models)


def _measure(resources: StudyResources, champion: Standing, runs: Sequence[RecordedRun]) -> dict[str, Any]:
    config, registry = resources.config, Registry(resources.recorder.tracker)
    models = []
    for run in runs:
        stored = resources.recorder.outbox.delivery.ask(functools.partial(registry.at, run.model))
        place = registry.bring(stored, resources.folder / run.run_id)
        models.append(str(layout.keras_file(place) or place))
    images = resources.images[champion.candidate.architecture]
    split = Split(config.data.validation, config.data.test, config.seed)
    payload = {"models": models, "images": images.to_json(), "split": split.to_json()}
    result: dict[str, Any] = result_of(resources.executor, Job("test", "open_test", payload), resources.display)
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
