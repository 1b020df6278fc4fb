"""What a study would take, from a measurement; nothing is trained to the end, and nothing is recorded."""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cnnstudy.config import schema
from cnnstudy.config.designs import has_several_levels
from cnnstudy.config.factors import FACTORS
from cnnstudy.config.load import Study
from cnnstudy.config.schema import FactorialConfig, StudyConfig
from cnnstudy.data.batches import count_updates, count_used
from cnnstudy.errors import UnknownNameError
from cnnstudy.execution import Executor, Failed, Job, Workers
from cnnstudy.execution.jobs import run_watched
from cnnstudy.names import Metric, Tag
from cnnstudy.records import Speed, TrialSpec
from cnnstudy.search.factorial import FactorialStrategy
from cnnstudy.search.optuna_search import OptunaSearch
from cnnstudy.search.strategy import PastTrial, Proposal, Strategy
from cnnstudy.study.driver import at_work
from cnnstudy.study.preparation import Preparation, SourceWeights
from cnnstudy.study.recorder import Recorder, Unrecorded
from cnnstudy.study.resources import trial_spec
from cnnstudy.study.resume import past_trial
from cnnstudy.system.cache import ABOUT, build_entry, content_address, entry_folder
from cnnstudy.system.display import Display, format_duration, format_size
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import SetTags
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy

KIND = "forecasts"
_FILE = "seconds.json"


def save_forecast(config: StudyConfig, trials: int, workers: int, seconds: float) -> None:
    """Of so many trials that are to run yet, by so many workers; in place of an earlier one, if the cache takes it."""
    address = _address(config, trials, workers)

    def write(folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps(seconds), encoding="utf-8")
        about = f"{trials} trials of study {config.name}: {format_duration(seconds)} foretold"
        (folder / ABOUT).write_text(about, encoding="utf-8")

    with contextlib.suppress(OSError):
        shutil.rmtree(entry_folder(KIND, address), ignore_errors=True)
        build_entry(KIND, address, write)


def take_forecast(config: StudyConfig, trials: int, workers: int) -> float | None:
    """Seconds that were foretold of just these trials, for the last time; None where nobody asked."""
    folder = entry_folder(KIND, _address(config, trials, workers))
    try:
        seconds = json.loads((folder / _FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    shutil.rmtree(folder, ignore_errors=True)
    return float(seconds) if isinstance(seconds, int | float) else None


def compare_forecast(foretold: float, taken: float, recorder: Recorder, display: Display) -> None:
    """Tell and record both, in seconds."""
    tags = {Tag.SECONDS_FORETOLD: f"{foretold:.1f}", Tag.SECONDS_TAKEN: f"{taken:.1f}"}
    recorder.outbox.write(recorder.study.run_id, SetTags(tags))
    off = 100 * (taken / foretold - 1) if foretold else 0.0
    display.say(
        f"the trials took {format_duration(taken)}; the estimate was {format_duration(foretold)} ({off:+.0f} %)"
    )


def _address(config: StudyConfig, trials: int, workers: int) -> str:
    return content_address([config.model_dump(mode="json"), trials, workers])


#: Bytes of a weight, and of a trial's pictures and tables.
BYTES_PER_PARAMETER, BYTES_PER_TRIAL = 4, 200_000
#: What no trial's own seconds have: its worker saves the model, and the driver draws its pictures and records it all
#: (measured on two cores with a model of 20 MB).
SECONDS_TO_SAVE, SECONDS_TO_RECORD = 0.3, 0.5
#: Network, transfer mode and augmentation, which decides whether features can be kept: what is measured once.
Kind = tuple[str, str, str]


@dataclass(frozen=True)
class Cost:
    """What the trials of one kind take that are still to run."""

    seconds: float  # of workers, all together
    bytes: int  # of models, pictures and tables
    features_bytes: int = 0  # in the cache


def describe_size(config: StudyConfig, remaining: int, display: Display) -> None:
    """The number of trials, and the levels of the factors that vary."""
    factorial, names, total = config.strategy, config.architectures, config.total_trials
    assert isinstance(factorial, FactorialConfig)
    cells = [_cells(config, name) for name in names]
    networks = f"{len(names)} network{'s' if len(names) > 1 else ''}"
    shown = f"{networks} x {cells[0]} cells" if len(set(cells)) == 1 else f"{networks}, {' + '.join(cells)} cells"
    display.say(
        f"factorial: {shown} x {factorial.seeds} seed{'s' if factorial.seeds > 1 else ''} = {total} trials "
        f"({total - remaining} recorded, {remaining} to run)"
    )
    lines = {name: _varied(config, name) for name in names}
    if len(set(lines.values())) == 1:
        lines = {"": lines[names[0]]}
    for name, line in lines.items():
        if line:
            display.say(f"  {name}{': ' if name else ''}{line}")


def _cells(config: StudyConfig, name: str) -> str:
    cells, whole = config.cells_of(name), config.combinations_of(name)
    return f"{cells} of {whole}" if cells < whole < float("inf") else str(cells)


def _varied(config: StudyConfig, name: str) -> str:
    """`batch size 8, 32; dropout 0 to 0.5`."""
    active = config.active_factors_of(name)
    factors = {factor: levels for factor, levels in config.factors_of(name).items() if factor in active}
    varied = {FACTORS[factor]: levels for factor, levels in factors.items() if has_several_levels(levels)}
    return "; ".join(f"{factor.label} {factor.write_levels(levels)}" for factor, levels in varied.items())


def describe_cost(
    specs: Sequence[TrialSpec], recorded: Sequence[RecordedRun], artifacts: str, executor: Executor, display: Display
) -> float | None:
    """How long the trials will take and how much disk and memory; a warning where there is not enough.

    Nothing is measured where nobody would read it, and a measurement that fails does not end the study: the trial that
    fails in the same way tells of it.

    Args:
        recorded: the study's runs.
        artifacts: where its models go; "": not known.

    Returns:
        Seconds of all trials, on as many workers as there are; None where it could not be told of all, or there are
        none.
    """
    if display.silent:
        return None
    runs = [run for run in recorded if run.state == "finished"]
    by_kind: dict[Kind, list[TrialSpec]] = {}
    for spec in specs:
        by_kind.setdefault(_kind(spec.architecture, spec.levels), []).append(spec)
    names = _names(by_kind)
    costs: dict[Kind, Cost] = {}
    memory = 0
    for kind, alike in sorted(by_kind.items()):
        cost = _cost_by_record(kind, alike, runs)
        if cost is None:
            measured = _measured(names[kind], alike, executor, display)
            if isinstance(measured, Failed):
                why = measured.message.split("\n")[0]
                display.say(f"  {names[kind]}: its speed can't be measured ({measured.reason}): {why}")
                continue
            memory = max(memory, measured.peak_bytes)
            seconds = setup_seconds(measured, min(executor.slots, len(alike)))
            cost = _cost(alike, seconds + sum(trial_seconds(spec, measured) for spec in alike), measured.parameters)
            cost = replace(cost, features_bytes=measured.features_bytes)
        costs[kind] = cost
    if costs:
        _tell(costs, by_kind, names, executor.slots, memory, display)
        if artifacts:
            _warn_of_a_full_disk(costs, artifacts, display)
    told = len(costs) == len(by_kind)
    return _seconds_of_all(costs, by_kind, executor.slots) if told and costs else None


def _kind(architecture: str, levels: Mapping[str, Any]) -> Kind:
    return architecture, str(levels["transfer"]), str(levels.get("augmentation", "none"))


def _names(kinds: Iterable[Kind]) -> dict[Kind, str]:
    """Each in words; the augmentation only where it varies."""
    augmentations = {augmentation for *_, augmentation in kinds}
    return {kind: " ".join(kind if len(augmentations) > 1 else kind[:2]) for kind in kinds}


def _seconds_of_all(costs: dict[Kind, Cost], by_kind: dict[Kind, list[TrialSpec]], slots: int) -> float:
    return combined_seconds(
        sum(cost.seconds for cost in costs.values()), sum(len(by_kind[kind]) for kind in costs), slots
    )


def combined_seconds(of_workers: float, trials: int, slots: int) -> float:
    """How long so many trials take from the first one's start until the last is recorded.

    The workers share the trials. The driver records them one after the other, while the workers go on with the next.
    So either the workers are what all waits for, and the last trial is recorded when they are done; or the driver is,
    which records one trial after the other from the end of the first one on.

    Args:
        of_workers: seconds that the trials keep workers busy, all together.
    """
    return max(of_workers / slots + SECONDS_TO_RECORD, of_workers / trials + trials * SECONDS_TO_RECORD)


def _tell(
    costs: dict[Kind, Cost],
    by_kind: dict[Kind, list[TrialSpec]],
    names: dict[Kind, str],
    slots: int,
    memory: int,
    display: Display,
) -> None:
    each = [f"{names[kind]} {_short(cost.seconds / len(by_kind[kind]))} a trial" for kind, cost in costs.items()]
    left_out = [names[kind] for kind in sorted(by_kind) if kind not in costs]
    without = f" without {', '.join(left_out)}" if left_out else ""
    models = any(spec.keep_model for alike in by_kind.values() for spec in alike)
    features = _bytes_of_features(costs)
    workers = f" a worker, {format_size(slots * memory)} with {slots}" if slots > 1 else ""
    display.say(
        f"  about {format_duration(_seconds_of_all(costs, by_kind, slots))}{without} "
        f"(measured: {', '.join(each)}), about {format_size(sum(cost.bytes for cost in costs.values()))} of disk"
        + (" for models" if models else "")
        + (f", {format_size(features)} in the cache for features" if features else "")
        + (f", up to {format_size(memory)} of memory{workers}" if memory else "")
    )


def _bytes_of_features(costs: Mapping[Kind, Cost]) -> int:
    """A head's phase takes those of frozen trials, and what is flipped adds to what is not."""
    largest: dict[tuple[str, str], int] = {}
    for (architecture, transfer, _), cost in costs.items():
        of = architecture, "frozen" if transfer == "two-phase" else transfer
        largest[of] = max(largest.get(of, 0), cost.features_bytes)
    return sum(largest.values())


def _cost_by_record(kind: Kind, specs: Sequence[TrialSpec], runs: Sequence[RecordedRun]) -> Cost | None:
    """From the finished trials of that kind, if there are any."""
    alike = [run for run in runs if run.kind == "trial" and _kind(run.architecture, run.parameters) == kind]
    if not alike:
        return None
    parameters = {run.metrics[Metric.TRAINABLE_PARAMETERS] + run.metrics[Metric.FROZEN_PARAMETERS] for run in alike}
    seconds = statistics.fmean(run.metrics[Metric.TOTAL_SECONDS] for run in alike)
    return _cost(specs, seconds * len(specs), int(max(parameters)))


def _measured(name: str, specs: Sequence[TrialSpec], executor: Executor, display: Display) -> Speed | Failed:
    display.count(f"measuring the speed of {name}", 0, 0)
    sizes = {int(spec.levels["batch_size"]) for spec in specs}
    payload = {"spec": specs[0].to_json(), "batch_sizes": sorted({min(sizes), max(sizes)})}
    outcome = run_watched(executor, Job(f"speed-{name.replace(' ', '-')}", "measure_speed", payload), display)
    return outcome if isinstance(outcome, Failed) else Speed.from_json(outcome.result)


def trial_seconds(spec: TrialSpec, speed: Speed) -> float:
    """How long a trial takes at that speed, from its updates and the images that it evaluates.

    It evaluates probe and validation after each epoch, and at its end those and all training images twice: with the
    last weights and with the best.
    """
    used = [count_used(images, float(spec.levels["data_fraction"])) for images in spec.images.train]
    probe = sum(map(min, used, spec.images.validation))
    two_phase = len(speed.seconds_per_update) > 1
    epochs = (spec.head_epochs, spec.epochs - spec.head_epochs) if two_phase else (spec.epochs,)
    size, protocol = int(spec.levels["batch_size"]), str(spec.levels["protocol"])
    updates = [count_updates(sum(used), size, of_phase, protocol) for of_phase in epochs]
    share = 1.0 if spec.updates is None else min(1.0, spec.updates / sum(updates))
    training = sum(
        number * _at(size, speed.batch_sizes, seconds)
        for number, seconds in zip(updates, speed.seconds_per_update, strict=True)
    )
    evaluated = (spec.epochs + 2) * (probe + sum(spec.images.validation)) + 2 * sum(used)
    return speed.setup_seconds + share * training + evaluated * speed.seconds_per_evaluated_image


def setup_seconds(speed: Speed, workers: int) -> float:
    """What comes once, whatever the number of trials: compiling in each worker, and features for all of them."""
    return workers * speed.compile_seconds + speed.extraction_seconds


def _at(size: int, sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Linear between the smallest and the largest batch size."""
    if len(sizes) == 1:
        return seconds[0]
    position = (size - sizes[0]) / (sizes[-1] - sizes[0])
    return seconds[0] + position * (seconds[-1] - seconds[0])


def _cost(specs: Sequence[TrialSpec], seconds: float, parameters: int) -> Cost:
    """Of these trials, which train for so long all together."""
    disk = sum(BYTES_PER_TRIAL + BYTES_PER_PARAMETER * parameters * spec.keep_model for spec in specs)
    return Cost(seconds + SECONDS_TO_SAVE * len(specs), disk)


def _warn_of_a_full_disk(costs: dict[Kind, Cost], artifacts: str, display: Display) -> None:
    folder = local_folder(artifacts)
    if folder is None:
        return
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free, needed = shutil.disk_usage(there).free, sum(cost.bytes for cost in costs.values())
    if needed > free:
        display.say(
            f"  WARNING: {format_size(needed)} will not fit into the {format_size(free)} that are free in {there}; "
            "make room there, or write `keep_models: false` under `training`"
        )


def local_folder(address: str) -> Path | None:
    """The folder that an artifact location names; None where it is elsewhere."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path)).absolute()
    return None if len(parts.scheme) > 1 else Path(address).absolute()  # one letter is a drive


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else format_duration(seconds)


def plan_study(study: Study, tracker: Tracker, workers: Workers, display: Display) -> None:
    """Tell how many trials are missing, and what they take: hours, memory, disk.

    Images are decoded; source weights are not learnt, for they make no difference to the time.

    Args:
        workers: closed at the end; where no trial is missing none begins.

    Raises:
        DataError, WorkerError: images that can't be used, or no worker.
        TrackingError: MLflow does not answer.
    """
    config = study.config
    recorded, runs = _recorded(tracker, config.name)
    past = [past_trial(run, config.objective.rule) for run in runs if run.kind == "trial"]
    strategy, missing = _missing(study, past)
    if isinstance(strategy, FactorialStrategy):
        describe_size(config, len(missing), display)
    else:
        display.say(f"search: {config.total_trials} trials, {len(missing)} to run")
    if not missing:
        return
    artifacts = tracker.artifacts_of(recorded.experiment_id) if recorded.experiment_id else ""
    with at_work(workers):
        executor = workers.executor
        executor.deterministic = config.training.deterministic
        preparation = Preparation(config, executor, Unrecorded(recorded), runs, display)
        images = preparation.images(config.data, config.architectures)
        weights = SourceWeights("random", None)
        specs = [trial_spec(config, proposal, images[proposal.architecture], weights) for proposal in missing]
        seconds = describe_cost(specs, runs, artifacts, executor, display)
    if seconds is not None and not past and _may_end_early(config):
        display.say("  less where trials are pruned or stop before their last epoch")
    if seconds is not None and not isinstance(strategy, FactorialStrategy):  # which is measured again when it runs
        save_forecast(config, len(missing), executor.slots, seconds)
    learning = {
        name for name in config.architectures if (found := config.weights_of(name)) and found.source == "pretrain"
    }
    if learning:
        display.say(f"  learning source weights for {', '.join(sorted(learning))} comes on top, once")
    if config.confirm is not None:
        seeds, most = config.confirm.seeds, config.confirm.seeds_where_close
        display.say(
            f"  confirming takes {config.confirm.top} x {seeds} trials more, where it is close up to {most} seeds"
        )


def _may_end_early(config: StudyConfig) -> bool:
    training = config.training
    return config.pruner != "none" or bool(training.early_stopping or training.until_train_loss)


def _recorded(tracker: Tracker, name: str) -> tuple[RecordedStudy, list[RecordedRun]]:
    """The study and its runs; of one that is not recorded yet none."""
    try:
        study = tracker.study(name)
    except UnknownNameError:
        return RecordedStudy(name, "", "", {}), []
    return study, tracker.runs(study.experiment_id)


def _missing(study: Study, past: list[PastTrial]) -> tuple[Strategy, list[Proposal]]:
    """All that the strategy would propose. What a search does not know yet it guesses, as with trials under way."""
    config = study.config
    strategy: Strategy = (
        FactorialStrategy(config, past)
        if isinstance(config.strategy, schema.FactorialConfig)
        else OptunaSearch(config, past)
    )
    return strategy, list(_proposals(strategy))


def _proposals(strategy: Strategy) -> Iterator[Proposal]:
    while (proposal := strategy.next()) is not None:
        yield proposal
