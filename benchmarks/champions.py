"""Measure how often the champion's interval contains the truth, and by how much single scores are too high.

    python benchmarks/champions.py [--searches 200]

simulates searches whose true accuracies are known: twenty combinations, each tried once; the best three are confirmed
with five fresh seeds, or ten if the result is close. Every seed divides one pool of images anew. Images differ in
difficulty, which all networks share; a network's skill depends on the images that it trains on, on its seed, and on the
epoch. The truth is a combination's mean accuracy on images outside the pool, over seeds, divisions and pools, at the
epoch that is chosen. It runs training/cross_fit.py, analysis/resampled.py and analysis/confirmation.py, the code that
trials and `confirm` use, and prints for each number of epochs and pool the coverage and mean width (points) of the
champion's interval, the same where it is not recorded which images were right, and the coverage of Student's t over
these cross-fitted scores and over those of the best epoch.

    --seeds 3 3

confirms with three seeds, and never more.

    --by-images 0.2

makes the choice of training images matter more: the standard deviation of the skill by it, in probits (default 0.12).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from cnnstudy.analysis.confirmation import CHAMPION, TIED, Candidate, Standing, compare_candidates
from cnnstudy.analysis.resampled import Division, measure_images
from cnnstudy.names import Metric
from cnnstudy.records import Rule
from cnnstudy.training.cross_fit import cross_fit

#: Number of combinations, of classes; mean and spread of the combinations' skills (probit of accuracy).
COMBINATIONS, CLASSES, SKILL, SPREAD = 20, 5, 0.9, 0.06
#: Standard deviations of the skill: by training images, by seed, and from epoch to epoch.
BY_IMAGES, BY_SEED, BY_EPOCH = 0.12, 0.06, 0.08
#: Variances of an image's difficulty: shared by all networks, of one network, and of one epoch; they sum to 1.
SHARED, OWN, MOMENT = 0.6, 0.2, 0.2
RULE = Rule(Metric.VAL_ACCURACY)


@dataclass(frozen=True)
class Scenario:
    """A number of epochs, and of images that are divided into train and validation."""

    epochs: int
    pool: int
    validation: float = 0.3
    by_images: float = BY_IMAGES

    @property
    def division(self) -> Division:
        """How each seed divides the pool."""
        count = round(self.validation * self.pool)
        return Division(self.pool - count, count)

    @cached_property
    def chosen_skill(self) -> float:
        """The mean skill of the chosen epoch above the combination's, found by simulating many trials."""
        rng = np.random.default_rng(0)
        return float(np.mean([Pool(self, rng).trial(SKILL).skill for _ in range(200)])) - SKILL


class Pool:
    """Images with their difficulties, divided anew for each seed."""

    def __init__(self, scenario: Scenario, rng: np.random.Generator) -> None:
        self._scenario, self._rng = scenario, rng
        self._difficulty = rng.normal(0, math.sqrt(SHARED), scenario.pool)
        self._lesson = rng.normal(0, scenario.by_images, scenario.pool)  # what training on the image adds to the skill

    def trial(self, skill: float, order: np.ndarray | None = None, seed_effect: float | None = None) -> _Trial:
        rng, division, epochs = self._rng, self._scenario.division, self._scenario.epochs
        order = rng.permutation(self._scenario.pool) if order is None else order
        own = rng.normal(0, BY_SEED) if seed_effect is None else seed_effect
        validation, train = order[: division.validation], order[division.validation :]
        curve = -1.5 * np.exp(-np.arange(1, epochs + 1) / 3) + rng.normal(0, BY_EPOCH, epochs)
        skills = skill + self._lesson[train].sum() / math.sqrt(len(train)) + own + curve
        image = self._difficulty[validation] + rng.normal(0, math.sqrt(OWN), len(validation))
        noise = rng.normal(0, math.sqrt(MOMENT), (epochs, len(validation)))
        right = skills[:, None] + image + noise > 0
        crossed = cross_fit(np.ones_like(right), validation % CLASSES, right, validation % CLASSES, RULE)
        assert crossed is not None
        best = int(right.mean(axis=1).argmax())
        return _Trial(crossed.metrics, (validation, crossed.right), float(right[best].mean()), float(skills[best]))


@dataclass(frozen=True)
class _Trial:
    """A trial's cross-fitted metrics and images, and the score and skill of its best epoch."""

    metrics: dict[str, float]
    right: tuple[np.ndarray, np.ndarray]
    flattered: float
    skill: float


@dataclass(frozen=True)
class Searched:
    """One simulated search: the champion with its true accuracy, and the scores of its best epochs.

    `unrecorded` is the champion where it is not recorded which images were right.
    """

    champion: Standing
    unrecorded: Standing
    truth: float
    flattered: Sequence[float]

    @property
    def covered(self) -> bool:
        """Whether the champion's interval contains its true accuracy."""
        return _holds(self.champion.low, self.champion.high, self.truth)

    @property
    def covered_unrecorded(self) -> bool:
        """Whether its interval does where it is not recorded which images were right."""
        return _holds(self.unrecorded.low, self.unrecorded.high, self.truth)

    def covered_by_t(self, values: Sequence[float]) -> bool:
        """Whether Student's t-interval of these values does."""
        if len(set(values)) < 2:
            return False
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        return _holds(low, high, self.truth)


def _holds(low: float | None, high: float | None, truth: float) -> bool:
    return low is not None and high is not None and low <= truth <= high


def _width(one: Standing) -> float:
    assert one.low is not None
    assert one.high is not None
    return 100 * (one.high - one.low)


def simulate(scenario: Scenario, rng: np.random.Generator, seeds: tuple[int, int] = (5, 10)) -> Searched:
    """Simulate a search on a pool of its own, and the confirmation of its best three combinations.

    Args:
        seeds: of each candidate, and of those that are close.
    """
    pool, skills = Pool(scenario, rng), rng.normal(SKILL, SPREAD, COMBINATIONS)
    fixed = rng.permutation(scenario.pool)
    tried = [pool.trial(skill, fixed).metrics[Metric.VAL_ACCURACY] for skill in skills]
    top = [Candidate("alexnet", int(number), {}, float(tried[number]), 0.1) for number in np.argsort(tried)[::-1][:3]]
    orders = [rng.permutation(scenario.pool) for _ in range(seeds[1])]
    trials: dict[int, list[_Trial]] = {one.number: [] for one in top}

    def look(chosen: Sequence[Candidate], count: int) -> None:
        for one in chosen:
            own = trials[one.number]
            own += [pool.trial(skills[one.number], order) for order in orders[len(own) : count]]

    def compare(recorded: bool = True) -> list[Standing]:
        measured = [
            (one, {seed: {**own.metrics, Metric.VAL_LOSS: 0.0} for seed, own in enumerate(trials[one.number])})
            for one in top
        ]
        images = {one.trial: measure_images([own.right for own in trials[one.number]]) for one in top}
        return compare_candidates(measured, RULE, looks, None, scenario.division, images if recorded else None)

    looks = 2 if seeds[1] > seeds[0] else 1
    look(top, seeds[0])
    close = [one.candidate for one in compare() if one.standing in (CHAMPION, TIED)]
    if len(close) > 1:
        look(close, seeds[1])
    champion, unrecorded = compare()[0], compare(recorded=False)[0]
    number = champion.candidate.number
    flattered = [own.flattered for own in trials[number]]
    return Searched(champion, unrecorded, float(stats.norm.cdf(skills[number] + scenario.chosen_skill)), flattered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs=2, default=(5, 10), metavar=("FIRST", "MOST"))
    parser.add_argument("--by-images", type=float, default=BY_IMAGES, metavar="SD")
    given = parser.parse_args()
    print("| epochs | pool | champion covered | width | its mean is off by | images unrecorded | width | ", end="")
    print("t, cross-fitted | t, best epoch | best epoch is off by |")
    print(f"|{'--:|' * 10}", flush=True)
    for scenario in (Scenario(epochs, pool, by_images=given.by_images) for epochs in (12, 30) for pool in (200, 400)):
        rng = np.random.default_rng(7)
        found = [simulate(scenario, rng, tuple(given.seeds)) for _ in range(given.searches)]
        covered = [
            np.mean([one.covered for one in found]),
            np.mean([one.covered_unrecorded for one in found]),
            np.mean([one.covered_by_t(one.champion.values) for one in found]),
            np.mean([one.covered_by_t(one.flattered) for one in found]),
        ]
        pairs = [(one.champion, one.unrecorded) for one in found]
        bias = 100 * np.mean([one.champion.mean - one.truth for one in found])
        luck = 100 * np.mean([np.mean(one.flattered) - one.truth for one in found])
        own, old, t, naive = (f"{100 * share:.1f} %" for share in covered)
        wide, wider = (f"{np.mean([_width(one) for one in ends]):.1f}" for ends in zip(*pairs, strict=True))
        cells = (scenario.epochs, scenario.pool, own, wide, f"{bias:+.1f}", old, wider, t, naive, f"{luck:+.1f}")
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
