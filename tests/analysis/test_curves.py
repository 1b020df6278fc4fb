"""What a trial's metrics are between two epochs, and when it has learnt nothing yet."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from cnnstudy.analysis.curves import Curves, interpolate_at_loss, interpolate_at_updates, is_at_chance
from cnnstudy.analysis.intervals import estimate_mean

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


def falling(rate: float, rng: np.random.Generator) -> np.ndarray:
    """Return train losses from epoch 0 on."""
    noise = np.exp(np.r_[0.0, rng.normal(0, 0.03, EPOCHS)])
    return GUESSING * np.exp(-rate * np.exp(rng.normal(0, 0.2)) * np.arange(EPOCHS + 1) ** 1.2) * noise


def effect_of_batch_size(
    shape: Callable[[np.ndarray], np.ndarray], added: float, rng: np.random.Generator, fast: float
) -> tuple[float, bool, bool]:
    """Return the estimated effect at equal train loss, whether its interval excludes 0, and whether it holds `added`.

    The small batch's loss falls past the compared value in one epoch, the large one's in many; `added` is added to the
    gap of the small batch.
    """
    trials = []
    for rate, extra in ((fast, added), (0.12, 0.0)):
        for _ in range(SEEDS * CELLS):
            losses = falling(rate, rng)
            gaps = shape(losses) + extra * (1 - losses / GUESSING) + rng.normal(0, 0.01, EPOCHS + 1)
            trials.append(curves(losses, gaps))
    loss = sorted(one.losses.min() for one in trials)[math.ceil(0.9 * len(trials)) - 1]
    small, large = np.array(interpolate_at_loss(trials, "gap/accuracy", loss)).reshape(2, SEEDS, CELLS)
    truth = added * (1 - loss / GUESSING)
    found = estimate_mean(np.nanmean(small - large, axis=1))
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return found.value, found.sign != 0, found.low <= truth <= found.high


@pytest.mark.parametrize("fast", [0.7, 2.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gap_of_the_train_loss_alone_is_no_effect_however_coarse_the_epochs(shape: str, fast: float) -> None:
    rng = np.random.default_rng(1)
    found = [effect_of_batch_size(SHAPES[shape], 0.0, rng, fast) for _ in range(80)]
    assert np.mean([excludes for _, excludes, _ in found]) <= 0.05 + 2.6 * 0.0244  # 2.6 standard errors of a share of 80
    assert abs(np.mean([value for value, _, _ in found])) < 0.003


def test_what_a_batch_size_adds_at_the_same_train_loss_is_found() -> None:
    rng = np.random.default_rng(2)
    found = [effect_of_batch_size(SHAPES["linear"], 0.1, rng, 0.7) for _ in range(80)]
    assert np.mean([excludes for _, excludes, _ in found]) > 0.9
    assert np.mean([holds for _, _, holds in found]) >= 0.95 - 2.6 * 0.0244


def test_nothing_is_taken_from_outside_the_curve() -> None:
    trials = [curves([1.6, 1.0, 0.5], [0.0, 0.1, 0.2]), curves([0.4, 0.2], [0.1, 0.2], 1), curves([1.6, 1.5], [0, 0])]
    there, below, above = interpolate_at_loss(trials, "gap/accuracy", 0.7)
    assert 0.1 < there < 0.2
    assert math.isnan(below)
    assert math.isnan(above)
    assert interpolate_at_loss([], "gap/accuracy", 0.7) == []


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
