"""Search with Optuna; the only module that imports it.

Optuna's studies are in memory, one for each network with an equal share of the budget, and are rebuilt in each run
from the trials that MLflow holds. A trial's random numbers depend only on the seed, the network and the trial's number,
so that a study that was stopped and resumed proposes the same trials as without the stop.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState, create_trial

from cnnstudy import architectures
from cnnstudy.config import strategies
from cnnstudy.config.designs import has_several_levels, quasi_random_points
from cnnstudy.config.factors import FACTORS, Choices, Factor, Levels, complete_levels
from cnnstudy.config.schema import StudyConfig
from cnnstudy.records import Level
from cnnstudy.search.strategy import PastTrial, Proposal, derive_seed

optuna.logging.set_verbosity(optuna.logging.WARNING)

_OPTUNA_STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class OptunaStrategy:
    """Proposes trials until every network has used its share of the budget."""

    def __init__(self, config: StudyConfig, past: Sequence[PastTrial]) -> None:
        assert isinstance(config.strategy, strategies.SearchConfig)
        self.config = config
        self.strategy = config.strategy
        self.prunes = config.strategy.pruner != "none"
        self.upcoming = ()  # the next trial follows from the results of earlier ones
        self._grids = {
            name: self._shuffled_grid(name) for name in config.architectures if self.strategy.sampler == "grid"
        }
        self._studies = {name: self._rebuild_study(name, past) for name in config.architectures}
        #: What all trials of a network vary, as TPE asks for each choice: each trial that has ended is looked at once.
        self._varied = {name: IntersectionSearchSpace(include_pruned=True) for name in config.architectures}
        #: Numbers of a network's trials by their levels, in the order of FACTORS: sets would take 1.5 kB a trial.
        self._equal: dict[str, dict[tuple[Level | None, ...], tuple[int, ...]]] = {
            name: {} for name in config.architectures
        }
        for trial in past:
            self._count_equal(trial.architecture, trial.levels, trial.number)
        self._trials: dict[tuple[str, int], optuna.Trial] = {}

    def next(self) -> Proposal | None:
        """Return the next trial of the network that is furthest behind; None if all are done or running."""
        started = {name: self._count_started(name) for name in self.config.architectures}
        candidates = [
            (started[name] / self.config.trials_of(name), order, name)
            for order, name in enumerate(self.config.architectures)
            if started[name] < self.config.trials_of(name)
        ]
        if not candidates:
            return None
        name = min(candidates)[2]
        study = self._studies[name]
        waiting = _trials(study, TrialState.WAITING)
        number = waiting[0].number if waiting else started[name]
        if not waiting and (fixed := self._planned_levels(name, number)):
            study.enqueue_trial(fixed)
        study.sampler = self._sampler(name, number)
        trial = study.ask()
        levels = self._choose_levels(name, trial)
        repeats = self._count_equal(name, levels, trial.number)
        self._trials[name, trial.number] = trial
        return Proposal(name, trial.number, levels, self.config.seed + repeats)

    def report(self, proposal: Proposal, epoch: int, score: float) -> bool:
        """Report the score after an epoch of the trial; return whether to prune it."""
        if not self.prunes:  # nothing reads the scores, and Optuna would keep them all
            return False
        trial = self._trials[proposal.architecture, proposal.number]
        trial.report(score, epoch)
        return trial.should_prune()

    def tell(self, proposal: Proposal, state: str, value: float | None, beyond: Mapping[str, float]) -> None:
        """Report the end of the trial; the arguments are those of Strategy.tell."""
        trial = self._trials.pop((proposal.architecture, proposal.number))
        _end_trial(self._studies[proposal.architecture], trial, state, value, beyond)

    @property
    def remaining(self) -> int:
        """Return the number of trials not proposed yet."""
        return sum(max(0, self.config.trials_of(name) - self._count_started(name)) for name in self._studies)

    def _count_started(self, name: str) -> int:
        study = self._studies[name]
        return len(_trials(study)) - len(_trials(study, TrialState.WAITING))

    def _count_equal(self, name: str, levels: Mapping[str, Level], number: int) -> int:
        """Add a trial to those of the network with these levels; return how many of them have smaller numbers.

        By number, not by time, so that a trial that runs again keeps its seed.
        """
        numbers, key = self._equal.setdefault(name, {}), tuple(map(levels.get, FACTORS))
        equal = numbers.get(key, ())
        numbers[key] = equal if number in equal else (*equal, number)
        return sum(other < number for other in equal)

    def _rebuild_study(self, name: str, past: Sequence[PastTrial]) -> optuna.Study:
        study = optuna.create_study(
            study_name=f"{self.config.name}-{name}",
            direction="maximize" if self.config.objective.rule.maximize else "minimize",
            sampler=optuna.samplers.RandomSampler(seed=0),  # a placeholder: `next` sets one for each trial
            pruner=self._pruner(name),
        )
        by_number = {trial.number: trial for trial in past if trial.architecture == name}
        for number in range(max(by_number, default=-1) + 1):
            trial = by_number.get(number)
            if trial is not None and trial.done:
                self._replay(study, name, trial)
                continue
            # it has not run, or must run again: enqueue it under its number, with its levels
            fixed = self._varied_levels(name, trial.levels) if trial else self._planned_levels(name, number)
            study.add_trial(create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": fixed}))
        return study

    def _replay(self, study: optuna.Study, name: str, past: PastTrial) -> None:
        """Repeat the reports and the end of a past trial; Hyperband updates its state only in reports."""
        params, factors = self._varied_levels(name, past.levels), self.config.factors_of(name)
        distributions = {factor: _distribution(factor, factors[factor]) for factor in params}
        study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=distributions))
        trial = optuna.Trial(study, _trials(study)[-1]._trial_id)
        for epoch, value in sorted(past.reported.items()):
            trial.report(value, epoch)
            trial.should_prune()
        _end_trial(study, trial, past.state, past.value, past.beyond)

    def _varied_levels(self, name: str, levels: Mapping[str, Level]) -> dict[str, Level]:
        """Return those of a trial's levels that Optuna chooses."""
        factors = self.config.factors_of(name)
        return {factor: level for factor, level in levels.items() if has_several_levels(factors.get(factor))}

    def _choose_levels(self, name: str, trial: optuna.Trial) -> dict[str, Level]:
        architecture, factors = architectures.find(name), self.config.factors_of(name)

        def choose(factor: Factor) -> Level | None:
            levels = factors.get(factor.name)
            if isinstance(levels, Choices) and not has_several_levels(levels):
                return levels.values[0]
            return None if levels is None else _suggest(trial, factor, levels)

        return complete_levels(architecture.has_auxiliary_heads, architecture.defaults, choose)

    def _planned_levels(self, name: str, number: int) -> dict[str, Level]:
        """Return the levels of trial `number` that are planned rather than sampled."""
        strategy = self.strategy
        if strategy.sampler == "grid":
            return self._varied_levels(name, self._grids[name][number])
        planned = dict(strategy.start_with[number]) if number < len(strategy.start_with) else {}
        if strategy.sampler == "qmc":
            seed = derive_seed(self.config.seed, name, 0)
            (point,) = quasi_random_points(self.config.factors_of(name), seed, number, 1)
            return {**point, **planned}
        return planned

    def _shuffled_grid(self, name: str) -> list[dict[str, Level]]:
        """Return the points of a network's grid in the random order in which they run."""
        points = self.config.grid_of(name)
        random.Random(f"{self.config.seed}-{name}").shuffle(points)
        return points

    def _sampler(self, name: str, number: int) -> optuna.samplers.BaseSampler:
        seed = derive_seed(self.config.seed, name, number)
        if self.strategy.sampler == "tpe":
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._startup_trials())
            sampler._search_space = self._varied[name]  # a new one would compare all trials, half the time of a choice
            return sampler
        # for a grid and QMC, every level is planned and nothing is sampled
        return optuna.samplers.RandomSampler(seed=seed)

    def _startup_trials(self) -> int:
        share = max(self.config.trials_of(name) for name in self.config.architectures)
        return strategies.count_startup_trials(self.strategy.startup_trials, share)

    def _pruner(self, name: str) -> optuna.pruners.BasePruner:
        if self.strategy.pruner == "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=self.config.epochs_of(name))
        if self.strategy.pruner == "median":
            return optuna.pruners.MedianPruner(n_startup_trials=self._startup_trials())
        return optuna.pruners.NopPruner()


def _trials(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """Return the trials in these states, or all, as they are: copies would take most of the time of a large study."""
    return study.get_trials(deepcopy=False, states=states or None)


def _end_trial(
    study: optuna.Study, trial: optuna.Trial, state: str, value: float | None, beyond: Mapping[str, float]
) -> None:
    for limit, excess in beyond.items():
        trial.set_constraint(limit, excess)
    study.tell(trial, value if state == "finished" else None, state=_OPTUNA_STATES[state])


def _suggest(trial: optuna.Trial, factor: Factor, levels: Levels) -> Level:
    if isinstance(levels, Choices):
        level: Level = trial.suggest_categorical(factor.name, levels.values)  # type: ignore[assignment]
        return level
    if factor.kind is int:
        return trial.suggest_int(
            factor.name, int(levels.low), int(levels.high), log=levels.log, step=int(levels.step or 1)
        )
    return trial.suggest_float(factor.name, levels.low, levels.high, log=levels.log, step=levels.step)


def _distribution(factor: str, levels: Levels) -> BaseDistribution:
    if isinstance(levels, Choices):
        return CategoricalDistribution(levels.values)
    if FACTORS[factor].kind is int:
        return IntDistribution(int(levels.low), int(levels.high), log=levels.log, step=int(levels.step or 1))
    return FloatDistribution(levels.low, levels.high, log=levels.log, step=levels.step)
