"""Estimate the time, memory and disk that missing trials take, from recorded trials or a short measurement."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnnstudy.config.designs import has_several_levels
from cnnstudy.config.factors import FACTORS
from cnnstudy.config.schema import StudyConfig
from cnnstudy.config.strategies import FactorialConfig
from cnnstudy.data.batches import count_updates, count_used_images
from cnnstudy.errors import WorkerError
from cnnstudy.execution import Executor, Failed, Job
from cnnstudy.execution.jobs import run_to_end
from cnnstudy.names import Metric
from cnnstudy.records import PROBE_FIRST, PreparedImages, Speed, TrialSpec, read_probe, split_epochs
from cnnstudy.search.factorial import FactorialStrategy, list_cells
from cnnstudy.study.preparation import SourceWeights
from cnnstudy.system.display import Display, format_duration, format_size
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.tracking.relocation import local_folder
from cnnstudy.training.verdict import LEAST_IMAGES_FOR_FIT, are_unequal

#: Bytes of one weight, and of a trial's plots and tables.
BYTES_PER_PARAMETER, BYTES_PER_TRIAL = 4, 200_000
#: Not included in a trial's own time: the worker saves the model; the driver draws plots and records the trial
#: (measured on two cores with a model of 20 MB).
SECONDS_TO_SAVE, SECONDS_TO_RECORD = 0.3, 0.5
#: Instead of source weights that are not pretrained yet: trials are as fast.
STAND_IN_WEIGHTS = SourceWeights("random", None)
#: Trials that share a measurement: network, transfer mode, augmentation (which rules out cached features).
TrialKind = tuple[str, str, str]
#: Instead of a transfer mode: source weights that are pretrained.
_PRETRAINING = "pretraining"


@dataclass(frozen=True)
class Cost:
    """What the missing trials of one kind, or pretraining, take."""

    seconds: float  # of worker time, over all trials
    bytes: int  # on disk: models, plots and tables
    cached_bytes: int = 0  # on disk: features or source weights in the cache


def report_size(config: StudyConfig, remaining: int, display: Display) -> None:
    """Report the number of trials, the levels of the factors that vary, and what the design cannot tell.

    Args:
        remaining: trials still to be run; below 0 if a search's budget was lowered.
    """
    if isinstance(config.strategy, FactorialConfig):
        _report_factorial(config, remaining, display)
    else:
        _report_search(config, remaining, display)


def _report_factorial(config: StudyConfig, remaining: int, display: Display) -> None:
    strategy, names, total = config.strategy, config.architectures, config.total_trials
    assert isinstance(strategy, FactorialConfig)
    cells = [_count_cells(config, name) for name in names]
    networks = f"{len(names)} network{'s' if len(names) > 1 else ''}"
    shown = (
        f"{networks} x {cells[0]} cell{'' if cells[0] == '1' else 's'}"
        if len(set(cells)) == 1
        else f"{networks}, {' + '.join(cells)} cells"
    )
    least = strategy.least_seeds
    seeds = f"{f'{least} to ' if least else ''}{strategy.seeds} seed{'s' if strategy.seeds > 1 else ''}"
    trials = f"{f'{total // strategy.seeds * least} to ' if least else ''}{total} trials"
    left = f"{total - remaining} recorded, {'at most ' if least else ''}{remaining} to run"
    display.show_message(f"factorial: {shown} x {seeds} = {trials} ({left})")
    _show_by_network({name: _describe_factors(config, name) for name in names}, display)
    if least is not None:
        near = "" if strategy.precision is None else f"known to within {100 * strategy.precision:.3g} points "
        display.show_message(
            f"  it stops after {least} seeds or more, as soon as each answer to its question is told, {near}or "
            "unlikely to be with all seeds; estimates are for all"
        )
    if strategy.design == "fractional" and not strategy.assume_no_interactions:
        _warn_of_mixed_effects(config, display)


def _report_search(config: StudyConfig, remaining: int, display: Display) -> None:
    """Report a search's size, and whether combinations repeat."""
    names, total = config.architectures, config.total_trials
    display.show_message(
        f"search: study {config.name}, {len(names)} network{'s' if len(names) > 1 else ''}, {total} "
        f"trial{'s' if total > 1 else ''} ({total - remaining} recorded, {max(0, remaining)} to run)"
    )
    _show_by_network({name: _describe_factors(config, name) for name in names}, display)
    shares = [(config.trials_of(name), config.combinations_of(name)) for name in names]
    repeats = sum(max(0, trials - combinations) for trials, combinations in shares)
    if repeats:
        combinations = sum(min(share) for share in shares)
        display.show_message(
            f"  at most {combinations} different combination{'s' if combinations > 1 else ''}; at least {repeats} "
            f"trial{'s repeat' if repeats > 1 else ' repeats'} an earlier one with another seed"
        )


def _warn_of_mixed_effects(config: StudyConfig, display: Display) -> None:
    """Report the main effects that a fraction cannot separate from interactions; the networks' own lines may differ."""
    from cnnstudy.analysis.estimation import describe_mixed_effects

    lines = {
        name: describe_mixed_effects(list_cells(config, name), config.factors_of(name)) for name in config.architectures
    }
    for place in range(max(map(len, lines.values()))):
        _show_by_network({name: "".join(of_network[place : place + 1]) for name, of_network in lines.items()}, display)
    if any(lines.values()):
        display.show_message(
            "  no answer is given about these effects; a smaller `fraction` separates them, "
            "`assume_no_interactions: true` says that the factors do not interact"
        )


def report_power(
    config: StudyConfig, images: Mapping[str, PreparedImages], recorded: Sequence[RecordedRun], display: Display
) -> None:
    """Report which difference in the outcome of its question a factorial can tell, for each network.

    Args:
        images: the decoded images of each network.
        recorded: the study's runs.
    """
    import pandas as pd

    from cnnstudy.analysis.looks import Looks
    from cnnstudy.analysis.power import count_answers, describe_power
    from cnnstudy.analysis.question import Question

    if display.silent:
        return
    assert isinstance(config.strategy, FactorialConfig)
    planned, tuned = FactorialStrategy(config, []).upcoming, config.strategy.tune
    planned_of, factors_of = {}, {}
    for name in config.architectures:
        rows = [
            {factor: level for factor, level in one.levels.items() if factor not in tuned} | {"seed": one.seed}
            for one in planned
            if one.architecture == name
        ]
        factors_of[name] = {factor: one for factor, one in config.factors_of(name).items() if factor not in tuned}
        planned_of[name] = pd.DataFrame(rows).drop_duplicates()
    unequal = any(are_unequal(one.train, one.validation) for one in images.values())
    question = Question(config.question.outcome, config.question.factors, unequal)
    # the networks are answers too, if all that varies is asked about
    answers = len(config.architectures) - 1 if question.factors is None else 0
    answers += sum(count_answers(planned_of[name], factors_of[name], question) for name in planned_of)
    seeds = config.strategy.seeds
    looks = Looks(seeds, seeds) if config.strategy.least_seeds is not None else None
    interactions = not config.strategy.assume_no_interactions
    sentences = {}
    for name, trials in planned_of.items():
        finished = [run for run in recorded if (run.kind, run.architecture, run.state) == ("trial", name, "finished")]
        sentences[name] = describe_power(
            trials, factors_of[name], images[name], finished, question, answers, looks, interactions
        )
    _show_by_network(sentences, display)


def warn_of_few_validation_images(images: Iterable[PreparedImages], display: Display) -> None:
    """Say that a verdict cannot be shown, if there are fewer validation images than it takes at best."""
    least = min(images, key=lambda one: sum(one.validation))
    if (fewest := sum(least.validation)) < LEAST_IMAGES_FOR_FIT:
        display.show_message(
            f"  {fewest} validation images are too few for the verdict `fit`: that takes at least "
            f"{LEAST_IMAGES_FOR_FIT}, all of them right. Trials without a clear gap "
            f"will be `cannot-tell`; {'more' if 'validation' in least.given else 'a larger data.validation'} helps"
        )


def _show_by_network(lines: Mapping[str, str], display: Display) -> None:
    """Show the line of each network, or only one, without the network's name, if all are the same."""
    shared = len(set(lines.values())) == 1
    for name, line in list(lines.items())[: 1 if shared else None]:
        if line:
            display.show_message(f"  {'' if shared else f'{name}: '}{line}")


def _count_cells(config: StudyConfig, name: str) -> str:
    cells, whole = config.cells_of(name), config.combinations_of(name)
    return f"{cells} of {whole}" if cells < whole < float("inf") else str(cells)


def _describe_factors(config: StudyConfig, name: str) -> str:
    """Return the factors that vary: `batch size 8, 32; dropout 0 to 0.5`."""
    active = config.active_factors_of(name)
    factors = {factor: levels for factor, levels in config.factors_of(name).items() if factor in active}
    varied = {FACTORS[factor]: levels for factor, levels in factors.items() if has_several_levels(levels)}
    return "; ".join(f"{factor.label} {factor.write_levels(levels)}" for factor, levels in varied.items())


def report_cost(
    specs: Sequence[TrialSpec],
    recorded: Sequence[RecordedRun],
    artifacts: str,
    executor: Executor,
    display: Display,
    redrawn: Collection[str] = (),
) -> float | None:
    """Report the time, disk and memory that trials and pretraining take, with a warning if the disk is too small.

    Kinds of trials without a finished one on record are measured. Nothing is measured for a silent display. A failed
    measurement does not stop the study: the trial will fail in the same way, and say so.

    Args:
        recorded: the study's runs.
        redrawn: networks with source weights, and so cached features, of each block's own.
        artifacts: MLflow's artifact location for the models; "" if unknown.

    Returns:
        Seconds until all trials are done, on the executor's workers, without pretraining; None if there are no trials,
        or some could not be measured.
    """
    if display.silent:
        return None
    finished = [run for run in recorded if run.state == "finished"]
    by_kind = _group_by_kind(specs)
    names = _name_kinds(by_kind)
    costs: dict[TrialKind, Cost] = {}
    memory = 0
    for kind, alike in sorted(by_kind.items()):
        cost = _recorded_cost(kind, alike, finished)
        if cost is None:
            measured = _measure_speed(names[kind], alike, executor, display)
            if isinstance(measured, Failed):
                why = measured.message.split("\n")[0]
                display.show_message(f"  {names[kind]}: its speed can't be measured ({measured.reason}): {why}")
                continue
            memory = max(memory, measured.peak_bytes)
            draws = len({spec.block for spec in alike}) if kind[0] in redrawn else 1
            cost = _measured_cost(alike, measured, executor.slots, draws)
        # source weights are in the cache as a model, and as a backbone by itself
        costs[kind] = replace(cost, cached_bytes=2 * cost.bytes) if kind[1] == _PRETRAINING else cost
    if costs:
        _report_costs(costs, by_kind, names, executor.slots, memory, display)
        if artifacts:
            _warn_if_disk_too_small(costs, artifacts, display)
    return _trial_seconds_of(costs, by_kind, executor.slots) if costs and len(costs) == len(by_kind) else None


def _group_by_kind(specs: Iterable[TrialSpec]) -> dict[TrialKind, list[TrialSpec]]:
    by_kind: dict[TrialKind, list[TrialSpec]] = {}
    for spec in specs:
        by_kind.setdefault(_kind(spec.architecture, spec.levels, spec.purpose), []).append(spec)
    return by_kind


def _kind(architecture: str, levels: Mapping[str, Any], purpose: str) -> TrialKind:
    mode = _PRETRAINING if purpose == "pretrain" else str(levels["transfer"])
    mode += " gradually" if levels.get("unfreeze") == "gradual" else ""
    return architecture, mode, str(levels.get("augmentation", "none"))


def _name_kinds(kinds: Iterable[TrialKind]) -> dict[TrialKind, str]:
    """Return each kind's name for people; the augmentation is left out if it does not vary."""
    augmentations = {augmentation for _, mode, augmentation in kinds if mode != _PRETRAINING}
    return {kind: " ".join(kind if len(augmentations) > 1 else kind[:2]) for kind in kinds}


def _recorded_cost(kind: TrialKind, specs: Sequence[TrialSpec], finished: Sequence[RecordedRun]) -> Cost | None:
    """Return the cost estimated from finished trials of that kind; None if there are none."""
    purposes = {spec.purpose for spec in specs}
    alike = [
        run for run in finished if run.kind in purposes and _kind(run.architecture, run.parameters, run.kind) == kind
    ]
    if not alike:
        return None
    parameters = {run.metrics[Metric.TRAINABLE_PARAMETERS] + run.metrics[Metric.FROZEN_PARAMETERS] for run in alike}
    seconds = statistics.fmean(run.metrics[Metric.TOTAL_SECONDS] for run in alike)
    return _cost(specs, seconds * len(specs), int(max(parameters)))


def _measure_speed(name: str, specs: Sequence[TrialSpec], executor: Executor, display: Display) -> Speed | Failed:
    display.count(f"measuring the speed of {name}", 0, 0)
    sizes = {spec.batch_size for spec in specs}
    payload = {"spec": specs[0].to_json(), "batch_sizes": sorted({min(sizes), max(sizes)})}
    outcome = run_to_end(executor, Job(f"speed-{name.replace(' ', '-')}", "measure_speed", payload), display)
    return outcome if isinstance(outcome, Failed) else Speed.from_json(outcome.result)


def measure_speeds(specs: Sequence[TrialSpec], executor: Executor, display: Display) -> dict[TrialKind, Speed]:
    """Return the speed of each kind among these trials, measured on one of each at its batch sizes.

    Raises:
        WorkerError: a kind can't be measured: its trials would fail in the same way.
    """
    by_kind = _group_by_kind(specs)
    names, speeds = _name_kinds(by_kind), {}
    for kind, alike in sorted(by_kind.items()):
        measured = _measure_speed(names[kind], alike, executor, display)
        if isinstance(measured, Failed):
            raise WorkerError(f"the speed of {names[kind]} can't be measured ({measured.reason}): {measured.message}")
        speeds[kind] = measured
    return speeds


def predict_seconds(specs: Sequence[TrialSpec], speeds: Mapping[TrialKind, Speed], slots: int) -> float:
    """Return the seconds from the start of the first of these trials until the last is recorded, at measured speeds."""
    by_kind = _group_by_kind(specs)
    costs = {kind: _measured_cost(alike, speeds[kind], slots, 1) for kind, alike in by_kind.items()}
    return _trial_seconds_of(costs, by_kind, slots)


def trial_seconds(spec: TrialSpec, speed: Speed) -> float:
    """Return the seconds that a trial takes at that speed, from its updates and evaluated images.

    Before the first update and after each epoch the probe and the validation images are evaluated. The end of the trial
    evaluates those and all training images, both with the last weights and with the best.
    """
    used = [count_used_images(images, float(spec.levels["data_fraction"])) for images in spec.images.train]
    probe = sum(map(min, used, spec.images.validation))
    epochs = split_epochs(spec.epochs, len(speed.seconds_per_update))
    if spec.levels["transfer"] == "two-phase" and len(epochs) > 1:
        epochs = [spec.head_epochs, spec.epochs - spec.head_epochs]
    if spec.levels["transfer"] == PROBE_FIRST and len(epochs) > 1:
        epochs = [1, spec.epochs]  # its probe takes as long as one of its own
    size, protocol = spec.batch_size, str(spec.levels.get("protocol", "clean"))
    updates = [count_updates(sum(used), size, phase_epochs, protocol) for phase_epochs in epochs]
    share = 1.0 if spec.updates is None else min(1.0, spec.updates / sum(updates))
    training = sum(
        number * _interpolate(size, speed.batch_sizes, seconds)
        for number, seconds in zip(updates, speed.seconds_per_update, strict=True)
    )
    evaluated = (spec.epochs + 3) * (probe + sum(spec.images.validation)) + 2 * sum(used)
    return speed.setup_seconds + share * training + evaluated * speed.seconds_per_evaluated_image


def setup_seconds(speed: Speed, workers: int, draws: int = 1) -> float:
    """Return the seconds spent once, whatever the number of trials: each worker compiles, one extracts the features.

    Args:
        draws: of the source weights; each has its own features.
    """
    return workers * speed.compile_seconds + draws * speed.extraction_seconds


def _interpolate(size: int, sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Interpolate linearly between the smallest and the largest batch size."""
    if len(sizes) == 1:
        return seconds[0]
    position = (size - sizes[0]) / (sizes[-1] - sizes[0])
    return seconds[0] + position * (seconds[-1] - seconds[0])


def _cost(specs: Sequence[TrialSpec], seconds: float, parameters: int) -> Cost:
    """Return the cost of these trials, given their training time together."""
    disk = sum(BYTES_PER_TRIAL + BYTES_PER_PARAMETER * parameters * spec.keep_model for spec in specs)
    return Cost(seconds + SECONDS_TO_SAVE * len(specs), disk)


def _measured_cost(specs: Sequence[TrialSpec], speed: Speed, slots: int, draws: int) -> Cost:
    """Return the cost of trials of one kind at a measured speed; `draws` as in `setup_seconds`."""
    seconds = setup_seconds(speed, min(slots, len(specs)), draws)
    cost = _cost(specs, seconds + sum(trial_seconds(spec, speed) for spec in specs), speed.parameters)
    return replace(cost, cached_bytes=draws * speed.features_bytes)


def _trial_seconds_of(costs: dict[TrialKind, Cost], by_kind: dict[TrialKind, list[TrialSpec]], slots: int) -> float:
    """Return the seconds from the start of the first trial until the last one is recorded."""
    trials = [kind for kind in costs if kind[1] != _PRETRAINING]
    if not trials:
        return 0.0
    return wall_clock_seconds(
        sum(costs[kind].seconds for kind in trials), sum(len(by_kind[kind]) for kind in trials), slots
    )


def _describe_pretraining(costs: dict[TrialKind, Cost], by_kind: dict[TrialKind, list[TrialSpec]]) -> tuple[float, str]:
    """Return the seconds that pretraining takes, one after the other, and a sentence about it; "" if there is none."""
    seconds, told = 0.0, []
    for kind in (kind for kind in costs if kind[1] == _PRETRAINING):
        times = len(by_kind[kind])
        seconds += costs[kind].seconds + times * SECONDS_TO_RECORD
        each = by_kind[kind][0].block is not None
        told.append(f"{kind[0]} {f'{times} times (each seed has its own)' if each else 'once'}")
    return seconds, f"  {format_duration(seconds)} of these pretrain source weights: {', '.join(told)}" if told else ""


def wall_clock_seconds(of_workers: float, trials: int, slots: int) -> float:
    """Return the seconds from the start of the first trial until the last one is recorded.

    Workers train in parallel; the driver records one trial at a time, while the workers train the next ones. Either
    the workers are the bottleneck, and only the last trial is recorded after them; or the driver is, and records
    without a pause from the end of the first trial.

    Args:
        of_workers: seconds of worker time, over all trials.
        trials: their number.
        slots: the number of workers.
    """
    return max(of_workers / slots + SECONDS_TO_RECORD, of_workers / trials + trials * SECONDS_TO_RECORD)


def _report_costs(
    costs: dict[TrialKind, Cost],
    by_kind: dict[TrialKind, list[TrialSpec]],
    names: dict[TrialKind, str],
    slots: int,
    memory: int,
    display: Display,
) -> None:
    each = [
        f"{names[kind]} {_short(cost.seconds / len(by_kind[kind]))}{'' if kind[1] == _PRETRAINING else ' a trial'}"
        for kind, cost in costs.items()
    ]
    left_out = [names[kind] for kind in sorted(by_kind) if kind not in costs]
    without = f" without {', '.join(left_out)}" if left_out else ""
    models = any(spec.keep_model for alike in by_kind.values() for spec in alike)
    pretraining, of_pretraining = _describe_pretraining(costs, by_kind)
    cached = _cached_bytes(costs)
    workers = f" a worker, {format_size(slots * memory)} with {slots}" if slots > 1 else ""
    display.show_message(
        f"  about {format_duration(pretraining + _trial_seconds_of(costs, by_kind, slots))}{without} "
        f"(measured: {', '.join(each)}), about {format_size(sum(cost.bytes for cost in costs.values()))} of disk"
        + (" for models" if models else "")
        + (f", {format_size(cached)} in the cache" if cached else "")
        + (f", up to {format_size(memory)} of memory{workers}" if memory else "")
    )
    if of_pretraining:
        display.show_message(of_pretraining)


def _cached_bytes(costs: Mapping[TrialKind, Cost]) -> int:
    """Return the bytes of features and source weights in the cache.

    Two-phase trials share those of frozen ones, and probes those of others of the layer; features of flipped images
    include those of the unflipped ones.
    """
    largest: dict[tuple[str, str], int] = {}
    for (architecture, transfer, _), cost in costs.items():
        probe = read_probe(transfer)
        shared = architecture, "frozen" if transfer == "two-phase" else str(probe.takes) if probe else transfer
        largest[shared] = max(largest.get(shared, 0), cost.cached_bytes)
    return sum(largest.values())


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else format_duration(seconds)


def _warn_if_disk_too_small(costs: dict[TrialKind, Cost], artifacts: str, display: Display) -> None:
    folder = local_folder(artifacts)
    if folder is None:
        return
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free, needed = shutil.disk_usage(existing).free, sum(cost.bytes for cost in costs.values())
    if needed > free:
        display.show_message(
            f"  WARNING: {format_size(needed)} will not fit into the {format_size(free)} that are free in {existing}; "
            "free some space, or write `keep_models: false` under `training`"
        )
