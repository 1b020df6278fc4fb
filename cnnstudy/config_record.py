"""What a study's run in MLflow has of it as JSON, its configuration first; and where two of these differ."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from cnnstudy.names import Tag


def config_tags(config: dict[str, Any]) -> dict[str, str]:
    """A configuration in the tags of a study's own run."""
    return long_tags(Tag.CONFIG, config)


def config_in(tags: Mapping[str, str]) -> dict[str, Any]:
    """The configuration in the tags of a study's own run."""
    return long_value(Tag.CONFIG, tags)


def long_tags(key: str, value: Mapping[str, Any]) -> dict[str, str]:
    """JSON in as many tags as it takes: `<key>.0`, `<key>.1` and so on."""
    text = json.dumps(value)
    return {f"{key}.{number}": text[5000 * number :][:5000] for number in range(1 + len(text) // 5000)}


def long_value(key: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """What `long_tags` made these of."""
    text = "".join(itertools.takewhile(bool, (tags.get(f"{key}.{number}", "") for number in itertools.count())))
    value, _ = json.JSONDecoder().raw_decode(text)  # a longer one that held before may have left tags behind
    return dict(value)


def differences(one: Any, other: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two configurations differ: the dotted key and both values, None where one has no such key."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in [*one, *(name for name in other if name not in one)]:
            yield from differences(one.get(name), other.get(name), f"{key}.{name}".lstrip("."))
    elif one != other:
        yield key, one, other
