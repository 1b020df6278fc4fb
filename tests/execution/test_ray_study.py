"""A study, really trained, on a Ray cluster and on this machine."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from execution.ray_nodes import Nodes, without_tracking

pytest.importorskip("ray")

from cnnstudy.analysis.leaderboard import build_leaderboard
from cnnstudy.config.load import load_study
from cnnstudy.execution import Executor, Workers
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.execution.ray_cluster import RayExecutor
from cnnstudy.execution.ray_connection import SlotNeeds
from cnnstudy.study.run import run_study
from cnnstudy.system.display import SilentDisplay
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedStudy

FILE = """
name: same
data: {name: digits, classes: [0, 1, 2], images_per_class: 20}
image_size: 64
architectures: [alexnet]
factors: {transfer: [scratch, frozen], dropout: {low: 0.1, high: 0.7}, batch_size: 8}
weights: {default: {source: pretrain, epochs: 1, data: {name: digits, classes: [3, 4], images_per_class: 20}}}
training: {epochs: 2, deterministic: true, checkpoints: every-epoch}
strategy: {sampler: random}
budget: {trials: 4}
"""


def leaderboard(tracker: Tracker, make: Callable[[Path], Executor]) -> pd.DataFrame:
    """Run the study, and return its leaderboard without the time it took and MLflow's ids."""
    return read_leaderboard(
        tracker, run_study(load_study("same.yaml"), tracker, Workers(make), SilentDisplay()).recorded
    )


def read_leaderboard(tracker: Tracker, recorded: RecordedStudy) -> pd.DataFrame:
    runs = [run for run in tracker.runs(recorded.experiment_id) if run.kind == "trial"]
    assert [run.state for run in runs] == ["finished"] * 4
    frame = build_leaderboard(runs, "val/accuracy")
    return frame.drop(columns=[name for name in frame if name in ("seconds", "run_id", "model", "pareto_front")])


def answers(port: int) -> bool:
    with socket.socket() as asks:
        return asks.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def client_server(nodes: Nodes) -> Iterator[str]:
    """The address of a Ray Client server of the cluster."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["ray.util.client.server", "--address", nodes.address, "--host", "127.0.0.1", "--port", str(port)]
    with without_tracking():
        process = subprocess.Popen([sys.executable, "-m", *words], stderr=subprocess.DEVNULL)
    try:
        while not answers(port):
            assert process.poll() is None
            time.sleep(0.1)
        yield f"ray://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_a_deterministic_study_has_the_same_leaderboard_to_the_last_bit(
    make_tracker: Callable[[str], Tracker], own_places: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (own_places / "same.yaml").write_text(FILE)
    here = leaderboard(make_tracker("here"), lambda folder: LocalExecutor(1, folder))
    with contextlib.closing(Nodes(tmp_path_factory.mktemp("cluster"), 2)) as nodes:
        there = leaderboard(make_tracker("there"), lambda folder: RayExecutor(2, folder, SlotNeeds(), nodes.address))
        assert len(list(nodes.folder.glob("node-*/cache/weights/*"))) >= 1, "source weights were sent"
        with client_server(nodes) as address:
            command = [sys.executable, "-m", "cnnstudy", "run-study", "same.yaml", "--jobs", "2", "--on", address]
            done = subprocess.run([*command, "--tracking-uri", "sqlite:///client.db"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert len(here.columns) > 20
    pd.testing.assert_frame_equal(here, there, check_exact=True)
    tracker = Tracker("sqlite:///client.db")
    pd.testing.assert_frame_equal(here, read_leaderboard(tracker, tracker.study("same")), check_exact=True)
