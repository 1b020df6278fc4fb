"""Print the test files nearest to what differs from main: `scripts/check --changed` runs them.

For a module of cnnstudy: its own test files, `tests/<room>/test_<module>.py` and `test_<module>_<part>.py`, and those
that import it. If there are none: the test files named after the modules that import it. If many test files import it
(records.py, errors.py): only its own, with a note on standard error. For a helper among the tests: the test files that
import it, directly or through other helpers. Changes are those since the merge base with main, uncommitted ones
included.

pytest-testmon would select more exactly, by coverage, but does not see what runs in worker processes, where trials are
trained; pytest-picked selects test files that changed, not those whose subject changed.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

#: If more test files import a module, only its own are run.
MOST_IMPORTERS = 6
#: If more test files are affected, only changed ones and those of changed modules are run.
MOST_FILES = 10
#: Beginning of another file's path -> its test file.
OTHER_FILES = {
    "README.md": "tests/test_readme.py",
    "docs/": "tests/test_readme.py",
    "experiments/": "tests/test_readme.py",
    "benchmarks/": "tests/test_benchmarks.py",
    "scripts/docs/": "tests/test_scripts_docs.py",
    "scripts/audit": "tests/test_scripts_audit.py",
    "scripts/affected_tests.py": "tests/test_scripts_affected_tests.py",
}


def main() -> None:
    tests = sorted(path.as_posix() for path in Path("tests").rglob("*.py"))
    modules = sorted(path.as_posix() for path in Path("cnnstudy").rglob("*.py"))
    nearest: set[str] = set()
    users: set[str] = set()
    importers = imported_by([*tests, *modules])
    for path in changed_files():
        own, others = tests_near(path, tests, modules, importers)
        nearest, users = nearest | own, users | others
    further = users - nearest
    if len(nearest | further) > MOST_FILES and further:
        say(
            f"of {len(nearest | further)} test files near the changes, {len(further)} that only import changed modules "
            "are not run"
        )
        further = set()
    if nearest | further:
        print(*sorted(nearest | further), sep="\n")


def say(note: str) -> None:
    print(f"{note}; run scripts/check before you merge.", file=sys.stderr)


def changed_files() -> list[str]:
    """Return the paths that differ from the merge base with main, and untracked ones."""
    base = git("merge-base", "main", "HEAD")[0]
    return sorted({*git("diff", "--name-only", base), *git("ls-files", "--others", "--exclude-standard")})


def git(*arguments: str) -> list[str]:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.splitlines()


def imported_by(files: Iterable[str]) -> dict[str, set[str]]:
    """Return dotted name -> the files that import it, or a name from it."""
    importers: dict[str, set[str]] = {}
    for file in files:
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module or ''}.{alias.name}".strip(".") for alias in node.names)]
            for name in names:
                importers.setdefault(name, set()).add(file)
    return importers


def tests_near(
    path: str, tests: list[str], modules: list[str], importers: dict[str, set[str]]
) -> tuple[set[str], set[str]]:
    """Return a changed path's own test files, and others that import it."""
    place = PurePosixPath(path)
    if path in tests:
        return ({path}, set()) if is_test(path) else (set(), tests_with(place, importers))
    if place.suffix != ".py" or place.parts[0] != "cnnstudy":
        return {test for start, test in OTHER_FILES.items() if path.startswith(start) and test in tests}, set()
    own = own_tests(path, tests, modules)
    by = importers.get(".".join(place.with_suffix("").parts).removesuffix(".__init__"), set())
    users = set(filter(is_test, by))
    if len(users) > MOST_IMPORTERS:
        run = f"only {', '.join(sorted(own))}" if own else "none of them"
        say(f"{path} is used by {len(users)} test files; this runs {run}")
        return own, set()
    if not own | users:
        own = {test for file in by if file not in tests for test in own_tests(file, tests, modules)}
    if not own | users:
        say(f"{path} has no test file")
    return own, users


def own_tests(path: str, tests: list[str], modules: list[str]) -> set[str]:
    """Return the test files named after a module of cnnstudy; if there are none, those named after its folder.

    `test_effects_text_x.py` belongs to effects_text, not to effects; `test_contract.py` to its folder's `__init__`.
    """
    place = PurePosixPath(path)
    is_folder = place.name == "__init__.py"
    module = place.parent if is_folder else place.with_suffix("")
    start = test_stem(module)
    longer = [test_stem(PurePosixPath(other).with_suffix("")) for other in modules]
    longer = [other for other in longer if other.startswith(f"{start}_")]
    named = {f"{start}.py", *([f"tests/{'/'.join(module.parts[1:])}/test_contract.py"] if is_folder else [])}
    own = {
        test for test in tests if test in named or (test.startswith(f"{start}_") and not test.startswith(tuple(longer)))
    }
    if own or is_folder or len(place.parts) < 4:  # a room's own modules
        return own
    return own_tests(f"{place.parent}/__init__.py", tests, modules)


def test_stem(module: PurePosixPath) -> str:
    """Return how the paths of a module's test files begin: `tests/data/test_splits`."""
    return f"tests/{module.relative_to('cnnstudy').with_name(f'test_{module.name}')}"


def tests_with(helper: PurePosixPath, importers: dict[str, set[str]]) -> set[str]:
    """Return the test files that import a helper among the tests, directly or through other helpers."""
    if helper.name == "conftest.py":
        say(f"{helper} is used by all tests in its folder")
        return set()
    found, waiting = set(), [helper]
    while waiting:
        name = waiting.pop().stem
        for file in (importers.get(name, set()) | importers.get(f"tests.{name}", set())) - found:
            found.add(file)
            waiting += [] if is_test(file) else [PurePosixPath(file)]
    return {file for file in found if is_test(file)}


def is_test(path: str) -> bool:
    return PurePosixPath(path).name.startswith("test_")


if __name__ == "__main__":
    main()
