"""Run all benchmarks in turn, and print one table at the end.

    python benchmarks/all.py [--quick] [--only epoch mixed] [--results FOLDER]

With --quick each runs at its smallest sizes, to check that all of them work: the numbers mean nothing and are not
recorded. A benchmark that fails does not stop the others; the exit code is then 1.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compared import HERE, parser, read, tables

#: In the order in which they run; the last one reads what the others have recorded.
SCRIPTS = (
    "epoch",
    "warm_graphs",
    "frozen_features",
    "several_updates",
    "second_study",
    "shared_prefixes",
    "pruning",
    "recording_cost",
    "driver_cost",
    "many_workers",
    "worker_memory",
    "frozen",
    "mixed",
    "recorded_studies",
    "scaling",
)


def main() -> int:
    parsing = parser(__doc__)
    parsing.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    given = parsing.parse_args()
    rounds = [] if given.rounds == parsing.get_default("rounds") else ["--rounds", str(given.rounds)]
    failed = []
    with tempfile.TemporaryDirectory() as name:
        folder = (given.results or (Path(name) if given.quick else HERE)).absolute()
        for script in [one for one in SCRIPTS if one in given.only]:
            print(f"== {script}", flush=True)
            started = time.perf_counter()
            more = ["--quick"] if given.quick else []
            command = [sys.executable, str(HERE / f"{script}.py"), "--results", str(folder), *more, *rounds]
            if subprocess.run(command).returncode:
                failed.append(script)
            print(f"== {script} took {time.perf_counter() - started:.0f} s\n", flush=True)
        print(tables(read(folder)))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
