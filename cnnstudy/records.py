"""What driver and worker tell each other: plain data that fits into JSON.

A TrialSpec goes to a worker; EpochRecords and one TrialResult come back, with a folder of files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from cnnstudy.errors import printable
from cnnstudy.names import Metric

#: A level of a factor.
Level = int | float | str

#: Shares of images that are equal differ by so much once they are subtracted from each other.
_ROUNDING = 1e-9
STATES = ("finished", "pruned", "failed")
#: Why a trial failed. An interrupted one runs again; the others count as done.
INTERRUPTED = "interrupted"
FAILURE_REASONS = ("oom", "diverged", "data", "crash", "timeout", INTERRUPTED)
#: Metadata of the fields of a specification: what a field changes. All content addresses of trials follow from it.
TRAINING = {"changes": "training"}  # what is trained
RECORD = {"changes": "record"}  # only what is recorded: the trial's name, what is measured besides, what is kept
NOTHING = {"changes": "nothing"}  # neither; at most how numbers are rounded


class Record:
    """To and from JSON's types."""

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON's types that `from_json` reads back."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def fields_that_change(self, *what: str) -> dict[str, Any]:
        """Return the fields that change `what` ("training", "record", "nothing"), as JSON's types, for an address.

        Only those of a nested specification count that change it too.

        Raises:
            TypeError: a field does not say what it changes.
        """
        found = {}
        for one in dataclasses.fields(self):  # type: ignore[arg-type]
            if "changes" not in one.metadata:
                raise TypeError(f"{type(self).__name__}.{one.name} needs metadata: TRAINING, RECORD or NOTHING")
            if one.metadata["changes"] in what:
                value = getattr(self, one.name)
                if isinstance(value, Record):
                    is_nested = any(part.metadata for part in dataclasses.fields(value))  # type: ignore[arg-type]
                    value = value.fields_that_change(*what) if is_nested else value.to_json()
                found[one.name] = value
        return found

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The record that `to_json` gave; a key that this version does not know is an error."""
        values = dict(data)
        for spec_field in dataclasses.fields(cls):  # type: ignore[arg-type]
            nested = _NESTED.get((cls.__name__, spec_field.name))
            given = values.get(spec_field.name)
            if nested and isinstance(given, (list, tuple)):
                values[spec_field.name] = tuple(map(nested.from_json, given))
            elif nested and given is not None:
                values[spec_field.name] = nested.from_json(given)
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
class Decoded:
    """The pixels of an image at every size asked for: each [size, size, 3] uint8, RGB, as bytes."""

    pixels: tuple[bytes | memoryview, ...]


@dataclass(frozen=True)
class BadImage(Record):
    """An image that can't be used."""

    path: str  # its key in the data set, or the file as the user named it
    cause: str  # in words; of an unreadable file the system's
    #: "unusable": what is in the file can't be used; "unreadable": the file can't be read; "changed": it is not the
    #: file whose digest was taken.
    kind: Literal["unusable", "unreadable", "changed"] = "unusable"

    @property
    def reason(self) -> str:
        """Why it can't be used, in one short line."""
        reason = f"can't be read ({self.cause})" if self.kind == "unreadable" else self.cause
        return printable(reason)[:300]

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.reason}")


@dataclass(frozen=True)
class PreparedImages(Record):
    """Decoded images in the cache: `images.npy` [n, size, size, 3] uint8 and `index.json` in `folder`."""

    name: str = field(metadata=RECORD)
    folder: str = field(metadata=NOTHING)
    digest: str = field(metadata=TRAINING)  # over every byte of every image, its label and the split
    size: int = field(metadata=TRAINING)  # pixels
    classes: tuple[str, ...] = field(metadata=TRAINING)
    train: tuple[int, ...] = field(metadata=TRAINING)  # images per class
    validation: tuple[int, ...] = field(metadata=TRAINING)
    test: tuple[int, ...] = field(metadata=TRAINING)
    skipped: tuple[BadImage, ...] = field(default=(), metadata=RECORD)
    warnings: tuple[str, ...] = field(default=(), metadata=RECORD)  # of copies among the images


@dataclass(frozen=True)
class Optimizer(Record):
    """One of training/updates.py's table, with its extra settings."""

    name: str
    weight_decay: float = 0.0
    momentum: float = 0.9


@dataclass(frozen=True)
class Rule(Record):
    """What makes one epoch, or one trial, better than another: a metric, within the limits that the study sets."""

    metric: str = Metric.VAL_ACCURACY  # or "val/loss"
    maximum_gap: float | None = None  # of clean accuracy, share of 0..1
    minimum_accuracy: float | None = None  # of validation, share of 0..1

    @property
    def maximize(self) -> bool:
        return self.metric == Metric.VAL_ACCURACY

    def beyond(self, metrics: Mapping[str, float], verdict: str = "") -> dict[str, float]:
        """How far the clean metrics are beyond each limit; 0 or less: it is kept.

        Where there are limits, to have learnt something is one: a network that learns nothing has no gap.
        """
        found = {}
        if self.maximum_gap is not None:
            found["maximum_gap"] = metrics[Metric.GAP_ACCURACY] - self.maximum_gap - _ROUNDING
        if self.minimum_accuracy is not None:
            found["minimum_accuracy"] = self.minimum_accuracy - metrics[Metric.VAL_ACCURACY] - _ROUNDING
        return {**found, "learning": float(verdict == "not-learning")} if found else {}

    def keeps(self, metrics: Mapping[str, float], verdict: str = "") -> bool:
        """Whether the clean metrics keep every limit."""
        return all(value <= 0 for value in self.beyond(metrics, verdict).values())

    def rank(self, metrics: Mapping[str, float], verdict: str = "") -> tuple[float, float, float]:
        """Larger is better: what keeps the limits (or is least beyond them), then the metric, then validation loss."""
        value = metrics[self.metric] if self.maximize else -metrics[self.metric]
        return -sum(max(0.0, by) for by in self.beyond(metrics, verdict).values()), value, -metrics[Metric.VAL_LOSS]

    def score(self, metrics: Mapping[str, float]) -> float:
        """The metric, worse by what the gap is beyond its limit: what a pruner compares trials by."""
        excess = max(0.0, self.beyond(metrics).get("maximum_gap", 0.0))
        return metrics[self.metric] - excess if self.maximize else metrics[self.metric] + excess


@dataclass(frozen=True)
class TrialSpec(Record):
    """One training run: one network, one combination of factor levels, one seed."""

    study: str = field(metadata=RECORD)
    #: "trial"; "confirm": a candidate again, with a fresh seed; "pretrain": makes source weights.
    purpose: str = field(metadata=RECORD)
    architecture: str = field(metadata=TRAINING)
    number: int = field(metadata=RECORD)  # within the study and architecture, from 0
    seed: int = field(metadata=TRAINING)
    levels: dict[str, Level] = field(metadata=TRAINING)
    images: PreparedImages = field(metadata=TRAINING)
    split: Split = field(metadata=TRAINING)
    epochs: int = field(metadata=TRAINING)  # at most
    head_epochs: int = field(metadata=TRAINING)  # two-phase: how many of them train the head only
    patience: int | None = field(metadata=TRAINING)  # epochs without a better monitor before it stops; None: all epochs
    rule: Rule = field(metadata=TRAINING)  # which epoch is best
    optimizer: Optimizer = field(metadata=TRAINING)
    #: "none", "pretrain", "imagenet", "file", "random": what the table and tags say.
    weights_source: str = field(metadata=RECORD)
    weights_file: str | None = field(metadata=TRAINING)
    updates: int | None = field(default=None, metadata=TRAINING)  # it ends after so many, within an epoch if need be
    #: It ends after the first epoch with a clean train loss (nats) as low as this.
    until_train_loss: float | None = field(default=None, metadata=TRAINING)
    #: An extra clean measurement after so many updates, the same for all of a network.
    equal_updates: int | None = field(default=None, metadata=RECORD)
    keep_model: bool = field(default=True, metadata=RECORD)
    deterministic: bool = field(default=False, metadata=TRAINING)  # equal to the last bit whenever it is run again
    #: A seed of its own for train against validation; None: the study's.
    block: int | None = field(default=None, metadata=TRAINING)
    #: What frozen layers make of the images may come from the cache.
    features: bool = field(default=True, metadata=TRAINING)
    #: One of training/checkpoints.py's; no number depends on it.
    checkpoints: str = field(default="none", metadata=NOTHING)
    #: Its first epochs may come from a trial that begins in the same way.
    share_epochs: bool = field(default=False, metadata=NOTHING)
    #: Images at once in an update, to start with; None: the batch.
    micro_batch: int | None = field(default=None, metadata=NOTHING)
    #: Of updates; or "mixed_float16", "mixed_bfloat16"; "auto": what the device is made for.
    precision: str = field(default="float32", metadata=TRAINING)
    xla: bool | None = field(default=None, metadata=TRAINING)  # whether updates are compiled by XLA; None: on a GPU

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
    shared: bool = False  # trained by another trial, which begins in the same way (training/shared_epochs.py)


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


_NESTED: dict[tuple[str, str], type[Record]] = {
    ("PreparedImages", "skipped"): BadImage,
    ("TrialSpec", "images"): PreparedImages,
    ("TrialSpec", "split"): Split,
    ("TrialSpec", "rule"): Rule,
    ("TrialSpec", "optimizer"): Optimizer,
}
