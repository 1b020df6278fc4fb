"""How long the trials of a study train: their epochs, and the updates at which they are compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from cnnstudy.config.factors import FACTORS, Choices
from cnnstudy.config.schema import StudyConfig
from cnnstudy.config.strategies import FactorialConfig
from cnnstudy.data.batches import count_updates, count_used_images
from cnnstudy.errors import ConfigError
from cnnstudy.records import Level, PreparedImages, makes_updates
from cnnstudy.search.factorial import list_cells

#: The factors that determine the number of updates per epoch.
_UPDATE_FACTORS = ("batch_size", "data_fraction", "protocol")


def trial_epochs(config: StudyConfig, name: str, levels: Mapping[str, Level], images: PreparedImages) -> int:
    """Return a trial's epochs: those of the study file, or as many as `training.updates` takes.

    Raises:
        ConfigError: `training.epochs` is too low to reach `training.updates`, or the updates leave two-phase training
            no epoch after the head's.
    """
    if not makes_updates(levels["transfer"]):
        return 1  # there is nothing to repeat
    most, wanted = config.epochs_of(name), config.training.updates
    if wanted is None or _total_updates(levels, images, most) == wanted:
        return most
    if _total_updates(levels, images, most) < wanted:
        raise ConfigError(
            f"training.updates: {name} with batch_size {levels['batch_size']} makes only "
            f"{_total_updates(levels, images, most)} of {wanted} updates within the {most} epochs of training.epochs; "
            "allow more epochs."
        )
    fewest = 1
    while _total_updates(levels, images, fewest) < wanted:
        fewest += 1
    if levels["transfer"] == "two-phase" and fewest <= config.head_epochs_of(name, fewest):
        raise ConfigError(
            f"training.updates: {wanted} updates take {name} {fewest} epochs with batch_size {levels['batch_size']}; "
            f"two-phase trains the head for {config.head_epochs_of(name, fewest)} of them and needs at least one more. "
            "Give more updates."
        )
    return fewest


def refuse_impossible_updates(config: StudyConfig, images: Mapping[str, PreparedImages]) -> None:
    """Raise ConfigError, as `trial_epochs`, if a trial that the study may propose can't make `training.updates`."""
    for name in config.architectures if config.training.updates is not None else ():
        if isinstance(config.strategy, FactorialConfig):
            points: Iterable[Mapping[str, Level]] = list_cells(config, name)
        else:
            factors = (*_UPDATE_FACTORS, "transfer")
            levels = [_level_bounds(config, name, factor) for factor in factors]
            points = [dict(zip(factors, point, strict=True)) for point in itertools.product(*levels)]
        for point in points:
            trial_epochs(config, name, point, images[name])


def equal_updates(config: StudyConfig, name: str, images: PreparedImages) -> int:
    """Return the updates that every trial of the network reaches: those of the largest batch on the least data."""
    if config.training.updates is not None:
        return config.training.updates
    epochs = config.epochs_of(name)
    levels = {factor: _level_bounds(config, name, factor) for factor in _UPDATE_FACTORS}
    fewest = {"batch_size": max(levels["batch_size"]), "data_fraction": min(levels["data_fraction"])}
    return min(_total_updates({**fewest, "protocol": protocol}, images, epochs) for protocol in levels["protocol"])


def count_train_images(levels: Mapping[str, Level], images: PreparedImages) -> int:
    """Return how many training images a trial with these levels uses."""
    return sum(count_used_images(class_images, float(levels["data_fraction"])) for class_images in images.train)


def _total_updates(levels: Mapping[str, Level], images: PreparedImages, epochs: int) -> int:
    return count_updates(count_train_images(levels, images), int(levels["batch_size"]), epochs, str(levels["protocol"]))


def _level_bounds(config: StudyConfig, name: str, factor: str) -> tuple[Level, ...]:
    """Return all levels of a list, or the two ends of a range."""
    levels = config.factors_of(name).get(factor)
    if levels is None:
        default = FACTORS[factor].default
        assert default is not None  # only factors outside _UPDATE_FACTORS take their default from the network
        return (default,)
    return levels.values if isinstance(levels, Choices) else (levels.low, levels.high)
