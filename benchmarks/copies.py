"""Measure which near-duplicates are found, how many pairs are found that are none, and how long the search takes.

    python benchmarks/copies.py [--pictures 10000] [--changed 500]

makes pictures that are like photos (made_pictures.py), no two of the same, and searches them for copies as `copies:
together` does (cnnstudy/data/copies.py), then once more with a changed copy of some of them, each change made to so
many. `crops` are pieces of the two photos that come with scikit-learn, many of which show nothing but sky or blurred
green; `digits` are its handwritten digits, of 8 x 8 pixels, which are no photos.

    false    images that are taken for a copy of another, in 1,000
    seconds  of CPU time, over all cores, of the search without making and decoding pictures
    found    copies that are found, in percent, by change
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable

import numpy as np
from made_pictures import CHANGES, KINDS, digits, photo_crops
from PIL import Image

from cnnstudy.data.copies import SIZE, find_copies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--changed", type=int, default=500)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"| pictures | number | false | seconds | {' | '.join(CHANGES)} |")
    print(f"|:--|{'--:|' * (3 + len(CHANGES))}")
    for kind, make in KINDS.items():
        print(_row(kind, (make(rng) for _ in range(options.pictures)), options.changed, rng), flush=True)
    for kind, pictures in (("crops", photo_crops()), ("digits", digits())):
        print(_row(kind, pictures, min(options.changed, len(pictures) // len(CHANGES)), rng), flush=True)


def _row(kind: str, pictures: Iterable[Image.Image], changed: int, rng: np.random.Generator) -> str:
    """Return a row of the table; of the first pictures each has one copy, by change so many of them."""
    thumbnails, copies = [], []
    changes = [change for change in CHANGES.values() for _ in range(changed)]
    for i, picture in enumerate(pictures):
        thumbnails.append(_thumbnail(picture))
        if i < len(changes):
            copies.append(_thumbnail(changes[i](picture, rng)))
    count, started = len(thumbnails), time.process_time()
    false = {place for pair in find_copies(np.stack(thumbnails), _say_nothing) for place in pair}
    seconds = time.process_time() - started
    pairs = set(find_copies(np.stack([*thumbnails, *copies]), _say_nothing))
    found = np.array([(i, count + i) in pairs for i in range(len(copies))]).reshape(len(CHANGES), -1).mean(axis=1)
    cells = [kind, f"{count}", f"{1000 * len(false) / count:.1f}", f"{seconds:.1f}"]
    return f"| {' | '.join([*cells, *(f'{100 * share:.1f}' for share in found)])} |"


def _thumbnail(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def _say_nothing(what: str, done: int, total: int) -> None:
    pass


if __name__ == "__main__":
    main()
