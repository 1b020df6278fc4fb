"""The measurement before the first update, as epoch 0."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnnstudy.records import EpochRecord, Rule, TrialSpec
from cnnstudy.training import trial
from cnnstudy.training.metrics import Measurement
from cnnstudy.training.trainer import DivergedError, Trainer

from .tries import shared_networks, tried

MakeSpec = Callable[..., TrialSpec]


@pytest.mark.parametrize("transfer", ["scratch", "frozen"])
def test_it_is_that_of_the_weights_that_training_starts_from(
    transfer: str, make_spec: MakeSpec, source: Path, tmp_path: Path
) -> None:
    spec = make_spec(weights=source, transfer=transfer, epochs=1)
    found = tried(spec, tmp_path)
    (start,) = found.start
    compiled = shared_networks().start(spec)
    expected = Trainer(compiled, trial.load_images(spec), spec).measure().metrics
    assert start.metrics == pytest.approx(expected, abs=1e-5)  # of features, with a frozen backbone
    assert set(start.metrics) == {name for name in found.told[0].metrics if name in expected}
    assert not start.replayed


def test_it_is_no_epoch_of_training(make_spec: MakeSpec, tmp_path: Path) -> None:
    """At such a rate the loss rises from the first update on."""
    spec = make_spec(epochs=3, learning_rate=0.03, rule=Rule("val/loss"), patience=1)
    found = tried(spec, tmp_path)
    (start,) = found.start
    assert found.result is not None
    assert start.metrics["val/loss"] < min(record.metrics["val/loss"] for record in found.told)
    assert found.result.best_epoch >= 1
    assert found.result.epochs == len(found.told)
    assert (
        found.result.final["overfitting/val_loss_rise"] < found.told[-1].metrics["val/loss"] - start.metrics["val/loss"]
    )
    with np.load(found.result.files["correctness"], allow_pickle=False) as kept:
        assert len(kept["validation_by_epoch"]) == len(found.told)


def test_what_is_answered_to_it_prunes_nothing(make_spec: MakeSpec, tmp_path: Path) -> None:
    result = trial.run_trial(make_spec(epochs=2), tmp_path, lambda record: record.epoch > 0, shared_networks())
    assert (result.state, result.epochs) == ("finished", 2)


def test_a_resumed_trial_reports_it_again_without_measuring(
    make_spec: MakeSpec, own_places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(epochs=3, checkpoints="every-epoch")
    first = tried(spec, tmp_path / "a", killed_in=3)
    monkeypatch.setattr(Trainer, "measure_start", lambda trainer: pytest.fail("measured again"))
    again = tried(spec, tmp_path / "b")
    assert again.start == [dataclasses.replace(first.start[0], replayed=True)]


def test_weights_that_are_no_numbers_end_the_trial_before_it_trains(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(trainer: Trainer) -> Measurement:
        labels = trainer.images.validation.labels
        logits = np.full((len(labels), 5), math.nan)
        return Measurement(logits, labels, logits, labels)

    monkeypatch.setattr(Trainer, "measure", measure)
    told: list[EpochRecord] = []
    with pytest.raises(DivergedError, match="not finite after epoch 0"):
        trial.run_trial(make_spec(), tmp_path, lambda record: not told.append(record), shared_networks())
    assert told == []
