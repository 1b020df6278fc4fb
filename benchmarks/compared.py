"""The results of the benchmarks: results.json, and the tables made from it in results.md and docs/performance.md.

    python benchmarks/compared.py

writes both tables again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One comparison: the seconds that each side took in each round, and what was checked to be equal."""

    work: str
    against: str
    command: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    equal: str
    goal: str = ""  # times faster
    limit: str = ""  # how close ours comes to the machine's limit
    date: str = ""  # on which it was recorded

    @property
    def key(self) -> str:
        return f"{self.work} / {self.against}"

    @property
    def ratio(self) -> float:
        """How many times as fast ours is, by the medians."""
        return statistics.median(self.theirs) / statistics.median(self.ours)

    @property
    def met(self) -> str:
        """Whether the goal was met, `yes` or `no`; "" if there is none."""
        return "" if not self.goal else "yes" if self.ratio >= float(self.goal) else "no"

    HEADINGS = (
        *("work", "against", "ours, s", "theirs, s", "times faster", "goal", "met"),
        *("limit", "equal", "command", "date"),
    )

    @property
    def cells(self) -> list[str]:
        """Under HEADINGS."""
        seconds = [_spread(self.ours), _spread(self.theirs), _digits(self.ratio)]
        checked = [self.goal, self.met, self.limit, self.equal]
        return [self.work, self.against, *seconds, *checked, f"`{self.command}`", self.date]


@dataclass(frozen=True)
class Measured:
    """One measurement of ours alone: its result and, if there is a goal, the number that is compared with it."""

    work: str
    value: str
    command: str
    number: float | None = None
    goal: float | None = None  # the most allowed
    unit: str = ""
    points: tuple[tuple[float, float], ...] = ()  # what a line was fitted to
    date: str = ""  # on which it was recorded

    @property
    def key(self) -> str:
        return self.work

    HEADINGS = ("what", "measured", "goal", "met", "command", "date")

    @property
    def cells(self) -> list[str]:
        """Under HEADINGS."""
        goal, met = "", ""
        if self.goal is not None and self.number is not None:
            goal, met = f"at most {self.goal:g} {self.unit}".strip(), "yes" if self.number <= self.goal else "no"
        return [self.work, self.value, goal, met, f"`{self.command}`", self.date]


KINDS: dict[str, type[Row] | type[Measured]] = {"comparisons": Row, "measured": Measured}
Results = dict[str, dict[str, dict[str, Any]]]  # kind -> key -> fields


def parser(description: str | None, rounds: int = 3) -> argparse.ArgumentParser:
    """Return a parser of the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help="how often each side is timed")
    made.add_argument("--quick", action="store_true", help="the smallest sizes: to see that it works; records nothing")
    made.add_argument(
        "--results", type=Path, help="the folder of results.json and .md  [default: benchmarks/, not with --quick]"
    )
    return made


def tell(row: Row | Measured, given: argparse.Namespace) -> None:
    """Print the row, and record it in place of an earlier one of the same work."""
    for heading, cell in zip(row.HEADINGS, row.cells, strict=True):
        if cell:
            print(f"{heading:>12}  {cell}")
    print(flush=True)
    folder = given.results or (None if given.quick else HERE)
    if folder is not None:
        record(row, folder)


def record(row: Row | Measured, folder: Path) -> None:
    """Record the row, with today's date, in results.json and results.md of that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    results = read(folder)
    kind = next(name for name, of in KINDS.items() if isinstance(row, of))
    here = machine()
    fields = {**asdict(row), "machine": here, "date": today()}
    of_kind = {**results.get(kind, {}), f"{row.key} / {here}": fields}
    results[kind] = dict(sorted(of_kind.items()))
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(tables(results), encoding="utf-8")


def read(folder: Path) -> Results:
    """Return the contents of results.json; empty if there is none."""
    path = folder / "results.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def tables(results: Results) -> str:
    """Return all rows as Markdown tables, by machine."""
    parts = []
    for where in _machines(results):
        parts.append(f"On {where}:")
        for kind, of in KINDS.items():
            here = [fields for fields in results.get(kind, {}).values() if fields["machine"] == where]
            rows = [_row(of, fields).cells for fields in here]
            if rows:
                parts.append(_table(of.HEADINGS, rows))
    return "\n\n".join(parts) + "\n"


def quoted(results: Results) -> str:
    """Return the table of docs/performance.md: how many times as fast ours is on each machine, if it has a goal."""
    places = _machines(results)
    rows: dict[tuple[str, str], dict[str, Row]] = {}
    for fields in results.get("comparisons", {}).values():
        row = _row(Row, fields)
        if isinstance(row, Row) and row.goal:
            rows.setdefault((row.work, row.against), {})[fields["machine"]] = row
    cells = [
        [*names, next(iter(of.values())).goal, *(_ratio(of[one]) if one in of else "" for one in places)]
        for names, of in rows.items()
    ]
    return _table(("work", "against", "goal", *places), cells)


def _ratio(row: Row) -> str:
    return _digits(row.ratio) + (" (missed)" if row.met == "no" else "")


def _machines(results: Results) -> list[str]:
    return sorted({fields["machine"] for of_kind in results.values() for fields in of_kind.values()})


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(_line(cells) for cells in (headings, ["---"] * len(headings), *rows))


#: The markers around the table in docs/performance.md.
BEGINNING, END = "<!-- benchmarks/results.json, by python benchmarks/compared.py -->\n", "\n<!-- end -->"


def quote(text: str, results: Results) -> str:
    """Return the page with its table replaced by that of the results.

    Raises:
        ValueError: the page has no markers for the table.
    """
    before, beginning, rest = text.partition(BEGINNING)
    _, end, after = rest.partition(END)
    if not (beginning and end):
        raise ValueError(f"docs/performance.md has no {BEGINNING.strip()} with {END.strip()} after it")
    return f"{before}{beginning}{quoted(results)}{end}{after}"


def _row(of: type[Row] | type[Measured], fields: Mapping[str, Any]) -> Row | Measured:
    return of(**{name: value for name, value in fields.items() if name != "machine"})


def machine() -> str:
    """Return the processor in words, with AVX-512 if it has it: TensorFlow then uses other kernels by default."""
    name, instructions, lines = platform.machine(), "", Path("/proc/cpuinfo")
    if lines.exists():
        text = lines.read_text()
        found = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
        name = found[0] if found else name
        instructions = " with AVX-512" if "avx512f" in text.split() else " without AVX-512"
    return f"{os.cpu_count()} cores of {name}{instructions}"


def today() -> str:
    """Return today's date in UTC, as 2026-11-28."""
    return datetime.now(UTC).date().isoformat()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _spread(seconds: Sequence[float]) -> str:
    """Return the median, and the smallest and largest value."""
    middle, least, most = map(_digits, (statistics.median(seconds), min(seconds), max(seconds)))
    return middle if len(seconds) == 1 else f"{middle} ({least} to {most})"


def _digits(number: float) -> str:
    """Return the number with three significant digits, or with all digits before the point."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


if __name__ == "__main__":
    page, found = HERE.parent / "docs" / "performance.md", read(HERE)
    (HERE / "results.md").write_text(tables(found), encoding="utf-8")
    page.write_text(quote(page.read_text(encoding="utf-8"), found), encoding="utf-8")
