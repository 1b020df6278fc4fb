from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from cnnstudy.analysis.contrasts import Contrast, list_contrasts
from cnnstudy.analysis.noise import relative_noise
from cnnstudy.config.factors import Choices, Levels, Range

VARIED: dict[str, Levels] = {"batch_size": Choices((8, 32, 128)), "dropout": Choices((0.0, 0.5))}


def trials(seeds: int, noise: dict[int, float], random: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a factorial whose noise depends on the batch size, with differences between seeds and levels."""
    rows = list(itertools.product(range(seeds), (8, 32, 128), (0.0, 0.5)))
    frame = pd.DataFrame(rows, columns=["seed", "batch_size", "dropout"])
    rng = np.random.default_rng(random)
    of_seeds = rng.normal(0, 5, seeds)[frame["seed"]]
    scale = frame["batch_size"].map(noise).to_numpy()
    return frame, 0.1 * frame["batch_size"].to_numpy() + of_seeds + scale * rng.normal(size=len(frame))


def test_ratios_are_those_of_the_variances_at_the_levels() -> None:
    frame, values = trials(400, {8: 1.0, 32: 1.0, 128: 4.0})
    contrasts = [
        Contrast("batch_size", 8, 32),
        Contrast("batch_size", 8, 128),
        Contrast("dropout", 0.0, 0.5),
        Contrast("batch_size", 8, 128, "dropout", 0.0, 0.5),
    ]
    ratios, freedom, _ = relative_noise(frame, VARIED, contrasts, values)
    # the mean of the variances 1, 1 and 16 is 6; with 6 trials a seed, the mean of the seed adds a sixth of that to
    # each and takes a third of the trial's own: 2, 2 and 14
    assert ratios == pytest.approx([2 / 6, 8 / 6, 1, 8 / 6], rel=0.1)
    assert ratios[1] == ratios[3]
    assert freedom[2] == math.inf, "it compares all levels there are"
    # of four cells with 5/6 of 399 each; variances of 14 count most: (2 + 2 + 14 + 14)^2 / (2 * 4 + 2 * 196)
    assert freedom[1] == pytest.approx(2.56 * 5 / 6 * 399, rel=0.05)


def test_noise_of_one_cell_has_the_freedom_of_that_cell() -> None:
    frame, values = trials(5, {8: 1.0, 32: 1.0, 128: 1.0})
    noisy = ((frame["batch_size"] == 128) & (frame["dropout"] == 0.5)).to_numpy()
    values[noisy] += 1000 * np.random.default_rng(1).normal(size=noisy.sum())
    contrasts = [Contrast("batch_size", 8, 128), Contrast("batch_size", 8, 128, "dropout", 0.0, 0.5)]
    ratios, freedom, _ = relative_noise(frame, VARIED, contrasts, values)
    assert freedom == pytest.approx(5 / 6 * 4, rel=0.35), "about 4, not the 13 of the four cells"
    assert (ratios > 1).all()


def test_equal_noise_gives_ratios_around_1() -> None:
    found = []
    for random in range(200):
        frame, values = trials(5, {8: 1.0, 32: 1.0, 128: 1.0}, random)
        ratios, freedom, _ = relative_noise(frame, VARIED, list_contrasts(frame, VARIED), values)
        found.append(ratios)
        assert (ratios == 1)[np.isinf(freedom)].all()
    assert np.mean(found, axis=0) == pytest.approx(1, abs=0.05)


def test_what_can_t_be_seen_is_not_said() -> None:
    frame, values = trials(5, {8: 1.0, 32: 1.0, 128: 40.0})
    contrasts = list_contrasts(frame, VARIED)
    missing = np.where(frame["batch_size"] == 128, np.nan, values)
    ratios, freedom, _ = relative_noise(frame, VARIED, contrasts, missing)
    noisy = np.array([128 in (one.baseline, one.level) for one in contrasts])
    assert (ratios[noisy] == 1).all()
    assert np.isinf(freedom[noisy]).all()
    for values_of in (np.full(len(frame), np.nan), np.zeros(len(frame))):
        assert (relative_noise(frame, VARIED, contrasts, values_of)[0] == 1).all()
    one_seed = frame["seed"] == 0
    assert (relative_noise(frame[one_seed], VARIED, contrasts, values[one_seed])[0] == 1).all()
    ranges = VARIED | {"learning_rate": Range(1e-5, 1e-3, log=True)}
    assert (relative_noise(frame.assign(learning_rate=1e-4), ranges, contrasts, values)[0] == 1).all()


@pytest.mark.parametrize(("noisiest", "is_extreme"), [(1.0, False), (3.0, False), (10.0, True)])
def test_noise_is_extreme_where_one_level_scatters_many_times_as_much(noisiest: float, is_extreme: bool) -> None:
    frame, values = trials(10, {8: 1.0, 32: 1.0, 128: noisiest})
    contrasts = list_contrasts(frame, VARIED)
    assert relative_noise(frame, VARIED, contrasts, values).is_extreme is is_extreme
    # a seed that lacks a cell of a level shows nothing of its noise, and the others do
    values[0] = math.nan
    assert relative_noise(frame, VARIED, contrasts, values).is_extreme is is_extreme


@pytest.mark.parametrize("seeds", [3, 5])
def test_few_trials_rarely_differ_extremely_by_chance(seeds: int) -> None:
    studies = (trials(seeds, {8: 1.0, 32: 1.0, 128: 1.0}, random) for random in range(200))
    assert np.mean([relative_noise(frame, VARIED, [], values).is_extreme for frame, values in studies]) < 0.08
