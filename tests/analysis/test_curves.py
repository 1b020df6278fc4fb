"""What a trial's metrics are between two epochs, and when it has learnt nothing yet."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from scipy.interpolate import PchipInterpolator

from cnnstudy.analysis.curves import (
    BELOW_AT_FIRST,
    COMPARED,
    NEVER_REACHED,
    TOO_COARSE,
    Curves,
    interpolate_at_loss,
    interpolate_at_updates,
    is_at_chance,
)
from cnnstudy.analysis.participation import MIN_SHARE

GUESSING = math.log(5)
SEEDS, CELLS, EPOCHS = 5, 6, 8
#: Gaps that depend on train loss alone.
SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda loss: 0.15 * (1 - loss / GUESSING),
    "grows late": lambda loss: 0.3 * np.exp(-3 * loss),
    "grows early": lambda loss: 0.2 * (1 - np.exp(-4 * np.clip(1 - loss / GUESSING, 0, 1))),
    "step": lambda loss: 0.2 / (1 + np.exp((loss - 0.5) / 0.1)),
}


def curves(losses: np.ndarray | list[float], gaps: np.ndarray | list[float], first: int = 0) -> Curves:
    epochs = tuple(range(first, first + len(losses)))
    return Curves(epochs, {"train/loss": np.array(losses), "gap/accuracy": np.array(gaps)})


def study(
    shape: Callable[[np.ndarray], np.ndarray], added: float, rng: np.random.Generator, fast: float
) -> tuple[list[Curves], float]:
    """Return a study's curves, those of the small batch first, and the train loss that 90 % reach.

    The small batch's loss passes the compared one in a single epoch, the large one's in many; `added` is what the small
    batch adds to the gap by the time the loss is 0.
    """
    trials = []
    for rate, extra in ((fast, added), (0.12, 0.0)):
        for _ in range(SEEDS * CELLS):
            noise = np.exp(np.r_[0.0, rng.normal(0, 0.03, EPOCHS)])
            steps = rate * math.exp(rng.normal(0, 0.2)) * np.arange(EPOCHS + 1) ** 1.1
            losses = GUESSING * np.exp(-steps) * noise
            gaps = shape(losses) + extra * (1 - losses / GUESSING) + rng.normal(0, 0.01, EPOCHS + 1)
            trials.append(curves(losses, gaps))
    return trials, sorted(one.losses.min() for one in trials)[math.ceil(0.9 * len(trials)) - 1]


def effect_of_batch_size(trials: list[Curves], loss: float, truth: float) -> tuple[bool, bool] | None:
    """Return whether the interval at equal train loss excludes 0 and holds the truth; None where it is not told."""
    values = [interpolate_at_loss(one, loss)[1].get("gap/accuracy", math.nan) for one in trials]
    small, large = np.array(values).reshape(2, SEEDS, CELLS)
    if min(np.isfinite(small).mean(), np.isfinite(large).mean()) < MIN_SHARE:
        return None
    low, high = stats.ttest_1samp(np.nanmean(small - large, axis=1), 0.0).confidence_interval(0.95)
    return not low <= 0 <= high, low <= truth <= high


@pytest.mark.parametrize("fast", [0.4, 2.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gap_of_the_train_loss_alone_is_no_effect_however_coarse_the_epochs(shape: str, fast: float) -> None:
    rng = np.random.default_rng(1)
    found = [effect_of_batch_size(*study(SHAPES[shape], 0.0, rng, fast), truth=0.0) for _ in range(60)]
    claims = [one is not None and one[0] for one in found]
    assert np.mean(claims) <= 0.05 + 2.6 * 0.0281  # 2.6 standard errors of a share of 60
    assert all(one is None for one in found) == (fast == 2.5), "where epochs are too coarse it is not told"


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_batch_size_adds_at_the_same_train_loss_is_found(shape: str) -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(60):
        trials, loss = study(SHAPES[shape], 0.1, rng, 0.4)
        found.append(effect_of_batch_size(trials, loss, 0.1 * (1 - loss / GUESSING)))
    told = [one for one in found if one is not None]
    assert len(told) > 50
    assert np.mean([excludes for excludes, _ in told]) > 0.9
    assert np.mean([holds for _, holds in told]) >= 0.95 - 2.6 * 0.0281


@pytest.mark.parametrize(
    ("losses", "state"),
    [
        ([1.6, 1.0, 0.6], COMPARED),
        ([1.6, 1.0, 1.3, 0.6], COMPARED),
        ([0.6, 0.4], BELOW_AT_FIRST),
        ([1.6, 1.5], NEVER_REACHED),
        ([1.6, 1.5, 0.7], TOO_COARSE),
        ([], NEVER_REACHED),
    ],
)
def test_nothing_is_taken_from_outside_the_curve_or_from_within_a_large_step(losses: list[float], state: str) -> None:
    found, metrics = interpolate_at_loss(curves(losses, [1.6 - loss for loss in losses]), 0.7)
    assert found == state
    if state == COMPARED:
        assert 0.6 < metrics["gap/accuracy"] < 1.0
    else:
        assert metrics == {}


def test_values_after_a_number_of_updates() -> None:
    one = curves([1.6, 1.0, 0.5], [0.0, 0.1, 0.2])
    assert interpolate_at_updates(one, {1: 10.0, 2: 20.0}, 15)["gap/accuracy"] == pytest.approx(0.15)
    assert interpolate_at_updates(one, {1: 10.0, 2: 20.0}, 5)["gap/accuracy"] == pytest.approx(0.05)
    assert interpolate_at_updates(one, {1: 10.0, 2: 20.0}, 21) == {}
    assert interpolate_at_updates(one, {}, 5) == {}, "an older study, which has not recorded the updates"
    assert interpolate_at_updates(curves([1.0, 0.5], [0.1, 0.2], 1), {1: 10.0, 2: 20.0}, 5) == {}


@pytest.mark.parametrize(
    ("loss", "accuracy", "images", "at_chance"),
    [
        (GUESSING, 0.5, 100, True),
        (1.55, 0.5, 100, True),
        (1.2, 0.5, 100, False),
        (1.2, 0.24, 100, True),
        (1.2, 0.24, 1000, False),
        (1.2, math.nan, 100, False),
        (math.nan, 0.5, 100, False),
        (math.nan, 0.2, 100, True),
    ],
)
def test_at_chance(loss: float, accuracy: float, images: float, at_chance: bool) -> None:
    assert is_at_chance(loss, accuracy, 5, images) == at_chance
    assert not is_at_chance(loss, accuracy, None, images), "nothing is known of guessing"


@pytest.mark.parametrize("epochs", range(2, 9))
def test_between_two_epochs_a_curve_is_that_of_scipy(epochs: int) -> None:
    dice, compared = np.random.default_rng(epochs), 0
    for _ in range(200):
        losses = np.exp(-np.cumsum(dice.uniform(0.01, 0.6, epochs)))  # always falling, in steps that are small enough
        gaps = np.round(dice.normal(size=epochs), dice.integers(0, 3))  # some are equal
        at = float(np.exp(-dice.uniform(0, 3)))
        state, found = interpolate_at_loss(curves(losses, gaps), at)
        if state == COMPARED:
            compared += 1
            expected = PchipInterpolator(-np.log(losses), gaps)(-math.log(at))
            assert found["gap/accuracy"] == pytest.approx(float(expected), abs=1e-12)
    assert compared > 20
