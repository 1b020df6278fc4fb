"""What a call of run-study finds when it starts: a changed file, other images, trials that are recorded already."""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from cnnstudy.config.load import SHIPPED, Study
from cnnstudy.config.schema import StudyConfig
from cnnstudy.errors import StudyChangedError
from cnnstudy.names import Metric, Tag
from cnnstudy.records import PreparedImages, Rule
from cnnstudy.search.strategy import PastTrial
from cnnstudy.study.recorder import Recorder
from cnnstudy.study.recovery import tidy_machine
from cnnstudy.system.code_version import Code, code_differences, code_version, training_code
from cnnstudy.system.display import Display
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import SetTags
from cnnstudy.tracking.recorded import (
    RecordedRun,
    RecordedStudy,
    best_metrics,
    config_differences,
    join_tags,
    split_into_tags,
)


def run_command(study: Study) -> dict[str, str]:
    """The tags of a run-study."""
    overrides = [word for override in study.overrides for word in ("--set", override)]
    command = _command("run-study", _file(study), *overrides)
    return {Tag.RUN_COMMAND: command, Tag.LAST_COMMAND: command}


def confirm_command(name: str, options: Mapping[str, int], again: bool) -> dict[str, str]:
    """The tags of a confirm of the study of that name.

    Args:
        options: those that were given.
        again: with --open-test-again.
    """
    given = [word for option, value in options.items() for word in (f"--{option.replace('_', '-')}", str(value))]
    return {Tag.LAST_COMMAND: _command("confirm", name, *given, *(["--open-test-again"] if again else []))}


def resume_command(own: RecordedRun) -> str:
    """How to go on with what was stopped, from the study's own run."""
    return _said(own.last_command or own.run_command)


def missing_trials_command(own: RecordedRun) -> str:
    """How to run the trials that are missing, from the study's own run."""
    return _said(own.run_command)


def _said(command: str) -> str:
    return f"`{command}` goes on" if command else "the command that ran it goes on"


def _file(study: Study) -> str:
    """Its name where it comes with cnnstudy, which is known everywhere; else where it lies."""
    path = study.path.absolute()
    shipped = path.suffix == ".yaml" and path.resolve().parent == SHIPPED.resolve()
    return path.stem if shipped else str(path)


def _command(*words: str) -> str:
    return shlex.join(["python", "-m", "cnnstudy", *words])


#: Of differences, so many are told; and of versions that a study had so many are kept.
_MOST_TOLD, _MOST_VERSIONS = 30, 20


def refuse_other_code(
    recorder: Recorder, runs: Sequence[RecordedRun], networks: Iterable[str], accepted: bool, display: Display
) -> None:
    """Record the code that trains, unless the study's trials are from it already.

    Args:
        runs: of the study.
        networks: of the study.
        accepted: it may be another one; the study's run has the versions of both from then on.

    Raises:
        StudyChangedError: trials are recorded that are from other code, and that is not accepted.
    """
    study, now, version = recorder.study, training_code(networks), code_version()
    tags = recorder.outbox.delivery.ask(lambda: recorder.tracker.tags(study.run_id))
    has_trials = any(run.kind == "trial" for run in runs)
    new = split_into_tags(Tag.CODE, {"version": version, **now.to_json()})
    if f"{Tag.CODE}.0" in tags and has_trials:
        held = join_tags(Tag.CODE, tags)
        then = Code.from_json(held)
        comparable, changes = then.form == now.form, code_differences(then, now)
        if comparable and not changes:
            return
        told = _listed(changes)
        if not accepted:
            raise StudyChangedError(_refusal(study, told, held["version"], then, version, comparable))
        if comparable:
            warning = f"trials of study {study.name!r} are from more than one code from here on:\n{told}"
        else:
            warning = (
                f"trials of study {study.name!r} may be from more than one code from here on: "
                f"{_not_comparable(held['version'], version)}{told and _SINCE}{told}"
            )
        display.say(f"WARNING: {warning}")
        before = json.loads(tags.get(Tag.CODE_VERSIONS, "[]")) or [held["version"]]
        new[Tag.CODE_VERSIONS] = json.dumps([*before, version][-_MOST_VERSIONS:])
    recorder.outbox.write(study.run_id, SetTags(new))


def _refusal(study: RecordedStudy, told: str, version: str, then: Code, now: str, comparable: bool) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in then.versions.items())
    commit = re.search(r"\+g([0-9a-f]+)$", version)
    checkout = f" (`git checkout {commit[1]}`)" if commit and version != now else ""
    ways_out = (
        f"Go back to that code{checkout}, which ran with {packages}; "
        f"give the study another name (`name:` in the file, or --set name={study.name}-2); or, where you know that "
    )
    if comparable:
        return (
            f"study {study.name!r} has trials recorded that other code has trained (cnnstudy {version}; now it is "
            f"{now}):\n{told}\nTrials of both may not be comparable. {ways_out}"
            "the change makes no difference to them, go on all the same with --accept-code."
        )
    return (
        f"study {study.name!r} has trials recorded that may be of other code: {_not_comparable(version, now)}"
        f"{told and _SINCE}{told}\n{ways_out}no change since then makes a difference to them, go on with "
        "--accept-code; from then on the code is recorded in the way of this version."
    )


#: Before the versions of packages that changed.
_SINCE = " These packages have changed:\n"


def _not_comparable(version: str, now: str) -> str:
    return (
        f"cnnstudy {version} recorded the training code in another way than this version ({now}) does, "
        "so unchanged code can't be told from changed code."
    )


def _listed(changes: Sequence[str]) -> str:
    more = [f"and {len(changes) - _MOST_TOLD} more"] if len(changes) > _MOST_TOLD else []
    return "\n".join(f"  {change}" for change in [*changes[:_MOST_TOLD], *more])


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
        for key, old, new in config_differences(recorded.config, given)
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
