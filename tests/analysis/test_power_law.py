"""The power law with a floor, and what its fits allow."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cnnstudy.analysis.power_law import EXPONENTS, PowerLaw, PowerLawFit

X = np.array([0.125, 0.25, 0.5, 1.0])


def fit(law: PowerLaw, noise: float = 0.0, seeds: int = 5) -> PowerLawFit:
    rng = np.random.default_rng(1)
    return PowerLawFit(X, law.at(X) + rng.normal(0, noise, (seeds, len(X))))


@pytest.mark.parametrize("law", [PowerLaw(0.1, 0.5, 0.0), PowerLaw(0.05, 1.0, 0.04), PowerLaw(0.1, 0.3, 0.02)])
def test_a_law_without_noise_is_found(law: PowerLaw) -> None:
    found = fit(law)
    spacing = EXPONENTS[1] / EXPONENTS[0] - 1
    assert found.law.exponent == pytest.approx(law.exponent, rel=2 * spacing)
    assert (found.law.scale, found.law.floor) == pytest.approx((law.scale, law.floor), abs=2e-3)
    assert found.fits
    assert found.interval_at(2.0) == pytest.approx((law.at(2.0), law.at(2.0)), abs=5e-3)
    low, high = found.interval_at(math.inf)
    assert low <= found.law.floor <= high


def test_a_and_c_are_never_negative() -> None:
    rising = fit(PowerLaw(-0.1, 0.5, 0.3)).law
    assert (rising.scale, rising.floor > 0) == (0.0, True)
    sinking = fit(PowerLaw(0.2, 1.0, -0.1)).law
    assert (sinking.scale > 0, sinking.floor) == (True, 0.0)


def test_more_noise_makes_wider_intervals_and_more_seeds_narrower_ones() -> None:
    law = PowerLaw(0.1, 0.5, 0.03)
    widths = [np.ptp(fit(law, noise, seeds).interval_at(2.0)) for noise, seeds in ((0.01, 5), (0.03, 5), (0.01, 20))]
    assert widths[2] < widths[0] < widths[1]


def test_what_is_allowed_at_x_and_above() -> None:
    found = fit(PowerLaw(0.1, 1.0, 0.04), 0.005)
    assert [found.allows(1.0, value) for value in (0.0, 0.14, 0.3)] == [False, True, False]
    assert (found.allows_above(1.0, 0.13), found.allows_above(1.0, 0.3)) == (True, False)
    assert (found.allows_above(math.inf, 0.03), found.allows_above(math.inf, 0.1)) == (True, False)


def test_what_is_no_power_law_does_not_fit() -> None:
    bent = np.array([0.30, 0.30, 0.10, 0.09]) + np.random.default_rng(0).normal(0, 0.005, (5, 4))
    assert not PowerLawFit(X, bent).fits


def test_where_a_law_reaches_a_value() -> None:
    assert PowerLaw(0.1, 0.5, 0.0).reaches(0.05) == pytest.approx(4.0)
    assert PowerLaw(0.1, 0.5, 0.05).reaches(0.05) == math.inf
    assert PowerLaw(0.0, 0.5, 0.01).reaches(0.05) == math.inf


@pytest.mark.parametrize(("shared", "noise"), [(0.03, 0.006), (0.0, 0.01)])
def test_intervals_hold_whatever_part_of_the_noise_a_seed_shares(shared: float, noise: float) -> None:
    """With three seeds a shift of all values is known with 2 degrees of freedom, and a bend with 10."""
    law, x, rng, held = PowerLaw(0.08, 0.6, 0.0), np.geomspace(1 / 32, 1, 6), np.random.default_rng(2), 0
    for _ in range(300):
        values = law.at(x) + rng.normal(0, shared, (3, 1)) + rng.normal(0, noise, (3, len(x)))
        held += PowerLawFit(x, values).allows(2.0, float(law.at(2.0)))
    assert held / 300 > 0.92
