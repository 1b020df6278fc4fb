"""Print the test files nearest to what differs from main: `scripts/check --changed` runs them.

Of a module of cnnstudy: the test file that mirrors its path, and those that import it themselves; where there are none,
the mirrors of the modules that import it. Of a module that many
test files import (records.py, errors.py) only the former, as standard error says. Of a helper among the tests: the test
files that import it, through other helpers too. What differs is taken from the merge base with main, and from what is
not committed yet.

pytest-testmon would select more exactly, by coverage, but does not see what runs in worker processes, where trials are
trained; pytest-picked selects test files that changed, not those whose subject changed.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

#: A module that more test files import is too widely used to run them all.
MOST_IMPORTERS = 6
#: Of more test files, those that mirror a changed module or changed themselves are run, and no others.
MOST_FILES = 10
#: Test files of what is no module, by the beginning of its path.
OTHER_FILES = {
    "README.md": "tests/test_readme.py",
    "docs/": "tests/test_readme.py",
    "experiments/": "tests/test_readme.py",
    "benchmarks/": "tests/test_benchmarks.py",
    "scripts/audit": "tests/test_scripts_audit.py",
    "scripts/affected_tests.py": "tests/test_scripts_affected_tests.py",
}


def main() -> None:
    tests = sorted(path.as_posix() for path in Path("tests").rglob("*.py"))
    importers = imported_by([*tests, *(path.as_posix() for path in Path("cnnstudy").rglob("*.py"))])
    nearest: set[str] = set()
    users: set[str] = set()
    for path in changed_files():
        own, others = tests_near(path, tests, importers)
        nearest, users = nearest | own, users | others
    further = users - nearest
    if len(nearest | further) > MOST_FILES and further:
        say(
            f"of {len(nearest | further)} test files near to the changes, {len(further)} that only import them "
            "are not run"
        )
        further = set()
    if nearest | further:
        print(*sorted(nearest | further), sep="\n")


def say(what: str) -> None:
    print(f"{what}; run scripts/check before you merge.", file=sys.stderr)


def changed_files() -> list[str]:
    """Return the paths that differ from main's merge base, and those that git does not know yet."""
    base = git("merge-base", "main", "HEAD")[0]
    return sorted({*git("diff", "--name-only", base), *git("ls-files", "--others", "--exclude-standard")})


def git(*arguments: str) -> list[str]:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.splitlines()


def imported_by(files: Iterable[str]) -> dict[str, set[str]]:
    """Return for each module's dotted name the files that import it, or a name from it."""
    found: dict[str, set[str]] = {}
    for file in files:
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module or ''}.{alias.name}".strip(".") for alias in node.names)]
            for name in names:
                found.setdefault(name, set()).add(file)
    return found


def tests_near(path: str, tests: list[str], importers: dict[str, set[str]]) -> tuple[set[str], set[str]]:
    """Return the test files of a changed path itself, and others that import it."""
    place = PurePosixPath(path)
    if path in tests:
        return ({path}, set()) if is_test(path) else (set(), tests_with(place, importers))
    if place.suffix != ".py" or place.parts[0] != "cnnstudy":
        return {test for start, test in OTHER_FILES.items() if path.startswith(start) and test in tests}, set()
    own = {mirror(place)} & set(tests)
    by = importers.get(".".join(place.with_suffix("").parts).removesuffix(".__init__"), set())
    users = set(filter(is_test, by))
    if len(users) > MOST_IMPORTERS:
        run = f"only {mirror(place)} is run" if own else "none of them is run"
        say(f"{path} is used by {len(users)} test files: {run}")
        return own, set()
    if not own | users:
        own = {mirror(PurePosixPath(file)) for file in by if file not in tests} & set(tests)
    if not own | users:
        say(f"{path} has no test file near to it")
    return own, users


def mirror(module: PurePosixPath) -> str:
    """Return where the test file of a module of cnnstudy lies."""
    return f"tests/{module.relative_to('cnnstudy').with_name(f'test_{module.name}')}"


def tests_with(helper: PurePosixPath, importers: dict[str, set[str]]) -> set[str]:
    """Return the test files that import a helper among the tests, through other helpers too."""
    if helper.name == "conftest.py":
        say(f"{helper} is used by all tests beside it")
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
