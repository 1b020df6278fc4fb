"""How long the trials of a study train: epochs, updates, and where they are compared at equal updates."""

from __future__ import annotations

from collections.abc import Mapping

from cnnstudy.config.factors import FACTORS, Choices
from cnnstudy.config.schema import StudyConfig
from cnnstudy.data.batches import count_updates, count_used
from cnnstudy.errors import ConfigError
from cnnstudy.records import Level, PreparedImages

#: The factors that decide how many updates an epoch makes.
_DECIDE = ("batch_size", "data_fraction", "protocol")


def trial_epochs(config: StudyConfig, name: str, levels: Mapping[str, Level], images: PreparedImages) -> int:
    """Its epochs: the study file's, or as many as the file's updates take.

    Raises:
        ConfigError: the file's epochs are too few for the updates.
    """
    most, wanted = config.epochs_of(name), config.training.updates
    if wanted is None or _updates(levels, images, most) == wanted:
        return most
    if _updates(levels, images, most) < wanted:
        raise ConfigError(
            f"training.updates: {wanted} are not reached within the {most} epochs of training.epochs by {name} with "
            f"batch_size {levels['batch_size']} ({_updates(levels, images, most)} updates); allow more epochs."
        )
    fewest = 1
    while _updates(levels, images, fewest) < wanted:
        fewest += 1
    if levels["transfer"] == "two-phase" and fewest <= config.head_epochs_of(name, fewest):
        raise ConfigError(
            f"training.updates: {wanted} take {name} {fewest} epochs with batch_size {levels['batch_size']}, and "
            f"two-phase trains the head for {config.head_epochs_of(name, fewest)} of them and needs at least one more; "
            "give more updates."
        )
    return fewest


def equal_updates(config: StudyConfig, name: str, images: PreparedImages) -> int:
    """The updates that every trial of the network makes: those of the largest batch on the least data."""
    if config.training.updates is not None:
        return config.training.updates
    epochs, levels = config.epochs_of(name), {factor: _levels(config, name, factor) for factor in _DECIDE}
    ends = {"batch_size": max(levels["batch_size"]), "data_fraction": min(levels["data_fraction"])}
    return min(_updates({**ends, "protocol": protocol}, images, epochs) for protocol in levels["protocol"])


def _updates(levels: Mapping[str, Level], images: PreparedImages, epochs: int) -> int:
    train = sum(count_used(of_class, float(levels["data_fraction"])) for of_class in images.train)
    return count_updates(train, int(levels["batch_size"]), epochs, str(levels["protocol"]))


def _levels(config: StudyConfig, name: str, factor: str) -> tuple[Level, ...]:
    """All levels of a list, the ends of a range."""
    levels = config.factors_of(name).get(factor)
    if levels is None:
        default = FACTORS[factor].default
        assert default is not None  # of these three it is no network's own
        return (default,)
    return levels.values if isinstance(levels, Choices) else (levels.low, levels.high)
