"""Study files with a mistake in them, and what is said about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cnnstudy.config.load import load_study
from cnnstudy.errors import ConfigError


def written(folder: Path, text: str, name: str = "probe.yaml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def complaint(path: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_study(path, overrides)
    return str(caught.value)


def check_mistake(folder: Path, text: str, key: str, fragments: list[str]) -> None:
    """The message names file, line (`#!` marks it in the text) and key, holds every fragment, and is a sentence."""
    line = next(number for number, content in enumerate(text.splitlines(), 1) if content.endswith("#!"))
    path = written(folder, text)
    lines = complaint(path).splitlines()
    about = [text_of_one for text_of_one in lines if text_of_one.startswith(f"{path}, line {line}, {key}: ")]
    assert about, lines
    assert [fragment for fragment in fragments if fragment not in "\n".join(about)] == [], about
    for text_of_one in about:
        assert text_of_one.endswith((".", "?", ")."))
        assert not re.search(r"\b(None|True|False|tuple|dict|Input|input)\b", text_of_one), text_of_one
