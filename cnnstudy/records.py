"""The messages between driver and worker: plain data that is stored and sent as JSON.

A TrialSpec goes to a worker; EpochRecords and one TrialResult come back, with a folder of files.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

from cnnstudy.errors import printable
from cnnstudy.names import Metric

#: A level of a factor.
Level = int | float | str

#: The rounding error allowed when a difference of two accuracies is compared with a limit.
_ROUNDING = 1e-9
STATES = ("finished", "pruned", "failed")
#: Why a trial failed. One that was interrupted, or whose failure has a cause outside of it, runs again; the others
#: count as done.
INTERRUPTED = "interrupted"
#: The machine that a trial ran on is gone or was taken away.
LOST = "lost"
#: The images in the cache can't be read; anything else around the trial: a package, a disk; its machine.
OUTSIDE_REASONS = ("data", "environment", LOST)
FAILURE_REASONS = ("oom", "diverged", "crash", "timeout", *OUTSIDE_REASONS, INTERRUPTED)
#: Metadata of a specification's fields: what a field changes. All content addresses of trials are made from it.
TRAINING = {"changes": "training"}  # what is trained
RECORD = {"changes": "record"}  # only what is recorded: the trial's name, additional measurements, what is kept
NOTHING = {"changes": "nothing"}  # neither; at most the rounding of numbers
#: Changes nothing, and is left out of JSON at its default, so that versions without the field can read it.
NEWER = {**NOTHING, "newer": True}


class Record:
    """The base of dataclasses that convert to and from JSON's types."""

    def to_json(self) -> dict[str, Any]:
        """Return a dict of JSON's types, for `from_json`."""
        data = dataclasses.asdict(self)  # type: ignore[call-overload]
        for one in dataclasses.fields(self):  # type: ignore[arg-type]
            if one.metadata.get("newer") and getattr(self, one.name) == one.default:
                del data[one.name]
        return dict(data)

    def fields_that_change(self, *what: str) -> dict[str, Any]:
        """Return the fields that change any of `what` ("training", "record", "nothing"), as JSON's types.

        Content addresses are made from them. Of a nested specification, the fields that change it are returned.

        Raises:
            TypeError: a field has no metadata that says what it changes.
        """
        fields = {}
        for one in dataclasses.fields(self):  # type: ignore[arg-type]
            if "changes" not in one.metadata:
                raise TypeError(f"{type(self).__name__}.{one.name} needs metadata: TRAINING, RECORD or NOTHING")
            if one.metadata["changes"] in what:
                value = getattr(self, one.name)
                if isinstance(value, Record):
                    is_nested = any(part.metadata for part in dataclasses.fields(value))  # type: ignore[arg-type]
                    value = value.fields_that_change(*what) if is_nested else value.to_json()
                fields[one.name] = value
        return fields

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return the record that `to_json` converted.

        Raises:
            TypeError: there is a key that this version does not know, or a required key is missing.
        """
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
    """How images are split, class by class: shares in [0, 1) of all images, and the seed of their order."""

    validation: float
    test: float
    seed: int


@dataclass(frozen=True)
class ImageFacts(Record):
    """An image as it is stored, upright, and measures of its grey version (see data.decode.measure_image)."""

    width: int  # pixels
    height: int
    mode: str  # RGB, grey, alpha, palette, CMYK, 16 bit, or Pillow's name of another
    rotated: bool  # turned or mirrored as its EXIF data says
    brightness: float  # mean, 0 to 255
    contrast: float  # standard deviation
    sharpness: float  # variance of the Laplacian
    taken: float | None = None  # when, in seconds by the camera's own clock; None: the file does not say
    camera: str = ""  # make, model and serial number, as far as the file names them


@dataclass(frozen=True)
class Decoded:
    """A decoded image: its pixels at every requested size, each [size, size, 3] uint8, RGB, as bytes."""

    pixels: tuple[bytes | memoryview, ...]
    facts: ImageFacts | None = None  # if they were asked for


@dataclass(frozen=True)
class BadImage(Record):
    """An image that can't be used."""

    path: str  # its key in the data set, or the file as the user named it
    cause: str  # in words; for an unreadable file the operating system's
    #: "unusable": the file's content can't be used; "unreadable": the file can't be read; "changed": the file changed
    #: since its digest was taken.
    kind: Literal["unusable", "unreadable", "changed"] = "unusable"

    @property
    def reason(self) -> str:
        """Why the image can't be used, in one line of at most 300 characters."""
        reason = f"can't be read ({self.cause})" if self.kind == "unreadable" else self.cause
        return printable(reason)[:300]

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.reason}")


@dataclass(frozen=True)
class PreparedImages(Record):
    """Decoded images in the cache: `images.npy` [n, size, size, 3] uint8 and `index.json` in `folder`."""

    name: str = field(metadata=RECORD)
    folder: str = field(metadata=NOTHING)
    digest: str = field(metadata=TRAINING)  # of every byte of every image, its label and the split
    size: int = field(metadata=TRAINING)  # pixels
    classes: tuple[str, ...] = field(metadata=TRAINING)
    train: tuple[int, ...] = field(metadata=TRAINING)  # images per class
    validation: tuple[int, ...] = field(metadata=TRAINING)
    test: tuple[int, ...] = field(metadata=TRAINING)
    skipped: tuple[BadImage, ...] = field(default=(), metadata=RECORD)
    warnings: tuple[str, ...] = field(default=(), metadata=RECORD)  # about duplicates among the images
    #: A file with the group of each image; "" without groups. The digest covers them.
    groups: str = field(default="", metadata=NEWER)
    notes: tuple[str, ...] = field(default=(), metadata=NEWER)  # about copies and groups
    conflicts: int = field(default=0, metadata=NEWER)  # pairs of copies with different labels
    # those of train, validation and test that the images were divided into beforehand; the digest says which image
    given: tuple[str, ...] = field(default=(), metadata=NEWER)
    passed_over: tuple[str, ...] = field(default=(), metadata=NEWER)  # as in data.datasets.ImageSource


@dataclass(frozen=True)
class Optimizer(Record):
    """An optimiser of training/updates.py, with its settings besides the learning rate."""

    name: str
    weight_decay: float = 0.0
    momentum: float = 0.9


@dataclass(frozen=True)
class Rule(Record):
    """How epochs and trials are ranked: by a metric, subject to the study's limits."""

    metric: str = Metric.VAL_ACCURACY  # or one of the other metrics of config.schema.Objective
    maximum_gap: float | None = None  # of clean accuracy, as a fraction
    minimum_accuracy: float | None = None  # on validation, as a fraction

    @property
    def maximize(self) -> bool:
        return self.metric != Metric.VAL_LOSS

    def beyond(self, metrics: Mapping[str, float], verdict: str = "") -> dict[str, float]:
        """Return by how much the clean metrics exceed each limit; 0 or less: the limit is met.

        If there are limits, having learnt is one of them, because at chance level there is no gap.
        """
        excess = {}
        if self.maximum_gap is not None:
            excess["maximum_gap"] = metrics[Metric.GAP_ACCURACY] - self.maximum_gap - _ROUNDING
        if self.minimum_accuracy is not None:
            excess["minimum_accuracy"] = self.minimum_accuracy - metrics[Metric.VAL_ACCURACY] - _ROUNDING
        return {**excess, "learning": float(verdict == "not-learning")} if excess else {}

    def keeps(self, metrics: Mapping[str, float], verdict: str = "") -> bool:
        """Check whether the clean metrics meet every limit."""
        return all(value <= 0 for value in self.beyond(metrics, verdict).values())

    def rank(self, metrics: Mapping[str, float], verdict: str = "") -> tuple[float, float, float]:
        """Return the rank, larger is better: meeting the limits (or least excess), then the metric, then val loss."""
        value = metrics[self.metric] if self.maximize else -metrics[self.metric]
        return -sum(max(0.0, by) for by in self.beyond(metrics, verdict).values()), value, -metrics[Metric.VAL_LOSS]

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the metric, worsened by the gap's excess over its limit: a pruner compares trials by it."""
        excess = max(0.0, self.beyond(metrics).get("maximum_gap", 0.0))
        return metrics[self.metric] - excess if self.maximize else metrics[self.metric] + excess


#: How a level of `transfer` begins that a stage of the network follows.
FROM = "from "
#: The level of `transfer` that fits a probe's head first and then trains every layer from there.
PROBE_FIRST = "probe-then-fine-tune"
#: A level of `transfer` that is a probe: `probe`, `svm probe`, `flat probe of block4`.
PROBE = r"(?P<flat>flat )?(?P<svm>svm )?probe(?: of (?P<layer>[\w.-]+))?"


class LinearInput(NamedTuple):
    """What a linear head takes: the outputs of a layer or stage ("": of the last one below the head)."""

    layer: str = ""
    flat: bool = False  # all of them; else averaged over each map


@dataclass(frozen=True)
class Probe:
    """A linear head that is fitted instead of trained: by "logistic" regression, or as linear "svm"."""

    classifier: str
    takes: LinearInput


def read_probe(mode: Level) -> Probe | None:
    """Return the head that a transfer mode fits; None if it fits none."""
    found = re.fullmatch(PROBE, "probe" if mode == PROBE_FIRST else str(mode))
    if found is None:
        return None
    return Probe("svm" if found["svm"] else "logistic", LinearInput(found["layer"] or "", bool(found["flat"])))


def makes_updates(mode: Level) -> bool:
    """Check whether a transfer mode trains by updates, as all but probes do."""
    return mode == PROBE_FIRST or read_probe(mode) is None


def split_epochs(epochs: int, phases: int) -> list[int]:
    """Return the epochs of each of so many phases, equally many; the last has what is left over."""
    each = epochs // phases
    return [*[each] * (phases - 1), epochs - each * (phases - 1)]


def plain_name(architecture: str) -> str:
    """Return a network's name for trials, files and folders: `keras-MobileNetV2` of `keras:MobileNetV2`.

    One's own network has that of its file and function: `net-build` of `file:net.py:build@0123456789`.
    """
    own = re.fullmatch(r"file:(.+)(?:\.py|\.keras)(:\w+)?@[0-9a-f]+", architecture)
    name = f"{own[1].replace('.', '-')}{own[2] or ''}" if own else architecture
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name)


@dataclass(frozen=True)
class TrialSpec(Record):
    """One training run: one network, one combination of factor levels, one seed."""

    study: str = field(metadata=RECORD)
    #: "trial"; "confirm": a candidate trained again with a fresh seed; "pretrain": trains source weights.
    purpose: str = field(metadata=RECORD)
    architecture: str = field(metadata=TRAINING)
    number: int = field(metadata=RECORD)  # within the study and architecture, from 0
    seed: int = field(metadata=TRAINING)
    levels: dict[str, Level] = field(metadata=TRAINING)
    images: PreparedImages = field(metadata=TRAINING)
    split: Split = field(metadata=TRAINING)
    epochs: int = field(metadata=TRAINING)  # at most
    head_epochs: int = field(metadata=TRAINING)  # two-phase: how many of the epochs train the head only
    patience: int | None = field(
        metadata=TRAINING
    )  # epochs without improvement before it stops; None: no early stopping
    rule: Rule = field(metadata=TRAINING)  # which epoch is best
    optimizer: Optimizer = field(metadata=TRAINING)
    #: "none", "pretrain", "imagenet", "file" or "random", for tables and tags.
    weights_source: str = field(metadata=RECORD)
    weights_file: str | None = field(metadata=TRAINING)
    updates: int | None = field(default=None, metadata=TRAINING)  # ends after this many, even within an epoch
    #: The trial ends after the first epoch with a clean train loss (nats) at or below this.
    until_train_loss: float | None = field(default=None, metadata=TRAINING)
    #: Measure clean metrics also after this many updates, equal for all trials of a network.
    equal_updates: int | None = field(default=None, metadata=RECORD)
    keep_model: bool = field(default=True, metadata=RECORD)
    deterministic: bool = field(default=False, metadata=TRAINING)  # bitwise reproducible
    #: A seed of the trial's own train-validation split; None: the study's split.
    block: int | None = field(default=None, metadata=TRAINING)
    #: Whether outputs of frozen layers may come from the cache.
    features: bool = field(default=True, metadata=TRAINING)
    #: When checkpoints are written: a mode of training/checkpoints.py. No number depends on it.
    checkpoints: str = field(default="none", metadata=NOTHING)
    #: Whether its first epochs may come from a trial that begins in the same way.
    share_epochs: bool = field(default=False, metadata=NOTHING)
    #: Initial number of images processed at once in an update; None: the whole batch.
    micro_batch: int | None = field(default=None, metadata=NOTHING)
    #: Precision of updates: "float32", "mixed_float16", "mixed_bfloat16"; "auto": chosen for the device.
    precision: str = field(default="float32", metadata=TRAINING)
    xla: bool | None = field(default=None, metadata=TRAINING)  # whether XLA compiles updates; None: on a GPU

    @property
    def fits_head(self) -> bool:
        """Whether its head is fitted, at the end or as what training starts from."""
        return read_probe(self.levels["transfer"]) is not None

    @property
    def batch_size(self) -> int:
        """Images per update; without updates all that there are to train on, which are fitted at once."""
        return int(self.levels.get("batch_size", sum(self.images.train)))

    @property
    def key(self) -> str:
        """The trial's name, unique within the study: `vgg16-007`, `confirm-vgg16-007-seed-10000`, `pretrain-vgg16`."""
        network = plain_name(self.architecture)
        name = f"{network}-{self.number:03d}"
        draw = "" if self.block is None else f"-seed-{self.seed}"
        others = {
            "pretrain": f"pretrain-{network}{draw}",
            "confirm": f"confirm-{name}-seed-{self.seed}",
        }
        return others.get(self.purpose, name)


@dataclass(frozen=True)
class EpochRecord(Record):
    """The metrics after one epoch, by their names.

    Epoch 0 is the measurement before the first update, of clean metrics only. It is no epoch of training: it is never
    the best, and neither counted, shown as progress, nor compared by pruners.
    """

    epoch: int  # from 1, or 0
    metrics: dict[str, float]
    replayed: bool = False  # trained in an earlier attempt or by another trial, and reported again
    shared: bool = False  # trained by another trial that begins in the same way (training/shared_epochs.py)


#: The files of a trial's result with tables of its images.
RESULT_TABLES = {"correctness": "correctness.npz", "split": "split.csv", "predictions": "predictions.json"}


@dataclass(frozen=True)
class TrialResult(Record):
    """The result of a trial.

    `summary` has the metrics of the restored weights, those of the best epoch; `final` has the other metrics known at
    the end, by their names in MLflow: of the last weights, at equal updates and equal fit, and the overfitting onset.
    """

    state: str
    best_epoch: int
    epochs: int
    seconds: float
    summary: dict[str, float]
    confusion: tuple[tuple[int, ...], ...]  # validation images: rows true class, columns predicted
    trainable_parameters: int  # by the last phase
    frozen_parameters: int  # all others: of frozen layers, and statistics such as BatchNormalization's
    frozen_digest: str | None  # of the frozen weights, equal before and after training; None: no frozen layer
    final: dict[str, float] = field(default_factory=dict)
    ended_by: str = "epochs"  # or "updates", "train loss", "early stopping", "pruner"
    verdict: str = ""  # one of training/verdict.py's, with its reason
    verdict_reason: str = ""
    verdict_counts: dict[str, Any] = field(default_factory=dict)  # training/verdict.py's Counts, by name
    train_confusion: tuple[
        tuple[int, ...], ...
    ] = ()  # as `confusion`, of the probe; () if recorded by a version without it
    features: str = ""  # what it trained on: training/features.py's "cached", "two views" or "full forward", by phase
    shared_epochs: int = 0  # how many of its epochs another trial trained
    checkpoint_note: str = ""  # what went wrong with its checkpoints
    features_note: str = ""  # where cached features are and their size, or why there are none
    files: dict[str, str] = field(default_factory=dict)  # "model": folder; "backbone" and RESULT_TABLES: files
    versions: dict[str, str] = field(default_factory=dict)  # package -> version in the worker
    #: device, threads, onednn, precision, xla; tf32 on GPUs that use it; replicas, where several divided each update.
    computed_on: dict[str, str] = field(default_factory=dict)
    micro_batch: int | None = None  # as at the end, if a batch did not fit into memory
    evaluation_batch: int | None = None  # the same in evaluation


@dataclass(frozen=True)
class Speed(Record):
    """The measured training speed of one network in one transfer mode."""

    parameters: int
    setup_seconds: float  # load images and weights, until the first update and evaluation
    batch_sizes: tuple[int, ...]
    seconds_per_update: tuple[tuple[float, ...], ...]  # for each phase, by `batch_sizes`
    seconds_per_evaluated_image: float
    compile_seconds: float = 0.0  # additional time in the first trial of a worker
    extraction_seconds: float = 0.0  # computing the outputs of frozen layers, once for all trials
    features_bytes: int = 0  # size of these outputs in the cache
    peak_bytes: int = 0  # the worker's peak memory so far; 0: unknown on this system


_NESTED: dict[tuple[str, str], type[Record]] = {
    ("PreparedImages", "skipped"): BadImage,
    ("TrialSpec", "images"): PreparedImages,
    ("TrialSpec", "split"): Split,
    ("TrialSpec", "rule"): Rule,
    ("TrialSpec", "optimizer"): Optimizer,
}
