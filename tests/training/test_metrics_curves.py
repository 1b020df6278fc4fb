"""What the learning curves say."""

from __future__ import annotations

import pytest

from cnnstudy.records import EpochRecord
from cnnstudy.training.metrics import curve_metrics


def curves(
    train_accuracy: list[float], val_loss: list[float], train_loss: list[float] | None = None
) -> list[EpochRecord]:
    train_loss = train_loss or [1.0 / (i + 1) for i in range(len(val_loss))]
    return [
        EpochRecord(
            i + 1,
            {"train/accuracy": accuracy, "val/loss": loss, "train/loss": train, "val/accuracy": 0.5}
            | {"gap/accuracy": accuracy - 0.5, "gap/loss": loss - train},
        )
        for i, (accuracy, loss, train) in enumerate(zip(train_accuracy, val_loss, train_loss, strict=True))
    ]


def test_overfitting_sets_in_at_the_lowest_validation_loss() -> None:
    found = curve_metrics(curves([0.5, 0.6, 0.7, 0.8], [1.0, 0.8, 0.9, 1.2]))
    assert found["overfitting/onset_epoch"] == 2
    assert found["overfitting/val_loss_rise"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("val_loss", "train_loss"),
    [
        ([1.0, 0.9, 0.8], None),  # it falls to the end
        ([1.0, 0.8, 0.83], None),  # a rise of less than 5 %
        ([1.0, 0.8, 1.2], [1.0, 0.5, 0.9]),  # training fell apart: no overfitting
    ],
)
def test_no_onset_without_a_rise_while_the_train_loss_falls(
    val_loss: list[float], train_loss: list[float] | None
) -> None:
    assert "overfitting/onset_epoch" not in curve_metrics(curves([0.5] * 3, val_loss, train_loss))


def test_the_gap_at_an_equal_fit_lies_between_the_epochs() -> None:
    found = curve_metrics(curves([0.5, 0.8, 1.0, 0.95], [1.0, 1.0, 1.0, 1.0]))
    assert found["equal_fit/epoch"] == pytest.approx(2.5)
    assert found["equal_fit/gap_accuracy"] == pytest.approx(0.4)
    assert found["equal_fit/val_loss"] == pytest.approx(1.0)


def test_a_network_that_fits_at_once_is_taken_where_it_was_measured_first() -> None:
    found = curve_metrics(curves([0.95, 1.0], [1.0, 1.0]))
    assert (found["equal_fit/epoch"], found["equal_fit/gap_accuracy"]) == (1, pytest.approx(0.45))


def test_a_network_that_never_fits_has_no_such_gap() -> None:
    assert not any(name.startswith("equal_fit") for name in curve_metrics(curves([0.5, 0.89], [1.0, 1.0])))
