"""Read YAML within limits of size and depth, without tags, and with the names in lists as they are written."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Mapping
from typing import Any

import ruamel.yaml

#: The YAML tags that are harmless: they only repeat the type that a value has anyway.
PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}
#: The tags of values that YAML takes for something else than text because of their form.
_READ_BY_FORM = PLAIN_TAGS | {f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "merge", "value")}
#: Larger or deeper files are refused: they are no study files, and reading them takes minutes.
MOST_BYTES, MOST_VALUES = 1_000_000, 10_000
_DEEP = re.compile(r"([\[{][^\[{\]}]{0,40}){100}")


class NotYamlError(Exception):
    """A text can't be read as YAML. `line` counts from 1; None if unknown."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.line = line


#: Keys of lists of names, which people write without quotes.
KEYS_OF_NAMES = ("classes", "ignore_folders")


class _NamesAsWritten(ruamel.yaml.constructor.RoundTripConstructor):
    """Reads the names in lists of classes and folders as the text that is in the file: 1.10, 001, 1e3, no are names."""

    def construct_document(self, node: Any) -> Any:
        as_text: dict[int, tuple[Any, Any]] = {}  # each list and its text, once, however often aliases repeat it
        for mapping in _list_mappings(node):
            for index, (key, value) in enumerate(mapping.value):
                if key.value in KEYS_OF_NAMES:
                    if id(value) not in as_text:
                        as_text[id(value)] = value, _as_text(value)
                    mapping.value[index] = key, as_text[id(value)][1]
        return super().construct_document(node)


def _list_mappings(root: Any) -> list[Any]:
    """Return the mappings in a document, each once, however often aliases repeat it."""
    waiting, seen, found = [root], set(), []
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(node.value, list):
            continue
        seen.add(id(node))
        if isinstance(node, ruamel.yaml.nodes.MappingNode):
            found.append(node)
            waiting += [value for _, value in node.value]
        else:
            waiting += node.value
    return found


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
        is_plain_or_null = re.fullmatch(r"0|[1-9][0-9]*|", part.value) is not None  # "": nothing was written
        if is_read_by_form and not is_plain_or_null:
            part.tag = "tag:yaml.org,2002:str"
    return names


def parse(text: str) -> tuple[Any, Any]:
    """Parse YAML, and return it with ruamel.yaml's marks for lines and comments, and as plain types.

    Raises:
        NotYamlError: it is not YAML, has too many values, or has a tag, a value or a nesting that can't be read.
    """
    try:
        if deep := _DEEP.search(text):
            raise NotYamlError("it is nested too deeply.", text.count("\n", 0, deep.start()) + 1)
        reader = ruamel.yaml.YAML(typ="rt")
        reader.Constructor = _NamesAsWritten
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ruamel.yaml.error.ReusedAnchorWarning)
            tree = reader.load(text)
        _refuse_tags_and_size(tree)
        return tree, _plain(tree)
    except ruamel.yaml.error.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = error.problem or error.context
        advice = "keep one" if isinstance(error, ruamel.yaml.constructor.DuplicateKeyError) else "this is not YAML"
        raise NotYamlError(f"{reason}; {advice}.", mark.line + 1 if mark else None) from error
    except ruamel.yaml.YAMLError as error:
        raise NotYamlError(f"this is not YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise NotYamlError("it is nested too deeply, or contains itself through an alias.") from error
    except (ValueError, TypeError) as error:  # a date like 2024-13-45, a number of 5,000 digits
        raise NotYamlError(f"a value in it can't be read: {error}; put it in quotes if it is text.") from error


def _refuse_tags_and_size(tree: Any) -> None:
    """Raise NotYamlError if there are too many values, counting each as often as aliases repeat it, or a tag."""
    waiting: list[tuple[Any, int | None]] = [(tree, None)]  # a node, and the line of the nearest one that has a line
    count = 0
    while waiting:
        node, line = waiting.pop()
        own = getattr(getattr(node, "lc", None), "line", None)
        line = line if own is None else own + 1
        count += 1
        if count > MOST_VALUES:
            raise NotYamlError(
                f"it has more than {MOST_VALUES:,} values, counting those that aliases repeat.",
                line,
            )
        tag = getattr(getattr(node, "tag", None), "value", None)
        if tag is not None and tag not in PLAIN_TAGS:
            name = str(tag).replace("tag:yaml.org,2002:", "!!")
            raise NotYamlError(f"the tag {name} has no meaning in a study file; remove it.", line)
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
