"""What a trained model gets wrong: validation images beside the training images that it finds most alike, and where it
looked. Test images are no part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from PIL import Image

from cnnstudy.data.decoder_pool import Progress
from cnnstudy.data.images import Images, image_keys
from cnnstudy.errors import ModelError
from cnnstudy.records import TrialSpec
from cnnstudy.training import model_package
from cnnstudy.training.trainer import evaluation_batch_size
from cnnstudy.training.trial import load_images

_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
#: They pass on what a convolution found, at fewer places, or with a border.
_PASS_ON = (
    layers.MaxPooling2D,
    layers.AveragePooling2D,
    layers.ZeroPadding2D,
    layers.Dropout,
    layers.SpatialDropout2D,
)
#: Places of a map that differ by less than this share of its largest differ by rounding.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class SplitClassifier:
    """A classifier, cut at the last map of its convolutions."""

    layer: str  # the one that gives the map
    maps: keras.Model  # images [n, size, size, 3] -> [n, h, w, channels]
    logits: keras.Model  # maps -> [n, classes], before softmax
    features: keras.Model  # images -> [what the last dense layer takes [n, units], probabilities [n, classes]]


def split_classifier(model: keras.Model, file: Path) -> SplitClassifier:
    """Cut a loaded model; the parts share its weights.

    The map is that of the last layer which all paths through the network pass and which gives more than one place:
    GoogLeNet's last concatenation rather than one of its branches, and a convolution rather than the pool behind it,
    which has only a quarter of its places.

    Raises:
        ModelError: it has no such map, or does not end in a softmax. `file` is what the message names.
    """
    operations = model.operations
    first = next((i for i, operation in enumerate(operations) if isinstance(operation, _CONVOLUTIONS)), len(operations))
    after_convolutions = {id(operation) for operation in operations[first:]}
    maps = [
        operation
        for operation in _main_path(model)
        if id(operation) in after_convolutions and _is_map(operation.output) and not isinstance(operation, _PASS_ON)
    ]
    if not maps:
        raise ModelError(f"{file} has no convolution whose map has more than one place; there is nothing to point at.")
    last = maps[-1]
    dense = [operation for operation in operations if isinstance(operation, layers.Dense)]
    features = dense[-1].input if dense else keras.ops.mean(last.output, axis=(1, 2))
    return SplitClassifier(
        layer=last.name,
        maps=keras.Model(model.inputs[0], last.output),
        logits=keras.Model(last.output, _logits(model, file)),
        features=keras.Model(model.inputs[0], [features, model.outputs[0]]),
    )


def _main_path(model: keras.Model) -> list[keras.Operation]:
    """The operations that every path from input to output passes, in order."""
    operations = model.operations
    places = {
        id(tensor): i for i, operation in enumerate(operations) for tensor in keras.tree.flatten(operation.output)
    }
    last_use = list(range(len(operations)))
    for i, operation in enumerate(operations):
        for tensor in keras.tree.flatten(operation.input):
            last_use[places[id(tensor)]] = i
    path, used_until = [], 0
    for i, operation in enumerate(operations):
        if used_until <= i:  # nothing goes around it
            path.append(operation)
        used_until = max(used_until, last_use[i])
    return path


def _is_map(output: Any) -> bool:
    """Whether it is one tensor [n, h, w, channels] with more than one place each way."""
    return isinstance(output, keras.KerasTensor) and len(output.shape) == 4 and min(output.shape[1:3]) > 1


def _logits(model: keras.Model, file: Path) -> keras.KerasTensor:
    """What the softmax takes. The gradient of a probability vanishes where the network is sure, that of a logit not."""
    last = model.operations[-1]
    if isinstance(last, layers.Softmax):
        return last.input
    if getattr(last, "activation", None) is keras.activations.softmax:
        if isinstance(last, layers.Activation):
            return last.input
        if isinstance(last, layers.Dense):
            linear = layers.Dense.from_config(
                {**last.get_config(), "name": f"{last.name}_logits", "activation": "linear"}
            )
            logits = linear(last.input)
            linear.set_weights(last.get_weights())
            return logits
    raise ModelError(f"{file} does not end in a softmax, so its logits are not known.")


def grad_cam(parts: SplitClassifier, pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Grad-CAM [n, h, w] float32 of images [n, size, size, 3] for one class each, [n] int64; nowhere below 0."""
    maps = parts.maps(pixels, training=False)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        scores = tf.gather(parts.logits(maps, training=False), classes, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(scores, maps), axis=(1, 2))
    return tf.nn.relu(tf.einsum("nhwk,nk->nhw", maps, weights)).numpy()


def scale_heat_map(heat: np.ndarray) -> np.ndarray:
    """A heat map [h, w], its largest value 1; all of it 0 where it is the same everywhere and so points nowhere."""
    largest = float(heat.max())
    if largest - float(heat.min()) <= _ROUNDING * largest:
        return np.zeros_like(heat)
    return heat / largest


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
    model = model_package.load_model(file)
    _check(model, file, spec)
    parts = split_classifier(model, file)
    images = load_images(spec)
    validation = images.validation
    seen = [batch for _, *batch in _looked_at(parts, validation, "looking for mistakes", progress)]
    features, probabilities = (np.concatenate(part) for part in zip(*seen, strict=True))
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != validation.labels)
    chosen = spread_over_pairs(wrong, validation.labels, predicted, probabilities.max(axis=1))[:count]
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


def spread_over_pairs(wrong: np.ndarray, labels: np.ndarray, predicted: np.ndarray, sure: np.ndarray) -> list[int]:
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
    size, classes = model_package.model_image_size(model), model.output_shape[1]
    if (size, classes) != (spec.images.size, len(spec.images.classes)):
        raise ModelError(
            f"{file} takes images of {size} pixels and knows {classes} classes, but {spec.study}/{spec.key} has images "
            f"of {spec.images.size} pixels and {len(spec.images.classes)} classes: the model is not of that trial."
        )


def _looked_at(
    parts: SplitClassifier, images: Images, what: str, progress: Progress
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Batch by batch: which images it has, their features [n, units] and their probabilities [n, classes]."""
    size = evaluation_batch_size(images.pixels.shape[1])
    for start in range(0, len(images), size):
        batch = slice(start, start + size)
        yield batch, *parts.features.predict_on_batch(images.pixels[batch])
        progress(what, min(start + size, len(images)), len(images))


def _similarities(features: np.ndarray, parts: SplitClassifier, train: Images, progress: Progress) -> np.ndarray:
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

    def __init__(self, spec: TrialSpec, parts: SplitClassifier, folder: Path) -> None:
        self.classes = spec.images.classes
        self.keys = image_keys(spec.images)
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
        of_predicted, of_true = grad_cam(self.parts, np.stack([pixels, pixels]), both)
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
    stretched = Image.fromarray(scale_heat_map(heat)).resize((PICTURE, PICTURE), Image.Resampling.BILINEAR)
    cover = _COVER * np.asarray(stretched)[..., None]
    grey = np.asarray(_picture(pixels).convert("L"))[..., None]
    return Image.fromarray((grey * (1 - cover) + np.array(_HEAT) * cover).round().clip(0, 255).astype(np.uint8))
