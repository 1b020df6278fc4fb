"""A study, really trained, on a Ray cluster and on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from execution.ray_nodes import Nodes

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
    outcome = run_study(load_study("same.yaml"), tracker, Workers(make), SilentDisplay())
    assert outcome.finished == 4
    runs = [run for run in tracker.runs(outcome.recorded.experiment_id) if run.kind == "trial"]
    frame = build_leaderboard(runs, "val/accuracy")
    return frame.drop(columns=[name for name in frame if name in ("seconds", "run_id", "model", "pareto_front")])


def test_a_deterministic_study_has_the_same_leaderboard_to_the_last_bit(
    make_tracker: Callable[[str], Tracker], own_places: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (own_places / "same.yaml").write_text(FILE)
    here = leaderboard(make_tracker("here"), lambda folder: LocalExecutor(1, folder))
    with contextlib.closing(Nodes(tmp_path_factory.mktemp("cluster"), 2)) as nodes:
        there = leaderboard(make_tracker("there"), lambda folder: RayExecutor(2, folder, SlotNeeds(), nodes.address))
        assert len(list(nodes.folder.glob("node-*/cache/weights/*"))) >= 1, "source weights were sent"
    assert len(here.columns) > 20
    pd.testing.assert_frame_equal(here, there, check_exact=True)
