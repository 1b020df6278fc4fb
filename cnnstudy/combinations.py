"""What is wrong with a study file though each of its keys by itself is fine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from cnnstudy import architectures
from cnnstudy.datasets import DataOptions
from cnnstudy.errors import did_you_mean
from cnnstudy.schema import NEED_WEIGHTS, StudyConfig
from cnnstudy.space import FACTORS, Choices, Levels, Range, is_among
from cnnstudy.strict import KeyPath

MOST_GRID_POINTS = 100_000


def combination_problems(config: StudyConfig) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong though each key by itself is fine."""
    incomplete = list(_by_network_problems(config))
    if incomplete:
        yield from incomplete
        return
    yield from _image_size_problems(config)
    yield from _weights_problems(config)
    yield from _training_problems(config)
    yield from _factor_problems(config)
    yield from _budget_problems(config)


def _by_network_problems(config: StudyConfig) -> Iterator[tuple[KeyPath, str]]:
    """Keys that may give a value for each network: they name networks of this study, and leave none out."""
    givens: list[tuple[KeyPath, Any, bool]] = [
        (("image_size",), config.image_size, True),
        (("training", "epochs"), config.training.epochs, True),
        *((("factors", factor), levels, False) for factor, levels in config.factors.items()),
    ]
    for key, given, complete in givens:
        if not isinstance(given, dict):
            continue
        for name in given:
            if name not in config.architectures:
                yield (
                    (*key, name),
                    f"is not among this study's architectures{did_you_mean(name, config.architectures)}",
                )
        missing = [name for name in config.architectures if name not in given]
        if complete and missing:
            yield key, f"gives no value for {', '.join(missing)}."


def _image_size_problems(config: StudyConfig) -> Iterator[tuple[KeyPath, str]]:
    for name in config.architectures:
        key: KeyPath = ("image_size",) if isinstance(config.image_size, int) else ("image_size", name)
        size = config.size_of(name)
        smallest = architectures.find(name).minimum_size
        if not smallest <= size <= 1024:
            yield key, f"{name} takes images of {smallest} to 1024 pixels, not {size}."


def _weights_problems(config: StudyConfig) -> Iterator[tuple[KeyPath, str]]:
    for name, weights in config.weights.items():
        key: KeyPath = ("weights", name)
        if name != "default" and name not in config.architectures:
            yield (
                key,
                f"is neither `default` nor one of this study's architectures ({', '.join(config.architectures)}).",
            )
        if weights.data is not None and _share_images(weights.data, config.data):
            yield (*key, "data"), "has images of the study's own data; source weights must come from other images."
    for name in config.architectures:
        needing = [str(mode) for mode in config.transfer_modes_of(name) if mode in NEED_WEIGHTS]
        found = config.weights_of(name)
        if needing and found is None:
            yield (
                ("factors", "transfer"),
                f"{', '.join(needing)} start from source weights, and `weights` gives none for {name}. "
                "Give pretrain, imagenet or file there, or random to try the speed only.",
            )
        elif needing and found and found.source == "imagenet" and architectures.find(name).imagenet is None:
            having = [other for other in architectures.names() if architectures.find(other).imagenet]
            yield (
                ("weights", name if name in config.weights else "default", "source"),
                f"there are no imagenet weights for {name}, only for {', '.join(having)}; use pretrain or file.",
            )


def _share_images(source: DataOptions, target: DataOptions) -> bool:
    """Whether both take images from one place: of the same classes, as far as the options say."""
    if source.name != target.name:
        return False
    differing = {"classes", *DataOptions.model_fields}
    if source.model_dump(exclude=differing) != target.model_dump(exclude=differing):
        return False  # another path
    ours, theirs = (getattr(options, "classes", None) for options in (source, target))
    return ours is None or theirs is None or bool(set(ours) & set(theirs))


def _training_problems(config: StudyConfig) -> Iterator[tuple[KeyPath, str]]:
    training = config.training
    two_phase = [name for name in config.architectures if "two-phase" in config.transfer_modes_of(name)]
    if training.head_epochs is not None and not two_phase:
        yield ("training", "head_epochs"), "is for transfer two-phase, which this study does not use."
    for name in two_phase:
        if config.head_epochs_of(name) >= config.epochs_of(name):
            yield (
                ("training", "head_epochs" if training.head_epochs else "epochs"),
                f"two-phase trains {name}'s head for {config.head_epochs_of(name)} epochs and needs at least one "
                f"more of its {config.epochs_of(name)} for the rest.",
            )
    if "momentum" in training.model_fields_set and training.optimizer not in ("sgd", "rmsprop"):
        yield ("training", "momentum"), f"{training.optimizer} has no momentum; sgd and rmsprop have."
    if config.strategy.pruner != "none" and max(map(config.epochs_of, config.architectures)) < 2:
        yield ("strategy", "pruner"), "there is nothing to prune in trials of one epoch; use none."


def _factor_problems(config: StudyConfig) -> Iterator[tuple[KeyPath, str]]:
    active = {factor for name in config.architectures for factor in config.active_factors_of(name)}
    for factor in config.factors:
        if factor not in active:
            yield ("factors", factor), f"is active in no trial of this study: {FACTORS[factor].active_where}."
    for name in config.architectures:
        for factor, levels in config.factors_of(name).items():
            if config.strategy.sampler == "grid" and isinstance(levels, Range):
                yield (
                    ("factors", factor),
                    "is a range, and a grid needs lists; list the levels, or use another sampler.",
                )
    if config.strategy.sampler == "grid" and config.strategy.start_with:
        yield ("strategy", "start_with"), "does not go with a grid, which runs its points in an order of its own."
    for number, start in enumerate(config.strategy.start_with):
        for factor, level in start.items():
            for name in config.architectures:
                found = config.factors_of(name).get(factor)
                problem = _start_problem(factor, level, found, config)
                if problem:
                    yield ("strategy", "start_with", number, factor), problem
                    break


def _start_problem(factor: str, level: Any, levels: Levels | None, config: StudyConfig) -> str | None:
    if levels is None:
        return f"is not among the study's factors{did_you_mean(factor, config.factors)}"
    if is_among(level, levels):
        return None
    if isinstance(levels, Choices):
        return f"{level!r} is not among its levels {list(levels.values)}."
    steps = f" in steps of {levels.step:g}" if levels.step is not None else ""
    return f"{level!r} is not within its range {levels.low:g} to {levels.high:g}{steps}."


def _budget_problems(config: StudyConfig) -> Iterator[tuple[KeyPath, str]]:
    if config.budget.trials < len(config.architectures):
        yield (
            ("budget", "trials"),
            f"{config.budget.trials} trials for {len(config.architectures)} networks; each needs at least one.",
        )
        return
    for name in config.architectures:
        share = config.trials_of(name)
        if len(config.strategy.start_with) > share:
            yield ("strategy", "start_with"), f"lists more trials than the {share} that {name} gets of the budget."
        if config.strategy.sampler == "grid":
            yield from _grid_problems(config, name, share)


def _grid_problems(config: StudyConfig, name: str, share: int) -> Iterator[tuple[KeyPath, str]]:
    lists = [levels.values for levels in config.factors_of(name).values() if isinstance(levels, Choices)]
    combinations = math.prod(map(len, lists))
    if combinations > MOST_GRID_POINTS:
        yield (
            ("strategy", "sampler"),
            f"{name}'s lists have {combinations:,} combinations, and a grid takes up to {MOST_GRID_POINTS:,}; list "
            "fewer levels, or use another sampler.",
        )
        return
    points = len(config.grid_of(name))
    if share > points:
        yield (
            ("budget", "trials"),
            f"{name}'s grid has {points} points, fewer than its {share} trials; ask for {points} at most.",
        )
