"""The champion, chosen honestly: the best candidates again with fresh seeds, and the test split, opened once."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cnnstudy.analysis.confirmation import (
    CHAMPION,
    RECORD,
    TIED,
    Candidate,
    ChampionTest,
    Confirmation,
    Standing,
    best_single_trial,
    compare_candidates,
    confirmation_to_json,
    median_seed,
    rank_candidates,
)
from cnnstudy.analysis.confirmation_text import champion_reason, no_champion_reason
from cnnstudy.config.schema import Confirm
from cnnstudy.errors import InputError, TrackingError
from cnnstudy.execution import Job
from cnnstudy.execution.jobs import run_job
from cnnstudy.names import Metric, Tag
from cnnstudy.records import Rule, Split
from cnnstudy.search.strategy import FixedList, Proposal
from cnnstudy.study.driver import Driver
from cnnstudy.study.recorder import Recorder
from cnnstudy.study.resources import StudyResources
from cnnstudy.system.cache import content_address
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.operations import LogFiles, LogMetrics, SetTags
from cnnstudy.tracking.recorded import RecordedRun, best_metrics, latest_runs, latest_trials
from cnnstudy.tracking.registry import Registry
from cnnstudy.training import model_files

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
) -> tuple[ChampionTest | None, str]:
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
    opened = ChampionTest(before.opened if same and before is not None else now, champion.trial, ids, openings)
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


def _recorded(recorder: Recorder, runs: tuple[str, ...]) -> ChampionTest | None:
    """What came of the test of these models; None where that was not recorded."""
    tracker, study = recorder.tracker, recorder.study
    text = recorder.outbox.delivery.ask(lambda: tracker.read_text(study.run_id, TEST_FILE))
    with contextlib.suppress(KeyError, TypeError, ValueError):
        found = ChampionTest.from_json(json.loads(text or ""))
        return found if found.runs == runs and found.mean is not None else None
    return None


def _tag(test: ChampionTest) -> str:
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
        models.append(str(model_files.find_keras_file(place) or place))
    images = resources.images[champion.candidate.architecture]
    split = Split(config.data.validation, config.data.test, config.seed)
    payload = {"models": models, "images": images.to_json(), "split": split.to_json()}
    result: dict[str, Any] = run_job(resources.executor, Job("test", "open_test", payload), resources.display)
    return result


def _with_results(opened: ChampionTest, measured: dict[str, Any]) -> ChampionTest:
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


#: Seeds and blocks from here on are for confirming: no search repeats, and no factorial has blocks, so often.
FIRST_SEED = 10_000


class NothingToConfirmError(InputError):
    """No trial that learnt anything has finished."""


def confirm(
    resources: StudyResources, recorded: Sequence[RecordedRun], options: Confirm, again: bool = False
) -> Confirmation:
    """Run what is missing of the confirmation, move the champion's alias, and open the test split for it.

    Args:
        recorded: the study's runs.
        again: open the test split though it was opened for another champion.

    Raises:
        NothingToConfirmError: there is no candidate.
    """
    recorder, rule = resources.recorder, resources.config.objective.rule
    found, naive = find_candidates(recorder.study.name, recorded, rule, options.top)
    recorded, stand = _run_all(resources, recorded, found, options, rule)
    best_validation = (naive.trial, best_metrics(naive)[rule.metric])
    if stand[0].standing != CHAMPION:
        confirmed = Confirmation(rule, tuple(stand), best_validation, None, reason=no_champion_reason(stand, rule))
        _record(resources, confirmed)
        return confirmed
    champion, done = stand[0], _confirming(recorded)
    runs = [done[_key(champion.candidate, seed)] for seed in champion.seeds]
    chosen = runs[champion.seeds.index(median_seed(champion))]
    reason = champion_reason(stand, rule)
    registry = Registry(recorder.tracker)
    version = recorder.outbox.delivery.ask(lambda: registry.register_champion(recorder.study.name, chosen, reason))
    (own,) = [run for run in recorded if run.run_id == recorder.study.run_id]
    test, refusal = open_test(resources, champion, runs, own.test_split, again)
    model = chosen.model
    confirmed = Confirmation(rule, tuple(stand), best_validation, champion, model, version, reason, test, refusal)
    _record(resources, confirmed)
    return confirmed


def find_candidates(
    name: str, recorded: Sequence[RecordedRun], rule: Rule, top: int
) -> tuple[Sequence[Candidate], RecordedRun]:
    """The best trials of the study of that name, and the one that validates best.

    Raises:
        NothingToConfirmError: there is no candidate.
    """
    trials = latest_trials(recorded)
    found, naive = rank_candidates(trials, rule, top), best_single_trial(trials, rule)
    if not found or naive is None:
        raise NothingToConfirmError(
            f"study {name!r} has no candidate to confirm: none of its trials has finished and learnt something. "
            f"`python -m cnnstudy leaderboard {name}` shows them."
        )
    return found, naive


def _run_all(
    resources: StudyResources, recorded: Sequence[RecordedRun], found: Sequence[Candidate], options: Confirm, rule: Rule
) -> tuple[Sequence[RecordedRun], list[Standing]]:
    """The first seeds of all candidates; then more of those that can't be told from the best.

    Returns:
        The study's runs, those of the candidates among them, and how the candidates stand.
    """
    recorded = _run(resources, recorded, found, range(options.seeds))
    looks = 2 if options.seeds_where_close > options.seeds and len(found) > 1 else 1
    # decided by the first seeds alone: a call that was stopped in between decides the same
    first = _standings(resources, recorded, found, options.seeds, rule, looks)
    close = [one.trial for one in first if one.standing in (CHAMPION, TIED)]
    if looks == 1 or len(close) < 2:
        return recorded, first
    more, most = [one for one in found if one.trial in close], options.seeds_where_close
    recorded = _run(resources, recorded, more, range(options.seeds, most))
    return recorded, _standings(resources, recorded, found, most, rule, looks)


def _run(
    resources: StudyResources, recorded: Sequence[RecordedRun], found: Sequence[Candidate], numbers: range
) -> Sequence[RecordedRun]:
    """Each candidate once with each of the fresh seeds, where that is not recorded; the study's runs after that."""
    done = _confirming(recorded)
    proposals = [
        _proposal(resources, candidate, number)
        for number in numbers
        for candidate in found
        if _key(candidate, _seed(resources, number)) not in done
    ]
    if not proposals:
        return recorded
    names = ", ".join(candidate.trial for candidate in found)
    resources.display.say(f"confirming {names} with {len(numbers)} fresh seeds each")
    Driver(resources, FixedList(proposals)).run(len(found) * len(numbers))
    return resources.recorder.runs()


def _proposal(resources: StudyResources, candidate: Candidate, number: int) -> Proposal:
    seed, block = _seed(resources, number), FIRST_SEED + number
    return Proposal(candidate.architecture, candidate.number, dict(candidate.levels), seed, block, "confirm")


def _seed(resources: StudyResources, number: int) -> int:
    return resources.config.seed + FIRST_SEED + number


def _key(candidate: Candidate, seed: int) -> str:
    return f"confirm-{candidate.trial}-seed-{seed}"


def _confirming(recorded: Sequence[RecordedRun]) -> dict[str, RecordedRun]:
    """By key the confirming runs that count."""
    latest = latest_runs(run for run in recorded if run.kind == "confirm")
    return {key: run for key, run in latest.items() if run.done}


def _standings(
    resources: StudyResources,
    recorded: Sequence[RecordedRun],
    found: Sequence[Candidate],
    count: int,
    rule: Rule,
    looks: int,
) -> list[Standing]:
    done, seeds = _confirming(recorded), [_seed(resources, number) for number in range(count)]
    runs = [(one, {seed: done[key] for seed in seeds if (key := _key(one, seed)) in done}) for one in found]
    measured = [
        (one, {seed: best_metrics(run) if run.state == "finished" else None for seed, run in of.items()})
        for one, of in runs
    ]
    verdicts = {one.trial: [run.verdict for run in of.values()] for one, of in runs}
    return compare_candidates(measured, rule, looks, verdicts)


def _record(resources: StudyResources, confirmed: Confirmation) -> None:
    """On the study's run: all of it as JSON, and the numbers to sort studies by as metrics."""
    recorder = resources.recorder
    with scratch_folder() as folder:
        path = folder / RECORD
        path.parent.mkdir()
        path.write_text(json.dumps(confirmation_to_json(confirmed), indent=2), encoding="utf-8")
        recorder.outbox.write(recorder.study.run_id, LogFiles(folder))
    metrics = {Metric.BEST_VALIDATION: confirmed.best_validation[1]}
    if confirmed.champion is not None:
        metrics[Metric.CONFIRMED] = confirmed.champion.mean
    if confirmed.test is not None and confirmed.test.mean is not None and confirmed.optimism is not None:
        metrics |= {
            Metric.TEST_ACCURACY: confirmed.test.mean,
            Metric.TEST_LOSS: confirmed.test.loss,
        }
        metrics[Metric.OPTIMISM] = confirmed.optimism
    recorder.outbox.write(recorder.study.run_id, LogMetrics(metrics, 0))
