"""Propose the trials of a factorial in blocks: every cell once with each seed.

The trials of a block share a seed, and with it the initial weights, the order of batches and the train/validation
split, so that cells are compared within blocks. A block is complete, for all networks, before the next begins, so that
a study that was stopped is balanced. Within a block the order of trials is random, so that a machine that slows down
or warms up does not look like an effect.

A trial's number is block * cells + index of the cell among the network's cells: with more seeds, blocks are added and
recorded trials keep their numbers.

A study with `least_seeds` is asked after each block whether it goes on. Until it is, no trial of a later block is
proposed, except of blocks of which trials are recorded: that they were begun is the record of the earlier answers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from cnnstudy import architectures
from cnnstudy.config import strategies
from cnnstudy.config.designs import choose_fraction, quasi_random_points
from cnnstudy.config.factors import Choices, complete_levels
from cnnstudy.config.schema import StudyConfig
from cnnstudy.records import Level
from cnnstudy.search.strategy import FixedStrategy, PastTrial, Proposal, derive_seed


class FactorialStrategy(FixedStrategy):
    """The trials of a factorial that are not recorded; its cells and their order depend on the study file only."""

    def __init__(self, config: StudyConfig, past: Sequence[PastTrial]) -> None:
        assert isinstance(config.strategy, strategies.FactorialConfig)
        done = {(trial.architecture, trial.number) for trial in past if trial.done}
        cells = {name: list_cells(config, name) for name in config.architectures}
        super().__init__(
            proposal
            for block in range(config.strategy.seeds)
            for proposal in _propose_block(config, cells, block)
            if (proposal.architecture, proposal.number) not in done
        )
        if config.strategy.least_seeds is not None:
            begun = [trial.number // len(cells[trial.architecture]) + 1 for trial in past]
            self.blocks = max([config.strategy.least_seeds, *begun])


def _propose_block(config: StudyConfig, cells: dict[str, list[dict[str, Level]]], block: int) -> list[Proposal]:
    """Return every cell of every network once, in random order."""
    proposals = [
        Proposal(name, block * len(cells[name]) + index, levels, config.seed + block, block)
        for name in config.architectures
        for index, levels in enumerate(cells[name])
    ]
    random.Random(f"{config.seed}-block-{block}").shuffle(proposals)
    return proposals


def list_cells(config: StudyConfig, name: str) -> list[dict[str, Level]]:
    """Return the complete levels of each cell of a network, all distinct."""
    strategy = config.strategy
    assert isinstance(strategy, strategies.FactorialConfig)
    if strategy.design == "qmc":
        return _quasi_random_cells(config, name)
    points = config.grid_of(name)
    if strategy.fraction is not None:
        points = choose_fraction(points, strategy.fraction)
    return [_complete_point(name, config, point) for point in points]


def _quasi_random_cells(config: StudyConfig, name: str) -> list[dict[str, Level]]:
    """Return the cells of the first points of the Sobol sequence.

    Points that differ only in inactive factors are one cell.
    """
    wanted = config.cells_of(name)
    factors, seed = config.factors_of(name), derive_seed(config.seed, name, 0)
    cells: dict[tuple[tuple[str, Level], ...], dict[str, Level]] = {}
    first, count = 0, 1
    while len(cells) < wanted:
        for point in quasi_random_points(factors, seed, first, count):
            levels = _complete_point(name, config, point)
            cells.setdefault(tuple(levels.items()), levels)
        first, count = first + count, first + count  # 1 point, then 1, 2, 4 and so on
    return list(cells.values())[:wanted]


def _complete_point(name: str, config: StudyConfig, point: dict[str, Level]) -> dict[str, Level]:
    """Add the levels of the factors that do not vary to a point, and remove those of inactive factors."""
    architecture, factors = architectures.find(name), config.factors_of(name)
    fixed = {factor: levels.values[0] for factor, levels in factors.items() if isinstance(levels, Choices)}
    levels = {**fixed, **point}
    return complete_levels(
        architecture.has_auxiliary_heads, architecture.defaults, lambda factor: levels.get(factor.name)
    )
