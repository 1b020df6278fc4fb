"""Confirm a study: retrain its best candidates with fresh seeds, name a champion, evaluate it once on the test split.

Selecting by validation score overstates accuracy. Fresh seeds and a test split that is opened for one champion do not.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cnnstudy.analysis.confirmation import (
    CHAMPION,
    RECORD_PATH,
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
from cnnstudy.analysis.confirmation_text import champion_reason, model_note, no_champion_reason
from cnnstudy.analysis.resampled import ImageVariance, read_division
from cnnstudy.config.schema import Confirm, StudyConfig
from cnnstudy.config.transfer_modes import starts_from_source
from cnnstudy.errors import InputError, TrackingError
from cnnstudy.execution import Job
from cnnstudy.execution.jobs import run_job
from cnnstudy.names import Metric, Tag
from cnnstudy.records import Rule, Split
from cnnstudy.search.strategy import FixedStrategy, Proposal
from cnnstudy.study.driver import Driver
from cnnstudy.study.image_shares import explain_by_images
from cnnstudy.study.recorder import Recorder
from cnnstudy.study.resources import StudyResources
from cnnstudy.system.cache import content_address
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.operations import LogFiles, LogMetrics, SetTags
from cnnstudy.tracking.recorded import (
    RecordedRun,
    are_cross_fitted,
    best_metrics,
    counted_runs,
    counted_trials,
    score_metrics,
)
from cnnstudy.tracking.registry import Registry
from cnnstudy.training import model_files

#: Seeds and blocks of confirming trials start here; no search has as many repeats, and no factorial as many blocks.
FIRST_SEED = 10_000
#: The whole test result, as an artifact of the study's run: a tag has no room for every seed.
TEST_FILE = "confirm/test.json"


#: What to change in a study in which no trial has learnt anything.
ADVICE_UNLEARNT = (
    "Try more epochs, a higher learning rate, transfer from source weights, or more images: with few validation "
    "images, a network that learnt a little can't be told from chance."
)


class NothingToConfirmError(InputError):
    """No trial has finished and learnt anything."""


def confirm(
    resources: StudyResources, recorded: Sequence[RecordedRun], options: Confirm, again: bool = False
) -> Confirmation:
    """Run the missing confirming trials, move the champion's alias, and evaluate the champion on the test split.

    Args:
        recorded: the study's runs.
        again: open the test split even if it was opened for another champion.

    Raises:
        NothingToConfirmError: there is no candidate.
        TrackingError: as `open_test`.
    """
    recorder, rule = resources.recorder, resources.config.objective.rule
    candidates, best = find_candidates(recorder.study.name, recorded, rule, options.top)
    recorded, standings = _run_candidates(resources, recorded, candidates, options, rule)
    found = Confirmation(
        rule,
        tuple(standings),
        (best.trial, best_metrics(best)[rule.metric]),
        champion=None,
        cross_fitted=is_cross_fitted(recorded),
        shared_weights=_shared_sources(resources.config, candidates),
    )
    if standings[0].standing != CHAMPION:
        confirmed = replace(found, reason=no_champion_reason(standings, rule))
        _record_confirmation(recorder, confirmed)
        return confirmed
    champion, confirming = standings[0], _confirming_runs(recorded)
    runs = [confirming[_trial_key(champion.candidate, seed)] for seed in champion.seeds]
    chosen = runs[champion.seeds.index(median_seed(champion))]
    reason = champion_reason(standings, rule)
    registry = Registry(recorder.tracker)
    version = recorder.outbox.delivery.read(lambda: registry.register_champion(recorder.study.name, chosen, reason))
    recorder.outbox.delivery.read(lambda: registry.add_output(recorder.study.run_id, chosen.model))
    (own,) = [run for run in recorded if run.run_id == recorder.study.run_id]
    test, refusal = open_test(resources, champion, runs, own.test_split, again)
    confirmed = replace(
        found, champion=champion, model=chosen.model, version=version, reason=reason, test=test, refusal=refusal
    )
    note = model_note(confirmed, chosen)
    recorder.outbox.delivery.read(lambda: registry.describe_version(recorder.study.name, version, note))
    _record_confirmation(recorder, confirmed)
    return confirmed


def find_candidates(
    name: str, recorded: Sequence[RecordedRun], rule: Rule, top: int
) -> tuple[Sequence[Candidate], RecordedRun]:
    """Return the best trials of a study as candidates, and the single best trial by validation.

    Args:
        name: of the study.
        recorded: its runs.
        top: the most candidates.

    Raises:
        NothingToConfirmError: there is no candidate.
    """
    trials = counted_trials(recorded)
    candidates, best = rank_candidates(trials, rule, top), best_single_trial(trials, rule)
    if not candidates or best is None:
        raise NothingToConfirmError(
            f"study {name!r} has no candidate to confirm: none of its trials has finished and learnt anything. "
            f"`python -m cnnstudy leaderboard {name}` shows them. {ADVICE_UNLEARNT}"
        )
    return candidates, best


def _run_candidates(
    resources: StudyResources,
    recorded: Sequence[RecordedRun],
    candidates: Sequence[Candidate],
    options: Confirm,
    rule: Rule,
) -> tuple[Sequence[RecordedRun], list[Standing]]:
    """Run the first seeds of all candidates, then more seeds of those statistically tied with the best.

    Returns:
        The study's runs with those of the candidates, and the candidates' standings.
    """
    seeds = options.seeds
    told = f"confirming {{names}} with {seeds} fresh seeds each"
    recorded = _run_seeds(resources, recorded, candidates, range(seeds), told)
    looks = 2 if options.maximum_seeds > options.seeds and len(candidates) > 1 else 1
    # decided by the first seeds alone, so that a resumed confirmation decides the same
    first = _compare(resources, recorded, candidates, options.seeds, rule, looks)
    close = [standing.trial for standing in first if standing.standing in (CHAMPION, TIED)]
    if looks == 1 or len(close) < 2:
        return recorded, first
    close_candidates, most = [one for one in candidates if one.trial in close], options.maximum_seeds
    more = f"{most - seeds} further seed{'s' if most - seeds > 1 else ''}"
    told = f"the result is close after {seeds} seeds: {{names}} run with {more} each"
    recorded = _run_seeds(resources, recorded, close_candidates, range(seeds, most), told)
    return recorded, _compare(resources, recorded, candidates, most, rule, looks)


def _run_seeds(
    resources: StudyResources,
    recorded: Sequence[RecordedRun],
    candidates: Sequence[Candidate],
    numbers: range,
    told: str,
) -> Sequence[RecordedRun]:
    """Train each candidate with each fresh seed that is not recorded yet, and return the study's runs.

    Args:
        told: the message before they run, with a place for `names`.
    """
    config, confirming = resources.config, _confirming_runs(recorded)
    proposals = [
        _proposal(resources, candidate, number)
        for number in numbers
        for candidate in candidates
        if _trial_key(candidate, _seed(resources, number)) not in confirming
    ]
    if not proposals:
        return recorded
    names = ", ".join(candidate.trial for candidate in candidates)
    redrawn = any(
        starts_from_source(one.levels["transfer"]) and config.pretrains_each_seed(one.architecture) for one in proposals
    )
    note = ", and source weights pretrained for each seed" if redrawn else ""
    resources.display.show_message(f"{told.format(names=names)}{note}")
    resources.prepare()
    Driver(resources, FixedStrategy(proposals)).run(len(candidates) * len(numbers))
    return resources.recorder.runs()


def _shared_sources(config: StudyConfig, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Return the sources of the weights that candidates start from with every seed; () if there are none."""
    names = {
        one.architecture
        for one in candidates
        if starts_from_source(one.levels["transfer"]) and not config.pretrains_each_seed(one.architecture)
    }
    return tuple(sorted({weights.source for name in names if (weights := config.weights_of(name))}))


def _proposal(resources: StudyResources, candidate: Candidate, number: int) -> Proposal:
    seed, block = _seed(resources, number), FIRST_SEED + number
    return Proposal(candidate.architecture, candidate.number, dict(candidate.levels), seed, block, "confirm")


def _seed(resources: StudyResources, number: int) -> int:
    return resources.config.seed + FIRST_SEED + number


def _trial_key(candidate: Candidate, seed: int) -> str:
    return f"confirm-{candidate.trial}-seed-{seed}"


def _confirming_runs(recorded: Sequence[RecordedRun]) -> dict[str, RecordedRun]:
    """Return the confirming runs that count, by trial key."""
    latest = counted_runs(run for run in recorded if run.kind == "confirm")
    return {key: run for key, run in latest.items() if run.done}


def _compare(
    resources: StudyResources,
    recorded: Sequence[RecordedRun],
    candidates: Sequence[Candidate],
    count: int,
    rule: Rule,
    looks: int,
) -> list[Standing]:
    """Return the candidates' standings.

    Args:
        count: the number of fresh seeds to take into account.
        looks: how often the standings are looked at in all.
    """
    confirming, seeds = _confirming_runs(recorded), [_seed(resources, number) for number in range(count)]
    runs_by_seed = [
        (one, {seed: confirming[key] for seed in seeds if (key := _trial_key(one, seed)) in confirming})
        for one in candidates
    ]
    cross_fitted = is_cross_fitted(recorded)
    measured = [
        (
            one,
            {seed: score_metrics(run, cross_fitted) if run.state == "finished" else None for seed, run in runs.items()},
        )
        for one, runs in runs_by_seed
    ]
    verdicts = {one.trial: [run.verdict for run in runs.values()] for one, runs in runs_by_seed}
    division = read_division(run for _, runs in runs_by_seed for run in runs.values())
    images = {}
    if cross_fitted and rule.metric == Metric.VAL_ACCURACY and division is not None and division.redrawn:
        images = _explain_by_images(resources, runs_by_seed, rule)
    return compare_candidates(measured, rule, looks, verdicts, division, images)


def _explain_by_images(
    resources: StudyResources, runs_by_seed: Sequence[tuple[Candidate, Mapping[int, RecordedRun]]], rule: Rule
) -> dict[str, ImageVariance]:
    """Return what images explain of the variance of each candidate's mean, where it is known, by its trial."""
    registry, read = Registry(resources.recorder.tracker), resources.recorder.outbox.delivery.read
    explained = {}
    for candidate, runs in runs_by_seed:
        finished = [run for run in runs.values() if run.state == "finished"]
        of_candidate = read(functools.partial(explain_by_images, registry, finished, rule))
        if of_candidate is not None:
            explained[candidate.trial] = of_candidate
    return explained


def is_cross_fitted(recorded: Sequence[RecordedRun]) -> bool:
    """Check whether the confirming trials have cross-fitted accuracies, all of them."""
    return are_cross_fitted(run for run in _confirming_runs(recorded).values() if run.state == "finished")


def _record_confirmation(recorder: Recorder, confirmed: Confirmation) -> None:
    """Write the whole confirmation as JSON to the study's run, and as metrics the numbers to sort studies by."""
    with scratch_folder() as folder:
        path = folder / RECORD_PATH
        path.parent.mkdir()
        path.write_text(json.dumps(confirmation_to_json(confirmed), indent=2), encoding="utf-8")
        recorder.outbox.write(recorder.study.run_id, LogFiles(folder))
    metrics = {Metric.BEST_VALIDATION: confirmed.best_validation[1]}
    if confirmed.champion is not None:
        metrics[Metric.CONFIRMED] = confirmed.champion.mean
    if confirmed.test is not None and confirmed.test.mean is not None:
        metrics |= {Metric.TEST_ACCURACY: confirmed.test.mean, Metric.TEST_LOSS: confirmed.test.loss}
    if confirmed.optimism is not None:
        metrics[Metric.OPTIMISM] = confirmed.optimism
    recorder.outbox.write(recorder.study.run_id, LogMetrics(metrics, 0))


@dataclass(frozen=True)
class _EarlierOpening:
    """An earlier opening of the test split, as the tag on the study's run records it."""

    opened: str  # ISO 8601
    champion: str
    openings: int  # of the study's test split so far
    models: str  # a digest of the ids of the models' runs
    seeds: int


def open_test(
    resources: StudyResources, champion: Standing, runs: Sequence[RecordedRun], told: str, again: bool
) -> tuple[ChampionTest | None, str]:
    """Evaluate the champion on the test split, and return the result; or None and the reason why not.

    A result recorded for the same models is returned without evaluating them again.

    Args:
        runs: of the champion's models.
        told: the tag of an earlier opening (`RecordedRun.test_split`); "" if there was none.
        again: open it even if it was opened for other models.

    Raises:
        TrackingError: the tag of an earlier opening can't be read, and `again` is not given.
    """
    recorder, ids = resources.recorder, tuple(run.run_id for run in runs)
    earlier = _read_opening(told, recorder.study.name, again) if told else None
    same = earlier is not None and earlier.models == content_address(ids)
    if earlier is not None and not same and not again:
        return None, (
            f"the test split was opened on {earlier.opened} for {earlier.champion} with {earlier.seeds} seeds; the "
            f"champion now is {champion.trial} with {len(runs)}. To open it again would be to select by it; `python "
            f"-m cnnstudy confirm {recorder.study.name} --open-test-again` does so, and reports say so."
        )
    recorded = _recorded_test(recorder, ids) if same else None
    if recorded is not None:
        return recorded, ""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    # for the same models: an earlier attempt was stopped before its result was recorded, and is not counted twice
    openings = 1 if earlier is None else earlier.openings + (not same)
    opened = ChampionTest(earlier.opened if same and earlier is not None else now, champion.trial, ids, openings)
    # recorded before the evaluation: an opening without a record would mislead
    recorder.outbox.write(recorder.study.run_id, SetTags({Tag.TEST_SPLIT: _opening_tag(opened)}))
    test = _add_results(opened, _evaluate(resources, champion, runs))
    with scratch_folder() as folder:
        (folder / TEST_FILE).parent.mkdir()
        (folder / TEST_FILE).write_text(json.dumps(vars(test)), encoding="utf-8")
        recorder.outbox.write(recorder.study.run_id, LogFiles(folder))
    recorder.outbox.write(recorder.study.run_id, SetTags({Tag.TEST_SPLIT: _opening_tag(test)}))
    return test, ""


def _read_opening(tag: str, study: str, again: bool) -> _EarlierOpening:
    """Parse the tag of an earlier opening.

    Raises:
        TrackingError: it can't be parsed; with `again` it counts as one opening instead.
    """
    try:
        plain = json.loads(tag)
        # earlier versions recorded the runs themselves
        models = plain["models"] if "models" in plain else content_address(plain["runs"])
        seeds = plain["seeds"] if "seeds" in plain else len(plain["runs"])
        return _EarlierOpening(
            str(plain["opened"]), str(plain["champion"]), int(plain["openings"]), str(models), int(seeds)
        )
    except (KeyError, TypeError, ValueError) as reason:
        if again:
            return _EarlierOpening("", "", 1, "", 0)
        raise TrackingError(
            f"the tag {Tag.TEST_SPLIT} of study {study!r}, which says when and for what its test split was opened, "
            f"can't be read: {reason}. An earlier version truncated it for champions with many seeds. `python -m "
            f"cnnstudy confirm {study} --open-test-again` opens the test split again, and counts that as at least the "
            "second time."
        ) from reason


def _recorded_test(recorder: Recorder, runs: tuple[str, ...]) -> ChampionTest | None:
    """Return the recorded test result of these models; None if there is none."""
    tracker, study = recorder.tracker, recorder.study
    text = recorder.outbox.delivery.read(lambda: tracker.read_text(study.run_id, TEST_FILE))
    with contextlib.suppress(KeyError, TypeError, ValueError):
        test = ChampionTest.from_json(json.loads(text or ""))
        return test if test.runs == runs and test.mean is not None else None
    return None


def _opening_tag(test: ChampionTest) -> str:
    """Return the tag that records an opening; short, whatever the number of seeds."""
    models = {"models": content_address(test.runs), "seeds": len(test.runs)}
    fields = {name: getattr(test, name) for name in ("opened", "champion", "openings", "digest", "mean")}
    return json.dumps(fields | models)


def _evaluate(resources: StudyResources, champion: Standing, runs: Sequence[RecordedRun]) -> dict[str, Any]:
    """Download the champion's models, and evaluate them on the test split in a worker."""
    config, registry = resources.config, Registry(resources.recorder.tracker)
    models = []
    for run in runs:
        read = resources.recorder.outbox.delivery.read  # waits for a store that does not answer
        stored = read(functools.partial(registry.at, run.model))
        place = read(functools.partial(registry.fetch_folder, stored, resources.folder / run.run_id))
        models.append(str(model_files.find_keras_file(place) or place))
    images = resources.images[champion.candidate.architecture]
    split = Split(config.data.validation, config.data.test, config.seed)
    payload = {"models": models, "images": images.to_json(), "split": split.to_json()}
    result: dict[str, Any] = run_job(resources.executor, Job("test", "open_test", payload), resources.display)
    return result


def _add_results(opened: ChampionTest, measured: dict[str, Any]) -> ChampionTest:
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
