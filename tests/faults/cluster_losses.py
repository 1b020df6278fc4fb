"""A study on a Ray cluster of three nodes on this machine, whose raylets and actors are killed at random moments.

    python tests/faults/cluster_losses.py --kills 8 --seed 1

Each raylet that is killed is followed by a new node, so the study also shows that nodes join. In the end the study must
have exactly its trials, each once, with all epochs, and no process may be left.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from execution.ray_nodes import Nodes  # noqa: E402

FILE = """
name: losses
data: {{name: digits, classes: [0, 1, 2]}}
image_size: 64
architectures: [alexnet]
factors: {{transfer: [scratch, frozen], dropout: {{low: 0.1, high: 0.7}}}}
weights: {{default: {{source: pretrain, epochs: 2, data: {{name: digits, classes: [3, 4]}}}}}}
training: {{epochs: {epochs}, checkpoints: every-epoch}}
strategy: {{sampler: random}}
budget: {{trials: {trials}}}
"""


class Killer:
    """Kills a raylet or an actor that has a worker now and then; another thread starts a node for each that is lost."""

    def __init__(self, nodes: Nodes, kills: int, seed: int, between: float) -> None:
        self.nodes, self.left, self.dice, self.between = nodes, kills, random.Random(seed), between
        self.done: list[str] = []
        self.over = threading.Event()
        self.wanted = len(nodes.nodes)
        self.threads = [threading.Thread(target=target) for target in (self.kill, self.replace)]

    def kill(self) -> None:
        while self.left and not self.over.wait(self.dice.uniform(0.2, self.between)):
            workers = self.nodes.workers()
            if not workers:
                continue
            actor = self.dice.choice(workers).parent()
            if actor is None or not actor.is_running():
                continue
            self.left -= 1
            with contextlib.suppress(psutil.Error):
                place = actor.environ()["CNNSTUDY_CACHE"]
                node = self.nodes.at(place)
                if self.dice.random() < 0.5 and node is not None:
                    self.done.append("raylet")
                    self.nodes.kill(node)
                else:
                    self.done.append("actor")
                    actor.kill()

    def replace(self) -> None:
        while not self.over.wait(0.1):
            if len(self.nodes.nodes) < self.wanted:
                try:
                    self.nodes.add(hides_tracking=False)  # MLflow uses the environment
                except Exception as error:  # Ray's own: on a busy machine it gives a node up after 30 s
                    print(f"no node was added: {error}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--between", type=float, default=8.0, help="longest time between two kills, seconds")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["CNNSTUDY_CACHE"] = str(folder / "driver" / "cache")
        (folder / "driver" / "temporary").mkdir(parents=True)
        tempfile.tempdir = str(folder / "driver" / "temporary")
        os.chdir(folder / "driver")
        nodes = Nodes(folder, arguments.nodes)
        try:
            check(nodes, arguments)
        finally:
            nodes.close()


def check(nodes: Nodes, arguments: argparse.Namespace) -> None:
    import ray

    from cnnstudy.analysis import trial_plots
    from cnnstudy.config.load import load_study
    from cnnstudy.execution import Workers
    from cnnstudy.execution.ray_cluster import RayExecutor
    from cnnstudy.execution.ray_connection import SlotNeeds
    from cnnstudy.study.run import run_study
    from cnnstudy.system.display import PlainDisplay
    from cnnstudy.tracking.client import Tracker

    # drawing would take most of the time
    trial_plots.draw_curves = trial_plots.draw_confusion = lambda *given: given[-1].write_text("picture")
    Path("losses.yaml").write_text(FILE.format(trials=arguments.trials, epochs=arguments.epochs), encoding="utf-8")
    # nodes are added in a thread, where Ray can't handle signals
    ray._private.utils.set_sigterm_handler = lambda handler: None
    killer = Killer(nodes, arguments.kills, arguments.seed, arguments.between)
    tracker, program = Tracker("sqlite:///mlflow.db"), (str(HERE / "slow_worker.py"),)
    started = time.monotonic()
    for thread in killer.threads:
        thread.start()
    try:
        outcome = run_study(
            load_study("losses.yaml", []),
            tracker,
            Workers(lambda place: RayExecutor(arguments.nodes, place, SlotNeeds(), nodes.address, program)),
            PlainDisplay(lambda text: print(f"{time.monotonic() - started:6.1f} {text}", flush=True)),
        )
    finally:
        killer.over.set()
        for thread in killer.threads:
            thread.join()
    everything = tracker.runs(outcome.recorded.experiment_id)
    runs = [run for run in everything if run.kind == "trial"]
    done = collections.Counter(run.trial for run in runs if run.done)
    reasons = collections.Counter(run.reason for run in everything if run.retried)
    attempts = collections.Counter(run.tags.get("cnnstudy.attempt") for run in runs if run.done)
    print(f"kills: {dict(collections.Counter(killer.done))}; seconds: {time.monotonic() - started:.0f}")
    print(f"trials done: {len(done)} of {arguments.trials}; lost attempts: {dict(reasons)}; attempts: {dict(attempts)}")
    assert (outcome.finished, outcome.failed, outcome.missing) == (arguments.trials, 0, 0), outcome
    assert len(done) == arguments.trials, "a trial is missing"
    assert set(done.values()) == {1}, "a trial is there twice"
    assert set(reasons) <= {"lost"}, "a loss was taken for something else"
    assert set(attempts) == {"1"}, "a loss used up an attempt"
    deadline = time.monotonic() + 60
    while orphans := [one for one in nodes.workers() + nodes.actors() if one.is_running()]:
        assert time.monotonic() < deadline, f"left behind: {orphans}"
        time.sleep(0.2)
    print("no process is left")


if __name__ == "__main__":
    main()
