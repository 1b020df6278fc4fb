#!/usr/bin/env python3
"""Print the package's structure: rooms, floors and arrows of imports among them, cycles, sizes.

    python scripts/structure.py [PACKAGE_FOLDER]

A room is a folder or a module at the top of the package. A room is one floor above the highest room that it imports
from. An arrow is a pair of modules in different rooms, one of which imports the other. Exit code 1: there is a cycle,
a function of more than 50 lines, a module of more than 500, or more than 15 rooms or 10 floors.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

LONGEST_FUNCTION, LARGEST_MODULE, MOST_ROOMS, MOST_FLOORS = 50, 500, 15, 10


def find_modules(package: Path) -> dict[str, Path]:
    """Return dotted name below the package -> file; `__init__.py` has its folder's name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def find_imports(tree: ast.Module, package: str, modules: Mapping[str, Path]) -> set[str]:
    """Return the package's modules that are imported anywhere in the tree, also in functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
            base = node.module.partition(".")[2]
            names = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
            found |= {name if name in modules else base for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith(f"{package}.")}
    return found & set(modules)


def find_floor(room: str, below: Mapping[str, set[str]], path: tuple[str, ...] = ()) -> int:
    """Return the floor of a room; rooms that import each other count as one."""
    return 1 + max(
        (find_floor(other, below, (*path, room)) for other in below[room] if other not in (*path, room)), default=0
    )


def find_cycles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of names that reach each other."""

    def reach(name: str) -> set[str]:
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            for other in arrows.get(waiting.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return seen

    reached = {name: reach(name) for name in arrows}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached.get(other, ())))
        for name in arrows
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def long_functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of lines of each function that is too long."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield node.name, lines


def main() -> int:
    package = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "cnnstudy")
    modules = find_modules(package)
    trees = {name: ast.parse(path.read_bytes()) for name, path in modules.items()}
    imports = {name: find_imports(tree, package.name, modules) - {name} for name, tree in trees.items()}
    below: dict[str, set[str]] = defaultdict(set)
    arrows = 0
    for name, others in imports.items():
        for other in others:
            room, lower = name.split(".")[0], other.split(".")[0]
            if room != lower and not other.startswith("__"):
                below[room].add(lower)
                arrows += 1
    rooms = sorted({name.split(".")[0] for name in modules} - {"__init__", "__main__"})
    floors = {room: find_floor(room, below) for room in rooms}
    sizes = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules.items()}
    largest = max(sizes, key=lambda name: sizes[name])
    cycles = find_cycles({name: others - {"__init__"} for name, others in imports.items()})
    long = [(name, *found) for name, tree in trees.items() for found in long_functions(tree)]
    print(f"rooms (besides __init__ and __main__)   {len(rooms)}")
    print(f"floors of imports among rooms           {max(floors.values())}")
    print(f"arrows among rooms                      {arrows}")
    print(f"cycles among modules                    {len(cycles)}")
    print(f"modules                                 {len(modules)}")
    print(f"lines                                   {sum(sizes.values())}")
    print(f"median module                           {statistics.median(sizes.values()):.0f} lines")
    print(f"largest module                          {sizes[largest]} lines ({largest})")
    print(f"functions over {LONGEST_FUNCTION} lines                 {len(long)}")
    for room in sorted(rooms, key=lambda one: (floors[one], one)):
        print(f"  floor {floors[room]:2}  {room}")
    for group in cycles:
        print(f"  cycle: {', '.join(group)}")
    for name, function, lines in long:
        print(f"  {name}.{function}: {lines} lines")
    too_many = len(rooms) > MOST_ROOMS or max(floors.values()) > MOST_FLOORS or sizes[largest] > LARGEST_MODULE
    return 1 if cycles or long or too_many else 0


if __name__ == "__main__":
    sys.exit(main())
