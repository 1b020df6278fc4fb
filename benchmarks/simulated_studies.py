"""Simulated studies whose truth is known, as frames like those of observations.observe.

Accuracies are those of a network that overfits, with a gap of 30 points plus or minus the planted effects. Truth is
that of the whole design, also where trials are missing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import qmc

from cnnstudy.analysis.contrasts import Contrast
from cnnstudy.config.designs import choose_fraction
from cnnstudy.config.factors import Choices, Levels, Range
from cnnstudy.records import Level

OUTCOME = "epochs/gap_accuracy"
TWO_LEVELS: dict[str, Levels] = {
    "batch_size": Choices((8, 128)),
    "data_fraction": Choices((0.25, 1.0)),
    "dropout": Choices((0.0, 0.5)),
    "augmentation": Choices(("none", "flip")),
}
THREE_LEVELS: dict[str, Levels] = TWO_LEVELS | {
    "batch_size": Choices((8, 32, 128)),
    "dropout": Choices((0.0, 0.25, 0.5)),
}
TWO_OF_THREE_LEVELS: dict[str, Levels] = {"batch_size": Choices((8, 32, 128)), "dropout": Choices((0.0, 0.3, 0.6))}
FIVE_LEVELS: dict[str, Levels] = {"batch_size": Choices((8, 16, 32, 64, 128)), "dropout": Choices((0.0, 0.5))}
RANGES: dict[str, Levels] = {
    "batch_size": Choices((8, 128)),
    "data_fraction": Range(0.25, 1.0),
    "dropout": Range(0.0, 0.5),
    "learning_rate": Range(1e-5, 1e-3, log=True),
}
#: Points of gap by which a level differs from the baseline; the other factors do nothing.
MAIN = {"batch_size": 5.0, "data_fraction": -5.0}
LARGE = {"batch_size": 6.6, "data_fraction": -6.6}
INTERACTION = {("batch_size", "data_fraction"): 5.0}
#: Points of gap: a trial's noise, what all trials of a seed share, and how a factor's effect differs from seed to seed.
NOISE, SEED, DIFFERS = 3.0, 3.0, 3.0
#: A noise with which 5 seeds of a 2^3 find an effect of 6.6 points in 9 of 10 studies.
LOUD = 4.7


@dataclass(frozen=True)
class Scenario:
    """A simulated study, and what makes its analysis difficult."""

    name: str
    seeds: int = 3
    factors: Mapping[str, Levels] = field(default_factory=lambda: TWO_LEVELS)
    design: str = "full"  # or "half", "points" (of ranges, in every seed), "search" (each trial its own seed)
    trials: int = 0  # of points and search
    interactions: bool = True
    # "random" (13 % of the trials), "few" (2 %), "cells" (more often in the worst cells), "outcome" (the worst quarter,
    # more often than not), "pruned" (the worst quarter of each seed, always)
    missing: str = ""
    unequal: float = 1.0  # times the noise at the last levels of these factors, of several factors times each other
    unequal_levels: int = 1  # how many
    unequal_factors: tuple[str, ...] = ("batch_size",)
    differs: tuple[str, ...] = ()  # factors whose effect differs from seed to seed
    # or "heavy" (Student's t with 3 degrees of freedom), "skewed" (exponential), "binomial" (right answers counted)
    tails: str = "normal"
    images: int = 160  # in validation, of "binomial"
    gap: float = 30.0  # points, of the baseline
    main: Mapping[str, float] = field(default_factory=lambda: MAIN)
    noise: float = NOISE  # points, of a trial
    hump: float = 0.0  # points, in the middle of the learning rate's range; each study then has points of its own
    networks: int = 1
    no_interactions: bool = False  # the study says that there are none


THREE_FACTORS = {name: TWO_LEVELS[name] for name in ("batch_size", "data_fraction", "dropout")}
NOTHING: dict[str, float] = {"batch_size": 0.0, "data_fraction": 0.0}
SCENARIOS = (
    Scenario("3 seeds, balanced"),
    Scenario("5 seeds, balanced", seeds=5),
    Scenario("3 seeds, 13 % pruned or failed", interactions=False, missing="cells"),
    Scenario("3 seeds, noise differs threefold", unequal=3.0),
    Scenario("3 seeds, two factors act differently by seed", differs=("batch_size", "dropout")),
    Scenario("5 seeds, two factors act differently by seed", seeds=5, differs=("batch_size", "dropout")),
    Scenario("3 seeds, heavy tails", tails="heavy"),
    Scenario("3 seeds, accuracy of 160 images", tails="binomial"),
    Scenario("3 seeds, factors of 3 levels", factors=THREE_LEVELS),
    Scenario("3 seeds, half fraction", design="half"),
    Scenario("3 seeds, 32 points of ranges", factors=RANGES, design="points", trials=32),
    *(
        Scenario(
            f"{seeds} seeds, 32 points of ranges, a hump, no other effects",
            seeds,
            {name: RANGES[name] for name in ("learning_rate", "dropout")},
            design="points",
            trials=32,
            main={"learning_rate": 0.0, "dropout": 0.0},
            interactions=False,
            noise=2.0,
            hump=8.0,
        )
        for seeds in (5, 10)
    ),
    Scenario("search, 80 trials of ranges", factors=RANGES, design="search", trials=80, seeds=80),
    Scenario(
        "all at once: 3 seeds, 3 levels, 13 % missing, unequal, by seed, 160 images",
        factors=THREE_LEVELS,
        interactions=False,
        missing="cells",
        unequal=3.0,
        differs=("batch_size", "dropout"),
        tails="binomial",
    ),
    Scenario("5 seeds, 2^3, 6.6 points", seeds=5, factors=THREE_FACTORS, main=LARGE, noise=LOUD),
    Scenario(
        "5 seeds, 2^3, 6.6 points, 3 networks", seeds=5, factors=THREE_FACTORS, main=LARGE, noise=LOUD, networks=3
    ),
    Scenario("2 seeds, balanced", seeds=2),
    Scenario("2 seeds, probes of 25 images", seeds=2, tails="binomial", images=25),
    Scenario("3 seeds, probes of 25 images", tails="binomial", images=25),
    Scenario("5 seeds, probes of 25 images", seeds=5, tails="binomial", images=25),
    Scenario("3 seeds, probes of 25 images, no effects", tails="binomial", images=25, main=NOTHING, interactions=False),
    Scenario("3 seeds, ceiling: 1 % wrong of 160", tails="binomial", gap=1.0, main=NOTHING, interactions=False),
    Scenario(
        "5 seeds, ceiling: 1 % wrong of 25", 5, tails="binomial", images=25, gap=1.0, main=NOTHING, interactions=False
    ),
    Scenario("5 seeds, heavy tails", seeds=5, tails="heavy"),
    Scenario("5 seeds, noise differs threefold", seeds=5, unequal=3.0),
    Scenario("3 seeds, no effects", main=NOTHING, interactions=False),
    Scenario("5 seeds, no effects", seeds=5, main=NOTHING, interactions=False),
    Scenario("3 seeds, 3 networks, no effects", main=NOTHING, interactions=False, networks=3),
    Scenario("5 seeds, 3 networks", seeds=5, networks=3),
    Scenario("3 seeds, 2 networks, 160 images", tails="binomial", networks=2),
    Scenario("3 seeds, 13 % missing at random", missing="random"),
    Scenario("5 seeds, 2 % missing at random", seeds=5, missing="few"),
    Scenario("3 seeds, worst trials dropped", missing="outcome"),
    Scenario("5 seeds, worst trials dropped, no effects", seeds=5, missing="outcome", main=NOTHING, interactions=False),
    Scenario("5 seeds, worst quarter pruned", seeds=5, missing="pruned"),
    Scenario("3 seeds, half of 2^3, interaction", factors=THREE_FACTORS, design="half", main=NOTHING),
    Scenario("5 seeds, half of 2^3, interaction", seeds=5, factors=THREE_FACTORS, design="half", main=NOTHING),
    Scenario("5 seeds, quarter of 2^4, interaction", seeds=5, design="quarter", main=NOTHING),
    Scenario("5 seeds, half of 2^4, interaction", seeds=5, design="half"),
    Scenario(
        "5 seeds, half of 2^3, said to have no interaction",
        seeds=5,
        factors=THREE_FACTORS,
        design="half",
        interactions=False,
        no_interactions=True,
    ),
    Scenario("5 seeds, 2^4 without 3 cells", seeds=5, design="holes"),
    *(
        Scenario(
            f"{seeds} seeds, noise differs fourfold at {levels} of 5 levels, no effects",
            seeds,
            FIVE_LEVELS,
            main={"batch_size": 0.0, "dropout": 0.0},
            interactions=False,
            unequal=4.0,
            unequal_levels=levels,
        )
        for seeds, levels in ((3, 1), (5, 1), (5, 2), (5, 4), (8, 1))
    ),
    Scenario(
        "5 seeds, noise differs sixfold at the last of 3 levels of both factors, no effects",
        5,
        TWO_OF_THREE_LEVELS,
        main={"batch_size": 0.0, "dropout": 0.0},
        interactions=False,
        unequal=6.0,
        unequal_factors=("batch_size", "dropout"),
    ),
    Scenario(
        "5 seeds, skewed noise, sixfold at 2 of 5 levels, no effects",
        5,
        FIVE_LEVELS,
        main={"batch_size": 0.0, "dropout": 0.0},
        interactions=False,
        tails="skewed",
        unequal=6.0,
        unequal_levels=2,
    ),
)


def design(scenario: Scenario, rng: np.random.Generator) -> pd.DataFrame:
    """Return the trials of a study, without outcomes."""
    if scenario.design in ("full", "half", "quarter", "holes"):
        lists = [levels.values for levels in scenario.factors.values() if isinstance(levels, Choices)]
        cells = list(itertools.product(*(range(len(values)) for values in lists)))
        if scenario.design == "half":
            cells = [cell for cell in cells if sum(cell) % 2 == 0]
        if scenario.design == "holes":
            cells = [cell for cell in cells if cell not in ((1, 1, 0, 0), (1, 1, 0, 1), (0, 1, 1, 0))]
        points = [
            dict(zip(scenario.factors, (v[i] for v, i in zip(lists, cell, strict=True)), strict=True)) for cell in cells
        ]
        if scenario.design == "quarter":
            points = choose_fraction(points, 4)
    else:
        sobol = qmc.Sobol(len(scenario.factors), rng=rng).random(2 ** math.ceil(math.log2(scenario.trials)))
        uniform = sobol if scenario.design == "points" else rng.random(sobol.shape)
        points = [
            {name: at(levels, x) for (name, levels), x in zip(scenario.factors.items(), point, strict=True)}
            for point in uniform[: scenario.trials]
        ]
    if scenario.design == "search":
        rows = [{"seed": number, **point} for number, point in enumerate(points)]
    else:
        rows = [{"seed": seed, **point} for seed in range(scenario.seeds) for point in points]
    return pd.DataFrame(rows).assign(architecture="vgg16", verdict="overfit")


def at(levels: Levels, position: float) -> Level:
    """Return the level at a position in [0, 1)."""
    if isinstance(levels, Choices):
        return levels.values[int(position * len(levels.values))]
    if levels.log:
        return float(levels.low * (levels.high / levels.low) ** position)
    return float(levels.low + position * (levels.high - levels.low))


def share(column: pd.Series, levels: Levels) -> np.ndarray:
    """Return, [trials], how far a level is from the baseline (0) to the last level or the range's end (1)."""
    if isinstance(levels, Choices):
        return column.map(
            {level: place / (len(levels.values) - 1) for place, level in enumerate(levels.values)}
        ).to_numpy()
    scale = np.log if levels.log else np.asarray
    return (scale(column.to_numpy()) - scale(levels.low)) / (scale(levels.high) - scale(levels.low))


def studies(scenario: Scenario, count: int, rng: np.random.Generator) -> Iterator[pd.DataFrame]:
    """Yield simulated studies as frames of finished trials."""
    if scenario.hump and count > 1:
        for _ in range(count):
            yield from studies(scenario, 1, rng)
        return
    trials = design(scenario, rng)
    shares = {name: share(trials[name], levels) for name, levels in scenario.factors.items()}
    gap = scenario.gap + sum(points * shares[name] for name, points in scenario.main.items())
    if scenario.hump:
        gap = gap + scenario.hump * np.exp(-(((shares["learning_rate"] - 0.5) / 0.22) ** 2))
    if scenario.interactions:
        # centred, so that it leaves the main effects as they are
        gap = gap + sum(
            points * (shares[one] - 0.5) * (shares[two] - 0.5) for (one, two), points in interaction(scenario).items()
        )
    noise = np.full(
        len(trials), scenario.noise if scenario.tails != "binomial" else min(scenario.noise, scenario.gap / 10)
    )
    if scenario.unequal != 1:
        ratio = np.ones(len(trials))
        for name in scenario.unequal_factors:
            last = np.sort(np.unique(shares[name]))[-scenario.unequal_levels :]
            ratio = np.where(np.isin(shares[name], last), scenario.unequal * ratio, ratio)
        noise = noise * ratio / math.sqrt((ratio**2).mean())
    seeds = trials["seed"].to_numpy()
    of_seeds = min(SEED, scenario.gap / 10)
    for _ in range(count):
        parts = []
        for network in range(scenario.networks):
            true = gap + rng.normal(0, of_seeds, seeds.max() + 1)[seeds]
            for name in scenario.differs:
                true = true + rng.normal(0, DIFFERS, seeds.max() + 1)[seeds] * shares[name]
            found = observed(scenario, true, noise, rng)
            frame = trials.assign(**{OUTCOME: found / 100}, architecture=f"network {network}")
            parts.append(frame[~gone(scenario, gap, found, seeds, rng)])
        yield pd.concat(parts, ignore_index=True)


def gone(
    scenario: Scenario, gap: np.ndarray, found: np.ndarray, seeds: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return which trials are missing, [trials]."""
    chance = np.zeros(len(gap))
    if scenario.missing in ("random", "few"):
        chance += 0.13 if scenario.missing == "random" else 0.02
    elif scenario.missing == "cells":  # a pruner ends the trials of the worst quarter of cells more often than others
        chance += np.where(gap >= np.quantile(gap, 0.75), 0.28, 0.03) + 0.03
    elif scenario.missing == "outcome":
        chance += np.where(found >= np.quantile(found, 0.75), 0.6, 0.0)
    elif scenario.missing == "pruned":
        worst = pd.Series(found).groupby(seeds).transform(lambda values: values.quantile(0.75))
        chance += found > worst.to_numpy()
    return rng.random(len(gap)) < chance


def interaction(scenario: Scenario) -> dict[tuple[str, str], float]:
    """Return the planted interactions; in fractions without main effects they are twice as large."""
    factor = 2.0 if scenario.design in ("half", "quarter") and scenario.main is NOTHING else 1.0
    return {pair: factor * points for pair, points in INTERACTION.items()}


def observed(scenario: Scenario, true: np.ndarray, noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the measured gaps in points, [trials]: the true ones with a trial's noise."""
    if scenario.tails == "heavy":
        return true + noise * rng.standard_t(3, len(true)) / math.sqrt(3)
    if scenario.tails == "skewed":
        return true + noise * (rng.exponential(size=len(true)) - 1)
    if scenario.tails == "binomial":
        train = 100.0 if scenario.gap < 5 else 96.0
        validation = np.clip(train - true - noise / 2 * rng.normal(size=len(true)), 0, 100)
        return train - rng.binomial(scenario.images, validation / 100) * 100 / scenario.images
    return true + noise * rng.normal(size=len(true))


def truth(scenario: Scenario, contrast: Contrast) -> float:
    """Return a contrast's true value in the design's cells, as a share of 0..1."""
    if contrast.second is None:
        return (
            scenario.main.get(contrast.factor, 0.0)
            / 100
            * step(scenario, contrast.factor, contrast.baseline, contrast.level)
        )
    points = interaction(scenario).get((contrast.factor, contrast.second), 0.0) if scenario.interactions else 0.0
    assert contrast.second_baseline is not None
    assert contrast.second_level is not None
    first = step(scenario, contrast.factor, contrast.baseline, contrast.level)
    return points / 100 * first * step(scenario, contrast.second, contrast.second_baseline, contrast.second_level)


def step(scenario: Scenario, factor: str, baseline: Level, level: Level) -> float:
    """Return the share of the way from the first to the last level."""
    low, high = share(pd.Series([baseline, level]), scenario.factors[factor])
    return float(high - low)
