"""Measure how a study's cost grows with trials, images and workers; and predict what 100 times as much would break.

    python benchmarks/scaling.py [--plot scaling.png]

Whole `run-study` processes of AlexNet (64 px, 2 epochs) over noisy images in a folder, each with an empty cache: 1 to
32 trials, 200 to 3,200 images, 1 and 2 workers. TPE's choice of the next trial, and the growth of the driver and of
MLflow's database with each trial (driver_cost.py), are also measured. Lines are fitted by least squares and
extrapolated.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from compared import HERE, Measured, machine, parser, read, tell
from driver_cost import MEMORY, driven
from fits import Line, Points, fit, plot, through
from recorded_studies import timed
from sides import answer_of, run

FILE = """\
name: scaling
data: {{name: folder, path: images, copies: ignore}}
image_size: 64
architectures: [alexnet]
factors: {{dropout: {{low: 0.1, high: 0.7}}, batch_size: 32}}
training: {{epochs: 2, keep_models: false}}
strategy: {{sampler: random}}
budget: {{trials: {trials}}}
"""
SEARCH = FILE.replace("sampler: random", "sampler: tpe")
CLASSES, MORE = 4, 100


def write_images(folder: Path, count: int) -> None:
    """Write this many images of noise, 64 px, around a colour for each class."""
    from PIL import Image

    dice = np.random.default_rng(0)
    for number in range(count):
        label = number % CLASSES
        place = folder / f"class {label}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = dice.integers(0, 100, (64, 64, 3), dtype=np.uint8) + np.uint8(40 * label)
        Image.fromarray(pixels).save(place / f"{number}.png", compress_level=0)


def cost(trials: int, images: int, workers: int) -> tuple[float, float]:
    """Return the seconds of the whole study, and the MB of its largest process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", images)
        (folder / "scaling.yaml").write_text(FILE.format(trials=trials), encoding="utf-8")
        taken, most = timed(["run-study", "scaling.yaml", "--jobs", str(workers)], folder)
    print(f"{trials} trials, {images} images, {workers} workers: {taken:.1f} s, {most:.0f} MB", flush=True)
    return taken, most


def search_seconds(trials: int) -> list[float]:
    """Return the seconds of TPE's choice of each trial, by its number; the trials' outcomes are random."""
    from cnnstudy.config.load import load_study
    from cnnstudy.search.optuna_search import OptunaStrategy

    Path("images").mkdir()
    Path("scaling.yaml").write_text(SEARCH.format(trials=trials), encoding="utf-8")
    search, dice, found = OptunaStrategy(load_study("scaling.yaml", []).config, []), np.random.default_rng(0), []
    while True:
        started = time.perf_counter()
        proposal = search.next()
        if proposal is None:
            return found
        found.append(time.perf_counter() - started)
        search.tell(proposal, "finished", float(dice.random()), {})


def choosing(trials: int) -> list[float]:
    """Call `search_seconds` in a separate process."""
    with tempfile.TemporaryDirectory() as name:
        return list(answer_of(run([sys.executable, __file__, "--way", str(trials)], Path(name))))


def foretold(lines: dict[str, Line], given: argparse.Namespace, found: dict[str, Any]) -> list[str]:
    """Return what the lines predict for 100 times as much: an extrapolation, not a measurement."""
    trials, images = MORE * max(given.trials), MORE * max(given.images)
    database, artifacts, memory, choice = (found[name] for name in ("database", "artifacts", "memory", "choice"))
    asked = choice.fixed * trials + choice.marginal * trials**2 / 2
    free = shutil.disk_usage(tempfile.gettempdir()).free
    said = [
        f"{trials:,} trials: {lines['trials'].at(trials) / 3600:.1f} h, of it TPE's choices {asked / 3600:.2f} h; the "
        f"driver at {memory.at(trials):.0f} MB, mlflow.db at {database * trials / 1e9:.2f} GB, pictures and tables at "
        f"{artifacts * trials / 1e9:.2f} GB without models ({free / 1e9:.0f} GB are free here)",
        f"{images:,} images: {lines['images'].at(images) / 3600:.2f} h for {given.with_images} trials; decoded "
        f"{images * 64 * 64 * 3 / 1e9:.1f} GB, which all workers read from one memory map; features "
        f"of VGG16 at 64 px take {images * 2 * 2 * 512 * 4 / 1e9:.1f} GB (4.3 GB is the cache's limit)",
        f"{MORE * max(given.workers)} workers: {found['worker'] * MORE * max(given.workers) / 1e3:.0f} GB, each with "
        f"TensorFlow; they share the cores, so more workers than cores only cost",
    ]
    recorded = read(given.results or HERE).get("measured", {})
    for fields in recorded.values():
        name, _, rest = fields["work"].partition(" of a study with ")
        if rest and fields["points"] and fields["machine"] == machine():
            said.append(f"{name} at {trials:,} trials: {through(fields['points'], trials):.0f} s, from those measured")
    breaks = {
        "the driver's memory (goal 300 MB)": (MEMORY / 1e6 - memory.fixed) / max(memory.marginal, 1e-9),
        "the time of TPE's choice (1 s a trial)": (1 - choice.fixed) / max(choice.marginal, 1e-12),
        "MLflow's database (10 GB)": 10e9 / max(database, 1.0),
    }
    first = min(breaks, key=lambda name: breaks[name])
    said.append(
        "trials break first: " + first + "; " + ", ".join(f"{n} at {max(0, at):,.0f}" for n, at in breaks.items())
    )
    return said


def main() -> None:
    parsing = parser(__doc__, rounds=1)
    parsing.add_argument("--trials", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parsing.add_argument("--images", type=int, nargs="+", default=[200, 400, 800, 1600, 3200])
    parsing.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parsing.add_argument("--search", type=int, default=400, help="trials that TPE chooses")
    parsing.add_argument("--driver", type=int, default=400, help="trials of the driver's study")
    parsing.add_argument("--plot", type=Path, help="a PNG to draw")
    parsing.add_argument("--way", type=int, help=argparse.SUPPRESS)
    given = parsing.parse_args()
    if given.way:
        print(json.dumps(search_seconds(given.way)))
        return
    if given.quick:
        given.trials, given.images, given.workers, given.search, given.driver = [1, 2], [40, 80], [1], 12, 4
    given.with_images, with_trials = 2, min(400, max(given.images))
    by_trials = [(n, cost(n, with_trials, 1)[0]) for n in given.trials]
    by_images = [(n, cost(given.with_images, n, 1)[0]) for n in given.images]
    several = max(16 if not given.quick else 1, max(given.workers))
    by_workers = [(n, *cost(several, with_trials, n)) for n in given.workers]
    choices = choosing(given.search)
    driver = driven(given.driver, 2)
    later = [(float(n), of / 1e6) for n, of in enumerate(driver["memory"], 1)][len(driver["memory"]) // 2 :]
    by_search = [(float(n), of) for n, of in enumerate(choices) if n >= len(choices) // 10]
    panels: dict[str, tuple[str, Points, str]] = {
        "trials": (f"seconds of a study of {with_trials} images, 1 worker, by trials", by_trials, "s"),
        "images": (f"seconds of a study of {given.with_images} trials, 1 worker, by images", by_images, "s"),
        "search": ("seconds of TPE's choice of the next trial, by trials before it", by_search, "s"),
        "memory": ("driver's MB, by trials of a study of 2 epochs, later half", later, "MB"),
    }
    lines = {name: fit(points) for name, (_, points, _) in panels.items()}
    for name, (title, points, unit) in panels.items():
        kept = tuple(points[:: max(1, len(points) // 20)])
        tell(Measured(title, f"{unit}: {lines[name]}", "python benchmarks/scaling.py", points=kept), given)
    workers = ", ".join(f"{n} workers {taken:.1f} s, largest process {most:.0f} MB" for n, taken, most in by_workers)
    title = f"seconds of a study of {several} trials, {with_trials} images, by workers"
    points = tuple((float(n), taken) for n, taken, _ in by_workers)
    tell(Measured(title, workers, "python benchmarks/scaling.py", points=points), given)
    found = {
        "database": driver["database"] / given.driver,
        "artifacts": driver["artifacts"] / given.driver,
        "memory": lines["memory"],
        "choice": lines["search"],
        "worker": max(most for *_, most in by_workers),
    }
    for number, said in enumerate(foretold(lines, given, found), 1):
        title = f"foretold for {MORE} times as much, {number}"
        tell(Measured(title, said, "python benchmarks/scaling.py"), given)
    if given.plot:
        plot({title: points for title, points, _ in panels.values()}, given.plot)
        print(f"drawn: {given.plot}")


if __name__ == "__main__":
    main()
