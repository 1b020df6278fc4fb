"""A falling power law with a floor, a x^-b + c, and what its fits allow: profile likelihood on a grid of exponents.

For a given exponent b the law is linear in a and c, so every fit, with or without a constraint, is a small least
squares problem with a closed solution. The interval of a statement about the curve, for example "its value at twice the
images", holds what the best fit under that constraint does not fit significantly worse (profile likelihood; Bates and
Watts 1988, "Nonlinear Regression Analysis and Its Applications", section 6.1). Unlike intervals from standard errors
such an interval may be open: that a curve never falls to a target is one of the things that data may allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: The exponents that a law can have. Errors of networks fall with exponents of 0.07 to 0.9 (Hestness et al. 2017;
#: Rosenfeld et al. 2020).
EXPONENTS = np.geomspace(0.05, 2.0, 300)
#: A law does not fit if that is as improbable as this, should it be true.
_NO_FIT = 0.01
#: The number of bisections that find the end of an interval, to 0.1 % of the largest value.
_BISECTIONS = 10
#: Misfits that differ by less are equal.
_ROUNDING = 1e-9
#: Variances are at least this (shares of 0..1, squared): seeds that are equal by chance make nothing certain.
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True)
class PowerLaw:
    """The curve scale * x^-exponent + floor, with x = images / largest number of images measured."""

    scale: float  # at least 0
    exponent: float
    floor: float  # at least 0

    def at(self, x: np.ndarray | float) -> np.ndarray:
        """Return the curve at x (any shape)."""
        return self.scale * np.asarray(x) ** -self.exponent + self.floor

    def reaches(self, value: float) -> float:
        """Return the x at which the curve falls to this value; infinity if it never does."""
        if value <= self.floor or self.scale == 0:
            return math.inf
        return float((self.scale / (value - self.floor)) ** (1 / self.exponent))


class PowerLawFit:
    """The fits of the law to means over seeds.

    A seed moves all its values alike (they are measured on the same validation images), and each of them by chance.
    Both variances are estimated from the seeds (two-way analysis of variance), the former with seeds - 1 degrees of
    freedom, the latter with (seeds - 1) (amounts - 1). The test of a constraint has those of the sum of its two parts
    (Satterthwaite 1946): how far the constraint moves the curve as a whole, and how far it bends it.

    Args:
        x: [amounts], ascending, relative to the largest; at least four.
        values: [seeds, amounts], shares of 0..1; at least two seeds.
    """

    def __init__(self, x: np.ndarray, values: np.ndarray) -> None:
        from scipy import stats

        seeds, amounts = values.shape
        self._means = values.mean(axis=0)
        residuals = values - values.mean(axis=1, keepdims=True) - self._means + values.mean()
        chance = max(float((residuals**2).sum()) / ((seeds - 1) * (amounts - 1)), _LEAST_VARIANCE)
        level = max(amounts * float(values.mean(axis=1).var(ddof=1)), chance)
        average = np.full((amounts, amounts), 1 / amounts)
        self._parts = np.array([seeds * average / level, seeds * (np.eye(amounts) - average) / chance])
        self._freedoms = np.array([seeds - 1, (seeds - 1) * (amounts - 1)])
        self._precision = self._parts.sum(axis=0)  # of the means
        self._powers = x ** -EXPONENTS[:, None]  # [exponents, amounts]
        self._laws, self._misfits = self._fit_each()
        best = int(self._misfits.argmin())
        self.law = PowerLaw(float(self._laws[0, best]), float(EXPONENTS[best]), float(self._laws[1, best]))
        self._best, self._least = self.law.at(x), float(self._misfits[best])
        self.fits = bool(stats.f.sf(self._least / (amounts - 3), amounts - 3, self._freedoms[1]) > _NO_FIT)

    def interval_at(self, x: float) -> tuple[float, float]:
        """Return the 95 % interval of the curve at x, at least 1; of its floor, if x is infinite."""
        own = float(self.law.at(x))
        return self._end(x, own, 0.0), self._end(x, own, 2 * float(self._means.max()))

    def _end(self, x: float, inside: float, outside: float) -> float:
        """Return the allowed value at x that is nearest to `outside`, by bisection."""
        if self.allows(x, outside):
            return outside
        for _ in range(_BISECTIONS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if self.allows(x, middle) else (inside, middle)
        return inside

    def allows(self, x: float, value: float) -> bool:
        """Whether the curve may have this value, at least 0, at x; x may be infinite: its floor."""
        curves, misfits = self._fit_through(x, value)
        nearest = int(misfits.argmin())
        return self._is_allowed(curves[nearest], misfits[nearest])

    def allows_above(self, x: float, value: float) -> bool:
        """Whether the curve may be at this value, at least 0, or above it at x."""
        is_above = self._laws[0] * x**-EXPONENTS + self._laws[1] >= value
        curves, misfits = self._fit_through(x, value)
        misfits = np.where(is_above, self._misfits, misfits)
        nearest = int(misfits.argmin())
        own = self._laws[0, nearest] * self._powers[nearest] + self._laws[1, nearest]
        return self._is_allowed(own if is_above[nearest] else curves[nearest], misfits[nearest])

    def _is_allowed(self, curve: np.ndarray, misfit: float) -> bool:
        """Whether the means [amounts] of a constrained fit are not significantly worse than those of the best one."""
        from scipy import special

        moved = curve - self._best
        parts = (self._parts @ moved) @ moved
        if misfit - self._least <= _ROUNDING or not parts.any():
            return True
        freedom = parts.sum() ** 2 / (parts**2 / self._freedoms).sum()
        return bool(misfit - self._least <= special.stdtrit(freedom, 0.975) ** 2)

    def _fit_each(self) -> tuple[np.ndarray, np.ndarray]:
        """Return for each exponent the best a and c of at least 0, [2, exponents], and the misfit, [exponents]."""
        ones, powers, means = np.ones_like(self._means), self._powers, self._means
        uu, ee, ue = self._product(powers, powers), self._product(ones, ones), self._product(powers, ones)
        uy, ey = self._product(powers, means), self._product(ones, means)
        zero, determinant = np.zeros(len(powers)), uu * ee - ue**2
        candidates = np.array(
            [
                ((uy * ee - ue * ey) / determinant, (uu * ey - ue * uy) / determinant),
                (np.maximum(uy / uu, 0.0), zero),
                (zero, zero + max(float(ey / ee), 0.0)),
            ]
        )
        residuals = means - candidates[:, 0, :, None] * powers - candidates[:, 1, :, None]
        misfits = np.where((candidates < 0).any(axis=1), math.inf, self._product(residuals, residuals))
        best, places = misfits.argmin(axis=0), np.arange(len(powers))
        return candidates[best, :, places].T, misfits[best, places]

    def _fit_through(self, x: float, value: float) -> tuple[np.ndarray, np.ndarray]:
        """Return for each exponent the best curve with this value at x, [exponents, amounts], and its misfit."""
        there = x**-EXPONENTS
        powers, rest = self._powers - there[:, None], self._means - value
        most = np.divide(value, there, out=np.full(len(there), math.inf), where=there > 0)
        scales = np.clip(self._product(powers, rest) / self._product(powers, powers), 0.0, most)
        residuals = rest - scales[:, None] * powers
        return self._means - residuals, self._product(residuals, residuals)

    def _product(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.asarray(((one @ self._precision) * other).sum(axis=-1))
