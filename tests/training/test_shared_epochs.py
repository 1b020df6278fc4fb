"""Epochs that trials share: the numbers are those of trials that share nothing, to the last bit."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnstudy.architectures import build_network, find
from cnnstudy.records import BadImage, EpochRecord, Optimizer, Rule, Split, TrialSpec
from cnnstudy.study.recovery import find_broken_entries
from cnnstudy.system import cache, code_version
from cnnstudy.system.cache import entry_folder, entry_folders, try_lock
from cnnstudy.training import checkpoints, features, shared_epochs, transfer, trial, weights
from cnnstudy.training.checkpoints import TrialProgress
from cnnstudy.training.compiled import CompiledNetworks
from cnnstudy.training.shared_epochs import FILE, KIND, SharedEpochs
from cnnstudy.training.trainer import DivergedError

from .tries import Tried, cut, flip_a_bit, tried

pytestmark = pytest.mark.full_width

MakeSpec = Callable[..., TrialSpec]
TWO_PHASES: dict[str, Any] = {"transfer": "two-phase", "head_epochs": 2, "epochs": 3}


@pytest.fixture(autouse=True)
def _own_and_worth_it(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, and all are worth their time."""
    monkeypatch.setattr(shared_epochs, "WRITE_SHARE", 1e9)


@pytest.fixture(scope="module")
def networks() -> Iterator[CompiledNetworks]:
    """Warm ones for all tests: no number depends on them (test_compiled.py)."""
    made = CompiledNetworks()
    yield made
    made.clear()


@pytest.fixture
def make(make_spec: MakeSpec) -> MakeSpec:
    """A trial that shares its epochs."""
    return lambda **given: make_spec(
        **{"batch_size": 16, "learning_rate": 3e-4, "deterministic": True, "share_epochs": True, **given}
    )


def alone(spec: TrialSpec) -> TrialSpec:
    return dataclasses.replace(spec, share_epochs=False)


def with_levels(spec: TrialSpec, **levels: Any) -> TrialSpec:
    return dataclasses.replace(spec, levels={**spec.levels, **levels})


def entries() -> list[Path]:
    return entry_folders(KIND)


def shared_by(one: Tried) -> int:
    assert one.result is not None
    assert [record.replayed for record in one.told] == [record.shared for record in one.told]
    assert [record.epoch for record in one.told] == list(range(1, one.result.epochs + 1))
    assert one.result.shared_epochs == sum(record.shared for record in one.told)
    return one.result.shared_epochs


def write(spec: TrialSpec, bytes_: int, more: dict[str, np.ndarray] | None = None) -> Path:
    """One of so many bytes."""
    written = SharedEpochs(spec, PHASES, "", {})

    def state(address: str) -> tuple[TrialProgress, dict[str, np.ndarray]]:
        reached = TrialProgress(address, "", 1, 0, 2, 8, 50, 1.0, 1, (), (), (), written.trained_as, spec.equal_updates)
        return reached, {"weights/a/0": np.zeros(bytes_, np.uint8), **(more or {})}

    written.keep((1, 0), 60.0, bytes_, state)
    return entry_folder(KIND, written.address((1, 0)))


# ---- shared = unshared

#: What both trials are, what the first one is, what the second one is, and how many epochs they share.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], int]] = {
    "the head's phase, dropout": (
        {"transfer": "two-phase", "head_epochs": 2, "dropout": 0.5},
        {"epochs": 3, "backbone_learning_rate_multiplier": 0.1, "study": "another"},
        {"epochs": 4, "backbone_learning_rate_multiplier": 0.5, "number": 7},
        2,
    ),
    "the head's phase, best long before its end": (
        {
            "transfer": "two-phase",
            "head_epochs": 3,
            "epochs": 4,
            "learning_rate": 0.2,
            "batch_size": 8,
            "optimizer": Optimizer("sgd", momentum=0.9),
        },
        {"backbone_learning_rate_multiplier": 0.1},
        {"backbone_learning_rate_multiplier": 0.01},
        3,
    ),
    "the head's phase on features of two views": (
        {"transfer": "two-phase", "head_epochs": 1, "augmentation": "flip", "epochs": 2},
        {"backbone_learning_rate_multiplier": 0.1},
        {"backbone_learning_rate_multiplier": 1.0},
        1,
    ),
    "more epochs, strong augmentation, dropout": (
        {"transfer": "scratch", "augmentation": "strong", "dropout": 0.4},
        {"epochs": 2},
        {"epochs": 4},
        2,
    ),
    "more epochs, momentum": (
        {"transfer": "last-block", "optimizer": Optimizer("sgd", momentum=0.9), "batch_size": 8, "learning_rate": 1e-3},
        {"epochs": 1, "equal_updates": 7},
        {"epochs": 3, "equal_updates": 10},
        1,
    ),
    "more epochs in the second phase": (
        {"transfer": "two-phase", "head_epochs": 1, "dropout": 0.3},
        {"epochs": 3},
        {"epochs": 4},
        3,
    ),
    "more epochs of the legacy protocol": (
        {"transfer": "fine-tune", "protocol": "legacy", "batch_size": 32},
        {"epochs": 1},
        {"epochs": 2},
        1,
    ),
    "a frozen trial, and the head's phase": (
        {"dropout": 0.3, "augmentation": "flip"},
        {"transfer": "frozen", "epochs": 2},
        {"transfer": "two-phase", "head_epochs": 2, "epochs": 3},
        2,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_shared_epochs_are_those_that_would_have_been_trained(
    name: str, make: MakeSpec, source: Path, networks: CompiledNetworks, tmp_path: Path
) -> None:
    both, first, second, shared = CASES[name]
    spec = make(weights=source, **both, **second)
    own = tried(alone(spec), tmp_path / "alone", networks=networks)
    assert shared_by(own) == 0
    assert entries() == []
    other = tried(make(weights=source, **both, **first), tmp_path / "first", networks=networks)
    assert shared_by(other) == 0
    again = tried(spec, tmp_path / "second", networks=networks)
    assert shared_by(again) == shared
    assert again.trained == list(range(shared + 1, spec.epochs + 1))
    assert again.numbers == own.numbers
    assert "epochs shared with another trial" in again.said
    assert [one.metrics for one in again.told[:shared]] == [one.metrics for one in other.told[:shared]]
    assert again.result is not None
    assert again.result.seconds > sum(one.metrics["time/seconds"] for one in again.told)


def test_the_best_epoch_may_lie_in_what_is_shared(
    make: MakeSpec, source: Path, networks: CompiledNetworks, tmp_path: Path
) -> None:
    """Else the cases above would not show that its weights come along."""
    both, first, *_ = CASES["the head's phase, best long before its end"]
    found = tried(make(weights=source, **both, **first), tmp_path / "first", networks=networks).result
    assert found is not None
    assert found.best_epoch < 3


def test_the_longest_is_taken(make: MakeSpec, networks: CompiledNetworks, tmp_path: Path) -> None:
    for epochs in (1, 2):
        tried(make(epochs=epochs), tmp_path / str(epochs), networks=networks)
    assert len(entries()) == 2
    assert shared_by(tried(make(epochs=3), tmp_path / "3", networks=networks)) == 2
    assert len(entries()) == 3
    # none is all of a trial
    assert shared_by(tried(make(epochs=3), tmp_path / "again", networks=networks)) == 2


# ---- what is not shared

SPECS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "block": {"block": 3},
    "split": {"split": Split(0.25, 0.25, 1)},
    "patience": {"patience": 9},
    "rule": {"rule": Rule("val/loss")},
    "limit": {"rule": Rule("val/accuracy", maximum_gap=0.3)},
    "optimizer": {"optimizer": Optimizer("sgd")},
    "weight decay": {"optimizer": Optimizer("adam", 0.01)},
    "momentum": {"optimizer": Optimizer("adam", 0.0, 0.5)},
    "updates": {"updates": 100},
    "until train loss": {"until_train_loss": 0.1},
    "deterministic": {"deterministic": False},
    "features": {"features": False},
    "micro-batch": {"micro_batch": 4},
    "architecture": {"architecture": "vgg16"},
}
LEVELS: dict[str, Any] = {
    "batch_size": 8,
    "dropout": 0.123,
    "learning_rate": 1e-5,
    "learning_rate_scaling": "linear",
    "data_fraction": 0.5,
    "shuffled_labels": 0.2,
    "protocol": "legacy",
    "augmentation": "flip",
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "auxiliary_weight": 0.3,
    "a factor to come": 1.0,
}
#: Fields on which no number up to there depends, or that the phases or what the trial began with have.
FREE: dict[str, Any] = {
    "study": "another",
    "purpose": "confirm",
    "number": 9,
    "epochs": 9,
    "weights_source": "imagenet",
    "weights_file": "/elsewhere/backbone.npz",
    "equal_updates": 9,
    "keep_model": False,
    "checkpoints": "sparing",
}
PHASES = [transfer.Phase(2, (), 1.0), transfer.Phase(1, ("",), 0.1)]


def address(spec: TrialSpec, phases: list[transfer.Phase] = PHASES, begun_with: str = "w", device: str = "cpu") -> str:
    return SharedEpochs(spec, phases, begun_with, {"device": device, "threads": "1"}).address((1, 0))


def test_trials_that_differ_have_other_addresses(make: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make(**TWO_PHASES)
    images = [
        dataclasses.replace(spec.images, **change)  # type: ignore[arg-type]
        for change in ({"digest": "0"}, {"size": 65}, {"classes": ("a", "b")}, {"folder": "/images/of-another-decoder"})
    ]
    others = [
        *(dataclasses.replace(spec, **change) for change in SPECS.values()),
        *(with_levels(spec, **{name: level}) for name, level in LEVELS.items()),
        *(dataclasses.replace(spec, images=one) for one in images),
    ]
    found = [address(one) for one in (spec, *others)]
    head = PHASES[0]
    found += [address(spec, [dataclasses.replace(head, **change), PHASES[1]]) for change in ({"epochs": 3},)]
    found += [address(spec, [dataclasses.replace(head, backbone=("conv5",)), PHASES[1]])]
    found += [address(spec, begun_with="other weights"), address(spec, device="another")]
    monkeypatch.setattr(code_version, "training_versions", lambda: {"tensorflow": "0.0.0"})
    found.append(address(spec))
    assert len(set(found)) == len(found)


def test_trials_that_differ_in_nothing_that_matters_have_the_same_address(make: MakeSpec) -> None:
    spec = make(**TWO_PHASES)
    elsewhere = dataclasses.replace(
        spec.images, folder=f"/x/{Path(spec.images.folder).name}", name="x", skipped=(BadImage("a", "empty"),)
    )
    same = [
        *(dataclasses.replace(spec, **{name: value}) for name, value in FREE.items()),
        with_levels(spec, backbone_learning_rate_multiplier=0.7),
        dataclasses.replace(spec, images=elsewhere),
    ]
    assert {address(one) for one in same} == {address(spec)}
    assert address(spec, [PHASES[0], transfer.Phase(9, ("conv5",), 0.7)]) == address(spec)


def test_every_field_of_a_specification_is_in_the_address_unless_it_is_said_why_not(make: MakeSpec) -> None:
    left_out = {one.name for one in dataclasses.fields(TrialSpec)} - set(make().fields_that_change("training"))
    of_device_and_phases = {"precision", "xla", "share_epochs", "head_epochs"}
    assert left_out - {"micro_batch"} | shared_epochs._LEFT_OUT == {*FREE, *of_device_and_phases}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"patience": 5},
        {"levels": {"dropout": 0.1}},
        {"levels": {"batch_size": 8}},
        {"share_epochs": False},
    ],
    ids=str,
)
def test_a_trial_that_differs_trains_all_its_epochs(
    change: dict[str, Any], make: MakeSpec, source: Path, networks: CompiledNetworks, tmp_path: Path
) -> None:
    spec = make(weights=source, **TWO_PHASES)
    tried(spec, tmp_path / "a", networks=networks)
    change = {**change, "levels": {**spec.levels, **change.get("levels", {})}}
    assert shared_by(tried(dataclasses.replace(spec, **change), tmp_path / "b", networks=networks)) == 0
    assert shared_by(tried(spec, tmp_path / "c", networks=networks)) == 2


def test_other_source_weights_in_the_same_file(
    make: MakeSpec, source: Path, networks: CompiledNetworks, tmp_path: Path
) -> None:
    spec = make(weights=source, **TWO_PHASES)
    tried(spec, tmp_path / "a", networks=networks)
    network = build_network(find("alexnet"), 64, 5, 0.5)
    weights.initialise(network, 98)
    weights.save_backbone(network, source)
    assert shared_by(tried(spec, tmp_path / "b", networks=networks)) == 0


@pytest.mark.parametrize(
    ("of_first", "of_second", "shared"),
    [(None, None, 2), (None, 9, 2), (3, 3, 2), (8, 9, 2), (3, None, 2), (8, 8, 2), (None, 8, 0), (3, 4, 0), (9, 4, 0)],
)
def test_measured_at_equal_updates(of_first: int | None, of_second: int | None, shared: int, make: MakeSpec) -> None:
    """What the second trial would have measured in the first one's 8 updates, that one must have measured."""
    first = make(equal_updates=of_first)
    write(first, 100, {"equal updates/train": np.zeros(3)} if of_first and of_first <= 8 else {})
    found = list(SharedEpochs(dataclasses.replace(first, equal_updates=of_second), PHASES, "", {}).find_states())
    assert [one.reached.epoch for one in found] == [shared] * bool(shared)
    for one in found:
        assert ("equal updates/train" in one.arrays) == (of_second is not None and of_second <= 8)


# ---- what leaves none


def run(spec: TrialSpec, folder: Path, networks: CompiledNetworks, until: int = 99) -> str:
    """Pruned after so many epochs; what ended it."""
    return trial.run_trial(spec, folder, lambda record: record.epoch < until, networks).ended_by


def test_a_trial_that_did_not_train_all_its_epochs_leaves_none(
    make: MakeSpec, networks: CompiledNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(make(epochs=3), tmp_path / "a", networks, until=2) == "pruner"
    assert run(make(epochs=2, updates=8), tmp_path / "b", networks) == "updates"
    assert run(make(epochs=2, until_train_loss=100.0), tmp_path / "c", networks) == "train loss"
    unlearning = {"learning_rate": 1e-12, "patience": 1}
    stopped = trial.run_trial(make(epochs=9, **unlearning), tmp_path / "d", lambda record: True, networks)
    assert stopped.ended_by == "early stopping"
    # a longer one would have stopped there
    assert run(make(epochs=stopped.epochs, **unlearning), tmp_path / "e", networks) == "epochs"
    with pytest.raises(DivergedError):
        run(make(epochs=2, learning_rate=9.0, optimizer=Optimizer("sgd")), tmp_path / "f", networks)
    assert entries() == []
    assert run(make(epochs=2, learning_rate=1e-12, patience=2), tmp_path / "g", networks) == "epochs"
    assert len(entries()) == 1


def test_a_heads_phase_that_stopped_early_is_shared(
    make: MakeSpec, source: Path, networks: CompiledNetworks, tmp_path: Path
) -> None:
    given = {"transfer": "two-phase", "head_epochs": 4, "epochs": 6, "patience": 1, "learning_rate": 1e-12}
    spec = make(weights=source, **given)
    own = tried(alone(spec), tmp_path / "alone", networks=networks)
    tried(with_levels(spec, backbone_learning_rate_multiplier=0.5), tmp_path / "first", networks=networks)
    again = tried(spec, tmp_path / "second", networks=networks)
    assert 0 < shared_by(again) < 4
    assert again.numbers == own.numbers


def test_batches_that_were_split_and_features_without_room_leave_none(
    make: MakeSpec, source: Path, networks: CompiledNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make(weights=source, **TWO_PHASES)

    def split(record: EpochRecord) -> bool:
        compiled = next(reversed(networks._networks.values()))  # the one under way
        compiled.micro_batches.at_once["evaluation"] = 8
        return True

    trial.run_trial(spec, tmp_path / "a", split, networks)
    assert entries() == []
    with monkeypatch.context() as patch:
        patch.setattr(features, "SHARE_OF_FREE", 0.0)
        spec = dataclasses.replace(spec, seed=3)
        network = build_network(find("alexnet"), 64, 5, 0.5)
        weights.initialise(network, 97)
        weights.save_backbone(network, source)  # none in the cache
        assert run(spec, tmp_path / "b", networks) == "epochs"
    assert entries() == []


def test_whatever_is_not_worth_its_time_is_not_written(
    make: MakeSpec, networks: CompiledNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_epochs, "WRITE_SHARE", 1e-6)
    tried(make(), tmp_path / "a", networks=networks)
    assert entries() == []


# ---- together with checkpoints


def test_a_killed_trial_goes_on_with_what_it_shared(
    make: MakeSpec, source: Path, networks: CompiledNetworks, tmp_path: Path
) -> None:
    spec = make(weights=source, **{**TWO_PHASES, "epochs": 5}, checkpoints="every-epoch")
    own = tried(alone(spec), tmp_path / "alone", networks=networks)
    checkpoints.remove_checkpoint(spec)
    tried(make(weights=source, **TWO_PHASES), tmp_path / "first", networks=networks)
    killed = tried(spec, tmp_path / "killed", killed_in=5, networks=networks)
    assert (killed.trained, [one.shared for one in killed.told]) == ([4], [True] * 3 + [False])
    again = tried(spec, tmp_path / "again", networks=networks)
    assert again.trained == [5]
    assert [(one.replayed, one.shared) for one in again.told] == [(True, True)] * 3 + [(True, False), (False, False)]
    assert again.result is not None
    assert again.result.shared_epochs == 3
    assert again.numbers == own.numbers
    longer = dataclasses.replace(spec, epochs=6, checkpoints="none")
    assert shared_by(tried(longer, tmp_path / "longer", networks=networks)) == 5


def test_epochs_of_unknown_origin_are_not_shared(make: MakeSpec, networks: CompiledNetworks, tmp_path: Path) -> None:
    """A checkpoint is taken up with other threads too, and after parts of batches: only rounding differs then."""
    spec = make(epochs=3, checkpoints="every-epoch")
    tried(dataclasses.replace(spec, micro_batch=4), tmp_path / "a", killed_in=3, networks=networks)
    assert tried(spec, tmp_path / "b", networks=networks).trained == [3]
    assert entries() == []


# ---- what can go wrong


def of_another_place(path: Path) -> None:
    found = checkpoints.read_checkpoint(path)
    written = checkpoints.serialize_checkpoint(dataclasses.replace(found.reached, trained_as="other"), found.arrays)
    shutil.rmtree(path.parent)
    cache.build_entry(KIND, path.parent.name, lambda folder: np.savez(folder / FILE, allow_pickle=False, **written))


@pytest.mark.parametrize("damage", [cut, flip_a_bit, lambda path: path.write_bytes(b""), Path.unlink, of_another_place])
def test_a_broken_one_is_removed_and_written_anew(
    damage: Callable[[Path], object], make: MakeSpec, networks: CompiledNetworks, tmp_path: Path
) -> None:
    tried(make(epochs=1), tmp_path / "a", networks=networks)
    (folder,) = entries()
    damage(folder / FILE)
    assert (folder in find_broken_entries()) == (damage is not of_another_place)
    found = tried(make(epochs=2), tmp_path / "b", networks=networks)
    assert shared_by(found) == 0
    assert any(f"the epochs in {folder} can't be shared" in line for line in found.said)
    assert not folder.exists()
    tried(make(epochs=1), tmp_path / "c", networks=networks)
    assert find_broken_entries() == {}
    assert shared_by(tried(make(epochs=3), tmp_path / "d", networks=networks)) == 2


def test_one_that_does_not_fit_is_left_for_a_shorter_one(
    make: MakeSpec, networks: CompiledNetworks, tmp_path: Path
) -> None:
    for epochs in (1, 2):
        tried(make(epochs=epochs), tmp_path / str(epochs), networks=networks)
    longest = next(folder for folder in entries() if checkpoints.read_checkpoint(folder / FILE).reached.epoch == 2)
    found = checkpoints.read_checkpoint(longest / FILE)
    arrays = {name: array for name, array in found.arrays.items() if name != "optimizer/0"}
    np.savez(longest / FILE, allow_pickle=False, **checkpoints.serialize_checkpoint(found.reached, arrays))
    own = tried(alone(make(epochs=3)), tmp_path / "alone", networks=networks)
    again = tried(make(epochs=3), tmp_path / "again", networks=networks)
    assert shared_by(again) == 1
    assert again.numbers == own.numbers


def test_all_of_them_take_no_more_than_their_limit(make: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_epochs, "LIMIT", 10_000_000)
    folders = []
    for seed in range(4):
        folders.append(write(make(seed=seed), 3_000_000))
        os.utime(folders[-1] / FILE, (1e9 + seed, 1e9 + seed))
        if seed == 2:  # the first is used
            list(SharedEpochs(make(seed=0), PHASES, "", {}).find_states())
    assert [folder.exists() for folder in folders] == [True, False, True, True]
    assert not write(make(seed=5), 5_000_001).exists()  # too large a share
    assert [path.name for path in folders[0].parent.iterdir() if path.name.startswith(folders[1].name)] == []
    (entry, *_) = cache.list_entries("prefixes")
    assert entry.about.startswith("alexnet, epochs 1 to 2 of alexnet-000 of study test")
    cache.clear_entries(cache.list_entries("prefixes"))
    assert entries() == []


def test_what_is_worth_its_time(make: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of a minute, by the speed of the last one."""
    monkeypatch.setattr(shared_epochs, "WRITE_SHARE", 0.02)
    monkeypatch.setattr(shared_epochs.disk, "bytes_per_second", 1e6)
    assert not write(make(seed=1), 1_200_001).exists()
    assert write(make(seed=2), 999_999).exists()
    assert shared_epochs.disk.bytes_per_second == 1e6
    assert write(make(seed=3), 1_200_000).exists()
    assert shared_epochs.disk.bytes_per_second > 1e6
    shared_epochs.disk.written(2_000_000, 4.0)
    assert not write(make(seed=4), 600_001).exists()


def test_a_full_disk_fails_no_trial(
    make: MakeSpec, networks: CompiledNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "SHARE_OF_FREE", 0.0)
        found = tried(make(epochs=1), tmp_path / "a", networks=networks)
    assert any("can't share its first epochs with other trials: it would take" in line for line in found.said)
    original = np.savez

    def full(file: Any, **arrays: Any) -> None:
        if Path(str(file)).name == FILE:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        original(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    found = tried(make(epochs=1), tmp_path / "b", networks=networks)
    assert any("No space left on device" in line for line in found.said)
    assert entries() == []
    assert list((entry_folder(KIND, "x").parent).glob(".*")) == []


def test_nobody_waits_for_another_that_writes_the_same(make: MakeSpec) -> None:
    spec = make(seed=1)
    folder = entry_folder(KIND, SharedEpochs(spec, PHASES, "", {}).address((1, 0)))
    folder.parent.mkdir(parents=True)
    with try_lock(folder):
        write(spec, 100)
        assert not folder.exists()
    assert write(spec, 100).exists()
    before = (folder / FILE).read_bytes()
    write(spec, 200)  # there is one
    assert (folder / FILE).read_bytes() == before
