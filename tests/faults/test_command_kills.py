"""Commands that write for the user, killed before each of their durable operations, and called again."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from commanding import Commands, forking_commands

URI = "sqlite:///mlflow.db"
FILE = """
name: written
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {batch_size: [8, 16]}
training: {epochs: 1}
budget: {trials: 2}
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Commands]:
    """Commands in the folder of a study that has ended."""
    folder = tmp_path_factory.mktemp("written")
    shutil.copy(empty_database, folder / "mlflow.db")
    (folder / "written.yaml").write_text(FILE, encoding="utf-8")
    with forking_commands() as process:
        made = Commands(folder, process, {})
        code, said = made.run(URI, "run-study", "written.yaml")
        assert code == 0, said
        yield made


@dataclass(frozen=True)
class Case:
    """A command, what is there before it, and what must hold of a file that it writes, killed or not."""

    arguments: tuple[str, ...]
    before: Callable[[Path], None]
    holds: Callable[[Path], bool]
    done: Callable[[Path], bool]


def write_old(folder: Path) -> None:
    for name in ("board.csv", "board.md"):
        (folder / name).write_text("old", encoding="utf-8")
    shutil.rmtree(folder / "page", ignore_errors=True)
    shutil.rmtree(folder / "out", ignore_errors=True)


def are_old_or_whole(folder: Path) -> bool:
    texts = [(folder / name).read_text(encoding="utf-8") for name in ("board.csv", "board.md")]
    return all(text == "old" or (text.count("alexnet-00") >= 2 and text.endswith("\n")) for text in texts)


def is_page_whole(folder: Path) -> bool:
    page = folder / "page" / "report.html"
    return not page.exists() or page.read_text(encoding="utf-8").rstrip().endswith("</html>")


def copy_project(folder: Path) -> None:
    """A copy of the project, which is then one that was moved."""
    shutil.rmtree(folder / "copy", ignore_errors=True)
    (folder / "copy").mkdir()
    shutil.copy(folder / "mlflow.db", folder / "copy")
    shutil.copytree(folder / "mlruns", folder / "copy" / "mlruns")


def fill_cache(folder: Path) -> None:
    for number in range(3):
        entry = folder / "cache" / "forecasts" / f"{number:024x}"
        entry.mkdir(parents=True, exist_ok=True)
        (entry / "rates.json").write_text("{}", encoding="utf-8")


CASES = {
    "leaderboard": Case(
        ("leaderboard", "--csv", "board.csv", "--markdown", "board.md"),
        write_old,
        are_old_or_whole,
        lambda folder: "old" not in (folder / "board.csv").read_text() + (folder / "board.md").read_text(),
    ),
    "report": Case(
        ("report", "--no-gallery", "--out", "page"),
        write_old,
        is_page_whole,
        lambda f: (f / "page/report.html").exists(),
    ),
    "export": Case(
        ("export", "written/alexnet-000", "out"),
        write_old,
        lambda folder: not (folder / "out").exists() or (folder / "out" / "exported").read_text() == "whole",
        lambda folder: (folder / "out" / "exported").exists(),
    ),
    "cache clear": Case(
        ("cache", "clear", "--yes", "--kind", "forecasts"),
        fill_cache,
        lambda folder: True,
        lambda folder: not list((folder / "cache" / "forecasts").glob("[0-9]*")),
    ),
    "doctor --repair": Case(
        ("doctor", "--repair", "--tracking-uri", "sqlite:///copy/mlflow.db"),
        copy_project,
        lambda folder: True,
        lambda folder: str(folder / "mlruns").encode() not in (folder / "copy" / "mlflow.db").read_bytes(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_killed_and_called_again(commands: Commands, name: str) -> None:
    case, folder = CASES[name], commands.folder
    for _ in range(2):  # the first call writes caches of libraries, too
        case.before(folder)
        code, said = commands.run(URI, *case.arguments, kill_at=0)
        assert (code, case.done(folder)) == (0, True), said
    operations = int((folder / "operations.txt").read_text())
    assert operations > 0
    for number in sorted({1 + round(share * (operations - 1)) for share in (0, 0.5, 1)}):
        case.before(folder)
        assert commands.run(URI, *case.arguments, kill_at=number)[0] == -signal.SIGKILL
        assert case.holds(folder), f"killed before operation {number} of {operations}"
        refused = name == "export" and case.done(folder)  # it was killed after that, and never replaces anything
        code, said = commands.run(URI, *case.arguments)
        assert (code, case.holds(folder), case.done(folder)) == (2 if refused else 0, True, True), said
    code, said = commands.run(URI, "doctor", "--repair")
    assert code == 0, said
    left = [path for path in folder.rglob(".*") if path.name not in (".lock",) and "cache" not in path.parts]
    assert left == [], f"of {operations} operations"
