"""Measure what each image's correctness, and the epochs before the last, add to the intervals of effects.

    python benchmarks/paired_images.py [--studies 1000] [--recorded mlflow.db STUDY]

simulates factorials image by image: every seed divides one pool anew, its trials share the validation images, images
differ in difficulty for all networks, for each level of the factor, for each trial and from epoch to epoch. The truth
is the mean difference of two levels at the last epoch, over seeds, on the images of the pool. It prints how often 95 %
intervals hold it, and how wide they are compared with Student's t over the seeds' differences in accuracy after the
last epoch:

    accuracies       that interval
    image by image   each image's mean difference over the other seeds is a control variate (leave one seed out), with
                     the coefficient from a regression over the seeds
    known images     the part of the variance that images explain has as many degrees of freedom as there are images,
                     the rest those of the seeds (Satterthwaite 1946)
    late epochs      Student's t over the seeds' differences in the mean accuracy over the last third of the epochs

With --recorded it prints, for a recorded factorial, the standard deviation of what is left of a trial's accuracy and
gap without the means of its cell and seed: after the last epoch, over the last third, and what chance gives with this
many images that are independent in each trial once their mean over the seed's trials is taken out.
"""

from __future__ import annotations

import argparse
import json
import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

#: Mean skill (probit of accuracy), and its standard deviations: by seed, by trial, and from epoch to epoch.
SKILL, BY_SEED, BY_TRIAL = 0.9, 0.06, 0.06
#: Variances of an image's difficulty: for all networks, and of one trial; the rest to 1 is of the epoch and the level.
SHARED, OWN = 0.55, 0.2
WAYS = ("accuracies", "image by image", "known images", "late epochs")
POOL, LEVELS = 600, 2


@dataclass(frozen=True)
class Scenario:
    """A simulated study of one factor with two levels, in `cells` combinations of the others."""

    seeds: int = 5
    images: int = 160
    epochs: int = 12
    cells: int = 4
    by_epoch: float = 0.08  # standard deviation of the skill
    by_level: float = 0.05  # variance of an image's difficulty that one level has and the other has not
    differs: float = 0.0  # standard deviation of the effect from seed to seed, in skill
    still_learning: float = 0.0  # skill that one level has yet to gain in the last third of the epochs

    @property
    def name(self) -> str:
        """What is special."""
        words = [f"{self.seeds} seeds", f"{self.images} images", f"{self.epochs} epochs"]
        words += ["images differ by level"] if self.by_level > 0.05 else []
        words += ["steady epochs"] if self.by_epoch < 0.05 else []
        words += ["effect differs by seed"] if self.differs else []
        words += ["one level still learns"] if self.still_learning else []
        return ", ".join(words)


SCENARIOS = (
    Scenario(3),
    Scenario(),
    Scenario(10),
    Scenario(images=40),
    Scenario(images=40, by_level=0.2),
    Scenario(epochs=30),
    Scenario(by_epoch=0.02),
    Scenario(3, differs=0.15),
    Scenario(5, differs=0.15),
    Scenario(still_learning=0.2),
)


def simulate(scenario: Scenario, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a study's right answers [seeds, levels, cells, epochs, images], each seed's images, and the true effect.

    The images are places in the pool, [seeds, images].
    """
    of, shape = scenario, (scenario.seeds, LEVELS, scenario.cells)
    difficulty = rng.normal(0, math.sqrt(SHARED), POOL)
    of_level = rng.normal(0, math.sqrt(of.by_level), (LEVELS, POOL))
    images = np.argsort(rng.random((of.seeds, POOL)), axis=1)[:, : of.images]
    effect = np.array([0.0, 0.25])
    late = np.clip((np.arange(of.epochs) - 2 * of.epochs / 3) / (of.epochs / 3 - 1), 0, 1) - 1
    curve = np.stack([np.zeros(of.epochs), of.still_learning * late])
    skill = SKILL + effect[None, :, None, None] + curve[None, :, None, :]
    skill = skill + rng.normal(0, BY_SEED, (of.seeds, 1, 1, 1)) + rng.normal(0, BY_TRIAL, (*shape, 1))
    skill = skill + rng.normal(0, of.differs, (of.seeds, 1, 1, 1)) * np.array([0, 1])[None, :, None, None]
    skill = skill + rng.normal(0, of.by_epoch, (*shape, of.epochs))
    image = difficulty[images][:, None, None, None, :] + of_level[:, images].transpose(1, 0, 2)[:, :, None, None, :]
    image = image + rng.normal(0, math.sqrt(OWN), (*shape, 1, of.images))
    moment = 1 - SHARED - OWN - of.by_level
    right = skill[..., None] + image + rng.normal(0, math.sqrt(moment), (*shape, of.epochs, of.images)) > 0
    spread = OWN + moment + BY_SEED**2 + BY_TRIAL**2 + of.by_epoch**2 + np.array([0.0, of.differs**2])
    levels = (SKILL + effect[:, None] + difficulty + of_level) / np.sqrt(spread)[:, None]  # [levels, pool]
    of_levels = stats.norm.cdf(levels).mean(axis=1)
    return right, images, float(of_levels[1] - of_levels[0])


def intervals(right: np.ndarray, images: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return the middle and the half width of each way's interval."""
    seeds, epochs, count = right.shape[0], right.shape[3], right.shape[4]
    last = right[:, 1, :, -1].mean(axis=1) - right[:, 0, :, -1].mean(axis=1)  # [seeds, images]
    accuracies = last.mean(axis=1)
    third = right[:, :, :, -math.ceil(epochs / 3) :].mean(axis=(2, 3, 4))
    found = {
        "accuracies": _student(accuracies),
        "image by image": _with_control(last, images),
        "late epochs": _student(third[:, 1] - third[:, 0]),
    }
    between, of_images = accuracies.var(ddof=1), last.var(axis=1, ddof=1).mean() / count
    variance, rest = max(between, of_images), max(0.0, between - of_images)
    freedom = variance**2 / (of_images**2 / (seeds * (count - 1)) + rest**2 / (seeds - 1))
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance / seeds)
    return {**found, "known images": (float(accuracies.mean()), float(half))}


def _student(of_seeds: np.ndarray, lost: int = 0) -> tuple[float, float]:
    count = len(of_seeds)
    error = of_seeds.std(ddof=1 + lost) / math.sqrt(count)
    return float(of_seeds.mean()), float(stats.t.ppf(0.975, count - 1 - lost) * error)


def _with_control(last: np.ndarray, images: np.ndarray) -> tuple[float, float]:
    """Return the interval with the images' differences in the other seeds as a control variate of each seed's."""
    seeds = len(last)
    total, count = np.zeros((2, POOL))
    np.add.at(total, images, last)
    np.add.at(count, images, 1)
    control = np.empty(seeds)
    for seed in range(seeds):
        others, times = total.copy(), count.copy()
        others[images[seed]] -= last[seed]
        times[images[seed]] -= 1
        known = times > 0
        middle = others[known].sum() / times[known].sum()
        # an image that few others have seen tells little
        each = np.divide(others - middle * times, times + 1)
        control[seed] = each[images[seed]].mean() - each[known].mean()
    own = last.mean(axis=1)
    if seeds < 4:
        return _student(own)
    spread = control - control.mean()
    slope = float(spread @ own / max(spread @ spread, 1e-12))
    return _student(own - slope * control, lost=1)


def recorded(database: Path, study: str) -> None:
    """Print how trials of a recorded factorial scatter about the means of their cells and seeds, in points."""
    trials = list(_read(database, study))
    cells = np.unique([cell for cell, _, _, _ in trials], return_inverse=True)[1]
    seeds = np.array([seed for _, seed, _, _ in trials])
    model = np.column_stack([cells[:, None] == np.unique(cells), seeds[:, None] == np.unique(seeds)[1:]]).astype(float)
    freedom = len(trials) - np.linalg.matrix_rank(model)

    def left(values: Sequence[float]) -> float:
        residuals = np.array(values) - model @ (np.linalg.pinv(model) @ values)
        return 100 * math.sqrt((residuals**2).sum() / freedom)

    third = math.ceil(len(trials[0][3]) / 3)
    for name, curves in (
        ("validation accuracy", [one.mean(axis=1) for _, _, _, one in trials]),
        ("gap", [probe.mean(axis=1) - one.mean(axis=1) for _, _, probe, one in trials]),
    ):
        last, late = left([curve[-1] for curve in curves]), left([curve[-third:].mean() for curve in curves])
        print(f"{study}: {name}: last epoch {last:.2f}, last third {late:.2f} points ({late / last:.2f} times)")
    squares, degrees = 0.0, 0
    for seed in np.unique(seeds):
        of_seed = np.array([one[-1] for _, own, _, one in trials if own == seed])
        rest = of_seed - of_seed.mean(axis=0) - of_seed.mean(axis=1, keepdims=True) + of_seed.mean()
        squares, degrees = squares + (rest**2).sum(), degrees + (of_seed.shape[0] - 1) * (of_seed.shape[1] - 1)
    chance = 100 * math.sqrt(squares / degrees / trials[0][3].shape[1])
    print(f"{study}: validation accuracy: independent images alone {chance:.2f} points; {len(trials)} trials")


def _read(database: Path, study: str) -> list[tuple[str, int, np.ndarray, np.ndarray]]:
    """Return the cell, the seed, and the right answers of probe and validation [epochs, images] of each trial."""
    found = []
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        query = (
            "select run_uuid, artifact_uri from runs join experiments using (experiment_id) where experiments.name = ?"
        )
        for run, place in connection.execute(query, [study]).fetchall():
            tags = dict(connection.execute("select key, value from tags where run_uuid = ?", [run]).fetchall())
            if (tags.get("cnnstudy.kind"), tags.get("cnnstudy.state")) != ("trial", "finished"):
                continue
            seed = connection.execute("select value from params where run_uuid = ? and key = 'seed'", [run]).fetchone()
            with np.load(next(Path(place.removeprefix("file://")).rglob("correctness.npz"))) as arrays:
                parts = [
                    np.unpackbits(arrays[f"{part}_by_epoch"], axis=1, count=len(arrays[f"{part}_places"])).astype(float)
                    for part in ("probe", "validation")
                ]
            cell = json.dumps(json.loads(tags["cnnstudy.levels"]), sort_keys=True)
            found.append((cell, int(seed[0]), parts[0], parts[1]))
    whole = max(sum(own == seed for _, own, _, _ in found) for _, seed, _, _ in found)
    return [one for one in found if sum(own == one[1] for _, own, _, _ in found) == whole]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recorded", nargs=2, metavar=("DATABASE", "STUDY"))
    given = parser.parse_args()
    if given.recorded:
        recorded(Path(given.recorded[0]), given.recorded[1])
        return
    print(f"| scenario | {' | '.join(f'{way} | width' for way in WAYS)} |\n|:--|{'--:|' * 2 * len(WAYS)}", flush=True)
    for scenario in SCENARIOS:
        rng = np.random.default_rng(given.seed)
        held, width = dict.fromkeys(WAYS, 0), dict.fromkeys(WAYS, 0.0)
        for _ in range(given.studies):
            right, images, truth = simulate(scenario, rng)
            for way, (middle, half) in intervals(right, images).items():
                held[way] += abs(middle - truth) <= half
                width[way] += half
        cells = (f"{100 * held[way] / given.studies:.1f} % | {width[way] / width['accuracies']:.2f}" for way in WAYS)
        print(f"| {scenario.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
