"""Cells and blocks: what a factorial proposes, in which order, and after a stop."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest

from cnnstudy import architectures
from cnnstudy.config.factors import FACTORS, is_one_of
from cnnstudy.config.schema import StudyConfig
from cnnstudy.records import Level
from cnnstudy.search.factorial import FactorialStrategy, list_cells
from cnnstudy.search.strategy import PastTrial, Proposal

LISTS = {
    "batch_size": [8, 32],
    "dropout": [0.0, 0.5],
    "transfer": ["scratch", "frozen", "fine-tune"],
    "backbone_learning_rate_multiplier": [0.1, 0.5],
    "auxiliary_weight": [0.0, 0.3],
    "augmentation": "flip",
}
RANGES = {**LISTS, "dropout": {"low": 0.0, "high": 0.8}, "auxiliary_weight": {"low": 0.0, "high": 0.5}}
DESIGNS: dict[str, dict[str, Any]] = {
    "full": {},
    "fractional": {"design": "fractional", "fraction": 2},
    "qmc": {"design": "qmc", "cells": 13},
}


def study(design: str = "full", seeds: int = 3, **changes: Any) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "probe",
            "data": {"name": "digits"},
            "architectures": ["alexnet", "googlenet"],
            "factors": RANGES if design == "qmc" else LISTS,
            "weights": {"default": {"source": "random"}},
            "training": {"epochs": 4},
            "strategy": {"kind": "factorial", "seeds": seeds, **DESIGNS[design]},
            "seed": 40,
            **changes,
        }
    )


def proposals(config: StudyConfig, past: Sequence[PastTrial] = (), most: int | None = None) -> list[Proposal]:
    """What a factorial proposes, one after the other."""
    factorial = FactorialStrategy(config, past)
    return list(itertools.islice(iter(factorial.next, None), most))  # type: ignore[arg-type]


def record(proposal: Proposal, state: str = "finished", done: bool = True) -> PastTrial:
    return PastTrial(proposal.architecture, proposal.number, proposal.levels, state, done)


def keys(trials: Sequence[Proposal | PastTrial]) -> list[tuple[str, int]]:
    return [(trial.architecture, trial.number) for trial in trials]


# ---- cells


@pytest.mark.parametrize("design", DESIGNS)
def test_cells_are_complete_allowed_and_distinct(design: str) -> None:
    config = study(design)
    for name in config.architectures:
        network, given = architectures.find(name), config.factors_of(name)
        cells = list_cells(config, name)
        assert len(cells) == config.cells_of(name)
        assert len({str(cell) for cell in cells}) == len(cells)
        for cell in cells:
            so_far: dict[str, Level] = {}
            for factor in FACTORS.values():
                named = not factor.optional or factor.name in given
                assert (factor.name in cell) is (named and factor.active(so_far, network.has_auxiliary_heads))
                if factor.name in cell:
                    so_far[factor.name] = cell[factor.name]
                    assert type(cell[factor.name]) is factor.kind
                    if factor.name in given:
                        assert is_one_of(cell[factor.name], given[factor.name])
            assert cell["augmentation"] == "flip", "a factor with one level has it"
            assert cell["learning_rate"] == network.defaults["learning_rate"], "one that is not named has its default"


def test_a_full_design_has_every_combination() -> None:
    config = study()
    assert [config.cells_of(name) for name in config.architectures] == [4 * (1 + 1 + 2), 4 * (2 + 1 + 4)]
    assert [config.trials_of(name) for name in config.architectures] == [3 * 16, 3 * 28]
    assert config.total_trials == 3 * 44


@pytest.mark.parametrize("name", ["alexnet", "googlenet"])
def test_a_fraction_is_a_part_of_the_full_design_with_all_levels(name: str) -> None:
    full, half = list_cells(study(), name), list_cells(study("fractional"), name)
    assert len(half) == len(full) // 2
    assert all(cell in full for cell in half)
    assert {item for cell in half for item in cell.items()} == {item for cell in full for item in cell.items()}


def test_the_cells_of_lists_do_not_depend_on_the_seed_and_those_that_spread_do() -> None:
    for design in DESIGNS:
        same = list_cells(study(design), "alexnet") == list_cells(study(design, seed=41), "alexnet")
        assert same is (design != "qmc")


def test_more_cells_that_spread_hold_the_fewer() -> None:
    strategies = [{"kind": "factorial", "design": "qmc", "cells": cells} for cells in (5, 20)]
    few, many = (list_cells(study("qmc", strategy=strategy), "googlenet") for strategy in strategies)
    assert many[:5] == few


def test_points_that_differ_only_in_what_does_not_act_are_one_cell() -> None:
    factors = {"transfer": ["scratch", "frozen"], "auxiliary_weight": {"low": 0.0, "high": 0.5}}
    strategy = {"kind": "factorial", "design": "qmc", "cells": 6}
    config = study("qmc", factors=factors, strategy=strategy)
    assert [config.cells_of(name) for name in config.architectures] == [2, 6]
    assert [cell["transfer"] for cell in list_cells(config, "alexnet")] in (
        ["scratch", "frozen"],
        ["frozen", "scratch"],
    )
    with_heads = collections.Counter(cell["transfer"] for cell in list_cells(config, "googlenet"))
    assert with_heads == {"frozen": 1, "scratch": 5}


def test_a_network_where_nothing_varies_has_one_cell() -> None:
    for design in DESIGNS:
        config = study(design, factors={"batch_size": {"alexnet": [8, 16, 32, 64]}})
        assert [len(list_cells(config, name)) for name in config.architectures] == [4, 1]


# ---- blocks


@pytest.mark.parametrize("design", DESIGNS)
def test_every_cell_runs_once_with_each_seed(design: str) -> None:
    config = study(design)
    found = proposals(config)
    assert len(found) == config.total_trials
    for name in config.architectures:
        cells = list_cells(config, name)
        mine = {proposal.number: proposal for proposal in found if proposal.architecture == name}
        assert sorted(mine) == list(range(3 * len(cells)))
        for number, proposal in mine.items():
            block, place = divmod(number, len(cells))
            assert proposal.levels == cells[place]
            assert (proposal.seed, proposal.block) == (40 + block, block)


def test_a_block_is_complete_before_the_next_begins() -> None:
    config = study()
    found = proposals(config)
    assert [proposal.block for proposal in found] == [block for block in range(3) for _ in range(44)]


def test_within_a_block_cells_and_networks_are_mixed() -> None:
    """Were the cells run in their order, what the machine does in time would look like an effect."""
    found = proposals(study())
    orders = []
    for block in (found[:44], found[44:88], found[88:]):
        places = {"alexnet": 16, "googlenet": 28}
        orders.append([(trial.architecture, trial.number % places[trial.architecture]) for trial in block])
        assert orders[-1] != sorted(orders[-1])
        first_half = collections.Counter(trial.architecture for trial in block[:22])
        assert min(first_half["alexnet"], first_half["googlenet"]) >= 4
    assert len({tuple(order) for order in orders}) == 3, "in each block another order"


def test_the_order_depends_on_the_seed_and_on_nothing_else() -> None:
    random.seed(1)
    first = keys(proposals(study()))
    random.seed(2)
    assert keys(proposals(study())) == first
    assert keys(proposals(study(seed=41))) != first


# ---- stops


@pytest.mark.parametrize("design", DESIGNS)
def test_stopped_after_any_trial_it_goes_on_as_without_the_stop(design: str) -> None:
    config = study(design, seeds=2)
    whole = proposals(config)
    for stop in range(len(whole) + 1):
        past = [record(proposal) for proposal in whole[:stop]]
        again = FactorialStrategy(config, past[::-1])  # MLflow's order is another
        assert again.remaining == len(whole) - stop
        assert list(again.upcoming) == whole[stop:]


def test_an_interrupted_trial_runs_again_as_it_was() -> None:
    config = study()
    whole = proposals(config)
    for stopped in (0, 7, 60):
        past = [record(proposal) for proposal in whole[:70]]
        past[stopped] = dataclasses.replace(past[stopped], state="failed", done=False)
        assert proposals(config, past) == [whole[stopped], *whole[70:]]


def test_a_trial_that_failed_counts() -> None:
    config = study()
    whole = proposals(config)
    past = [record(proposal, "failed") for proposal in whole[:3]]
    assert proposals(config, past) == whole[3:]


def test_more_seeds_add_blocks_and_fewer_leave_what_is_recorded() -> None:
    two, five = proposals(study(seeds=2)), proposals(study(seeds=5))
    assert five[: len(two)] == two
    past = [record(proposal) for proposal in two]
    assert proposals(study(seeds=5), past) == five[len(two) :]
    assert proposals(study(seeds=1), past) == []
    assert FactorialStrategy(study(seeds=1), past).remaining == 0
    # of the blocks that are wanted still, what is missing is run
    assert keys(proposals(study(seeds=1), past[3:])) == keys(two[:3])


def test_trials_under_way_are_not_proposed_again_and_none_is_pruned() -> None:
    factorial = FactorialStrategy(study(), [])
    whole = [factorial.next() for _ in range(study().total_trials)]
    assert len({(proposal.architecture, proposal.number) for proposal in whole if proposal}) == len(whole)
    assert factorial.next() is None
    first = whole[0]
    assert first is not None
    assert not factorial.report(first, 1, 0.0)
    factorial.tell(first, "failed", None, {})
    assert factorial.next() is None
