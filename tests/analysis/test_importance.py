"""Shares of variance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.anova import anova_lm

from cnnstudy.analysis.importance import variance_shares
from cnnstudy.config.factors import Choices, Levels, Range

GAP, VALIDATION = "epochs/gap_accuracy", "epochs/val_accuracy"
FACTORS: dict[str, Levels] = {
    "batch_size": Choices((8, 32, 128)),
    "dropout": Choices((0.0, 0.5)),
    "augmentation": Choices(("none", "flip")),
}


def study(seeds: int = 3, noise: float = 0.0) -> pd.DataFrame:
    lists = [levels.values for levels in FACTORS.values() if isinstance(levels, Choices)]
    rows = [(seed, *point) for seed in range(seeds) for point in itertools.product(*lists)]
    frame = pd.DataFrame(rows, columns=["seed", *FACTORS]).assign(verdict="overfit")
    # variances 4 : 1
    gap = 0.04 * (frame["dropout"] == 0.5) + 0.02 * (frame["augmentation"] == "flip") + 0.1 * frame["seed"]
    frame[GAP] = gap + noise * np.random.default_rng(2).normal(size=len(frame))
    return frame


def test_shares_without_noise_are_exact() -> None:
    shares = variance_shares(study(), FACTORS, GAP)
    expected = {"batch_size": 0.0, "dropout": 0.8, "augmentation": 0.2, "unexplained": 0.0}
    assert shares == pytest.approx(expected, abs=1e-9)


def test_an_interaction_goes_to_both_of_its_factors() -> None:
    frame = study()
    frame[GAP] = 0.04 * ((frame["dropout"] == 0.5) == (frame["augmentation"] == "flip"))
    shares = variance_shares(frame, FACTORS, GAP)
    assert shares == pytest.approx({"batch_size": 0, "dropout": 0.5, "augmentation": 0.5, "unexplained": 0}, abs=1e-9)


def test_sums_of_squares_are_those_of_type_2() -> None:
    frame = study(noise=0.03).drop(index=[0, 5, 6, 17, 20, 31])
    fitted = smf.ols(
        "y ~ C(seed) + (C(batch_size) + C(dropout) + augmentation)**2", frame.rename(columns={GAP: "y"})
    ).fit()
    table = anova_lm(fitted, typ=2)
    noise = table.loc["Residual", "sum_sq"] / table.loc["Residual", "df"]
    total = smf.ols("y ~ C(seed)", frame.rename(columns={GAP: "y"})).fit()
    explained = 1 - (fitted.ssr + (total.df_resid - fitted.df_resid + 1) * noise) / (total.ssr + noise)
    omega = ((table["sum_sq"] - table["df"] * noise) / (total.ssr + noise)).drop(["C(seed)", "Residual"]).clip(lower=0)
    told = max(explained, omega.sum())
    shares = variance_shares(frame, FACTORS, GAP)
    for name, term in (("batch_size", "C(batch_size)"), ("dropout", "C(dropout)"), ("augmentation", "augmentation")):
        halves = sum(omega[other] / 2 for other in omega.index if ":" in other and term in other.split(":"))
        assert shares[name] == pytest.approx((omega[term] + halves) * told / omega.sum()), name
    assert shares["unexplained"] == pytest.approx(1 - told)


def test_chance_has_no_share() -> None:
    shares = []
    for number in range(20):
        frame = study(seeds=5)
        frame[GAP] = np.random.default_rng(number).normal(size=len(frame))
        shares.append(variance_shares(frame, FACTORS, GAP))
    assert min(min(of.values()) for of in shares) >= 0
    assert np.mean([of["unexplained"] for of in shares]) > 0.9


def test_what_learnt_nothing_counts() -> None:
    frame = study()
    whole = variance_shares(frame, FACTORS, GAP)
    frame[VALIDATION] = np.where(frame["batch_size"] == 128, 0.1, 0.9)
    frame.loc[frame["batch_size"] == 128, "verdict"] = "not-learning"
    assert variance_shares(frame, FACTORS, GAP) == whole
    assert variance_shares(frame, FACTORS, VALIDATION)["batch_size"] == pytest.approx(1.0)


def test_ranges_on_their_scale() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"seed": range(40), "learning_rate": 10 ** rng.uniform(-5, -3, 40), "dropout": rng.random(40)})
    factors: dict[str, Levels] = {"learning_rate": Range(1e-5, 1e-3, log=True), "dropout": Range(0.0, 1.0)}
    frame = frame.assign(verdict="fit", **{GAP: np.log(frame["learning_rate"])})
    assert variance_shares(frame, factors, GAP) == pytest.approx(
        {"learning_rate": 1.0, "dropout": 0.0, "unexplained": 0.0}, abs=1e-9
    )


def test_factors_that_are_not_always_active() -> None:
    rows = [
        (seed, transfer, multiplier, dropout)
        for seed in range(3)
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
    shares = variance_shares(frame.assign(verdict="overfit"), factors, GAP)
    assert shares["transfer"] > 0.9
    assert 0 < shares["backbone_learning_rate_multiplier"] < 0.05
    assert [shares["dropout"], shares["unexplained"]] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_interactions_that_are_one_in_a_fraction_are_not_counted() -> None:
    names = ["batch_size", "dropout", "augmentation", "protocol"]
    rows = [(seed, *point) for seed in range(4) for point in itertools.product((0, 1), repeat=4) if sum(point) % 2 == 0]
    frame = pd.DataFrame(rows, columns=["seed", *names]).assign(verdict="overfit")
    frame[GAP] = 0.04 * frame["dropout"] + 0.04 * (frame["batch_size"] == frame["augmentation"])
    factors: dict[str, Levels] = {name: Choices((0, 1)) for name in names}
    shares = variance_shares(frame, factors, GAP)
    assert [shares["dropout"], shares["unexplained"]] == pytest.approx([0.5, 0.5], abs=0.05)
    # two aliased factors: neither has a share
    shares = variance_shares(frame.assign(protocol=frame["dropout"]), factors, GAP)
    assert "dropout" not in shares
    assert "protocol" not in shares


def test_nothing_to_share_out() -> None:
    frame = study()
    assert variance_shares(frame.assign(**{GAP: 0.3}), FACTORS, GAP) == {}
    assert variance_shares(frame.iloc[:0], FACTORS, GAP) == {}
    assert variance_shares(frame.iloc[:5], FACTORS, GAP) == {}
    assert variance_shares(frame, {"dropout": Choices((0.5,))}, GAP) == {}
