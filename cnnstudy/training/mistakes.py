"""A model's mistakes: misclassified validation images, with Grad-CAM, beside the most similar training images.

explain_mistakes      choose mistakes and write their pictures
spread_over_pairs   the choice: every pair of true and predicted class in turn
split_classifier    a model in two parts, at the last map of its convolutions
grad_cam            where in the image the model found evidence for a class

Test images are never used.
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

from cnnstudy.data.batches import evaluation_batch_size
from cnnstudy.data.decoder_pool import Progress
from cnnstudy.data.images import Images, image_keys
from cnnstudy.errors import ModelError
from cnnstudy.records import TrialSpec
from cnnstudy.training import model_package
from cnnstudy.training.trial import load_images

#: Height and width of every picture in pixels.
PICTURE = 160
#: The colour of heat maps (RGB), and the opacity where a map is largest.
_HEAT, _OPACITY = (255, 80, 0), 0.75
_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
#: Layers that add nothing to a convolution's map: they only leave out positions, or add a border.
_PASS_ON = (
    layers.MaxPooling2D,
    layers.AveragePooling2D,
    layers.ZeroPadding2D,
    layers.Dropout,
    layers.SpatialDropout2D,
)
#: Values of a map that differ by less than this share of the largest one differ by rounding only.
_ROUNDING = 1e-5


def explain_mistakes(
    spec: TrialSpec, file: Path, folder: Path, count: int, progress: Progress, neighbours: int = 3
) -> dict[str, Any]:
    """Choose up to `count` mistakes of a trial's model and write their pictures to `folder` as PNG files.

    The neighbours of an image are the training images with the most similar features (cosine similarity); features are
    the inputs of the last dense layer. Heat maps are Grad-CAM, each scaled to its own largest value.

    Args:
        file: the model, a `.keras` file.

    Returns:
        {"wrong": number of mistakes, "validation": number of images, "map": [height, width] of the heat maps,
        "entries": [{"image", "cam_predicted", "cam_true": paths, "true", "predicted": class names,
        "probability": of the predicted class, "key": of the image in the data set,
        "neighbours": [{"image": path, "class": name of its label in training, "similarity": -1 to 1, "key"}]}]}

    Raises:
        DataError: the decoded images are gone.
        ModelError: the model can't be loaded, does not fit the trial's images, or has no map to show.
    """
    progress("loading the model", 0, 0)
    model = model_package.load_saved_model(file)
    model_package.check_fits(model, file, spec.images, f"{spec.study}/{spec.key}")
    parts = split_classifier(model, file)
    images = load_images(spec)
    validation = images.validation
    batches = [outputs for _, *outputs in _evaluate(parts, validation, "looking for mistakes", progress)]
    features, probabilities = (np.concatenate(output) for output in zip(*batches, strict=True))
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != validation.labels)
    chosen = spread_over_pairs(wrong, validation.labels, predicted, probabilities.max(axis=1))[:count]
    entries: list[dict[str, Any]] = []
    if chosen:
        similarities = _similarities(features[chosen], parts, images.train, progress)
        pictures = _Pictures(spec, parts, folder)
        for index, row in zip(chosen, similarities, strict=True):
            nearest = np.argsort(-row, kind="stable")[:neighbours].tolist()
            entry = pictures.draw_mistake(validation, index, probabilities[index])
            entry["neighbours"] = [pictures.draw_neighbour(images.train, i, float(row[i])) for i in nearest]
            entries.append(entry)
            progress("drawing mistakes", len(entries), len(chosen))
    return {
        "wrong": len(wrong),
        "validation": len(validation),
        "map": list(parts.maps.output_shape[1:3]),
        "entries": entries,
    }


# ---- which mistakes, and which training images resemble them


def spread_over_pairs(
    wrong: np.ndarray, labels: np.ndarray, predicted: np.ndarray, confidences: np.ndarray
) -> list[int]:
    """Return the mistakes in rounds, each with one mistake of every pair of true and predicted class that has any left.

    Within a pair and within a round, mistakes with a higher probability come first.

    Args:
        wrong: indices of the images that are mistakes [m].
        labels, predicted: classes of all images [n].
        confidences: probabilities of the predicted classes [n].
    """
    most_confident_first = wrong[np.argsort(-confidences[wrong], kind="stable")].tolist()
    taken: dict[tuple[int, int], int] = {}
    rounds = []
    for i in most_confident_first:
        pair = (int(labels[i]), int(predicted[i]))
        rounds.append(taken.get(pair, 0))
        taken[pair] = rounds[-1] + 1
    return [most_confident_first[i] for i in np.argsort(rounds, kind="stable")]


def _evaluate(
    parts: SplitClassifier, images: Images, what: str, progress: Progress
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield each batch's rows, features [n, units] and probabilities [n, classes]."""
    size = evaluation_batch_size(images.pixels.shape[1])
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        yield rows, *parts.features.predict_on_batch(images.pixels[rows])
        progress(what, min(start + size, len(images)), len(images))


def _similarities(features: np.ndarray, parts: SplitClassifier, train: Images, progress: Progress) -> np.ndarray:
    """Return the cosine similarity [n, images] of features [n, units] to those of each training image."""
    similarities = np.empty((len(features), len(train)), dtype=np.float32)
    for rows, others, _ in _evaluate(parts, train, "comparing with training images", progress):
        similarities[:, rows] = (_normalise(features) @ _normalise(others).T).clip(-1, 1)
    return similarities


def _normalise(rows: np.ndarray) -> np.ndarray:
    """Divide each row of [n, units] by its length; a row of zeros stays as it is."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


# ---- pictures


class _Pictures:
    """Writes the pictures of mistakes and their neighbours, and returns what explain_mistakes reports about them."""

    def __init__(self, spec: TrialSpec, parts: SplitClassifier, folder: Path) -> None:
        self.classes = spec.images.classes
        self.keys = image_keys(spec.images)
        self.parts = parts
        self.folder = folder
        self._mistakes = 0
        self._neighbours = 0  # of the last mistake
        folder.mkdir(parents=True, exist_ok=True)

    def draw_mistake(self, images: Images, index: int, probabilities: np.ndarray) -> dict[str, Any]:
        """Draw a mistake with its heat maps and return its entry, without neighbours."""
        self._mistakes += 1
        self._neighbours = 0
        true, predicted = int(images.labels[index]), int(probabilities.argmax())
        pixels = images.pixels[index]
        predicted_heat, true_heat = grad_cam(self.parts, np.stack([pixels, pixels]), np.array([predicted, true]))
        return {
            "image": self._save("image", _picture(pixels)),
            "cam_predicted": self._save("predicted", _overlay(pixels, predicted_heat)),
            "cam_true": self._save("true", _overlay(pixels, true_heat)),
            "true": self.classes[true],
            "predicted": self.classes[predicted],
            "probability": float(probabilities[predicted]),
            "key": self.keys[images.places[index]],
        }

    def draw_neighbour(self, images: Images, index: int, similarity: float) -> dict[str, Any]:
        """Draw a neighbour of the last mistake and return its entry."""
        self._neighbours += 1
        return {
            "image": self._save(f"neighbour-{self._neighbours}", _picture(images.pixels[index])),
            "class": self.classes[images.labels[index]],
            "similarity": similarity,
            "key": self.keys[images.places[index]],
        }

    def _save(self, name: str, picture: Image.Image) -> str:
        path = self.folder / f"{self._mistakes:02d}-{name}.png"
        picture.save(path)
        return str(path)


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).resize((PICTURE, PICTURE), Image.Resampling.BICUBIC)


def _overlay(pixels: np.ndarray, heat: np.ndarray) -> Image.Image:
    """Return the image in grey under its heat map, which is stretched over the whole image."""
    stretched = Image.fromarray(scale_heat_map(heat)).resize((PICTURE, PICTURE), Image.Resampling.BILINEAR)
    opacity = _OPACITY * np.asarray(stretched)[..., None]
    grey = np.asarray(_picture(pixels).convert("L"))[..., None]
    mixed = grey * (1 - opacity) + np.array(_HEAT) * opacity
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def scale_heat_map(heat: np.ndarray) -> np.ndarray:
    """Scale a heat map [h, w] to a largest value of 1; return zeros if it is constant, as it then points nowhere."""
    largest = float(heat.max())
    if largest - float(heat.min()) <= _ROUNDING * largest:
        return np.zeros_like(heat)
    return heat / largest


# ---- Grad-CAM


@dataclass(frozen=True)
class SplitClassifier:
    """A classifier, split at the last map of its convolutions."""

    layer: str  # the layer that returns the map
    maps: keras.Model  # images [n, size, size, 3] -> [n, h, w, channels]
    logits: keras.Model  # maps -> [n, classes], before softmax
    features: keras.Model  # images -> [inputs of the last dense layer [n, units], probabilities [n, classes]]


def split_classifier(model: keras.Model, file: Path) -> SplitClassifier:
    """Split a loaded model; the parts share its weights.

    The map is the output of the last layer that all paths through the network pass and whose output has more than one
    position: in GoogLeNet the last concatenation, not one of its branches; elsewhere a convolution rather than the
    pooling layer after it, which has only a quarter of the positions.

    Args:
        file: for error messages.

    Raises:
        ModelError: the model has no such map, or does not end in a softmax.
    """
    operations = model.operations
    first = next((i for i, operation in enumerate(operations) if isinstance(operation, _CONVOLUTIONS)), len(operations))
    from_first_convolution = {id(operation) for operation in operations[first:]}
    candidates = [
        operation
        for operation in _main_path(model)
        if id(operation) in from_first_convolution and _is_map(operation.output) and not isinstance(operation, _PASS_ON)
    ]
    if not candidates:
        raise ModelError(
            f"{file} has no convolution whose map has more than one position, so Grad-CAM can't show where it looked."
        )
    last = candidates[-1]
    dense = [operation for operation in operations if isinstance(operation, layers.Dense)]
    features = dense[-1].input if dense else keras.ops.mean(last.output, axis=(1, 2))
    return SplitClassifier(
        layer=last.name,
        maps=keras.Model(model.inputs[0], last.output),
        logits=keras.Model(last.output, _logits(model, file)),
        features=keras.Model(model.inputs[0], [features, model.outputs[0]]),
    )


def _main_path(model: keras.Model) -> list[keras.Operation]:
    """Return the operations that every path from input to output passes, in order."""
    operations = model.operations
    producers = {
        id(tensor): i for i, operation in enumerate(operations) for tensor in keras.tree.flatten(operation.output)
    }
    last_use = list(range(len(operations)))
    for i, operation in enumerate(operations):
        for tensor in keras.tree.flatten(operation.input):
            last_use[producers[id(tensor)]] = i
    path, used_until = [], 0
    for i, operation in enumerate(operations):
        if used_until <= i:  # no earlier output is used after this operation
            path.append(operation)
        used_until = max(used_until, last_use[i])
    return path


def _is_map(output: Any) -> bool:
    """Check whether an output is one tensor [n, h, w, channels] with h and w above 1."""
    return isinstance(output, keras.KerasTensor) and len(output.shape) == 4 and min(output.shape[1:3]) > 1


def _logits(model: keras.Model, file: Path) -> keras.KerasTensor:
    """Return the input of the softmax.

    Grad-CAM needs the gradient of logits: that of probabilities vanishes where the network is sure.
    """
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
    """Return the Grad-CAM heat maps (Selvaraju et al. 2017) of images, for one class each.

    Args:
        pixels: images [n, size, size, 3].
        classes: [n] int64.

    Returns:
        [n, h, w] float32, at least 0.
    """
    maps = parts.maps(pixels, training=False)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        scores = tf.gather(parts.logits(maps, training=False), classes, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(scores, maps), axis=(1, 2))
    return tf.nn.relu(tf.einsum("nhwk,nk->nhw", maps, weights)).numpy()
