"""Measure whether a network's features would find more copies than thumbnails do (see copies.py).

    python benchmarks/copies_by_features.py [vgg16 | alexnet] [--weights FILE] [--pictures 1000] [--changed 100]

makes pictures that are like photos, and changed copies of some of them. Features are the averages over the last
convolution's map, each divided by its standard deviation over the pictures; without --weights the network is a random
one. A copy counts as found if the picture that is most like it is its original, and is more like it than all but one
in a thousand of the pictures are like the most similar of the others: the threshold that the thumbnails' rate of false
copies allows, chosen with hindsight.

    found    copies that are found, in percent, by change: by features, and by thumbnails, of the same pictures
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
from made_pictures import CHANGES, KINDS
from PIL import Image

from cnnstudy import architectures
from cnnstudy.data.copies import SIZE, find_copies
from cnnstudy.training.weights import load_backbone

_SIDE = 64  # pixels of the network's images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", nargs="?", default="vgg16", choices=["vgg16", "alexnet"])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--changed", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[*KINDS])
    options = parser.parse_args()
    model = _feature_model(options.architecture, options.weights)
    print(f"| pictures | found by | {' | '.join(CHANGES)} |\n|:--|:--|{'--:|' * len(CHANGES)}")
    for kind in options.kinds:
        rng = np.random.default_rng(0)
        pictures = [KINDS[kind](rng) for _ in range(options.pictures)]
        copied = [place % len(pictures) for place in range(len(CHANGES) * options.changed)]
        changes = [change for change in CHANGES.values() for _ in range(options.changed)]
        copies = [change(pictures[place], rng) for place, change in zip(copied, changes, strict=True)]
        for name, found in (
            ("features", _by_features(model, pictures, copies, copied)),
            ("thumbnails", _by_thumbnails(pictures, copies, copied)),
        ):
            shares = found.reshape(len(CHANGES), -1).mean(axis=1)
            print(f"| {kind} | {name} | {' | '.join(f'{100 * share:.1f}' for share in shares)} |", flush=True)


def _feature_model(name: str, weights: Path | None) -> keras.Model:
    network = architectures.build_network(architectures.find(name), _SIDE, 5, dropout=0.0)
    if weights is not None:
        load_backbone(network, weights)
    last = [layer for layer in network.logits.layers if isinstance(layer, keras.layers.Conv2D)][-1]
    return keras.Model(network.logits.input, keras.layers.GlobalAveragePooling2D()(last.output))


def _by_features(
    model: keras.Model, pictures: list[Image.Image], copies: list[Image.Image], copied: list[int]
) -> np.ndarray:
    of_pictures, of_copies = (model.predict(_pixels(listed, _SIDE), verbose=0) for listed in (pictures, copies))
    mean, deviation = of_pictures.mean(axis=0), of_pictures.std(axis=0) + 1e-6

    def similarities(features: np.ndarray) -> np.ndarray:
        one, other = ((rows - mean) / deviation for rows in (features, of_pictures))
        return np.asarray(_normalise(one) @ _normalise(other).T)

    among = similarities(of_pictures)
    np.fill_diagonal(among, -1)
    least = np.quantile(among.max(axis=1), 0.999)
    to_pictures = similarities(of_copies)
    return (to_pictures.argmax(axis=1) == copied) & (to_pictures.max(axis=1) > least)


def _normalise(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))


def _by_thumbnails(pictures: list[Image.Image], copies: list[Image.Image], copied: list[int]) -> np.ndarray:
    pairs = set(find_copies(_pixels([*pictures, *copies], SIZE), lambda what, done, total: None))
    return np.array([(place, len(pictures) + number) in pairs for number, place in enumerate(copied)])


def _pixels(pictures: list[Image.Image], side: int) -> np.ndarray:
    return np.stack([np.asarray(one.resize((side, side), Image.Resampling.BILINEAR)) for one in pictures])


if __name__ == "__main__":
    main()
