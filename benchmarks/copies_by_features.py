"""Measure what a network's features find that thumbnails do not (`data --weights`), and how well they tell copies.

    python benchmarks/copies_by_features.py [NETWORK | colours] [--weights FILE] [--pictures 1000] [--changed 30]

makes pictures that are like photos, and adds changed copies of some of them. `colours` is a network made by hand: 64
soft bins of colours, averaged over the picture, which turning does not change. Without --weights, others have random
ones. Every second picture is of one class, and the rest of another.

    tells      changed copies that stand out, of the six changes by which `data` judges features, in percent
    falsely    images in pairs that are no copies, of 1,000; below 50 % of `tells`, `data` would list none
    turned ... pairs of a picture and its copy that are listed, in percent: by features / as copies by thumbnails
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import keras
import numpy as np
from made_pictures import KINDS, SIDE
from PIL import Image

from cnnstudy import architectures
from cnnstudy.data.copies import SIZE, find_copies
from cnnstudy.data.datasets import ImageSource, SourceImage
from cnnstudy.data.datasets.digits import Options
from cnnstudy.data.duplicates import image_digests
from cnnstudy.data.images import ListedImages
from cnnstudy.records import Split
from cnnstudy.training.lookalikes import feature_model, find_lookalikes
from cnnstudy.training.weights import initialise, save_backbone


def _cut(picture: Image.Image, share: float) -> Image.Image:
    return picture.crop((0, 0, round((1 - share) * picture.width), round((1 - share) * picture.height)))


def _move(picture: Image.Image) -> Image.Image:
    """Return another frame: turned by 7 degrees, and nearer."""
    return picture.rotate(7, resample=Image.Resampling.BICUBIC).crop((8, 8, SIDE - 8, SIDE - 8))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "turned by 90 degrees": lambda picture: picture.rotate(90),
    "cropped by 30 %": lambda picture: _cut(picture, 0.3),
    "turned by 7 degrees, nearer": _move,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="colours")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--changed", type=int, default=30)
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, "all three, one class each"], default=[*KINDS])
    options = parser.parse_args()
    model = _colours() if options.network == "colours" else _model(options.network, options.weights)
    print(f"| pictures | tells | falsely | {' | '.join(CHANGES)} |\n|:--|--:|--:|{'--:|' * len(CHANGES)}")
    for kind in options.kinds:
        rng = np.random.default_rng(0)
        mixed = [*KINDS.values()] if kind not in KINDS else [KINDS[kind]]
        pictures = [mixed[place % len(mixed)](rng) for place in range(options.pictures)]
        copies = [change(picture) for change in CHANGES.values() for picture in pictures[: options.changed]]
        classes = max(2, len(mixed))
        labels = [place % classes for place in chain(range(len(pictures)), [*range(options.changed)] * len(CHANGES))]
        listed = _list([_array(picture) for picture in (*pictures, *copies)], labels, classes)
        answer = find_lookalikes(model, listed, range(len(labels)), frozenset(), lambda *_: None)
        by_features = {(min(pair), max(pair)) for pair in answer["pairs"]}
        by_thumbnails = set(find_copies(_thumbnails([*pictures, *copies]), lambda *_: None))
        origin = [*range(len(pictures)), *[*range(options.changed)] * len(CHANGES)]
        wrong = {place for pair in by_features if origin[pair[0]] != origin[pair[1]] for place in pair}
        cells = [f"{100 * answer['found']:.0f}", f"{1000 * len(wrong) / len(labels):.1f}"]
        for number in range(len(CHANGES)):
            first = len(pictures) + number * options.changed
            planted = {(place, first + place) for place in range(options.changed)}
            shares = [100 * len(found & planted) / len(planted) for found in (by_features, by_thumbnails)]
            cells.append(" / ".join(f"{share:.0f}" for share in shares))
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


def _model(name: str, weights: Path | None) -> keras.Model:
    architecture = architectures.find(name)
    if weights is not None:
        return feature_model(architecture, max(SIDE, architecture.minimum_size), weights)
    with tempfile.TemporaryDirectory() as folder:
        network = architectures.build_network(architecture, SIDE, 2, 0.0)
        initialise(network, 0)
        save_backbone(network, Path(folder) / "random.npz")
        return feature_model(architecture, SIDE, Path(folder) / "random.npz")


def _colours() -> keras.Model:
    rng = np.random.default_rng(0)
    bins = keras.layers.Conv2D(64, 1, activation="relu")
    images = keras.layers.Input((SIDE, SIDE, 3))
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(bins(images)))
    directions = rng.normal(size=(3, 64))
    directions /= np.linalg.norm(directions, axis=0)
    bins.set_weights([directions[None, None], -(directions * rng.uniform(0, 255, (3, 64))).sum(axis=0)])
    return model


def _array(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"))


def _list(pictures: list[np.ndarray], labels: list[int], classes: int) -> ListedImages:
    images = tuple(SourceImage(f"{place}", labels[place], pixels) for place, pixels in enumerate(pictures))
    source = ImageSource(tuple(map(str, range(classes))), images)
    return ListedImages(Options(name="digits"), source, Split(0.15, 0.15, 0), image_digests(images, lambda *_: None))


def _thumbnails(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([_array(one.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for one in pictures])


if __name__ == "__main__":
    main()
