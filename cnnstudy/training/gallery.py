"""What a trained model gets wrong: validation images beside the training images that it finds most alike, and where it
looked. Test images are no part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from cnnstudy.errors import ModelError
from cnnstudy.records import TrialSpec
from cnnstudy.training import gradcam, package
from cnnstudy.training.decoding import Progress
from cnnstudy.training.images import Images, keys_of
from cnnstudy.training.loop import evaluation_batch_size
from cnnstudy.training.trial import load_images

#: Height and width in pixels of every picture.
PICTURE = 160
#: The colour of heat (RGB), and how much of the image it covers at the hottest place.
_HEAT, _COVER = (255, 80, 0), 0.75


def explain_errors(
    spec: TrialSpec, file: Path, folder: Path, count: int, progress: Progress, neighbours: int = 3
) -> dict[str, Any]:
    """Choose up to `count` mistakes of a trial's model, and draw them into `folder` as PNG files.

    The neighbours of an image are the training images whose features, what the last dense layer takes, are most alike
    by cosine similarity. Heat maps are Grad-CAM, each scaled to its own largest value.

    Args:
        file: the model, a `.keras` file.

    Returns:
        {"wrong": all mistakes, "validation": images, "map": [height, width] of the map that is shown,
        "entries": [{"image", "cam_predicted", "cam_true": paths, "true", "predicted": names of classes,
        "probability": of the predicted one, "key": of the image in the data set,
        "neighbours": [{"image": path, "class": name of its label in training, "similarity": -1 to 1, "key"}]}]}

    Raises:
        DataError: the decoded images are gone.
        ModelError: the model can't be loaded, is of other images, or has no map to show.
    """
    progress("loading the model", 0, 0)
    model = package.load(file)
    _check(model, file, spec)
    parts = gradcam.cut(model, file)
    images = load_images(spec)
    validation = images.validation
    seen = [batch for _, *batch in _looked_at(parts, validation, "looking for mistakes", progress)]
    features, probabilities = (np.concatenate(part) for part in zip(*seen, strict=True))
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != validation.labels)
    chosen = spread(wrong, validation.labels, predicted, probabilities.max(axis=1))[:count]
    entries: list[dict[str, Any]] = []
    if chosen:
        similarities = _similarities(features[chosen], parts, images.train, progress)
        drawing = _Drawing(spec, parts, folder)
        for place, row in zip(chosen, similarities, strict=True):
            nearest = np.argsort(-row, kind="stable")[:neighbours].tolist()
            entry = drawing.mistake(validation, place, probabilities[place])
            entries.append(entry | {"neighbours": [drawing.neighbour(images.train, i, float(row[i])) for i in nearest]})
            progress("drawing mistakes", len(entries), len(chosen))
    return {
        "wrong": len(wrong),
        "validation": len(validation),
        "map": list(parts.maps.output_shape[1:3]),
        "entries": entries,
    }


def spread(wrong: np.ndarray, labels: np.ndarray, predicted: np.ndarray, sure: np.ndarray) -> list[int]:
    """The mistakes in turns: in each one of every pair of true and predicted class that has some left, surest first.

    Args:
        wrong: the images that are mistakes [m].
        labels, predicted: the classes of all images [n].
        sure: the probability of the predicted class [n].
    """
    surest_first = wrong[np.argsort(-sure[wrong], kind="stable")].tolist()
    taken: dict[tuple[int, int], int] = {}
    turns = []
    for i in surest_first:
        pair = (int(labels[i]), int(predicted[i]))
        turns.append(taken.get(pair, 0))
        taken[pair] = turns[-1] + 1
    return [surest_first[i] for i in np.argsort(turns, kind="stable")]


def _check(model: keras.Model, file: Path, spec: TrialSpec) -> None:
    size, classes = package.image_size(model), model.output_shape[1]
    if (size, classes) != (spec.images.size, len(spec.images.classes)):
        raise ModelError(
            f"{file} takes images of {size} pixels and knows {classes} classes, but {spec.study}/{spec.key} has images "
            f"of {spec.images.size} pixels and {len(spec.images.classes)} classes: the model is not of that trial."
        )


def _looked_at(
    parts: gradcam.Parts, images: Images, what: str, progress: Progress
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Batch by batch: which images it has, their features [n, units] and their probabilities [n, classes]."""
    size = evaluation_batch_size(images.pixels.shape[1])
    for start in range(0, len(images), size):
        batch = slice(start, start + size)
        yield batch, *parts.features.predict_on_batch(images.pixels[batch])
        progress(what, min(start + size, len(images)), len(images))


def _similarities(features: np.ndarray, parts: gradcam.Parts, train: Images, progress: Progress) -> np.ndarray:
    """The cosine similarity [n, images] of each of the features [n, units] to those of each training image."""
    similarities = np.empty((len(features), len(train)), dtype=np.float32)
    for batch, others, _ in _looked_at(parts, train, "comparing with training images", progress):
        similarities[:, batch] = (_of_length_1(features) @ _of_length_1(others).T).clip(-1, 1)
    return similarities


def _of_length_1(rows: np.ndarray) -> np.ndarray:
    """The rows [n, units] divided by their lengths; one of zeros stays as it is, and is like no other."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


class _Drawing:
    """The pictures of one gallery, and what is said beside them."""

    def __init__(self, spec: TrialSpec, parts: gradcam.Parts, folder: Path) -> None:
        self.classes = spec.images.classes
        self.keys = keys_of(spec.images)
        self.parts = parts
        self.folder = folder
        self._mistakes = 0
        self._neighbours = 0
        folder.mkdir(parents=True, exist_ok=True)

    def mistake(self, images: Images, place: int, probabilities: np.ndarray) -> dict[str, Any]:
        """An entry without its neighbours."""
        self._mistakes += 1
        self._neighbours = 0
        true, predicted = int(images.labels[place]), int(probabilities.argmax())
        pixels = images.pixels[place]
        both = np.array([predicted, true])
        of_predicted, of_true = gradcam.grad_cam(self.parts, np.stack([pixels, pixels]), both)
        return {
            "image": self._saved("image", _picture(pixels)),
            "cam_predicted": self._saved("predicted", _overlay(pixels, of_predicted)),
            "cam_true": self._saved("true", _overlay(pixels, of_true)),
            "true": self.classes[true],
            "predicted": self.classes[predicted],
            "probability": float(probabilities[predicted]),
            "key": self.keys[images.places[place]],
        }

    def neighbour(self, images: Images, place: int, similarity: float) -> dict[str, Any]:
        """One of the last mistake."""
        self._neighbours += 1
        return {
            "image": self._saved(f"neighbour-{self._neighbours}", _picture(images.pixels[place])),
            "class": self.classes[images.labels[place]],
            "similarity": similarity,
            "key": self.keys[images.places[place]],
        }

    def _saved(self, name: str, picture: Image.Image) -> str:
        path = self.folder / f"{self._mistakes:02d}-{name}.png"
        picture.save(path)
        return str(path)


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).resize((PICTURE, PICTURE), Image.Resampling.BICUBIC)


def _overlay(pixels: np.ndarray, heat: np.ndarray) -> Image.Image:
    """The image in grey, covered the more the hotter a place is; the map is stretched over all of it."""
    stretched = Image.fromarray(gradcam.scaled(heat)).resize((PICTURE, PICTURE), Image.Resampling.BILINEAR)
    cover = _COVER * np.asarray(stretched)[..., None]
    grey = np.asarray(_picture(pixels).convert("L"))[..., None]
    return Image.fromarray((grey * (1 - cover) + np.array(_HEAT) * cover).round().clip(0, 255).astype(np.uint8))
