"""Kill drivers and workers so many times at moments of chance, and check what comes of their studies.

    python tests/faults/run.py --kills 100

Exit code 0: nothing was lost, repeated or left behind. The folders of studies with troubles are kept.
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

from killing import KINDS, Tally, drivers, kill_and_continue  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each of the kinds")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--each", type=int, default=3, help="kills of one study")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dice, tally, started = random.Random(arguments.seed), Tally(), time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    database = root / "empty.db"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from cnnstudy.tracking import Tracker

    Tracker(f"sqlite:///{database}").studies()
    with drivers() as made:
        print(f"studies in {root}", flush=True)
        while missing := [kind for kind in arguments.kinds if tally.kills[kind] < arguments.kills]:
            folder, before = root / f"study-{tally.studies:04d}", len(tally.troubles)
            kinds = [dice.choice(missing) for _ in range(arguments.each)]
            kill_and_continue(made, folder, database, kinds, dice, tally)
            for trouble in tally.troubles[before:]:
                print(f"TROUBLE {kinds} {trouble}", flush=True)
            if len(tally.troubles) == before:
                shutil.rmtree(folder)
            if tally.studies % 10 == 0:
                print(f"{tally.studies} studies, kills {dict(tally.kills)}", flush=True)
    print(
        f"{tally.studies} studies, kills {dict(tally.kills)}, {tally.repeated} runs begun again, "
        f"{len(tally.troubles)} troubles, {time.monotonic() - started:.0f} s"
    )
    if not tally.troubles:
        shutil.rmtree(root)
    return 1 if tally.troubles else 0


if __name__ == "__main__":
    sys.exit(main())
