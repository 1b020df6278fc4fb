"""What a call of run-study finds when it starts: a changed file, other images, trials that are recorded already."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from cnnstudy.config import Study
from cnnstudy.config_record import differences
from cnnstudy.display import Display
from cnnstudy.errors import StudyChangedError
from cnnstudy.names import Metric
from cnnstudy.proposals import PastTrial
from cnnstudy.recording import Recorder
from cnnstudy.records import PreparedImages, RecordedRun, RecordedStudy, Rule, best_metrics
from cnnstudy.repair import tidy_machine
from cnnstudy.schema import StudyConfig
from cnnstudy.tracking import Tracker


def tidy_up(display: Display) -> None:
    """Put right what killed processes, of this study or of others, left on this machine."""
    for decision in tidy_machine():
        display.say(str(decision))


#: May change between calls: how much to run, and what the trials already recorded do not depend on. Where files lie is
#: neither here nor there: images and source weights are compared by their content.
_HARMLESS = (
    *("budget", "budget.*", "strategy.seeds", "confirm", "confirm.*", "objective.goals"),
    *("training.timeout", "training.equal_failures"),
    *("training.checkpoints", "training.share_epochs", "training.keep_models"),
    *("data.path", "weights.*.file", "weights.*.data.path"),
)
#: What trials did before these keys were there to be recorded.
_BEFORE = {"training.precision": "float32", "training.xla": "auto"}


def refuse_changes(recorded: RecordedStudy, given: dict[str, Any], tracker: Tracker, study: Study) -> None:
    """Raise StudyChangedError where trials are recorded under other settings."""
    changes = [
        f"  {key}: {json.dumps(old)} -> {json.dumps(new)}"
        for key, old, new in differences(recorded.config, given)
        if not any(fnmatchcase(key, harmless) for harmless in _HARMLESS) and (old, new) != (None, _BEFORE.get(key))
    ]
    if changes and any(run.kind == "trial" for run in tracker.runs(recorded.experiment_id)):
        raise StudyChangedError(
            f"{study.path}: study {study.config.name!r} has trials recorded with other settings:\n"
            + "\n".join(changes)
            + f"\nTrials of both would not be comparable. {_ways_out(study.config.name)}"
        )


def refuse_other_images(study: str, runs: Iterable[RecordedRun], images: PreparedImages) -> None:
    """Raise StudyChangedError where trials of the study are recorded that saw other images or another split."""
    others = {run.data_digest for run in runs if run.kind == "trial"} - {images.digest}
    if others:
        raise StudyChangedError(
            f"the images of {images.name} are not those that study {study!r} was begun with (their "
            f"digest is {images.digest}, not {', '.join(sorted(others))}): files were added, removed or changed. "
            f"Trials of both would not be comparable. {_ways_out(study)}"
        )


def recorded_config(study: RecordedStudy) -> StudyConfig:
    """The settings that a study was recorded with.

    Raises:
        StudyChangedError: another version wrote them, and this one can't read them.
    """
    try:
        return StudyConfig.model_validate(study.config)
    except ValueError as error:
        raise StudyChangedError(
            f"study {study.name!r} was recorded by another version, whose settings this one can't read: {error}"
        ) from error


def _ways_out(name: str) -> str:
    return f"Take the change back, or give the study another name (`name:` in the file, or --set name={name}-2)."


def recorded_runs(recorder: Recorder, display: Display) -> list[RecordedRun]:
    """The runs that MLflow holds. One that still counts as running was left by a driver that died: interrupted."""
    interrupted, runs = recorder.put_right()
    for run in interrupted:
        display.say(f"{run.name} was left unfinished by a driver that is gone: marked interrupted")
    return runs


def past_trials(config: StudyConfig, recorder: Recorder, runs: Iterable[RecordedRun]) -> list[PastTrial]:
    """The trials among the study's runs, each as it was recorded last."""
    rule = config.objective.rule
    latest: dict[tuple[str, int], PastTrial] = {}
    for run in runs:
        if run.kind != "trial":
            continue
        past = past_trial(run, rule)
        if past.done and config.pruner != "none":
            past = replace(past, reported=_scores(recorder, run, rule))
        key = (past.architecture, past.number)
        if key not in latest or not latest[key].done:
            latest[key] = past
    return list(latest.values())


def _scores(recorder: Recorder, run: RecordedRun, rule: Rule) -> dict[int, float]:
    """What a pruner was told of the trial, epoch by epoch."""
    names = {rule.metric, *([Metric.GAP_ACCURACY] if rule.maximum_gap is not None else [])}
    ask, history = recorder.outbox.delivery.ask, recorder.tracker.metric_history
    histories = {name: ask(functools.partial(history, run.run_id, name)) for name in names}
    needed = Rule(rule.metric, rule.maximum_gap)
    epochs = set.intersection(*(set(history) for history in histories.values()))
    return {epoch: needed.score({name: of[epoch] for name, of in histories.items()}) for epoch in sorted(epochs)}


def past_trial(run: RecordedRun, rule: Rule) -> PastTrial:
    """A recorded trial as a strategy takes it, without what it reported."""
    metrics = best_metrics(run)
    return PastTrial(
        architecture=run.architecture,
        number=run.number,
        levels=run.levels,
        state=run.state,
        done=run.done,
        value=metrics.get(rule.metric),
        beyond=rule.beyond(metrics, run.verdict) if metrics else {},
    )
