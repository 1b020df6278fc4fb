"""A factorial: every cell once with each seed, in blocks.

The trials of a block share a seed: its initial weights, its order of batches and its division into train and
validation. So cells are compared within blocks, where all of that is the same. A block is complete before the next
begins, for all networks, so that a study that was stopped is balanced; within a block the cells run in an order of
chance, so that a machine that slows down or warms up does not look like an effect.

A trial's number is block * cells + the cell's place among the network's cells: more seeds add blocks, and what was
recorded stays what it was.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from cnnstudy import architectures
from cnnstudy.config import schema
from cnnstudy.config.designs import choose_fraction, quasi_random
from cnnstudy.config.factors import Choices, complete_levels
from cnnstudy.config.schema import StudyConfig
from cnnstudy.records import Level
from cnnstudy.search.strategy import FixedList, PastTrial, Proposal, random_seed


class FactorialStrategy(FixedList):
    """The trials of a factorial that are not recorded; its cells and their order depend on the file only."""

    def __init__(self, config: StudyConfig, past: Sequence[PastTrial]) -> None:
        assert isinstance(config.strategy, schema.FactorialConfig)
        done = {(trial.architecture, trial.number) for trial in past if trial.done}
        cells = {name: list_cells(config, name) for name in config.architectures}
        super().__init__(
            proposal
            for block in range(config.strategy.seeds)
            for proposal in _block(config, cells, block)
            if (proposal.architecture, proposal.number) not in done
        )


def _block(config: StudyConfig, cells: dict[str, list[dict[str, Level]]], block: int) -> list[Proposal]:
    """Every cell of every network once, in an order of chance."""
    proposals = [
        Proposal(name, block * len(cells[name]) + place, levels, config.seed + block, block)
        for name in config.architectures
        for place, levels in enumerate(cells[name])
    ]
    random.Random(f"{config.seed}-block-{block}").shuffle(proposals)
    return proposals


def list_cells(config: StudyConfig, name: str) -> list[dict[str, Level]]:
    """The complete levels of each cell of a network; no two cells have the same."""
    strategy = config.strategy
    assert isinstance(strategy, schema.FactorialConfig)
    if strategy.design == "qmc":
        return _spread_cells(config, name)
    points = config.grid_of(name)
    if strategy.fraction is not None:
        points = choose_fraction(points, strategy.fraction)
    return [_complete(name, config, point) for point in points]


def _spread_cells(config: StudyConfig, name: str) -> list[dict[str, Level]]:
    """The first distinct points of the Sobol sequence; points that differ in factors only that do not act are one."""
    wanted = config.cells_of(name)
    factors, seed = config.factors_of(name), random_seed(config.seed, name, 0)
    cells: dict[tuple[tuple[str, Level], ...], dict[str, Level]] = {}
    first, count = 0, 1
    while len(cells) < wanted:
        for point in quasi_random(factors, seed, first, count):
            levels = _complete(name, config, point)
            cells.setdefault(tuple(levels.items()), levels)
        first, count = first + count, first + count  # 1 point, then 1, 2, 4 and so on
    return list(cells.values())[:wanted]


def _complete(name: str, config: StudyConfig, point: dict[str, Level]) -> dict[str, Level]:
    """A point with the levels of the factors that do not vary, without those that do not act."""
    found, factors = architectures.find(name), config.factors_of(name)
    fixed = {factor: levels.values[0] for factor, levels in factors.items() if isinstance(levels, Choices)}
    levels = {**fixed, **point}
    return complete_levels(found.has_auxiliary_heads, found.defaults, lambda factor: levels.get(factor.name))
