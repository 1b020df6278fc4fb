"""The benchmarks' commands answer, and the table in docs/performance.md is what was measured."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
#: Files that are parts of others.
PARTS = {"compared", "fits", "limits", "made_pictures", "measuring", "sides", "simulated_studies", "timed_worker"}
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem not in PARTS)


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """part(name): a file of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_every_script_says_what_it_takes() -> None:
    started = {
        name: subprocess.Popen(
            [sys.executable, str(BENCHMARKS / f"{name}.py"), "--help"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in SCRIPTS
    }
    said = {name: process.communicate()[0] for name, process in started.items()}
    assert {name: said[name] for name, process in started.items() if process.returncode} == {}
    assert [name for name, text in said.items() if f"python benchmarks/{name}.py" not in text] == []


def test_all_runs_every_benchmark_of_speed(part: Callable[[str], ModuleType]) -> None:
    of_intervals = {
        "champions",
        "copies",
        "copies_by_features",
        "coverage",
        "data_laws",
        "diagnoses",
        "intervals",
        "paired_images",
        "precision",
        "ranges",
        "repeats",
        "transfer_modes",
        "verdicts",
    }  # they ask whether numbers are right
    assert set(part("all").SCRIPTS) == set(SCRIPTS) - of_intervals - {"all", "gpu"}


def test_the_table_is_that_of_the_results(part: Callable[[str], ModuleType]) -> None:
    compared = part("compared")
    assert (BENCHMARKS / "results.md").read_text(encoding="utf-8") == compared.tables(compared.read(BENCHMARKS))


def test_a_row_takes_the_place_of_an_earlier_one_of_the_same_work(
    part: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = part("compared")
    monkeypatch.setattr(compared, "today", lambda: "2026-11-28")
    row = compared.Row("an epoch", "a|b", "python x.py", (2.0, 1.0, 3.0), (9.0, 5.0, 6.0), "losses equal", "4", "9 %")
    compared.record(compared.Row("an epoch", "a|b", "python x.py", (1.0,), (1.0,), ""), tmp_path)
    compared.record(row, tmp_path)
    compared.record(compared.Measured("memory", "298 MB", "python y.py", 298.0, 300.0, "MB"), tmp_path)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert [line.split(" | ")[0] for line in lines] == ["| work", "| an epoch", "| what", "| memory"]
    assert text.startswith(f"On {compared.machine()}:")
    ending = "4 | no | 9 % | losses equal | `python x.py` | 2026-11-28 |"
    assert lines[1] == rf"| an epoch | a\|b | 2 (1 to 3) | 6 (5 to 9) | 3 | {ending}"
    assert lines[3] == "| memory | 298 MB | at most 300 MB | yes | `python y.py` | 2026-11-28 |"
    assert compared.tables(compared.read(tmp_path)) == text


def test_a_missed_goal_is_not_rounded_up_to_it(part: Callable[[str], ModuleType]) -> None:
    compared = part("compared")
    row = compared.Row("an epoch", "fit", "python x.py", (2.0,), (2.9,), "losses equal", "1.5")
    assert row.cells[4:7] == ["1.45", "1.5", "no"]
    assert compared.Row("trials", "a script", "python x.py", (61.2,), (2394.0,), "").cells[3] == "2,394"


def test_each_machine_has_rows_of_its_own(
    part: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = part("compared")
    for machine, seconds in (("a laptop", 1.0), ("a server", 0.5), ("a laptop", 2.0)):
        monkeypatch.setattr(compared, "machine", lambda machine=machine: machine)
        compared.record(compared.Row("an epoch", "fit", "python x.py", (seconds,), (6.0,), "equal", "4"), tmp_path)
    compared.record(compared.Row("a trial", "fit", "python x.py", (1.0,), (6.0,), "equal"), tmp_path)
    results = compared.read(tmp_path)
    assert "On a laptop:" in compared.tables(results)
    assert "On a server:" in compared.tables(results)
    lines = compared.quoted(results).splitlines()
    assert lines[0] == "| work | against | goal | a laptop | a server |"
    assert lines[2:] == ["| an epoch | fit | 4 | 3 (missed) | 12 |"], "what has no goal is not quoted"
    text = f"# Performance\n{compared.BEGINNING}old{compared.END}\nmore"
    assert compared.quote(text, results) == text.replace("old", compared.quoted(results))
    with pytest.raises(ValueError, match="has no"):
        compared.quote("# Performance", results)


def test_the_performance_page_quotes_the_results(part: Callable[[str], ModuleType]) -> None:
    compared = part("compared")
    text = (BENCHMARKS.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    assert compared.quote(text, compared.read(BENCHMARKS)) == text


@pytest.mark.parametrize(("quick", "folder", "written"), [(True, False, False), (True, True, True)])
def test_quick_sizes_are_recorded_where_one_says_so_only(
    quick: bool,
    folder: bool,
    written: bool,
    part: Callable[[str], ModuleType],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    compared = part("compared")
    before = (BENCHMARKS / "results.json").read_bytes()
    given = argparse.Namespace(quick=quick, results=tmp_path / "results" if folder else None)
    compared.tell(compared.Measured("memory", "298 MB", "python y.py"), given)
    assert "298 MB" in capsys.readouterr().out
    assert (tmp_path / "results" / "results.json").exists() == written
    assert (BENCHMARKS / "results.json").read_bytes() == before


def test_a_line_has_a_fixed_and_a_marginal_cost(part: Callable[[str], ModuleType]) -> None:
    fits = part("fits")
    line = fits.fit([(1, 12.0), (4, 18.0), (32, 74.0)])
    assert (line.fixed, line.marginal, line.off) == pytest.approx((10.0, 2.0, 0.0))
    assert line.at(100) == pytest.approx(210.0)
    assert fits.exponent([(1, 7.0), (10, 3.0), (20, 12.0)]) == pytest.approx(2.0)


def test_a_side_that_fails_says_why(part: Callable[[str], ModuleType], tmp_path: Path) -> None:
    sides = part("sides")
    script = (
        "import sys\nfor line in sys.stdin:\n    print('noise\\n{\"seconds\": 2}', flush=True)\n    raise OSError('no')"
    )
    with sides.side([sys.executable, "-c", script], tmp_path) as made:
        assert made.round() == {"seconds": 2}
        with pytest.raises(SystemExit, match="OSError: no"):
            made.round()
    with pytest.raises(SystemExit, match="ended with 1"):
        sides.run([sys.executable, "-c", "raise OSError"], tmp_path)
