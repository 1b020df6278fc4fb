"""Shares of variance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.anova import anova_lm

from cnnstudy.analysis.importance import VarianceShares, variance_shares
from cnnstudy.config.factors import Choices, Levels, Range

GAP, VALIDATION = "epochs/gap_accuracy", "epochs/val_accuracy"
FACTORS: dict[str, Levels] = {
    "batch_size": Choices((8, 32, 128)),
    "dropout": Choices((0.0, 0.5)),
    "augmentation": Choices(("none", "flip")),
}


def study(seeds: int = 14, noise: float = 0.0) -> pd.DataFrame:
    lists = [levels.values for levels in FACTORS.values() if isinstance(levels, Choices)]
    rows = [(seed, *point) for seed in range(seeds) for point in itertools.product(*lists)]
    frame = pd.DataFrame(rows, columns=["seed", *FACTORS]).assign(verdict="overfit")
    # variances 4 : 1
    gap = 0.04 * (frame["dropout"] == 0.5) + 0.02 * (frame["augmentation"] == "flip") + 0.1 * frame["seed"]
    frame[GAP] = gap + noise * np.random.default_rng(2).normal(size=len(frame))
    return frame


def values(found: VarianceShares) -> dict[str, float]:
    return {name: share.value for name, share in found.shares.items()}


def test_shares_without_noise_are_exact() -> None:
    shares = values(variance_shares(study(), FACTORS, GAP))
    expected = {"batch_size": 0.0, "dropout": 0.8, "augmentation": 0.2, "unexplained": 0.0}
    assert shares == pytest.approx(expected, abs=1e-9)


def test_an_interaction_goes_to_both_of_its_factors() -> None:
    frame = study()
    frame[GAP] = 0.04 * ((frame["dropout"] == 0.5) == (frame["augmentation"] == "flip"))
    shares = values(variance_shares(frame, FACTORS, GAP))
    assert shares == pytest.approx({"batch_size": 0, "dropout": 0.5, "augmentation": 0.5, "unexplained": 0}, abs=1e-9)


def test_a_balanced_factorial_has_omega_squared() -> None:
    frame = study(noise=0.03)
    fitted = smf.ols(
        "y ~ C(seed) + (C(batch_size) + C(dropout) + augmentation)**2", frame.rename(columns={GAP: "y"})
    ).fit()
    table = anova_lm(fitted, typ=2).drop(index="C(seed)")
    noise = table.loc["Residual", "sum_sq"] / table.loc["Residual", "df"]
    total = table["sum_sq"].sum() + noise * (1 + 13)  # the seeds take 13 degrees of freedom
    omega = (table["sum_sq"] - table["df"] * noise) / total
    found = variance_shares(frame, FACTORS, GAP)
    assert found.interactions
    parts = {}
    for name, term in (("batch_size", "C(batch_size)"), ("dropout", "C(dropout)"), ("augmentation", "augmentation")):
        parts[name] = omega[term] + sum(omega[one] / 2 for one in omega.index if ":" in one and term in one.split(":"))
    kept = sum(max(0.0, part) for part in parts.values()) + noise * len(frame) / total
    for name, part in parts.items():
        assert found.shares[name].value == pytest.approx(max(0.0, part) / kept), name
    assert sum(values(found).values()) == pytest.approx(1.0)


def test_chance_has_no_share() -> None:
    shares = []
    for number in range(10):
        frame = study()
        frame[GAP] = np.random.default_rng(number).normal(size=len(frame))
        found = variance_shares(frame, FACTORS, GAP)
        assert found.leader is None
        shares.append(values(found))
    assert min(min(of.values()) for of in shares) >= 0
    assert np.mean([of["unexplained"] for of in shares]) > 0.9


def test_what_learnt_nothing_counts() -> None:
    frame = study()
    whole = variance_shares(frame, FACTORS, GAP)
    frame[VALIDATION] = np.where(frame["batch_size"] == 128, 0.1, 0.9)
    frame.loc[frame["batch_size"] == 128, "verdict"] = "not-learning"
    assert variance_shares(frame, FACTORS, GAP) == whole
    of_accuracy = variance_shares(frame, FACTORS, VALIDATION)
    assert of_accuracy.shares["batch_size"].value == pytest.approx(1.0)
    assert of_accuracy.leader == "batch_size"


RANGES: dict[str, Levels] = {"learning_rate": Range(1e-5, 1e-3, log=True), "dropout": Range(0.0, 1.0)}


def search(count: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    columns = {"learning_rate": 10 ** rng.uniform(-5, -3, count), "dropout": rng.random(count)}
    return pd.DataFrame(columns).assign(seed=range(count), verdict="fit")


def test_ranges_on_their_scale() -> None:
    frame = search()
    frame[GAP] = np.log(frame["learning_rate"])
    assert values(variance_shares(frame, RANGES, GAP)) == pytest.approx(
        {"learning_rate": 1.0, "dropout": 0.0, "unexplained": 0.0}, abs=1e-9
    )


def test_a_hump_has_its_share_with_an_interval() -> None:
    frame = search()
    place = np.log10(frame["learning_rate"]) + 4
    hump = -0.1 * place**2
    noise = 0.02 * np.random.default_rng(1).normal(size=len(frame))
    found = variance_shares(frame.assign(**{GAP: hump + noise}), RANGES, GAP)
    true = 0.1**2 * 4 / 45 / (0.1**2 * 4 / 45 + 0.02**2)  # the variance of a square on -1..1 is 4/45
    share = found.shares["learning_rate"]
    assert share.low is not None
    assert share.high is not None
    assert 0.4 < share.low < true < share.high < 0.9
    assert found.leader == "learning_rate"
    text = found.sentence("the gap")
    assert f"learning rate {100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]" in text
    assert f"; unexplained {100 * found.shares['unexplained'].value:.0f} % [" in text
    assert text.endswith("Learning rate explains most.")


def test_too_few_trials_are_told_of() -> None:
    frame = search(69)
    frame[GAP] = np.log(frame["learning_rate"])
    found = variance_shares(frame, RANGES, GAP)
    # four knots are three coefficients for each range, and the mean
    assert (found.shares, found.trials, found.needed) == ({}, 69, 70)
    assert "69 whose levels were chosen without regard to results; 70 are needed" in found.sentence("the gap")


def test_factors_that_are_not_always_active() -> None:
    rows = [
        (seed, transfer, multiplier, dropout)
        for seed in range(20)
        for transfer, multiplier in (("scratch", math.nan), ("fine-tune", 0.1), ("fine-tune", 1.0))
        for dropout in (0.0, 0.5)
    ]
    frame = pd.DataFrame(rows, columns=["seed", "transfer", "backbone_learning_rate_multiplier", "dropout"])
    frame[GAP] = 0.1 * (frame["transfer"] == "scratch") + 0.02 * (frame["backbone_learning_rate_multiplier"] == 1.0)
    factors: dict[str, Levels] = {
        "transfer": Choices(("scratch", "fine-tune")),
        "backbone_learning_rate_multiplier": Choices((0.1, 1.0)),
        "dropout": Choices((0.0, 0.5)),
    }
    shares = values(variance_shares(frame.assign(verdict="overfit"), factors, GAP))
    assert shares["transfer"] > 0.9
    assert 0 < shares["backbone_learning_rate_multiplier"] < 0.05
    assert [shares["dropout"], shares["unexplained"]] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_interactions_that_are_one_in_a_fraction_are_not_counted() -> None:
    names = ["batch_size", "dropout", "augmentation", "protocol"]
    rows = [
        (seed, *point) for seed in range(20) for point in itertools.product((0, 1), repeat=4) if sum(point) % 2 == 0
    ]
    frame = pd.DataFrame(rows, columns=["seed", *names]).assign(verdict="overfit")
    frame[GAP] = 0.04 * frame["dropout"] + 0.04 * (frame["batch_size"] == frame["augmentation"])
    factors: dict[str, Levels] = {name: Choices((0, 1)) for name in names}
    shares = values(variance_shares(frame, factors, GAP))
    assert [shares["dropout"], shares["unexplained"]] == pytest.approx([0.5, 0.5], abs=0.05)
    # two aliased factors: neither has a share
    found = variance_shares(frame.assign(protocol=frame["dropout"]), factors, GAP)
    assert set(found.inseparable) >= {"dropout", "protocol"}
    assert not set(found.shares) & {"dropout", "protocol"}


def test_nothing_to_share_out() -> None:
    frame = study()
    assert variance_shares(frame.assign(**{GAP: 0.3}), FACTORS, GAP) == VarianceShares()
    assert variance_shares(frame.iloc[:0], FACTORS, GAP) == VarianceShares()
    assert variance_shares(frame, {"dropout": Choices((0.5,))}, GAP).sentence("the gap") == ""
