"""Combinations of levels: their number, balanced fractions of them, and space-filling points."""

from __future__ import annotations

import collections
import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from cnnstudy.config.designs import (
    Point,
    choose_fraction,
    count_points,
    fraction_size,
    has_several_levels,
    minimum_points,
    quasi_random_points,
)
from cnnstudy.config.factors import Choices, Levels, Range, grid_points, is_one_of
from cnnstudy.records import Level

DEFAULTS: dict[str, Level] = {
    "dropout": 0.5,
    "learning_rate": 1e-3,
    "auxiliary_weight": 0.3,
    "auxiliary_dropout": 0.7,
}
#: Among them a factor that acts in some transfer modes only, one that acts with auxiliary heads only, and one that acts
#: where that one is not 0.
LEVELS: dict[str, tuple[Level, ...]] = {
    "transfer": ("scratch", "frozen", "last-block", "fine-tune"),
    "batch_size": (8, 16, 32, 64),
    "dropout": (0.0, 0.2, 0.5),
    "data_fraction": (0.25, 0.5, 1.0),
    "augmentation": ("none", "flip", "strong"),
    "backbone_learning_rate_multiplier": (0.01, 0.1),
    "auxiliary_weight": (0.0, 0.3),
    "auxiliary_dropout": (0.4, 0.7),
}


def grid(*numbers: int) -> list[Point]:
    """All combinations of factors with so many levels."""
    names = [f"factor {place}" for place in range(len(numbers))]
    return [dict(zip(names, levels, strict=True)) for levels in itertools.product(*map(range, numbers))]


def spread(points: Sequence[Point], factors: int) -> int:
    """Of every so many factors, how much more often the commonest combination of levels is there than the rarest."""
    most = 0
    for names in itertools.combinations(sorted(points[0]), factors):
        often = collections.Counter(tuple(point[name] for name in names) for point in points)
        every = itertools.product(*({point[name] for point in points} for name in names))
        counts = [often[levels] for levels in every]
        most = max(most, max(counts) - min(counts))
    return most


def rank(points: Sequence[Point], of: Sequence[Point]) -> int:
    """How many main effects these points tell apart, of those that the points `of` have."""
    columns = sorted({(name, point.get(name)) for point in of for name in point}, key=str)
    rows = [[1, *(point.get(name) == level for name, level in columns)] for point in points]
    return int(np.linalg.matrix_rank(np.array(rows, dtype=float)))


# ---- how many


def test_what_varies() -> None:
    assert [has_several_levels(levels) for levels in (None, Choices((8,)), Choices((8, 16)), Range(0.1, 0.5))] == [
        0,
        0,
        1,
        1,
    ]


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_points_are_counted_as_if_they_were_laid_out(seed: int, heads: bool) -> None:
    dice = random.Random(seed)
    names = dice.sample(sorted(LEVELS), dice.randint(1, 6))
    factors: dict[str, Levels] = {name: Choices(LEVELS[name][: dice.randint(1, 4)]) for name in names}
    assert count_points(factors, heads, DEFAULTS) == len(grid_points(factors, heads, DEFAULTS))


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ({}, 1),
        ({"batch_size": Range(4, 8)}, 5),
        ({"batch_size": Range(4, 8, log=True)}, 5),
        ({"batch_size": Range(4, 8, step=2)}, 3),
        ({"dropout": Range(0.1, 0.5, step=0.1)}, 5),
        ({"dropout": Range(0.1, 0.5, step=0.1), "batch_size": Choices((8, 16))}, 10),
        ({"dropout": Range(0.1, 0.5)}, math.inf),
        ({"dropout": Range(0.1, 0.5), "batch_size": Choices((8, 16))}, math.inf),
        # a range that acts nowhere adds nothing, and one that acts somewhere is endless there
        ({"backbone_learning_rate_multiplier": Range(0.1, 0.5), "batch_size": Choices((8, 16))}, 2),
        (
            {"backbone_learning_rate_multiplier": Range(0.1, 0.5), "transfer": Choices(("frozen", "fine-tune"))},
            math.inf,
        ),
        ({"auxiliary_weight": Range(0.0, 0.5)}, math.inf),
        ({"auxiliary_weight": Range(0.0, 0.5, step=0.25), "auxiliary_dropout": Choices((0.4, 0.7))}, 5),
    ],
)
def test_a_range_has_as_many_levels_as_it_has_steps(factors: dict[str, Levels], expected: float) -> None:
    assert count_points(factors, True, DEFAULTS) == expected


def test_a_grid_too_large_to_lay_out_is_counted_at_once() -> None:
    many = Choices(tuple(number / 1000 for number in range(900)))
    factors: dict[str, Levels] = dict.fromkeys(("dropout", "learning_rate", "data_fraction", "shuffled_labels"), many)
    assert count_points(factors, False, DEFAULTS) == 900**4


# ---- fractions


@pytest.mark.parametrize(
    ("points", "fraction", "size"),
    [
        (grid(2, 2, 2), 2, 4),
        (grid(2, 2, 2), 3, 4),  # to tell three effects and the mean apart takes four
        (grid(2, 2, 2), 1000, 4),
        (grid(3, 3, 3), 3, 9),
        (grid(3, 3, 3), 4, 7),
        (grid(5, 3, 2), 2, 15),
        (grid(5, 3, 3), 2, 23),
        (grid(4), 2, 4),
        ([{}], 2, 1),
    ],
)
def test_the_size_of_a_fraction(points: list[Point], fraction: int, size: int) -> None:
    assert fraction_size(points, fraction) == len(choose_fraction(points, fraction)) == size


def test_not_to_act_counts_as_a_level_in_what_it_takes() -> None:
    points: list[Point] = [{"transfer": "frozen"}, *({"transfer": "fine-tune", "multiplier": m} for m in (0.1, 0.5))]
    assert minimum_points(points) == 1 + 1 + 2


@pytest.mark.parametrize(
    ("numbers", "fraction", "balanced"),
    [
        ((2, 2, 2), 2, 2),
        ((2, 2, 2, 2), 2, 3),
        ((2, 2, 2, 2, 2), 2, 3),
        ((2, 2, 2, 2, 2), 4, 2),
        ((2, 2, 2, 2, 2, 2, 2), 16, 2),
        ((3, 3, 3), 3, 2),
        ((3, 3, 3, 3), 9, 2),
        ((4, 2, 2), 2, 2),
        ((4, 4, 4), 4, 2),
        ((5, 5, 5), 5, 2),
        ((6, 4, 2, 2), 4, 2),
        ((3, 2, 2), 2, 1),
        ((2, 3, 4), 2, 1),
    ],
)
def test_where_there_is_an_orthogonal_array_it_is_found(numbers: tuple[int, ...], fraction: int, balanced: int) -> None:
    """Each combination of so many factors is there equally often: of one its levels, of two the pairs."""
    points = choose_fraction(grid(*numbers), fraction)
    for factors in range(1, balanced + 1):
        assert spread(points, factors) == 0


@pytest.mark.parametrize(("numbers", "fraction"), [((3, 3, 2), 2), ((5, 3, 2, 2), 3), ((3, 4, 6), 4)])
def test_where_there_is_none_it_is_nearly_balanced(numbers: tuple[int, ...], fraction: int) -> None:
    points = choose_fraction(grid(*numbers), fraction)
    assert spread(points, 1) == 1
    assert spread(points, 2) <= 2


@pytest.mark.parametrize("seed", range(60))
def test_every_fraction_has_every_level_and_tells_all_effects_apart(seed: int) -> None:
    dice = random.Random(seed)
    names = dice.sample(sorted(LEVELS), dice.randint(2, 5))
    factors: dict[str, Levels] = {
        name: Choices(tuple(dice.sample(LEVELS[name], dice.randint(2, len(LEVELS[name]))))) for name in names
    }
    points = grid_points(factors, dice.random() < 0.7, DEFAULTS)
    chosen = choose_fraction(points, dice.choice([2, 3, 5, 9]))
    assert {item for point in chosen for item in point.items()} == {item for point in points for item in point.items()}
    assert rank(chosen, points) == rank(points, points)
    places = [points.index(point) for point in chosen]
    assert places == sorted(set(places)), "distinct, and in the order of the grid"


PINNED = ["0000", "0011", "0101", "0110", "1001", "1010", "1100", "1111", "2000", "2011", "2101", "2110"]


def test_a_fraction_is_the_same_whatever_came_before() -> None:
    """And in another release: trials are recorded by their cell's place."""
    points = grid(3, 2, 2, 2)
    random.seed(1)
    first = choose_fraction(points, 2)
    random.seed(2)
    assert choose_fraction(points, 2) == first
    assert ["".join(str(level) for level in point.values()) for point in first] == PINNED


def test_a_large_grid_takes_seconds_not_minutes() -> None:
    assert len(choose_fraction(grid(10, 10, 10), 2)) == 500


# ---- space-filling points

VARIED: dict[str, Levels] = {
    "batch_size": Choices((8, 16, 32)),
    "dropout": Range(0.0, 0.8),
    "transfer": Choices(("a",)),
}


def test_a_part_of_the_sequence_is_the_same_in_one_go_and_in_several() -> None:
    whole = quasi_random_points(VARIED, 5, 0, 8)
    assert [point for first in range(8) for point in quasi_random_points(VARIED, 5, first, 1)] == whole
    assert [*quasi_random_points(VARIED, 5, 0, 4), *quasi_random_points(VARIED, 5, 4, 4)] == whole
    assert quasi_random_points(VARIED, 6, 0, 8) != whole
    for point in whole:
        assert list(point) == ["batch_size", "dropout"], "what does not vary is not in it"
        assert all(is_one_of(level, VARIED[name]) for name, level in point.items())
    assert {int(float(point["dropout"]) / 0.1) for point in whole} == set(range(8)), "one in each eighth"


def test_where_nothing_varies_all_points_are_one() -> None:
    assert quasi_random_points({"batch_size": Choices((8,))}, 5, 0, 2) == [{}, {}]
