"""The head of a probe: the optimum, the choice of its regularisation, and a trial with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import own_network
import pytest
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from cnnstudy import architectures
from cnnstudy.architectures import HEAD, build_network
from cnnstudy.errors import ConfigError
from cnnstudy.names import Metric
from cnnstudy.records import EpochRecord, LinearInput, TrialResult, TrialSpec
from cnnstudy.training import features, linear_head, speed, trial, weights
from cnnstudy.training.compiled import CompiledNetworks
from cnnstudy.training.linear_head import C_VALUES, fit_head

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
    model = LogisticRegression(C=head.c, max_iter=5000, tol=1e-8).fit(standardised, labels)
    logits = found @ head.kernel + head.bias
    ours = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, model.predict_proba(standardised), atol=2e-3)
    assert head.kernel.dtype == head.bias.dtype == np.float32


def test_noise_is_regularised_and_signal_is_not() -> None:
    noise, labels = draw(60, 3, 40, 0.0)
    signal, _ = draw(300, 3, 4, 3.0)
    assert fit_head(noise, labels, 3, seed=0).c <= 1e-2
    assert fit_head(signal, np.arange(300) % 3, 3, seed=0).c >= 0.1


def test_the_choice_is_about_as_good_as_any_on_new_images() -> None:
    found, labels = draw(100, 4, 60, 0.35)
    fresh, fresh_labels = draw(4000, 4, 60, 0.35, seed=1)
    chosen = fit_head(found, labels, 4, seed=0)
    standardised = (found - found.mean(axis=0)) / found.std(axis=0)
    scaled = (fresh - found.mean(axis=0)) / found.std(axis=0)
    solutions = [linear_head._fit(standardised, labels, 4, c, None) for c in C_VALUES]
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
    assert together.c <= 1e-2 < 1e2 <= apart.c


def test_classes_count_as_they_are_weighed() -> None:
    found, _ = draw(110, 2, 3, 0.0)
    labels = np.array([0] * 100 + [1] * 10)
    plain = fit_head(found, labels, 2, seed=0)
    balanced = fit_head(found, labels, 2, seed=0, weights=np.array([0.55, 5.5]))
    assert ((found @ plain.kernel + plain.bias).argmax(axis=1) == 0).all()
    assert 0.2 < ((found @ balanced.kernel + balanced.bias).argmax(axis=1) == 0).mean() < 0.8


def test_few_images_take_the_default() -> None:
    found, labels = draw(3, 3, 4, 1.0)
    assert fit_head(found, labels, 3, seed=0).c == linear_head.DEFAULT_C
    assert fit_head(found, labels, 3, seed=0, groups=np.arange(3)).c == linear_head.DEFAULT_C


def test_a_constant_feature_and_an_absent_class_do_no_harm() -> None:
    found, labels = draw(40, 2, 3, 2.0)
    rounded = np.full(40, 0.1) + 1e-9 * np.arange(40)
    found = np.column_stack([found, np.full(40, 5.0), np.zeros(40), np.full(40, 0.1), rounded])
    head = fit_head(found, labels, 3, seed=0)
    assert np.isfinite(head.kernel).all()
    assert np.abs(head.kernel[3:]).max() == 0
    assert accuracy(head, found, labels) > 0.9
    assert ((found @ head.kernel + head.bias).argmax(axis=1) != 2).all()


def standardise(found: np.ndarray, by: np.ndarray) -> np.ndarray:
    return (found - by.mean(axis=0)) / by.std(axis=0)


@pytest.mark.parametrize("classes", [2, 4])
def test_an_svm_classifies_as_scikit_learns(classes: int) -> None:
    found, labels = draw(80, classes, 10, 0.5)
    head = fit_head(found, labels, classes, seed=0, classifier="svm")
    model = LinearSVC(C=head.c, dual=False).fit(standardise(found, found), labels)
    fresh, _ = draw(2000, classes, 10, 0.5, seed=1)
    expected = model.predict(standardise(fresh, found))
    assert ((fresh @ head.kernel + head.bias).argmax(axis=1) == expected).mean() > 0.999
    scores = model.decision_function(standardise(fresh, found))
    ours = fresh @ head.kernel + head.bias
    scores = np.column_stack([np.zeros(2000), scores]) if classes == 2 else scores
    ratio = (ours - ours.mean(axis=1, keepdims=True)) / (scores - scores.mean(axis=1, keepdims=True))
    assert np.quantile(ratio, 0.1) == pytest.approx(np.quantile(ratio, 0.9), rel=1e-2), "one scale for all scores"


def test_an_svms_loss_says_how_sure_it_is() -> None:
    """The scores themselves do not."""
    for distance in (0.15, 3.0):
        found, labels = draw(150, 4, 60, distance)
        fresh, fresh_labels = draw(4000, 4, 60, distance, seed=1)
        head = fit_head(found, labels, 4, seed=0, classifier="svm")
        logistic = fit_head(found, labels, 4, seed=0)
        model = LinearSVC(C=head.c, dual=False).fit(standardise(found, found), labels)
        raw = linear_head._losses(model.decision_function(standardise(fresh, found)), fresh_labels).mean()
        ours = linear_head._losses(fresh @ head.kernel + head.bias, fresh_labels).mean()
        assert ours < 0.9 * raw
        assert ours < 1.15 * linear_head._losses(fresh @ logistic.kernel + logistic.bias, fresh_labels).mean() + 0.02


def test_few_images_that_are_all_right_make_no_svm_certain() -> None:
    found, labels = draw(20, 2, 3, 30.0)
    head = fit_head(found, labels, 2, seed=0, classifier="svm")
    losses = linear_head._losses(found @ head.kernel + head.bias, labels)
    assert accuracy(head, found, labels) == 1.0
    assert 0.03 < losses.mean() < 0.1, "as of 22 images of which one is wrong"


@pytest.mark.parametrize("classifier", ["logistic", "svm"])
def test_more_features_than_images_cost_no_accuracy(classifier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The solution is sought among as many directions as there are images, and it is the same."""
    found, labels = draw(40, 3, 300, 0.3)
    found[:, 7] = 5.0
    found[1] = found[0]  # so that there are fewer directions than images
    short = fit_head(found, labels, 3, seed=0, classifier=classifier)
    monkeypatch.setattr(linear_head, "_find_directions", lambda features: None)
    long = fit_head(found, labels, 3, seed=0, classifier=classifier)
    assert short.c == long.c
    fresh, _ = draw(500, 3, 300, 0.3, seed=1)
    expected, ours = (linear_head_logits(one, fresh) for one in (long, short))
    np.testing.assert_allclose(ours, expected, atol=0.02 * np.abs(expected).max())


def linear_head_logits(head: linear_head.LinearHead, found: np.ndarray) -> np.ndarray:
    logits = np.asarray(found @ head.kernel + head.bias)
    return logits - logits.mean(axis=1, keepdims=True)


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
    assert record.metrics[Metric.REGULARISATION] in [1 / c for c in C_VALUES]
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


@pytest.mark.parametrize(
    ("mode", "layer"),
    [("svm probe", "conv5_pool"), ("probe of conv4", "conv4"), ("flat svm probe of conv2", "conv2")],
)
def test_a_probe_of_any_layer(
    mode: str, layer: str, make_spec: MakeSpec, source_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its head is what is fitted to that layer's outputs by hand; the model has nothing above it."""
    spec = make_spec("alexnet", source_of("alexnet"), transfer=mode, epochs=1)
    result, (record,) = run(spec, tmp_path / "a")
    assert result.features == features.CACHED
    assert record.metrics[Metric.REGULARISATION] in [1 / c for c in C_VALUES]
    model = keras.models.load_model(Path(result.files["model"]) / "data" / "model.keras", safe_mode=True)
    assert model.layers[-4].name == layer  # below the pool, the logits and their softmax
    images = trial.load_images(spec)
    outputs = keras.Model(model.inputs[0], model.get_layer(layer).output)
    found, fresh = (
        np.asarray(outputs(np.asarray(one.pixels[: len(one)]))) for one in (images.train, images.validation)
    )
    if mode.startswith("flat"):
        found, fresh = (one.reshape(len(one), -1) for one in (found, fresh))
    else:
        found, fresh = (one.mean(axis=(1, 2)) for one in (found, fresh))
    classifier = "svm" if "svm" in mode else "logistic"
    head = fit_head(found, images.train.labels, 5, spec.seed, images.train.groups, None, classifier)
    assert head.kernel.shape == model.get_layer("head_logits").get_weights()[0].shape
    expected = fresh @ head.kernel + head.bias
    assert accuracy(head, fresh, images.validation.labels) == pytest.approx(result.summary[Metric.VAL_ACCURACY])
    losses = linear_head._losses(expected, images.validation.labels)
    assert losses.mean() == pytest.approx(result.summary[Metric.VAL_LOSS], rel=1e-2)


def test_layers_that_no_weights_tell_apart_have_features_of_their_own(
    make_spec: MakeSpec, source_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Without the layer's name both would be read from the same entry of the cache: conv5_pool has no weights."""
    source = source_of("alexnet")
    for number, mode in enumerate(("probe of conv5", "probe")):
        result, _ = run(make_spec("alexnet", source, transfer=mode, epochs=1), tmp_path / str(number))
        assert result.state == "finished", "its features are checked against the whole network"


def test_a_stage_is_its_last_layer_and_what_is_above_is_left_out() -> None:
    def layers(name: str, layer: str, flat: bool = False) -> list[str]:
        found = architectures.find(name)
        return [one.name for one in build_network(found, 75, 5, 0.0, linear=LinearInput(layer, flat)).logits.layers]

    assert layers("vgg16", "block4")[-4:] == ["block4_conv3", "block4_pool", "head_pool", "head_logits"]
    assert layers("vgg16", "block4_conv2", flat=True)[-3:] == ["block4_conv2", "head_flatten", "head_logits"]
    assert not [name for name in layers("googlenet", "inception_4a") if name.startswith(("inception_4b", "auxiliary"))]


def test_what_a_probe_can_not_take_is_named() -> None:
    vgg16 = architectures.find("vgg16")
    with pytest.raises(
        ConfigError, match=r"VGG16 .*no layer or stage 'blok4'; did you mean 'block4'\?.* Its stages are b"
    ):
        build_network(vgg16, 64, 5, 0.0, linear=LinearInput("blok4"))
    with pytest.raises(
        ConfigError, match=r"the flat outputs of block1_conv2 in VGG16 are [\d,]{7} numbers for each image, and"
    ):
        build_network(vgg16, 224, 5, 0.0, linear=LinearInput("block1_conv2", flat=True))


def test_published_weights_without_names_fit_a_part_of_the_network(tmp_path: Path) -> None:
    """Keras' files are read in the order of their layers, also of those that a probe leaves out."""
    found = architectures.find("keras:MobileNetV2")
    whole = build_network(found, 32, 5, 0.0)
    weights.initialise(whole, 99)
    layers = {layer.name: layer for layer in weights.backbone_layers(whole.logits)}
    other = {f"other_{number}": layer.get_weights() for number, layer in enumerate(layers.values())}
    named = weights.name_by_order(tmp_path, other, list(layers))
    part = build_network(found, 32, 5, 0.0, linear=LinearInput("block_3"))
    assert 0 < len(weights.backbone_layers(part.logits)) < len(layers)
    np.savez(
        tmp_path / "w.npz",
        **{f"other{n:03d}/{i}": one for n, of in enumerate(other.values()) for i, one in enumerate(of)},
    )
    weights.load_backbone(part, tmp_path / "w.npz")
    for layer in weights.backbone_layers(part.logits):
        for ours, theirs in zip(layer.get_weights(), named[layer.name], strict=True):
            np.testing.assert_array_equal(ours, theirs)


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


def test_fine_tuning_from_a_probe_begins_where_the_probe_ended(
    make_spec: MakeSpec, source_of: Callable[[str], Path], tmp_path: Path
) -> None:
    source, mode = source_of("alexnet"), "probe-then-fine-tune"
    probe, _ = run(make_spec("alexnet", source, transfer="probe", epochs=1), tmp_path / "probe")
    starts: list[EpochRecord] = []
    spec = make_spec("alexnet", source, transfer=mode, epochs=2, learning_rate=1e-3)
    result = trial.run_trial(spec, tmp_path / "a", lambda record: not starts.append(record), shared_networks())
    assert [record.epoch for record in starts] == [0, 1, 2]
    for name in (Metric.TRAIN_LOSS, Metric.VAL_LOSS, Metric.VAL_ACCURACY):
        assert starts[0].metrics[name] == pytest.approx(probe.summary[name], rel=1e-3)
    assert starts[1].metrics[Metric.REGULARISATION] in [1 / c for c in C_VALUES]
    updates = -(-len(trial.load_images(spec).train) // 32)
    assert [record.metrics[Metric.UPDATES] for record in starts[1:]] == [updates, 2 * updates]
    assert result.frozen_digest is None, "every layer trains"
    assert starts[2].metrics[Metric.TRAIN_LOSS] != starts[0].metrics[Metric.TRAIN_LOSS]
    assert result.features == f"{features.CACHED} then {features.FULL_FORWARD}"
    assert result.versions["scikit-learn"] == sklearn.__version__
    model = keras.models.load_model(Path(result.files["model"]) / "data" / "model.keras", safe_mode=True)
    assert [one.name for one in model.layers if one.weights and one.name.startswith(HEAD)] == ["head_logits"]


def test_its_speed_is_measured(make_spec: MakeSpec, source_of: Callable[[str], Path]) -> None:
    spec = make_spec("alexnet", source_of("alexnet"), transfer="probe", epochs=1)
    measured = speed.measure_speed(spec, [16, 32], shared_networks())
    assert [len(by_size) for by_size in measured.seconds_per_update] == [2]
    assert measured.features_bytes > 0
    tuned = make_spec("alexnet", Path(str(spec.weights_file)), transfer="probe-then-fine-tune", epochs=3)
    measured = speed.measure_speed(tuned, [16, 32], shared_networks())
    assert [len(by_size) for by_size in measured.seconds_per_update] == [2, 2]
