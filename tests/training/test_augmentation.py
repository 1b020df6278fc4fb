"""What the augmentations do to pictures: how often, from where to where, and around which mean."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from cnnstudy.training.augmentation import augmentation_layers, reset_augmentation

COUNT, SIZE, SLOPE = 4000, 16, 3.0
#: Gray value at the centre of the pictures.
MIDDLE = 127.5


@pytest.fixture(scope="module")
def ramps() -> np.ndarray:
    """Return pictures [COUNT, SIZE, SIZE, 3] that become brighter from left to right by SLOPE for each pixel."""
    ramp = MIDDLE + SLOPE * (np.arange(SIZE) - (SIZE - 1) / 2)
    return np.broadcast_to(ramp[None, None, :, None], (COUNT, SIZE, SIZE, 3)).astype(np.float32)


def slopes(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how much brighter each picture's centre becomes to the right and downwards, for each pixel."""
    centre = pictures[:, 5:-5, 5:-5, 0].astype(np.float64)
    right = np.diff(centre, axis=2).mean(axis=(1, 2))
    down = np.diff(centre, axis=1).mean(axis=(1, 2))
    return right, down


def changed(layers: list[keras.layers.Layer], pictures: np.ndarray) -> np.ndarray:
    reset_augmentation(layers, seed=1)
    for layer in layers:
        pictures = layer(pictures, training=True)
    return np.asarray(pictures)


def check_uniform(values: np.ndarray, low: float, high: float) -> None:
    """Check ends, mean and quartiles of COUNT draws; their standard errors are below 0.8 % of the width."""
    width = high - low
    assert low - 0.01 * width <= values.min() < low + 0.01 * width
    assert high - 0.01 * width < values.max() <= high + 0.01 * width
    expected = low + width * np.array([0.25, 0.5, 0.75])
    np.testing.assert_allclose(np.quantile(values, (0.25, 0.5, 0.75)), expected, atol=0.04 * width)
    assert values.mean() == pytest.approx((low + high) / 2, abs=0.025 * width)


@pytest.mark.parametrize("name", ["flip", "strong"])
def test_half_of_the_pictures_are_flipped(name: str, ramps: np.ndarray) -> None:
    right, down = slopes(changed(augmentation_layers(name)[:1], ramps))
    assert (right > 0).mean() == pytest.approx(0.5, abs=0.03)
    np.testing.assert_allclose(np.abs(right), SLOPE, rtol=1e-5)
    np.testing.assert_allclose(down, 0, atol=1e-4)


def test_rotations_are_of_up_to_15_degrees_both_ways(ramps: np.ndarray) -> None:
    right, down = slopes(changed(augmentation_layers("strong")[1:2], ramps))
    check_uniform(np.degrees(np.arctan2(down, right)), -15, 15)


def test_zooms_are_of_up_to_15_percent_both_ways(ramps: np.ndarray) -> None:
    right, down = slopes(changed(augmentation_layers("strong")[2:3], ramps))
    check_uniform(right / SLOPE, 0.85, 1.15)
    np.testing.assert_allclose(down, 0, atol=1e-3)


def test_contrast_is_lowered_as_often_as_it_is_raised(ramps: np.ndarray) -> None:
    pictures = changed(augmentation_layers("strong")[3:], ramps)
    check_uniform(slopes(pictures)[0] / SLOPE, 0.8, 1.2)
    np.testing.assert_allclose(pictures.mean(axis=(1, 2, 3)), MIDDLE, atol=1e-3)


def test_strong_is_these_four_and_none_is_nothing() -> None:
    names = [type(layer).__name__ for layer in augmentation_layers("strong")]
    assert names == ["RandomFlip", "RandomRotation", "RandomZoom", "RandomContrast"]
    assert augmentation_layers("none") == []
