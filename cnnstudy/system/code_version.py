"""Identify the code that trains, to detect that a study's trials were run by different code.

Every function, method, class and constant that a trial can reach counts: the walk starts at _ROOTS and at the study's
networks, and follows names through imports. Each of these units has a digest of its syntax tree, without whatever
affects no number: comments, docstrings, formatting, type hints and error messages. Imports are resolved and then
dropped, so code may move between modules, and modules may be renamed, merged or split; only a renamed unit counts as
changed.

Units that nothing reaches, and those in _APART, do not count. Neither do data sets: the digest of the images covers
them. Other packages count by their versions. The code is parsed, never imported. Syntax trees differ between minor
versions of Python, so another minor version is itself a difference, and the units are then not compared.
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
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import cnnstudy

#: Packages whose versions count as part of the code that trains.
PACKAGES = ("tensorflow", "keras", "numpy", "Pillow")
#: Raise it when the same code would get other digests: digests of different forms can't be compared.
FORM = 3
#: Where the walk starts: running a trial, decoding images, setting up a worker; levels, epochs and the best epoch.
_ROOTS = (
    *("run_trial", "save_backbone", "decode_image", "Worker._set_up_tensorflow", "WORKER_ENVIRONMENT"),
    *("FACTORS", "complete_levels", "trial_epochs", "equal_updates", "Rule"),
)
#: The function that builds a network from its module, and the constant in that module where the walk starts.
_BUILDER, _NETWORK = "build_network", "ARCHITECTURE"
#: What the names of networks without a module of their own begin with, and the function that describes one.
_DESCRIBED = {"keras:": "find_application", "file:": "find_own_network"}
#: Functions, classes and constants where the walk stops: no number depends on them.
_APART = {
    # the cache, and where files are in it
    *("ABOUT", "build_entries", "build_entry", "cache_folder", "content_address", "entry_folder"),
    *("is_intact", "why_damaged", "why_untrusted", "describe_cache_trouble"),
    *("entry_folders", "lock_for", "try_lock", "ChunkedWriter", "NO_ROOM", "allocate_memmap"),
    # checkpoints: what they contain is counted; when and how they are written is not
    *(
        "READ_ERRORS",
        "Checkpoint",
        "TrialCheckpoints",
        "TrialProgress",
        "serialize_checkpoint",
        "read_checkpoint",
        "check_free_space",
    ),
    *("remove_entry",),
    # the files of a saved model
    "_save_model_files",
    # descriptions of levels, errors, records, versions, and how a network's module is found
    "AUGMENTATIONS",
    *(
        "CacheError",
        "CnnstudyError",
        "ConfigError",
        "DataError",
        "EnvironmentTrouble",
        "UnknownNameError",
        "WeightsError",
    ),
    *("WorkerError", "did_you_mean", "printable"),
    *("BadImage", "EpochRecord", "PreparedImages", "Record", "Split", "TrialResult"),
    *(
        "training_code",
        "network_code_digest",
        "find",
        "plain_name",
        "without_modules",
        "fast_import",
        "training_versions",
    ),
}
#: The unit of statements that a module runs when it is imported.
_ON_IMPORT = "what it does on import"
#: Hexadecimal digits of a unit's digest.
_DIGITS = 10
_OWN = cnnstudy.__name__
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Scope = _Function | ast.Lambda | ast.ClassDef | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


# ---- versions


def code_version() -> str:
    """Return the package's version, with the commit in a git checkout.

    `0.1.0`, `0.1.0+g1a2b3c4d5e6f`, or `0.1.0+g1a2b3c4d5e6f.dirty` with uncommitted changes.
    """
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


@functools.cache  # reads files, and the version that runs is the one that was imported
def _package_version(name: str) -> str:
    return metadata.version(name)


def driver_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that run in the driver; workers add their own."""
    return {"python": platform.python_version(), **{name: _package_version(name) for name in ("optuna", "mlflow")}}


@functools.cache
def training_versions() -> dict[str, str]:
    """Return the versions of PACKAGES, where they are installed, and Python's minor version."""
    versions = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # TensorFlow is also distributed under other names
            versions[name] = metadata.version(name)
    return versions


# ---- the identity of the code


@dataclass(frozen=True)
class Code:
    """The identity of the code that trains.

    Args:
        units: qualified name -> digest; where several units have a name, their sorted digests joined with `+`.
        versions: of PACKAGES, where they are installed, and Python's minor version.
        form: FORM of the version that made the digests.
        files: `name digest` -> the file that has the unit, relative to the package; known only for the running code.
    """

    units: Mapping[str, str]
    versions: Mapping[str, str]
    form: int = FORM
    files: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        return {"form": self.form, "units": dict(self.units), "versions": dict(self.versions)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Code:
        """Return the code that `to_json` described; without its units where they are of another form."""
        form = data.get("form", 1)
        return cls(data["units"] if form == FORM else {}, data["versions"], form)

    @property
    def digest(self) -> str:
        """A digest of units and versions."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def training_code(architectures: Iterable[str], fits_heads: bool = False) -> Code:
    """Return the identity of the running code that trains these networks, or fits heads; read once per process."""
    units, files = _units(Path(cnnstudy.__file__).parent, (*_ROOTS, _BUILDER), tuple(sorted(architectures)))
    versions = {"scikit-learn": _package_version("scikit-learn")} if fits_heads else {}
    return Code(units, training_versions() | versions, files=files)


def network_code_digest(architecture: str) -> str:
    """Return a digest of the code that builds a network, without the code that trains it.

    Weights and features in the cache are addressed by it.
    """
    units, _ = _units(Path(cnnstudy.__file__).parent, (_BUILDER,), (architecture,))
    return hashlib.sha256(json.dumps(units, sort_keys=True).encode()).hexdigest()


def code_differences(then: Code, now: Code) -> list[str]:
    """List what differs, one line each: `training/trainer.py: Trainer.run_epoch changed`.

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


# ---- the units that a trial reaches


@functools.cache
def _units(folder: Path, roots: tuple[str, ...], networks: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Walk the package in that folder; return `Code.units` and `Code.files`."""
    package = _package(folder)
    starts = [(package.find(root), root) for root in roots]
    for name in networks:
        described = next((unit for prefix, unit in _DESCRIBED.items() if name.startswith(prefix)), None)
        unit, file = (described, "*.py") if described else (_NETWORK, f"{name}.py")
        starts += [(module, unit) for module in package.modules_with(unit, file)]
    waiting = [(module, unit) for module, root in starts for unit in module.units_of(root)]
    digests: dict[tuple[str, str], str] = {}
    while waiting:
        module, unit = waiting.pop()
        if (module.file, unit) not in digests:
            digests[module.file, unit], used = package.digest(module, unit)
            waiting += [(other, part) for other, name in used if name not in _APART for part in other.units_of(name)]
    by_name: dict[str, list[str]] = {}
    for (_, unit), digest in digests.items():
        by_name.setdefault(unit, []).append(digest)
    files = {f"{unit} {digest}": file for (file, unit), digest in sorted(digests.items())}
    return {unit: "+".join(sorted(same)) for unit, same in sorted(by_name.items())}, files


class _Module:
    """A module's units: its functions, methods, classes, constants, and what it does on import."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        self.file = file
        self.parts: dict[str, list[ast.stmt]] = {}  # by unit
        self.imports: dict[str, str] = {}  # name -> the dotted name that it stands for
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
            names = [name for target in targets for name in _assigned_names(target)]
            self._add_unit(", ".join(names) or _ON_IMPORT, node, names)
        elif not _is_skipped_on_import(node):
            for part in ast.walk(node):
                if isinstance(part, ast.Import | ast.ImportFrom):
                    self.imports |= _imported_names(part)
            if not isinstance(node, ast.Import | ast.ImportFrom) and not _is_docstring(node):
                self._add_unit(_ON_IMPORT, node, _assigned_names(node))

    def _add_unit(self, unit: str, node: ast.stmt, names: Iterable[str]) -> None:
        self.parts.setdefault(unit, []).append(node)
        self.names |= dict.fromkeys(names, unit)

    def units_of(self, name: str) -> list[str]:
        """List the units that come with a name: a class with its methods, and what the module does on import."""
        own = self.names.get(name, name)
        return [unit for unit in self.parts if unit in (own, _ON_IMPORT) or unit.startswith(f"{own}.")]


class _Package:
    """The package's modules, parsed when they are needed."""

    def __init__(self, folder: Path) -> None:
        self._texts = {path.relative_to(folder): path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
        self._first_words = {file: set(_FIRST_WORD.findall(text)) for file, text in self._texts.items()}
        self._modules: dict[Path, _Module] = {}
        self._digests: dict[tuple[str, str], tuple[str, list[tuple[_Module, str]]]] = {}

    def modules_with(self, name: str, files: str = "*.py") -> list[_Module]:
        """List the modules that define the name."""
        first = name.partition(".")[0]
        return [self._module(file) for file, words in self._first_words.items() if first in words and file.match(files)]

    def find(self, name: str) -> _Module:
        """Return the one module that defines the name.

        Raises:
            LookupError: no module defines it, or several do.
        """
        modules = self.modules_with(name)
        if len(modules) != 1:
            raise LookupError(f"{name} is defined in {[module.file for module in modules]}, not in one module")
        return modules[0]

    def resolve(self, name: str) -> tuple[_Module, str, str] | None:
        """Split a dotted name into the module, the name that it defines, and what follows; None for a module itself."""
        parts = name.split(".")
        for length in range(len(parts) - 1, 0, -1):
            path = Path(*parts[1:length])
            for file in (path.with_suffix(".py"), path / "__init__.py") if path.name else (Path("__init__.py"),):
                if file in self._texts:
                    module, unit, rest = self._module(file), parts[length], parts[length + 1 :]
                    if unit in module.names:
                        return module, unit, ".".join(rest)
                    source = ".".join([module.imports.get(unit, ""), *rest])
                    return self.resolve(source) if source.startswith(f"{_OWN}.") and source != name else None
        return None

    def digest(self, module: _Module, unit: str) -> tuple[str, list[tuple[_Module, str]]]:
        """Return a unit's digest, and the names of the package that it uses, each with its module."""
        key = module.file, unit
        if key not in self._digests:
            normalised = _Normalised(self, module, module.parts[unit])
            text = "\0".join(normalised.tokens)
            self._digests[key] = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS], normalised.used
        return self._digests[key]

    def _module(self, file: Path) -> _Module:
        if file not in self._modules:
            self._modules[file] = _Module(file.as_posix(), ast.parse(self._texts[file]))
        return self._modules[file]


_package = functools.cache(_Package)
#: The names that a module defines, and its keywords: cheaper to find than by parsing it.
_FIRST_WORD = re.compile(r"^(?:def |class )?(\w+)", re.MULTILINE)


# ---- a unit without its hints, messages and imports


#: Fields of nodes that change no number: type hints, an assertion's message, and what follows from other fields.
_DROPPED_FIELDS = {"annotation", "ctx", "kind", "msg", "returns", "type_comment"}


class _Normalised:
    """A unit's syntax tree as tokens, without what changes no number; imported names as what they stand for.

    Attributes:
        tokens: the types of nodes and their values, in order.
        used: the names of the package that the unit uses, each with its module.
    """

    def __init__(self, package: _Package, module: _Module, nodes: list[ast.stmt]) -> None:
        self._package, self._module = package, module
        #: Of the functions, classes and comprehensions around a node: name -> its source if it is imported there.
        self._scopes: list[dict[str, str | None]] = []
        self._in_raise = False
        self.tokens: list[str] = []
        self.used: list[tuple[_Module, str]] = []
        self._add(nodes)

    def _add(self, value: Any) -> None:
        """Add a node, a list of nodes, or the value of a node's field."""
        if isinstance(value, list):
            self.tokens.append("[")
            for part in value:
                self._add(part)
            self.tokens.append("]")
        elif not isinstance(value, ast.AST):
            self.tokens.append(repr(value))
        elif isinstance(value, ast.Name | ast.Attribute):
            self._add_name(value)
        elif self._in_raise and _is_string(value):
            self.tokens.append("message")
        elif isinstance(value, _Scope):
            self._add_scope(value)
        elif isinstance(value, ast.AnnAssign):
            if value.value is not None:
                self._add_fields(ast.Assign([value.target], value.value))
        elif not isinstance(value, ast.Import | ast.ImportFrom | ast.Pass) and not _is_docstring(value):
            around, self._in_raise = self._in_raise, self._in_raise or isinstance(value, ast.Raise)
            self._add_fields(value)
            self._in_raise = around

    def _add_fields(self, node: ast.AST) -> None:
        self.tokens.append(type(node).__name__)
        for name in node._fields:
            if name not in _DROPPED_FIELDS:
                self._add(getattr(node, name, None))

    def _add_scope(self, node: ast.AST) -> None:
        self.tokens.append(type(node).__name__)
        inside = [name for name in node._fields if name in ("body", "generators", "elt", "key", "value")]
        for name in node._fields:  # decorators, bases and defaults belong to the scope around it
            if name not in inside and name not in _DROPPED_FIELDS:
                self._add(getattr(node, name))
        self._scopes.append(_local_names(node))
        for name in inside:
            value = getattr(node, name)
            if isinstance(node, ast.ClassDef):  # a field, whatever its hint
                value = [[part.target, part.value] if isinstance(part, ast.AnnAssign) else part for part in value]
            self._add(value)
        self._scopes.pop()

    def _add_name(self, node: ast.Name | ast.Attribute) -> None:
        dotted = _dotted_name(node)
        if not dotted:
            self._add_fields(node)
            return
        first, _, rest = dotted.partition(".")
        scope = next((names for names in reversed(self._scopes) if first in names), self._module.imports)
        source = scope.get(first)
        if source:
            dotted = self._resolve(f"{source}.{rest}".rstrip("."), rest)
        elif scope is self._module.imports and first in self._module.names:
            self.used.append((self._module, first))
        self.tokens.append(dotted)

    def _resolve(self, source: str, rest: str) -> str:
        """Return what an import stands for; of the package, without the module that defines it."""
        if source.split(".")[0] != _OWN:
            return source
        resolved = self._package.resolve(source)
        if resolved is None:  # a module itself
            return f"{_OWN}.{rest}"
        module, name, rest = resolved
        self.used.append((module, name))
        return f"{name}.{rest}".rstrip(".")


def _local_names(scope: ast.AST) -> dict[str, str | None]:
    """Return the names of a function, class or comprehension itself; each with its source if it is imported there."""
    names: dict[str, str | None] = {}
    arguments = getattr(scope, "args", None)
    if arguments is not None:
        names |= {part.arg: None for part in ast.walk(arguments) if isinstance(part, ast.arg)}
    waiting = [part for name in ("body", "generators") for part in _listed(getattr(scope, name, None))]
    not_local: set[str] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                names[node.id] = None
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= _imported_names(node)
        elif isinstance(node, ast.Global):
            not_local |= set(node.names)
        elif isinstance(node, _Function | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names[node.name] = None
        if not isinstance(node, _Scope):
            waiting += [part for name in node._fields for part in _listed(getattr(node, name, None))]
    return {name: source for name, source in names.items() if name not in not_local}


def _listed(value: Any) -> list[ast.AST]:
    """Return the nodes in a field of a node."""
    return [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, ast.AST)]


def _imported_names(node: ast.Import | ast.ImportFrom) -> dict[str, str]:
    """Return the names that are imported, and the dotted names that they stand for."""
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    first_names = {alias.name.partition(".")[0] for alias in node.names if not alias.asname}
    return {name: name for name in first_names} | {alias.asname: alias.name for alias in node.names if alias.asname}


def _assigned_names(node: ast.AST) -> list[str]:
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]


def _dotted_name(node: ast.expr) -> str:
    """Return `a.b.c` of names and attributes; "" where it begins with something else."""
    attributes = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(attributes)]) if isinstance(node, ast.Name) else ""


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_docstring(node: ast.AST) -> bool:
    """Check whether it is a string that nothing uses."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_skipped_on_import(node: ast.stmt) -> bool:
    """Check whether it is for type checkers alone, or for the module as a program."""
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id in ("TYPE_CHECKING", "__name__") for part in ast.walk(node.test)
    )
