"""Label smoothing: the gradient is Keras' own, metrics use the true labels, and a rate of 0 changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnstudy.data.images import load_for_training
from cnnstudy.records import Optimizer, TrialSpec
from cnnstudy.training import trial
from cnnstudy.training.compiled import CompiledNetwork, CompiledNetworks
from cnnstudy.training.updates import UpdateKind

from .conftest import SPLIT
from .tries import shared_networks

MakeSpec = Callable[..., TrialSpec]
RATE = 0.05


def logits_kernel(compiled: CompiledNetwork) -> np.ndarray:
    return compiled.network.logits.layers[-1].kernel.numpy()


def keras_gradient(compiled: CompiledNetwork, images: np.ndarray, labels: np.ndarray, smoothing: float) -> np.ndarray:
    """Return the gradient of the last kernel under Keras' smoothed loss, auxiliary heads with their weight."""
    network, weight = compiled.network, float(compiled.auxiliary_weight.numpy())
    one_hot = tf.one_hot(labels, 5)
    with tf.GradientTape() as tape:
        logits, *auxiliary = tf.nest.flatten(network.training(images.astype(np.float32), training=True))
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
        total = loss(one_hot, logits) + weight * sum(loss(one_hot, one) for one in auxiliary)
    return tape.gradient(total, network.logits.layers[-1].kernel.value).numpy()


@pytest.mark.parametrize("architecture", ["alexnet", "googlenet"])
@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_the_gradient_is_that_of_keras(architecture: str, smoothing: float, make_spec: MakeSpec) -> None:
    spec = make_spec(architecture, dropout=0.0, **({"auxiliary_dropout": 0.0} if architecture == "googlenet" else {}))
    compiled = CompiledNetworks().start(spec)
    images = load_for_training(spec.images, SPLIT, 1.0, None, 0.0, 0).train
    pixels, labels = np.array(images.pixels[:8]), np.array(images.labels[:8])
    expected = keras_gradient(compiled, pixels, labels, smoothing)
    plain = keras_gradient(compiled, pixels, labels, 0.0)
    kind = UpdateKind(("",), architecture == "googlenet", Optimizer("sgd", momentum=0.0), "none", smooths_labels=True)
    update = compiled.update(kind)
    update.start(RATE, RATE, smoothing)
    before = logits_kernel(compiled)
    update(pixels, labels, [8])
    found = (before - logits_kernel(compiled)) / RATE
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    assert np.abs(found - plain).max() > 1e-2 * np.abs(expected).max(), "else the test could not tell them apart"


def test_the_measured_loss_is_that_of_the_true_labels(make_spec: MakeSpec) -> None:
    spec = make_spec(dropout=0.0)
    networks = shared_networks()
    images = load_for_training(spec.images, SPLIT, 1.0, None, 0.0, 0).train
    measured = []
    for smooths in (False, True):
        update = networks.start(spec).update(
            UpdateKind(("",), False, Optimizer("sgd", momentum=0.0), "none", smooths_labels=smooths)
        )
        update.start(RATE, RATE, 0.3)
        measured.append(update(np.array(images.pixels[:8]), np.array(images.labels[:8]), [8]))
    np.testing.assert_array_equal(*measured)


def test_zero_is_the_default_and_levels_share_what_is_compiled(make_spec: MakeSpec, tmp_path: Path) -> None:
    networks = CompiledNetworks()
    given = {"epochs": 2, "dropout": 0.0, "keep_model": False}
    results, counts = {}, []
    for level in (None, 0.0, 0.1, 0.4):
        spec = make_spec(**given, **({} if level is None else {"label_smoothing": level}))
        results[level] = trial.run_trial(spec, tmp_path / str(level), lambda record: True, networks).summary
        counts.append(networks.start(spec).updates)
    assert results[0.0] == results[None]
    assert len({results[level]["train/loss"] for level in (0.0, 0.1, 0.4)}) == 3
    assert counts == [1, 1, 2, 2], "each level sets a variable; none compiles anew"


def test_only_studies_that_name_it_have_a_level(make_spec: MakeSpec) -> None:
    assert "label_smoothing" not in make_spec().levels, "so that recorded studies and their addresses stay as they are"
    assert make_spec(label_smoothing=0.0).levels["label_smoothing"] == 0.0
