"""What to do after a study: at most five steps, each with its evidence, its cost and a line to copy.

No step is listed unless its condition holds in the study's results. What raises validation accuracy comes first, then
what lowers the gap, then what lets the networks learn, then what would tell more.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from cnnstudy.analysis.causes import NetworkAnalysis, finished_networks
from cnnstudy.analysis.effects import Effect
from cnnstudy.analysis.effects_text import CANNOT_TELL, describe_change, format_effect, judge_overfitting, overall_gap
from cnnstudy.analysis.observations import BALANCED_VALIDATION, VALIDATION
from cnnstudy.config.factors import find_factor
from cnnstudy.errors import printable
from cnnstudy.names import Metric, Parameter, Tag, count_tag, last_name
from cnnstudy.records import INTERRUPTED, Level
from cnnstudy.system.display import count_noun, format_duration
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy
from cnnstudy.training.verdict import LEAST_IMAGES_FOR_FIT, UNDERFIT_BELOW

_LAST_TRAIN = last_name(Metric.TRAIN_ACCURACY)
#: How many steps are listed.
MOST_STEPS = 5
#: Of the images, the largest share to hold out for validation; beyond it too few are left to learn from.
_LARGEST_SHARE = 0.5


@dataclass(frozen=True)
class NextStep:
    """Something to do."""

    action: str  # without a full stop
    evidence: str  # why, from the study's results
    cost: str
    line: str  # to copy: a command

    def sentence(self) -> str:
        """Return it as one sentence, without its line."""
        return f"{self.action}: {self.evidence}. It costs {self.cost}."


@dataclass(frozen=True)
class _Results:
    """What the steps are chosen by.

    Args:
        networks: those that have finished trials.
        trials: the run of each trial that counts.
        command: that runs the study.
        missing: how many trials are still to be run.
        conflicts: how many pairs of copies have different labels.
    """

    study: RecordedStudy
    networks: Sequence[NetworkAnalysis]
    trials: Sequence[RecordedRun]
    command: str
    missing: int
    conflicts: int
    judged: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "judged", frozenset(judge_overfitting(one) for one in self.networks))

    @property
    def finished(self) -> list[RecordedRun]:
        return [run for run in self.trials if run.state == "finished"]

    @property
    def failed(self) -> list[RecordedRun]:
        """The failed trials; not those whose loss diverged, which would diverge again, or that were interrupted."""
        unlike = ("diverged", INTERRUPTED)
        return [run for run in self.trials if run.state == "failed" and run.reason not in unlike]

    def seconds(self, trials: float | None = None, times: float = 1.0) -> str:
        """Return the time of so many trials, for a cost; None: of as many as the study has."""
        count = len(self.trials) + self.missing if trials is None else trials
        mean = sum(run.seconds or 0.0 for run in self.finished) / max(len(self.finished), 1)
        if not mean:
            return f"the time of {count_noun(round(count), 'trial')}"
        return f"about {format_duration(times * count * mean)} of training"

    @property
    def are_photos(self) -> bool:
        """Whether the images are the user's own, so that there may be more."""
        return (self.study.config.get("data") or {}).get("name") in ("folder", "table")

    def levels(self, factor: str) -> set[Level]:
        """Return the levels that a factor had."""
        return {run.levels[factor] for run in self.trials if factor in run.levels}

    def once_more(self, suffix: str, **keys: object) -> str:
        """Return a command that runs the study anew, under another name, with some keys changed."""
        return self._set({"name": f"{self.study.name}-{suffix}", **keys})

    def more_seeds(self) -> str:
        """Return a command that adds as many seeds again to the same study."""
        return self._set({"strategy.seeds": 2 * self.seeds})

    @property
    def is_factorial(self) -> bool:
        """Whether the study has seeds to add; a search has none, nor one whose results decide their number."""
        strategy = self.study.config["strategy"]
        return bool(strategy["kind"] == "factorial" and not strategy.get("least_seeds"))

    @property
    def seed_trials(self) -> float:
        """How many trials it takes to double the seeds, with those that are missing."""
        return len(self.trials) + 2 * self.missing

    @property
    def seeds(self) -> int:
        """The study's seeds, and no fewer than have run: the file may have been changed to fewer."""
        planned = int(self.study.config["strategy"].get("seeds", 1))
        return max(planned, len({run.seed for run in self.trials}))

    def _set(self, keys: Mapping[str, object]) -> str:
        words, kept = iter(shlex.split(self.command)), []
        for word in words:
            given = next(words, "") if word == "--set" else ""
            if given.partition("=")[0] not in keys:
                kept += [word, given] if given else [word]
        added = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
        return shlex.join([*kept, *added])


def list_next_steps(
    analyses: Sequence[NetworkAnalysis],
    study: RecordedStudy,
    trials: Sequence[RecordedRun],
    tags: Mapping[str, str] = MappingProxyType({}),
) -> list[NextStep]:
    """Return what to do next, the most useful first.

    Args:
        analyses: of the networks.
        trials: the run of each trial that counts.
        tags: of the study's own run, with the command that runs it and how many trials are still to be run.
    """
    networks = finished_networks(analyses)
    command = tags.get(Tag.RUN_COMMAND) or shlex.join(["python", "-m", "cnnstudy", "run-study", study.name])
    conflicts = tags.get(Tag.CONFLICTS, "")
    conflicting = int(conflicts) if conflicts.isdigit() else 0
    results = _Results(study, networks, trials, command, count_missing(tags), conflicting)
    found = [step for rule in (_RULES if networks else _RULES_WITHOUT_RESULTS) for step in rule(results)]
    unlike = {step.line: step for step in reversed(found)}  # of steps with the same line, the first
    return sorted(unlike.values(), key=found.index)[:MOST_STEPS]


def count_missing(tags: Mapping[str, str]) -> int:
    """Return how many trials of a study are still to be run, by the tags of its own run; 0 while it runs."""
    missing = tags.get(count_tag("missing"), "")
    return int(missing) if missing.isdigit() and tags.get(Tag.STATE) != "running" else 0


def _finish(results: _Results) -> Iterator[NextStep]:
    if results.missing or not results.trials:
        # an interrupted trial is among both
        planned = results.missing + sum(run.reason != INTERRUPTED for run in results.trials)
        evidence = f"{results.missing} of {count_noun(planned, 'trial')} were not run" if planned else "none was run"
        cost = results.seconds(results.missing) if planned else "the time of its trials"
        yield NextStep("Let it run to its end", evidence, cost, results.command)


def _run_failed(results: _Results) -> Iterator[NextStep]:
    if failed := results.failed:
        why = printable(failed[0].message or failed[0].reason or "for an unknown reason").rstrip(".")
        evidence = f"{len(failed)} of {count_noun(len(results.trials), 'trial')} failed, the first: {why}"
        line = f"{results.command} --retry-failed"
        yield NextStep("Mend what made trials fail, and run them again", evidence, results.seconds(len(failed)), line)


def _mend_conflicts(results: _Results) -> Iterator[NextStep]:
    if count := results.conflicts:
        file = shlex.join(shlex.split(results.command)[4:5] or [results.study.name])
        pairs = count_noun(count, "pair")
        evidence = f"{pairs} of copies {'have' if count > 1 else 'has'} different labels, of which one is wrong"
        line = f"python -m cnnstudy data {file} --html data.html"
        yield NextStep("Correct labels", evidence, f"looking at {pairs} of photos", line)


def _raise_accuracy(results: _Results) -> Iterator[NextStep]:
    """What is known to change validation accuracy most; more photos only where they may close a gap."""
    known: list[tuple[NetworkAnalysis, Effect]] = [
        (one, effect)
        for one in results.networks
        for effect in one.main_effects(BALANCED_VALIDATION if one.question.unequal else VALIDATION)
        if effect.answer != CANNOT_TELL
        and (effect.factor != "data_fraction" or (effect.answer == "raises" and _has_gap(one)))
    ]
    if not known:
        return
    one, effect = max(known, key=lambda pair: abs(pair[1].estimate))
    of = f" of {one.architecture}" if len(results.networks) > 1 else ""
    changes = f"{describe_change(effect)} changes validation accuracy{of} by {format_effect(effect)} points"
    if effect.factor == "data_fraction":
        yield _add_photos(results, changes.replace(" changes ", " change ", 1))
        return
    better = effect.level if effect.answer == "raises" else effect.baseline
    line = shlex.join(["python", "-m", "cnnstudy", "confirm", results.study.name])
    cost = "a few trials with fresh seeds, to see whether it holds"
    yield NextStep(f"Use {find_factor(effect.factor).describe(better)}", changes, cost, line)


def _has_gap(one: NetworkAnalysis) -> bool:
    """Return whether a gap is known to be left on all images: without one, more of them have nothing to close.

    That accuracy has risen with the images up to here does not say that it goes on.
    """
    gap = overall_gap(one)
    return gap is not None and gap.low is not None and gap.low > 0


def _lower_gap(results: _Results) -> Iterator[NextStep]:
    """What is known to lower the gap most, where a network overfits and accuracy is not known to gain."""
    known = [
        effect
        for one in results.networks
        if judge_overfitting(one) == "overfits"
        for effect in one.main_effects(one.question.column)
        if effect.answer != CANNOT_TELL
    ]
    if not known or not results.is_factorial or list(_raise_accuracy(results)):
        return
    effect = max(known, key=lambda effect: abs(effect.estimate))
    better = effect.level if effect.answer == "lowers" else effect.baseline
    step = f"{find_factor(effect.factor).describe(better)} lowers"
    if effect.factor == "data_fraction":
        step = "training on more photos lowers"
    evidence = (
        f"{step} the gap ({describe_change(effect)}: {format_effect(effect)} points), but whether validation accuracy "
        "gains cannot be told"
    )
    yield NextStep("Add seeds", evidence, results.seconds(results.seed_trials), results.more_seeds())


def _lower_rate(results: _Results) -> Iterator[NextStep]:
    diverged = [run for run in results.trials if run.state == "failed" and run.reason == "diverged"]
    rates = [rate for run in diverged if isinstance(rate := run.levels.get("learning_rate"), float)]
    if rates:
        evidence = f"the loss of {count_noun(len(diverged), 'trial')} of {len(results.trials)} diverged"
        keys = {"factors.learning_rate": f"{min(rates) / 10:g}"}
        line = results.once_more("slower", **keys)
        yield NextStep("Lower the learning rate to a tenth", evidence, results.seconds(), line)


def _train_longer(results: _Results) -> Iterator[NextStep]:
    """Most trials that learnt were still at their best in the last epoch, or networks have not learnt by heart."""
    longest = max((run.epochs or 0 for run in results.finished), default=0)
    learnt = [run for run in results.finished if run.verdict != "not-learning"]
    best = [run for run in learnt if run.epochs is not None and run.best_epoch == run.epochs and run.epochs > 1]
    unlearnt = [run for run in results.finished if run.metrics.get(_LAST_TRAIN, 1.0) < UNDERFIT_BELOW]
    if not longest:
        return
    if 2 * len(learnt) < len(results.finished):
        number = len(results.finished) - len(learnt)
        evidence = f"{number} of {count_noun(len(results.finished), 'trial')} did not learn by their best epoch"
    elif 2 * len(best) > len(learnt):
        evidence = f"{len(best)} of {count_noun(len(learnt), 'trial')} that learnt were at their best in the last epoch"
    elif "overfits" not in results.judged and 2 * len(unlearnt) > len(results.finished):
        evidence = (
            f"{len(unlearnt)} of {count_noun(len(results.finished), 'trial')} end with a train accuracy below "
            f"{UNDERFIT_BELOW:.0%}: they have not learnt their training images".replace("%", " %")
        )
    else:
        return
    line = results.once_more("longer", **{"training.epochs": 2 * longest})
    yield NextStep("Train longer", evidence, results.seconds(times=2), line)


def _balance_classes(results: _Results) -> Iterator[NextStep]:
    if any(one.question.unequal for one in results.networks) and results.levels("class_weights") <= {"none"}:
        evidence = "the largest class has more than 1.5 times the images of the smallest, and all count alike"
        line = results.once_more("balanced", **{"factors.class_weights": "[none, balanced]"})
        yield NextStep("Try class weights", evidence, results.seconds(times=2), line)


def _freeze(results: _Results) -> Iterator[NextStep]:
    """Source weights are at hand, and no trial used them."""
    has_weights = bool(results.study.config.get("weights"))
    if "overfits" in results.judged and has_weights and results.levels("transfer") == {"scratch"}:
        line = results.once_more("frozen", **{"factors.transfer": "[scratch, frozen]"})
        yield NextStep("Try frozen source weights", "every trial trained all layers", results.seconds(times=2), line)


def _augment(results: _Results) -> Iterator[NextStep]:
    if "overfits" in results.judged and results.levels("augmentation") == {"none"}:
        line = results.once_more("augmented", **{"factors.augmentation": "[none, flip]"})
        evidence = "networks overfit, and every trial saw the same pixels in each epoch"
        yield NextStep("Try augmentation", evidence, results.seconds(times=2), line)


def _more_validation(results: _Results) -> Iterator[NextStep]:
    numbers = {run.parameters.get(Parameter.VALIDATION_IMAGES) for run in results.finished}
    images = int(number) if len(numbers) == 1 and (number := numbers.pop()) else None
    if images is None or images >= LEAST_IMAGES_FOR_FIT:
        return
    evidence = (
        f"{images} validation images tell little: it takes at least {LEAST_IMAGES_FOR_FIT} to show that a network does "
        "not overfit"
    )
    share = float(results.finished[0].parameters.get(Parameter.VALIDATION_SHARE, "nan"))
    enough = math.ceil(20 * share * LEAST_IMAGES_FOR_FIT / images + 1e-9) / 20 if share > 0 else math.inf
    if enough <= _LARGEST_SHARE:
        line = results.once_more("validated", **{"data.validation": f"{enough:g}"})
        yield NextStep("Hold out more images for validation", evidence, results.seconds(), line)
    elif results.are_photos:
        yield _add_photos(results, evidence)


def _more_seeds(results: _Results) -> Iterator[NextStep]:
    """Some effect that the study asks about cannot be told."""
    asked = [effect for one in results.networks for effect in one.main_effects(one.question.column)]
    untold = [effect for effect in asked if effect.answer == CANNOT_TELL]
    unlearnt = [run for run in results.finished if run.verdict == "not-learning"]
    # more seeds of networks at chance would tell nothing
    nothing_to_tell = results.judged == {"hardly overfits"} or 2 * len(unlearnt) > len(results.finished)
    if results.is_factorial and (untold or "cannot tell" in results.judged) and not nothing_to_tell:
        evidence = f"{len(untold)} of {count_noun(len(asked), 'effect')} on the gap cannot be told from chance"
        if not untold:
            evidence = "whether networks overfit cannot be told"
        cost = results.seconds(results.seed_trials)
        yield NextStep("Add seeds, which narrows the intervals", evidence, cost, results.more_seeds())


def _stop(results: _Results) -> Iterator[NextStep]:
    if results.judged == {"hardly overfits"} and not list(_raise_accuracy(results)):
        line = shlex.join(["python", "-m", "cnnstudy", "confirm", results.study.name])
        cost = "a few trials with fresh seeds, to name the best configuration and test it once"
        yield NextStep("Stop here", "there is nothing to gain against overfitting", cost, line)


def _add_photos(results: _Results, evidence: str) -> NextStep:
    return NextStep("Add photos", evidence, "finding and labelling them", results.once_more("more-photos"))


#: The rules, the most useful first; those that need no finished trial.
_RULES: tuple[Callable[[_Results], Iterator[NextStep]], ...] = (
    *(_finish, _run_failed, _mend_conflicts),
    *(_raise_accuracy, _lower_gap),
    *(_lower_rate, _train_longer),
    *(_more_validation, _stop),
    *(_freeze, _augment, _balance_classes),
    _more_seeds,
)
_RULES_WITHOUT_RESULTS = (_finish, _run_failed, _mend_conflicts, _lower_rate)
