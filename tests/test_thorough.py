"""The table of thorough tests names files and tests that are there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from thorough import KEPT, LEFT_OUT, THINNED


@pytest.mark.parametrize(("file", "kept"), [*KEPT.items(), *LEFT_OUT.items(), *THINNED.items()])
def test_what_is_kept_is_there(file: str, kept: tuple[str, ...]) -> None:
    tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert {name.partition("[")[0] for name in kept} <= functions
