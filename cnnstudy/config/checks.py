"""Checks for keys of a study file that are valid on their own but contradict each other.

Each check yields the key and a sentence that follows it in the message.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cnnstudy import architectures
from cnnstudy.config.designs import MAX_FRACTION_CANDIDATES, has_several_levels, minimum_points
from cnnstudy.config.factors import FACTORS, Choices, Levels, Range, is_one_of
from cnnstudy.config.schema import StudyConfig, Weights
from cnnstudy.config.strategies import FactorialConfig, SearchConfig
from cnnstudy.config.transfer_modes import starts_from_source
from cnnstudy.data.datasets import DataOptions
from cnnstudy.errors import did_you_mean
from cnnstudy.records import makes_updates
from cnnstudy.system.validation import KeyPath

MAX_GRID_POINTS = 100_000


def combination_problems(config: StudyConfig) -> Iterator[tuple[KeyPath, str]]:
    """Yield every contradiction in a study file: the key, and what is wrong with it."""
    incomplete = list(_by_network_problems(config))
    if incomplete:  # the other checks look up values by network
        yield from incomplete
        return
    yield from _image_size_problems(config)
    yield from _weights_problems(config)
    yield from _training_problems(config)
    yield from _factor_problems(config)
    yield from _question_problems(config)
    if isinstance(config.strategy, FactorialConfig):
        yield from _factorial_problems(config, config.strategy)
    else:
        yield from _search_problems(config, config.strategy)


def _by_network_problems(config: StudyConfig) -> Iterator[tuple[KeyPath, str]]:
    """Check the keys that may give a value per network: they name networks of this study, and leave none out."""
    by_network: list[tuple[KeyPath, Any, bool]] = [
        (("image_size",), config.image_size, True),
        (("training", "epochs"), config.training.epochs, True),
        *((("factors", factor), levels, False) for factor, levels in config.factors.items()),
    ]
    for key, given, complete in by_network:
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
        size = config.image_size_of(name)
        smallest = architectures.find(name).minimum_size
        if not smallest <= size <= 1024:
            yield key, f"is {size}; {name} takes images of {smallest} to 1024 pixels."


def _weights_problems(config: StudyConfig) -> Iterator[tuple[KeyPath, str]]:
    for name, given in config.weights.items():
        key: KeyPath = ("weights", name)
        if name != "default" and name not in config.architectures:
            yield (
                key,
                f"is neither `default` nor one of this study's architectures ({', '.join(config.architectures)}).",
            )
        if given.data is not None and _share_images(given.data, config.data):
            yield (*key, "data"), "shares images with the study's own data; source weights must come from other images."
        if given.draws == "each-seed" and isinstance(config.strategy, SearchConfig):
            yield (
                (*key, "draws"),
                "each-seed is for a factorial, whose trials are compared within each seed; a search compares all of "
                "its trials, which must start from the same source weights. Leave it out.",
            )
        if given.file is not None and (trouble := _weights_file_trouble(given.file)):
            users = (
                [name] if name in config.architectures else [n for n in config.architectures if n not in config.weights]
            )
            yield (*key, "file"), f"{given.file} {trouble}. {describe_weights_file(users, given)}"
    for name in config.architectures:
        modes = [str(mode) for mode in config.transfer_modes_of(name) if starts_from_source(mode)]
        weights = config.weights_of(name)
        if modes and weights is None:
            yield (
                ("factors", "transfer"),
                f"{', '.join(modes)} start from source weights, and `weights` gives none for {name}. "
                f"Give pretrain, imagenet or file there, or random for timing only; {_example_weights(config, name)}.",
            )
        elif modes and weights and weights.source == "imagenet" and architectures.find(name).imagenet is None:
            available = [other for other in architectures.names() if architectures.find(other).imagenet]
            yield (
                ("weights", name if name in config.weights else "default", "source"),
                f"there are no imagenet weights for {name}, only for {', '.join(available)} and networks of "
                "keras.applications; use pretrain or file.",
            )


def _example_weights(config: StudyConfig, name: str) -> str:
    """Return a line to copy that gives a network source weights."""
    imagenet = architectures.find(name).imagenet is not None
    entry = f"{name}: {{source: {'imagenet' if imagenet else 'file, file: PATH'}}}"
    return f"for example, add `{entry}` to `weights`" if config.weights else f"for example `weights: {{{entry}}}`"


#: How a weights file of each type begins; HDF5 may also begin after a block of the user's.
_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n", b"PK"
_BEGINNINGS = {".h5": _HDF5, ".keras": _ZIP, ".npz": _ZIP}
_HDF5_PLACES = (0, 512, 1024, 2048)


def _weights_file_trouble(file: Path) -> str:
    """Return why a weights file can't be used, as far as its name and its first bytes tell; "" if it may be usable."""
    if file.suffix not in _BEGINNINGS:
        return f"is not of a type that holds weights ({', '.join(_BEGINNINGS)})"
    try:
        with file.expanduser().open("rb") as opened:
            start = opened.read(_HDF5_PLACES[-1] + len(_HDF5))
    except OSError as error:
        return f"can't be read ({error.strerror or error})"
    beginning = _BEGINNINGS[file.suffix]
    if any(start.startswith(beginning, place) for place in (_HDF5_PLACES if beginning == _HDF5 else (0,))):
        return ""
    content = f"begins with {start[:8]!r}" if start else "is empty"
    return f"is not {'an HDF5' if beginning == _HDF5 else f'a {file.suffix}'} file: it {content}"


def describe_weights_file(names: Sequence[str], weights: Weights) -> str:
    """Say which file of weights is expected for the networks, and where to get it."""
    published = [found for name in names if (found := architectures.find(name).imagenet) is not None]
    if weights.source == "imagenet" and published:
        files = " or ".join(f"{one.file_name} from {one.url}{_name_hash(one)}" for one in published)
        return f"Expected is {files}; give its path, or leave `file` out to download it."
    return (
        f"Expected is a {', '.join(_BEGINNINGS)} file that holds the layers of {', '.join(names)} by name, such as the "
        "`model.keras` of a trained model."
    )


def _name_hash(file: architectures.ImageNetWeights) -> str:
    return f" (its hash is {file.file_hash})" if file.file_hash else ""


def _share_images(source: DataOptions, target: DataOptions) -> bool:
    """Check whether both read the same place and, as far as the options say, have a class in common."""
    if source.name != target.name:
        return False
    ignored = {"classes", *DataOptions.model_fields}
    if source.model_dump(exclude=ignored) != target.model_dump(exclude=ignored):
        return False  # another path
    source_classes, target_classes = (getattr(options, "classes", None) for options in (source, target))
    return source_classes is None or target_classes is None or bool(set(source_classes) & set(target_classes))


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
    if training.deterministic and training.xla is True:
        yield (
            ("training", "xla"),
            "can't be combined with deterministic, because XLA has no deterministic gradient of max-pooling; "
            "leave it out.",
        )
    if config.execution.gpus > 1 and training.xla is True:
        yield (
            ("training", "xla"),
            f"can't be combined with execution.gpus: {config.execution.gpus:g}, because a program of XLA runs on one "
            "GPU; leave it out.",
        )
    if "momentum" in training.model_fields_set and training.optimizer not in ("sgd", "rmsprop"):
        yield ("training", "momentum"), f"{training.optimizer} has no momentum, only sgd and rmsprop do; leave it out."
    if config.pruner != "none" and training.updates is not None:
        yield (
            ("strategy", "pruner"),
            "compares trials epoch by epoch, and with `training.updates` the updates per epoch depend on the batch "
            "size; use none.",
        )
    elif config.pruner != "none" and not all(
        map(makes_updates, itertools.chain(*map(config.transfer_modes_of, config.architectures)))
    ):
        yield (
            ("strategy", "pruner"),
            "compares trials epoch by epoch, and a probe ends with its first, which others would be held against; use "
            "none, or leave probe out.",
        )
    elif config.pruner != "none" and max(map(config.epochs_of, config.architectures)) < 2:
        yield ("strategy", "pruner"), "can't prune trials of one epoch; use none."


def _factor_problems(config: StudyConfig) -> Iterator[tuple[KeyPath, str]]:
    active = {factor for name in config.architectures for factor in config.active_factors_of(name)}
    for factor in config.factors:
        if factor not in active:
            yield ("factors", factor), f"is active in no trial of this study: {FACTORS[factor].active_where}."
    normalised = [name for name in config.architectures if architectures.find(name).has_batch_norm]
    for name in config.architectures:
        if name not in normalised and "batch_norm" in config.factors_of(name):
            others = f"; give it to the others, as in `batch_norm: {{{normalised[0]}: trained}}`" if normalised else ""
            yield ("factors", "batch_norm"), f"acts on BatchNormalization, which {name} does not have{others}."


def _search_problems(config: StudyConfig, search: SearchConfig) -> Iterator[tuple[KeyPath, str]]:
    if search.sampler == "grid":
        for factor in _ranges(config):
            yield ("factors", factor), "is a range, and a grid needs lists; list the levels, or use another sampler."
    if search.sampler == "grid" and search.start_with:
        yield (
            ("strategy", "start_with"),
            "can't be combined with a grid, which has its own order of points; leave it out.",
        )
    for number, start in enumerate(search.start_with):
        for factor, level in start.items():
            for name in config.architectures:
                levels = config.factors_of(name).get(factor)
                problem = _start_problem(factor, level, levels, config)
                if problem:
                    yield ("strategy", "start_with", number, factor), problem
                    break
    yield from _budget_problems(config, search)


def _ranges(config: StudyConfig) -> list[str]:
    """Return the factors that have a range in some network."""
    by_network = [config.factors_of(name) for name in config.architectures]
    return [name for name in config.factors if any(isinstance(factors.get(name), Range) for factors in by_network)]


def _start_problem(factor: str, level: Any, levels: Levels | None, config: StudyConfig) -> str | None:
    if levels is None:
        return f"is not among the study's factors{did_you_mean(factor, config.factors)}"
    if is_one_of(level, levels):
        return None
    if isinstance(levels, Choices):
        return f"{level!r} is not among its levels {list(levels.values)}."
    steps = f" in steps of {levels.step:g}" if levels.step is not None else ""
    return f"{level!r} is not within its range {levels.low:g} to {levels.high:g}{steps}."


def _budget_problems(config: StudyConfig, search: SearchConfig) -> Iterator[tuple[KeyPath, str]]:
    if config.total_trials < len(config.architectures):
        yield (
            ("budget", "trials"),
            f"gives {config.total_trials} trials for {len(config.architectures)} networks; each needs at least one.",
        )
        return
    for name in config.architectures:
        share = config.trials_of(name)
        if len(search.start_with) > share:
            yield (
                ("strategy", "start_with"),
                f"lists more trials than the {share} that {name} gets of the budget; list fewer, or raise the budget.",
            )
        if search.sampler == "grid":
            yield from _grid_problems(config, name, share)


def _grid_problems(config: StudyConfig, name: str, share: int) -> Iterator[tuple[KeyPath, str]]:
    lists = [levels.values for levels in config.factors_of(name).values() if isinstance(levels, Choices)]
    combinations = math.prod(map(len, lists))
    if combinations > MAX_GRID_POINTS:
        yield (
            ("strategy", "sampler"),
            f"{name}'s lists have {combinations:,} combinations, and a grid takes at most {MAX_GRID_POINTS:,}; list "
            "fewer levels, or use another sampler.",
        )
        return
    points = len(config.grid_of(name))
    if share > points:
        yield (
            ("budget", "trials"),
            f"{name}'s grid has {points} points, fewer than its {share} trials; give it at most {points}.",
        )


def _tuning_problems(config: StudyConfig, factorial: FactorialConfig) -> Iterator[tuple[KeyPath, str]]:
    for number, factor in enumerate(factorial.tune):
        key: KeyPath = ("strategy", "tune", number)
        levels = [config.factors_of(name).get(factor) for name in config.architectures]
        if not any(isinstance(given, Choices) and len(given.values) > 1 for given in levels):
            yield key, f"{factor!r} has no list of levels in this study{did_you_mean(factor, config.factors)}"
        elif factorial.design != "full" or factorial.seeds < 2:
            yield (
                key,
                "needs design full and at least 2 seeds: each seed's best level is chosen on the other seeds, so that "
                "the choice does not bias its result.",
            )
    varied = {
        name
        for name in config.factors
        if any(has_several_levels(config.factors_of(one).get(name)) for one in config.architectures)
    }
    if factorial.tune and varied <= set(factorial.tune):
        yield ("strategy", "tune"), "lists every factor that varies; leave at least one out, to study its effect."


def _question_problems(config: StudyConfig) -> Iterator[tuple[KeyPath, str]]:
    """Check that the study can answer its question: the factors asked for vary, and are not tuned."""
    tuned = config.strategy.tune if isinstance(config.strategy, FactorialConfig) else ()
    asked = config.question.factors or ()
    for number, factor in enumerate(asked):
        key: KeyPath = ("question", "factors", number)
        if factor in asked[:number]:
            yield key, f"{factor!r} is listed twice; remove one."
        elif not any(has_several_levels(config.factors_of(one).get(factor)) for one in config.architectures):
            yield key, f"{factor!r} does not vary in this study{did_you_mean(factor, config.factors)}"
        elif factor in tuned:
            yield (
                key,
                f"{factor!r} is tuned (strategy.tune), so that its effect is not estimated; remove it here or there.",
            )


def _factorial_problems(config: StudyConfig, factorial: FactorialConfig) -> Iterator[tuple[KeyPath, str]]:
    yield from _tuning_problems(config, factorial)
    if config.training.early_stopping is not None:
        yield (
            ("training", "early_stopping"),
            "can't be combined with a factorial, whose cells train equally long so that they can be compared; "
            "leave it out (the best epoch is recorded anyway).",
        )
    ranges = _ranges(config) if factorial.design != "qmc" else []
    for factor in ranges:
        yield (
            ("factors", factor),
            f"is a range, and a {factorial.design} design needs lists; list the levels, or use design qmc.",
        )
    too_many = [] if ranges else list(_size_problems(config, factorial))
    yield from too_many
    if ranges or too_many:
        return
    if sum(map(config.cells_of, config.architectures)) < 2 and factorial.least_seeds is not None:
        yield (
            ("strategy", "seeds"),
            "stops when the effects of the factors are clear, and no factor varies; give one number of seeds.",
        )
    elif sum(map(config.cells_of, config.architectures)) < 2 and factorial.seeds < 2:
        yield (
            ("strategy", "seeds"),
            "is 1, and no factor varies: this is a single trial, which shows no spread; use several seeds, give a "
            "factor several levels, or list several architectures.",
        )
    elif config.total_trials > MAX_GRID_POINTS:
        yield (
            ("strategy", "seeds"),
            f"{factorial.seeds} seeds make {config.total_trials:,} trials, and a study takes at most "
            f"{MAX_GRID_POINTS:,}; use fewer seeds or cells.",
        )
    if factorial.fraction is not None:
        yield from _fraction_problems(config, factorial.fraction)


def _size_problems(config: StudyConfig, factorial: FactorialConfig) -> Iterator[tuple[KeyPath, str]]:
    for name in config.architectures:
        combinations = config.combinations_of(name)
        if factorial.cells is not None and 1 < combinations < factorial.cells:
            yield (
                ("strategy", "cells"),
                f"{name}'s levels have {combinations} combinations, fewer than the {factorial.cells} cells; give at "
                f"most {combinations}, or use design full.",
            )
        most = {"full": MAX_GRID_POINTS, "fractional": MAX_FRACTION_CANDIDATES}.get(factorial.design)
        if most is not None and combinations > most:
            yield (
                ("strategy", "design"),
                f"{name}'s lists have {combinations:,} combinations, and a {factorial.design} design takes at most "
                f"{most:,}; list fewer levels, or use design qmc.",
            )


def _fraction_problems(config: StudyConfig, fraction: int) -> Iterator[tuple[KeyPath, str]]:
    """Check that the fraction of the largest grid can estimate its main effects.

    Smaller grids need no check: `fraction_size` gives them as many cells as they need.
    """
    points, name = max(((config.grid_of(name), name) for name in config.architectures), key=lambda pair: len(pair[0]))
    needed, cells = minimum_points(points), math.ceil(len(points) / fraction)
    if cells >= needed or len(points) == 1:
        return
    largest = math.ceil(len(points) / (needed - 1)) - 1
    yield (
        ("strategy", "fraction"),
        f"one in {fraction} of {name}'s {len(points)} cells leaves {cells}, and estimating the effects of its factors "
        f"takes {needed}; " + (f"give at most {largest}." if largest >= 2 else "use design full."),
    )
