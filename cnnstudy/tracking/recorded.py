"""Which of a study's runs are its trials: one for each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cnnstudy.names import CLEAN_METRICS, Metric, Parameter, Tag, best_name, computed_on_tag
from cnnstudy.records import Level, Rule


def config_tags(config: dict[str, Any]) -> dict[str, str]:
    """A configuration in the tags of a study's own run."""
    return split_into_tags(Tag.CONFIG, config)


def read_config(tags: Mapping[str, str]) -> dict[str, Any]:
    """The configuration in the tags of a study's own run."""
    return join_tags(Tag.CONFIG, tags)


def split_into_tags(key: str, value: Mapping[str, Any]) -> dict[str, str]:
    """JSON in as many tags as it takes: `<key>.0`, `<key>.1` and so on."""
    text = json.dumps(value)
    return {f"{key}.{number}": text[5000 * number :][:5000] for number in range(1 + len(text) // 5000)}


def join_tags(key: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """What `long_tags` made these of."""
    text = "".join(itertools.takewhile(bool, (tags.get(f"{key}.{number}", "") for number in itertools.count())))
    value, _ = json.JSONDecoder().raw_decode(text)  # a longer one that held before may have left tags behind
    return dict(value)


def config_differences(one: Any, other: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two configurations differ: the dotted key and both values, None where one has no such key."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in [*one, *(name for name in other if name not in one)]:
            yield from config_differences(one.get(name), other.get(name), f"{key}.{name}".lstrip("."))
    elif one != other:
        yield key, one, other


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
        return self.state != "running" and self.reason != "interrupted" and not self.retried

    # Texts are "" where the run has no such tag, metrics None.

    @property
    def trial(self) -> str:
        """Return the key of the trial, unique within the study; "" for the study's own run."""
        return self.tags.get(Tag.TRIAL, "")

    @property
    def number(self) -> int:
        """Return the trial's number within the study and architecture, from 0.

        Raises:
            KeyError: the run is the study's own, which has none.
        """
        return int(self.tags[Tag.NUMBER])

    @property
    def architecture(self) -> str:
        return self.tags.get(Tag.ARCHITECTURE, "")

    @property
    def levels(self) -> dict[str, Level]:
        """Return the trial's level of each factor that is active in it; {} for the study's own run."""
        return dict(json.loads(self.tags.get(Tag.LEVELS, "{}")))

    @property
    def seed(self) -> int:
        """Return the trial's seed.

        Raises:
            KeyError: the run is the study's own, which has none.
        """
        return int(self.tags[Tag.SEED])

    @property
    def weights(self) -> str:
        """Return where the source weights are from: `TrialSpec.weights_source`, or "none"."""
        return self.tags.get(Tag.WEIGHTS, "")

    @property
    def weights_digest(self) -> str:
        return self.tags.get(Tag.WEIGHTS_DIGEST, "")

    @property
    def weights_address(self) -> str:
        """Return the address of the source weights in the cache."""
        return self.tags.get(Tag.WEIGHTS_ADDRESS, "")

    @property
    def weights_recipe(self) -> str:
        """Return the address of how the source weights are trained, without the code that does it."""
        return self.tags.get(Tag.WEIGHTS_RECIPE, "")

    @property
    def from_cache(self) -> bool:
        """Return whether this is a pretraining whose weights were in the cache."""
        return bool(self.tags.get(Tag.FROM_CACHE))

    @property
    def data_digest(self) -> str:
        """Return the digest of every image, its label and the split."""
        return self.tags.get(Tag.DATA_DIGEST, "")

    @property
    def code_version(self) -> str:
        return self.tags.get(Tag.CODE_VERSION, "")

    @property
    def packages(self) -> dict[str, str]:
        """Return the version of each package; {} where that was not recorded, or was cut to what MLflow takes."""
        try:
            return dict(json.loads(self.tags.get(Tag.PACKAGES, "{}")))
        except ValueError:
            return {}

    @property
    def verdict(self) -> str:
        """Return one of training/verdict.py's; "" where the trial has not come to its end."""
        return self.tags.get(Tag.VERDICT, "")

    @property
    def verdict_reason(self) -> str:
        return self.tags.get(Tag.VERDICT_REASON, "")

    @property
    def message(self) -> str:
        """Return the error in a line."""
        return self.tags.get(Tag.MESSAGE, "")

    @property
    def retried(self) -> bool:
        """Return whether the run failed and its trial runs once more."""
        return Tag.RETRIED in self.tags

    @property
    def model(self) -> str:
        """Return the address `models:/...` of the trial's model; "" where it left none."""
        return self.tags.get(Tag.MODEL, "")

    @property
    def config(self) -> dict[str, Any]:
        """Return the configuration, for the study's own run."""
        return read_config(self.tags)

    @property
    def run_command(self) -> str:
        """Return, for the study's own run, the last run-study."""
        return self.tags.get(Tag.RUN_COMMAND, "")

    @property
    def last_command(self) -> str:
        """Return, for the study's own run, the last command of any kind that ran trials."""
        return self.tags.get(Tag.LAST_COMMAND, "")

    @property
    def test_split(self) -> str:
        """Return, for the study's own run, the JSON that tells when its test split was opened; "" if it was not."""
        return self.tags.get(Tag.TEST_SPLIT, "")

    def computed_on(self, what: str) -> str:
        """Return one of `TrialResult.computed_on`, e.g. the `device`."""
        return self.tags.get(computed_on_tag(what), "")

    @property
    def epochs(self) -> int | None:
        """Return how many epochs the trial trains at most; None where a driver died before it recorded parameters."""
        return _whole(self.parameters.get(Parameter.EPOCHS))

    @property
    def image_size(self) -> int | None:
        """Return the images' side in pixels; None as for `epochs`."""
        return _whole(self.parameters.get(Parameter.IMAGE_SIZE))

    @property
    def classes(self) -> int | None:
        """Return how many classes the images have; None as for `epochs`."""
        return _whole(self.parameters.get(Parameter.CLASSES))

    @property
    def train_images(self) -> int | None:
        """Return how many training images there are; None as for `epochs`."""
        return _whole(self.parameters.get(Parameter.TRAIN_IMAGES))

    @property
    def best_epoch(self) -> int | None:
        """Return the epoch, from 1, whose weights the trial kept."""
        return _whole(self.metrics.get(Metric.BEST_EPOCH))

    @property
    def updates(self) -> int | None:
        """Return how many updates the trial made."""
        return _whole(self.metrics.get(Metric.UPDATES))

    @property
    def seconds(self) -> float | None:
        """Return how long the trial trained."""
        return self.metrics.get(Metric.TOTAL_SECONDS)

    @property
    def trainable_parameters(self) -> int | None:
        return _whole(self.metrics.get(Metric.TRAINABLE_PARAMETERS))

    @property
    def frozen_parameters(self) -> int | None:
        return _whole(self.metrics.get(Metric.FROZEN_PARAMETERS))


def _whole(number: float | str | None) -> int | None:
    return None if number is None else int(number)


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
    return {run.trial: run for run in sorted(runs, key=lambda run: run.done)}


def best_metrics(run: RecordedRun) -> dict[str, float]:
    """A trial's clean metrics at its best epoch, by the names of an epoch's: `val/loss`; {} where it has none."""
    return {name: run.metrics[best_name(name)] for name in CLEAN_METRICS if best_name(name) in run.metrics}


def latest_trials(runs: Iterable[RecordedRun]) -> list[RecordedRun]:
    """The run of each trial that counts.

    Args:
        runs: of the study, of every kind, oldest first.
    """
    return list(latest_runs(run for run in runs if run.kind == "trial").values())
