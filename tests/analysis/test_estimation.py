"""What a design leaves open: main effects mixed with interactions, and missing trials."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from cnnstudy.analysis.contrasts import list_contrasts, varied_levels
from cnnstudy.analysis.estimation import Design, describe_mixed_effects
from cnnstudy.config.designs import choose_fraction
from cnnstudy.config.factors import Choices, Levels
from cnnstudy.records import Level

NAMES = ("batch_size", "dropout", "learning_rate", "weight_decay", "epochs", "momentum", "images")


def factorial(factors: int, levels: int = 2) -> tuple[list[dict[str, Level]], dict[str, Levels]]:
    """Return the cells and the factors of a full factorial."""
    names = NAMES[:factors]
    points = itertools.product(range(levels), repeat=factors)
    return [dict(zip(names, point, strict=True)) for point in points], {
        name: Choices(tuple(range(levels))) for name in names
    }


@pytest.mark.parametrize(("factors", "fraction"), [(4, 2), (5, 2), (6, 4), (7, 8)])
def test_a_fraction_has_resolution_4_where_its_size_allows(factors: int, fraction: int) -> None:
    cells, levels = factorial(factors)
    chosen = choose_fraction(cells, fraction)
    assert len(chosen) == 2**factors / fraction
    assert describe_mixed_effects(chosen, levels) == []


def test_a_half_of_three_factors_mixes_each_with_the_others() -> None:
    cells, levels = factorial(3)
    assert describe_mixed_effects(cells, levels) == []
    assert describe_mixed_effects(choose_fraction(cells, 2), levels) == [
        "batch size: mixed with dropout x learning rate: these trials cannot separate them",
        "dropout: mixed with batch size x learning rate: these trials cannot separate them",
        "learning rate: mixed with batch size x dropout: these trials cannot separate them",
    ]


def test_one_cell_without_trials_mixes_nothing_if_interactions_can_be_estimated() -> None:
    cells, levels = factorial(4)
    assert describe_mixed_effects(cells[1:], levels) == []
    cells, levels = factorial(2)
    assert len(describe_mixed_effects(cells[1:], levels)) == 2


def test_a_factor_that_is_not_always_active_leaves_a_design_complete() -> None:
    cells = [{"transfer": "scratch", "dropout": rate} for rate in (0.0, 0.5)]
    cells += [{"transfer": "fine", "dropout": rate, "factor": by} for rate in (0.0, 0.5) for by in (1, 2)]
    levels: dict[str, Levels] = {
        "transfer": Choices(("scratch", "fine")),
        "dropout": Choices((0.0, 0.5)),
        "factor": Choices((1, 2)),
    }
    assert describe_mixed_effects(cells, levels) == []


def design(outcomes: np.ndarray) -> Design:
    """Return the design of a batch size of 8 or 64, from outcomes [seeds, 2]."""
    rows = [{"seed": seed, "batch_size": size} for seed in range(len(outcomes)) for size in (8, 64)]
    frame = pd.DataFrame(rows)
    varied = varied_levels(frame, {"batch_size": Choices((8, 64))})
    return Design(frame, varied, list_contrasts(frame, varied))


def test_missing_outcomes_are_bounded_by_what_cell_and_seed_suggest() -> None:
    outcomes = np.array([[0.10, 0.21], [0.12, 0.19], [0.11, 0.22], [0.13, 0.2], [0.3, 0.42]])
    found = design(outcomes).bound_missing(outcomes.ravel())
    assert found is None, "nothing is missing"
    outcomes[4, 1] = math.nan
    bounds = design(outcomes).bound_missing(outcomes.ravel())
    assert bounds is not None
    assert bounds.missing == 1
    # the mean over the complete pairs, and the same for the seed that lacks one
    middle = float(np.mean(outcomes[:4, 1] - outcomes[:4, 0]))
    assert (bounds.low[0] + bounds.high[0]) / 2 == pytest.approx(middle, abs=1e-6)
    assert (bounds.high[0] - bounds.low[0]) / 2 == pytest.approx(bounds.margin / 5)
    assert 0.02 < bounds.margin < 0.3
