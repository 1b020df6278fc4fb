"""An executor within the test process: simulated learning curves and models that take no time, and faults on demand."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cnnstudy.data import datasets
from cnnstudy.data.images import prepare_images
from cnnstudy.data.source_copies import count_parts, count_source_copies
from cnnstudy.execution import Alive, Done, Epoch, Event, Failed, Job, Progress
from cnnstudy.records import EpochRecord, PreparedImages, Speed, Split, TrialResult, TrialSpec
from cnnstudy.training.checkpoints import EVERY_EPOCH, TrialCheckpoints, TrialProgress

#: Yields events; after an Epoch it is sent the answer: True to train on.
Work = Generator[Event, bool, None]
DIGEST = "0123456789abcdef01234567"


class FakeExecutor:
    """Delivers the events of its jobs in turn; a job whose epoch was not answered waits.

    Trials with a checkpoint after every epoch write it, and resume from it.

    Args:
        folder: for the files of trials.
        failures: by a job's key, the event that ends it, or those that end its first attempts; a trial fails after the
            first epoch of each attempt.
        accuracy: by a trial's key, its validation accuracy after the last epoch.
        interrupt_at: the number of events before a KeyboardInterrupt.
        digest: of the images that `prepare_images` finds.
        on_event: called with each event before it is delivered.
        weights_digest: of the source weights in any file.
        hangs: by a job's key, how many of its attempts hang without an event, while `now` advances.
        alive: jobs that hang send signs of life.
        shared: by a trial's key, how many of its epochs are shared with another trial.
        train: training images of each class; (): 6 of each.
        measures_start: trials report epoch 0 too.
        reads_folders: whether images are those of the folder or table that is given.
    """

    def __init__(
        self,
        folder: Path,
        slots: int = 1,
        failures: Mapping[str, Failed | list[Failed]] | None = None,
        accuracy: Mapping[str, float] | None = None,
        interrupt_at: int | None = None,
        digest: str = DIGEST,
        on_event: Callable[[Event], None] = lambda event: None,
        hangs: Mapping[str, int] | None = None,
        alive: bool = False,
        weights_digest: str = "1" * 64,
        shared: Mapping[str, int] | None = None,
        train: tuple[int, ...] = (),
        measures_start: bool = False,
        reads_folders: bool = False,
    ) -> None:
        self.reads_folders = reads_folders
        self.train = train
        self.measures_start = measures_start
        self.shared = shared or {}
        self.weights_digest = weights_digest
        self.slots = slots
        self.deterministic = False
        self.folder = folder
        self.failures = dict(failures or {})
        self._fault: dict[str, Failed | None] = {}
        self.accuracy = accuracy or {}
        self.interrupt_at = interrupt_at
        self.digest = digest
        self.on_event = on_event
        self.hangs = dict(hangs or {})
        self.alive = alive
        self.now = 0.0  # seconds
        self.stopped: list[str] = []
        self.jobs: list[Job] = []
        self.dealt: list[Event] = []
        self.closed = False
        self.most_at_once = 0
        self._ready: list[tuple[Job, Work, bool | None]] = []
        self._waiting: dict[str, tuple[Job, Work]] = {}
        self._hung: set[str] = set()
        self._interrupted = False

    @property
    def trials(self) -> list[str]:
        """The keys of the submitted trials, including pretraining."""
        return [job.key for job in self.jobs if job.kind == "run_trial"]

    def start_ahead(self, job: Job) -> None:
        pass

    def submit(self, job: Job) -> None:
        kinds = {"prepare_images": self._prepare, "check_weights": self._check, "measure_speed": self._measure}
        kinds |= {"run_trial": self._train, "explain_mistakes": self._explain, "open_test": self._open_test}
        kinds |= {"count_source_copies": self._count, "export_model": self._export, "check_network": self._build}
        work = kinds[job.kind]
        job = Job(job.key, job.kind, json.loads(json.dumps(job.payload)))
        self.jobs.append(job)
        fault = self.failures.get(job.key)
        self._fault[job.key] = (fault.pop(0) if fault else None) if isinstance(fault, list) else fault
        if self.hangs.get(job.key, 0) > 0:
            self.hangs[job.key] -= 1
            self._hung.add(job.key)
        else:
            self._ready.append((job, work(job), None))
        at_once = len(self._ready) + len(self._waiting) + len(self._hung)
        assert at_once <= self.slots, "more jobs than slots"
        self.most_at_once = max(self.most_at_once, at_once)

    def next_event(self, timeout: float) -> Event | None:
        assert not self.closed, "asked for an event after close"
        if timeout == 0 and (self._interrupted or not self._ready):
            return None
        if not self._ready and self._hung:
            self.now += timeout
            return Alive(next(iter(self._hung))) if self.alive and timeout else None
        assert self._ready, f"no event can come; not answered: {list(self._waiting)}"
        if len(self.dealt) == self.interrupt_at:
            self._interrupted = True
            raise KeyboardInterrupt
        job, work, answer = self._ready.pop(0)
        event = next(work) if answer is None else work.send(answer)
        if isinstance(event, Epoch):
            self._waiting[job.key] = (job, work)
        elif isinstance(event, Progress):
            self._ready.append((job, work, None))
        self.dealt.append(event)
        self.on_event(event)
        return event

    def answer(self, key: str, go_on: bool) -> None:
        self._ready.append((*self._waiting.pop(key), go_on))

    def stop(self, key: str) -> str:
        self._hung.remove(key)
        self.stopped.append(key)
        return f"stacks of {key}"

    def close(self) -> None:
        self.closed = True

    def _prepare(self, job: Job) -> Work:
        yield Progress(job.key, "reading", 0, 0)
        options = job.payload["options"]
        if self.reads_folders:
            real = datasets.find(options["name"]).Options.model_validate(options)
            found = prepare_images(real, job.payload["sizes"], job.payload["split_seed"], lambda *_: None)
            yield self._end(job, [images.to_json() for images in found])
            return
        classes = tuple(f"class {label}" for label in job.payload["options"]["classes"])
        counts = {
            "train": self.train or (6,) * len(classes),
            "validation": (4,) * len(classes),
            "test": (2,) * len(classes),
        }
        prepared = [
            PreparedImages(job.payload["options"]["name"], str(self.folder), self.digest, size, classes, **counts)
            for size in job.payload["sizes"]
        ]
        yield self._end(job, [images.to_json() for images in prepared])

    def _count(self, job: Job) -> Work:
        images, source = (PreparedImages.from_json(job.payload[name]) for name in ("images", "source"))
        split, decoded = Split.from_json(job.payload["split"]), (Path(images.folder) / "index.json").is_file()
        # images that are not really there are like no others
        counts = count_source_copies(images, source, split, lambda *_: None) if decoded else count_parts([])
        yield self._end(job, counts)

    def _build(self, job: Job) -> Work:
        yield self._end(job, {"has_batch_norm": False})

    def _check(self, job: Job) -> Work:
        yield self._end(job, {"file": job.payload["file"] or "/weights.h5", "digest": self.weights_digest})

    def _measure(self, job: Job) -> Work:
        """Report one second per update and image of the batch, and a hundredth per evaluated image."""
        sizes = job.payload["batch_sizes"]
        phases = 2 if job.payload["spec"]["levels"]["transfer"] == "two-phase" else 1
        speed = Speed(1000, 10.0, tuple(sizes), (tuple(map(float, sizes)),) * phases, 0.01)
        yield self._end(job, speed.to_json())

    def _export(self, job: Job) -> Work:
        folder = Path(job.payload["folder"])
        folder.mkdir()
        (folder / "exported").write_text("whole", encoding="utf-8")
        yield self._end(job, {"size": 64, "classes": 3, "difference": 0.0, "tolerance": 1e-5, "images": 1})

    def _open_test(self, job: Job) -> Work:
        """Report an accuracy of 0.7 for the first model, 0.72 for the second and so on, on 50 images."""
        assert all(Path(file).is_file() for file in job.payload["models"])
        accuracy = [0.7 + 0.02 * number for number in range(len(job.payload["models"]))]
        measured = {"images": 50, "digest": "t" * 64, "accuracy": accuracy, "loss": [1 - one for one in accuracy]}
        yield self._end(job, {**measured, "confusion": [[1, 0], [0, 1]]})

    def _train(self, job: Job) -> Work:
        spec = TrialSpec.from_json(job.payload)
        shutil.rmtree(self.folder / spec.key, ignore_errors=True)  # of an attempt that failed
        best, state = self._epoch(spec, 1), "finished"
        kept = TrialCheckpoints(spec, "")
        found = kept.read()
        shared = range(1, 1 + self.shared.get(spec.key, 0) * spec.share_epochs)
        records = [EpochRecord(epoch, self._epoch(spec, epoch), shared=True) for epoch in shared]
        records = list(found.reached.records) if found else records
        if self.measures_start:
            start = {
                name: of for name, of in self._epoch(spec, 0).items() if name.startswith(("train/", "val/", "gap/"))
            }
            yield Epoch(job.key, EpochRecord(0, start, replayed=found is not None))
        for record in records:
            yield Epoch(job.key, replace(record, replayed=True))
        for epoch in range(1 + len(records), spec.epochs + 1):
            best = self._epoch(spec, epoch)
            records.append(EpochRecord(epoch, best))
            go_on = yield Epoch(job.key, records[-1])
            if spec.checkpoints == EVERY_EPOCH and epoch < spec.epochs and go_on:
                kept.write(_reached(kept.address, records), {})
            if self._fault[job.key] is not None:
                break
            if not go_on:
                state = "pruned"
                break
        files = self._write_files(spec) if state == "finished" else {}
        result = _result(spec, best, epoch, state, files)
        yield self._end(job, replace(result, shared_epochs=sum(record.shared for record in records)).to_json())

    def _explain(self, job: Job) -> Work:
        """Report a model without mistakes."""
        yield self._end(job, {"wrong": 0, "validation": 1, "layer": "conv5", "map": [3, 3], "entries": []})

    def _end(self, job: Job, result: Any) -> Event:
        return self._fault[job.key] or Done(job.key, json.loads(json.dumps(result)))

    def _epoch(self, spec: TrialSpec, epoch: int) -> dict[str, float]:
        """Return metrics: validation rises linearly from chance to its end; the gap widens, less with dropout."""
        dice = random.Random(f"{spec.architecture} {spec.seed} {sorted(spec.levels.items())}")
        end = self.accuracy.get(spec.key, dice.uniform(0.5, 0.9))
        chance = 1 / len(spec.images.classes)
        validation = chance + (end - chance) * epoch / spec.epochs
        train = validation + (1 - validation) * (1 - float(spec.levels["dropout"])) * epoch / spec.epochs / 2
        metrics = {"train/accuracy": train, "val/accuracy": validation, "gap/accuracy": train - validation}
        metrics |= {"train/loss": -math.log(train), "val/loss": -math.log(validation)}
        metrics |= {f"{part}/balanced_accuracy": metrics[f"{part}/accuracy"] for part in ("train", "val", "gap")}
        return {**metrics, "gap/loss": metrics["val/loss"] - metrics["train/loss"], "optimizer/updates": 3.0 * epoch}

    def _write_files(self, spec: TrialSpec) -> dict[str, str]:
        model = self.folder / spec.key / "model"
        (model / "data").mkdir(parents=True)
        flavor = "flavors:\n  python_function:\n    loader_module: mlflow.keras\n    python_version: 3.11.0\n"
        (model / "MLmodel").write_text(f"artifact_path: model\n{flavor}", encoding="utf-8")
        (model / "data" / "model.keras").write_text(spec.key, encoding="utf-8")
        if spec.purpose != "pretrain":
            return {"model": str(model)}
        backbone = model.parent / "backbone.npz"
        draw = "" if spec.block is None else f" with seed {spec.seed}"
        np.savez(backbone, whose=f"backbone of {spec.architecture}{draw}")
        return {"model": str(model), "backbone": str(backbone)}


def _reached(address: str, records: list[EpochRecord]) -> TrialProgress:
    epoch = len(records)
    return TrialProgress(address, "", 0, epoch, epoch, 3 * epoch, 0, float(epoch), epoch, (), tuple(records), ())


def _result(spec: TrialSpec, best: dict[str, float], epoch: int, state: str, files: dict[str, str]) -> TrialResult:
    summary = {name: value for name, value in best.items() if name.startswith(("train/", "val/", "gap/"))}
    confusion = [[0] * len(spec.images.classes) for _ in spec.images.classes]
    for label, images in enumerate(spec.images.validation):
        correct = round(images * best["val/accuracy"])
        confusion[label][label] = correct
        confusion[label][label - 1] += images - correct
    return TrialResult(
        state=state,
        best_epoch=epoch,
        epochs=epoch,
        seconds=float(epoch),
        summary={**summary, "full_train/accuracy": best["train/accuracy"], "full_train/loss": best["train/loss"]},
        confusion=tuple(map(tuple, confusion)),
        trainable_parameters=1000,
        frozen_parameters=0,
        frozen_digest=None,
        files=files,
        versions={"tensorflow": "0.0.0"},
        micro_batch=spec.micro_batch,
    )
