"""Measure which near-duplicates are found, how many pairs are found that are none, and how long the search takes.

    python benchmarks/copies.py [--pictures 10000] [--changed 500] [--kinds smooth leaves landscape crops digits]

makes pictures that are like photos (made_pictures.py), no two of the same, and searches them for copies as `copies:
together` does (cnnstudy/data/copies.py), then once more with a changed copy of some of them, each change made to so
many. `crops` are pieces of the two photos that come with scikit-learn, many of which show nothing but sky or blurred
green; `digits` are its handwritten digits, of 8 x 8 pixels, which are no photos.

    false    images that are taken for a copy of another, in 1,000
    seconds  of CPU time, over all cores, of the search without making and decoding pictures
    wall     seconds that it took
    MB       the most memory that this process has held until then, with the thumbnails, which are mapped from a file
    found    copies that are found, in percent, by change
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterable
from typing import IO

import numpy as np
from made_pictures import CHANGES, KINDS, digits, photo_crops
from PIL import Image

from cnnstudy.data.copies import SIZE, find_copies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--changed", type=int, default=500)
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, "crops", "digits"], default=[*KINDS, "crops", "digits"])
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"| pictures | number | false | seconds | wall | MB | {' | '.join(CHANGES)} |")
    print(f"|:--|{'--:|' * (5 + len(CHANGES))}")
    for kind in options.kinds:
        if kind in KINDS:
            count, pictures = options.pictures, (KINDS[kind](rng) for _ in range(options.pictures))
        else:
            listed = photo_crops() if kind == "crops" else digits()
            count, pictures = len(listed), iter(listed)
        with tempfile.TemporaryFile() as file:
            changed = min(options.changed, count // len(CHANGES))
            print(_row(kind, pictures, count, changed, file, rng), flush=True)


def _row(
    kind: str, pictures: Iterable[Image.Image], count: int, changed: int, file: IO[bytes], rng: np.random.Generator
) -> str:
    """Return a row of the table; of the first pictures each has one copy, by change so many of them."""
    changes = [change for change in CHANGES.values() for _ in range(changed)]
    thumbnails = np.memmap(file, np.uint8, "w+", shape=(count + len(changes), SIZE, SIZE, 3))
    for i, picture in enumerate(pictures):
        thumbnails[i] = _thumbnail(picture)
        if i < len(changes):
            thumbnails[count + i] = _thumbnail(changes[i](picture, rng))
    started, wall = time.process_time(), time.perf_counter()
    false = {place for pair in find_copies(thumbnails[:count], _say_nothing) for place in pair}
    seconds, wall = time.process_time() - started, time.perf_counter() - wall
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cells = [kind, f"{count}", f"{1000 * len(false) / count:.1f}", f"{seconds:.1f}", f"{wall:.1f}", f"{memory:.0f}"]
    if changes:
        pairs = set(find_copies(thumbnails, _say_nothing))
        found = np.array([(i, count + i) in pairs for i in range(len(changes))]).reshape(len(CHANGES), -1)
        cells += [f"{100 * share:.1f}" for share in found.mean(axis=1)]
    return f"| {' | '.join(cells)} |"


def _thumbnail(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def _say_nothing(what: str, done: int, total: int) -> None:
    pass


if __name__ == "__main__":
    main()
