"""Real trials from start to end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnnstudy.architectures import AUXILIARY, HEAD
from cnnstudy.data.batches import Batches
from cnnstudy.data.images import Images, TrainingImages, load_for_training
from cnnstudy.errors import DataError
from cnnstudy.records import RESULT_TABLES, EpochRecord, Optimizer, Rule, TrialResult, TrialSpec
from cnnstudy.training import trainer as loop
from cnnstudy.training import transfer, trial, weights
from cnnstudy.training.compiled import CompiledNetwork, CompiledNetworks
from cnnstudy.training.metrics import clean_metrics
from cnnstudy.training.trainer import BestEpoch, DivergedError

from .tries import shared_networks

pytestmark = pytest.mark.full_width

MakeSpec = Callable[..., TrialSpec]
#: At AlexNet's own rate 50 images teach it nothing.
LEARNS = 1e-4


def run(
    spec: TrialSpec, folder: Path, networks: CompiledNetworks | None = None
) -> tuple[TrialResult, list[EpochRecord]]:
    """Run a trial, on the networks that tests share unless others are given."""
    records: list[EpochRecord] = []
    result = trial.run_trial(
        spec, folder, lambda record: not (record.epoch and records.append(record)), networks or shared_networks()
    )
    return result, records


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write source weights of AlexNet, initialised from another seed."""
    from cnnstudy.architectures import build_network, find

    network = build_network(find("alexnet"), 64, 5, 0.5)
    weights.initialise(network, 99)
    path = tmp_path_factory.mktemp("source") / "backbone.npz"
    weights.save_backbone(network, path)
    return path


def started(spec: TrialSpec) -> CompiledNetwork:
    return shared_networks().start(spec)


def changed_layers(spec: TrialSpec, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Run a trial; return by name the largest change of a weight in each layer that has any."""
    built = {}
    original = CompiledNetworks.start

    def remember(networks: CompiledNetworks, spec: TrialSpec) -> CompiledNetwork:
        compiled = original(networks, spec)
        built["network"] = network = compiled.network
        built["before"] = {layer.name: layer.get_weights() for layer in network.training.layers if layer.weights}
        return compiled

    monkeypatch.setattr(CompiledNetworks, "start", remember)
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
    probabilities = model.predict(validation.pixels[:], verbose=0)
    assert clean_metrics(np.log(probabilities), validation.labels)["loss"] == pytest.approx(
        result.summary["val/loss"], abs=1e-4
    )
    assert sum(map(sum, result.confusion)) == len(validation)
    # and the probe's, on the same weights
    probe = load_for_training(spec.images, spec.split, 1.0).probe
    assert [sum(row) for row in result.train_confusion] == np.bincount(probe.labels).tolist()
    correct = sum(row[label] for label, row in enumerate(result.train_confusion))
    assert correct / len(probe) == pytest.approx(result.summary["train/accuracy"])


@pytest.mark.parametrize("batch_size", [1, 7, 16, 50, 64])
def test_every_training_image_is_seen_once_an_epoch(batch_size: int, make_spec: MakeSpec, tmp_path: Path) -> None:
    _, records = run(make_spec(epochs=2, batch_size=batch_size), tmp_path)
    assert [record.metrics["optimizer/images_seen"] for record in records] == [50, 100]
    assert records[-1].metrics["optimizer/updates"] == 2 * math.ceil(50 / batch_size)


def test_clean_metrics_have_no_dropout_in_them(make_spec: MakeSpec) -> None:
    spec = make_spec(dropout=0.9, learning_rate=1e-8)
    compiled = started(spec)
    images = load_for_training(spec.images, spec.split, 1.0)
    trainer = loop.Trainer(compiled, images, spec)
    first = trainer.measure().metrics
    assert trainer.measure().metrics == first
    expected = compiled.network.logits(images.probe.pixels[:], training=False)
    assert first["train/loss"] == pytest.approx(clean_metrics(np.asarray(expected), images.probe.labels)["loss"], 1e-5)


@pytest.mark.thorough
def test_a_trial_depends_on_its_seed_and_on_nothing_before_it(make_spec: MakeSpec, tmp_path: Path) -> None:
    first, _ = run(make_spec(augmentation="strong"), tmp_path / "1", CompiledNetworks())
    other, _ = run(make_spec(seed=1, batch_size=8, augmentation="flip"), tmp_path / "2")
    again, _ = run(make_spec(augmentation="strong"), tmp_path / "3")
    assert again.summary == first.summary
    assert other.summary != first.summary


def test_no_patience_left(make_spec: MakeSpec, tmp_path: Path) -> None:
    # a learning rate that kills the network: validation loss then wavers around ln 5
    result, records = run(make_spec(epochs=20, patience=2, learning_rate=0.03, rule=Rule("val/loss")), tmp_path)
    assert result.epochs == len(records) < 20
    assert result.ended_by == "early stopping"
    assert result.epochs - result.best_epoch == 2


def test_pruned_when_told(make_spec: MakeSpec, tmp_path: Path) -> None:
    result = trial.run_trial(make_spec(epochs=5), tmp_path, lambda record: record.epoch < 2, shared_networks())
    assert (result.state, result.ended_by, result.epochs, list(result.files)) == (
        "pruned",
        "pruner",
        2,
        list(RESULT_TABLES),
    )


def test_a_loss_that_is_no_number_ends_the_trial(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(learning_rate=10.0, optimizer=Optimizer("sgd"), epochs=8)
    with pytest.raises(DivergedError, match="not finite after epoch"):
        run(spec, tmp_path)


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_auxiliary_heads_count_in_training_and_not_in_the_gap(make_spec: MakeSpec, tmp_path: Path) -> None:
    result, records = run(make_spec("googlenet", epochs=1), tmp_path)
    # two untrained heads with five classes each: about 2 ln 5
    assert records[0].metrics["running/auxiliary_loss"] == pytest.approx(2 * math.log(5), rel=0.2)
    assert records[0].metrics["train/loss"] < 2
    assert result.trainable_parameters == 5_978_677


@pytest.mark.thorough
def test_auxiliary_heads_rest_where_they_have_nothing_to_teach(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec("googlenet", auxiliary_weight=0.0, epochs=1)
    moved = changed_layers(spec, tmp_path, monkeypatch)
    assert {distance for name, distance in moved.items() if name.startswith(AUXILIARY)} == {0.0}
    assert "auxiliary_weight" not in make_spec("googlenet", transfer="frozen").levels


def test_after_its_last_epoch_a_trial_is_finished_whatever_it_is_told(make_spec: MakeSpec, tmp_path: Path) -> None:
    result = trial.run_trial(make_spec(epochs=2), tmp_path, lambda record: record.epoch < 2, shared_networks())
    assert (result.state, result.epochs, list(result.files)) == ("finished", 2, [*RESULT_TABLES, "model"])


# ---- what is measured, and on what


def per_class(images: Images, chosen: np.ndarray) -> list[int]:
    return np.bincount(images.labels[chosen], minlength=5).tolist()


def seen(spec: TrialSpec) -> tuple[list[list[int]], list[dict[str, float]]]:
    """Return the training images per class that each epoch's updates used, and the epochs' metrics."""
    trainer = loop.Trainer(started(spec), trial.load_images(spec), spec)
    trainer.start_phase(transfer.plan_phases(spec, {})[0])
    step, places = trainer._update, {pixels.tobytes(): i for i, pixels in enumerate(trainer.images.train.pixels)}
    counts, metrics = [], []
    for _ in range(spec.epochs):
        of_epoch: list[int] = []

        def spy(pixels: np.ndarray, labels: np.ndarray, sizes: list[int], of_epoch: list[int] = of_epoch) -> object:
            of_epoch += [places[image.tobytes()] for image in pixels]
            return step(pixels, labels, sizes)

        spy.skipped = step.skipped
        trainer._update = spy
        metrics.append(trainer.run_epoch().metrics)
        counts.append(per_class(trainer.images.train, np.array(of_epoch)))
        assert len(set(of_epoch)) == len(of_epoch)
    return counts, metrics


def test_every_batch_size_and_epoch_sees_the_same_images(make_spec: MakeSpec) -> None:
    counts, names = [], ("images/validation", "images/validation_smallest_class")
    for size in (4, 7, 16, 50, 64):
        of_size, metrics = seen(make_spec(batch_size=size, epochs=2))
        counts += of_size
        assert [epoch["images/train"] for epoch in metrics] == [50, 50]
        assert [metrics[0][name] for name in names] == [25, 5]
    assert {tuple(epoch) for epoch in counts} == {(10, 10, 10, 10, 10)}


def test_the_legacy_protocol_sees_other_images_with_every_batch_size(make_spec: MakeSpec) -> None:
    found = {}
    for size in (8, 16):
        counts, metrics = seen(make_spec(batch_size=size, epochs=4, protocol="legacy"))
        found[size] = [
            *map(sum, counts),
            metrics[0]["legacy/validation_images"],
            metrics[0]["legacy/validation_smallest_class"],
        ]
    assert found[8] == [48, 2, 48, 2, 24, 4]
    assert found[16] == [48, 2, 48, 2, 16, 0]


def test_what_no_epoch_changes_is_told_once(make_spec: MakeSpec) -> None:
    _, (first, *others) = seen(make_spec(batch_size=16, epochs=3, learning_rate=1e-3))
    constant = {f"images/validation{which}" for which in ("", "_smallest_class")}
    constant |= {"legacy/validation_images", "legacy/validation_smallest_class", "optimizer/learning_rate"}
    assert constant <= set(first)
    assert [set(first) - set(of_epoch) for of_epoch in others] == [constant] * 2
    assert first["optimizer/learning_rate"] == pytest.approx(1e-3)


def test_the_legacy_gap_is_running_accuracy_less_the_first_batches(make_spec: MakeSpec) -> None:
    spec = make_spec(batch_size=16, epochs=1, learning_rate=1e-8)
    trainer = loop.Trainer(started(spec), trial.load_images(spec), spec)
    trainer.start_phase(transfer.plan_phases(spec, {})[0])
    metrics = trainer.run_epoch().metrics
    validation = trainer.images.validation
    first = np.argsort(validation.labels, kind="stable")[:16]
    right = (trainer.logits(validation).argmax(axis=1) == validation.labels)[first].mean()
    assert metrics["legacy/val_accuracy"] == pytest.approx(right)
    assert metrics["legacy/gap_accuracy"] == pytest.approx(metrics["running/accuracy"] - right)


def test_dropout_holds_the_running_accuracy_below_the_clean_one(make_spec: MakeSpec) -> None:
    trained = CompiledNetworks().start(make_spec())
    spec = make_spec(batch_size=8, dropout=0.0, learning_rate=LEARNS)
    trainer = loop.Trainer(trained, trial.load_images(spec), spec)
    trainer.start_phase(transfer.plan_phases(spec, {})[0])
    for _ in range(10):
        trainer.run_epoch()
    spec = make_spec(dropout=0.5, learning_rate=1e-8)  # the weights stay as they are
    compiled = started(spec)
    compiled.network.training.set_weights(trained.network.training.get_weights())
    same = loop.Trainer(compiled, trial.load_images(spec), spec)
    same.start_phase(transfer.plan_phases(spec, {})[0])
    metrics = same.run_epoch().metrics
    assert metrics["train/accuracy"] > 0.6
    assert metrics["running/accuracy"] < metrics["train/accuracy"]
    assert metrics["gap/hidden_accuracy"] == metrics["train/accuracy"] - metrics["running/accuracy"]


def start_of(spec: TrialSpec) -> tuple[list[np.ndarray], TrainingImages, list[np.ndarray]]:
    """Return the initial weights, the images, and the first epoch's image indices in order."""
    images = trial.load_images(spec)
    network = started(spec).network
    batches = Batches(len(images.train), int(spec.levels["batch_size"]), spec.seed).iterate_epoch(1)
    return network.training.get_weights(), images, [np.concatenate(list(batches))]


@pytest.mark.parametrize(
    "other", [{"dropout": 0.1}, {"batch_size": 8}, {"learning_rate": 0.1, "augmentation": "strong"}]
)
def test_one_seed_gives_one_split_one_start_and_one_order(other: dict[str, float | str], make_spec: MakeSpec) -> None:
    first, second = (start_of(make_spec(seed=5, block=5, **levels)) for levels in ({"batch_size": 32}, other))
    for ours, theirs in zip(first[0] + first[2], second[0] + second[2], strict=True):
        assert np.array_equal(ours, theirs)
    for part in ("train", "validation", "probe"):
        assert np.array_equal(getattr(first[1], part).pixels, getattr(second[1], part).pixels)
    another = start_of(make_spec(seed=6, block=6))
    assert not np.array_equal(first[0][0], another[0][0])
    assert not np.array_equal(first[1].validation.places, another[1].validation.places)


# ---- what is known at the end


def test_last_and_restored_weights_and_equal_updates(make_spec: MakeSpec, tmp_path: Path) -> None:
    # 4 updates an epoch: after 6 in the middle of the second
    spec = make_spec(epochs=4, batch_size=16, equal_updates=6, learning_rate=0.003)
    result, records = run(spec, tmp_path / "whole")
    assert result.final["last/val_loss"] == pytest.approx(records[-1].metrics["val/loss"], abs=1e-6)
    assert result.summary["val/loss"] == pytest.approx(records[result.best_epoch - 1].metrics["val/loss"], abs=1e-6)
    assert {"last/full_train_accuracy", "last/full_train_balanced_accuracy", "last/gap_accuracy"} <= set(result.final)
    # a trial that ends there has the same weights
    short, _ = run(make_spec(epochs=4, batch_size=16, updates=6, equal_updates=6, learning_rate=0.003), tmp_path / "6")
    assert (short.ended_by, short.epochs) == ("updates", 2)
    for name in ("train_accuracy", "val_loss", "gap_loss"):
        assert result.final[f"equal_updates/{name}"] == pytest.approx(short.final[f"last/{name}"], abs=1e-6)
        assert short.final[f"equal_updates/{name}"] == short.final[f"last/{name}"]


def test_all_training_images_are_measured_at_the_end(make_spec: MakeSpec, tmp_path: Path) -> None:
    import keras

    spec = make_spec(epochs=3, batch_size=8, data_fraction=0.8, shuffled_labels=0.5)
    result, _ = run(spec, tmp_path)
    train = trial.load_images(spec).train
    model = keras.saving.load_model(Path(result.files["model"]) / "data" / "model.keras", safe_mode=True)
    right = model.predict(train.pixels[:], verbose=0).argmax(axis=1) == train.labels
    assert len(right) == 40
    assert result.summary["full_train/accuracy"] == right.mean()
    recalls = [right[train.labels == label].mean() for label in range(5)]
    assert result.summary["full_train/balanced_accuracy"] == pytest.approx(np.mean(recalls))


def test_it_ends_at_the_train_loss_that_was_asked_for(make_spec: MakeSpec, tmp_path: Path) -> None:
    _, whole = run(make_spec(epochs=6, batch_size=8), tmp_path / "whole")
    wanted = whole[2].metrics["train/loss"]
    assert wanted < min(whole[0].metrics["train/loss"], whole[1].metrics["train/loss"])
    result, records = run(make_spec(epochs=6, batch_size=8, until_train_loss=wanted), tmp_path / "until")
    assert (result.ended_by, len(records)) == ("train loss", 3)


def test_shuffled_labels_can_only_be_memorised(make_spec: MakeSpec, tmp_path: Path) -> None:
    given = {"epochs": 30, "batch_size": 4, "dropout": 0.0, "learning_rate": LEARNS, "data_fraction": 0.4}
    result, _ = run(make_spec(shuffled_labels=1.0, **given), tmp_path / "shuffled")
    assert result.final["last/train_accuracy"] > 0.8
    assert result.final["last/val_accuracy"] < 0.5


def test_correctness_is_kept_image_by_image(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(epochs=5, batch_size=8)
    result, records = run(spec, tmp_path)
    images = trial.load_images(spec)
    with np.load(result.files["correctness"], allow_pickle=False) as kept:
        places = {part: kept[f"{part}_places"] for part in ("probe", "validation")}
        by_epoch = {
            part: np.unpackbits(kept[f"{part}_by_epoch"], axis=1, count=len(places[part])).astype(bool)
            for part in places
        }
        labels = {part: kept[f"{part}_labels"] for part in places}
        right = {
            (part, moment): np.unpackbits(kept[f"{part}_{moment}"], count=len(places[part])).mean()
            for part in places
            for moment in ("restored", "last")
        }
    assert np.array_equal(places["validation"], images.validation.places)
    assert np.array_equal(places["probe"], images.probe.places)
    assert right["validation", "restored"] == result.summary["val/accuracy"]
    assert right["validation", "last"] == result.final["last/val_accuracy"]
    assert right["probe", "restored"] == result.summary["train/accuracy"]
    for part, name in (("probe", "train"), ("validation", "val")):
        assert np.array_equal(labels[part], getattr(images, part).labels)
        assert by_epoch[part].mean(axis=1).tolist() == [record.metrics[f"{name}/accuracy"] for record in records]
        recalls = [[row[labels[part] == label].mean() for label in range(5)] for row in by_epoch[part]]
        found = [record.metrics[f"{name}/balanced_accuracy"] for record in records]
        assert np.mean(recalls, axis=1).tolist() == pytest.approx(found)


@pytest.mark.parametrize(("rule", "rate"), [("fixed", 0.001), ("linear", 0.0005), ("square-root", 0.001 / 2**0.5)])
def test_the_learning_rate_goes_with_the_batch(rule: str, rate: float, make_spec: MakeSpec) -> None:
    spec = make_spec(learning_rate=0.001, learning_rate_scaling=rule, batch_size=16)
    assert loop.scaled_learning_rate(spec) == pytest.approx(rate)
    trainer = loop.Trainer(started(spec), trial.load_images(spec), spec)
    assert trainer.learning_rate == pytest.approx(rate)


def test_weights_that_do_not_come_back_are_noticed(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        BestEpoch,
        "restore",
        lambda self: [variable.assign(np.zeros(variable.shape)) for variable in self.variables.values()],
    )
    # best at an early epoch, or the last weights are the restored ones
    spec = make_spec(epochs=3, batch_size=8, learning_rate=0.01, rule=Rule("val/loss"))
    with pytest.raises(RuntimeError, match="kept at epoch"):
        run(spec, tmp_path)


def test_a_model_is_kept_only_if_asked_for(make_spec: MakeSpec, tmp_path: Path) -> None:
    result, _ = run(make_spec(epochs=1, keep_model=False), tmp_path)
    assert (result.state, list(result.files)) == ("finished", list(RESULT_TABLES))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(RESULT_TABLES.values())


def test_the_best_epoch_keeps_the_limits_of_the_study(make_spec: MakeSpec, tmp_path: Path) -> None:
    free = make_spec(epochs=6, batch_size=4, learning_rate=0.001, keep_model=False)
    _, records = run(free, tmp_path / "free")
    gaps = [record.metrics["gap/accuracy"] for record in records]
    limit = sorted(gaps)[2]  # kept in three of the epochs
    result, again = run(dataclasses.replace(free, rule=Rule("val/accuracy", maximum_gap=limit)), tmp_path / "limited")
    assert [record.metrics["gap/accuracy"] for record in again] == gaps
    within = [record for record in records if record.metrics["gap/accuracy"] <= limit]
    best = max(within, key=lambda record: (record.metrics["val/accuracy"], -record.metrics["val/loss"]))
    assert result.best_epoch == best.epoch
    assert result.summary["gap/accuracy"] <= limit
