from __future__ import annotations

import collections
import dataclasses
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cnnstudy import architectures
from cnnstudy.config.factors import FACTORS, is_one_of
from cnnstudy.config.schema import StudyConfig
from cnnstudy.records import Level
from cnnstudy.search.optuna_search import OptunaStrategy
from cnnstudy.search.strategy import PastTrial, Proposal

SAMPLERS = ["tpe", "random", "qmc", "grid"]
MODES = ["scratch", "frozen", "fine-tune"]
LISTS = {
    "batch_size": [8, 16, 32],
    "dropout": [0.1, 0.3, 0.5],
    "transfer": MODES,
    "backbone_learning_rate_multiplier": [0.1, 0.5],
    "auxiliary_weight": [0.0, 0.3],
    "auxiliary_dropout": [0.4, 0.7],
}
RANGES = {
    **LISTS,
    "batch_size": {"low": 4, "high": 64, "log": True},
    "dropout": {"low": 0.1, "high": 0.6, "step": 0.2},
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "auxiliary_weight": {"low": 0.0, "high": 0.5},
}
#: What a trial comes to: its state, its objective, and what it reported by epoch.
Outcome = tuple[str, float | None, dict[int, float]]


def study(trials: int = 12, sampler: str = "tpe", **changes: Any) -> StudyConfig:
    strategy = {"sampler": sampler, "startup_trials": 3, **changes.pop("strategy", {})}
    return StudyConfig.model_validate(
        {
            "name": "probe",
            "data": {"name": "digits"},
            "architectures": ["alexnet", "googlenet"],
            "factors": LISTS if sampler == "grid" else RANGES,
            "weights": {"default": {"source": "random"}},
            "training": {"epochs": 4},
            "strategy": strategy,
            "budget": {"trials": trials},
            **changes,
        }
    )


def outcome_of(proposal: Proposal) -> Outcome:
    """What a trial comes to: the same for the same trial."""
    if proposal.number % 5 == 3:
        return "failed", None, {}
    chance = random.Random(f"{proposal.architecture} {proposal.number} {sorted(proposal.levels.items())}")
    # not exact in decimal, as a real accuracy
    final = chance.random() / 3
    reported = {epoch: final * epoch / 4 for epoch in range(1, 5)}
    return "finished", reported[4], reported


def run(
    search: OptunaStrategy, outcome: Callable[[Proposal], Outcome] = outcome_of, most: int | None = None
) -> list[PastTrial]:
    """Run what the search proposes, as the driver does; the record of it."""
    done = []
    while (most is None or len(done) < most) and (proposal := search.next()):
        state, value, reports = outcome(proposal)
        reported: dict[int, float] = {}
        for epoch, objective in reports.items():
            reported[epoch] = objective
            if search.report(proposal, epoch, objective):
                state = "pruned"
                break
        search.tell(proposal, state, value, {})
        done.append(record(proposal, state, value, reported))
    return done


def record(
    proposal: Proposal, state: str, value: float | None, reported: dict[int, float] | None = None, done: bool = True
) -> PastTrial:
    return PastTrial(proposal.architecture, proposal.number, proposal.levels, state, done, value, reported or {})


def proposals(config: StudyConfig, past: Sequence[PastTrial] = ()) -> list[Proposal]:
    """All that a search proposes, one after the other."""
    search, found = OptunaStrategy(config, past), []
    while proposal := search.next():
        state, value, _ = outcome_of(proposal)
        search.tell(proposal, state, value, {})
        found.append(proposal)
    return found


def plain(trials: Sequence[Proposal | PastTrial]) -> list[tuple[str, int, dict[str, Level]]]:
    return [(trial.architecture, trial.number, dict(trial.levels)) for trial in trials]


# ---- determinism


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_gives_the_same_trials_and_another_seed_others(sampler: str) -> None:
    config = study(sampler=sampler)
    first = proposals(config)
    assert len(first) == 12
    assert plain(proposals(config)) == plain(first)
    assert [proposal.seed for proposal in proposals(config)] == [proposal.seed for proposal in first]
    other = proposals(study(sampler=sampler, seed=1))
    assert plain(other) != plain(first)
    assert plain(other[:1]) != plain(first[:1])


def test_global_random_numbers_do_not_matter() -> None:
    random.seed(1)
    first = plain(proposals(study()))
    random.seed(2)
    assert plain(proposals(study())) == first


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("pruner", ["none", "median", "hyperband"])
def test_stopped_after_any_trial_it_goes_on_as_without_the_stop(sampler: str, pruner: str) -> None:
    config = study(sampler=sampler, strategy={"pruner": pruner})
    whole = run(OptunaStrategy(config, []))
    assert len(whole) == 12
    assert len({trial.state for trial in whole}) > 1
    for stop in range(len(whole) + 1):
        assert run(OptunaStrategy(config, whole[:stop])) == whole[stop:], f"stopped after {stop}"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_stop_in_every_trial_changes_nothing(sampler: str) -> None:
    """The last trial is interrupted, proposed again as it was, and all goes on as without."""
    config = study(sampler=sampler)
    whole = run(OptunaStrategy(config, []))
    seeds = [proposal.seed for proposal in proposals(config)]
    for stop in range(len(whole)):
        interrupted = dataclasses.replace(whole[stop], state="failed", done=False, value=None, reported={})
        again = OptunaStrategy(config, [*whole[:stop], interrupted])
        assert again.remaining == len(whole) - stop
        first = again.next()
        assert first is not None
        assert plain([first]) == plain([whole[stop]])
        assert first.seed == seeds[stop]
        again.tell(first, whole[stop].state, whole[stop].value, {})
        assert plain(run(again)) == plain(whole[stop + 1 :])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_interrupted_trial_in_the_middle_runs_again_with_its_number_and_levels(sampler: str) -> None:
    config = study(sampler=sampler)
    whole = run(OptunaStrategy(config, []))
    for middle in range(7):
        past = [
            dataclasses.replace(trial, state="failed", done=False, value=None) if place == middle else trial
            for place, trial in enumerate(whole[:8])
        ]
        # MLflow's order is not that of the numbers
        found = run(OptunaStrategy(config, past[::-1]))
        assert plain([whole[middle]])[0] in plain(found)
        mine = [trial for trial in found if trial.architecture == whole[middle].architecture]
        assert mine[0].number == whole[middle].number, "it comes first"
        everything = [*(trial for trial in past if trial.done), *found]
        assert sorted((trial.architecture, trial.number) for trial in everything) == sorted(
            (name, number) for name in config.architectures for number in range(6)
        )
        if sampler != "tpe":  # which learns from what it has
            assert sorted(plain(everything), key=str) == sorted(plain(whole), key=str)


def test_a_trial_that_was_never_recorded_is_proposed_in_its_place() -> None:
    for sampler in SAMPLERS:
        config = study(sampler=sampler)
        whole = run(OptunaStrategy(config, []))
        found = run(
            OptunaStrategy(config, [trial for trial in whole if trial.number != 2 or trial.architecture != "alexnet"])
        )
        assert [(trial.architecture, trial.number) for trial in found] == [("alexnet", 2)]
        if sampler != "tpe":
            assert plain(found) == [entry for entry in plain(whole) if entry[:2] == ("alexnet", 2)]


def test_a_larger_budget_goes_on_where_the_smaller_one_ended() -> None:
    for sampler in SAMPLERS:
        small, large = study(6, sampler=sampler), study(12, sampler=sampler)
        past = run(OptunaStrategy(small, []))
        assert plain([*past, *run(OptunaStrategy(large, past))]) == plain(run(OptunaStrategy(large, [])))


# ---- the budget


@pytest.mark.parametrize("trials", [2, 3, 7, 12])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_never_more_than_the_budget_in_equal_shares_one_after_the_other(trials: int, sampler: str) -> None:
    config = study(trials, sampler=sampler)
    search = OptunaStrategy(config, [])
    names = []
    for left in range(trials, 0, -1):
        assert search.remaining == left
        proposal = search.next()
        assert proposal is not None
        names.append(proposal.architecture)
    assert search.remaining == 0
    assert [search.next() for _ in range(3)] == [None] * 3
    for count in range(trials + 1):
        shares = collections.Counter(names[:count])
        assert abs(shares["alexnet"] - shares["googlenet"]) <= 1
    assert names[0] == "alexnet"


def test_trials_under_way_count_and_have_numbers_of_their_own() -> None:
    for sampler in SAMPLERS:
        search = OptunaStrategy(study(sampler=sampler), [])
        at_once = [search.next() for _ in range(12)]
        assert search.next() is None
        keys = {(proposal.architecture, proposal.number) for proposal in at_once if proposal}
        assert keys == set(itertools.product(("alexnet", "googlenet"), range(6)))


def test_failed_and_pruned_trials_count() -> None:
    config = study(6)
    for state in ("failed", "pruned"):
        done = run(OptunaStrategy(config, []), lambda proposal, state=state: (state, None, {}))
        assert [trial.state for trial in done] == [state] * 6
        assert OptunaStrategy(config, done).next() is None
        assert OptunaStrategy(config, done).remaining == 0


def test_a_smaller_budget_proposes_nothing_more_and_owes_nothing() -> None:
    past = run(OptunaStrategy(study(12), []))
    for trials in (2, 6, 11):
        assert OptunaStrategy(study(trials), past).next() is None
        assert OptunaStrategy(study(trials), past).remaining == 0


def test_what_one_network_has_too_much_is_not_taken_from_another() -> None:
    whole = run(OptunaStrategy(study(12), []))
    past = [trial for trial in whole if trial.architecture == "alexnet" or trial.number == 0]
    smaller = OptunaStrategy(study(6), past)
    assert smaller.remaining == 2
    assert {trial.architecture for trial in run(smaller)} == {"googlenet"}


# ---- levels


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_levels_are_complete_allowed_and_only_where_they_are_active(sampler: str) -> None:
    config = study(72, sampler=sampler)
    found = proposals(config)
    kinds = {kind: set() for kind in ("with", "without")}
    for proposal in found:
        network, levels = architectures.find(proposal.architecture), proposal.levels
        so_far: dict[str, Level] = {}
        for factor in FACTORS.values():
            named = not factor.optional or factor.name in config.factors_of(proposal.architecture)
            assert (factor.name in levels) is (named and factor.active(so_far, network.has_auxiliary_heads))
            if factor.name in levels:
                so_far[factor.name] = levels[factor.name]
                assert type(levels[factor.name]) is factor.kind
                given = config.factors_of(proposal.architecture).get(factor.name)
                assert given is None or is_one_of(levels[factor.name], given), (factor.name, levels)
            if named:
                kinds["with" if factor.name in levels else "without"].add(factor.name)
    assert kinds["with"] == {name for name, factor in FACTORS.items() if not factor.optional}, (
        "every factor was active somewhere"
    )
    assert kinds["without"] == {
        "backbone_learning_rate_multiplier",
        "auxiliary_weight",
        "auxiliary_dropout",
    }


def test_a_fixed_factor_keeps_its_level_and_one_not_named_its_default() -> None:
    for proposal in proposals(study(8, factors={"batch_size": 8, "dropout": [0.1, 0.2]})):
        assert proposal.levels["batch_size"] == 8
        assert proposal.levels["augmentation"] == "none"
        assert proposal.levels["learning_rate"] == architectures.find(proposal.architecture).defaults["learning_rate"]


def test_factors_of_one_network_do_not_reach_another() -> None:
    config = study(20, factors={"dropout": {"alexnet": [0.1, 0.2]}, "batch_size": {"googlenet": 64}})
    by_network = collections.defaultdict(set)
    for proposal in proposals(config):
        by_network[proposal.architecture].add((proposal.levels["dropout"], proposal.levels["batch_size"]))
    assert by_network == {"alexnet": {(0.1, 32), (0.2, 32)}, "googlenet": {(0.4, 64)}}


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_the_first_trials_of_every_network_are_those_of_start_with(sampler: str) -> None:
    starts: list[dict[str, Level]] = [
        {"transfer": "frozen"},
        {"transfer": "fine-tune", "batch_size": 8, "dropout": 0.3},
        {},
        {"transfer": "scratch", "learning_rate": 0.01},
    ]
    found = proposals(study(12, sampler=sampler, strategy={"start_with": starts}))
    for name in ("alexnet", "googlenet"):
        mine = [proposal.levels for proposal in found if proposal.architecture == name]
        for start, levels in zip(starts, mine, strict=False):
            assert {**levels, **start} == levels
        rest = {levels["learning_rate"] for levels in mine}
        assert len(rest) == len(mine), "what start_with leaves open is sampled"


def test_start_with_holds_after_a_stop() -> None:
    config = study(8, strategy={"start_with": [{"transfer": "frozen"}, {"transfer": "scratch"}, {"batch_size": 5}]})
    whole = run(OptunaStrategy(config, []))
    for stop in range(8):
        assert run(OptunaStrategy(config, whole[:stop])) == whole[stop:]


# ---- seeds


def test_a_repeat_of_the_same_levels_gets_the_next_seed() -> None:
    config = study(6, seed=40, factors={"batch_size": 8})
    assert [(proposal.architecture, proposal.seed) for proposal in proposals(config)] == [
        (name, 40 + repeat) for repeat in range(3) for name in ("alexnet", "googlenet")
    ]
    past = run(OptunaStrategy(config, []), most=3)
    assert [proposal.seed for proposal in proposals(config, past)] == [41, 42, 42]


def test_other_levels_get_the_seed_of_the_study() -> None:
    config = study(12, sampler="grid", seed=7)
    assert {proposal.seed for proposal in proposals(config)} == {7}
    seen = collections.Counter()
    for proposal in proposals(study(40, factors={"batch_size": [8, 16]})):
        key = (proposal.architecture, proposal.levels["batch_size"])
        assert proposal.seed == seen[key]
        seen[key] += 1
    assert len(seen) == 4


def test_a_trial_that_runs_again_keeps_its_seed_though_a_later_one_has_the_same_levels() -> None:
    config = study(6, seed=40, factors={"batch_size": 8})
    past = run(OptunaStrategy(config, []))
    past[2] = dataclasses.replace(past[2], state="failed", done=False)
    assert [(proposal.number, proposal.seed) for proposal in proposals(config, past)] == [(1, 41)]


# ---- grid and QMC


def test_a_grid_runs_every_point_once_in_an_order_of_the_seed() -> None:
    config = study(2, sampler="grid")
    sizes = {name: len(config.grid_of(name)) for name in config.architectures}
    assert sizes == {"alexnet": 9 * (1 + 1 + 2), "googlenet": 9 * (3 + 1 + 6)}
    orders = []
    for seed in (0, 1):
        whole = study(2 * sizes["alexnet"], sampler="grid", seed=seed)
        mine = [proposal.levels for proposal in proposals(whole) if proposal.architecture == "alexnet"]
        points = [{name: levels[name] for name in levels if name in LISTS} for levels in mine]
        assert sorted(map(str, points)) == sorted(map(str, whole.grid_of("alexnet")))
        orders.append(points)
    assert orders[0] != orders[1]
    assert orders[0] != config.grid_of("alexnet"), "a part of a grid should not be its first corner"


def test_quasi_random_points_spread() -> None:
    factors = {"batch_size": [8, 16, 32, 64], "transfer": MODES, "dropout": {"low": 0.0, "high": 0.8}}
    config = study(32, sampler="qmc", factors=factors, architectures=["alexnet"])
    found = [proposal.levels for proposal in proposals(config)]
    assert collections.Counter(levels["batch_size"] for levels in found) == dict.fromkeys((8, 16, 32, 64), 8)
    assert min(collections.Counter(levels["transfer"] for levels in found).values()) >= 9
    eighths = collections.Counter(int(float(levels["dropout"]) / 0.1) for levels in found)
    assert eighths == dict.fromkeys(range(8), 4)
    early = [levels["batch_size"] for levels in found[:4]]
    assert sorted(map(int, early)) == [8, 16, 32, 64], "the first four trials have each level once"


def test_the_first_quasi_random_point_differs_by_seed_and_network() -> None:
    factors = {"dropout": {"low": 0.0, "high": 0.8}, "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}
    first = {
        (proposal.levels["dropout"], proposal.levels["learning_rate"])
        for seed in range(10)
        for proposal in proposals(study(2, sampler="qmc", seed=seed, factors=factors))
    }
    assert len(first) == 20


def test_without_a_factor_that_varies_every_sampler_but_a_grid_repeats() -> None:
    for sampler in ("tpe", "random", "qmc"):
        found = proposals(study(6, sampler=sampler, factors={}))
        assert len({str(proposal.levels) for proposal in found if proposal.architecture == "alexnet"}) == 1
        assert [proposal.seed for proposal in found] == [0, 0, 1, 1, 2, 2]


def test_tpe_learns_what_random_does_not() -> None:
    """Dropout near 0.2 is best: after the start TPE comes closer to it than chance."""

    def distance(sampler: str) -> float:
        config = study(40, sampler=sampler, architectures=["alexnet"], factors={"dropout": {"low": 0.0, "high": 0.9}})
        done = run(
            OptunaStrategy(config, []),
            lambda proposal: ("finished", 1 - abs(float(proposal.levels["dropout"]) - 0.2), {}),
        )
        return sum(1 - (trial.value or 0) for trial in done[10:]) / 30

    assert distance("tpe") < 0.5 * distance("random")


def test_the_objective_says_which_way_is_better() -> None:
    found = {}
    for metric in ("val/accuracy", "val/loss"):
        config = study(
            40,
            architectures=["alexnet"],
            factors={"dropout": {"low": 0.0, "high": 0.9}},
            objective={"metric": metric},
        )
        done = run(OptunaStrategy(config, []), lambda proposal: ("finished", float(proposal.levels["dropout"]), {}))
        found[metric] = sum(trial.value or 0 for trial in done[10:]) / 30
    assert found["val/loss"] < 0.3 < 0.6 < found["val/accuracy"]


# ---- limits


def test_tpe_seeks_the_best_that_keeps_the_limits() -> None:
    """Little dropout is best, and breaks the limit: after its start TPE stays around the edge."""
    config = study(
        60,
        architectures=["alexnet"],
        factors={"dropout": {"low": 0.0, "high": 0.9}},
        objective={"maximum_gap": 0.2},
    )
    search, tried = OptunaStrategy(config, []), []
    while proposal := search.next():
        dropout = float(proposal.levels["dropout"])
        metrics = {"val/accuracy": 1 - dropout, "gap/accuracy": 0.5 - dropout, "val/loss": dropout}
        search.tell(proposal, "finished", metrics["val/accuracy"], config.objective.rule.beyond(metrics))
        tried.append(dropout)
    late = tried[20:]
    assert sorted(abs(dropout - 0.3) for dropout in late)[len(late) // 2] < 0.1, late
    assert sum(dropout >= 0.3 for dropout in late) >= 0.5 * len(late), late
    assert min(dropout for dropout in late if dropout >= 0.3) < 0.32


@pytest.mark.parametrize("pruner", ["none", "median"])
def test_limits_hold_after_a_stop(pruner: str) -> None:
    config = study(30, architectures=["alexnet"], objective={"maximum_gap": 0.2}, strategy={"pruner": pruner})

    def on(search: OptunaStrategy, most: int) -> list[PastTrial]:
        done: list[PastTrial] = []
        while len(done) < most and (proposal := search.next()):
            dropout = float(proposal.levels["dropout"])
            reported = {epoch: (1 - dropout) * epoch / 4 for epoch in range(1, 5)}
            reports = [search.report(proposal, epoch, score) for epoch, score in reported.items()]
            pruned = any(reports)
            state, beyond = "pruned" if pruned else "finished", {"maximum_gap": 0.3 - dropout}
            search.tell(proposal, state, 1 - dropout, beyond)
            done.append(dataclasses.replace(record(proposal, state, 1 - dropout, reported), beyond=beyond))
        return done

    whole = on(OptunaStrategy(config, []), 30)
    first = on(OptunaStrategy(config, []), 17)
    assert plain(first + on(OptunaStrategy(config, first), 30)) == plain(whole)


# ---- pruning


def pruned_at(
    config: StudyConfig, levels_of_quality: Sequence[float], past: Sequence[PastTrial] = ()
) -> list[int | None]:
    """The epoch at which each trial was pruned: trial i reports its quality, a little more every epoch."""
    found: list[int | None] = []
    search = OptunaStrategy(config, past)
    epochs = config.epochs_of("alexnet")
    for quality in levels_of_quality:
        proposal = search.next()
        assert proposal is not None
        at = None
        for epoch in range(1, epochs + 1):
            if search.report(proposal, epoch, quality + epoch / 1000):
                at = epoch
                break
        search.tell(proposal, "finished" if at is None else "pruned", quality, {})
        found.append(at)
    return found


def pruning(pruner: str, **changes: Any) -> StudyConfig:
    return study(
        40,
        architectures=["alexnet"],
        training={"epochs": 9},
        strategy={"pruner": pruner, "startup_trials": 4},
        **changes,
    )


GOOD = [0.9, 0.8, 0.85, 0.95, 0.9, 0.92, 0.88, 0.91, 0.93, 0.94]


def test_median_prunes_a_clearly_bad_trial_after_good_ones() -> None:
    found = pruned_at(pruning("median"), [*GOOD, 0.1])
    assert found[:4] == [None] * 4, "not before there is something to compare with"
    assert found[-1] == 1
    assert pruned_at(pruning("median"), [0.9, 0.1, 0.1, 0.1]) == [None] * 4


def test_hyperband_prunes_clearly_bad_trials_after_good_ones() -> None:
    found = pruned_at(pruning("hyperband"), [*GOOD, *([0.1] * 10)])
    assert found[0] is None
    bad = [epoch for epoch in found[10:] if epoch is not None]
    assert len(bad) >= 5
    assert min(bad) == 1


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_a_pruner_knows_the_trials_before_a_stop(pruner: str) -> None:
    config = pruning(pruner)
    whole = pruned_at(config, [*GOOD, *([0.1] * 10)])
    qualities = iter(GOOD)

    def good(_: Proposal) -> Outcome:
        quality = next(qualities)
        return "finished", quality, {epoch: quality + epoch / 1000 for epoch in range(1, 10)}

    past = run(OptunaStrategy(config, []), good, most=10)
    assert pruned_at(config, [0.1] * 10, past) == whole[10:]


def test_where_less_is_better_the_high_ones_are_pruned() -> None:
    for pruner in ("median", "hyperband"):
        found = pruned_at(pruning(pruner, objective={"metric": "val/loss"}), [*([0.1] * 10), *([0.9] * 10)])
        assert sum(epoch is not None for epoch in found[10:]) >= 5


def test_no_pruner_prunes_nothing() -> None:
    assert pruned_at(pruning("none"), [*GOOD, *([0.0] * 10)]) == [None] * 20


def test_one_network_is_not_measured_by_another() -> None:
    config = study(20, strategy={"pruner": "median", "startup_trials": 2})
    search = OptunaStrategy(config, [])
    pruned = []
    for _ in range(20):
        proposal = search.next()
        assert proposal is not None
        quality = 0.9 if proposal.architecture == "alexnet" else 0.2
        pruned.append(search.report(proposal, 1, quality))
        search.tell(proposal, "finished", quality, {})
    assert not any(pruned)
