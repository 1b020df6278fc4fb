"""The command line with a worker whose trials take no time; each command is a fork of a process with all imports.

A request is a line of JSON on standard input, {"arguments": [...], "folder": ..., "environment": {...}}; the reply is
the command's process id and, after it has ended, its exit code. Its output goes to FOLDER/said.txt. With `kill_at` it
kills itself before its durable operation of that number; one that ends by itself writes their total to operations.txt.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from forking import Operations, serve

HERE = Path(__file__).parent


def main() -> None:
    import mlflow.store.db.utils

    from cnnstudy.analysis import trial_plots
    from cnnstudy.execution.local import LocalExecutor
    from cnnstudy.results.pages import study_page  # noqa: F401
    from cnnstudy.tracking import client  # noqa: F401 - all heavy imports
    from cnnstudy.tracking.retry import RetryPolicy

    LocalExecutor.__init__.__defaults__ = ((str(HERE / "fast_worker.py"),), None, None)
    mlflow.store.db.utils.MAX_RETRY_COUNT = 1  # otherwise MLflow retries a missing database for 100 s
    # a study would wait for an hour
    RetryPolicy.__init__.__defaults__ = tuple(vars(RetryPolicy(give_up_after=1.0)).values())
    # drawing would take most of the time, and is tested elsewhere
    trial_plots.draw_curves = trial_plots.draw_confusion = lambda *given: given[-1].write_text("picture")
    serve(_run)


def _run(request: dict[str, Any]) -> None:
    """Run one command in the fork, which ends with it."""
    folder, code = Path(request["folder"]), 1
    said = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(folder)
    os.environ.update(request["environment"])
    tempfile.tempdir = os.environ["TMPDIR"]
    sys.argv = ["cnnstudy", *request["arguments"]]
    operations = Operations(request["kill_at"]) if "kill_at" in request else None
    try:
        from cnnstudy.cli import main as command

        command()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if operations is not None:
            Path("operations.txt").write_text(str(operations.count), encoding="utf-8")
        os._exit(code)


if __name__ == "__main__":
    main()
