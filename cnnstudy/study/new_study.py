"""Look at photos, measure how fast this machine trains on them, and suggest a study of them that fits the time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from cnnstudy import architectures
from cnnstudy.config.schema import StudyConfig
from cnnstudy.data.datasets import DataOptions
from cnnstudy.data.examination import Examined, examine_images
from cnnstudy.execution import Workers
from cnnstudy.records import Speed
from cnnstudy.search.factorial import FactorialStrategy
from cnnstudy.study.estimate import STAND_IN_WEIGHTS, TrialKind, measure_speeds
from cnnstudy.study.recorder import NullRecorder
from cnnstudy.study.resources import StudyInputs
from cnnstudy.study.suggestion import (
    PRETRAINED,
    Machine,
    Photos,
    Suggestion,
    choose_split,
    suggest_study,
    widest_design,
    write_settings,
)
from cnnstudy.system.display import Display
from cnnstudy.system.download import keras_folder
from cnnstudy.system.processes import list_gpus
from cnnstudy.tracking.recorded import RecordedStudy


def look_at_photos(options: DataOptions, display: Display) -> tuple[Examined, Photos]:
    """Return what is in the photos, and what the choice of a study depends on.

    Raises:
        DataError: they can't be read, or a class has too few of them for a study.
    """
    examined = examine_images(options, 0, display.count)
    chosen, images = choose_split(examined)
    sides = [min(one.width, one.height) for one in examined.facts.values()]
    copied = {place for group in examined.copies.groups for place in group}
    return examined, Photos(chosen, images, int(statistics.median(sides)), len(copied))


def look_at_machine() -> Machine:
    """Return what the choice of a study depends on in this machine."""
    imagenet = architectures.find(PRETRAINED).imagenet
    has_weights = imagenet is not None and (keras_folder("models") / imagenet.file_name).is_file()
    return Machine(bool(list_gpus()), has_weights)


def fit_study(
    name: str, photos: Photos, machine: Machine, workers: Workers, seconds: Callable[[], float], display: Display
) -> Suggestion:
    """Measure the speed of every kind of trial, and return the study that fits.

    The images are decoded into the cache, where the study finds them, and workers stay warm.

    Args:
        seconds: returns how many there are for the trials, once the speed is measured.

    Raises:
        InputError: not even the smallest study fits.
        DataError, WeightsError, CacheError, WorkerError: the photos or weights can't be used, or nothing trains.
    """
    settings = write_settings(name, photos, machine, widest_design(machine), 1)
    speeds = _measure(StudyConfig.model_validate(settings), workers, display)
    return suggest_study(name, photos, machine, speeds, seconds(), workers.executor.slots)


def _measure(config: StudyConfig, workers: Workers, display: Display) -> Mapping[TrialKind, Speed]:
    inputs = StudyInputs(config, NullRecorder(RecordedStudy(config.name, "", "", {}), {}), [], workers, display)
    inputs.check()
    planned = FactorialStrategy(config, []).upcoming
    return measure_speeds([inputs.build_spec(one, STAND_IN_WEIGHTS) for one in planned], inputs.executor, display)
