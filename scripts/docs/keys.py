"""The page of all keys of study files, made from their JSON Schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

INTRODUCTION = """\
# Keys of a study file

Made from the JSON Schema that `python -m cnnstudy schema` prints: what each key takes by itself. What the keys are
for, and which go together, is in [Study files](docs/study-files.md).
"""
FILE = "The file"
#: Keys of a number's schema -> how its ends are written.
ENDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
#: More words than these that a key takes are listed below the table.
MOST_WORDS = 20
NAMES = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "`true` or `false`"}


class KeysPage:
    """A section with a table for each object that has keys, linked where a key takes it."""

    def __init__(self, schema: Schema) -> None:
        self._definitions = schema["$defs"]
        self._sections: dict[int, tuple[str, Schema]] = {}
        self._collect("", schema)

    def write(self) -> str:
        """Return the page as MyST Markdown."""
        parts = [INTRODUCTION]
        for title, schema in self._sections.values():
            described = "" if title == FILE else f"{schema['description']}\n\n"  # that of the file speaks of the code
            parts.append(f"\n({_anchor(title)})=\n## {title}\n\n{described}{self._table(schema)}")
        return "".join(parts)

    def _collect(self, path: str, schema: Schema) -> None:
        """Add the objects with keys that a key takes, then those below them; what a factor takes is told in its row."""
        found = [one for one in self._alternatives(schema) if "properties" in one and id(one) not in self._sections]
        for one in found:
            kinds = [key["const"] for name in ("name", "kind") if "const" in (key := one["properties"].get(name, {}))]
            self._sections[id(one)] = (": ".join([path or FILE, *kinds]), one)
        for one in found if path != "factors" else []:
            for key, value in one["properties"].items():
                below = f"{path}.{key}" if path else key
                self._collect(below, value)
                if isinstance(value.get("additionalProperties"), dict):
                    self._collect(below, value["additionalProperties"])

    def _alternatives(self, schema: Schema) -> Iterator[Schema]:
        """Yield what a schema allows, without `null`, which stands for a key that is not there."""
        if "$ref" in schema:
            yield from self._alternatives(self._find(schema))
        elif one_of := schema.get("anyOf") or schema.get("oneOf"):
            for one in one_of:
                yield from self._alternatives(one)
        elif schema.get("type") != "null":
            yield schema

    def _find(self, reference: Schema) -> Schema:
        found: Schema = self._definitions[reference["$ref"].rpartition("/")[2]]
        return found

    def _table(self, schema: Schema) -> str:
        rows = ["| key | takes | default | meaning |", "|---|---|---|---|"]
        for key, value in schema["properties"].items():
            default = "needed" if key in schema.get("required", []) else _default(value)
            described = self._find(value) if "$ref" in value and "description" not in value else value
            cells = (f"`{key}`", self._takes(value), default, described.get("description", ""))
            rows.append(f"| {' | '.join(_in_a_cell(cell) for cell in cells)} |")
        long = (one["enum"] for value in schema["properties"].values() for one in self._long_lists(value))
        return "\n".join([*rows, *(f"\nThe {len(words)} names: {_list(words)}." for words in long)]) + "\n"

    def _long_lists(self, schema: Schema) -> Iterator[Schema]:
        """Yield the schemas of names that are too many for a table's cell."""
        for one in self._alternatives(schema):
            if len(one.get("enum", [])) > MOST_WORDS:
                yield one
            if "items" in one:
                yield from self._long_lists(one["items"])

    def _takes(self, schema: Schema) -> str:
        """Return what a key takes, in words."""
        return "; or ".join(dict.fromkeys(self._word(one) for one in self._alternatives(schema)))

    def _word(self, schema: Schema) -> str:
        if id(schema) in self._sections:
            title = self._sections[id(schema)][0]
            return f"[{title}](#{_anchor(title)})"
        if "enum" in schema or "const" in schema:
            words = schema.get("enum", [schema.get("const")])
            return _list(words) if len(words) <= MOST_WORDS else f"one of the {len(words)} names below"
        kind = schema["type"]
        if kind == "array":
            return f"a list of: {self._takes(schema['items'])}"
        if kind == "object":
            return self._mapping(schema)
        if isinstance(kind, list):  # names, which YAML may take for numbers
            return NAMES["string"]
        if "pattern" in schema:
            return f"text that matches `{schema['pattern']}`"
        return ", ".join(
            [NAMES[kind], *(f"{word} {_number(schema[end])}" for end, word in ENDS.items() if end in schema)]
        )

    def _mapping(self, schema: Schema) -> str:
        """Return the words for an object without a section: a range of levels, or something for each network."""
        if "patternProperties" in schema:
            return "those of each network, by its name"
        if "properties" in schema:
            return f"`{{{', '.join(f'{key}: ...' for key in schema['properties'])}}}`"
        return f"by name: {self._takes(schema['additionalProperties'])}"


def _anchor(title: str) -> str:
    return "key-" + re.sub(r"\W+", "-", title.lower())


def _number(end: float) -> str:
    return str(int(end) if end == int(end) else end)


def _default(schema: Schema) -> str:
    default = schema.get("default")
    if isinstance(default, dict):  # its section has the defaults of its keys
        return f"`{{kind: {default['kind']}}}`" if "kind" in default else ""
    return "" if default is None else _code(default)


def _list(words: list[object]) -> str:
    return ", ".join(_code(word) for word in words)


def _code(value: object) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _in_a_cell(text: str) -> str:
    return " ".join(text.replace("|", r"\|").split())
