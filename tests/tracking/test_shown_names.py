"""Names of metrics and tags in MLflow."""

from __future__ import annotations

import pytest

from cnnstudy import names
from cnnstudy.names import CLEAN_METRICS, Metric, Tag, class_name
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.shown_names import CURVES, own_metric, own_tags, shown_metric, shown_tag

ALL = [
    *(value for name, value in vars(Metric).items() if name.isupper() and "/" in value),
    *(
        of(metric)
        for of in (names.best_name, names.crossed_name, names.last_name, names.equal_updates_name, names.equal_fit_name)
        for metric in (*CLEAN_METRICS, Metric.FULL_TRAIN_ACCURACY)
    ),
    *(class_name(metric, "_a_b") for metric in (Metric.RECALL, Metric.PRECISION, Metric.TRAIN_RECALL)),
]


def test_only_the_curves_of_gap_train_and_validation_have_a_section() -> None:
    shown = {metric: shown_metric(metric) for metric in ALL}
    assert {name for name in shown.values() if "/" in name} == set(CURVES)
    assert len(set(shown.values())) == len(shown)
    assert shown["best/val_accuracy"] == "best_val_accuracy"


@pytest.mark.parametrize("metric", ALL)
def test_a_metric_is_read_by_the_name_that_it_was_given(metric: str) -> None:
    assert own_metric(shown_metric(metric)) == metric
    assert own_metric(metric) == metric  # as an earlier version recorded it


@pytest.mark.parametrize("metric", ["system/cpu_utilization_percentage", "val_", "loss", "bestial", "other/loss"])
def test_metrics_of_other_programs_keep_their_names_in_mlflow(metric: str) -> None:
    assert shown_metric(metric) == metric


def test_a_configuration_is_hidden_in_the_ui_and_read_by_its_own_name() -> None:
    tags = {f"{Tag.CONFIG}.0": "{}", f"{Tag.CODE}.11": "{}", Tag.CODE_VERSION: "1", "mlflow.user": "somebody"}
    shown = {shown_tag(tag): text for tag, text in tags.items()}
    assert {tag for tag in shown if not tag.startswith("mlflow.")} == {Tag.CODE_VERSION}
    assert own_tags(shown) == tags
    assert own_tags({f"{Tag.CONFIG}.0": "earlier", **shown}) == tags  # a study of an earlier version that goes on


def test_what_an_earlier_version_recorded_is_read(tracker: Tracker) -> None:
    study = tracker.open_study("fake", {})
    client, run = tracker.client, study.run_id
    client.log_metric(run, "best/val_accuracy", 0.5)
    client.log_metric(run, "optimizer/updates", 3.0, step=1)
    (recorded,) = tracker.runs(study.experiment_id)
    assert recorded.metrics == {"best/val_accuracy": 0.5, "optimizer/updates": 3.0}
    assert tracker.metric_history(run, "optimizer/updates") == {1: 3.0}
    tracker.log_metrics(run, {"optimizer/updates": 4.0}, 2)
    assert client.get_run(run).data.metrics["optimizer_updates"] == 4.0
    assert tracker.metric_history(run, "running/loss") == {}
