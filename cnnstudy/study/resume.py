"""Resume a study: compare the command at hand with what is recorded, and read the trials that are done.

Settings, training code and images must be those of the recorded trials: `refuse_changes`, `refuse_other_code` and
`refuse_other_images` raise StudyChangedError otherwise. Commands are recorded too, so that a stopped study can say how
to resume it.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError

from cnnstudy.config.find import SHIPPED_STUDIES
from cnnstudy.config.load import Study, explain_problem, is_path_key
from cnnstudy.config.schema import StudyConfig
from cnnstudy.data.datasets import DataOptions
from cnnstudy.errors import StudyChangedError, TrackingError, without_secrets
from cnnstudy.names import Metric, Tag
from cnnstudy.records import PreparedImages, Rule, read_probe
from cnnstudy.search.strategy import PastTrial
from cnnstudy.study.objective import keep_recorded_metric
from cnnstudy.study.recorder import Recorder, TrialRecorder
from cnnstudy.study.recovery import tidy_machine
from cnnstudy.system.code_version import Code, code_differences, code_version, training_code
from cnnstudy.system.display import Display
from cnnstudy.system.scratch import describe_unusable_tmpdir
from cnnstudy.system.validation import KeyPath
from cnnstudy.tracking.client import tracking_uri
from cnnstudy.tracking.operations import SetTags
from cnnstudy.tracking.recorded import (
    RETRY_ASKED,
    RecordedRun,
    RecordedStudy,
    best_metrics,
    config_differences,
    describe_damaged_tag,
    join_tags,
    split_into_tags,
)
from cnnstudy.tracking.sqlite import sqlite_file

#: Keys that may change when a study is resumed: how much to run, and whatever does not affect the recorded trials.
#: Paths and layouts may change too: images, with their classes and parts, and weights are compared by their content.
_HARMLESS_KEYS = (
    *("budget", "budget.*", "strategy.seeds", "strategy.precision", "confirm", "confirm.*", "objective.goals"),
    *("training.timeout", "training.equal_failures"),
    *("training.checkpoints", "training.share_epochs", "training.keep_models"),
    *("data.path", "weights.*.file", "weights.*.data.path"),
    *("data.layout", "weights.*.data.layout"),
    *("execution", "execution.*"),
)
#: What trials did before these keys existed and were recorded.
_EARLIER_VALUES = {"training.precision": "float32", "training.xla": "auto", "weights.*.draws": "one"}
#: The most code differences to list, and the most code versions of a study to keep on record.
_MOST_LISTED, _MOST_VERSIONS = 30, 20


def clean_machine(display: Display) -> None:
    """Clean up what killed processes, of any study, left on this machine; say where temporary files go instead."""
    if text := describe_unusable_tmpdir():
        display.show_message(text)
    for decision in tidy_machine():
        display.show_message(str(decision))


def recorded_config(study: RecordedStudy) -> StudyConfig:
    """Return the settings that a study was recorded with.

    Raises:
        StudyChangedError: its images or a weights file have moved, or another version of cnnstudy recorded settings
            that this one can't read.
    """
    try:
        return _keep_draws(StudyConfig.model_validate(study.config), study)
    except ValidationError as error:
        problems = list(map(explain_problem, error.errors()))
        listed = "\n".join(f"  {'.'.join(map(str, key))}: {text}" for key, text in problems)
        if all(is_path_key(key) or _is_own_network(key, study.config) for key, _ in problems):
            text = (
                f"what study {study.name!r} was run with is no longer in its place:\n{listed}\nMove it back, or write "
                "the present place into the study file and give it to `run-study` once, which records the place and "
                "repeats no trial that is recorded; then give this command again."
            )
        else:
            text = (
                f"study {study.name!r} was recorded by another version of cnnstudy; this one can't use its settings:\n"
                f"{listed}\nUse that version, or run the study anew under another name."
            )
        raise StudyChangedError(text) from error


def _is_own_network(key: KeyPath, config: Mapping[str, Any]) -> bool:
    return len(key) == 2 and key[0] == "architectures" and str(config[key[0]][key[1]]).startswith("file:")


def keep_recorded_settings(
    config: StudyConfig, recorded: RecordedStudy, runs: Callable[[], Iterable[RecordedRun]]
) -> tuple[StudyConfig, str]:
    """Return the settings with what recorded trials have where the file says nothing, and a sentence if that matters.

    That is the metric, what is done with copies of images, and whether all seeds share their pretrained weights.
    """
    runs = functools.cache(runs)
    config = keep_recorded_copies(keep_recorded_metric(config, recorded, runs), recorded)
    kept = _keep_draws(config, recorded)
    if kept == config or not any(run.kind == "trial" for run in runs()):
        return config, ""
    return kept, (
        f"the recorded trials of study {recorded.name!r} start from one draw of pretrained weights, whatever their "
        "seed, and so will the others; in a study of another name each seed pretrains its own"
    )


def _keep_draws(config: StudyConfig, recorded: RecordedStudy) -> StudyConfig:
    """Return the settings with the recorded `draws` where the file gives none; before there was a choice it was one."""
    before = recorded.config.get("weights") or {}
    weights = {
        name: given.model_copy(update={"draws": before[name].get("draws") or "one"})
        if given.source == "pretrain" and name in before and "draws" not in given.model_fields_set
        else given
        for name, given in config.weights.items()
    }
    return config.model_copy(update={"weights": weights})


def keep_recorded_copies(config: StudyConfig, recorded: RecordedStudy) -> StudyConfig:
    """Return the settings with `copies` of each data set as recorded, where the study file does not name it."""

    def keep(options: DataOptions, kept: Mapping[str, Any] | None) -> DataOptions:
        if not kept or "copies" in options.model_fields_set or kept.get("name") != options.name:
            return options
        return options.model_copy(update={"copies": kept.get("copies", "ignore")})

    if not recorded.config:
        return config
    weights = {
        name: source.model_copy(
            update={"data": keep(source.data, recorded.config.get("weights", {}).get(name, {}).get("data"))}
        )
        if source.data is not None
        else source
        for name, source in config.weights.items()
    }
    return config.model_copy(update={"data": keep(config.data, recorded.config.get("data")), "weights": weights})


def settle_settings(
    study: Study, recorded: RecordedStudy, runs: Callable[[], Iterable[RecordedRun]], display: Display
) -> Study:
    """Return the study with the settings that its trials will have; a run and a dry run begin with it.

    Args:
        runs: returns the runs of the study.

    Raises:
        StudyChangedError: trials are recorded with settings that differ in a key that matters.
    """
    kept, text = keep_recorded_settings(study.config, recorded, runs)
    if text:
        display.show_message(text)
    study = replace(study, config=kept)
    _refuse_changes(recorded, runs, study)
    return study


def _refuse_changes(recorded: RecordedStudy, runs: Callable[[], Iterable[RecordedRun]], study: Study) -> None:
    now = study.config.model_dump(mode="json")
    # how often the 5 % are looked at is planned for the most seeds: adding some after a look would be one look more
    planned = any(config["strategy"].get("least_seeds") for config in (recorded.config, now) if config)
    changes = [
        f"  {key}: {json.dumps(old)} -> {json.dumps(new)}"
        for key, old, new in config_differences(recorded.config, now)
        if ((planned and key == "strategy.seeds") or not any(fnmatchcase(key, harmless) for harmless in _HARMLESS_KEYS))
        and (old, new) not in [(None, value) for name, value in _EARLIER_VALUES.items() if fnmatchcase(key, name)]
    ]
    if changes and any(run.kind == "trial" for run in runs()):
        raise StudyChangedError(
            f"{study.path}: study {study.config.name!r} has trials recorded with other settings:\n"
            + "\n".join(changes)
            + f"\nOld and new trials would not be comparable. {_undo_or_rename(study.config.name)}"
        )


def refuse_other_images(study: str, runs: Iterable[RecordedRun], images: PreparedImages) -> None:
    """Raise StudyChangedError if trials of the study are recorded that used other images or another split."""
    others = {run.data_digest for run in runs if run.kind == "trial"} - {images.digest}
    if others:
        raise StudyChangedError(
            f"the images of {images.name} differ from those of the recorded trials of study {study!r} (digest "
            f"{images.digest} instead of {', '.join(sorted(others))}): files were added, removed or changed. "
            f"Old and new trials would not be comparable. {_undo_or_rename(study)}"
        )


def _undo_or_rename(name: str) -> str:
    return f"Undo the change, or give the study another name (`name:` in the file, or --set name={name}-2)."


def refuse_other_code(
    recorder: TrialRecorder, runs: Sequence[RecordedRun], config: StudyConfig, accepted: bool, display: Display
) -> None:
    """Record the training code of the study's trials, unless it is recorded already.

    Args:
        runs: of the study.
        config: of the study.
        accepted: other code is allowed; the study's run then lists the versions of both.

    Raises:
        StudyChangedError: other code trained the recorded trials, and that is not accepted.
        TrackingError: the record of their code is damaged.
    """
    modes = [mode for name in config.architectures for mode in config.transfer_modes_of(name)]
    now = training_code(config.architectures, fits_heads=any(map(read_probe, modes)))
    study, version = recorder.study, code_version()
    tags = recorder.study_tags()
    has_trials = any(run.kind == "trial" for run in runs)
    new = split_into_tags(Tag.CODE, {"version": version, **now.to_json()})
    if f"{Tag.CODE}.0" in tags and has_trials:
        try:
            recorded = join_tags(Tag.CODE, tags)
            then, old_version = Code.from_json(recorded), recorded["version"]
        except (KeyError, TypeError, ValueError) as error:
            raise TrackingError(describe_damaged_tag(study.run_id, study.name, f"{Tag.CODE}.0", tags)) from error
        comparable, changes = then.form == now.form, code_differences(then, now)
        if comparable and not changes:
            return
        listed = _list_changes(changes)
        if not accepted:
            raise StudyChangedError(_code_refusal(study, listed, old_version, then, version, comparable))
        display.show_message(f"WARNING: {_mixed_code_warning(study, listed, old_version, version, comparable)}")
        before = json.loads(tags.get(Tag.CODE_VERSIONS, "[]")) or [old_version]
        new[Tag.CODE_VERSIONS] = json.dumps([*before, version][-_MOST_VERSIONS:])
    elif has_trials:
        display.show_message(
            f"WARNING: the code that trained the recorded trials of study {study.name!r} is not on record, so whether "
            "it has changed can't be checked"
        )
    recorder.tag_study(new)


def _list_changes(changes: Sequence[str]) -> str:
    more = [f"and {len(changes) - _MOST_LISTED} more"] if len(changes) > _MOST_LISTED else []
    return "\n".join(f"  {change}" for change in [*changes[:_MOST_LISTED], *more])


def _mixed_code_warning(study: RecordedStudy, changes: str, version: str, now: str, comparable: bool) -> str:
    if comparable:
        return f"trials of study {study.name!r} are from more than one version of the training code now:\n{changes}"
    return (
        f"trials of study {study.name!r} may be from more than one version of the training code now: "
        f"{_not_comparable(version, now, changes)}"
    )


def _code_refusal(study: RecordedStudy, changes: str, version: str, then: Code, now: str, comparable: bool) -> str:
    """Say what changed in the training code since it was recorded, and what to do.

    Args:
        changes: one a line, or "".
        version: of cnnstudy, when the code was recorded.
        then: the recorded code.
        now: the version of cnnstudy now.
        comparable: the recorded code has the form that this version can compare.
    """
    packages = ", ".join(f"{name} {number}" for name, number in then.versions.items())
    commit = re.search(r"\+g([0-9a-f]+)$", version)
    checkout = f" (`git checkout {commit[1]}`)" if commit and version != now else ""
    ways_out = (
        f"Go back to that code{checkout}, which ran with {packages}; "
        f"or give the study another name (`name:` in the file, or --set name={study.name}-2); or, if you know that "
    )
    if comparable:
        return (
            f"study {study.name!r} has trials recorded that were trained by other code (cnnstudy {version}; now it is "
            f"{now}):\n{changes}\nOld and new trials may not be comparable. {ways_out}"
            "the change does not affect the trials, resume with --accept-code."
        )
    return (
        f"study {study.name!r} has trials recorded that may have been trained by other code: "
        f"{_not_comparable(version, now, changes)}\n{ways_out}no change since then affects the trials, resume with "
        "--accept-code; the code is then recorded in the form of this version."
    )


def _not_comparable(version: str, now: str, changes: str) -> str:
    since = f" These packages have changed:\n{changes}" if changes else ""
    return (
        f"cnnstudy {version} recorded the training code in another form than this version ({now}) does, "
        f"so it can't be compared.{since}"
    )


def recover_runs(recorder: Recorder, display: Display) -> list[RecordedRun]:
    """Return the study's runs in MLflow, after marking those left unfinished by an earlier driver as interrupted."""
    interrupted, runs = recorder.recover_interrupted()
    for run in interrupted:
        display.show_message(f"{run.name} was left unfinished by a driver that no longer exists: marked interrupted")
    return runs


def warn_of_new_record(recorded: RecordedStudy, runs: Iterable[RecordedRun], display: Display) -> None:
    """Tell the user that the study had trials but no own run, so that a new one was made: `mlflow gc` removed it."""
    if not recorded.begun and any(run.kind == "trial" for run in runs):
        display.show_message(
            f"WARNING: the own run of study {recorded.name!r} was not in MLflow any more, and a new one is made from "
            "the study file. Whether the recorded trials had the same settings, and whether the test split was opened, "
            "can't be told"
        )


def retry_failed(recorder: Recorder, runs: Iterable[RecordedRun], display: Display) -> list[RecordedRun]:
    """Return the study's runs, with those of trials that failed marked as retried, so that these trials run again.

    Trials whose loss diverged stay as they are: that is their result.
    """
    again = []
    for run in runs:
        if run.kind == "trial" and run.state == "failed" and run.done and run.reason != "diverged":
            recorder.outbox.write(run.run_id, SetTags(RETRY_ASKED))
            display.show_message(f"{run.trial}  failed earlier ({run.reason}), and runs again")
            run = run.ask_for_retry()
        again.append(run)
    return again


def past_trials(config: StudyConfig, recorder: Recorder, runs: Iterable[RecordedRun]) -> list[PastTrial]:
    """Return the trials among the study's runs; of repeated ones the first that is done, else the latest."""
    rule = config.objective.rule
    latest: dict[tuple[str, int], PastTrial] = {}
    for run in runs:
        if run.kind != "trial":
            continue
        past = past_trial(run, rule)
        if past.done and config.pruner != "none":
            past = replace(past, reported=_epoch_scores(recorder, run, rule))
        key = (past.architecture, past.number)
        if key not in latest or not latest[key].done:
            latest[key] = past
    return list(latest.values())


def past_trial(run: RecordedRun, rule: Rule) -> PastTrial:
    """Return a recorded trial in the form that strategies take, without its scores by epoch."""
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


def _epoch_scores(recorder: Recorder, run: RecordedRun, rule: Rule) -> dict[int, float]:
    """Return the trial's score after each epoch, as the pruner saw it."""
    names = {rule.metric, *([Metric.GAP_ACCURACY] if rule.maximum_gap is not None else [])}
    read, history = recorder.outbox.delivery.read, recorder.tracker.metric_history
    histories = {name: read(functools.partial(history, run.run_id, name)) for name in names}
    pruning_rule = Rule(rule.metric, rule.maximum_gap)
    epochs = set.intersection(*(set(values) for values in histories.values())) - {0}
    return {
        epoch: pruning_rule.score({name: values[epoch] for name, values in histories.items()})
        for epoch in sorted(epochs)
    }


def run_command(study: Study) -> dict[str, str]:
    """Return the tags that record a run-study command."""
    overrides = [word for override in study.overrides for word in ("--set", override)]
    command = _shell_command("run-study", _name_or_path(study), *overrides)
    return {Tag.RUN_COMMAND: command, Tag.LAST_COMMAND: command}


def confirm_command(name: str, options: Mapping[str, int], again: bool) -> dict[str, str]:
    """Return the tags that record a confirm command.

    Args:
        name: of the study.
        options: those given.
        again: with --open-test-again.
    """
    given = [word for option, value in options.items() for word in (f"--{option.replace('_', '-')}", str(value))]
    return {Tag.LAST_COMMAND: _shell_command("confirm", name, *given, *(["--open-test-again"] if again else []))}


def resume_command(own: RecordedRun, uri: str | None = None) -> str:
    """Say how to resume a stopped study.

    Args:
        own: the study's own run.
        uri: where it was read from; None: where commands look without --tracking-uri.
    """
    return _describe_command(own.last_command or own.run_command, uri)


def retry_command(own: RecordedRun, uri: str | None = None) -> str:
    """Return the command that runs a study's failed trials again; the arguments are those of `resume_command`."""
    return _with_place(f"{own.run_command or 'python -m cnnstudy run-study FILE'} --retry-failed", uri)


def missing_trials_command(own: RecordedRun, uri: str | None = None) -> str:
    """Say how to run a study's missing trials; the arguments are those of `resume_command`."""
    return _describe_command(own.run_command, uri)


def _describe_command(command: str, uri: str | None) -> str:
    if not command:
        return "the command that ran it resumes it"
    return f"`{_with_place(command, uri)}` resumes it"


def _with_place(command: str, uri: str | None) -> str:
    """Return a command with --tracking-uri where it is needed."""
    default = tracking_uri(None)
    elsewhere = uri is not None and (sqlite_file(uri) or uri) != (sqlite_file(default) or default)
    return f"{command} {shlex.join(['--tracking-uri', without_secrets(str(uri))])}" if elsewhere else command


def _name_or_path(study: Study) -> str:
    """Return the name of a study that is shipped with cnnstudy, which is valid in every folder; otherwise the path."""
    path = study.path.absolute()
    shipped = path.suffix == ".yaml" and path.resolve().parent == SHIPPED_STUDIES.resolve()
    return path.stem if shipped else str(path)


def _shell_command(*words: str) -> str:
    return shlex.join(["python", "-m", "cnnstudy", *words])
