"""Identify the code that trains, so that trials of different code are told apart.

Counted is every function, method, class and constant that a trial can reach: the walk starts at _ROOTS and at the
study's networks, and follows names through imports. Each unit has a digest of its source without what changes no
number: comments, docstrings, formatting, type hints and the words of errors. Imports are resolved and then dropped, so
code may move between modules and modules may be renamed, merged or split; only a renamed unit counts as changed.

Not counted are units that nothing reaches and those of _APART. Nor are data sets: the digest of the images covers
them. Of other packages the version counts. The code is parsed, never imported. Python's syntax differs between minor
versions: another one counts as a change by itself, and the units are not compared then.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import platform
import re
import subprocess
import symtable
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import cnnstudy

#: Of an installed package: it reads files, and what runs stays what it was when it was imported.
_version = functools.cache(metadata.version)


def code_version() -> str:
    """`0.1.0`, and in a git checkout the commit too: `0.1.0+g1a2b3c4d5e6f`, with `.dirty` after uncommitted changes."""
    root = Path(cnnstudy.__file__).parent.parent
    if not (root / ".git").exists():
        return cnnstudy.__version__
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        dirty = ".dirty" if _git(root, "status", "--porcelain", "--", "cnnstudy") else ""
    except (OSError, subprocess.SubprocessError):  # no git, or no commit yet
        return cnnstudy.__version__
    return f"{cnnstudy.__version__}+g{commit}{dirty}"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def driver_versions() -> dict[str, str]:
    """Of what runs in the driver; a worker adds its own."""
    return {"python": platform.python_version(), **{name: _version(name) for name in ("optuna", "mlflow")}}


PACKAGES = ("tensorflow", "keras", "numpy", "Pillow")
#: Raise it when the same code gets other digests: those of other forms can't be compared.
FORM = 2
#: Where the walk starts: what runs a trial, decodes images, and sets up a worker; levels, epochs and the best epoch.
_ROOTS = (
    *("run_trial", "save_backbone", "decode_image", "Worker._set_up_tensorflow", "WORKER_ENVIRONMENT"),
    *("FACTORS", "complete_levels", "trial_epochs", "equal_updates", "Rule"),
)
#: What builds a network from its own module, and the name of the unit there that the walk starts at.
_BUILDS, _NETWORK = "build_network", "ARCHITECTURE"
#: Where the walk stops, by the names of functions, classes and constants: no number depends on these.
_APART = {
    # the cache, and where files lie in it
    *("ABOUT", "build_entries", "build_entry", "cache_folder", "content_address", "entry_folder"),
    *("entry_folders", "lock_for", "try_lock", "ChunkedWriter", "NO_ROOM", "allocate_memmap"),
    # checkpoints: what they hold is counted, when and how they are written is not
    *("BROKEN", "Checkpoint", "Checkpoints", "Reached", "serialize_checkpoint", "read_file", "refuse_to_fill_the_disk"),
    *("remove_entry",),
    # the files of a saved model
    "_save_model_files",
    # the words of levels, errors, records, versions, and how a network's module is found
    "AUGMENTATIONS",
    *("ConfigError", "DataError", "UnknownNameError", "WeightsError", "did_you_mean"),
    *("EpochRecord", "PreparedImages", "Record", "Split", "TrialResult"),
    *("training_code", "network_code_digest", "find", "without_modules", "fast_import", "training_versions"),
}
#: The unit of what a module does when it is imported.
_ON_IMPORT = "what it does on import"
#: Hexadecimal, of a unit's digest.
_DIGITS = 10
_OWN = cnnstudy.__name__
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Code:
    """The code that trains.

    Args:
        units: qualified name -> digest; the sorted digests of all units of that name, with `+` between them.
        versions: of PACKAGES, where they are installed, and Python's without its last number.
        form: FORM of the version that made the digests.
        files: `name digest` -> the file that has the unit, from the package's folder; known of the code that runs.
    """

    units: Mapping[str, str]
    versions: Mapping[str, str]
    form: int = FORM
    files: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        return {"form": self.form, "units": dict(self.units), "versions": dict(self.versions)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Code:
        """Return what `to_json` gave; of another form, which can't be compared, the versions alone."""
        form = data.get("form", 1)
        return cls(data["units"] if form == FORM else {}, data["versions"], form)

    @property
    def digest(self) -> str:
        """A digest of units and versions."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def training_code(architectures: Iterable[str]) -> Code:
    """Return the code that trains these networks here, read once in a process."""
    units, files = _units(Path(cnnstudy.__file__).parent, (*_ROOTS, _BUILDS), tuple(sorted(architectures)))
    return Code(units, training_versions(), files=files)


def network_code_digest(architecture: str) -> str:
    """Return a digest of the code that builds a network, without what trains it: the key of what was learnt with it."""
    units, _ = _units(Path(cnnstudy.__file__).parent, (_BUILDS,), (architecture,))
    return hashlib.sha256(json.dumps(units, sort_keys=True).encode()).hexdigest()


@functools.cache
def training_versions() -> dict[str, str]:
    """Return the versions of what the numbers come from, besides our own code."""
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # TensorFlow comes under other names too
            found[name] = metadata.version(name)
    return found


def code_differences(then: Code, now: Code) -> list[str]:
    """List what differs, each in a line: `training/trainer.py: Trainer.run_epoch changed`.

    Units are compared where both codes are of one form and one minor version of Python.
    """
    lines = [
        f"{name} {then.versions.get(name, 'none')} -> {now.versions.get(name, 'none')}"
        for name in dict.fromkeys([*then.versions, *now.versions])
        if then.versions.get(name) != now.versions.get(name)
    ]
    if then.form == now.form and then.versions.get("python") == now.versions.get("python"):
        lines += sorted(_differences(then, now))
    return lines


def _differences(then: Code, now: Code) -> Iterator[str]:
    for unit in {*then.units, *now.units}:
        before, after = (Counter(code.units[unit].split("+") if unit in code.units else ()) for code in (then, now))
        gone, new = before - after, after - before
        what = "added" if not gone else "changed"
        yield from (f"{now.files.get(f'{unit} {digest}', '')}: {unit} {what}".lstrip(": ") for digest in new)
        if gone and not new:
            yield f"{unit} removed"


# ---- which units


@functools.cache
def _units(folder: Path, roots: tuple[str, ...], networks: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Walk the package in that folder; return `Code.units` and `Code.files`."""
    package = _package(folder)
    waiting = [(package.find(root), root) for root in roots]
    waiting += [(module, _NETWORK) for name in networks for module in package.having(_NETWORK, f"{name}.py")]
    waiting = [(module, unit) for module, root in waiting for unit in module.units_of(root)]
    digests: dict[tuple[str, str], str] = {}
    while waiting:
        module, unit = waiting.pop()
        if (module.file, unit) not in digests:
            digests[module.file, unit], named = package.read(module, unit)
            waiting += [(other, part) for other, name in named if name not in _APART for part in other.units_of(name)]
    found: dict[str, list[str]] = {}
    for (_, unit), digest in digests.items():
        found.setdefault(unit, []).append(digest)
    files = {f"{unit} {digest}": file for (file, unit), digest in sorted(digests.items())}
    return {unit: "+".join(sorted(all_)) for unit, all_ in sorted(found.items())}, files


class _Module:
    """A module's units: its functions, methods, classes, constants, and what it does on import."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        self.file = file
        self.parts: dict[str, list[ast.stmt]] = {}  # by unit
        self.imports: dict[str, str] = {}  # name -> what it stands for
        self.names: dict[str, str] = {}  # name -> the unit that gives it its value
        for node in tree.body:
            self._add(node)

    def _add(self, node: ast.stmt) -> None:
        if isinstance(node, _Function):
            self._add_unit(node.name, node, [node.name])
        elif isinstance(node, ast.ClassDef):
            for method in (part for part in node.body if isinstance(part, _Function)):
                self._add_unit(f"{node.name}.{method.name}", method, [])
            node.body = [part for part in node.body if not isinstance(part, _Function)]
            self._add_unit(node.name, node, [node.name])
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            self._add_unit(", ".join(map(ast.unparse, targets)).strip("()"), node, _stored(node))
        elif not _runs_elsewhere(node):
            imports = [part for part in ast.walk(node) if isinstance(part, ast.Import | ast.ImportFrom)]
            self.imports |= {name: source for part in imports for name, source in _sources(part)}
            if node not in imports and not _is_text(node):
                self._add_unit(_ON_IMPORT, node, _stored(node))

    def _add_unit(self, unit: str, node: ast.stmt, names: Iterable[str]) -> None:
        self.parts.setdefault(unit, []).append(node)
        self.names |= dict.fromkeys(names, unit)

    def units_of(self, name: str) -> list[str]:
        """List the units that come with a name: a class with its methods, and what the module does on import."""
        of_name = self.names.get(name, name)
        return [unit for unit in self.parts if unit in (of_name, _ON_IMPORT) or unit.startswith(f"{of_name}.")]


class _Package:
    """The package's modules, parsed when they are needed."""

    def __init__(self, folder: Path) -> None:
        self._texts = {path.relative_to(folder): path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
        self._modules: dict[Path, _Module] = {}
        self._read: dict[tuple[str, str], tuple[str, list[tuple[_Module, str]]]] = {}

    def having(self, name: str, files: str = "*.py") -> list[_Module]:
        """List the modules that define the name."""
        first = re.compile(rf"^(?:def |class )?{name.partition('.')[0]}\b", re.MULTILINE)
        return [self._module(file) for file, text in self._texts.items() if file.match(files) and first.search(text)]

    def find(self, name: str) -> _Module:
        """Return the one module that defines the name.

        Raises:
            LookupError: there is none, or more than one.
        """
        found = self.having(name)
        if len(found) != 1:
            raise LookupError(f"{name} is defined in {[module.file for module in found]}, not in one module")
        return found[0]

    def resolve(self, name: str) -> tuple[_Module, str, str] | None:
        """Return the module and the name of the unit that a dotted name stands for, and what follows; else None."""
        parts = name.split(".")
        for length in range(len(parts) - 1, 0, -1):
            path = Path(*parts[1:length])
            for file in (path.with_suffix(".py"), path / "__init__.py") if path.name else (Path("__init__.py"),):
                if file in self._texts:
                    module, unit, rest = self._module(file), parts[length], parts[length + 1 :]
                    if unit in module.names:
                        return module, unit, ".".join(rest)
                    again = ".".join([module.imports.get(unit, ""), *rest])
                    return self.resolve(again) if again.startswith(f"{_OWN}.") and again != name else None
        return None

    def read(self, module: _Module, unit: str) -> tuple[str, list[tuple[_Module, str]]]:
        """Return a unit's digest and the names of the package that it uses, each with its module."""
        key = module.file, unit
        if key not in self._read:
            strip = _Strip()
            stripped = [part for node in module.parts[unit] if (part := strip.visit(node)) is not None]
            resolve = _Resolve(self, module, {**module.imports, **strip.imports}, _globals(stripped))
            text = "\n".join(ast.unparse(resolve.visit(node)) for node in stripped)
            self._read[key] = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS], resolve.used
        return self._read[key]

    def _module(self, file: Path) -> _Module:
        if file not in self._modules:
            self._modules[file] = _Module(file.as_posix(), ast.parse(self._texts[file]))
        return self._modules[file]


_package = functools.cache(_Package)


# ---- what a unit is without its hints, words and imports


class _Strip(ast.NodeTransformer):
    """Remove what changes no number, and collect what is imported."""

    def __init__(self) -> None:
        self.imports: dict[str, str] = {}
        self._words = True

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if getattr(node, "body", None) == []:
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.imports |= dict(_sources(node))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.visit_Import(node)

    def visit_Pass(self, node: ast.Pass) -> None:
        """Remove it; where nothing is left, one is put in."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if _is_text(node) else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for part in node.body:
            if isinstance(part, ast.AnnAssign):  # a field, whatever its hint
                part.annotation = ast.Constant(...)
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if isinstance(node.annotation, ast.Constant) and node.annotation.value is ...:
            return self.generic_visit(node)
        return None if node.value is None else ast.Assign([node.target], self.visit(node.value), lineno=node.lineno)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        self._words = False
        self.generic_visit(node)
        self._words = True
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return self.generic_visit(node) if self._words else ast.Constant("words")

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return node if self._words or not isinstance(node.value, str) else ast.Constant("words")


class _Resolve(ast.NodeTransformer):
    """Write what imported names stand for in their place, and collect the names of the package that are used."""

    def __init__(self, package: _Package, module: _Module, imports: Mapping[str, str], global_: set[str]) -> None:
        self._package, self._module, self._imports, self._global = package, module, imports, global_
        self.used: list[tuple[_Module, str]] = []

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._resolved(node, node.id) or node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return self._resolved(node, ast.unparse(node)) or self.generic_visit(node)

    def _resolved(self, node: ast.Name | ast.Attribute, written: str) -> ast.Name | None:
        first, _, rest = written.partition(".")
        if first not in self._global:
            return None
        if first not in self._imports:
            if first in self._module.names:
                self.used.append((self._module, first))
            return None
        source = f"{self._imports[first]}.{rest}".rstrip(".")
        if source.split(".")[0] != _OWN:
            return ast.Name(source, node.ctx)
        found = self._package.resolve(source)
        if found is None:  # a module itself
            return ast.Name(f"{_OWN}.{rest}", node.ctx)
        module, name, rest = found
        self.used.append((module, name))
        return ast.Name(f"{name}.{rest}".rstrip("."), node.ctx)


def _globals(nodes: Iterable[ast.stmt]) -> set[str]:
    """Collect the names that are read and are no function's own."""
    top = symtable.symtable("\n".join(map(ast.unparse, nodes)), _OWN, "exec")
    found = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    waiting = top.get_children()
    while waiting:
        table = waiting.pop()
        found |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        waiting += table.get_children()
    return found


def _sources(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """Yield each name that is imported, and what it stands for."""
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"
        else:
            yield (
                alias.asname or alias.name.partition(".")[0],
                alias.name if alias.asname else alias.name.partition(".")[0],
            )


def _stored(node: ast.AST) -> list[str]:
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]


def _is_text(node: ast.AST) -> bool:
    """Check whether it is a text that nobody uses: a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _runs_elsewhere(node: ast.stmt) -> bool:
    """Check whether it is for type checkers alone, or for the module as a program."""
    return isinstance(node, ast.If) and ast.unparse(node.test).startswith(("TYPE_CHECKING", "__name__ =="))
