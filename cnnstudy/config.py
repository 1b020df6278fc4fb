"""A study file to a frozen StudyConfig: everything is checked here, before TensorFlow is imported.

`load_study` is the one way in. An error names the file, the line, the key, what was given and what is allowed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ruamel.yaml
from pydantic import ValidationError

from cnnstudy import architectures
from cnnstudy.errors import ConfigError, did_you_mean
from cnnstudy.schema import NEED_WEIGHTS, StudyConfig
from cnnstudy.space import FACTORS, Choices, Levels, Range, is_among, shown
from cnnstudy.strict import KeyPath

#: Of what YAML calls tags, those that say what is there anyway.
PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}
MOST_GRID_POINTS = 100_000
#: The study files that come with cnnstudy, where it runs from a checkout.
SHIPPED = Path(__file__).parent.parent / "experiments"


@dataclass(frozen=True)
class Study:
    """A checked study, and the file it came from."""

    config: StudyConfig
    path: Path
    text: str
    overrides: tuple[str, ...] = ()


def load_study(name_or_path: str, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file: a path, or the name of one in ./experiments.

    Args:
        overrides: `key=value` on top of the file; keys are dotted, values are YAML.

    Raises:
        ConfigError: no such file, not YAML, or anything in it that can't be used; every problem is listed.
    """
    path = _find_file(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: is not UTF-8 text ({error.reason}); save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror or error}.") from error
    try:
        tree, raw = _parse(text)
    except _NotYamlError as error:
        raise ConfigError(f"{path}{f', line {error.line}' if error.line else ''}: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} holds no keys; a study file starts with `name: ...`. See experiments/quickstart.yaml."
        )
    changed = [_override(raw, text_of_one) for text_of_one in overrides]

    def problem(key: KeyPath, text: str) -> str:
        dotted = ".".join(map(str, key))
        line = _line_of(tree, key)
        if any(key[: len(override)] == override or (override[: len(key)] == key and not line) for override in changed):
            return f"--set {dotted}: {text}"
        return ", ".join(filter(None, (str(path), f"line {line}" if line else "", dotted))) + f": {text}"

    try:
        config = StudyConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(problem(*_explain(details)) for details in error.errors())) from None
    problems = [problem(*found) for found in _combination_problems(config)]
    if problems:
        raise ConfigError("\n".join(problems))
    return Study(config, path, text, tuple(overrides))


def _find_file(name_or_path: str) -> Path:
    try:
        given = Path(name_or_path).expanduser()
        if given.is_file():
            return given
        if name_or_path and given.is_dir():
            raise ConfigError(f"{given} is a folder; give a study file in it, as {given / 'study.yaml'}.")
    except (OSError, RuntimeError) as error:  # a name too long, or the home of nobody
        raise ConfigError(f"there is no study file {shown(name_or_path)}: {error}.") from error
    folders = [Path("experiments"), SHIPPED]
    if given.suffix not in (".yaml", ".yml"):
        for folder in folders:
            if (folder / f"{name_or_path}.yaml").is_file():
                return folder / f"{name_or_path}.yaml"
    known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    raise ConfigError(
        f"there is no study file {name_or_path!r}{did_you_mean(given.stem, known)} "
        f"Give a path, or one of the names in experiments/: {', '.join(known) or 'none here'}."
    )


class _NotYamlError(Exception):
    """What keeps a text from being read as YAML, and the line (from 1) where it is known."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.line = line


def _parse(text: str) -> tuple[Any, Any]:
    """YAML with the marks that ruamel.yaml keeps for lines and comments, and without."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ruamel.yaml.error.ReusedAnchorWarning)
            tree = ruamel.yaml.YAML(typ="rt").load(text)
        _refuse_tags(tree)
        return tree, _plain(tree)
    except ruamel.yaml.error.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        found = error.problem or error.context
        what = "keep one" if isinstance(error, ruamel.yaml.constructor.DuplicateKeyError) else "this is not YAML"
        raise _NotYamlError(f"{found}; {what}.", mark.line + 1 if mark else None) from error
    except ruamel.yaml.YAMLError as error:
        raise _NotYamlError(f"this is not YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise _NotYamlError("it is nested too deeply, or holds itself by an alias.") from error
    except (ValueError, TypeError) as error:  # a date like 2024-13-45, a number of 5,000 digits
        raise _NotYamlError(f"a value in it can't be read: {error}; put it in quotes if it is text.") from error


def _refuse_tags(node: Any, line: int | None = None) -> None:
    own = getattr(getattr(node, "lc", None), "line", None)
    line = line if own is None else own + 1
    tag = getattr(getattr(node, "tag", None), "value", None)
    if tag is not None and tag not in PLAIN_TAGS:
        name = str(tag).replace("tag:yaml.org,2002:", "!!")
        raise _NotYamlError(f"the tag {name} has no meaning in a study file; take it out.", line)
    for part in [*node, *node.values()] if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        _refuse_tags(part, line)


def _plain(node: Any) -> Any:
    """Without the marks that ruamel.yaml keeps for lines and comments."""
    if isinstance(node, Mapping):
        return {(key if isinstance(key, int) else str(key)): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    if isinstance(node, ruamel.yaml.scalarbool.ScalarBoolean):  # an int by type
        return bool(node)
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return None if node is None else str(node)  # a date, say, is the text that it was


def _override(raw: dict[str, Any], override: str) -> KeyPath:
    """Set what `key=value` says; the keys it touched."""
    dotted, equals, value = override.partition("=")
    keys = tuple(dotted.strip().split("."))
    if not equals or not all(keys):
        raise ConfigError(f"--set {override!r} is not key=value, as in --set training.epochs=5.")
    node: Any = raw
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override}: {key!r} is not a group of keys, it can't hold {keys[-1]!r}.")
    try:
        node[keys[-1]] = _parse(value)[1]
    except _NotYamlError as error:
        raise ConfigError(f"--set {override}: {error}") from error
    return keys


def _line_of(node: Any, key: KeyPath) -> int | None:
    """The line (from 1) of the deepest part of the key that the file has."""
    line, tree = None, node
    for part in key:
        try:
            marks = tree.lc
            position = marks.key(part) if isinstance(tree, Mapping) else marks.item(part)
            line, tree = position[0] + 1, tree[part]
        except (KeyError, IndexError, TypeError, AttributeError):
            break
    return line


#: pydantic's kinds of errors that its own words do not tell to somebody who writes YAML.
_IN_WORDS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "string": "must be text, in quotes if need be",
    "path": "must be the path of a file",
    "tuple": "must be a list, as in [a, b]",
    "dict": "must hold keys of its own, as in {key: value}",
    "model": "must hold keys of its own, as in {key: value}",
}


def _explain(details: Any) -> tuple[KeyPath, str]:
    """pydantic's error as the key it is about, and a sentence."""
    key: KeyPath = tuple(part for part in details["loc"] if part != "[key]")
    text = details["msg"].removeprefix("Value error, ")
    if details["type"] in ("stated", "value_error"):
        return key, text
    if details["type"] == "missing":
        return key, "is missing; the study file must give it."
    if details["type"] == "too_short":
        text = f"must have at least {details['ctx']['min_length']} in its list"
    text = text.replace("Input should", "must").replace("must be a finite", "must be a")
    kind = details["type"].removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float")
    return key, f"{_IN_WORDS.get(kind, text)}, not {shown(details['input'])}."


def _combination_problems(config: StudyConfig) -> Iterator[tuple[KeyPath, str]]:
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
        if weights.data is not None and weights.data == config.data:
            yield (*key, "data"), "is the study's own data; source weights must come from other images."
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
