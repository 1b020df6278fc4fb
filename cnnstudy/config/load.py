"""Read a study file into a frozen, fully checked StudyConfig, without importing TensorFlow.

`load_study` is the only entry point. An error names the file, the line, the key, what was given and what is allowed.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import operator
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ruamel.yaml
from pydantic import ValidationError

import cnnstudy
from cnnstudy.config.checks import combination_problems
from cnnstudy.config.factors import format_given
from cnnstudy.config.schema import StudyConfig
from cnnstudy.data.archives import ARCHIVE_SUFFIXES
from cnnstudy.errors import ConfigError, nearest_name
from cnnstudy.system.validation import KeyPath

#: The YAML tags that are harmless: they only repeat the type that a value has anyway.
PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}
#: The tags of values that YAML takes for something else than text because of their form.
_READ_BY_FORM = PLAIN_TAGS | {f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "merge", "value")}
#: Larger or deeper files are refused: they are no study files, and reading them takes minutes.
MOST_BYTES, MOST_VALUES = 1_000_000, 10_000
_DEEP = re.compile(r"([\[{][^\[{\]}]{0,40}){100}")
#: The study files that come with cnnstudy, if it runs from a checkout.
SHIPPED_STUDIES = Path(cnnstudy.__file__).parent.parent / "experiments"
_STUDY_FOLDERS = (Path("experiments"), SHIPPED_STUDIES)
#: The keys whose values are paths.
_PATHS = re.compile(r"data\.path|weights\.[^.]+\.(data\.path|file)")


@dataclass(frozen=True)
class Study:
    """A checked study, and the file and overrides it was read from; paths in the overrides are absolute."""

    config: StudyConfig
    path: Path
    text: str
    overrides: tuple[str, ...] = ()


def load_study(name_or_path: str, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file: a path, or the name of one in ./experiments.

    Relative paths in the file are relative to its folder, wherever the command runs.

    Args:
        overrides: `key=value`, applied on top of the file; keys are dotted, values are YAML, and relative paths are
            relative to the working folder.

    Raises:
        ConfigError: there is no such file, it is not YAML, or something in it is invalid; every problem is listed.
    """
    path = _find_file(name_or_path)
    text = _read_text(path)
    try:
        tree, raw = _parse(text)
    except _NotYamlError as error:
        raise ConfigError(f"{path}{f', line {error.line}' if error.line else ''}: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} holds no keys; a study file starts with `name: ...`. See experiments/quickstart.yaml."
        )
    folder = path.absolute().parent
    raw = _anchor_paths(raw, folder)
    applied = [_apply_override(raw, override) for override in overrides]
    overridden = [keys for keys, _ in applied]

    def locate(key: KeyPath, problem: str) -> tuple[float, str]:
        """Return the line to sort by, those of the command line last, and the message."""
        dotted = ".".join(map(str, key))
        line = _line_of(tree, key)
        if any(key[: len(keys)] == keys or (keys[: len(key)] == key and not line) for keys in overridden):
            return math.inf, f"--set {dotted}: {problem}"
        shown = ", ".join(filter(None, (str(path), f"line {line}" if line else "", dotted)))
        return line or 0, f"{shown}: {problem}{_advise_on_folder(tree, key, folder)}"

    try:
        config = StudyConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_list_by_line(locate(*explain_problem(details)) for details in error.errors())) from None
    problems = [locate(key, problem) for key, problem in combination_problems(config)]
    if problems:
        raise ConfigError(_list_by_line(problems))
    return Study(config, path, text, tuple(override for _, override in applied))


def _read_text(path: Path) -> str:
    if path.name.lower().endswith(ARCHIVE_SUFFIXES):
        raise ConfigError(f"{path} is an archive, not a study file. {_advise_own_images(path)}")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path} has more than {MOST_BYTES:,} bytes; a study file has a few hundred.")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: is not UTF-8 text ({error.reason}); save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror or error}.") from error


def is_path_key(key: KeyPath) -> bool:
    """Check whether the value of a key is the path of images or of a weights file."""
    return _PATHS.fullmatch(".".join(map(str, key))) is not None


def _anchor_paths(node: Any, folder: Path, key: KeyPath = ()) -> Any:
    """Return a part of a study file, the one at the key, with its relative paths made absolute.

    The name of imported weights becomes the path of their file, in the folder `weights` beside the study file.
    """
    if isinstance(node, dict):
        return {name: _anchor_paths(value, folder, (*key, name)) for name, value in node.items()}
    if not isinstance(node, str) or node.startswith("~") or not is_path_key(key):
        return node
    imported = folder / "weights" / f"{node}.npz"
    is_name = key[0] == "weights" and not os.path.exists(folder / node) and os.path.isfile(imported)
    return str(imported if is_name else folder / node)


def _advise_on_folder(tree: Any, key: KeyPath, folder: Path) -> str:
    """Return a hint if a relative path in a study file leads somewhere from the working folder, and not from its own.

    Args:
        tree: the file's content.
        folder: of the file.
    """
    if not is_path_key(key):
        return ""
    try:
        given = functools.reduce(operator.getitem, key, tree)
        if not isinstance(given, str) or given.startswith("~") or (folder / given).exists() or not Path(given).exists():
            return ""
    except (KeyError, TypeError, ValueError, OSError):  # it is in no file, or no path
        return ""
    return (
        f" Paths in a study file are relative to its folder; for the one in the working folder write "
        f"{json.dumps(os.path.relpath(given, folder), ensure_ascii=False)}."
    )


def _list_by_line(problems: Iterable[tuple[float, str]]) -> str:
    return "\n".join(message for _, message in sorted(problems, key=lambda problem: problem[0]))


def _find_file(name_or_path: str) -> Path:
    try:
        given = Path(name_or_path).expanduser()
        if given.is_file():
            return given
        if name_or_path and given.is_dir():
            raise ConfigError(_describe_folder(given))
    except (OSError, RuntimeError) as error:  # the name is too long, or `~` names no user
        raise ConfigError(f"there is no study file {format_given(name_or_path)}: {error}.") from error
    if given.suffix not in (".yaml", ".yml"):
        for folder in _STUDY_FOLDERS:
            if (folder / f"{name_or_path}.yaml").is_file():
                return folder / f"{name_or_path}.yaml"
    known = list_studies()
    raise ConfigError(
        f"there is no study file {name_or_path!r}{_suggest_file(given, known)} "
        f"Give a path, or one of the names in experiments/: {', '.join(known) or 'none here'}."
    )


def list_studies() -> list[str]:
    """Return the names of the studies in ./experiments, and of those that come with cnnstudy."""
    return sorted({file.stem for folder in _STUDY_FOLDERS for file in folder.glob("*.yaml")})


def _suggest_file(given: Path, known: Sequence[str]) -> str:
    """Return the end of a sentence: the file that was meant, in the same folder or among the known names."""
    beside = {file.stem: str(file) for file in _study_files(given.parent)}
    meant = beside.get(given.name) or beside.get(given.stem) or nearest_name(given.stem, known)
    near = nearest_name(given.stem, beside)
    meant = meant or (None if near is None else beside[near])
    return "." if meant is None else f"; did you mean {meant!r}?"


def _study_files(folder: Path) -> list[Path]:
    return sorted(file for suffix in ("yaml", "yml") for file in folder.glob(f"*.{suffix}"))


def _describe_folder(folder: Path) -> str:
    """Say that a folder is no study file, and which to give: one in it, or one that reads its images."""
    files = [str(file) for file in _study_files(folder)]
    if files:
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        return f"{folder} is a folder; give a study file in it: {', '.join(files[:5])}{more}."
    if any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir()):
        return f"{folder} is a folder, not a study file. {_advise_own_images(folder)}"
    return f"{folder} is a folder; give a study file in it, as {folder / 'study.yaml'}."


def _advise_own_images(path: Path) -> str:
    shown = str(path) if re.fullmatch(r"[\w./~-]+", str(path)) else json.dumps(str(path), ensure_ascii=False)
    return (
        f"To train on the images in it, write `data: {{name: folder, path: {shown}}}` into a study file, as in the "
        "README under 'Your own photos', and give that file."
    )


class _NotYamlError(Exception):
    """A text can't be read as YAML. `line` counts from 1; None if unknown."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.line = line


#: Keys of lists of names, which people write without quotes.
_KEYS_OF_NAMES = ("classes", "ignore_folders")


class _NamesAsWritten(ruamel.yaml.constructor.RoundTripConstructor):
    """Reads the names in lists of classes and folders as the text that is in the file: 1.10, 001, 1e3, no are names."""

    def construct_document(self, node: Any) -> Any:
        waiting, seen = [node], set()
        names: dict[int, tuple[Any, Any]] = {}  # each list and its text, once, however often aliases repeat it
        while waiting:
            one = waiting.pop()
            if id(one) in seen or not isinstance(one.value, list):
                continue
            seen.add(id(one))
            pairs = (
                one.value if isinstance(one, ruamel.yaml.nodes.MappingNode) else [(None, part) for part in one.value]
            )
            for index, (key, value) in enumerate(pairs):
                waiting.append(value)
                if key is not None and key.value in _KEYS_OF_NAMES:
                    if id(value) not in names:
                        names[id(value)] = value, _as_text(value)
                    one.value[index] = key, names[id(value)][1]
        return super().construct_document(node)


def _as_text(node: Any) -> Any:
    """Return a list's node whose values are text, or numbers that are written as they are read, such as 7.

    It is a copy, because an alias may use the list elsewhere.
    """
    if not isinstance(node, ruamel.yaml.nodes.SequenceNode):
        return node
    names = copy.copy(node)
    names.value = [copy.copy(part) for part in node.value]
    for part in names.value:
        is_read_by_form = isinstance(part, ruamel.yaml.nodes.ScalarNode) and part.tag in _READ_BY_FORM
        if is_read_by_form and not re.fullmatch(r"0|[1-9][0-9]*|", part.value):
            part.tag = "tag:yaml.org,2002:str"
    return names


def _parse(text: str) -> tuple[Any, Any]:
    """Parse YAML, and return it with ruamel.yaml's marks for lines and comments, and as plain types.

    Raises:
        _NotYamlError: it is not YAML, has too many values, or has a tag, a value or a nesting that can't be read.
    """
    try:
        if deep := _DEEP.search(text):
            raise _NotYamlError("it is nested too deeply.", text.count("\n", 0, deep.start()) + 1)
        reader = ruamel.yaml.YAML(typ="rt")
        reader.Constructor = _NamesAsWritten
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ruamel.yaml.error.ReusedAnchorWarning)
            tree = reader.load(text)
        _check_nodes(tree)
        return tree, _plain(tree)
    except ruamel.yaml.error.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = error.problem or error.context
        advice = "keep one" if isinstance(error, ruamel.yaml.constructor.DuplicateKeyError) else "this is not YAML"
        raise _NotYamlError(f"{reason}; {advice}.", mark.line + 1 if mark else None) from error
    except ruamel.yaml.YAMLError as error:
        raise _NotYamlError(f"this is not YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise _NotYamlError("it is nested too deeply, or contains itself through an alias.") from error
    except (ValueError, TypeError) as error:  # a date like 2024-13-45, a number of 5,000 digits
        raise _NotYamlError(f"a value in it can't be read: {error}; put it in quotes if it is text.") from error


def _check_nodes(tree: Any) -> None:
    """Raise _NotYamlError if there are too many values, counting each as often as aliases repeat it, or a tag."""
    waiting: list[tuple[Any, int | None]] = [(tree, None)]  # a node, and the line of the nearest one that has a line
    count = 0
    while waiting:
        node, line = waiting.pop()
        own = getattr(getattr(node, "lc", None), "line", None)
        line = line if own is None else own + 1
        count += 1
        if count > MOST_VALUES:
            raise _NotYamlError(
                f"it has more than {MOST_VALUES:,} values, counting those that aliases repeat.",
                line,
            )
        tag = getattr(getattr(node, "tag", None), "value", None)
        if tag is not None and tag not in PLAIN_TAGS:
            name = str(tag).replace("tag:yaml.org,2002:", "!!")
            raise _NotYamlError(f"the tag {name} has no meaning in a study file; remove it.", line)
        parts = [*node, *node.values()] if isinstance(node, Mapping) else node if isinstance(node, list) else ()
        waiting += [(part, line) for part in reversed(parts)]


def _plain(node: Any) -> Any:
    """Return the node as plain types, without ruamel.yaml's marks for lines and comments."""
    if isinstance(node, Mapping):
        return {(key if isinstance(key, int) else str(key)): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    if isinstance(node, ruamel.yaml.scalarbool.ScalarBoolean):  # a subclass of int
        return bool(node)
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return None if node is None else str(node)  # such as a date, as the text that it was


def _apply_override(raw: dict[str, Any], override: str) -> tuple[KeyPath, str]:
    """Apply `key=value` to `raw`; return the key it set, and the override as it works from every folder.

    Raises:
        ConfigError: the override is malformed.
    """
    dotted, equals, value = override.partition("=")
    keys = tuple(dotted.strip().split("."))
    if not equals or not all(keys):
        raise ConfigError(f"--set {override!r} is not key=value, as in --set training.epochs=5.")
    node: Any = raw
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override}: {key!r} holds no keys of its own, so it can't hold {keys[-1]!r}.")
    try:
        # as in a file, where names are read as they are written
        named = keys[-1] in _KEYS_OF_NAMES
        parsed = _parse(f"{keys[-1]}: {value}")[1][keys[-1]] if named else _parse(value)[1]
    except _NotYamlError as error:
        raise ConfigError(f"--set {override}: {error}") from error
    anchored = node[keys[-1]] = _anchor_paths(parsed, Path.cwd(), keys)
    return keys, override if anchored == parsed else f"{dotted}={json.dumps(anchored, ensure_ascii=False)}"


def _line_of(node: Any, key: KeyPath) -> int | None:
    """Return the line (from 1) of the deepest part of the key that the file contains; None if it has no part of it."""
    line, tree = None, node
    for part in key:
        try:
            marks = tree.lc
            position = marks.key(part) if isinstance(tree, Mapping) else marks.item(part)
            line, tree = position[0] + 1, tree[part]
        except (KeyError, IndexError, TypeError, AttributeError):
            break
    return line


#: pydantic's types of errors, in words for someone who writes YAML.
_EXPLANATIONS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "string": "must be text, in quotes if need be",
    "path": "must be the path of a file",
    "tuple": "must be a list, as in [a, b]",
    "dict": "must hold keys of its own, as in {key: value}",
    "model": "must hold keys of its own, as in {key: value}",
}


def explain_problem(details: Any) -> tuple[KeyPath, str]:
    """Return the key that pydantic's error is about, and a sentence about it."""
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
    return key, f"{_EXPLANATIONS.get(kind, text)}, not {format_given(details['input'])}."
