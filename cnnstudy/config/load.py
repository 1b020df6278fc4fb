"""Read a study file into a frozen, fully checked StudyConfig, without importing TensorFlow: `load_study`.

An error names the file, the line, the key, what was given and what is allowed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from cnnstudy import architectures
from cnnstudy.config.checks import combination_problems
from cnnstudy.config.factors import format_given
from cnnstudy.config.find import advise_own_images, find_file
from cnnstudy.config.schema import StudyConfig
from cnnstudy.config.yaml_text import KEYS_OF_NAMES, MOST_BYTES, NotYamlError, parse
from cnnstudy.data.archives import ARCHIVE_SUFFIXES
from cnnstudy.errors import MAX_LISTED, ConfigError, UnknownNameError
from cnnstudy.system.validation import KeyPath

#: The keys whose values are paths.
_PATHS = re.compile(r"data\.path|weights\..+\.(data\.path|file)")
#: How the name of a network of one's own begins; a path follows.
_OWN_NETWORK = "file:"

NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Study:
    """A checked study, and the file and overrides it was read from; paths in the overrides are absolute."""

    config: StudyConfig
    path: Path
    text: str
    overrides: tuple[str, ...] = ()


def load_study(name_or_path: str, overrides: Sequence[str] = (), options: Mapping[str, str] = NO_OPTIONS) -> Study:
    """Read and check a study file: a path, or the name of one in ./experiments or of one that comes with cnnstudy.

    Relative paths in the file are relative to its folder, wherever the command runs.

    Args:
        overrides: `key=value`, applied on top of the file; keys are dotted, values are YAML, and relative paths are
            relative to the working folder.
        options: dotted keys that overrides set for an option of the command line -> the option, which problems name.

    Raises:
        ConfigError: there is no such file, it is not YAML, or something in it is invalid; every problem is listed.
    """
    path = find_file(name_or_path)
    text = _read_text(path)
    try:
        tree, raw = parse(text)
    except NotYamlError as error:
        raise ConfigError(f"{path}{f', line {error.line}' if error.line else ''}: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} holds no keys; a study file starts with `name: ...`. See experiments/quickstart.yaml."
        )
    folder = path.absolute().parent
    raw = _anchor_paths(raw, folder)
    applied = [_apply_override(raw, override, options) for override in overrides]
    overridden = [keys for keys, _ in applied]
    raw, as_written = _name_networks(raw, folder)

    def locate(key: KeyPath, problem: str) -> tuple[float, str]:
        """Return the line to sort by, those of the command line last, and the message."""
        key = tuple(as_written.get(part, part) if isinstance(part, str) else part for part in key)
        for name, written in as_written.items():
            problem = problem.replace(name, written)
        dotted = ".".join(map(str, key))
        line = _line_of(tree, key)
        for keys in overridden:
            if key[: len(keys)] == keys or (keys[: len(key)] == key and not line):
                return math.inf, f"{options.get('.'.join(map(str, keys)), f'--set {dotted}')}: {problem}"
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
        raise ConfigError(f"{path} is an archive, not a study file. {advise_own_images(path)}")
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

    The name of imported weights becomes the path of their file, in the folder `weights` beside the study file. Names of
    networks of one's own hold paths, wherever they are given.
    """
    if isinstance(node, dict):
        return {
            _anchor_network(name, folder): _anchor_paths(value, folder, (*key, name)) for name, value in node.items()
        }
    if key == ("architectures",):
        return [_anchor_network(name, folder) for name in node] if isinstance(node, list) else node
    if not isinstance(node, str) or node.startswith("~") or not is_path_key(key):
        return node
    imported = folder / "weights" / f"{node}.npz"
    is_name = key[0] == "weights" and not os.path.exists(folder / node) and os.path.isfile(imported)
    return str(imported if is_name else folder / node)


def _anchor_network(name: Any, folder: Path) -> Any:
    is_own = isinstance(name, str) and name.startswith(_OWN_NETWORK) and not name.startswith(f"{_OWN_NETWORK}~")
    return f"{_OWN_NETWORK}{folder / name.removeprefix(_OWN_NETWORK)}" if is_own else name


def _name_networks(raw: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the content of a study file with the networks of one's own named by their content.

    Those that can't be used keep their names, which StudyConfig refuses.

    Args:
        raw: with absolute paths.

    Returns:
        The content, and each such network as the file gives it.
    """
    given = raw.get("architectures")
    names: dict[str, str] = {}
    for name in given if isinstance(given, list) else ():
        if isinstance(name, str) and name.startswith(_OWN_NETWORK):
            with contextlib.suppress(UnknownNameError, ConfigError):
                names[name] = architectures.find(name).name

    def rename(node: Any) -> Any:
        if isinstance(node, dict):
            return {names.get(key, key): rename(value) for key, value in node.items()}
        return node

    renamed = rename(raw)
    if names:
        renamed["architectures"] = [names.get(name, name) if isinstance(name, str) else name for name in given or ()]
    start = f"{_OWN_NETWORK}{folder}{os.sep}"
    return renamed, {new: old.replace(start, _OWN_NETWORK, 1) for old, new in names.items()}


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
    except (KeyError, TypeError, ValueError, OSError):  # the key was given with --set, or its value is no path
        return ""
    return (
        f" Paths in a study file are relative to its folder; for the one in the working folder write "
        f"{json.dumps(os.path.relpath(given, folder), ensure_ascii=False)}."
    )


def _list_by_line(problems: Iterable[tuple[float, str]]) -> str:
    messages = [message for _, message in sorted(problems, key=lambda problem: problem[0])]
    more = [f"and {len(messages) - MAX_LISTED} more"] if len(messages) > MAX_LISTED else []
    return "\n".join([*messages[:MAX_LISTED], *more])


def _apply_override(raw: dict[str, Any], override: str, options: Mapping[str, str]) -> tuple[KeyPath, str]:
    """Apply `key=value` to `raw`; return the key it set, and the override as it works from every folder.

    Args:
        options: keys that options of their own gave, to name them in messages.

    Raises:
        ConfigError: the override is malformed.
    """
    dotted, equals, value = override.partition("=")
    keys, shown = tuple(dotted.strip().split(".")), options.get(dotted, f"--set {override}")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override!r} is not key=value, as in --set training.epochs=5.")
    node: Any = raw
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{shown}: {key!r} holds no keys of its own, so it can't hold {keys[-1]!r}.")
    try:
        # as in a file, where names are read as they are written
        named = keys[-1] in KEYS_OF_NAMES
        parsed = parse(f"{keys[-1]}: {value}")[1][keys[-1]] if named else parse(value)[1]
    except NotYamlError as error:
        raise ConfigError(f"{shown}: {error}") from error
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
