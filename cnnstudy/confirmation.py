"""The champion, chosen honestly: the best candidates again with fresh seeds, and the test split, opened once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnnstudy.aims import Confirm
from cnnstudy.analysis.champion import (
    CHAMPION,
    TIED,
    Candidate,
    Standing,
    candidates,
    naive_best,
    standings,
    to_json,
    typical_seed,
)
from cnnstudy.analysis.selection import champion_sentences, interval, optimism_sentence
from cnnstudy.driver import Driver, Workshop
from cnnstudy.errors import InputError
from cnnstudy.opening import Opening, open_test
from cnnstudy.proposals import Listed, Proposal
from cnnstudy.records import RecordedRun, Rule, best_metrics, latest_runs
from cnnstudy.registry import Registry
from cnnstudy.scratch import scratch_folder

#: Seeds and blocks from here on are for confirming: no search repeats, and no factorial has blocks, so often.
FIRST_SEED = 10_000
RECORD = "confirm/confirm.json"


@dataclass(frozen=True)
class Confirmed:
    """What confirming came to."""

    rule: Rule
    standings: tuple[Standing, ...]  # best first
    best_validation: tuple[str, float]  # the trial that validates best, and its value
    champion: Standing | None  # None: no candidate keeps the study's limits
    model: str = ""
    version: str = ""
    reason: str = ""
    test: Opening | None = None
    refusal: str = ""  # why the test split was not opened

    @property
    def optimism(self) -> float | None:
        """By how much the best validation score of the study is better than the champion's test."""
        if self.test is None or self.test.mean is None:
            return None
        value = self.test.mean if self.rule.maximize else self.test.loss
        return (self.best_validation[1] - value) * (1 if self.rule.maximize else -1)


class NothingToConfirmError(InputError):
    """No trial that learnt anything has finished."""


def confirm(workshop: Workshop, options: Confirm, again: bool = False) -> Confirmed:
    """Run what is missing of the confirmation, move the champion's alias, and open the test split for it.

    Args:
        again: open the test split though it was opened for another champion.

    Raises:
        NothingToConfirmError: there is no candidate.
    """
    recorder, rule = workshop.recorder, workshop.config.objective.rule
    trials = list(latest_runs(run for run in recorder.runs() if run.kind == "trial").values())
    found, naive = candidates(trials, rule, options.top), naive_best(trials, rule)
    if not found or naive is None:
        raise NothingToConfirmError(
            f"study {recorder.study.name!r} has no candidate to confirm: none of its trials has finished and learnt "
            f"something. `python -m cnnstudy leaderboard {recorder.study.name}` shows them."
        )
    stand = _run_all(workshop, found, options, rule)
    champion = stand[0] if stand[0].standing == CHAMPION else None
    best_validation = (naive.tags["cnnstudy.trial"], best_metrics(naive)[rule.metric])
    if champion is None:
        confirmed = Confirmed(rule, tuple(stand), best_validation, None, reason="no candidate keeps the limits")
        _record(workshop, confirmed)
        return confirmed
    runs = [_recorded_runs(workshop)[_key(champion.candidate, seed)] for seed in champion.seeds]
    chosen = runs[champion.seeds.index(typical_seed(champion))]
    reason = _reason(stand, rule)
    registry = Registry(recorder.tracker.uri)
    version = recorder.outbox.ask(lambda: registry.register_champion(recorder.study.name, chosen, reason))
    test, refusal = open_test(workshop, champion, runs, again)
    model = chosen.tags["cnnstudy.model"]
    confirmed = Confirmed(rule, tuple(stand), best_validation, champion, model, version, reason, test, refusal)
    _record(workshop, confirmed)
    return confirmed


def _run_all(workshop: Workshop, found: Sequence[Candidate], options: Confirm, rule: Rule) -> list[Standing]:
    """The first seeds of all candidates; then more of those that can't be told from the best."""
    _run(workshop, found, range(options.seeds))
    looks = 2 if options.seeds_where_close > options.seeds and len(found) > 1 else 1
    # decided by the first seeds alone: a call that was stopped in between decides the same
    first = _standings(workshop, found, options.seeds, rule, looks)
    close = [one.candidate.trial for one in first if one.standing in (CHAMPION, TIED)]
    if looks == 1 or len(close) < 2:
        return first
    _run(workshop, [one for one in found if one.trial in close], range(options.seeds, options.seeds_where_close))
    return _standings(workshop, found, options.seeds_where_close, rule, looks)


def _run(workshop: Workshop, found: Sequence[Candidate], numbers: range) -> None:
    """Each candidate once with each of the fresh seeds, where that is not recorded."""
    done = _recorded_runs(workshop)
    proposals = [
        _proposal(workshop, candidate, number)
        for number in numbers
        for candidate in found
        if _key(candidate, _seed(workshop, number)) not in done
    ]
    if proposals:
        names = ", ".join(candidate.trial for candidate in found)
        workshop.display.say(f"confirming {names} with {len(numbers)} fresh seeds each")
        Driver(workshop, Listed(proposals)).run(len(found) * len(numbers))


def _proposal(workshop: Workshop, candidate: Candidate, number: int) -> Proposal:
    seed, block = _seed(workshop, number), FIRST_SEED + number
    return Proposal(candidate.architecture, candidate.number, dict(candidate.levels), seed, block, "confirm")


def _seed(workshop: Workshop, number: int) -> int:
    return workshop.config.seed + FIRST_SEED + number


def _key(candidate: Candidate, seed: int) -> str:
    return f"confirm-{candidate.trial}-seed-{seed}"


def _recorded_runs(workshop: Workshop) -> dict[str, RecordedRun]:
    """By key the confirming runs that count."""
    return {
        key: run
        for key, run in latest_runs(run for run in workshop.recorder.runs() if run.kind == "confirm").items()
        if run.done
    }


def _standings(workshop: Workshop, found: Sequence[Candidate], count: int, rule: Rule, looks: int) -> list[Standing]:
    done, seeds = _recorded_runs(workshop), [_seed(workshop, number) for number in range(count)]
    measured = [
        (
            candidate,
            {
                seed: best_metrics(done[key]) if done[key].state == "finished" else None
                for seed in seeds
                if (key := _key(candidate, seed)) in done
            },
        )
        for candidate in found
    ]
    return standings(measured, rule, looks)


def confirmed_sentences(confirmed: Confirmed) -> list[str]:
    """What it came to, the champion first."""
    champion, rule, test = confirmed.champion, confirmed.rule, confirmed.test
    lines = list(champion_sentences(confirmed.standings, champion, rule))
    if champion is None:
        return lines
    tested = None
    if test is not None and test.mean is not None:
        tested = test.mean if rule.maximize else test.loss
        many = f", opening {test.openings} of this study's test split" if test.openings > 1 else ""
        lines.append(
            f"Test split: accuracy {100 * test.mean:.1f} % {interval(test.low, test.high, Rule())} on {test.images} "
            f"images that no trial has seen, mean of the {len(test.values)} models (opened {test.opened}{many})."
        )
    if confirmed.refusal:
        lines.append(f"Not tested: {confirmed.refusal}")
    lines.append(optimism_sentence(confirmed.best_validation, champion.mean, tested, confirmed.optimism, rule))
    return lines


def _record(workshop: Workshop, confirmed: Confirmed) -> None:
    """On the study's run: all of it as JSON, and the numbers to sort studies by as metrics."""
    recorder = workshop.recorder
    with scratch_folder() as folder:
        path = folder / RECORD
        path.parent.mkdir()
        path.write_text(json.dumps(as_json(confirmed), indent=2), encoding="utf-8")
        recorder.outbox.log_files(recorder.study.run_id, folder)
    metrics = {"selection/best_validation": confirmed.best_validation[1]}
    if confirmed.champion is not None:
        metrics["selection/confirmed"] = confirmed.champion.mean
    if confirmed.test is not None and confirmed.test.mean is not None and confirmed.optimism is not None:
        metrics |= {
            "test/accuracy": confirmed.test.mean,
            "test/loss": confirmed.test.loss,
        }
        metrics["selection/optimism"] = confirmed.optimism
    recorder.outbox.log_metrics(recorder.study.run_id, metrics, 0)


def as_json(confirmed: Confirmed) -> dict[str, Any]:
    """As plain data: what `confirm/confirm.json` holds."""
    trial, value = confirmed.best_validation
    return {
        "rule": confirmed.rule.to_json(),
        "best_validation": {"trial": trial, "value": value},
        "candidates": [to_json(one) for one in confirmed.standings],
        "champion": confirmed.champion.candidate.trial if confirmed.champion else None,
        "model": confirmed.model,
        "version": confirmed.version,
        "reason": confirmed.reason,
        "test": vars(confirmed.test) if confirmed.test else None,
        "refusal": confirmed.refusal,
        "optimism": confirmed.optimism,
    }


def _reason(stand: Sequence[Standing], rule: Rule) -> str:
    """What the model's version says of why it is the champion."""
    best, tied = stand[0], [one.candidate.trial for one in stand if one.standing == TIED]
    ties = f"; not to be told from {', '.join(tied)}" if tied else ""
    return (
        f"{best.candidate.trial} ({best.candidate.title}): the best of {len(stand)} by mean {rule.metric} over "
        f"{len(best.seeds)} fresh seeds, {best.mean:.4f}, gap {100 * best.gap:+.1f} points{ties}; this model is that "
        "of the median seed"
    )
