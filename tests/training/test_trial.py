"""Real trials, start to end."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnnstudy.architectures import AUXILIARY, HEAD
from cnnstudy.errors import DataError
from cnnstudy.records import EpochRecord, Optimizer, TrialResult, TrialSpec
from cnnstudy.training import loop, trial, weights
from cnnstudy.training.images import load_for_training
from cnnstudy.training.loop import DivergedError
from cnnstudy.training.metrics import clean_metrics

MakeSpec = Callable[..., TrialSpec]


def run(spec: TrialSpec, folder: Path) -> tuple[TrialResult, list[EpochRecord]]:
    records: list[EpochRecord] = []
    result = trial.run_trial(spec, folder, lambda record: not records.append(record))
    return result, records


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source weights of AlexNet: fresh ones of another seed, which is all that these tests need."""
    from cnnstudy.architectures import build_network, find

    network = build_network(find("alexnet"), 64, 5, 0.5)
    weights.initialise(network, 99)
    path = tmp_path_factory.mktemp("source") / "backbone.npz"
    weights.save_backbone(network, path)
    return path


def changed_layers(spec: TrialSpec, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """How far each layer with weights moved in the trial, by name."""
    built = {}
    original = trial.build

    def remember(spec: TrialSpec):  # type: ignore[no-untyped-def]
        network = original(spec)
        built["network"] = network
        built["before"] = {layer.name: layer.get_weights() for layer in network.training.layers if layer.weights}
        return network

    monkeypatch.setattr(trial, "build", remember)
    run(spec, folder)
    layers = {layer.name: layer.get_weights() for layer in built["network"].training.layers if layer.weights}
    return {
        name: max(float(np.abs(new - old).max()) for new, old in zip(layers[name], before, strict=True))
        for name, before in built["before"].items()
    }


@pytest.mark.parametrize(
    ("mode", "trained"),
    [
        ("scratch", {"conv1", "conv2", "conv3", "conv4", "conv5"}),
        ("frozen", set()),
        ("last-block", {"conv3", "conv4", "conv5"}),
        ("fine-tune", {"conv1", "conv2", "conv3", "conv4", "conv5"}),
        ("two-phase", {"conv1", "conv2", "conv3", "conv4", "conv5"}),
    ],
)
def test_each_mode_trains_its_layers_and_no_other(
    mode: str, trained: set[str], make_spec: MakeSpec, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(weights=source, transfer=mode, batch_size=16)
    moved = changed_layers(spec, tmp_path, monkeypatch)
    assert {name for name, distance in moved.items() if distance > 0 and not name.startswith(HEAD)} == trained
    assert all(distance > 0 for name, distance in moved.items() if name.startswith(HEAD))


def test_two_phase_trains_the_head_first(make_spec: MakeSpec, source: Path, tmp_path: Path) -> None:
    _, records = run(make_spec(weights=source, transfer="two-phase", epochs=3, head_epochs=1), tmp_path / "two")
    _, head_only = run(make_spec(weights=source, transfer="frozen", epochs=1), tmp_path / "frozen")
    assert records[0].metrics["train/loss"] == head_only[0].metrics["train/loss"]
    assert len(records) == 3


def test_the_multiplier_slows_the_backbone(
    make_spec: MakeSpec, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(weights=source, transfer="fine-tune", backbone_learning_rate_multiplier=0.001, epochs=1)
    slow = changed_layers(spec, tmp_path, monkeypatch)
    # Adam's first steps are as long as the learning rate
    assert slow["conv5"] < 0.01 * slow["head_dense1"]


def test_counts_and_digest_of_what_is_frozen(make_spec: MakeSpec, source: Path, tmp_path: Path) -> None:
    result, _ = run(make_spec(weights=source, transfer="frozen", epochs=1), tmp_path)
    assert (result.trainable_parameters, result.frozen_parameters) == (4_470_789, 945_856)
    assert result.frozen_digest
    scratch, _ = run(make_spec(epochs=1), tmp_path / "scratch")
    assert (scratch.frozen_parameters, scratch.frozen_digest) == (0, None)


def test_scratch_does_not_look_at_source_weights(make_spec: MakeSpec, source: Path, tmp_path: Path) -> None:
    with_file, _ = run(make_spec(weights=source, epochs=1), tmp_path / "a")
    without, _ = run(make_spec(epochs=1), tmp_path / "b")
    assert with_file.summary == without.summary


def test_the_saved_model_has_the_summarys_numbers(make_spec: MakeSpec, tmp_path: Path) -> None:
    import keras

    spec = make_spec(epochs=4, batch_size=8)
    result, records = run(spec, tmp_path)
    best = next(record for record in records if record.epoch == result.best_epoch)
    assert result.summary["val/accuracy"] == best.metrics["val/accuracy"]
    assert result.summary["val/loss"] == pytest.approx(best.metrics["val/loss"], abs=1e-6)
    assert best.metrics["val/accuracy"] == max(record.metrics["val/accuracy"] for record in records)
    model = keras.saving.load_model(Path(result.files["model"]) / "data" / "model.keras", safe_mode=True)
    validation = load_for_training(spec.images, spec.split, 1.0).validation
    probabilities = model.predict(validation.pixels, verbose=0)
    assert clean_metrics(np.log(probabilities), validation.labels)["loss"] == pytest.approx(
        result.summary["val/loss"], abs=1e-4
    )
    assert sum(map(sum, result.confusion)) == len(validation)


@pytest.mark.parametrize("batch_size", [1, 7, 16, 50, 64])
def test_every_training_image_is_seen_once_an_epoch(batch_size: int, make_spec: MakeSpec, tmp_path: Path) -> None:
    _, records = run(make_spec(epochs=2, batch_size=batch_size), tmp_path)
    assert [record.metrics["optimizer/images_seen"] for record in records] == [50, 100]
    assert records[-1].metrics["optimizer/updates"] == 2 * math.ceil(50 / batch_size)


def test_clean_metrics_have_no_dropout_in_them(make_spec: MakeSpec) -> None:
    spec = make_spec(dropout=0.9, learning_rate=1e-8)
    network = trial.build(spec)
    images = load_for_training(spec.images, spec.split, 1.0)
    trainer = loop.Trainer(network, images, spec)
    first = trainer.measure(images.probe)
    assert trainer.measure(images.probe) == first
    expected = network.logits(images.probe.pixels[:], training=False)
    assert first["train/loss"] == pytest.approx(clean_metrics(np.asarray(expected), images.probe.labels)["loss"], 1e-5)


def test_a_trial_depends_on_its_seed_and_on_nothing_before_it(make_spec: MakeSpec, tmp_path: Path) -> None:
    first, _ = run(make_spec(augmentation="strong"), tmp_path / "1")
    other, _ = run(make_spec(seed=1, batch_size=8, augmentation="flip"), tmp_path / "2")
    again, _ = run(make_spec(augmentation="strong"), tmp_path / "3")
    assert again.summary == first.summary
    assert other.summary != first.summary


def test_no_patience_left(make_spec: MakeSpec, tmp_path: Path) -> None:
    # a learning rate that kills the network: validation loss then wavers around ln 5
    result, records = run(make_spec(epochs=20, patience=2, learning_rate=0.03, monitor="val/loss"), tmp_path)
    assert result.epochs == len(records) < 20
    assert result.epochs - result.best_epoch == 2


def test_pruned_when_told(make_spec: MakeSpec, tmp_path: Path) -> None:
    result = trial.run_trial(make_spec(epochs=5), tmp_path, lambda record: record.epoch < 2)
    assert (result.state, result.epochs, result.files) == ("pruned", 2, {})


def test_a_loss_that_is_no_number_ends_the_trial(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(learning_rate=10.0, optimizer=Optimizer("sgd"), epochs=8)
    with pytest.raises(DivergedError, match="not finite after epoch"):
        run(spec, tmp_path)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
def test_every_optimiser_trains(name: str, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(optimizer=Optimizer(name, weight_decay=0.001), epochs=1, learning_rate=1e-4)
    result, _ = run(spec, tmp_path)
    assert result.state == "finished"


def test_images_that_are_gone(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    gone = TrialSpec.from_json(spec.to_json() | {"images": spec.images.to_json() | {"folder": str(tmp_path / "no")}})
    with pytest.raises(DataError, match="run the study again"):
        run(gone, tmp_path)


def test_auxiliary_heads_count_in_training_and_not_in_the_gap(make_spec: MakeSpec, tmp_path: Path) -> None:
    result, records = run(make_spec("googlenet", epochs=1), tmp_path)
    # two untrained heads with five classes each: about 2 ln 5
    assert records[0].metrics["running/auxiliary_loss"] == pytest.approx(2 * math.log(5), rel=0.2)
    assert records[0].metrics["train/loss"] < 2
    assert result.trainable_parameters == 5_978_677


def test_auxiliary_heads_rest_where_they_have_nothing_to_teach(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec("googlenet", auxiliary_weight=0.0, epochs=1)
    moved = changed_layers(spec, tmp_path, monkeypatch)
    assert {distance for name, distance in moved.items() if name.startswith(AUXILIARY)} == {0.0}
    assert "auxiliary_weight" not in make_spec("googlenet", transfer="frozen").levels


def test_after_its_last_epoch_a_trial_is_finished_whatever_it_is_told(make_spec: MakeSpec, tmp_path: Path) -> None:
    result = trial.run_trial(make_spec(epochs=2), tmp_path, lambda record: record.epoch < 2)
    assert (result.state, result.epochs, list(result.files)) == ("finished", 2, ["model"])
