"""Kill drivers and workers again and again, and check the studies afterwards.

    python tests/faults/run.py --kills 100       at random times, 100 of each kind
    python tests/faults/run.py --operations      before each durable operation of the driver in turn

Exit code 0: nothing was lost, repeated or left behind. The folders of studies with problems are kept.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent), str(HERE)]

from killing import KINDS, Tally, count_operations, drivers, kill_and_continue, kill_at_operation  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="kills of each kind")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--each", type=int, default=3, help="kills for each study")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--operations", action="store_true", help="kill before each durable operation of the driver")
    parser.add_argument("--every", type=int, default=1, help="with --operations: only every N-th")
    arguments = parser.parse_args()
    dice, tally, started = random.Random(arguments.seed), Tally(), time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    database = root / "empty.db"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from cnnstudy.tracking.client import Tracker

    Tracker(f"sqlite:///{database}").studies()
    with drivers() as made:
        print(f"studies in {root}", flush=True)
        if arguments.operations:
            total = count_operations(made, root / "counted", database)
            print(f"{total} durable operations", flush=True)
            for number in range(1, total + 1, arguments.every):
                folder, before = root / f"operation-{number:05d}", len(tally.troubles)
                kill_at_operation(made, folder, database, number, tally)
                _report(folder, f"operation {number}", tally, before)
            arguments.kills = 0
        while missing := [kind for kind in arguments.kinds if tally.kills[kind] < arguments.kills]:
            folder, before = root / f"study-{tally.studies:04d}", len(tally.troubles)
            kinds = [dice.choice(missing) for _ in range(arguments.each)]
            kill_and_continue(made, folder, database, kinds, dice, tally)
            _report(folder, str(kinds), tally, before)
    print(
        f"{tally.studies} studies, kills {dict(tally.kills)}, {tally.repeated} trials started again, "
        f"{len(tally.troubles)} problems, {time.monotonic() - started:.0f} s"
    )
    if not tally.troubles:
        shutil.rmtree(root)
    return 1 if tally.troubles else 0


def _report(folder: Path, how: str, tally: Tally, before: int) -> None:
    for trouble in tally.troubles[before:]:
        print(f"PROBLEM {how} {trouble}", flush=True)
    if len(tally.troubles) == before:
        shutil.rmtree(folder)
    if tally.studies % 10 == 0:
        print(f"{tally.studies} studies, kills {dict(tally.kills)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
