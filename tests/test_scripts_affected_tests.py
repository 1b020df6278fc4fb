"""scripts/affected_tests.py in a small repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "affected_tests.py"
FILES = {
    "cnnstudy/__init__.py": "",
    "cnnstudy/records.py": "",
    "cnnstudy/data/__init__.py": "",
    "cnnstudy/lonely.py": "",
    "cnnstudy/data/shuffle.py": "",
    "cnnstudy/data/splits.py": "from cnnstudy.data import shuffle",
    "cnnstudy/data/splits_text.py": "",
    "cnnstudy/data/sets/__init__.py": "",
    "cnnstudy/data/sets/digits.py": "",
    "tests/conftest.py": "",
    "tests/pictures.py": "",
    "tests/more_pictures.py": "from pictures import x",
    "tests/data/test_splits.py": "import cnnstudy.records",
    "tests/data/test_splits_blocks.py": "",
    "tests/data/test_splits_text.py": "",
    "tests/data/test_splits_text_parts.py": "",
    "tests/data/test_sets.py": "",
    "tests/data/test_sets_more.py": "",
    "tests/data/test_contract.py": "",
    "tests/test_records.py": "from cnnstudy import records",
    "tests/test_training.py": "from cnnstudy.data.splits import part\nfrom pictures import x",
    "tests/test_drawn.py": "def test():\n    from more_pictures import x",
    "tests/test_readme.py": "",
    "README.md": "",
}

SPLITS = ["tests/data/test_splits.py", "tests/data/test_splits_blocks.py"]
TEXT = ["tests/data/test_splits_text.py", "tests/data/test_splits_text_parts.py"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    files = FILES | {f"tests/test_user_{number}.py": "from cnnstudy.records import Split" for number in range(9)}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    for arguments in (
        ["init", "-q", "-b", "main"],
        ["add", "."],
        ["commit", "-q", "-m", "all"],
        ["switch", "-qc", "x"],
    ):
        git(tmp_path, *arguments)
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True)


def affected(folder: Path) -> tuple[list[str], str]:
    """The test files, and what is said of them."""
    done = subprocess.run([sys.executable, SCRIPT], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize(
    ("changed", "tests", "said"),
    [
        ("cnnstudy/data/splits.py", [*SPLITS, "tests/test_training.py"], ""),
        ("cnnstudy/data/splits_text.py", TEXT, ""),
        ("cnnstudy/data/sets/digits.py", ["tests/data/test_sets.py", "tests/data/test_sets_more.py"], ""),
        ("cnnstudy/data/__init__.py", ["tests/data/test_contract.py"], ""),
        (
            "cnnstudy/records.py",
            ["tests/test_records.py"],
            "used by 11 test files; this runs only tests/test_records.py",
        ),
        ("cnnstudy/lonely.py", [], "has no test file"),
        ("cnnstudy/data/shuffle.py", SPLITS, ""),
        ("tests/test_records.py", ["tests/test_records.py"], ""),
        ("tests/pictures.py", ["tests/test_drawn.py", "tests/test_training.py"], ""),
        ("tests/conftest.py", [], "used by all tests"),
        ("README.md", ["tests/test_readme.py"], ""),
        ("tests/test_new.py", ["tests/test_new.py"], ""),
    ],
)
def test_a_change_has_its_nearest_tests(changed: str, tests: list[str], said: str, repository: Path) -> None:
    for committed in (False, True):
        (repository / changed).write_text("x = 1", encoding="utf-8")
        if committed:
            git(repository, "add", ".")
            git(repository, "commit", "-q", "-m", "changed")
        found, told = affected(repository)
        assert found == tests
        assert said in told
        assert bool(said) == bool(told)


def test_of_many_the_nearest_are_run(repository: Path) -> None:
    for number in range(5):
        (repository / "cnnstudy" / f"part_{number}.py").write_text("")
        for name in (f"part_{number}", f"use_{number}"):
            (repository / "tests" / f"test_{name}.py").write_text(f"import cnnstudy.part_{number}")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "parts")
    git(repository, "branch", "-qf", "main")
    for number in range(5):
        (repository / "cnnstudy" / f"part_{number}.py").write_text("x = 1")
    everything = [f"tests/test_{kind}_{number}.py" for kind in ("part", "use") for number in range(5)]
    assert affected(repository) == (everything, "")
    (repository / "README.md").write_text("more")
    found, told = affected(repository)
    assert found == [*everything[:5], "tests/test_readme.py"]
    assert "of 11 test files near the changes, 5 that only import changed modules are not run" in told


def test_without_a_change_there_is_nothing_to_run(repository: Path) -> None:
    assert affected(repository) == ([], "")


def test_what_was_deleted_leaves_no_test_to_run(repository: Path) -> None:
    (repository / "tests" / "test_records.py").unlink()
    (repository / "cnnstudy" / "data" / "splits.py").unlink()
    found, _ = affected(repository)
    assert found == [*SPLITS, "tests/test_training.py"]
