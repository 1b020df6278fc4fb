"""Find pictures that a network's features show as alike and thumbnails do not: stronger crops, turned pictures, bursts.

How alike two pictures must be comes from the data set itself, in two ways that need no other one. Where pictures lie in
the space of features, a near-duplicate of one is much nearer to it than its next neighbours are, whatever the class
looks like; how much nearer the nearest is by chance follows from the ratios of distances among all pictures (Facco et
al. 2017, "Estimating the intrinsic dimension of datasets by a minimal neighborhood information"; Denti et al. 2022).
And pictures are changed as copies differ: features by which such copies do not stand out cannot tell copies here.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from cnnstudy.architectures import Architecture, build_network
from cnnstudy.data.decode import resize
from cnnstudy.data.decoder_pool import Decoders, Progress
from cnnstudy.data.images import ListedImages
from cnnstudy.records import LinearInput
from cnnstudy.system.files import allocate_memmap
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.training.micro_batches import MicroBatches
from cnnstudy.training.weights import load_backbone

#: A pair is listed if each is so near to the other that, of pictures that are no copies, this share has a neighbour as
#: near by chance, compared with its neighbour of rank _REFERENCE.
_MOST_BY_CHANCE, _REFERENCE = 1e-3, 6
#: Pairs of different classes show how often chance is underrated: of so many pictures at most one such pair may pass.
_PICTURES_PER_FALSE_PAIR = 200
#: Pictures that are changed, and principal components of the features that are compared.
_CHANGED, _COMPONENTS = 200, 64
_AT_ONCE, _ROWS = 64, 512  # pictures, and rows of distances

Array = np.ndarray[Any, np.dtype[Any]]


def _recompress(picture: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=40)
    return Image.open(stream)


#: As copies differ from a picture.
_CHANGES: tuple[Callable[[Image.Image], Image.Image], ...] = (
    lambda picture: resize(picture, picture.width // 2),
    _recompress,
    lambda picture: picture.crop((0, 0, round(0.9 * picture.width), round(0.9 * picture.height))),
    ImageOps.mirror,
    lambda picture: ImageEnhance.Brightness(picture).enhance(1.3),
    lambda picture: ImageEnhance.Brightness(picture).enhance(0.7),
)


def feature_model(architecture: Architecture, image_size: int, weights: Path) -> keras.Model:
    """Return a model from images [n, size, size, 3] of 0..255 to features [n, d]: averages of the backbone's last maps.

    Raises:
        WeightsError: the file can't be read, or its weights are not the network's.
        ConfigError: the network can't be built for such images.
    """
    network = build_network(architecture, image_size, 2, 0.0, linear=LinearInput())
    load_backbone(network, weights)
    return keras.Model(network.logits.inputs[0], network.logits.layers[-1].input)


def find_lookalikes(
    model: keras.Model, listed: ListedImages, places: Sequence[int], tested: frozenset[int], progress: Progress
) -> dict[str, Any]:
    """Return the pairs of pictures that stand out as alike by a model's features, and how well it tells copies.

    Args:
        model: of `feature_model`.
        places: the pictures, as indices in the data set, none a known copy of another.
        tested: those of the test split, whose labels are not looked at.

    Returns:
        {"found": share of the changed copies that stand out, "pairs": [[place, place], ...], the most alike first}

    Raises:
        DataError: an image has changed.
    """
    rng = np.random.default_rng(0)
    rows = rng.permutation([row for row, place in enumerate(places) if place not in tested])[:_CHANGED]
    with scratch_folder() as folder, Decoders() as decoders:
        features = allocate_memmap(folder / "features.npy", (len(places), model.output_shape[1]), np.float32)
        run = MicroBatches()

        def compute(pictures: Sequence[Array]) -> Array:
            return run.evaluate(np.stack(pictures), model.predict_on_batch)

        for start, pixels in _decode(listed, places, model.input_shape[1], decoders):
            features[start : start + len(pixels)] = compute(pixels)
            progress("features of images", start + len(pixels), len(places))
        project = _fit_projection(features)
        points = np.concatenate([project(features[start : start + _ROWS]) for start in _starts(len(places))])
        nearest, dimension = _measure_neighbours(points, progress)
        chances = []
        for start, pixels in _decode(listed, [places[row] for row in rows], 2 * model.input_shape[1], decoders):
            of = rows[start : start + len(pixels)]
            for change in _CHANGES:
                copies = project(compute([_change(picture, change) for picture in pixels]))
                distances = np.linalg.norm(copies - points[of], axis=1)
                chances.append(_probability_by_chance(distances, nearest[of], dimension))
            progress("changed copies", start + len(pixels), len(rows))
    found = float(np.mean(np.concatenate(chances) <= _MOST_BY_CHANCE)) if chances else 0.0
    pairs = sorted(_find_mutual_neighbours(points, nearest, dimension, progress))
    labels = [listed.source.images[place].label for place in places]
    across_classes = [p for p, i, j in pairs if labels[i] != labels[j] and tested.isdisjoint((places[i], places[j]))]
    allowed = len(places) // _PICTURES_PER_FALSE_PAIR
    limit = across_classes[allowed] if len(across_classes) > allowed else np.inf
    return {"found": found, "pairs": [[places[i], places[j]] for p, i, j in pairs if p < limit]}


def _decode(
    listed: ListedImages, places: Sequence[int], size: int, decoders: Decoders
) -> Iterator[tuple[int, list[Array]]]:
    """Yield the pictures [size, size, 3] in parts, each with the index of its first picture in `places`."""
    for start in range(0, len(places), _AT_ONCE):
        part = places[start : start + _AT_ONCE]
        pixels: list[Array] = [np.empty(0)] * len(part)

        def store(index: int, _: int, decoded: Array, pixels: list[Array] = pixels) -> None:
            pixels[index] = decoded

        images, digests = [listed.source.images[place] for place in part], [listed.digests[place] for place in part]
        decoders.decode_all(images, [size], store, lambda *_: None, digests)
        yield start, pixels


def _change(pixels: Array, change: Callable[[Image.Image], Image.Image]) -> Array:
    """Return a picture of twice the network's size changed, at the network's size."""
    return np.asarray(resize(change(Image.fromarray(pixels)).convert("RGB"), len(pixels) // 2))


def _starts(count: int) -> range:
    return range(0, count, _ROWS)


def _fit_projection(features: Array) -> Callable[[Array], Array]:
    """Return a function from features [n, d] to points [n, components] of length 1: whitened principal components."""
    count, width = features.shape
    mean = features.mean(axis=0, dtype=np.float64)
    products = np.zeros((width, width))
    for start in _starts(count):
        part = features[start : start + _ROWS] - mean
        products += part.T @ part
    deviations = np.sqrt(np.diag(products) / count)
    scale = np.divide(1, deviations, out=np.zeros(width), where=deviations > 1e-6 * deviations.max(initial=1e-30))
    values, vectors = np.linalg.eigh(products / count * scale[:, None] * scale)
    kept = min(_COMPONENTS, count // 8)
    # small ones are mostly noise
    weights = vectors[:, -kept:] / np.sqrt(np.maximum(values[-kept:], 0) + 0.01 * values.mean() + 1e-12)

    def project(rows: Array) -> Array:
        points = (rows - mean) * scale @ weights
        lengths = np.linalg.norm(points, axis=1, keepdims=True)
        return np.asarray(points / np.maximum(lengths, 1e-9), dtype=np.float32)

    return project


def _distances(points: Array, progress: Progress) -> Iterator[tuple[int, Array]]:
    """Yield rows of distances [rows, n] between all points, each with the index of its first point."""
    squares = (points**2).sum(axis=1)
    for start in _starts(len(points)):
        products = points[start : start + _ROWS] @ points.T
        distances = np.sqrt(np.maximum(squares[start : start + _ROWS, None] + squares - 2 * products, 0))
        own = np.arange(len(distances))
        distances[own, own + start] = np.inf
        yield start, distances
        progress("comparing images", min(start + _ROWS, len(points)), len(points))


def _measure_neighbours(points: Array, progress: Progress) -> tuple[Array, float]:
    """Return each point's distance to its neighbour of rank _REFERENCE [n], and the dimension of the points."""
    near = [
        np.partition(rows, (0, _REFERENCE - 1), axis=1)[:, [0, _REFERENCE - 1]]
        for _, rows in _distances(points, progress)
    ]
    first, nearest = np.concatenate(near).T
    median = np.median(np.log(_ratio(first, nearest)))
    return nearest, float(np.log(1 - 0.5 ** (1 / (_REFERENCE - 1))) / min(median, -1e-6))


def _ratio(distances: Array, nearest: Array) -> Array:
    ratio = np.divide(distances, nearest, out=np.ones(np.broadcast(distances, nearest).shape), where=nearest > 1e-3)
    return np.clip(ratio, 1e-9, 1)


def _probability_by_chance(distances: Array, nearest: Array, dimension: float) -> Array:
    """Return the chance that the nearest of _REFERENCE neighbours is so near, if points lie evenly around one.

    The volumes of balls up to the neighbours are then those of ordered uniform numbers.
    """
    volume = _ratio(distances, nearest) ** dimension
    return np.asarray(1 - (1 - volume) ** (_REFERENCE - 1))


def _find_mutual_neighbours(
    points: Array, nearest: Array, dimension: float, progress: Progress
) -> Iterator[tuple[float, int, int]]:
    """Yield the larger chance of two points that are both near to each other, and the points, i < j."""
    for start, distances in _distances(points, progress):
        i, j = np.nonzero(distances < nearest[start : start + _ROWS, None])
        first, further = i + start, distances[i, j]
        chances = np.maximum(*(_probability_by_chance(further, nearest[of], dimension) for of in (first, j)))
        for at in np.flatnonzero((chances <= _MOST_BY_CHANCE) & (first < j)):
            yield float(chances[at]), int(first[at]), int(j[at])
