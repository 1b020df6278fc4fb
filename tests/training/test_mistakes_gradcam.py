"""Grad-CAM: its formula, and the map that it is drawn on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from cnnstudy.architectures import build_network, find
from cnnstudy.errors import ModelError
from cnnstudy.training import mistakes, model_package

pytestmark = pytest.mark.full_width

FILE = Path("some.keras")
DICE = np.random.default_rng(0)
KERNEL, BIAS = DICE.normal(size=(3, 4)), DICE.normal(size=4)
PIXELS = DICE.integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
CLASSES = np.array([0, 2, 1, 2, 0])

Ending = Callable[[keras.KerasTensor, np.ndarray], keras.KerasTensor]


def dense_then_activation(x: keras.KerasTensor, weights: np.ndarray) -> keras.KerasTensor:
    dense = layers.Dense(3)
    x = layers.Activation("softmax")(dense(x))
    dense.set_weights([weights, np.ones(3)])
    return x


def dense_then_softmax(x: keras.KerasTensor, weights: np.ndarray) -> keras.KerasTensor:
    dense = layers.Dense(3)
    x = layers.Softmax()(dense(x))
    dense.set_weights([weights, np.ones(3)])
    return x


def dense_with_softmax(x: keras.KerasTensor, weights: np.ndarray) -> keras.KerasTensor:
    dense = layers.Dense(3, activation="softmax")
    x = dense(x)
    dense.set_weights([weights, np.ones(3)])
    return x


def network(weights: np.ndarray, ending: Ending, pooled: bool) -> keras.Model:
    """A convolution of 1x1, then one dense layer on the mean of each channel, or on every place."""
    inputs = layers.Input((6, 6, 3))
    convolution = layers.Conv2D(4, 1, activation="relu", name="convolution")
    x = convolution(layers.Rescaling(1 / 255)(inputs))
    x = layers.GlobalAveragePooling2D()(x) if pooled else layers.Flatten()(x)
    model = keras.Model(inputs, ending(x, weights))
    convolution.set_weights([KERNEL[None, None], BIAS])
    return model


def maps_by_hand() -> np.ndarray:
    return np.maximum(PIXELS / 255 @ KERNEL + BIAS, 0)


@pytest.mark.parametrize("ending", [dense_then_activation, dense_then_softmax, dense_with_softmax])
@pytest.mark.parametrize("scale", [1, 200], ids=["unsure", "sure"])
def test_behind_a_global_average_it_is_the_weighted_sum_of_the_maps(ending: Ending, scale: int) -> None:
    """There the gradient is the dense layer's weight / places, however sure the network is."""
    weights = scale * np.random.default_rng(1).normal(size=(4, 3))
    model = network(weights, ending, pooled=True)
    found = mistakes.grad_cam(mistakes.split_classifier(model, FILE), PIXELS, CLASSES)
    expected = np.maximum(np.einsum("nhwk,nk->nhw", maps_by_hand(), weights[:, CLASSES].T / 36), 0)
    assert np.count_nonzero(expected) not in (0, expected.size)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * scale)


def test_the_gradient_is_averaged_over_the_places() -> None:
    weights = np.random.default_rng(2).normal(size=(6 * 6 * 4, 3))
    found = mistakes.grad_cam(
        mistakes.split_classifier(network(weights, dense_then_activation, pooled=False), FILE), PIXELS, CLASSES
    )
    of_channels = weights.reshape(36, 4, 3).mean(axis=0)[:, CLASSES].T
    expected = np.maximum(np.einsum("nhwk,nk->nhw", maps_by_hand(), of_channels), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_frozen_model_has_the_same_map() -> None:
    model = network(np.random.default_rng(3).normal(size=(4, 3)), dense_then_activation, pooled=True)
    before = mistakes.grad_cam(mistakes.split_classifier(model, FILE), PIXELS, CLASSES)
    model.trainable = False
    np.testing.assert_array_equal(mistakes.grad_cam(mistakes.split_classifier(model, FILE), PIXELS, CLASSES), before)


def test_the_parts_do_what_the_whole_does() -> None:
    model = network(np.random.default_rng(4).normal(size=(4, 3)), dense_with_softmax, pooled=True)
    parts = mistakes.split_classifier(model, FILE)
    logits = parts.logits.predict_on_batch(parts.maps.predict_on_batch(PIXELS))
    features, probabilities = parts.features.predict_on_batch(PIXELS)
    np.testing.assert_array_equal(probabilities, model.predict_on_batch(PIXELS))
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), probabilities, rtol=1e-5)
    np.testing.assert_allclose(features, maps_by_hand().mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)


# ---- scaled


def test_the_largest_value_of_a_scaled_map_is_1() -> None:
    np.testing.assert_allclose(mistakes.scale_heat_map(np.float32([[0, 2], [1, 4]])), [[0, 0.5], [0.25, 1]])


@pytest.mark.parametrize("value", [0.0, 1e-30, 0.7, 1e6])
def test_a_map_that_is_the_same_everywhere_points_nowhere(value: float) -> None:
    heat = np.full((3, 3), value, dtype=np.float32)
    np.testing.assert_array_equal(mistakes.scale_heat_map(heat), np.zeros((3, 3)))
    heat[1, 1] *= np.float32(1 + 2e-7)  # rounding
    np.testing.assert_array_equal(mistakes.scale_heat_map(heat), np.zeros((3, 3)))


def test_an_image_of_one_colour_points_nowhere() -> None:
    model = network(np.random.default_rng(5).normal(size=(4, 3)), dense_then_activation, pooled=True)
    parts = mistakes.split_classifier(model, FILE)
    flat = np.broadcast_to(np.uint8([10, 200, 30]), (3, 6, 6, 3))
    for heat in mistakes.grad_cam(parts, flat, np.arange(3)):
        np.testing.assert_array_equal(mistakes.scale_heat_map(heat), np.zeros((6, 6)))


# ---- the map


@pytest.mark.parametrize(
    ("name", "size", "layer", "shape"),
    [
        ("alexnet", 64, "conv5", (3, 3, 128)),
        ("alexnet", 224, "conv5", (13, 13, 128)),
        ("googlenet", 32, "inception_4e_output", (2, 2, 832)),  # behind it there is one place only
        ("googlenet", 64, "inception_5b_output", (2, 2, 1024)),
        ("googlenet", 224, "inception_5b_output", (7, 7, 1024)),
        ("vgg16", 32, "block5_conv3", (2, 2, 512)),
        ("vgg16", 224, "block5_conv3", (14, 14, 512)),
    ],
)
def test_of_each_network_it_is_the_last_convolution(
    name: str, size: int, layer: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    model = build_network(find(name), size, 5, 0.5).inference
    if size < 224:
        model.save(tmp_path / "saved.keras")
        model = model_package.load_saved_model(tmp_path / "saved.keras")
    parts = mistakes.split_classifier(model, FILE)
    assert parts.layer == layer
    assert parts.maps.output_shape == (None, *shape)
    units = {"alexnet": 2048, "googlenet": 1024, "vgg16": 1024}[name]
    assert [output.shape for output in parts.features.outputs] == [(None, units), (None, 5)]
    if size < 224:
        pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
        logits = parts.logits.predict_on_batch(parts.maps.predict_on_batch(pixels))
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(shares, model.predict_on_batch(pixels), atol=1e-6)


def classifier(features: Callable[[keras.KerasTensor], keras.KerasTensor]) -> keras.Model:
    inputs = layers.Input((8, 8, 3))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Flatten()(features(inputs))))


def test_of_branches_it_is_where_they_meet() -> None:
    def features(x: keras.KerasTensor) -> keras.KerasTensor:
        x = layers.Conv2D(4, 3, padding="same")(x)
        long = layers.Conv2D(4, 3, padding="same")(layers.Conv2D(4, 3, padding="same")(x))
        x = layers.Add()([x, long])
        return layers.MaxPooling2D(2)(layers.ReLU(name="sum")(x))

    assert mistakes.split_classifier(classifier(features), FILE).layer == "sum"


def test_a_map_of_one_place_shows_nothing() -> None:
    def features(x: keras.KerasTensor) -> keras.KerasTensor:
        x = layers.MaxPooling2D(8)(layers.Conv2D(4, 3, padding="same", name="early")(x))
        return layers.Conv2D(4, 1)(x)

    assert mistakes.split_classifier(classifier(features), FILE).layer == "early"


def test_a_network_whose_logits_are_means_of_maps() -> None:
    inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, name="of-classes")(layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, layers.Softmax()(layers.GlobalAveragePooling2D()(x)))
    parts = mistakes.split_classifier(model, FILE)
    assert parts.layer == "of-classes"
    pixels = PIXELS.repeat(2, axis=1)[:, :8].repeat(2, axis=2)[:, :, :8]
    maps = parts.maps.predict_on_batch(pixels)
    features, _ = parts.features.predict_on_batch(pixels)
    np.testing.assert_allclose(features, maps.mean(axis=(1, 2)), rtol=1e-4, atol=1e-4)
    found = mistakes.grad_cam(parts, pixels, CLASSES)
    expected = [np.maximum(of_image[..., c], 0) / 16 for of_image, c in zip(maps, CLASSES, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_models_without_a_map_or_a_softmax() -> None:
    with pytest.raises(ModelError, match=r"some\.keras has no convolution whose map has more than one position"):
        mistakes.split_classifier(classifier(layers.Rescaling(1 / 255)), FILE)
    with pytest.raises(ModelError, match="no convolution whose map"):
        mistakes.split_classifier(classifier(layers.Conv2D(4, 8)), FILE)
    inputs = layers.Input((8, 8, 3))
    bare = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Conv2D(4, 3)(inputs))))
    with pytest.raises(ModelError, match=r"some\.keras does not end in a softmax"):
        mistakes.split_classifier(bare, FILE)
