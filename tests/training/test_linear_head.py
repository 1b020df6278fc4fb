"""The head of a probe: the optimum, the choice of its regularisation, and a trial with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import own_network
import pytest
from sklearn.linear_model import LogisticRegression

from cnnstudy import architectures
from cnnstudy.architectures import HEAD, build_network
from cnnstudy.names import Metric
from cnnstudy.records import EpochRecord, TrialResult, TrialSpec
from cnnstudy.training import features, linear_head, speed, trial, weights
from cnnstudy.training.compiled import CompiledNetworks
from cnnstudy.training.linear_head import STRENGTHS, fit_head

from .tries import shared_networks

MakeSpec = Callable[..., TrialSpec]


def draw(count: int, classes: int, size: int, distance: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, size] around a random centre for each class, on scales that differ, and labels [n]."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(size=(classes, size)) * distance
    scales = np.random.default_rng(98).uniform(0.01, 100, size)
    return (random.normal(size=(count, size)) + centres[labels]) * scales + 7.0, labels


def accuracy(head: linear_head.LinearHead, found: np.ndarray, labels: np.ndarray) -> float:
    return float(((found @ head.kernel + head.bias).argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_it_is_the_optimum_of_its_penalty(classes: int) -> None:
    """scikit-learn's own probabilities, on features that are standardised as it is usual."""
    found, labels = draw(120, classes, 6, 0.5)
    head = fit_head(found, labels, classes, seed=0)
    standardised = (found - found.mean(axis=0)) / found.std(axis=0)
    model = LogisticRegression(C=head.strength, max_iter=5000, tol=1e-8).fit(standardised, labels)
    logits = found @ head.kernel + head.bias
    ours = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, model.predict_proba(standardised), atol=2e-3)
    assert head.kernel.dtype == head.bias.dtype == np.float32


def test_noise_is_regularised_and_signal_is_not() -> None:
    noise, labels = draw(60, 3, 40, 0.0)
    signal, _ = draw(300, 3, 4, 3.0)
    assert fit_head(noise, labels, 3, seed=0).strength <= 1e-2
    assert fit_head(signal, np.arange(300) % 3, 3, seed=0).strength >= 0.1


def test_the_choice_is_about_as_good_as_any_on_new_images() -> None:
    found, labels = draw(100, 4, 60, 0.35)
    fresh, fresh_labels = draw(4000, 4, 60, 0.35, seed=1)
    chosen = fit_head(found, labels, 4, seed=0)
    standardised = (found - found.mean(axis=0)) / found.std(axis=0)
    scaled = (fresh - found.mean(axis=0)) / found.std(axis=0)
    solutions = [linear_head._fit(standardised, labels, 4, strength, None) for strength in STRENGTHS]
    losses = [linear_head._losses(scaled @ kernel + bias, fresh_labels).mean() for kernel, bias in solutions]
    chosen_loss = linear_head._losses(fresh @ chosen.kernel + chosen.bias, fresh_labels).mean()
    assert chosen_loss < 1.1 * min(losses)
    assert sorted(losses)[3] > 1.1 * min(losses)  # so that the choice matters


def test_images_of_a_group_are_never_in_two_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty copies of each picture with random labels: only a split through the groups would find a pattern."""
    pictures = np.random.default_rng(0).normal(size=(12, 30))
    found, groups = np.repeat(pictures, 20, axis=0), np.repeat(np.arange(12), 20)
    labels = np.repeat(np.arange(12) % 2, 20)
    together = fit_head(found, labels, 2, seed=0, groups=groups)
    apart = fit_head(found, labels, 2, seed=0)
    assert together.strength <= 1e-2 < 1e2 <= apart.strength


def test_classes_count_as_they_are_weighed() -> None:
    found, _ = draw(110, 2, 3, 0.0)
    labels = np.array([0] * 100 + [1] * 10)
    plain = fit_head(found, labels, 2, seed=0)
    balanced = fit_head(found, labels, 2, seed=0, weights=np.array([0.55, 5.5]))
    assert ((found @ plain.kernel + plain.bias).argmax(axis=1) == 0).all()
    assert 0.2 < ((found @ balanced.kernel + balanced.bias).argmax(axis=1) == 0).mean() < 0.8


def test_few_images_take_the_default() -> None:
    found, labels = draw(3, 3, 4, 1.0)
    assert fit_head(found, labels, 3, seed=0).strength == linear_head.DEFAULT
    assert fit_head(found, labels, 3, seed=0, groups=np.arange(3)).strength == linear_head.DEFAULT


def test_a_constant_feature_and_an_absent_class_do_no_harm() -> None:
    found, labels = draw(40, 2, 3, 2.0)
    found = np.column_stack([found, np.full(40, 5.0)])
    head = fit_head(found, labels, 3, seed=0)
    assert np.isfinite(head.kernel).all()
    assert accuracy(head, found, labels) > 0.9
    assert ((found @ head.kernel + head.bias).argmax(axis=1) != 2).all()


# ---- a trial


@pytest.fixture
def source_of(tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        found = architectures.find(name)
        network = build_network(found, found.minimum_size, 5, 0.5)
        weights.initialise(network, 99)
        weights.save_backbone(network, tmp_path / "source.npz")
        return tmp_path / "source.npz"

    return write


def run(spec: TrialSpec, folder: Path) -> tuple[TrialResult, list[EpochRecord]]:
    records: list[EpochRecord] = []
    return trial.run_trial(
        spec, folder, lambda record: not (record.epoch and records.append(record)), shared_networks()
    ), records


@pytest.mark.parametrize("network", ["alexnet", "vgg16", "googlenet", "resnet18", "own"])
def test_a_trial_like_any_other(
    network: str, make_spec: MakeSpec, source_of: Callable[[str], Path], tmp_path: Path
) -> None:
    name = architectures.find(own_network.WRITTEN).name if network == "own" else network
    spec = make_spec(name, source_of(name), transfer="probe", epochs=1)
    result, (record,) = run(spec, tmp_path / "trial")
    assert result.state == "finished"
    assert result.summary[Metric.TRAIN_ACCURACY] > 0.5  # chance is 0.2
    assert result.features == features.CACHED
    assert record.metrics[Metric.REGULARISATION] in [1 / strength for strength in STRENGTHS]
    assert Metric.LEARNING_RATE not in record.metrics
    model = keras.models.load_model(Path(result.files["model"]) / "data" / "model.keras", safe_mode=True)
    head = [layer for layer in model.layers if layer.weights and layer.name.startswith(HEAD)]
    assert [layer.name for layer in head] == ["head_logits"]
    assert result.trainable_parameters == sum(layer.count_params() for layer in head)
    images = trial.load_images(spec).validation
    right = model.predict(np.asarray(images.pixels[: len(images)]), verbose=0).argmax(axis=1) == images.labels
    assert right.mean() == pytest.approx(result.summary[Metric.VAL_ACCURACY])


def test_the_head_is_that_of_the_pooled_features(
    make_spec: MakeSpec, source_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """What scikit-learn fits to the outputs of the backbone, pooled by hand; without the cache it is the same."""
    spec = make_spec("alexnet", source_of("alexnet"), transfer="probe", epochs=1)
    result, _ = run(spec, tmp_path / "a")
    network = shared_networks().start(spec).network
    weights.load_backbone(network, tmp_path / "source.npz")
    maps = keras.Model(network.logits.inputs[0], network.logits.get_layer("head_pool").input)
    images = trial.load_images(spec).train
    pooled = np.asarray(maps(np.asarray(images.pixels[: len(images)]))).mean(axis=(1, 2))
    expected = fit_head(pooled, images.labels, 5, spec.seed, images.groups)
    model = keras.models.load_model(Path(result.files["model"]) / "data" / "model.keras", safe_mode=True)
    kernel, bias = model.get_layer("head_logits").get_weights()
    np.testing.assert_allclose(kernel, expected.kernel, atol=0.02 * np.abs(kernel).max())
    np.testing.assert_allclose(bias, expected.bias, atol=0.02 * np.abs(bias).max())
    whole, _ = run(make_spec("alexnet", tmp_path / "source.npz", transfer="probe", features=False), tmp_path / "b")
    assert whole.features == features.FULL_FORWARD
    assert whole.frozen_digest


def test_other_trials_are_as_if_no_probe_had_run(
    make_spec: MakeSpec, source_of: Callable[[str], Path], tmp_path: Path
) -> None:
    source, networks = source_of("alexnet"), CompiledNetworks()
    frozen = make_spec("alexnet", source, transfer="frozen", share_epochs=True)
    probe = make_spec("alexnet", source, transfer="probe", epochs=1, share_epochs=True)

    def run_with(spec: TrialSpec, folder: str) -> TrialResult:
        return trial.run_trial(spec, tmp_path / folder, lambda record: True, networks)

    first, fitted = run_with(probe, "a"), run_with(frozen, "b")
    assert run_with(probe, "c").summary == first.summary
    assert fitted.shared_epochs == 0
    alone = trial.run_trial(frozen, tmp_path / "d", lambda record: True, CompiledNetworks())
    assert alone.summary == fitted.summary


def test_its_speed_is_measured(make_spec: MakeSpec, source_of: Callable[[str], Path]) -> None:
    spec = make_spec("alexnet", source_of("alexnet"), transfer="probe", epochs=1)
    measured = speed.measure_speed(spec, [16, 32], shared_networks())
    assert [len(by_size) for by_size in measured.seconds_per_update] == [2]
    assert measured.features_bytes > 0
