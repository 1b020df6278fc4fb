"""Classes share code by having each other, not by changing what they inherit."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import cnnstudy

PACKAGE = Path(cnnstudy.__file__).parent


class Class:
    """A class as its source has it: the names of its bases, and the methods that are no dunder."""

    def __init__(self, node: ast.ClassDef, module: str) -> None:
        self.name, self.module = node.name, module
        self.bases = {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases}
        defined = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        self.methods = {one.name for one in defined if not one.name.startswith("__")}
        self.concrete = {one.name for one in defined if one.name in self.methods and not is_abstract(one)}
        if "Protocol" in self.bases:
            self.concrete = set()


def is_abstract(method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("abstractmethod" in ast.unparse(decorator) for decorator in method.decorator_list)


def classes(sources: dict[str, str]) -> dict[str, list[Class]]:
    """By name all classes of these modules; two may have the same name."""
    found: dict[str, list[Class]] = {}
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(Class(node, module))
    return found


def ancestors(of: Class, known: dict[str, list[Class]]) -> Iterator[Class]:
    for base in of.bases:
        for found in known.get(base, []):
            if found is not of:
                yield found
                yield from ancestors(found, known)


def overridden(sources: dict[str, str]) -> list[str]:
    known = classes(sources)
    return sorted(
        f"{one.module}: {one.name}.{method} overrides {base.name}.{method}"
        for same in known.values()
        for one in same
        for base in ancestors(one, known)
        for method in one.methods & base.concrete
    )


def package() -> dict[str, str]:
    return {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}


def test_no_concrete_method_is_overridden() -> None:
    assert sum(len(same) for same in classes(package()).values()) > 100
    assert overridden(package()) == []


SHAPES = """
class Shape(Protocol):
    def area(self): ...
class Base(Shape):
    def __repr__(self): ...
    def name(self): ...
    @abstractmethod
    def size(self): ...
class Middle(Base):
    def area(self): ...
    def size(self): ...
class Low(Middle):
    def __repr__(self): ...
    {}
"""


def test_what_counts_as_overriding() -> None:
    assert overridden({"shapes.py": SHAPES.format("def other(self): ...")}) == []
    assert overridden({"shapes.py": SHAPES.format("def name(self): ...")}) == [
        "shapes.py: Low.name overrides Base.name"
    ]
    assert overridden({"shapes.py": SHAPES.format("@property\n    def size(self): ...")}) == [
        "shapes.py: Low.size overrides Middle.size"
    ]
