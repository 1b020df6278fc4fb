"""Two sides of a benchmark on the same work, one after the other in turn, and the table that the README quotes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
RESULTS, TABLE = HERE / "results.json", HERE / "results.md"


@dataclass(frozen=True)
class Row:
    """One comparison: seconds of each round of both sides, and what was checked to be equal."""

    work: str
    against: str
    command: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    equal: str
    goal: str = ""

    @property
    def ratio(self) -> float:
        """How many times faster ours is, by the medians."""
        return statistics.median(self.theirs) / statistics.median(self.ours)


def in_turn(ours: Callable[[], None], theirs: Callable[[], None], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of both sides, ours and theirs in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, run in zip(seconds, (ours, theirs), strict=True):
            started = time.perf_counter()
            run()
            side.append(time.perf_counter() - started)
    return seconds


def run(command: Sequence[str], folder: Path, **variables: str) -> None:
    """A whole process, without what an earlier one left in the environment; its output only where it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "MLFLOW_"))}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )


def tell(row: Row) -> None:
    """Print the row, and put it into results.json and results.md in place of an earlier one of the same work."""
    print(_line(row))
    rows: dict[str, Mapping[str, object]] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    rows[f"{row.work} / {row.against}"] = asdict(row)
    RESULTS.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n", encoding="utf-8")
    lines = [_line(Row(**given)) for given in dict(sorted(rows.items())).values()]  # type: ignore[arg-type]
    head = "| work | against | ours, s | theirs, s | times faster | goal | equal | command |\n|" + "---|" * 8
    TABLE.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


def _line(row: Row) -> str:
    cells = [row.work, row.against, _spread(row.ours), _spread(row.theirs), f"{row.ratio:.1f}", row.goal, row.equal]
    return f"| {' | '.join(cells)} | `{row.command}` |"


def _spread(seconds: Sequence[float]) -> str:
    """The median, and from where to where it went."""
    middle = f"{statistics.median(seconds):.3g}"
    return middle if len(seconds) == 1 else f"{middle} ({min(seconds):.3g} to {max(seconds):.3g})"
