"""Drive thousands of trials on hundreds of workers, whose trials replay one that was really trained.

    python benchmarks/many_workers.py [--trials 10000] [--workers 500] [--epochs 5] [--sampler tpe] [--uri URI]

The driver, the search, the record and the pictures are real. A worker trains one trial of AlexNet (digits, 64 px); all
others replay its events, with accuracies drawn anew, so that nothing but the driver takes time. Everything is measured
within the driver's process, in processor seconds of all its threads, and again by the clock: choosing a trial (ask),
reporting an epoch, recording a trial, each early and late in the study; resident memory; requests to a tracking server,
which `--uri` names.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gc
import heapq
import itertools
import json
import os
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from compared import Measured, parser, tell
from sides import answer_of, run

FILE = """\
name: {name}
data: {{name: digits, classes: [0, 1, 2, 3, 4], images_per_class: 40}}
image_size: 64
architectures: [alexnet]
factors:
  dropout: {{low: 0.1, high: 0.7}}
  learning_rate: {{low: 0.00001, high: 0.01, log: true}}
  batch_size: [8, 16, 32, 64]
training: {{epochs: {epochs}, keep_models: {models}}}
strategy: {{sampler: {sampler}, pruner: {pruner}}}
budget: {{trials: {trials}}}
"""
#: The goals: bytes of memory; seconds of a choice; requests of a trial of one epoch.
MEMORY, ASK, REQUESTS = 400e6, 1.0, 12.0
#: The goal for the time that a worker waits between two trials, in percent of a trial of 10 s.
WAIT = 2.0


class Trained:
    """What a worker answered to each kind of job, and copies of the files of its trial."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: dict[str, list[Any]] = {}

    def keep(self, kind: str, event: Any) -> None:
        """Keep an event; of a trial's files, copies."""
        from cnnstudy.execution import Done, Failed

        if isinstance(event, Failed):
            raise SystemExit(f"{event.message}\n{event.traceback}")
        if isinstance(event, Done) and kind == "run_trial":
            files = {}
            for name, place in event.result["files"].items():
                files[name] = str(self.folder / Path(place).name)
                copy = shutil.copytree if Path(place).is_dir() else shutil.copy
                copy(place, files[name])
            event = replace(event, result={**event.result, "files": files})
        self.events.setdefault(kind, []).append(event)


class Taught:
    """An executor of one worker process, whose answers are kept."""

    def __init__(self, executor: Any, trained: Trained) -> None:
        self._executor, self._trained, self._kinds = executor, trained, dict[str, str]()
        self.slots, self.deterministic = 1, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def submit(self, job: Any) -> None:
        self._kinds[job.key] = job.kind
        self._executor.submit(job)

    def next_event(self, timeout: float) -> Any:
        from cnnstudy.execution import Alive, Progress

        event = self._executor.next_event(timeout)
        if event is not None and not isinstance(event, Alive | Progress):
            self._trained.keep(self._kinds[event.key], event)
        return event


class Replayed:
    """An executor whose jobs replay those of `trained`; each in turn gets an event, as if all took equally long.

    Args:
        seconds: that a trial takes, asleep; 0: an event is ready at once.
    """

    def __init__(self, slots: int, trained: Trained, folder: Path, seconds: float = 0.0) -> None:
        self.slots, self.deterministic = slots, False
        self.waited: list[float] = []  # seconds from the end of a trial to the next one's start in its slot
        self._trained, self._folder, self._seconds = trained, folder, seconds
        self._ready: list[
            tuple[float, int, str, Iterator[Any]]
        ] = []  # a heap: when the next event is due, and its turn
        self._waiting: dict[str, Iterator[Any]] = {}
        self._due: dict[str, float] = {}  # when the next event of each trial is due
        self._free: list[float] = []  # since when slots are
        self._stopped: set[str] = set()
        self._turn = itertools.count()

    def start_ahead(self, job: Any) -> None:
        pass

    def submit(self, job: Any) -> None:
        if self._free:
            self.waited.append(time.monotonic() - heapq.heappop(self._free))
        self._due[job.key] = time.monotonic() if self._seconds and job.kind == "run_trial" else 0.0
        self._put(job.key, self._replay(job))

    def _put(self, key: str, events: Iterator[Any]) -> None:
        if self._due[key]:
            self._due[key] += self._seconds / len(self._trained.events["run_trial"])
        heapq.heappush(self._ready, (self._due[key], next(self._turn), key, events))

    def next_event(self, timeout: float) -> Any:
        from cnnstudy.execution import Done, Epoch

        if not self._ready:
            return None
        wait = self._ready[0][0] - time.monotonic()
        time.sleep(max(0.0, min(wait, timeout)))
        if wait > timeout:
            return None
        _, _, key, events = heapq.heappop(self._ready)
        event = next(events)
        if isinstance(event, Epoch) and event.asks:
            self._waiting[key] = events
        elif isinstance(event, Epoch):
            self._put(key, events)
        elif isinstance(event, Done) and (due := self._due.pop(key)):
            heapq.heappush(self._free, due)
        return event

    def answer(self, key: str, go_on: bool) -> None:
        self._stopped |= set() if go_on else {key}
        self._put(key, self._waiting.pop(key))

    def stop(self, key: str) -> str:
        raise AssertionError(f"{key} hangs")

    def close(self) -> None:
        self._ready.clear()

    def _replay(self, job: Any) -> Iterator[Any]:
        from cnnstudy.execution import Done

        dice = random.Random(job.key)
        accuracy = dice.uniform(0.3, 0.9)
        last = None
        for event in self._trained.events[job.kind]:
            if isinstance(event, Done):
                yield Done(job.key, self._result(job, event.result, accuracy, last))
                return
            if job.key in self._stopped:
                continue
            last = event.record.epoch
            metrics = {**event.record.metrics, "val/accuracy": accuracy * (1 + last / 100)}
            yield replace(event, key=job.key, asks=job.asks, record=replace(event.record, metrics=metrics))

    def _result(self, job: Any, result: Any, accuracy: float, last: int | None) -> Any:
        if job.kind != "run_trial":
            return result
        own = self._folder / job.key
        own.mkdir()
        files = {}
        for name, place in result["files"].items():
            files[name] = str(own / Path(place).name)
            copy = shutil.copytree if Path(place).is_dir() else shutil.copy
            copy(place, files[name])
        pruned = job.key in self._stopped
        given = {"summary": {**result["summary"], "val/accuracy": accuracy}, "files": {} if pruned else files}
        self._stopped.discard(job.key)
        return {**result, **given, **({"state": "pruned", "epochs": last} if pruned else {})}


class Meter:
    """Processor seconds and seconds by the clock of each call of some methods, in arrays, which take little memory."""

    def __init__(self) -> None:
        self._spent: dict[str, tuple[array[float], array[float]]] = {}

    @property
    def spent(self) -> dict[str, list[tuple[float, float]]]:
        """Return both of each call, by name."""
        return {name: list(zip(*calls, strict=True)) for name, calls in self._spent.items()}

    def measure(self, owner: Any, method: str, name: str) -> None:
        """Count the calls of a class's method under that name."""
        original, (processor, clock) = getattr(owner, method), self._spent.setdefault(name, (array("d"), array("d")))

        def measured(*given: Any, **named: Any) -> Any:
            began = time.process_time(), time.perf_counter()
            try:
                return original(*given, **named)
            finally:
                processor.append(time.process_time() - began[0])
                clock.append(time.perf_counter() - began[1])

        setattr(owner, method, measured)


def count_requests(counts: collections.Counter[str]) -> None:
    """Count requests to the tracking server and to a store in S3 from now on."""
    import requests

    send = requests.Session.send

    def counted(session: Any, request: Any, **given: Any) -> Any:
        counts["server"] += 1
        return send(session, request, **given)

    requests.Session.send = counted  # type: ignore[method-assign]


def drive(given: argparse.Namespace) -> dict[str, Any]:
    """Train one trial, then run the study here; return what was measured."""
    from cnnstudy.system.imports import COLLECTION_THRESHOLD, NOT_FOR_MLFLOW, fast_import

    gc.set_threshold(COLLECTION_THRESHOLD, *gc.get_threshold()[1:])  # as the command does
    with fast_import(without=NOT_FOR_MLFLOW):
        from cnnstudy.study import driver
        from cnnstudy.study import run as study
        from cnnstudy.study.recorder import Recorder
        from cnnstudy.tracking import client
    from cnnstudy.config.load import load_study
    from cnnstudy.execution import Workers
    from cnnstudy.execution.local import LocalExecutor
    from cnnstudy.search.optuna_search import OptunaStrategy
    from cnnstudy.system.display import PlainDisplay
    from cnnstudy.system.processes import resident_memory

    def run_study(name: str, trials: int, workers: Callable[[Path], Any], uri: str) -> Any:
        values = {"epochs": given.epochs, "models": str(given.models).lower(), "sampler": given.sampler}
        text = FILE.format(name=name, trials=trials, pruner=given.pruner, **values)
        Path(f"{name}.yaml").write_text(text, encoding="utf-8")
        loaded = load_study(f"{name}.yaml", [])
        return study.run_study(loaded, client.Tracker(uri), Workers(workers), PlainDisplay(lambda text: None))

    if given.no_pictures:
        from cnnstudy.analysis import trial_plots

        trial_plots.draw_curves = trial_plots.draw_confusion = lambda *_: None  # type: ignore[assignment]
    trained = Trained(Path("trained").absolute())
    trained.folder.mkdir()
    run_study("taught", 1, lambda folder: Taught(LocalExecutor(1, folder), trained), "sqlite:///taught.db")
    memory: list[int] = []
    on_done = driver.Driver._on_done

    def measured_done(self: Any, event: Any) -> None:
        on_done(self, event)
        memory.append(resident_memory(os.getpid()) or 0)

    driver.Driver._on_done = measured_done  # type: ignore[method-assign]
    meter, counts = Meter(), collections.Counter[str]()
    meter.measure(OptunaStrategy, "next", "ask")
    meter.measure(OptunaStrategy, "report", "report")
    for method in ("start", "epoch", "finish"):
        meter.measure(Recorder, method, method)
    count_requests(counts)
    began = time.process_time(), time.perf_counter()
    uri = given.uri or "sqlite:///mlflow.db"
    replayed: list[Replayed] = []

    def replay(folder: Path) -> Replayed:
        replayed.append(Replayed(given.workers, trained, folder, given.seconds))
        return replayed[0]

    outcome = run_study(given.name, given.trials, replay, uri)
    if outcome.finished + outcome.pruned != given.trials:
        raise SystemExit(f"{outcome.finished} trials finished, not {given.trials}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # the study's end reads all of its runs
    found = {"memory": memory, "peak": peak, "spent": meter.spent, "requests": counts["server"] / given.trials}
    found["waited"] = replayed[0].waited
    return {**found, "processor": time.process_time() - began[0], "clock": time.perf_counter() - began[1]}


def early_and_late(calls: list[tuple[float, float]]) -> tuple[str, float]:
    """Say what a call took in processor time in the first and the last tenth; return the latter, in seconds."""
    part = max(1, len(calls) // 10)
    early, late = (statistics.mean(spent for spent, _ in some) for some in (calls[:part], calls[-part:]))
    clock = statistics.mean(taken for _, taken in calls[-part:])
    return f"{1000 * early:.1f} ms at first, {1000 * late:.1f} at the end ({1000 * clock:.1f} by the clock)", late


def rows(found: dict[str, Any], given: argparse.Namespace) -> Iterator[Measured]:
    """Yield what to tell."""
    options = f"--trials {given.trials} --workers {given.workers} --epochs {given.epochs}"
    names = ("sampler", "pruner", *(["seconds"] if given.seconds else []))
    options += "".join(f" --{name} {getattr(given, name)}" for name in names)
    options += "".join(f" --{name.replace('_', '-')}" for name in ("models", "no_pictures") if getattr(given, name))
    command = f"python benchmarks/many_workers.py {options}"
    server = " on a tracking server" if given.uri else ""
    whole = f"{given.trials} trials x {given.epochs} epochs, {given.workers} workers, {given.sampler}{server}"
    whole += ", without pictures" if given.no_pictures else ""
    titles = {"ask": "choosing a trial", "report": "reporting an epoch to the search"}
    titles |= {"start": "recording a trial's start", "epoch": "recording an epoch", "finish": "recording a trial's end"}
    for name, what in titles.items():
        text, late = early_and_late(found["spent"][name])
        points = found["spent"][name]
        step = max(1, len(points) // 20)
        shown = tuple(
            (float(n), 1000 * statistics.mean(c for c, _ in points[n : n + step])) for n in range(0, len(points), step)
        )
        goal = (1000 * late, 1000 * ASK, "ms") if name == "ask" else (None, None, "")
        yield Measured(f"{what}, {whole}", text, command, *goal, shown)
    memory = found["memory"]
    growth = memory[-1] - memory[len(memory) // 2]
    sizes = (found["peak"], memory[0], memory[len(memory) // 2], memory[-1])
    most, first, middle, last = (size / 1e6 for size in sizes)
    text = f"{most:.0f} MB; {first:.0f} after one trial, {middle:.0f} halfway, {last:.0f} after the last"
    yield Measured(f"driver's memory at most, {whole}", text, command, most, MEMORY / 1e6, "MB")
    each = growth / 1e3 / max(1, len(memory) - 1 - len(memory) // 2)
    yield Measured(f"driver's memory, later half, {whole}", f"{growth / 1e6:.1f} MB, {each:.1f} kB a trial", command)
    if given.seconds:
        waited = statistics.mean(found["waited"])
        text = f"{1000 * waited:.0f} ms, at most {1000 * max(found['waited']):.0f}, of {given.seconds:g} s"
        share = 100 * waited / given.seconds
        yield Measured(f"a worker's wait for its next trial, {whole}", text, command, share, WAIT, "%")
    if given.uri:
        yield Measured(
            f"requests of a trial, {whole}", f"{found['requests']:.1f}", command, found["requests"], REQUESTS, ""
        )
    each = f"{1000 * found['processor'] / given.trials:.0f} ms of the processor a trial, {found['clock']:.0f} s in all"
    yield Measured(f"driver, all in all, {whole}", each, command)


def main() -> None:
    parsing = parser(__doc__, rounds=1)
    parsing.add_argument("--trials", type=int, default=10_000)
    parsing.add_argument("--workers", type=int, default=500)
    parsing.add_argument("--epochs", type=int, default=5)
    parsing.add_argument("--seconds", type=float, default=0.0, help="that a trial takes, asleep")
    parsing.add_argument("--sampler", default="tpe", choices=["tpe", "random"])
    parsing.add_argument("--pruner", default="none", choices=["none", "median", "hyperband"])
    parsing.add_argument("--models", action="store_true", help="keep models")
    parsing.add_argument("--no-pictures", action="store_true", help="leave out curves and confusion matrices")
    parsing.add_argument("--uri", help="of a tracking server, instead of an SQLite database")
    parsing.add_argument("--keep", type=Path, help="a new folder for the record, which is kept, mlflow.db and mlruns")
    parsing.add_argument("--name", default="replayed", help="of the study")
    parsing.add_argument("--way", action="store_true", help=argparse.SUPPRESS)
    given = parsing.parse_args()
    if given.way:
        print(json.dumps(drive(given)))
        return
    if given.quick:
        given.trials, given.workers, given.epochs = 6, 3, 2
    with contextlib.nullcontext(str(given.keep)) if given.keep else tempfile.TemporaryDirectory() as name:
        Path(name).mkdir(parents=True, exist_ok=True)
        options = [
            "trials",
            "workers",
            "epochs",
            "seconds",
            "sampler",
            "pruner",
            "name",
            *(["uri"] if given.uri else []),
        ]
        command = [sys.executable, __file__, "--way", *(["--models"] if given.models else [])]
        command += ["--no-pictures"] if given.no_pictures else []
        command += [word for option in options for word in (f"--{option}", str(getattr(given, option)))]
        login = {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_")} if given.uri else {}
        found = answer_of(run(command, Path(name), CNNSTUDY_CACHE=name, **login))
    for row in rows(found, given):
        tell(row, given)


if __name__ == "__main__":
    main()
