"""Measure how often each verdict is false, and how often it is found where it is true.

    python benchmarks/verdicts.py [--draws 1000]

simulates networks with known accuracies and gives their right images to `judge` (training/verdict.py), and to
`judge_cell` (analysis/configurations.py) over several seeds. Each row of the tables is the worst of its networks:

    false learnt        any verdict but not-learning and cannot-tell on predictions that do not depend on the image
    false not-learning  of accuracies 5 points above guessing (train measured on a sample; on all images it cannot be)
    false overfit       of gaps of 0
    false fit           of gaps of 5 points
    found               overfit of 100 / 85 %, and fit of 98.5 / 98.5 %; learnt of recalls half way above guessing
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from cnnstudy.analysis.configurations import judge_cell
from cnnstudy.training import verdict as rules
from cnnstudy.training.verdict import Counts, judge

SIZES, CLASSES = (5, 25, 58, 160, 700), (2, 5, 10)
#: Training images for each validation image.
TRAIN = 4
UNLEARNT = ("not-learning", "cannot-tell")
FALSE = ("false learnt", "false not-learning", "false overfit", "false fit")
FOUND = ("found learnt", "found overfit", "found fit")


@functools.lru_cache(500_000)
def _judge(counts: Counts) -> str:
    """Return the name of the verdict; the reasons take most of judge's time."""
    parts = rules.make_parts(counts)
    beyond = min(map(rules.guessing_p, parts)) <= rules.GUESSING_LEVEL
    return rules.decide(*parts) if beyond and not rules.lacks_classes(counts) else judge(*counts).name


@dataclass(frozen=True)
class Setting:
    """Validation images and how they are divided among classes."""

    size: int
    classes: int
    balanced: bool

    @property
    def images(self) -> np.ndarray:
        """Validation images of each class: equal, or 95 of the first for 5 of each other."""
        shares = np.ones(self.classes) if self.balanced else np.array([95.0] + [5.0] * (self.classes - 1))
        images = np.floor(self.size * shares / shares.sum()).astype(int)
        images[: self.size - images.sum()] += 1
        return images

    @property
    def trained(self) -> np.ndarray:
        """Training images of each class."""
        return np.maximum(TRAIN * self.images, 2)

    @property
    def guessing(self) -> float:
        images = self.images[self.images > 0]
        balanced = images.max() > 1.5 * images.min()
        return 1 / len(images) if balanced else float(images.max() / images.sum())


def _draw(
    dice: np.random.Generator, setting: Setting, train: np.ndarray, validation: np.ndarray, sample: bool = False
) -> str:
    """Judge a network with these recalls [classes] (train: exactly, unless it is a sample)."""
    images = setting.images
    trained = images if sample else setting.trained
    train_right = dice.binomial(trained, train) if sample else np.round(train * trained).astype(int)
    right = dice.binomial(images, validation)
    numbers = [tuple(map(int, one)) for one in (train_right, trained, right, images)]
    return _judge(Counts(numbers[0], numbers[1], numbers[2], numbers[3], sample))


def _guesses(setting: Setting) -> Iterator[np.ndarray]:
    """Yield how often each class is predicted: always the largest, all equally, as they occur, mostly the smallest."""
    images = setting.images
    yield np.eye(len(images))[0]
    yield np.full(len(images), 1 / len(images))
    yield images / images.sum()
    yield np.where(np.arange(len(images)) == len(images) - 1, 0.9, 0.1 / max(1, len(images) - 1))


def measure(setting: Setting, draws: int, seed: int = 0) -> dict[str, float]:
    """Return the rates (0..1) of FALSE and FOUND."""
    dice, count = np.random.default_rng(seed), len(setting.images)
    trained = setting.trained

    def guess(shares: np.ndarray) -> str:
        right = dice.binomial(trained, shares) / trained  # the network is another one each time
        return _draw(dice, setting, right, shares)

    def worst(names: Sequence[str], recalls: Sequence[tuple[np.ndarray, np.ndarray, bool]]) -> float:
        rates = (
            np.mean([_draw(dice, setting, train, right, sample) in names for _ in range(draws)])
            for train, right, sample in recalls
        )
        return float(max(rates))

    def known(share: float) -> np.ndarray:
        return np.round(np.full(count, share) * trained) / trained  # as exactly as the training images allow

    least = np.full(count, min(1.0, setting.guessing + 0.05))
    measured = int((setting.images > 0).sum())
    rare = np.where(np.arange(count) == measured - 1, 0.05 * measured, 0.0)  # a balanced gap in the last class only
    samples = (False, True) if setting.balanced else (False,)
    gaps = [(known(share), known(share) - 0.05, sample) for share in (1.0, 0.97, 0.93) for sample in samples]
    if not setting.balanced:
        gaps += [(known(share), known(share) - rare, False) for share in (1.0, 0.97)]
    half = np.full(count, (1 + setting.guessing) / 2)
    ones = np.ones(count)
    return {
        "false learnt": max(
            float(np.mean([guess(shares) not in UNLEARNT for _ in range(draws)])) for shares in _guesses(setting)
        ),
        "false not-learning": worst(["not-learning"], [(least, least, True)]),
        "false overfit": worst(
            ["overfit"],
            [(known(share), known(share), sample) for share in (0.5, 0.8, 0.95, 0.99) for sample in samples],
        ),
        "false fit": worst(["fit"], gaps),
        "found learnt": 1 - worst(UNLEARNT, [(half, half, False)]) if half[0] < 0.9 else float("nan"),
        "found overfit": worst(["overfit"], [(ones, ones - 0.15, False)]),
        "found fit": worst(["fit"], [(known(0.985), known(0.985), False)]),
    }


# ---- over seeds


def draw_cell(
    dice: np.random.Generator, seeds: int, size: int, accuracy: float, gap: float, spread: float, own: bool
) -> list[Counts]:
    """Return the counts of seeds of one configuration, on two balanced classes.

    Each image has a probability of its own to be right (most are nearly always right or nearly always wrong).

    Args:
        size: validation images; the pool has five times as many.
        accuracy: the mean on training images; validation's is lower by `gap`.
        spread: standard deviation between seeds, of both.
        own: whether each seed has its own division of the pool.
    """
    mean = accuracy - gap
    pool = dice.beta(0.5 * mean, 0.5 * (1 - mean), (1 + TRAIN) * size) if mean < 1 else np.ones((1 + TRAIN) * size)
    counts = []
    for _ in range(seeds):
        chosen = pool[dice.permutation(len(pool))[:size]] if own else pool[:size]
        room = min(mean, 1 - mean) if mean < 1 else 0.0
        shift = np.clip(dice.normal(0, spread), -room, room)
        # moves each image's probability towards 1 or 0, and the mean by the shift
        moved = chosen + (shift * (1 - chosen) / (1 - mean) if shift > 0 else shift * chosen / mean)
        right = int((dice.random(size) < moved).sum())
        train = round(min(1.0, max(0.0, accuracy + shift)) * TRAIN * size)
        split = lambda n: (n // 2, n - n // 2)  # noqa: E731
        counts.append(Counts(split(train), split(TRAIN * size), split(right), split(size)))
    return counts


def measure_cell(seeds: int, size: int, own: bool, draws: int, seed: int = 0) -> dict[str, float]:
    """Return rates (0..1) of verdicts over seeds, and how often the interval of the gap contains the true one."""
    dice = np.random.default_rng(seed)
    rates = {}
    for name, word, accuracy, gap, spreads in (
        ("false overfit", "overfit", 0.9, 0.0, (0.0, 0.02, 0.05)),
        ("false fit", "fit", 0.98, 0.05, (0.0, 0.01, 0.02)),
        ("found overfit", "overfit", 1.0, 0.15, (0.0, 0.02)),
        ("found fit", "fit", 0.985, 0.0, (0.0, 0.01)),
    ):
        per_spread, covered = [], []
        for spread in spreads:
            cells = [judge_cell(draw_cell(dice, seeds, size, accuracy, gap, spread, own), own) for _ in range(draws)]
            per_spread.append(np.mean([one.name == word for one in cells]))
            covered.append(np.mean([one.gap.low - 1e-9 <= gap <= one.gap.high + 1e-9 for one in cells]))  # type: ignore[operator]
        rates[name] = float(min(per_spread) if name.startswith("found") else max(per_spread))
        rates["covered"] = min(rates.get("covered", 1.0), float(min(covered)))
    return rates


# ---- one small class


def measure_small_class(classes: int, small: int, others: int) -> dict[str, float]:
    """Return the exact rates (0..1) of verdicts where one class has few validation images, and the others are right.

    For fit, all training images are right, and the small class's recall makes the balanced gap exactly 5 points. For
    overfit, its recall is the same in training. Seeds err on the same images.
    """
    images = (small,) + (others,) * (classes - 1)
    recall = 1 - classes * 0.05
    alike = tuple(TRAIN * 25 * count for count in images)
    trained = (round(recall * alike[0]), *alike[1:])
    rates = dict.fromkeys(("false fit", "over seeds", "false overfit", "overfit over seeds", "covered"), 0.0)
    for hits in range(small + 1):
        chance = float(stats.binom.pmf(hits, small, recall))
        right = (hits, *images[1:])
        perfect, same = Counts(alike, alike, right, images), Counts(trained, alike, right, images)
        cell = judge_cell([perfect] * 3)
        rates["false fit"] += chance * (_judge(perfect) == "fit")
        rates["over seeds"] += chance * (cell.name == "fit")
        rates["false overfit"] += chance * (_judge(same) == "overfit")
        rates["overfit over seeds"] += chance * (judge_cell([same] * 3).name == "overfit")
        rates["covered"] += chance * (cell.gap.low - 1e-9 <= 0.05 <= cell.gap.high + 1e-9)  # type: ignore[operator]
    return rates


#: Classes, validation images of the small one, and of each of the others.
SMALL = ((2, 6, 40), (2, 12, 60), (2, 20, 40), (2, 35, 40), (5, 4, 40), (5, 6, 40), (5, 9, 200), (5, 12, 40))
SMALL += ((10, 3, 10), (10, 3, 30), (10, 4, 100), (10, 5, 30), (12, 3, 50), (15, 2, 50))


def _row(cells: Sequence[object], rates: dict[str, float], names: Sequence[str]) -> str:
    return "| " + " | ".join([*map(str, cells), *(f"{100 * rates[name]:.1f}" for name in names)]) + " |"


def print_small_classes() -> None:
    """Print the exact rates with one small class."""
    for place, (classes, small, others) in enumerate(SMALL):
        rates = measure_small_class(classes, small, others)
        if not place:
            print("\n| classes | small | others |", " | ".join(rates), "|")
            print("|--:|--:|--:|", " | ".join(["--:"] * len(rates)), "|")
        print(_row([classes, small, others], rates, tuple(rates)), flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000, help="networks for each number")
    draws = parser.parse_args().draws
    names: tuple[str, ...] = (*FALSE, *FOUND)
    print("| validation | classes | images |", " | ".join(names), "|")
    print("|--:|--:|:--|", " | ".join(["--:"] * len(names)), "|")
    for size in SIZES:
        for classes in CLASSES:
            for balanced in (True, False):
                setting = Setting(size, classes, balanced)
                words = "equal" if balanced else "95 : 5"
                print(_row([size, classes, words], measure(setting, draws), names), flush=True)
    print_small_classes()
    names = ("false overfit", "false fit", "covered", "found overfit", "found fit")
    print("\n| seeds | validation | divisions |", " | ".join(names), "|")
    print("|--:|--:|:--|", " | ".join(["--:"] * len(names)), "|")
    for seeds in (2, 3, 5, 10):
        for size in (25, 58, 160, 700):
            for own in (True, False):
                words = "own" if own else "one"
                print(_row([seeds, size, words], measure_cell(seeds, size, own, draws), names), flush=True)


if __name__ == "__main__":
    main()
