"""Measure which near-duplicates are found, how many pairs are found that are none, and how long the search takes.

    python benchmarks/copies.py [--pictures 10000] [--changed 500]

makes pictures that are like photos (made_pictures.py), no two of the same, and searches them for copies as `copies:
together` does (cnnstudy/data/copies.py). Then it adds a changed copy of some of them, one change after the other.
`crops` are pieces of the two photos that come with scikit-learn; many of them show nothing but sky or blurred green.

    false    images that are taken for a copy of another, in 1,000
    seconds  the search, without making and decoding pictures
    found    copies that are found, in percent, by change
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from made_pictures import CHANGES, KINDS, photo_crops
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
    for kind, make in {**KINDS, "crops": None}.items():
        print(_row(kind, make, options.pictures, options.changed, rng), flush=True)


def _row(
    kind: str,
    make: Callable[[np.random.Generator], Image.Image] | None,
    count: int,
    changed: int,
    rng: np.random.Generator,
) -> str:
    crops = photo_crops() if make is None else []
    originals, thumbnails = [], []
    for i in range(count if make else len(crops)):
        picture = make(rng) if make else crops[i]
        thumbnails.append(_thumbnail(picture))
        if i < changed:
            originals.append(picture)
    base = np.stack(thumbnails)
    started = time.perf_counter()
    false = {place for pair in find_copies(base, _say_nothing) for place in pair}
    seconds = time.perf_counter() - started
    found = [_find_changed(base, originals, change, rng) for change in CHANGES.values()]
    cells = [kind, f"{len(base)}", f"{1000 * len(false) / len(base):.1f}", f"{seconds:.1f}"]
    return f"| {' | '.join([*cells, *(f'{100 * share:.1f}' for share in found)])} |"


def _find_changed(
    base: np.ndarray,
    originals: list[Image.Image],
    change: Callable[[Image.Image, np.random.Generator], Image.Image],
    rng: np.random.Generator,
) -> float:
    copies = np.stack([_thumbnail(change(picture, rng)) for picture in originals])
    found = set(find_copies(np.concatenate([base, copies]), _say_nothing))
    return sum((i, len(base) + i) in found for i in range(len(copies))) / len(copies)


def _thumbnail(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def _say_nothing(what: str, done: int, total: int) -> None:
    pass


if __name__ == "__main__":
    main()
