"""The metric that ranks epochs and trials where the study file names none.

It is validation accuracy; balanced accuracy where the classes are of unequal size, because there a network that always
answers with the largest class has a high accuracy. The choice is recorded with the first trials, and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cnnstudy.config.schema import StudyConfig
from cnnstudy.names import Metric
from cnnstudy.records import PreparedImages
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy
from cnnstudy.training.verdict import IMBALANCE


def keep_recorded_metric(
    config: StudyConfig, recorded: RecordedStudy, runs: Callable[[], Iterable[RecordedRun]]
) -> StudyConfig:
    """Return the settings with balanced accuracy as the metric if recorded trials have it and the file names none."""
    if _names_metric(config) or not recorded.config or recorded.objective != Metric.VAL_BALANCED_ACCURACY:
        return config
    return _with_balanced_accuracy(config) if any(run.kind == "trial" for run in runs()) else config


def choose_metric(config: StudyConfig, images: PreparedImages, runs: Iterable[RecordedRun]) -> tuple[StudyConfig, str]:
    """Return the settings with the metric that fits the images, and a sentence about it; "" if nothing changes.

    Args:
        runs: of the study; recorded trials keep the metric that ranked them.
    """
    sizes = [sum(parts) for parts in zip(images.train, images.validation, images.test, strict=True)]
    unequal = max(sizes) > IMBALANCE * min(sizes)
    if not unequal or _names_metric(config) or any(run.kind == "trial" for run in runs):
        return config, ""
    return _with_balanced_accuracy(config), (
        f"objective: {Metric.VAL_BALANCED_ACCURACY}, the mean recall of the classes, because the largest class has "
        f"{max(sizes)} images and the smallest {min(sizes)}, more than {IMBALANCE} times as many; for another one give "
        f"the study file an objective, such as `objective: {{metric: {Metric.VAL_ACCURACY}}}`"
    )


def _names_metric(config: StudyConfig) -> bool:
    return "metric" in config.objective.model_fields_set


def _with_balanced_accuracy(config: StudyConfig) -> StudyConfig:
    objective = config.objective.model_copy(update={"metric": Metric.VAL_BALANCED_ACCURACY})
    return config.model_copy(update={"objective": objective})
