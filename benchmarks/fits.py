"""Fit a fixed and a marginal cost to measurements by least squares, and plot them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Points = Sequence[tuple[float, float]]  # (how much, cost)


@dataclass(frozen=True)
class Line:
    """cost = fixed + marginal x how much."""

    fixed: float
    marginal: float
    off: float  # the largest distance of a point from the line, relative to the cost there

    def at(self, much: float) -> float:
        """Return the cost of this much."""
        return self.fixed + self.marginal * much

    def __str__(self) -> str:
        return f"{self.fixed:.3g} + {self.marginal:.3g} for each (points off by at most {100 * self.off:.0f} %)"


def fit(points: Points) -> Line:
    """Fit the line to two or more points by least squares of the relative error, so that small costs count too."""
    much, cost = (np.array(column, float) for column in zip(*points, strict=True))
    matrix = np.stack([np.ones_like(much), much], axis=1) / cost[:, None]
    (fixed, marginal), *_ = np.linalg.lstsq(matrix, np.ones_like(cost), rcond=None)
    return Line(float(fixed), float(marginal), float(np.abs((fixed + marginal * much) / cost - 1).max()))


def exponent(points: Points) -> float:
    """Return the exponent of the growth between the last two points: 1 is proportional, 2 is quadratic."""
    (n, a), (m, b) = points[-2:]
    return float(np.log(b / a) / np.log(m / n))


def through(points: Points, much: float) -> float:
    """Return the cost of this much, interpolated as a power from each point to the next, and extrapolated."""
    x, y = (np.log(np.array(column, float)) for column in zip(*points, strict=True))
    last = int(np.clip(np.searchsorted(x, np.log(much)), 1, len(x) - 1))
    slope = (y[last] - y[last - 1]) / (x[last] - x[last - 1])
    return float(np.exp(y[last] + slope * (np.log(much) - x[last])))


def plot(of: Mapping[str, Points], path: Path) -> None:
    """Plot each in its own panel, with its line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(of), figsize=(4.5 * len(of), 4), squeeze=False, layout="constrained")
    for axes, (title, points) in zip(panels[0], of.items(), strict=True):
        much, cost = zip(*points, strict=True)
        axes.plot(much, cost, "o")
        axes.plot(much, [fit(points).at(one) for one in much])
        axes.set_title("\n".join(textwrap.wrap(title, 36)))
        axes.set_xlabel(str(fit(points)), fontsize="x-small")
        axes.set_ylim(0)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
