"""The champion, chosen honestly: the best candidates again with fresh seeds, and the test split, opened once."""

from __future__ import annotations

import json
from collections.abc import Sequence

from cnnstudy.aims import Confirm
from cnnstudy.analysis.champion import (
    CHAMPION,
    TIED,
    Candidate,
    Standing,
    candidates,
    naive_best,
    standings,
    typical_seed,
)
from cnnstudy.analysis.confirmed import RECORD, Confirmed, to_json
from cnnstudy.analysis.selection import why_champion, why_none
from cnnstudy.analysis.trials import latest_trials
from cnnstudy.driver import Driver, StudyResources
from cnnstudy.errors import InputError
from cnnstudy.names import Metric
from cnnstudy.opening import open_test
from cnnstudy.operations import LogFiles, LogMetrics
from cnnstudy.proposals import Listed, Proposal
from cnnstudy.records import RecordedRun, Rule, best_metrics, latest_runs
from cnnstudy.registry import Registry
from cnnstudy.scratch import scratch_folder

#: Seeds and blocks from here on are for confirming: no search repeats, and no factorial has blocks, so often.
FIRST_SEED = 10_000


class NothingToConfirmError(InputError):
    """No trial that learnt anything has finished."""


def confirm(
    resources: StudyResources, recorded: Sequence[RecordedRun], options: Confirm, again: bool = False
) -> Confirmed:
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
        confirmed = Confirmed(rule, tuple(stand), best_validation, None, reason=why_none(stand, rule))
        _record(resources, confirmed)
        return confirmed
    champion, done = stand[0], _confirming(recorded)
    runs = [done[_key(champion.candidate, seed)] for seed in champion.seeds]
    chosen = runs[champion.seeds.index(typical_seed(champion))]
    reason = why_champion(stand, rule)
    registry = Registry(recorder.tracker)
    version = recorder.outbox.delivery.ask(lambda: registry.register_champion(recorder.study.name, chosen, reason))
    (own,) = [run for run in recorded if run.run_id == recorder.study.run_id]
    test, refusal = open_test(resources, champion, runs, own.test_split, again)
    model = chosen.model
    confirmed = Confirmed(rule, tuple(stand), best_validation, champion, model, version, reason, test, refusal)
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
    found, naive = candidates(trials, rule, top), naive_best(trials, rule)
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
    Driver(resources, Listed(proposals)).run(len(found) * len(numbers))
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
    return standings(measured, rule, looks, verdicts)


def _record(resources: StudyResources, confirmed: Confirmed) -> None:
    """On the study's run: all of it as JSON, and the numbers to sort studies by as metrics."""
    recorder = resources.recorder
    with scratch_folder() as folder:
        path = folder / RECORD
        path.parent.mkdir()
        path.write_text(json.dumps(to_json(confirmed), indent=2), encoding="utf-8")
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
