"""Studies and runs as MLflow holds them, as plain data, and configurations as tags."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from cnnstudy.config.factors import FACTORS
from cnnstudy.errors import TrackingError
from cnnstudy.names import (
    CLEAN_METRICS,
    CROSSED_METRICS,
    Metric,
    Parameter,
    Tag,
    best_name,
    computed_on_tag,
    crossed_name,
    last_name,
)
from cnnstudy.records import INTERRUPTED, STATES, Level, Rule, plain_name
from cnnstudy.tracking.shown_names import shown_tag

LONGEST_TAG = 5000  # characters that MLflow allows in a tag's value
Value = TypeVar("Value")
#: What every finished trial has, at its best epoch.
ACCURACIES = (Metric.TRAIN_ACCURACY, Metric.VAL_ACCURACY)


_KINDS = ("study", "pretrain", "trial", "confirm")
#: The tags with which a failed run stops to count, because a user asked for its trial to run again.
RETRY_ASKED = {Tag.RETRIED: "asked"}


@dataclass(frozen=True)
class RecordedRun:
    """One run of a study as MLflow holds it."""

    run_id: str
    name: str
    kind: str  # "study", "pretrain", "trial" or "confirm"
    state: str  # one of STATES, or "running"
    reason: str  # one of FAILURE_REASONS, or ""
    started: int  # milliseconds since 1970
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]  # the latest value of each
    tags: Mapping[str, str]
    ended: int = 0  # milliseconds since 1970; 0 while it runs
    epoch: int = 0  # the last reported epoch of a running trial; 0 if there is none
    status: str = ""  # MLflow's: RUNNING, FINISHED, FAILED, KILLED

    @property
    def done(self) -> bool:
        """Return whether the run is its trial's final result: not running, interrupted or retried."""
        return self.state != "running" and self.reason != INTERRUPTED and not self.retried

    # Without the tag, text properties return ""; without the metric or parameter, numbers return None. Properties that
    # read a number or JSON from a tag raise TrackingError if it can't be read.

    def _read(self, tag: str, read: Callable[[str], Value]) -> Value:
        """Return what `read` makes of a tag's value."""
        try:
            return read(self.tags[tag])
        except (KeyError, TypeError, ValueError) as error:
            raise TrackingError(describe_damaged_tag(self.run_id, self.name, tag, self.tags)) from error

    @property
    def trial(self) -> str:
        """Return the key of the trial, unique within the study; "" for the study's own run."""
        return self.tags.get(Tag.TRIAL, "")

    @property
    def number(self) -> int:
        """Return the trial's number within the study and architecture, from 0; the study's own run has none."""
        return self._read(Tag.NUMBER, int)

    @property
    def architecture(self) -> str:
        return self.tags.get(Tag.ARCHITECTURE, "")

    @functools.cached_property
    def levels(self) -> dict[str, Level]:
        """Return the trial's level of each factor that is active in it; {} for the study's own run."""
        if Tag.LEVELS not in self.tags:
            return {}
        return self._read(Tag.LEVELS, lambda text: _read_levels(text, self.parameters))

    @property
    def seed(self) -> int:
        """Return the trial's seed; the study's own run has none."""
        return self._read(Tag.SEED, int)

    @property
    def weights(self) -> str:
        """Return the origin of the source weights: `TrialSpec.weights_source`, or "none"."""
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
        """Return the address of the settings that the source weights are trained with, without the code."""
        return self.tags.get(Tag.WEIGHTS_RECIPE, "")

    @property
    def from_cache(self) -> bool:
        """Return whether this is a pretraining whose weights came from the cache."""
        return bool(self.tags.get(Tag.FROM_CACHE))

    @property
    def data_digest(self) -> str:
        """Return the digest of all images, their labels and the split."""
        return self.tags.get(Tag.DATA_DIGEST, "")

    @property
    def code_version(self) -> str:
        return self.tags.get(Tag.CODE_VERSION, "")

    @property
    def packages(self) -> dict[str, str]:
        """Return each package's version; {} if it was not recorded, or was cut to the length of a tag."""
        try:
            return dict(json.loads(self.tags.get(Tag.PACKAGES, "{}")))
        except ValueError:
            return {}

    @property
    def stopped(self) -> str:
        """Return after how many seeds the study stopped because its question was answered; "" if it did not."""
        return self.tags.get(Tag.STOPPED, "")

    @property
    def verdict(self) -> str:
        """Return the trial's verdict, one of training/verdict.py's; "" before the trial ends."""
        return self.tags.get(Tag.VERDICT, "")

    @property
    def verdict_counts(self) -> dict[str, Any]:
        """Return the counts that the verdict is judged by (training/verdict.py's Counts); {} if none are recorded."""
        first = f"{Tag.VERDICT_COUNTS}.0"
        return self._read(first, lambda _: join_tags(Tag.VERDICT_COUNTS, self.tags)) if first in self.tags else {}

    @property
    def verdict_reason(self) -> str:
        return self.tags.get(Tag.VERDICT_REASON, "")

    @property
    def message(self) -> str:
        """Return the error message, one line."""
        return self.tags.get(Tag.MESSAGE, "")

    @property
    def note(self) -> str:
        """Return the description that MLflow's UI shows."""
        return self.tags.get(Tag.NOTE, "")

    @property
    def retried(self) -> bool:
        """Return whether the run failed and its trial is run again."""
        return Tag.RETRIED in self.tags

    def ask_for_retry(self) -> RecordedRun:
        """Return the run with the tag that a user asked for its trial to run again."""
        return replace(self, tags={**self.tags, **RETRY_ASKED})

    @property
    def retry_asked(self) -> bool:
        """Return whether a user asked for the failed trial to run again."""
        return self.tags.get(Tag.RETRIED) == "asked"

    @property
    def model(self) -> str:
        """Return the address `models:/...` of the trial's model; "" if it has none."""
        return self.tags.get(Tag.MODEL, "")

    @property
    def config(self) -> dict[str, Any]:
        """Return the configuration; only the study's own run has one."""
        return self._read(f"{Tag.CONFIG}.0", lambda _: read_config(self.tags))

    @property
    def run_command(self) -> str:
        """Return the last run-study command; only the study's own run has one."""
        return self.tags.get(Tag.RUN_COMMAND, "")

    @property
    def last_command(self) -> str:
        """Return the last command of any kind that ran trials; only the study's own run has one."""
        return self.tags.get(Tag.LAST_COMMAND, "")

    @property
    def test_split(self) -> str:
        """Return the JSON record of when the test split was used and for which models; "" if it was not.

        Only the study's own run has one.
        """
        return self.tags.get(Tag.TEST_SPLIT, "")

    def computed_on(self, what: str) -> str:
        """Return an entry of `TrialResult.computed_on`, such as `device`."""
        return self.tags.get(computed_on_tag(what), "")

    @property
    def epochs(self) -> int | None:
        """Return the maximum number of epochs; None if the driver died before it recorded parameters."""
        return _to_int(self.parameters.get(Parameter.EPOCHS))

    @property
    def image_size(self) -> int | None:
        """Return the side of the square images in pixels; None as for `epochs`."""
        return _to_int(self.parameters.get(Parameter.IMAGE_SIZE))

    @property
    def classes(self) -> int | None:
        """Return the number of classes; None as for `epochs`."""
        return _to_int(self.parameters.get(Parameter.CLASSES))

    @property
    def train_images(self) -> int | None:
        """Return the number of training images at a data_fraction of 1; None as for `epochs`."""
        return _to_int(self.parameters.get(Parameter.TRAIN_IMAGES))

    @property
    def train_images_used(self) -> int | None:
        """Return how many training images the trial used; None also if an earlier version recorded it."""
        return _to_int(self.parameters.get(Parameter.USED_TRAIN_IMAGES))

    @property
    def best_epoch(self) -> int | None:
        """Return the epoch, from 1, whose weights were kept."""
        return _to_int(self.metrics.get(Metric.BEST_EPOCH))

    @property
    def updates(self) -> int | None:
        """Return the number of weight updates."""
        return _to_int(self.metrics.get(Metric.UPDATES))

    @property
    def seconds(self) -> float | None:
        """Return the training time in seconds."""
        return self.metrics.get(Metric.TOTAL_SECONDS)

    @property
    def trainable_parameters(self) -> int | None:
        return _to_int(self.metrics.get(Metric.TRAINABLE_PARAMETERS))

    @property
    def frozen_parameters(self) -> int | None:
        return _to_int(self.metrics.get(Metric.FROZEN_PARAMETERS))


def _read_levels(text: str, parameters: Mapping[str, str]) -> dict[str, Level]:
    """Return the levels of factors in a tag's JSON; each of them is among the run's parameters, too.

    Raises:
        TypeError, ValueError: they are none.
    """
    levels: dict[str, Level] = {**json.loads(text)}
    for name, level in levels.items():
        if name in FACTORS and isinstance(level, str) != (FACTORS[name].kind is str):
            raise ValueError(f"{level!r} is no level of {name}")
    if (FACTORS.keys() & parameters.keys()) - levels.keys():
        raise ValueError("there are fewer levels than the run has parameters")
    return levels


def _to_int(number: float | str | None) -> int | None:
    return None if number is None else int(number)


@dataclass(frozen=True)
class RecordedStudy:
    """A study as MLflow holds it: its experiment, and its own run with the configuration."""

    name: str
    experiment_id: str
    run_id: str
    config: dict[str, Any]
    damage: str = ""  # why the configuration can't be read; it is {} then
    begun: bool = field(default=True, compare=False)  # whether it was run since its own run was made

    @property
    def objective(self) -> str:
        """Return the metric that trials are ranked by."""
        return self.rule.metric

    @property
    def goals(self) -> tuple[str, ...] | None:
        """Return the objectives of the Pareto front; None for the default ones."""
        goals = self.config["objective"].get("goals")
        return tuple(goals) if goals else None

    @property
    def rule(self) -> Rule:
        """Return the rule that ranks trials: the metric and its limits."""
        objective = self.config["objective"]
        return Rule(objective["metric"], objective.get("maximum_gap"), objective.get("minimum_accuracy"))


def counted_runs(runs: Iterable[RecordedRun]) -> dict[str, RecordedRun]:
    """Return the run that counts for each trial: the latest done one, otherwise the latest.

    Args:
        runs: of trials (or pretrainings), oldest first.
    """
    return {run.trial: run for run in sorted(runs, key=lambda run: run.done)}


def counted_trials(runs: Iterable[RecordedRun]) -> list[RecordedRun]:
    """Return the run that counts for each trial; one whose measurements were damaged counts as failed.

    Args:
        runs: all of the study's runs, of every kind, oldest first.
    """
    counted = counted_runs(run for run in runs if run.kind == "trial").values()
    return [_mark_damaged(run) if run.state == "finished" else run for run in counted]


def _mark_damaged(run: RecordedRun) -> RecordedRun:
    """Return a finished trial's run as failed if it has no possible accuracies, or its tags contradict each other."""
    names = [*map(best_name, ACCURACIES), *map(last_name, ACCURACIES)]
    values = {name: run.metrics[name] for name in names if name in run.metrics}
    wrong = [f"{name} is {value:g}" for name, value in values.items() if not 0 <= value <= 1]
    if run.verdict:
        wrong += [f"{name} is missing" for name in names[: len(ACCURACIES)] if name not in values]
    if Tag.NUMBER in run.tags and not run.trial.startswith(f"{plain_name(run.architecture)}-"):
        wrong.append(f"{Tag.TRIAL} is {run.trial!r} and {Tag.ARCHITECTURE} {run.architecture!r}")
    if not wrong:
        return run
    message = f"its record was changed outside cnnstudy: {', '.join(wrong)}; it counts as failed"
    return replace(run, state="failed", reason="", tags={**run.tags, Tag.MESSAGE: message})


def mark_interrupted(runs: Iterable[RecordedRun]) -> list[RecordedRun]:
    """Return the runs as tables show them: one whose trial will run again has not failed."""
    return [
        replace(run, state=INTERRUPTED, reason="", tags={**run.tags, Tag.MESSAGE: run.message or "runs again"})
        if run.state == "failed" and not run.done
        else run
        for run in runs
    ]


def best_metrics(run: RecordedRun) -> dict[str, float]:
    """Return a trial's clean metrics at its best epoch, by their per-epoch names (`val/loss`); {} if it has none."""
    return {name: run.metrics[best_name(name)] for name in CLEAN_METRICS if best_name(name) in run.metrics}


def are_cross_fitted(runs: Iterable[RecordedRun]) -> bool:
    """Check whether all of these trials that have metrics have cross-fitted ones; older versions recorded none."""
    measured = [run for run in runs if best_metrics(run)]
    return bool(measured) and all(crossed_name(name) in run.metrics for run in measured for name in CROSSED_METRICS)


def score_metrics(run: RecordedRun, cross_fitted: bool) -> dict[str, float]:
    """Return a trial's metrics at its best epoch, by their per-epoch names, as trials are ranked by; {} if none.

    Args:
        cross_fitted: whether accuracies and their gap are the cross-fitted ones, free of the luck of choosing the
            epoch. Trials that are compared with each other take the same (`are_cross_fitted`).
    """
    metrics = best_metrics(run)
    crossed = CROSSED_METRICS if cross_fitted and metrics else ()
    return metrics | {name: run.metrics[crossed_name(name)] for name in crossed if crossed_name(name) in run.metrics}


def name_run(run_name: str, tags: Mapping[str, str]) -> str:
    """Return what a run is called: a trial by its key and title, others, and earlier versions' trials, as in MLflow."""
    return f"{tags[Tag.TRIAL]} {tags[Tag.TITLE]}" if {Tag.TRIAL, Tag.TITLE} <= tags.keys() else run_name


def describe_left_out(run_id: str, name: str, tags: Mapping[str, str]) -> str:
    """Say that a run's kind or state was edited, so that it counts as none; "" if both are cnnstudy's own."""
    if Tag.KIND not in tags and not tags.get(Tag.TRIAL):  # a run of another program
        return ""
    allowed = {Tag.KIND: _KINDS, Tag.STATE: ("running", *STATES)}
    wrong = [
        tag for tag, values in allowed.items() if tags.get(tag, "" if tag == Tag.KIND else "running") not in values
    ]
    if not wrong:
        return ""
    value = f"is {tags[wrong[0]][:40]!r}" if wrong[0] in tags else "is missing"
    return (
        f"the run {name_run(name, tags)} ({run_id}) is left out: its tag {wrong[0]} {value}, which cnnstudy did not "
        f"write (it is {', '.join(allowed[wrong[0]])}). Restore the tag in MLflow's UI, or delete the run; a trial "
        "then runs again."
    )


def describe_damaged_tag(run_id: str, name: str, tag: str, tags: Mapping[str, str]) -> str:
    """Say that a tag can't be read, and what to do."""
    value = f"is {tags[tag][:40]!r}" if tag in tags else "is missing"
    # the study's own run is needed for all of its trials
    otherwise = (
        "give the study another name"
        if tags.get(Tag.KIND) == "study"
        else "delete the run in MLflow's UI; a trial then runs again"
    )
    return (
        f"the record of {name} can't be read: the tag {shown_tag(tag)} of MLflow's run {run_id} {value}, which "
        f"cnnstudy did not write. Restore it from a copy, or {otherwise}."
    )


def tag_filter(tag: str, value: str) -> str:
    """Return a filter, in MLflow's search syntax, for runs or models with that tag."""
    return f"tags.`{tag}` = '{value}'"


# ---- configurations in tags


def config_tags(config: dict[str, Any]) -> dict[str, str]:
    """Return the tags that hold a configuration, for a study's own run."""
    return split_into_tags(Tag.CONFIG, config)


def read_config(tags: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration from the tags of a study's own run; before there was `copies`, copies were ignored."""
    config: dict[str, Any] = join_tags(Tag.CONFIG, tags)
    weights = config.get("weights") or {}
    for data in [config.get("data"), *(source.get("data") for source in weights.values())]:
        if data:
            data.setdefault("copies", "ignore")
    return config


def split_into_tags(key: str, value: Mapping[str, Any]) -> dict[str, str]:
    """Return the value as JSON, split into as many tags as it needs: `<key>.0`, `<key>.1` and so on."""
    text = json.dumps(value)
    count = 1 + len(text) // LONGEST_TAG
    return {f"{key}.{number}": text[LONGEST_TAG * number :][:LONGEST_TAG] for number in range(count)}


def join_tags(key: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """Return the value that `split_into_tags` split.

    Raises:
        ValueError: the tags hold none.
    """
    text = "".join(itertools.takewhile(bool, (tags.get(f"{key}.{number}", "") for number in itertools.count())))
    value, _ = json.JSONDecoder().raw_decode(text)  # tags of a longer, earlier value may follow
    return dict(value)


def config_differences(one: Any, other: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield where two configurations differ: the dotted key and both values, None for a missing key."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in [*one, *(name for name in other if name not in one)]:
            yield from config_differences(one.get(name), other.get(name), f"{key}.{name}".lstrip("."))
    elif one != other:
        yield key, one, other
