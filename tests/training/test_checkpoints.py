"""A trial that was stopped goes on from its checkpoint, to the last bit as if it had not been."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnstudy.architectures import build_network, find
from cnnstudy.records import EpochRecord, Optimizer, TrialSpec
from cnnstudy.system import code_version
from cnnstudy.system.cache import ABOUT, entry_folder
from cnnstudy.training import checkpoints, devices, phases, trial, weights
from cnnstudy.training.checkpoints import FILE, KIND, TrialCheckpoints, TrialProgress
from cnnstudy.training.compiled import CompiledNetworks

from .tries import KilledError, cut, flip_a_bit, shared_networks, tried

MakeSpec = Callable[..., TrialSpec]


@pytest.fixture(autouse=True)
def _own_checkpoints(own_places: Path) -> None:
    """A cache of the test's own."""


def entry_of(spec: TrialSpec) -> Path:
    return entry_folder(KIND, checkpoints.checkpoint_address(spec))


CASES: dict[str, dict[str, Any]] = {
    "a frozen backbone, dropout, features": {"transfer": "frozen", "dropout": 0.5},
    "features of two views": {"transfer": "frozen", "dropout": 0.3, "augmentation": "flip"},
    "strong augmentation": {"transfer": "scratch", "augmentation": "strong"},
    "two phases": {"transfer": "two-phase", "head_epochs": 2, "dropout": 0.3},
    "a start from a probe": {"transfer": "probe-then-fine-tune"},
    "the legacy protocol": {"transfer": "fine-tune", "protocol": "legacy", "batch_size": 32},
    "a momentum and a measurement at equal updates": {
        "transfer": "last-block",
        "optimizer": Optimizer("sgd"),
        "equal_updates": 4,
        "batch_size": 16,
    },
}


@pytest.mark.parametrize("name", CASES)
def test_a_trial_goes_on_to_the_last_bit(name: str, make_spec: MakeSpec, source: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"batch_size": 8, "epochs": 4, "learning_rate": 3e-4, **CASES[name]}
    spec = make_spec(weights=source, deterministic=True, checkpoints="every-epoch", **given)
    whole = tried(dataclasses.replace(spec, checkpoints="none"), tmp_path / "whole", networks=CompiledNetworks())
    assert not entry_of(spec).exists()
    networks = CompiledNetworks()
    other = dataclasses.replace(spec, seed=5, epochs=1, checkpoints="none")
    for killed_in in (2, 3, 4):  # each try trains one epoch
        again = tried(spec, tmp_path / str(killed_in), killed_in, networks)
        assert again.trained == [killed_in - 1], again.said
        assert [record.epoch for record in again.told] == [*range(1, killed_in)]
        tried(other, tmp_path / f"other-{killed_in}", networks=networks)
    again = tried(spec, tmp_path / "again", networks=networks)
    assert again.trained == [4]
    assert again.numbers == whole.numbers
    assert again.result is not None
    assert again.result.checkpoint_note == ""
    checkpoints.remove_checkpoint(spec)
    assert list(entry_of(spec).parent.iterdir()) == []


def test_a_phase_that_stopped_early_is_over(make_spec: MakeSpec, source: Path, tmp_path: Path) -> None:
    """Nothing is learnt at such a rate: the first epoch stays the best, and the head's phase ends after its second."""
    given = {"transfer": "two-phase", "head_epochs": 4, "epochs": 6, "patience": 1, "learning_rate": 1e-12}
    spec = make_spec(weights=source, checkpoints="every-epoch", **given)
    whole = tried(dataclasses.replace(spec, checkpoints="none"), tmp_path / "whole")
    assert whole.result is not None
    epochs = whole.result.epochs
    assert epochs < 6
    tried(spec, tmp_path / "killed", killed_in=epochs)
    again = tried(spec, tmp_path / "again", networks=CompiledNetworks())
    assert again.trained == [epochs]
    assert again.result is not None
    assert (again.result.ended_by, again.result.epochs) == (whole.result.ended_by, epochs)


def test_seconds_and_curves_are_those_of_all_tries(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(epochs=3, checkpoints="every-epoch")
    first = tried(spec, tmp_path / "a", killed_in=3)
    kept = TrialCheckpoints(spec, "").read()
    assert kept is not None
    again = tried(spec, tmp_path / "b")
    assert [(record.epoch, record.replayed) for record in again.told] == [(1, True), (2, True), (3, False)]
    assert [record.metrics for record in again.told[:2]] == [record.metrics for record in first.told]
    assert "epochs trained before" in again.said
    assert again.result is not None
    assert again.result.seconds > kept.reached.seconds > first.told[0].metrics["time/seconds"]


def test_what_stays_frozen_is_not_written(make_spec: MakeSpec, source: Path, tmp_path: Path) -> None:
    spec = make_spec(weights=source, transfer="two-phase", epochs=4, head_epochs=2, checkpoints="every-epoch")
    layers = []
    for killed_in in (2, 3, 4):
        tried(spec, tmp_path / str(killed_in), killed_in)
        found = TrialCheckpoints(spec, weights_of(spec)).read()
        assert found is not None
        names = {name.split("/")[1] for name in found.arrays if name.startswith("weights/")}
        layers.append(("conv1" in names, "head_dense1" in names, any(name.startswith("opt") for name in found.arrays)))
    # in the head's phase, after it (the next one begins with fresh optimisers), and in the second
    assert layers == [(False, True, True), (False, True, False), (True, True, True)]


def weights_of(spec: TrialSpec) -> str:
    return trial._digest_source(shared_networks().start(spec), spec)


def test_other_trials_find_none(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(checkpoints="every-epoch")
    others = [
        dataclasses.replace(spec, seed=1),
        dataclasses.replace(spec, study="another"),
        dataclasses.replace(spec, epochs=9),
        dataclasses.replace(spec, optimizer=Optimizer("sgd")),
        dataclasses.replace(spec, levels={**spec.levels, "dropout": 0.123}),
        dataclasses.replace(spec, images=dataclasses.replace(spec.images, digest="0" * 24)),
    ]
    addresses = {checkpoints.checkpoint_address(one) for one in (spec, *others)}
    assert len(addresses) == 1 + len(others)
    assert checkpoints.checkpoint_address(
        dataclasses.replace(spec, checkpoints="sparing")
    ) == checkpoints.checkpoint_address(spec)
    monkeypatch.setattr(code_version, "training_versions", lambda: {"tensorflow": "0.0.0"})
    assert checkpoints.checkpoint_address(spec) not in addresses


def test_another_trials_file_in_its_place_is_ignored(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(epochs=2, checkpoints="every-epoch")
    other = dataclasses.replace(spec, seed=1)
    tried(other, tmp_path / "other", killed_in=2)
    entry_of(other).rename(entry_of(spec))
    found = tried(spec, tmp_path / "own")
    assert found.trained == [1, 2]
    assert any("other weights or settings" in line for line in found.said)
    assert found.result is not None
    assert "other weights or settings" in found.result.checkpoint_note


def test_another_device_is_noted(make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(epochs=2, checkpoints="every-epoch")
    tried(spec, tmp_path / "a", killed_in=2)
    monkeypatch.setattr(devices, "_cpu_model", lambda: "another one")
    found = tried(spec, tmp_path / "b")
    assert found.trained == [2]
    assert found.result is not None
    assert found.result.checkpoint_note.startswith("started on device ")
    assert "resumed on device another one" in found.result.checkpoint_note


def test_source_weights_that_changed_are_noticed(make_spec: MakeSpec, source: Path, tmp_path: Path) -> None:
    spec = make_spec(weights=source, transfer="frozen", epochs=2, checkpoints="every-epoch")
    tried(spec, tmp_path / "a", killed_in=2)
    network = build_network(find("alexnet"), 64, 5, 0.5)
    weights.initialise(network, 98)
    weights.save_backbone(network, source)
    found = tried(spec, tmp_path / "b")
    assert found.trained == [1, 2]
    assert any("other weights or settings" in line for line in found.said)


def without_an_array(path: Path) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "optimizer/0"}
    np.savez(path, **arrays)


def pickled(path: Path) -> None:
    np.savez(path, reached=np.array([{"epoch": 1}], dtype=object))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut, "can't be read"),
        (flip_a_bit, "can't be read (BadZipFile"),
        (lambda path: path.write_bytes(b""), "can't be read"),
        (pickled, "can't be read"),
        (without_an_array, "does not match"),
    ],
    ids=["cut off", "a bit flipped", "empty", "pickled", "an array short"],
)
def test_a_broken_checkpoint_is_ignored_and_written_anew(
    damage: Callable[[Path], object], told: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(epochs=3, checkpoints="every-epoch")
    tried(spec, tmp_path / "a", killed_in=2)
    damage(entry_of(spec) / FILE)
    found = tried(spec, tmp_path / "b", killed_in=3)
    assert found.trained == [1, 2]
    assert any(told in line for line in found.said)
    assert tried(spec, tmp_path / "c").trained == [3]


def reached(spec: TrialSpec, epoch: int = 1) -> TrialProgress:
    records = tuple(EpochRecord(number, {"val/loss": 0.1 * number}) for number in range(1, epoch + 1))
    rest = {"seconds": 1.5, "best_epoch": 1, "best_rank": (-0.0, 0.1, -1e-17), "records": records}
    return TrialProgress(
        checkpoints.checkpoint_address(spec), "", 0, epoch, epoch, 3, 50, sources=(("cached", "x"),), **rest
    )


def test_what_is_written_comes_back(make_spec: MakeSpec) -> None:
    spec = make_spec(checkpoints="every-epoch")
    for epoch in (1, 2):
        TrialCheckpoints(spec, "").write(reached(spec, epoch), {"weights/a/0": np.full((2, 3), epoch, np.float32)})
        (found,) = [TrialCheckpoints(spec, "").read()]
        assert found is not None
        assert found.reached == reached(spec, epoch)
        assert np.array_equal(found.arrays["weights/a/0"], np.full((2, 3), epoch, np.float32))
    folder = entry_of(spec)
    assert sorted(path.name for path in folder.iterdir()) == [ABOUT, FILE, checkpoints.TRIAL]
    assert (folder / ABOUT).read_text() == "alexnet-000 of study test, under way"
    assert checkpoints.read_owner(folder) == ("test", "alexnet-000")
    assert checkpoints.broken_reason(folder) == ""
    cut(folder / FILE)
    assert checkpoints.broken_reason(folder)


def test_a_kill_while_one_is_written_leaves_the_one_before(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(checkpoints="every-epoch")
    kept = TrialCheckpoints(spec, "")
    kept.write(reached(spec), {})
    half = entry_of(spec) / ".half.npz"
    half.write_bytes(b"PK")  # what a kill leaves

    def fail(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", fail)
        with pytest.raises(KilledError):
            kept.write(reached(spec, 2), {})
    found = kept.read()
    assert found is not None
    assert found.reached.epoch == 1
    kept.write(reached(spec, 3), {})
    assert [path.name for path in entry_of(spec).glob(".*")] == []


def test_a_full_disk_is_noted_and_stops_nothing(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(epochs=3, checkpoints="every-epoch")
    monkeypatch.setattr(checkpoints, "SHARE_OF_FREE", 0.0)
    found = tried(spec, tmp_path / "a")
    assert found.trained == [1, 2, 3]
    assert found.result is not None
    assert found.result.checkpoint_note.startswith("no checkpoint could be written: it would take ")
    assert not entry_of(spec).exists()
    monkeypatch.setattr(checkpoints, "SHARE_OF_FREE", 0.25)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    found = tried(spec, tmp_path / "b")
    assert found.result is not None
    assert "No space left on device" in found.result.checkpoint_note
    assert len([line for line in found.said if "No space left" in line]) == 1
    assert not entry_of(spec).exists()
    assert list(entry_of(spec).parent.glob(".*")) == []


def test_without_checkpoints_none_is_read_or_written(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(epochs=3, checkpoints="every-epoch")
    tried(spec, tmp_path / "a", killed_in=3)
    off = dataclasses.replace(spec, checkpoints="none")
    assert tried(off, tmp_path / "b").trained == [1, 2, 3]
    checkpoints.remove_checkpoint(off)
    assert entry_of(spec).exists()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_when_one_is_due(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute of training, and for a costly one after twenty times what the last one took."""
    clock, spec = Clock(), make_spec(checkpoints="sparing")
    kept = TrialCheckpoints(spec, "", clock=clock)
    due = []

    def write(*given: Any) -> None:
        clock.now += 10

    monkeypatch.setattr(checkpoints, "_write_entry", write)
    for seconds in (59, 1, 100, 99, 1):
        clock.now += seconds
        due.append(kept.is_due)
        if kept.is_due:
            kept.write(reached(spec), {})
    assert due == [False, True, False, False, True]
    assert kept.seconds == 260 + 20
    assert TrialCheckpoints(make_spec(checkpoints="every-epoch"), "", clock=clock).is_due
    assert not TrialCheckpoints(make_spec(), "", clock=clock).is_due


def test_short_trials_write_none(make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "_changing_variables", lambda *given: pytest.fail("looked at"))
    assert tried(make_spec(epochs=2, checkpoints="sparing"), tmp_path).trained == [1, 2]


def test_removing_what_is_not_there_is_no_trouble(make_spec: MakeSpec) -> None:
    spec = make_spec(checkpoints="sparing")
    checkpoints.remove_checkpoint(spec)
    TrialCheckpoints(spec, "").write(reached(spec), {})
    checkpoints.remove_checkpoint(spec)
    checkpoints.remove_checkpoint(spec)
    assert TrialCheckpoints(spec, "").read() is None
