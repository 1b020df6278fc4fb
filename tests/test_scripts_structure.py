"""scripts/structure.py: the package keeps its goals, and the script notices when it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "structure.py"


def structure(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_the_package_keeps_its_goals() -> None:
    printed = structure()
    assert printed.returncode == 0, printed.stdout + printed.stderr


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ({"a.py": "import p.b\n", "b.py": "import p.a\n"}, "cycle: a, b"),
        ({"a.py": "def long():\n" + "    pass\n" * 50}, "a.long: 51 lines"),
        ({"a.py": "x = 1\n" * 501}, "501 lines (a)"),
        ({f"m{number}.py": "" for number in range(16)}, "rooms (besides __init__ and __main__)   16"),
        ({f"m{number}.py": f"import p.m{number + 1}\n" for number in range(10)} | {"m10.py": ""}, "rooms           11"),
    ],
    ids=["cycle", "function", "module", "rooms", "floors"],
)
def test_a_missed_goal(tmp_path: Path, files: dict[str, str], shown: str) -> None:
    (tmp_path / "p").mkdir()
    for name, text in {"__init__.py": "", **files}.items():
        (tmp_path / "p" / name).write_text(text, encoding="utf-8")
    printed = structure(str(tmp_path / "p"))
    assert printed.returncode == 1
    assert shown in printed.stdout
