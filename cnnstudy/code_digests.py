"""Which code trains: a digest of every function and class on which a study's numbers depend, and the packages below it.

The code is parsed, never imported. Counted is the syntax tree without what changes no number: comments, docstrings,
formatting, the hints of functions' types, the words of errors, and the order in which a module has its functions. A
name that a function has from an import counts with its source. What counts:

    training/        trial.py, and all that it imports there
    architectures/   what networks share, the files of the study's own ones, and what they import there
    _PARTS           how long a trial trains, its levels, its best epoch, how its worker is set up
    PACKAGES         their versions, whole

Images are no code: whatever a data set makes of its files, their digest tells. Python writes syntax trees otherwise in
each of its minor versions: another one counts as a change by itself, and the functions are not compared then.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import cnnstudy

PACKAGES = ("tensorflow", "keras", "numpy", "Pillow")
_FOLDERS = ("training", "architectures")
_ROOT = "training/trial.py"
#: Imported there, and no number depends on it: where files lie, how they are written, what is said of images.
_APART = (
    *("training/checkpoints.py", "training/contents.py", "training/layout.py", "training/mapped.py"),
    *("training/package.py", "training/pieces.py"),
)
#: Of other modules these units alone; all of them where none is named.
_PARTS: dict[str, tuple[str, ...]] = {
    "budget.py": (),
    "execution/local.py": ("ENVIRONMENT",),
    "execution/worker.py": ("Worker._set_up_tensorflow",),
    "records.py": ("Rule", "_ROUNDING"),
    "space.py": (
        *("Factor", "FACTORS", "complete_levels()"),
        *("_fine_tunes_the_backbone()", "_trains_auxiliary_heads()", "_weighs_auxiliary_heads()"),
    ),
}
#: The unit of what a module does when it is imported.
_ON_IMPORT = "what it does on import"
#: Hexadecimal, of a unit's digest.
_DIGITS = 10
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Code:
    """What trains.

    Args:
        units: by file, from the package's folder, and by unit the digest. Functions that nothing decorates end with
            `()`: where nobody calls them they may come and go.
        versions: of PACKAGES, where they are installed, and Python's without its last number.
    """

    units: Mapping[str, Mapping[str, str]]
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Code:
        return cls(data["units"], data["versions"])

    @property
    def digest(self) -> str:
        """Over all of it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def code_of(architectures: Iterable[str]) -> Code:
    """The code that trains these networks here, read once in a process."""
    return Code(_units(Path(cnnstudy.__file__).parent, tuple(sorted(architectures))), versions())


def digest_of_network(architecture: str) -> str:
    """Of the code that builds it, without what trains it: what is learnt or computed with another is not the same."""
    built_by = _reached(Path(cnnstudy.__file__).parent, (f"architectures/{architecture}.py",))
    return hashlib.sha256(json.dumps(built_by, sort_keys=True).encode()).hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Of what the numbers come from, besides our own code."""
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # TensorFlow comes under other names too
            found[name] = metadata.version(name)
    return found


def differences(then: Code, now: Code) -> list[str]:
    """What differs in what matters, each in a line: `training/loop.py: Trainer.run_epoch changed`."""
    lines = [
        f"{name} {then.versions.get(name, 'none')} -> {now.versions.get(name, 'none')}"
        for name in dict.fromkeys([*then.versions, *now.versions])
        if then.versions.get(name) != now.versions.get(name)
    ]
    if then.versions.get("python") != now.versions.get("python"):
        return lines
    for file in sorted({*then.units, *now.units}):
        if file not in then.units:
            lines.append(f"{file} is new")
        elif file not in now.units:
            lines.append(f"{file} is gone")
        else:
            lines += [f"{file}: {line}" for line in _differences(then.units[file], now.units[file])]
    return lines


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for unit in sorted({*then, *now}):
        name = unit.removesuffix("()")
        if unit not in now:
            yield f"{name} removed"
        elif unit not in then:
            if not unit.endswith("()"):
                yield f"{name} added"
        elif then[unit] != now[unit]:
            yield f"{name} changed"


# ---- which files


@functools.cache
def _units(package: Path, architectures: tuple[str, ...]) -> dict[str, Mapping[str, str]]:
    """By file and unit of the package in that folder the digests."""
    found = dict(_reached(package, (_ROOT, *(f"architectures/{name}.py" for name in architectures))))
    for file, parts in _PARTS.items():
        units = _digests(_parsed(package / file))
        found[file] = {
            unit: digest
            for unit, digest in units.items()
            if not parts or unit in parts or unit.partition(".")[0] in parts
        }
    return dict(sorted(found.items()))


@functools.cache
def _reached(package: Path, files: tuple[str, ...]) -> Mapping[str, Mapping[str, str]]:
    """The same of these files, and of all that they import of _FOLDERS."""
    found: dict[str, dict[str, str]] = {}
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file in found or file in _APART or not (package / file).is_file():
            continue
        tree = _parsed(package / file)
        found[file] = _digests(tree)
        waiting += [of for name in _imported(tree) if (of := _file_of(package, name)).startswith(_FOLDERS)]
    return found


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def _imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names that it imports from the package, in functions too: of modules, or of what is in them."""
    for node in _statements(tree.body, into=True):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cnnstudy":
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("cnnstudy."))


def _file_of(package: Path, module: str) -> str:
    """Its path in the package; "" where it is no module of it."""
    path = PurePosixPath(*module.split(".")[1:])
    for file in (path.with_suffix(".py"), path / "__init__.py") if path.name else ():
        if (package / file).is_file():
            return str(file)
    return ""


# ---- what is in them


def _digests(tree: ast.Module) -> dict[str, str]:
    """By unit the digest of its syntax tree, and of where the imported names in it come from."""
    imports = dict(_sources(tree))
    parts: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        for unit, part in _parts(node, imports):
            parts.setdefault(unit, []).append(part)
    return {unit: _digest(of_unit, imports) for unit, of_unit in parts.items()}


def _parts(node: ast.stmt, imports: Mapping[str, str]) -> Iterator[tuple[str, ast.stmt]]:
    """The units of a statement of a module, each with what is to be digested of it."""
    if isinstance(node, _Function):
        shadows = node.name in imports or hasattr(builtins, node.name) or node.name.startswith("__")
        yield (node.name if node.decorator_list or shadows else f"{node.name}()"), node
    elif isinstance(node, ast.ClassDef):
        methods = [part for part in node.body if isinstance(part, _Function)]
        yield from ((f"{node.name}.{method.name}", method) for method in methods)
        node.body = [part for part in node.body if not isinstance(part, _Function)]
        yield node.name, node
    elif isinstance(node, ast.Assign):
        yield ", ".join(map(ast.unparse, node.targets)).strip("()"), node
    elif isinstance(node, ast.AnnAssign):
        if node.value is not None:
            yield ast.unparse(node.target), ast.Assign([node.target], node.value)
    elif not isinstance(node, ast.Import | ast.ImportFrom) and not _is_text(node) and not _is_for_hints(node):
        yield _ON_IMPORT, node


def _statements(nodes: Iterable[Any], into: bool) -> Iterator[ast.stmt]:
    """All statements among the nodes and below them, in functions and classes where it goes `into` these."""
    for node in nodes:
        if isinstance(node, ast.stmt):
            yield node
        if into or not isinstance(node, _Function | ast.ClassDef):
            for block in ("body", "orelse", "finalbody", "handlers", "cases"):
                yield from _statements(getattr(node, block, ()), into)


def _sources(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Each name that the module imports for all of it, and what it stands for."""
    for node in _statements(tree.body, into=False):
        if isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (first, first)


def _digest(nodes: Iterable[ast.stmt], imports: Mapping[str, str]) -> str:
    written = _Written()
    for node in nodes:
        written.add(node)
    written.tokens += [f"{name}={imports[name]}" for name in sorted(written.names) if name in imports]
    return hashlib.sha256("\n".join(written.tokens).encode()).hexdigest()[:_DIGITS]


def _is_text(node: Any) -> bool:
    """Whether it is a text that nobody uses: a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_for_hints(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


class _Written:
    """Syntax trees as tokens, without what changes no number; and the names that are read or set in them."""

    #: What is left out of a node.
    SILENT: Mapping[type[ast.AST], tuple[str, ...]] = {
        ast.FunctionDef: ("returns", "type_comment"),
        ast.AsyncFunctionDef: ("returns", "type_comment"),
        ast.arg: ("annotation", "type_comment"),
        ast.Assert: ("msg",),
    }

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.names: set[str] = set()

    def add(self, given: Any, words: bool = True) -> None:
        """Write a node, or what a field of one holds; without `words`, texts are all alike."""
        if isinstance(given, list):
            self.tokens.append("[")
            for one in given:
                if not isinstance(one, ast.Pass) and not _is_text(one):
                    self.add(one, words)
            self.tokens.append("]")
        elif not isinstance(given, ast.AST):
            self.tokens.append(repr(given))
        elif not words and _is_words(given):
            self.tokens.append("words")
        else:
            kind = type(given)
            if isinstance(given, ast.Name):
                self.names.add(given.id)
            self.tokens.append(kind.__name__)
            silent = self.SILENT.get(kind, ())
            for field in kind._fields:
                if field not in silent:
                    self.add(getattr(given, field, None), words and kind is not ast.Raise)


def _is_words(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
