"""The factors: everything that a study can vary, one entry each.

A study file gives a factor one level (fixed), a list of levels, or a range:

    batch_size: 32
    batch_size: [8, 16, 32]
    dropout: {low: 0.1, high: 0.7}                       # optional: step: 0.1
    learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}

To add a factor, add its entry to FACTORS and read `spec.levels["<name>"]` where training uses it.
docs/development.md lists what else some factors need.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cnnstudy.config.transfer_modes import FORMS, TRANSFER_MODES, Form, fine_tunes
from cnnstudy.errors import did_you_mean
from cnnstudy.records import PROBE_FIRST, Level, makes_updates, read_probe

AUGMENTATIONS = {
    "none": "the images unchanged",
    "flip": "random horizontal flips",
    "strong": "flips, rotation by up to 15 degrees, zoom by up to 15 %, contrast times 0.8 to 1.2",
}
LEARNING_RATE_SCALINGS = {
    "fixed": "the learning rate as given, whatever the batch size",
    "linear": "multiplied by batch size / 32 (Goyal et al. 2017)",
    "square-root": "multiplied by the square root of batch size / 32 (Krizhevsky 2014)",
}
CLASS_WEIGHTS = {
    "none": "every image counts the same in the loss that training minimises",
    "balanced": "images count inversely to how many training images their class has",
}
BATCH_NORMS = {
    "frozen": "BatchNormalization below the head keeps the source's statistics, scales and offsets",
    "trained": "it trains with the other layers, and normalises by the statistics of each batch",
}
UNFREEZING = {
    "at-once": "all layers that train do so from the first epoch on",
    "gradual": "first the head, then one stage more at a time, from the last one down",
}
PROTOCOLS = {
    "clean": "every training image once per epoch",
    "legacy": "as in tutorials with `steps_per_epoch = total // batch_size`: the iterator is not restarted, so that "
    "every other epoch sees only the images that the previous one left over",
}


@dataclass(frozen=True)
class Choices:
    """A list of levels; a fixed factor has one."""

    values: tuple[Level, ...]


@dataclass(frozen=True)
class Range:
    """All levels from low to high, both included, on a linear or a logarithmic scale."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


Levels = Choices | Range


#: Decides whether a factor is active, from the levels chosen so far and whether the network has auxiliary heads.
Condition = Callable[[Mapping[str, Level], bool], bool]


@dataclass(frozen=True)
class Factor:
    """Something that a study can vary, and how it is written in tables, sentences and figures.

    `default` None stands for the network's own default (`Architecture.defaults`). A factor that is not active in a
    trial has no level there: it is neither sampled nor recorded. The unit "%" means that levels are shares in 0..1.
    """

    name: str  # in study files, CSV and MLflow
    kind: type[int] | type[float] | type[str]
    default: Level | None
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    forms: tuple[Form, ...] = ()  # of its other levels
    active: Condition = lambda levels, has_auxiliary_heads: True
    active_where: str = "always"  # `active` in words
    looks_at: tuple[str, ...] = ()  # the factors whose levels `active` reads
    short: str = ""  # for table headings, if the label is long
    unit: str = ""
    phrase: str = "{label} {level}"  # a level in a sentence
    multiples_of: str = ""  # effects are written as multiples of this instead of as two levels
    always_shown: bool = False  # in every table and title, varied or not
    # only studies that name it have its levels, so that a new factor leaves the records of others alone
    optional: bool = False

    def with_condition(self, active: Condition, where: str, looks_at: tuple[str, ...]) -> Factor:
        """Return the same factor with a condition, and the condition in words."""
        return dataclasses.replace(self, active=active, active_where=where, looks_at=looks_at)

    @property
    def label(self) -> str:
        """Its name in sentences and figures: `batch size`."""
        return self.name.replace("_", " ")

    @property
    def short_label(self) -> str:
        """Its name in table headings: `batch`."""
        return self.short or self.label

    def write(self, level: Level, with_unit: bool = True) -> str:
        """Return a level as text: `16`, `0.5`, `1e-4`, `67 %`."""
        if self.kind is str:
            return str(level)
        if self.kind is int:
            return str(int(level))  # pandas turns a column with missing values into floats
        number = _write_number(100 * float(level) if self.unit == "%" else float(level))
        return f"{number} {self.unit}" if self.unit and with_unit else number

    def write_levels(self, levels: Levels) -> str:
        """Return all levels that a study gives it: `8, 16`, `0.1 to 0.7`."""
        if isinstance(levels, Choices):
            return ", ".join(map(self.write, levels.values))
        return f"{self.write(levels.low)} to {self.write(levels.high)}"

    def describe(self, level: Level) -> str:
        """Return a level as a phrase, as in a trial's title: `batch size 16`, `67 % of the data`, `frozen`."""
        return self.phrase.format(label=self.label, level="no" if level == "none" else self.write(level))

    def compare(self, level: Level, baseline: Level) -> str:
        """Return the comparison of an effect: `batch size 64 instead of 8`, `4 times the training images`."""
        if self.multiples_of:
            return f"{float(level) / float(baseline):.2g} times {self.multiples_of}"
        return f"{self.describe(level)} instead of {self.write(baseline)}"


def _write_number(number: float) -> str:
    """Return a number with up to three significant digits: `0.05`, and below a thousandth `1e-4`."""
    if not 0 < abs(number) < 1e-3:
        return f"{number:.3g}"
    digits, exponent = f"{number:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def _fine_tunes_the_backbone(levels: Mapping[str, Level], _: bool) -> bool:
    return fine_tunes(levels["transfer"])


_WHERE_FINE_TUNED = f"it is active with transfer last-block, {{from: STAGE}}, fine-tune, two-phase and {PROBE_FIRST}"


def _trains_by_gradients(levels: Mapping[str, Level], _: bool) -> bool:
    return makes_updates(levels["transfer"])


def _by_gradients(factor: Factor) -> Factor:
    return factor.with_condition(_trains_by_gradients, "it is active with every transfer mode but probe", ("transfer",))


def _keeps_own_head(levels: Mapping[str, Level], _: bool) -> bool:
    return read_probe(levels["transfer"]) is None


def _trains_backbone_in_one_phase(levels: Mapping[str, Level], _: bool) -> bool:
    return fine_tunes(levels["transfer"]) and levels["transfer"] not in ("two-phase", PROBE_FIRST)


def _trains_auxiliary_heads(levels: Mapping[str, Level], has_auxiliary_heads: bool) -> bool:
    # They branch off below the last block: if that part is frozen, they have nothing to train.
    return has_auxiliary_heads and levels["transfer"] in ("scratch", "fine-tune", "two-phase")


def _weighs_auxiliary_heads(levels: Mapping[str, Level], has_auxiliary_heads: bool) -> bool:
    return _trains_auxiliary_heads(levels, has_auxiliary_heads) and levels["auxiliary_weight"] != 0


# A factor comes after those that its condition reads.
FACTORS: dict[str, Factor] = {
    factor.name: factor
    for factor in (
        Factor(
            "transfer", str, "scratch", choices=tuple(TRANSFER_MODES), forms=FORMS, phrase="{level}", always_shown=True
        ),
        _by_gradients(Factor("batch_size", int, 32, low=1, high=8192, short="batch", always_shown=True)),
        Factor("dropout", float, None, low=0.0, high=0.95, always_shown=True).with_condition(
            _keeps_own_head, f"it is active with every transfer mode but probe and {PROBE_FIRST}", ("transfer",)
        ),
        _by_gradients(Factor("learning_rate", float, None, low=1e-8, high=10.0)),
        _by_gradients(
            Factor(
                "learning_rate_scaling", str, "fixed", choices=tuple(LEARNING_RATE_SCALINGS), phrase="{level} {label}"
            )
        ),
        Factor(
            "data_fraction",
            float,
            1.0,
            low=0.001,
            high=1.0,
            short="data",
            unit="%",
            phrase="{level} of the data",
            multiples_of="the training images",
        ),
        # share of the training images (Zhang et al. 2017)
        Factor("shuffled_labels", float, 0.0, low=0.0, high=1.0, unit="%", phrase="{level} of the labels shuffled"),
        _by_gradients(Factor("protocol", str, "clean", choices=tuple(PROTOCOLS), phrase="{level} {label}")),
        _by_gradients(Factor("augmentation", str, "none", choices=tuple(AUGMENTATIONS), phrase="{level} {label}")),
        # Szegedy et al. 2016, section 7
        _by_gradients(Factor("label_smoothing", float, 0.0, low=0.0, high=0.5, optional=True)),
        # King & Zeng 2001, in the form of scikit-learn and Keras
        Factor("class_weights", str, "none", choices=tuple(CLASS_WEIGHTS), phrase="{level} {label}", optional=True),
        Factor("backbone_learning_rate_multiplier", float, 0.1, low=1e-6, high=10.0).with_condition(
            _fine_tunes_the_backbone, _WHERE_FINE_TUNED, ("transfer",)
        ),
        # Howard & Ruder 2018, section 3.2
        Factor("discriminative", float, 1.0, low=1.0, high=100.0, optional=True).with_condition(
            _fine_tunes_the_backbone, _WHERE_FINE_TUNED, ("transfer",)
        ),
        # section 3.3 there
        Factor(
            "unfreeze", str, "at-once", choices=tuple(UNFREEZING), phrase="{level} unfreezing", optional=True
        ).with_condition(
            _trains_backbone_in_one_phase,
            "it is active with transfer last-block, {from: STAGE} and fine-tune",
            ("transfer",),
        ),
        Factor("batch_norm", str, "frozen", choices=tuple(BATCH_NORMS), optional=True).with_condition(
            _fine_tunes_the_backbone, _WHERE_FINE_TUNED, ("transfer",)
        ),
        Factor("auxiliary_weight", float, None, low=0.0, high=10.0).with_condition(
            _trains_auxiliary_heads,
            "it is active in networks with auxiliary heads, with transfer scratch, fine-tune and two-phase",
            ("transfer",),
        ),
        Factor("auxiliary_dropout", float, None, low=0.0, high=0.95).with_condition(
            _weighs_auxiliary_heads,
            "it is active where auxiliary_weight is active and not 0",
            ("transfer", "auxiliary_weight"),
        ),
    )
}
#: The factors in every table, title and view, varied or not.
ALWAYS_SHOWN = tuple(name for name, factor in FACTORS.items() if factor.always_shown)
#: Networks are compared like the levels of a factor, in a column of this name, though study files list them elsewhere.
NETWORK = Factor("network", str, None, phrase="{level}")


def find_factor(name: str) -> Factor:
    """Return the factor of that name, or NETWORK."""
    return NETWORK if name == NETWORK.name else FACTORS[name]


def describe_levels(levels: Mapping[str, Level], names: Iterable[str]) -> str:
    """Return a trial's levels of these factors: `frozen, batch size 8, 16.7 % of the data`."""
    return ", ".join(FACTORS[name].describe(levels[name]) for name in names if name in levels)


def title_factors(levels: Mapping[str, Level]) -> list[str]:
    """Return the factors to mention in a trial's title: those always shown, and those not at their default."""
    return [
        name
        for name, factor in FACTORS.items()
        if name in levels and (factor.always_shown or factor.default not in (None, levels[name]))
    ]


def parse_levels(name: str, given: Any) -> Levels:
    """Parse the levels that a study file gives for factor `name`.

    Raises:
        ValueError: the factor is unknown, or a level has the wrong type, is out of range or is listed twice, or the
            list is empty; the message says what is allowed.
    """
    if name not in FACTORS:
        raise ValueError(f"unknown factor {name!r}{did_you_mean(name, FACTORS)} The factors are {', '.join(FACTORS)}.")
    factor = FACTORS[name]
    if isinstance(given, Mapping) and _find_form(factor, given) is None:
        return _parse_range(factor, given)
    values = list(given) if isinstance(given, list | tuple) else [given]
    if not values:
        raise ValueError("the list is empty; give at least one level, or leave the factor out for its default.")
    levels = tuple(_parse_level(factor, value) for value in values)
    if len(set(levels)) < len(levels):
        twice = next(level for level in levels if levels.count(level) > 1)
        raise ValueError(f"{twice!r} is listed twice; list each level once.")
    return Choices(levels)


def _parse_level(factor: Factor, given: Any) -> Level:
    if factor.choices:
        form = _find_form(factor, given)
        if form is not None:
            given = form.read(given)
        named = any(re.fullmatch(form.pattern, str(given)) for form in factor.forms)
        if not named and given not in factor.choices:
            raise ValueError(
                f"{format_given(given)} is not a level of {factor.name}{did_you_mean(str(given), factor.choices)}"
                f" Allowed: {_list_choices(factor)}."
            )
        return str(given)
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError(f"{format_given(given)} is not a number; {_allowed(factor)}.")
    if not factor.low <= given <= factor.high:  # false for NaN too
        raise ValueError(f"{format_given(given)} is out of range; {_allowed(factor)}.")
    if factor.kind is int and given != int(given):
        raise ValueError(f"{given!r} is not a whole number; {_allowed(factor)}.")
    return int(given) if factor.kind is int else float(given)


def _find_form(factor: Factor, given: Any) -> Form | None:
    """Return the form in which a level is given; None if it is no mapping, or none of the forms."""
    keys = given if isinstance(given, Mapping) else ()
    return next((form for form in factor.forms if form.first in keys), None)


def _list_choices(factor: Factor) -> str:
    return ", ".join([*factor.choices, *(form.example() for form in factor.forms)])


def _allowed(factor: Factor) -> str:
    number = "whole numbers" if factor.kind is int else "numbers"
    return f"{factor.name} takes {number} from {factor.low:g} to {factor.high:g}"


def _parse_range(factor: Factor, given: Mapping[str, Any]) -> Range:
    if factor.choices:
        raise ValueError(f"{factor.name} takes no range; give a list of {_list_choices(factor)}.")
    for key in given:
        if key not in ("low", "high", "log", "step"):
            raise ValueError(
                f"unknown key {key!r} in a range{did_you_mean(str(key), ('low', 'high', 'log', 'step'))}"
                " A range has low and high, and may have log (true or false) or step."
            )
    if "low" not in given or "high" not in given:
        raise ValueError("a range needs both low and high, as in {low: 0.1, high: 0.7}.")
    low, high = _parse_level(factor, given["low"]), _parse_level(factor, given["high"])
    log, step = given.get("log", False), given.get("step")
    if not isinstance(log, bool):
        raise ValueError(f"log is {format_given(log)}; it must be true or false.")
    if not low < high:  # type: ignore[operator]
        raise ValueError(f"low ({low}) must be below high ({high}).")
    if log and low <= 0:  # type: ignore[operator]
        raise ValueError(f"a log range must start above 0, not at {low}.")
    if step is not None:
        if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step <= high - low:  # type: ignore[operator]
            raise ValueError(f"step is {format_given(step)}; it must be above 0 and at most high - low.")
        if log:
            raise ValueError("a range has log or step, not both.")
        if factor.kind is int and step != int(step):
            raise ValueError(f"step is {step!r}; {factor.name} takes whole numbers.")
        # the range ends at its last step
        high = low + step * math.floor((high - low) / step + 1e-9)  # type: ignore[operator]
        high = int(high) if factor.kind is int else round(high, 12)
    return Range(low, high, log, step)  # type: ignore[arg-type]


def format_given(given: Any) -> str:
    """Return a value from a study file as it is written there, truncated to 100 characters."""
    text = "nothing" if given is None else str(given).lower() if isinstance(given, bool) else repr(given)
    return text if len(text) <= 100 else f"{text[:97]}..."


def is_one_of(level: Level, levels: Levels) -> bool:
    """Check whether a level is one of these levels."""
    if isinstance(levels, Choices):
        return level in levels.values
    if isinstance(level, str) or not levels.low <= level <= levels.high:
        return False
    steps = (level - levels.low) / (levels.step or 1)
    return levels.step is None or abs(steps - round(steps)) < 1e-8


def pick_level(factor: Factor, levels: Levels, position: float) -> Level:
    """Return the level at `position` in [0, 1) of a range or list; equal intervals map to equally many levels."""
    if isinstance(levels, Choices):
        return levels.values[int(position * len(levels.values))]
    low, high = levels.low, levels.high
    if levels.step is not None:
        value = low + levels.step * int(position * (math.floor((high - low) / levels.step + 1e-9) + 1))
        return int(value) if factor.kind is int else round(value, 12)
    if factor.kind is int:
        # half a step beyond both ends, so that low and high are as likely as the others
        low, high = low - 0.5, high + 0.5
    if levels.log:
        value = math.exp(math.log(low) + position * (math.log(high) - math.log(low)))
    else:
        value = low + position * (high - low)
    if factor.kind is int:
        return int(min(max(round(value), levels.low), levels.high))
    return float(min(max(value, levels.low), levels.high))


def complete_levels(
    has_auxiliary_heads: bool,
    defaults: Mapping[str, Level],
    choose: Callable[[Factor], Level | None],
) -> dict[str, Level]:
    """Return the level of every active factor of a trial.

    Args:
        defaults: the network's own.
        choose: returns the level of a factor, or None for the network's default, else the factor's.
    """
    levels: dict[str, Level] = {}
    for factor in FACTORS.values():
        if not factor.active(levels, has_auxiliary_heads):
            continue
        level = choose(factor)
        if level is None and factor.optional:
            continue
        if level is None:
            level = defaults.get(factor.name, factor.default)
        assert level is not None, f"{factor.name} has no default"
        levels[factor.name] = level
    return levels


def grid_points(
    factors: Mapping[str, Levels], has_auxiliary_heads: bool, defaults: Mapping[str, Level]
) -> list[dict[str, Level]]:
    """Return every distinct combination of the levels of `factors`, each without the factors not active in it.

    A range is represented by its two ends.
    """
    combinations: list[dict[str, Level]] = [{}]
    for factor in FACTORS.values():
        default = defaults.get(factor.name, factor.default)
        given = factors.get(factor.name, Choices(() if default is None else (default,)))
        combinations = [
            extended
            for levels in combinations
            for extended in (
                [{**levels, factor.name: level} for level in _list_or_ends(given)]
                if factor.active(levels, has_auxiliary_heads)
                else [levels]
            )
        ]
    return [{name: level for name, level in levels.items() if name in factors} for levels in combinations]


def active_factors(factors: Mapping[str, Levels], has_auxiliary_heads: bool, defaults: Mapping[str, Level]) -> set[str]:
    """Return those of `factors` that are active in at least one trial."""
    in_conditions = {name for factor in FACTORS.values() for name in factor.looks_at}
    # one level is enough of a factor that no condition reads
    reduced = {
        name: levels if name in in_conditions else Choices(_list_or_ends(levels)[:1])
        for name, levels in factors.items()
    }
    return {name for point in grid_points(reduced, has_auxiliary_heads, defaults) for name in point}


def _list_or_ends(levels: Levels) -> tuple[Level, ...]:
    return levels.values if isinstance(levels, Choices) else (levels.low, levels.high)


def recorded_factors(config: Mapping[str, Any], architecture: str) -> dict[str, Levels]:
    """Return the levels that a recorded study file gives for a network, by factor."""
    factors = {}
    for factor, given in config.get("factors", {}).items():
        is_by_network = isinstance(given, Mapping) and "low" not in given
        levels = given.get(architecture) if is_by_network else given
        if levels is not None:
            factors[factor] = parse_levels(factor, levels)
    return factors
