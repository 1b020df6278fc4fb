"""Our networks equal torchvision's, and each mistake that one makes in converting them is found."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from cnnstudy.architectures import (
    _residual,
    alexnet_torchvision,
    find,
    googlenet_torchvision,
    vgg16,
    vgg16_torchvision,
)
from cnnstudy.errors import WeightsError
from cnnstudy.training import weight_import
from cnnstudy.training import weight_verification as verification
from cnnstudy.training.weight_verification import BOUND, Comparison, compare_with_torchvision

needs_torchvision = pytest.mark.skipif(
    any(verification.find_spec(package) is None for package in verification.PACKAGES),
    reason="the extra `torch` is not installed",
)
pytestmark = pytest.mark.full_width
Patch = pytest.MonkeyPatch


def test_what_is_missing_is_told_with_the_line_that_installs_it(monkeypatch: Patch) -> None:
    monkeypatch.setattr(verification, "find_spec", lambda name: None if name == "torchvision" else object())
    with pytest.raises(WeightsError) as raised:
        compare_with_torchvision(find("resnet18"), 96)
    assert str(raised.value) == (
        "weights verify needs the packages torch and torchvision; not installed: torchvision. "
        "Install them from cnnstudy's folder: python -m pip install -c constraints.txt -e '.[torch]'"
    )


@pytest.mark.parametrize(
    ("difference", "outputs", "spread", "holds"),
    [
        (2e-5, 2e-5, 0.05, True),
        (2.1e-5, 1e-6, 0.5, False),
        (1e-6, 2.1e-5, 0.5, False),
        (1e-6, 1e-6, 0.04, False),  # images that no network tells apart show nothing
        (float("inf"), float("nan"), 0.5, False),
    ],
)
def test_what_counts_as_equal(difference: float, outputs: float, spread: float, holds: bool) -> None:
    assert Comparison("resnet18", 96, 41, "conv1_conv", difference, outputs, spread).holds is holds


def test_a_difference_is_a_share_of_the_norm() -> None:
    assert verification._difference(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx(0.1)
    assert verification._difference(np.ones((2, 3)), np.ones((3, 2))) == float("inf")
    assert verification._difference(np.array([np.nan]), np.ones(1)) == float("inf")


def test_images_are_told_apart_and_the_same_every_time() -> None:
    images = verification._draw_images(96)
    np.testing.assert_array_equal(images, verification._draw_images(96))
    assert images.shape == (8, 96, 96, 3)
    assert (images.min(), images.max()) == (0, 255)
    assert len(np.unique(images.mean(axis=(1, 2)).round(1), axis=0)) == 8


# ---- against torchvision


@needs_torchvision
@pytest.mark.parametrize("name", verification.list_networks())
def test_a_network_is_equal(name: str) -> None:
    found = compare_with_torchvision(find(name), 64)
    assert found.holds, found
    assert found.difference > 0  # the same function computed twice
    assert keras.config.floatx() == keras.config.dtype_policy().compute_dtype == "float32"


def _same(layer: type[keras.layers.Layer]) -> Callable[..., keras.layers.Layer]:
    """Return a function that makes that layer with the padding `same`."""
    return lambda *given, **named: layer(*given[:3], **named | {"padding": "same"})  # the fourth is the padding


def alexnet_padded_as_keras_does(patch: Patch) -> None:
    patch.setattr(keras.layers, "ZeroPadding2D", lambda *_, **named: keras.layers.Identity(name=named["name"]))
    patch.setattr(keras.layers, "Conv2D", _same(keras.layers.Conv2D))


def alexnet_flattened_in_our_order(patch: Patch) -> None:
    patch.setattr(weight_import, "_map_before", lambda *_: None)


def alexnet_without_an_adaptive_pool(patch: Patch) -> None:
    """The 2x2 maps of 96 pixels repeated at the wrong places: as a resize would."""
    patch.setattr(keras.layers, "AdaptiveAveragePooling2D", lambda _, name: keras.layers.Resizing(6, 6, name=name))


def resnet_with_another_epsilon(patch: Patch) -> None:
    patch.setattr(_residual, "convolve", functools.partial(_residual.convolve, epsilon=1e-3))


def resnet_padded_as_keras_does(patch: Patch) -> None:
    right = _residual.convolve

    def convolve(*given: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(keras.layers, "ZeroPadding2D", lambda *_, **named: keras.layers.Identity(name=named["name"]))
            inner.setattr(keras.layers, "Conv2D", _same(keras.layers.Conv2D))
            return right(*given)

    patch.setattr(_residual, "convolve", convolve)


def googlenet_with_another_epsilon(patch: Patch) -> None:
    patch.setattr(googlenet_torchvision, "EPSILON", 1e-5)


def googlenet_without_ceil_mode(patch: Patch) -> None:
    def pool(x: Any, name: str) -> Any:
        return keras.layers.MaxPooling2D(googlenet_torchvision.WINDOWS[name], 2, name=name)(x)

    patch.setattr(googlenet_torchvision, "_pool", pool)


def googlenet_without_the_input_transform(patch: Patch) -> None:
    deviations, means = np.array(verification.IMAGENET_DEVIATIONS), np.array(verification.IMAGENET_MEANS)
    given = (list(1 / (255 * deviations)), list(-means / deviations))
    right = keras.layers.Rescaling
    patch.setattr(keras.layers, "Rescaling", lambda *_, name: right(*given, name=name))


def googlenet_with_its_auxiliary_heads_swapped(patch: Patch) -> None:
    """As in the outputs of torchvision up to 0.20.1; fully connected layers have the same shapes in both."""
    right = googlenet_torchvision.torchvision_name
    swapped = {f"aux{one}.{part}": f"aux{3 - one}.{part}" for one in (1, 2) for part in ("fc1", "fc2")}
    other = dataclasses.replace(GOOGLENET, torchvision_name=lambda layer: swapped.get(right(layer), right(layer)))
    patch.setattr(googlenet_torchvision, "ARCHITECTURE", other)


def vgg16_with_the_pixels_of_keras(patch: Patch) -> None:
    def normalise(inputs: Any) -> Any:
        x = keras.layers.Rescaling(1.0, [-mean for mean in vgg16.IMAGENET_MEANS], name="preprocess_center")(inputs)
        return keras.ops.flip(x, axis=-1)

    patch.setattr(vgg16_torchvision, "normalise", normalise)


GOOGLENET = googlenet_torchvision.ARCHITECTURE
MISTAKES: dict[Callable[[Patch], None], str] = {
    alexnet_padded_as_keras_does: alexnet_torchvision.ARCHITECTURE.name,
    alexnet_flattened_in_our_order: alexnet_torchvision.ARCHITECTURE.name,
    alexnet_without_an_adaptive_pool: alexnet_torchvision.ARCHITECTURE.name,
    resnet_with_another_epsilon: "resnet18",
    resnet_padded_as_keras_does: "resnet18",
    googlenet_with_another_epsilon: GOOGLENET.name,
    googlenet_without_ceil_mode: GOOGLENET.name,
    googlenet_without_the_input_transform: GOOGLENET.name,
    googlenet_with_its_auxiliary_heads_swapped: GOOGLENET.name,
    vgg16_with_the_pixels_of_keras: "vgg16_torchvision",
}


@needs_torchvision
@pytest.mark.parametrize("plant", MISTAKES, ids=lambda plant: plant.__name__)
def test_a_mistake_is_found(plant: Callable[[Patch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        found = compare_with_torchvision(find(MISTAKES[plant]), 96)
    assert not found.holds, found
    assert max(found.difference, found.outputs) > 100 * BOUND, found
