"""What a study takes, told before it starts: trials, time, disk and memory.

The time comes from a measurement: of finished trials, where the record has some of a network and transfer mode, else of
a few updates in a worker.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cnnstudy.designs import varies
from cnnstudy.display import Display, duration, size
from cnnstudy.execution import Executor, Failed, Job
from cnnstudy.jobs import watch
from cnnstudy.names import Metric
from cnnstudy.records import RecordedRun, Speed, TrialSpec
from cnnstudy.schema import StudyConfig
from cnnstudy.space import FACTORS
from cnnstudy.strategies import Factorial
from cnnstudy.training.batches import updates_in, used_of

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


def tell_size(config: StudyConfig, remaining: int, display: Display) -> None:
    """The number of trials, and the levels of the factors that vary."""
    factorial, names, total = config.strategy, config.architectures, config.total_trials
    assert isinstance(factorial, Factorial)
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
    varied = {FACTORS[factor]: levels for factor, levels in factors.items() if varies(levels)}
    return "; ".join(f"{factor.label} {factor.write_levels(levels)}" for factor, levels in varied.items())


def tell_cost(
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
            seconds = seconds_once(measured, min(executor.slots, len(alike)))
            cost = _cost(alike, seconds + sum(seconds_of(spec, measured) for spec in alike), measured.parameters)
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
    return seconds_together(
        sum(cost.seconds for cost in costs.values()), sum(len(by_kind[kind]) for kind in costs), slots
    )


def seconds_together(of_workers: float, trials: int, slots: int) -> float:
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
    workers = f" a worker, {size(slots * memory)} with {slots}" if slots > 1 else ""
    display.say(
        f"  about {duration(_seconds_of_all(costs, by_kind, slots))}{without} "
        f"(measured: {', '.join(each)}), about {size(sum(cost.bytes for cost in costs.values()))} of disk"
        + (" for models" if models else "")
        + (f", {size(features)} in the cache for features" if features else "")
        + (f", up to {size(memory)} of memory{workers}" if memory else "")
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
    outcome = watch(executor, Job(f"speed-{name.replace(' ', '-')}", "measure_speed", payload), display)
    return outcome if isinstance(outcome, Failed) else Speed.from_json(outcome.result)


def seconds_of(spec: TrialSpec, speed: Speed) -> float:
    """How long a trial takes at that speed, from its updates and the images that it evaluates.

    It evaluates probe and validation after each epoch, and at its end those and all training images twice: with the
    last weights and with the best.
    """
    used = [used_of(images, float(spec.levels["data_fraction"])) for images in spec.images.train]
    probe = sum(map(min, used, spec.images.validation))
    two_phase = len(speed.seconds_per_update) > 1
    epochs = (spec.head_epochs, spec.epochs - spec.head_epochs) if two_phase else (spec.epochs,)
    size, protocol = int(spec.levels["batch_size"]), str(spec.levels["protocol"])
    updates = [updates_in(sum(used), size, of_phase, protocol) for of_phase in epochs]
    share = 1.0 if spec.updates is None else min(1.0, spec.updates / sum(updates))
    training = sum(
        number * _at(size, speed.batch_sizes, seconds)
        for number, seconds in zip(updates, speed.seconds_per_update, strict=True)
    )
    evaluated = (spec.epochs + 2) * (probe + sum(spec.images.validation)) + 2 * sum(used)
    return speed.setup_seconds + share * training + evaluated * speed.seconds_per_evaluated_image


def seconds_once(speed: Speed, workers: int) -> float:
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
            f"  WARNING: {size(needed)} will not fit into the {size(free)} that are free in {there}; make room there, "
            "or write `keep_models: false` under `training`"
        )


def local_folder(address: str) -> Path | None:
    """The folder that an artifact location names; None where it is elsewhere."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path)).absolute()
    return None if len(parts.scheme) > 1 else Path(address).absolute()  # one letter is a drive


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)
