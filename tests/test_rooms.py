"""The order of imports, and which commands stay light."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import cnnstudy

PACKAGE = Path(cnnstudy.__file__).parent
HEAVY = {"tensorflow", "keras", "mlflow", "optuna", "pandas", "matplotlib", "sklearn", "scipy", "statsmodels"}


def drawn_order() -> list[str]:
    """The modules in the order in which the package's docstring lists them."""
    listing = (cnnstudy.__doc__ or "").split("holds the order):")[1]
    return [match.rstrip("/") for match in re.findall(r"^    (\w+/?) ", listing, flags=re.MULTILINE)]


def stage_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_stages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cnnstudy":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("cnnstudy.")}
    return found - {"__version__"}


def test_every_module_is_in_the_drawing() -> None:
    stages = {stage_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert stages == set(drawn_order())


def test_imports_point_one_way() -> None:
    order = drawn_order()
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {other}"
        for path in PACKAGE.rglob("*.py")
        if (stage := stage_of(path)) in order
        for other in imported_stages(path)
        if order.index(other) > order.index(stage)
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ["analysis", "pages", "training"])
def test_a_package_lists_its_modules(package: str) -> None:
    _, _, listing = (importlib.import_module(f"cnnstudy.{package}").__doc__ or "").partition("\n\n")
    named = set(re.findall(r"^(\w+) ", listing, flags=re.MULTILINE)) | set(re.findall(r"\((\w+)\)", listing))
    assert named == {path.stem for path in (PACKAGE / package).glob("*.py")} - {"__init__"}


def test_one_foreign_library_one_module() -> None:
    homes = {
        "optuna": {"search/optuna_search.py"},
        "mlflow": {"tracking/client.py", "tracking/entities.py", "tracking/registry.py"},
    }
    for library, allowed in homes.items():
        users = {
            path.relative_to(PACKAGE).as_posix()
            for path in PACKAGE.rglob("*.py")
            if re.search(rf"^\s*(import|from) {library}\b", path.read_text(), flags=re.MULTILINE)
        }
        assert users <= allowed, library
    tensorflow_users = {
        stage_of(path)
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^\s*(import|from) (tensorflow|keras)\b", path.read_text(), flags=re.MULTILINE)
    }
    assert tensorflow_users <= {"architectures", "training", "download", "execution"}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run-study", "--help"], ["run-study", "no-such-study"], ["run-study", "tiny", "--set", "epochs=3"]],
    ids=" ".join,
)
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['cnnstudy', *sys.argv[1:]]\n"
        "from cnnstudy.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: print('EXIT', stop.code)\n"
        f"print('LOADED', sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert "LOADED []" in done.stdout, done.stdout + done.stderr
    assert f"EXIT {0 if '--help' in arguments else 2}" in done.stdout


def test_a_driver_makes_no_tables() -> None:
    code = (
        "import sys\n"
        "from cnnstudy.system.imports import NOT_FOR_MLFLOW, fast_import\n"
        "with fast_import(without=NOT_FOR_MLFLOW):\n"
        "    from cnnstudy.study import run\n"
        "    from cnnstudy.tracking import client\n"
        "client.Tracker('sqlite:///mlflow.db').studies()\n"
        "print('LOADED', sorted(set(NOT_FOR_MLFLOW) & set(sys.modules)))\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert "LOADED []" in done.stdout, done.stdout + done.stderr
