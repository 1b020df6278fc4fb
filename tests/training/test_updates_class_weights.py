"""Class weights: the gradient is Keras' own, metrics count every image once, and the default changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from cnnstudy.data.images import load_for_training
from cnnstudy.records import Optimizer, TrialSpec
from cnnstudy.training import transfer, trial
from cnnstudy.training.compiled import CompiledNetwork, CompiledNetworks
from cnnstudy.training.trainer import Trainer
from cnnstudy.training.updates import UpdateKind, balanced_class_weights

from .conftest import SPLIT
from .tries import shared_networks

MakeSpec = Callable[..., TrialSpec]
RATE = 0.05
WEIGHTS = np.array([0.2, 3.0, 1.0, 0.5, 2.0], np.float32)


def logits_kernel(compiled: CompiledNetwork) -> np.ndarray:
    return compiled.network.logits.layers[-1].kernel.numpy()


def batch(spec: TrialSpec) -> tuple[np.ndarray, np.ndarray]:
    images = load_for_training(spec.images, SPLIT, 1.0, None, 0.0, 0).train
    return np.array(images.pixels[:8]), np.array(images.labels[:8])


def keras_gradient(compiled: CompiledNetwork, pixels: np.ndarray, labels: np.ndarray, smoothing: float) -> np.ndarray:
    """Return the gradient of the last kernel under Keras' loss with sample weights, auxiliary heads with theirs."""
    network, weight = compiled.network, float(compiled.auxiliary_weight.numpy())
    one_hot, of_image = tf.one_hot(labels, 5), WEIGHTS[labels]
    with tf.GradientTape() as tape:
        logits, *auxiliary = tf.nest.flatten(network.training(pixels.astype(np.float32), training=True))
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
        total = loss(one_hot, logits, of_image) + weight * sum(loss(one_hot, one, of_image) for one in auxiliary)
    return tape.gradient(total, network.logits.layers[-1].kernel.value).numpy()


@pytest.mark.parametrize(
    ("architecture", "smoothing", "micro_batch"),
    [("alexnet", 0.0, None), ("alexnet", 0.3, None), ("alexnet", 0.0, 3), ("googlenet", 0.1, None)],
)
def test_the_gradient_is_that_of_keras(
    architecture: str, smoothing: float, micro_batch: int | None, make_spec: MakeSpec
) -> None:
    rates = {"dropout": 0.0, **({"auxiliary_dropout": 0.0} if architecture == "googlenet" else {})}
    compiled = shared_networks().start(make_spec(architecture, micro_batch=micro_batch, **rates))
    pixels, labels = batch(make_spec(architecture))
    expected = keras_gradient(compiled, pixels, labels, smoothing)
    kind = UpdateKind(
        ("",),
        architecture == "googlenet",
        Optimizer("sgd", momentum=0.0),
        "none",
        smooths_labels=smoothing > 0,
        weighs_classes=True,
    )
    update = compiled.update(kind)
    update.start(RATE, RATE, smoothing, WEIGHTS)
    before = logits_kernel(compiled)
    update(pixels, labels, [8])
    found = (before - logits_kernel(compiled)) / RATE
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_the_measured_loss_is_without_weights(make_spec: MakeSpec) -> None:
    spec, measured = make_spec(dropout=0.0), []
    for weighs in (False, True):
        update = (
            shared_networks()
            .start(spec)
            .update(UpdateKind(("",), False, Optimizer("sgd", momentum=0.0), "none", weighs_classes=weighs))
        )
        update.start(RATE, RATE, class_weights=WEIGHTS if weighs else None)
        measured.append(update(*batch(spec), [8]))
    np.testing.assert_array_equal(*measured)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.repeat([0, 1, 2, 3, 4], [146, 39, 60, 80, 69])
    expected = compute_class_weight("balanced", classes=np.arange(5), y=labels)
    assert balanced_class_weights(labels, 5) == pytest.approx(expected)
    assert balanced_class_weights(labels, 6) == pytest.approx([*expected, 0.0])


@pytest.mark.parametrize("mode", ["scratch", "frozen"])
def test_they_are_of_the_images_that_the_trial_trains_on(mode: str, make_spec: MakeSpec, source: Path) -> None:
    spec = make_spec(weights=source, transfer=mode, class_weights="balanced", data_fraction=0.5)
    images = trial.load_images(spec)
    labels = images.train.labels.copy()
    labels[:4] = 4
    object.__setattr__(images.train, "labels", labels)
    trainer = Trainer(shared_networks().start(spec), images, spec)
    trainer.start_phase(transfer.plan_phases(spec, {})[0])
    assert len(labels) == 25
    assert trainer._update._class_weights.numpy() == pytest.approx(25 / (5 * np.bincount(labels)))


@pytest.mark.parametrize("mode", ["scratch", "frozen"])
def test_none_is_the_default_and_equal_classes_weigh_the_same(
    mode: str, make_spec: MakeSpec, source: Path, tmp_path: Path
) -> None:
    networks = CompiledNetworks()
    summaries = {}
    for level in (None, "none", "balanced"):
        given = {} if level is None else {"class_weights": level}
        spec = make_spec(weights=source, transfer=mode, dropout=0.0, keep_model=False, **given)
        summaries[level] = trial.run_trial(spec, tmp_path / str(level), lambda record: True, networks).summary
    assert summaries["none"] == summaries[None]
    assert summaries["balanced"]["val/loss"] == pytest.approx(summaries[None]["val/loss"], rel=1e-4)


def test_only_studies_that_name_it_have_a_level(make_spec: MakeSpec) -> None:
    assert "class_weights" not in make_spec().levels, "so that recorded studies and their addresses stay as they are"
    assert make_spec(class_weights="balanced").levels["class_weights"] == "balanced"
