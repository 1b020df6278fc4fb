"""Drivers to be killed; each is a fork of this process, which has all imports.

A request is a line of JSON on standard input, {"folder": ..., "jobs": ..., "kill_at": ...}; the reply is the driver's
process id and, after it has ended, its exit code as `os.waitstatus_to_exitcode` gives it.

With `kill_at` the driver kills itself before its durable operation of that number, from 1. A driver that ends by itself
writes their total to `operations.txt`.
"""

from __future__ import annotations

import os
import tempfile
import traceback
from pathlib import Path
from typing import Any

from forking import Operations, serve

HERE = Path(__file__).parent
FILE = """
name: killed
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {transfer: [scratch, frozen], dropout: {low: 0.1, high: 0.7}}
weights: {default: {source: pretrain, epochs: 2, data: {name: digits, classes: [3, 4]}}}
training: {epochs: 2, checkpoints: every-epoch}
strategy: {sampler: random}
budget: {trials: 3}
confirm: {top: 1, seeds: 2, most_seeds: 2}
"""


def main() -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from cnnstudy.analysis import trial_plots
    from cnnstudy.study import run  # noqa: F401 - all heavy imports, before the forks
    from cnnstudy.system import processes

    processes.SAME_INTERRUPT_SECONDS = 0.0  # two interrupts count as two, however close together

    # drawing would take most of the time, and is tested elsewhere
    trial_plots.draw_curves = trial_plots.draw_confusion = lambda *given: given[-1].write_text("picture")
    serve(_run)


def _run(request: dict[str, Any]) -> None:
    """Run one driver in the fork, which ends with it."""
    code = 1
    folder = Path(request["folder"])
    log = (folder / "log.txt").open("a", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    try:
        from cnnstudy.config.load import load_study
        from cnnstudy.errors import CnnstudyError
        from cnnstudy.execution import Workers
        from cnnstudy.execution.local import LocalExecutor
        from cnnstudy.study.run import run_study
        from cnnstudy.system.display import PlainDisplay
        from cnnstudy.tracking.client import Tracker

        os.chdir(folder)
        os.environ["CNNSTUDY_CACHE"] = str(folder / "cache")
        tempfile.tempdir = str(folder / "temporary")
        (folder / "killed.yaml").write_text(FILE, encoding="utf-8")
        program = (str(HERE / "fast_worker.py"),)
        operations = Operations(request["kill_at"]) if "kill_at" in request else None
        outcome = run_study(
            load_study("killed.yaml", []),
            Tracker("sqlite:///mlflow.db"),
            Workers(lambda place: LocalExecutor(request["jobs"], place, program)),
            PlainDisplay(lambda text: print(text, file=log, flush=True)),
        )
        code = 130 if outcome.interrupted else 4 if outcome.missing or outcome.failed else 0
        if operations is not None:
            (folder / "operations.txt").write_text(str(operations.count), encoding="utf-8")
    except KeyboardInterrupt:
        code = 130
    except CnnstudyError as error:
        print(f"error: {error}", file=log, flush=True)
        code = 3
    except BaseException:
        traceback.print_exc(file=log)
    finally:
        log.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
