"""A study whose terminal is closed, or whose output has lost its reader: stopped, and resumed by the same command."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cnnstudy.tracking.client import Tracker

#: The command with a worker whose trials take no time, and without pictures.
COMMAND = """
import sys
from cnnstudy.analysis import trial_plots
from cnnstudy.cli import main
from cnnstudy.execution.local import LocalExecutor
LocalExecutor.__init__.__defaults__ = ((sys.argv.pop(1),), None, None)
trial_plots.draw_curves = trial_plots.draw_confusion = lambda *given: given[-1].write_text("picture")
main()
"""
TRIALS = 15
STUDY = f"""
name: lost
data: {{name: digits, classes: [0, 1, 2]}}
image_size: 64
architectures: [alexnet]
factors: {{dropout: {{low: 0.1, high: 0.7}}}}
training: {{epochs: 2}}
strategy: {{sampler: random}}
budget: {{trials: {TRIALS}}}
"""


@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize("what", ["terminal", "pipe"])
def test_a_study_is_stopped_and_resumed(what: str, own_places: Path, tracker: Tracker) -> None:
    Path("lost.yaml").write_text(STUDY, encoding="utf-8")
    worker = str(Path(__file__).with_name("fast_worker.py"))
    command = [sys.executable, "-c", COMMAND, worker, "run-study", "lost.yaml", "--tracking-uri", tracker.uri]
    pid, reader = pty.fork() if what == "terminal" else (0, -1)
    if what == "terminal" and pid == 0:
        os.execv(sys.executable, command)
    if what == "pipe":
        reader, pipe = os.pipe()
        pid = os.posix_spawn(
            sys.executable, command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, pipe, number) for number in (1, 2)]
        )
        os.close(pipe)
    said = b""
    with contextlib.suppress(OSError):  # a terminal without programs; the exit code says what happened
        while not re.search(rb"alexnet-000 .*finished", said) and (part := os.read(reader, 10_000)):
            said += part
    os.close(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130, said.decode()
    study = tracker.study("lost")
    (own,) = tracker.runs(study.experiment_id, "tags.`cnnstudy.kind` = 'study'")
    assert (own.state, own.reason, own.message) == ("failed", "interrupted", "")
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"Trials: {TRIALS} finished, 0 pruned, 0 failed, 0 missing" in again.stdout
    finished = [run for run in tracker.runs(study.experiment_id) if run.kind == "trial" and run.state == "finished"]
    assert set(Counter(run.trial for run in finished).values()) == {1}, "none was trained again"
