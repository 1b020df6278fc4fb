"""The order of imports among rooms, what each room says of itself, and which commands stay light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import cnnstudy

PACKAGE = Path(cnnstudy.__file__).parent
HEAVY = {"tensorflow", "keras", "mlflow", "optuna", "pandas", "matplotlib", "sklearn", "scipy", "statsmodels"}
#: The folders that are rooms, and those within them, as dotted names.
ROOMS = sorted(".".join(path.parent.relative_to(PACKAGE).parts) for path in PACKAGE.rglob("*/__init__.py"))
#: A foreign library -> the only module or room that imports it; TensorFlow is imported in workers alone.
HOMES = {
    "optuna": ["search.optuna_search"],
    "mlflow": ["tracking", "training.served_model"],
    "sqlalchemy": ["tracking"],
    "tensorflow": ["training", "execution.worker"],
    "keras": ["training", "architectures", "system.download", "system.imports", "results.network_summary", "cli.api"],
    "h5py": ["training"],
    "onnxruntime": ["training.export"],
    "statsmodels": ["analysis.regression"],
    "sklearn": ["data.datasets.digits", "training.linear_head"],
    "tabulate": ["analysis.leaderboard"],
    "jinja2": ["results.pages"],
    "typer": ["cli"],
    "rich": ["system.output", "system.display"],  # what others named must pass them
    "filelock": ["system.cache"],
    "ray": ["execution.ray_connection", "execution.ray_node"],
    "platformdirs": ["system.cache"],
}


def module_name(path: Path) -> str:
    """The dotted name below the package; a package's own module has its folder's name."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def imported(tree: ast.Module) -> Iterator[str]:
    """What is imported anywhere in a module, as dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def own_imports(module: str) -> set[str]:
    """The modules of the package that a module imports."""
    found = set()
    for name in imported(MODULES[module]):
        top, _, rest = name.partition(".")
        if top == "cnnstudy" and rest != "__version__":
            found.add(rest if rest in MODULES else rest.rpartition(".")[0])
    return found - {"", module}


def is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def drawn_order() -> list[str]:
    """The modules and rooms in the order in which the package's docstring lists them."""
    _, _, listing = (cnnstudy.__doc__ or "").partition("A room imports only from the rooms above it in this list")
    return [match.rstrip("/") for match in re.findall(r"^    (\w+/?) ", listing, flags=re.MULTILINE)]


def described(room: str) -> str:
    tree = ast.parse((PACKAGE / Path(*room.split(".")) / "__init__.py").read_text(encoding="utf-8"))
    return ast.get_docstring(tree) or ""


def allowed_imports(room: str) -> list[str]:
    """What its docstring says that a room may import; of a room within a room, its parent too."""
    order, parent = drawn_order(), room.split(".")[0]
    above = order[: order.index(parent)]
    (line,) = re.findall(r"^May import: (.*?)\.(?:$|\n\n)", described(room), flags=re.MULTILINE | re.DOTALL)
    return above if line.startswith("every room above") else [name.strip() for name in line.split(",")]


def test_every_room_and_module_is_in_the_drawing() -> None:
    tops = {name.split(".")[0] for name in MODULES} - {"__init__", "__main__"}
    assert sorted(tops) == sorted(drawn_order())


def test_imports_point_one_way() -> None:
    order = drawn_order()
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        if (room := module.split(".")[0]) in order
        for other in sorted(own_imports(module))
        if order.index(other.split(".")[0]) > order.index(room)
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_comes_in_and_what_goes_out(room: str) -> None:
    text = " ".join(described(room).split())
    assert re.search(r"Comes in: .+ Goes out: .+ May import: ", text), f"{room}/__init__.py"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_it_says(room: str) -> None:
    order, parent, allowed = drawn_order(), room.split(".")[0], allowed_imports(room)
    too_low = [
        name
        for name in allowed
        if name.split(".")[0] != parent and order.index(name.split(".")[0]) > order.index(parent)
    ]
    assert too_low == [], "it may import only from rooms above it"
    assert [name for name in allowed if name not in MODULES] == []
    inner = [other for other in ROOMS if other.startswith(f"{room}.")]
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        if is_in(module, room) and not any(is_in(module, other) for other in inner)
        for other in sorted(own_imports(module))
        if not is_in(other, room) and not any(is_in(other, name) for name in allowed)
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_lists_its_modules(room: str) -> None:
    modules = {path.stem for path in (PACKAGE / Path(*room.split("."))).glob("*.py")} - {"__init__"}
    first_words = set(re.findall(r"^ *(\w+) ", described(room), flags=re.MULTILINE))
    drawn = set(re.findall(r"^ *(\w+)  +\S", described(room), flags=re.MULTILINE))
    if room in ("architectures", "data.datasets", "search"):  # a file is a network, a data set; in words
        assert not drawn
        return
    protocol = {"__init__", "driver", "submit", "answer"} if room == "execution" else set()
    assert (drawn - protocol) | (first_words & modules) == modules


@pytest.mark.parametrize("library", HOMES)
def test_a_foreign_library_has_one_place(library: str) -> None:
    users = [name for name, tree in MODULES.items() if library in {one.split(".")[0] for one in imported(tree)}]
    assert [name for name in users if not any(is_in(name, home) for home in HOMES[library])] == []


def test_dependencies_name_the_places_that_need_them() -> None:
    project = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    comments = re.findall(r'^ +"[\w.-]+>=.*?",\s+# (.*)$', project, flags=re.MULTILINE)
    places = re.findall(r"[\w/]+(?:/|\.py)(?= |,|:|$)", " ".join(comments))
    assert len(places) > 30
    assert [place for place in places if not any((top / place).exists() for top in (PACKAGE, PACKAGE.parent))] == []


def loaded(code: str, *arguments: str, folder: str | Path = PACKAGE.parent) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


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
    done = loaded(code, *arguments)
    assert "LOADED []" in done.stdout, done.stdout + done.stderr
    assert f"EXIT {0 if '--help' in arguments else 2}" in done.stdout


@pytest.mark.parametrize("room", ["system", "data.datasets", "architectures", "config.load", "execution.jobs", "cli"])
def test_a_light_module_loads_nothing_heavy(room: str) -> None:
    code = f"import sys, cnnstudy.{room}; print('LOADED', sorted({HEAVY!r} & set(sys.modules)))"
    done = loaded(code)
    assert "LOADED []" in done.stdout, done.stdout + done.stderr


@pytest.mark.thorough
def test_a_driver_makes_no_tables() -> None:
    code = (
        "import sys\n"
        "from cnnstudy.system.imports import NOT_FOR_MLFLOW; from cnnstudy.system.imports import fast_import\n"
        "with fast_import(without=NOT_FOR_MLFLOW):\n"
        "    from cnnstudy.study import run\n"
        "    from cnnstudy.tracking import client\n"
        "client.Tracker('sqlite:///mlflow.db').studies()\n"
        "print('LOADED', sorted(set(NOT_FOR_MLFLOW) & set(sys.modules)))\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        done = loaded(code, folder=folder)
    assert "LOADED []" in done.stdout, done.stdout + done.stderr
