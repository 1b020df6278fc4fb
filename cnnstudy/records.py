"""What driver and worker tell each other: plain data that fits into JSON.

A TrialSpec goes to a worker; EpochRecords and one TrialResult come back, with a folder of files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cnnstudy.space import Level

#: Shares of images that are equal differ by so much once they are subtracted from each other.
_ROUNDING = 1e-9
STATES = ("finished", "pruned", "failed")
#: Why a trial failed. An interrupted one runs again; the others count as done.
FAILURE_REASONS = ("oom", "diverged", "data", "crash", "timeout", "interrupted")
#: The tag of a failed run whose trial runs once more.
RETRIED = "cnnstudy.retried"


class Record:
    """To and from JSON's types."""

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON's types that `from_json` reads back."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The record that `to_json` gave; a key that this version does not know is an error."""
        values = dict(data)
        for spec_field in dataclasses.fields(cls):  # type: ignore[arg-type]
            nested = _NESTED.get((cls.__name__, spec_field.name))
            if nested and values.get(spec_field.name) is not None:
                values[spec_field.name] = nested.from_json(values[spec_field.name])
            elif isinstance(values.get(spec_field.name), list):
                values[spec_field.name] = tuple(values[spec_field.name])
        return cls(**values)


@dataclass(frozen=True)
class Split(Record):
    """How images are divided, class by class: shares in [0, 1) of all images, and the seed of the order."""

    validation: float
    test: float
    seed: int


@dataclass(frozen=True)
class PreparedImages(Record):
    """Decoded images in the cache: `images.npy` [n, size, size, 3] uint8 and `index.json` in `folder`."""

    name: str
    folder: str
    digest: str  # over every byte of every image, its label and the split
    size: int  # pixels
    classes: tuple[str, ...]
    train: tuple[int, ...]  # images per class
    validation: tuple[int, ...]
    test: tuple[int, ...]
    skipped: tuple[str, ...] = ()  # "path: reason" of each file left out
    warnings: tuple[str, ...] = ()  # of copies among the images


@dataclass(frozen=True)
class Optimizer(Record):
    """One of training/optimizers.py's table, with its extra settings."""

    name: str
    weight_decay: float = 0.0
    momentum: float = 0.9


@dataclass(frozen=True)
class Rule(Record):
    """What makes one epoch, or one trial, better than another: a metric, within the limits that the study sets."""

    metric: str = "val/accuracy"  # or "val/loss"
    maximum_gap: float | None = None  # of clean accuracy, share of 0..1
    minimum_accuracy: float | None = None  # of validation, share of 0..1

    @property
    def maximize(self) -> bool:
        return self.metric == "val/accuracy"

    def beyond(self, metrics: Mapping[str, float], verdict: str = "") -> dict[str, float]:
        """How far the clean metrics are beyond each limit; 0 or less: it is kept.

        Where there are limits, to have learnt something is one: a network that learns nothing has no gap.
        """
        found = {}
        if self.maximum_gap is not None:
            found["maximum_gap"] = metrics["gap/accuracy"] - self.maximum_gap - _ROUNDING
        if self.minimum_accuracy is not None:
            found["minimum_accuracy"] = self.minimum_accuracy - metrics["val/accuracy"] - _ROUNDING
        return {**found, "learning": float(verdict == "not-learning")} if found else {}

    def keeps(self, metrics: Mapping[str, float], verdict: str = "") -> bool:
        """Whether the clean metrics keep every limit."""
        return all(value <= 0 for value in self.beyond(metrics, verdict).values())

    def rank(self, metrics: Mapping[str, float], verdict: str = "") -> tuple[float, float, float]:
        """Larger is better: what keeps the limits (or is least beyond them), then the metric, then validation loss."""
        value = metrics[self.metric] if self.maximize else -metrics[self.metric]
        return -sum(max(0.0, by) for by in self.beyond(metrics, verdict).values()), value, -metrics["val/loss"]

    def score(self, metrics: Mapping[str, float]) -> float:
        """The metric, worse by what the gap is beyond its limit: what a pruner compares trials by."""
        excess = max(0.0, self.beyond(metrics).get("maximum_gap", 0.0))
        return metrics[self.metric] - excess if self.maximize else metrics[self.metric] + excess


@dataclass(frozen=True)
class TrialSpec(Record):
    """One training run: one network, one combination of factor levels, one seed."""

    study: str
    purpose: str  # "trial"; "confirm": a candidate again, with a fresh seed; "pretrain": makes source weights
    architecture: str
    number: int  # within the study and architecture, from 0
    seed: int
    levels: dict[str, Level]
    images: PreparedImages
    split: Split
    epochs: int  # at most
    head_epochs: int  # two-phase: how many of them train the head only
    patience: int | None  # epochs without a better monitor before it stops; None: all epochs
    rule: Rule  # which epoch is best
    optimizer: Optimizer
    weights_source: str  # "none", "pretrain", "imagenet", "file", "random": what the table and tags say
    weights_file: str | None
    updates: int | None = None  # it ends after so many, within an epoch if need be
    until_train_loss: float | None = None  # it ends after the first epoch with a clean train loss (nats) as low as this
    equal_updates: int | None = None  # an extra clean measurement after so many updates, the same for all of a network
    keep_model: bool = True
    deterministic: bool = False  # equal to the last bit whenever it is run again
    block: int | None = None  # a seed of its own for train against validation; None: the study's
    features: bool = True  # what frozen layers make of the images may come from the cache
    checkpoints: str = "none"  # one of training/checkpoints.py's; no number depends on it
    share_epochs: bool = False  # its first epochs may come from a trial that begins in the same way
    micro_batch: int | None = None  # images at once in an update, to start with; None: the batch
    precision: str = "float32"  # of updates; or "mixed_float16", "mixed_bfloat16"; "auto": what the device is made for
    xla: bool | None = None  # whether updates are compiled by XLA; None: on a GPU

    @property
    def key(self) -> str:
        """Unique within the study, e.g. `vgg16-007`, and where it is confirmed `confirm-vgg16-007-seed-10000`."""
        name = f"{self.architecture}-{self.number:03d}"
        others = {"pretrain": f"pretrain-{self.architecture}", "confirm": f"confirm-{name}-seed-{self.seed}"}
        return others.get(self.purpose, name)


@dataclass(frozen=True)
class EpochRecord(Record):
    """The metrics after one epoch, by MLflow's names; the UI groups them by what stands before the slash."""

    epoch: int  # from 1
    metrics: dict[str, float]
    replayed: bool = False  # trained in an earlier try or by another trial, and told again
    shared: bool = False  # trained by another trial, which begins in the same way (training/prefixes.py)


@dataclass(frozen=True)
class TrialResult(Record):
    """What a trial comes to.

    `summary` is measured on the restored weights, those of the best epoch; `final` holds what else is known at the end,
    by MLflow's names: the last weights, the gap at equal updates and at equal fit, and where overfitting sets in.
    """

    state: str
    best_epoch: int
    epochs: int
    seconds: float
    summary: dict[str, float]
    confusion: tuple[tuple[int, ...], ...]  # validation images: rows true class, columns predicted
    trainable_parameters: int  # that the last phase's optimisers moved
    frozen_parameters: int  # the others: of frozen layers, and statistics such as BatchNormalization's
    frozen_digest: str | None  # of the frozen weights, the same before and after training; None: nothing frozen
    final: dict[str, float] = field(default_factory=dict)
    ended_by: str = "epochs"  # or "updates", "train loss", "early stopping", "pruner"
    verdict: str = ""  # one of training/verdict.py's, with its reason
    verdict_reason: str = ""
    train_confusion: tuple[tuple[int, ...], ...] = ()  # the same of the probe; () of a version that did not count it
    features: str = ""  # what it trained on: training/features.py's "cached", "two views" or "full forward", by phase
    shared_epochs: int = 0  # of its epochs, those that another trial has trained
    checkpoint_note: str = ""  # what did not go as it should with its checkpoints
    features_note: str = ""  # where they lie and how large they are, or why there are none
    files: dict[str, str] = field(default_factory=dict)  # "model": folder; "backbone", "correctness": files
    versions: dict[str, str] = field(default_factory=dict)  # package -> version in the worker
    computed_on: dict[str, str] = field(default_factory=dict)  # device, threads, onednn, precision, xla
    micro_batch: int | None = None  # images at once in an update, at the end, where a batch did not fit into memory
    evaluation_batch: int | None = None  # the same in evaluation


@dataclass(frozen=True)
class Speed(Record):
    """How fast a worker trains one network in one transfer mode."""

    parameters: int
    setup_seconds: float  # from its images and weights to the first update and evaluation
    batch_sizes: tuple[int, ...]
    seconds_per_update: tuple[tuple[float, ...], ...]  # for each phase, by `batch_sizes`
    seconds_per_evaluated_image: float
    compile_seconds: float = 0.0  # more in the first trial of a worker
    extraction_seconds: float = 0.0  # what frozen layers make of the images, once for all trials
    features_bytes: int = 0  # of that, in the cache
    peak_bytes: int = 0  # the worker's memory at most, so far; 0: not known on this system


@dataclass(frozen=True)
class RecordedRun:
    """One run of a study as MLflow has it."""

    run_id: str
    name: str
    kind: str  # "study", "pretrain", "trial" or "confirm"
    state: str  # one of STATES, or "running"
    reason: str  # one of FAILURE_REASONS, or ""
    started: int  # milliseconds since 1970
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]  # the latest value of each
    tags: Mapping[str, str]
    ended: int = 0  # milliseconds since 1970; 0: not yet
    epoch: int = 0  # while it is under way: the last that it reported
    status: str = ""  # MLflow's: RUNNING, FINISHED, FAILED, KILLED

    @property
    def done(self) -> bool:
        """Whether the trial counts: it is neither under way, nor was it interrupted, nor does it run once more."""
        return self.state != "running" and self.reason != "interrupted" and RETRIED not in self.tags


@dataclass(frozen=True)
class RecordedStudy:
    """A study as MLflow has it: its experiment, and its own run with the configuration."""

    name: str
    experiment_id: str
    run_id: str
    config: dict[str, Any]

    @property
    def objective(self) -> str:
        """The metric that makes one trial better than another."""
        return self.rule.metric

    @property
    def goals(self) -> tuple[str, ...] | None:
        """What the Pareto front weighs up; None: what is usual."""
        goals = self.config["objective"].get("goals")
        return tuple(goals) if goals else None

    @property
    def rule(self) -> Rule:
        """What makes one trial better than another."""
        given = self.config["objective"]
        return Rule(given["metric"], given.get("maximum_gap"), given.get("minimum_accuracy"))


def latest_runs(runs: Iterable[RecordedRun]) -> dict[str, RecordedRun]:
    """By trial the run that counts: the last one, unless only an earlier one is done.

    Args:
        runs: trials (or pretrainings), oldest first.
    """
    return {run.tags["cnnstudy.trial"]: run for run in sorted(runs, key=lambda run: run.done)}


def best_metrics(run: RecordedRun) -> dict[str, float]:
    """A trial's clean metrics at its best epoch, by the names of an epoch's: `val/loss`; {} where it has none."""
    names = [f"{part}/{name}" for part in ("train", "val", "gap") for name in ("accuracy", "loss")]
    return {name: run.metrics[best_name(name)] for name in names if best_name(name) in run.metrics}


def best_name(metric: str) -> str:
    """The name of a metric at a trial's best epoch: `val/loss` -> `best/val_loss`."""
    return f"best/{metric.replace('/', '_')}"


_NESTED: dict[tuple[str, str], type[Record]] = {
    ("TrialSpec", "images"): PreparedImages,
    ("TrialSpec", "split"): Split,
    ("TrialSpec", "rule"): Rule,
    ("TrialSpec", "optimizer"): Optimizer,
}
