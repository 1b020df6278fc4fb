"""The JSON Schema of study files, from which editors complete and check their keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cnnstudy import architectures
from cnnstudy.config.factors import FACTORS, Factor, Form
from cnnstudy.config.schema import StudyConfig
from cnnstudy.config.yaml_text import KEYS_OF_NAMES
from cnnstudy.data import datasets

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def make_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of study files.

    It allows what each key takes by itself; `run-study --dry-run` checks keys in combination, too.
    """
    schema = StudyConfig.model_json_schema()
    definitions, properties = schema["$defs"], schema["properties"]
    del definitions["DataOptions"]
    definitions["data"] = {"anyOf": [_describe_data_set(name, definitions) for name in datasets.names()]}
    properties["data"] = definitions["Weights"]["properties"]["data"] = {"$ref": "#/$defs/data"}
    own = {"type": "string", "pattern": r"^file:.+\.(py(:\w+)?|keras)$"}
    properties["architectures"]["items"] = {"anyOf": [{"enum": architectures.all_names()}, own]}
    definitions |= {_levels_of(factor): _describe_levels(factor) for factor in FACTORS.values()}
    properties["factors"] |= {
        "properties": {name: _describe_factor(factor) for name, factor in FACTORS.items()},
        "additionalProperties": False,
    }
    return {"$schema": _DRAFT, **_without_titles(schema), "title": "A study file of cnnstudy"}


def _describe_data_set(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a data set's options; what it refers to is added to the definitions."""
    options = datasets.find(name).Options.model_json_schema()
    definitions.update(options.pop("$defs", {}))
    options["properties"]["name"] = {"const": name}
    for key in KEYS_OF_NAMES:  # read as the text that is written, which YAML may take for a number
        if key in options["properties"]:
            names = {"type": "array", "items": {"type": ["string", "number", "boolean", "null"]}, "minItems": 1}
            options["properties"][key] = {"anyOf": [names, {"type": "null"}]}
    return options


def _levels_of(factor: Factor) -> str:
    return f"{factor.name}_levels"


def _describe_levels(factor: Factor) -> dict[str, Any]:
    """Return the schema of a factor's levels: one, a list of them, or a range."""
    if factor.choices:
        level: dict[str, Any] = {"enum": list(factor.choices)}
        if factor.forms:
            level = {"anyOf": [level, *(one for form in factor.forms for one in _describe_form(form))]}
    else:
        level = {"type": "integer" if factor.kind is int else "number", "minimum": factor.low, "maximum": factor.high}
    levels = [level, {"type": "array", "items": level, "minItems": 1, "uniqueItems": True}]
    if not factor.choices:
        ends = {"low": level, "high": level, "log": {"type": "boolean"}, "step": {"type": level["type"]}}
        levels.append(
            {"type": "object", "properties": ends, "required": ["low", "high"], "additionalProperties": False}
        )
    return {"anyOf": levels}


def _describe_form(form: Form) -> Iterator[dict[str, Any]]:
    """Yield the schemas of levels of that form: as text, and as keys."""
    yield {"type": "string", "pattern": f"^{re.sub('[?]P<[^>]*>', '', form.pattern)}$"}
    part = {"type": "string", "pattern": r"^[\w.-]+$"}
    keys = {key: {"enum": list(choices)} if choices else part for key, choices in form.keys.items()}
    yield {"type": "object", "properties": keys, "required": [form.first], "additionalProperties": False}


def _describe_factor(factor: Factor) -> dict[str, Any]:
    """Return the schema of a factor: levels for all networks, or for each."""
    levels = {"$ref": f"#/$defs/{_levels_of(factor)}"}
    by_network = {
        "type": "object",
        "properties": dict.fromkeys(architectures.names(), levels),
        "patternProperties": dict.fromkeys((f"^{prefix}" for prefix in architectures.PREFIXES), levels),
        "additionalProperties": False,
    }
    return {
        "description": factor.label + ("" if factor.active_where == "always" else f"; {factor.active_where}"),
        "anyOf": [levels, by_network],
    }


def _without_titles(node: Any) -> Any:
    """Return a schema without the titles that repeat the names of keys."""
    if isinstance(node, list):
        return [_without_titles(part) for part in node]
    if not isinstance(node, dict):
        return node
    return {key: _without_titles(part) for key, part in node.items() if key != "title" or not isinstance(part, str)}
