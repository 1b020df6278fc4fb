"""A dry run: the checks of a run, and an estimate of what it will take; it trains no trial and records nothing."""

from __future__ import annotations

from collections.abc import Sequence

from cnnstudy.config.load import Study
from cnnstudy.config.schema import StudyConfig
from cnnstudy.config.strategies import FactorialConfig
from cnnstudy.execution import Workers
from cnnstudy.names import Tag
from cnnstudy.search import make_strategy
from cnnstudy.search.strategy import FixedStrategy, Proposal, Strategy
from cnnstudy.study.driver import closing_workers
from cnnstudy.study.estimate import (
    STAND_IN_WEIGHTS,
    report_cost,
    report_power,
    report_size,
    warn_of_few_validation_images,
)
from cnnstudy.study.forecast import save_estimate
from cnnstudy.study.looks import read_stopped
from cnnstudy.study.recorder import NullRecorder
from cnnstudy.study.resources import StudyInputs
from cnnstudy.study.resume import past_trial, settle_settings
from cnnstudy.system.cache import require_cache
from cnnstudy.system.display import Display
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy


def plan_study(
    study: Study, tracker: Tracker | None, workers: Workers, display: Display, accept_code: bool = False
) -> None:
    """Make the checks of a run, and report how many trials are missing, and the time, memory and disk that they take.

    Images are decoded; source weights are not trained, because they do not affect the speed. The study may be running
    elsewhere.

    Args:
        tracker: None if nothing is recorded yet.
        workers: closed at the end; not started if no trial is missing.
        accept_code: as for run_study.

    Raises:
        StudyChangedError, ConfigError, DataError, WeightsError, CacheError, WorkerError, TrackingError: as run_study,
            before the first trial.
    """
    require_cache("locks")
    recorded, runs = _find_recorded(tracker, study.config.name)
    tags = tracker.tags(recorded.run_id) if tracker and recorded.run_id else {}
    config = settle_settings(study, recorded, lambda: runs, display).config
    planned, config = config, read_stopped(config, tags.get(Tag.STOPPED, ""))
    past = [past_trial(run, config.objective.rule) for run in runs if run.kind == "trial"]
    missing = _list_missing(make_strategy(config, past))
    is_factorial = isinstance(config.strategy, FactorialConfig)
    report_size(config, len(missing), display)
    if not missing:
        if isinstance(planned.strategy, FactorialConfig) and config is not planned:
            most = planned.strategy.seeds
            display.show_message(f"  it stopped, with at most {most} seeds planned, because its question is answered")
        return
    artifacts = tracker.artifact_location(recorded.experiment_id) if tracker and recorded.experiment_id else ""
    with closing_workers(workers):
        inputs = StudyInputs(config, NullRecorder(recorded, tags), runs, workers, display, accept_code)
        inputs.check()
        config, images, slots = inputs.config, inputs.images, inputs.executor.slots
        warn_of_few_validation_images(images.values(), display)
        if is_factorial:
            report_power(config, images, runs, display)
        specs = [inputs.build_spec(one, STAND_IN_WEIGHTS) for one in missing] + inputs.find_untrained(missing)
        redrawn = [name for name in config.architectures if config.pretrains_each_seed(name)]
        seconds = report_cost(specs, runs, artifacts, inputs.executor, display, redrawn)
    if seconds is not None and not past and _may_end_early(config):
        display.show_message("  less where trials are pruned or stop before their last epoch")
    if seconds is not None and not is_factorial:  # a factorial measures again when it runs
        save_estimate(config, len(missing), slots, seconds)
    _describe_confirmation(config, display)


def _list_missing(strategy: Strategy) -> list[Proposal]:
    """Return the trials that are not recorded, of a factorial that may stop early all that it plans."""
    if isinstance(strategy, FixedStrategy):
        return list(strategy.upcoming)
    return list(iter(strategy.next, None))  # a search asks as while its trials are running


def _describe_confirmation(config: StudyConfig, display: Display) -> None:
    """Report the confirmation, which the estimate leaves out."""
    if config.confirm is not None:
        seeds, most = config.confirm.seeds, config.confirm.maximum_seeds
        redrawn = any(map(config.pretrains_each_seed, config.architectures))
        display.show_message(
            f"  plus {config.confirm.top} x {seeds} trials to confirm, up to {most} seeds each if the result is close"
            + ("; source weights are pretrained for each of these seeds too" if redrawn else "")
        )


def _may_end_early(config: StudyConfig) -> bool:
    training = config.training
    return config.pruner != "none" or bool(training.early_stopping or training.until_train_loss)


def _find_recorded(tracker: Tracker | None, name: str) -> tuple[RecordedStudy, Sequence[RecordedRun]]:
    """Return the study and its runs; an empty study if it is not recorded yet."""
    study = tracker.find_study(name) if tracker else None
    if tracker is None or study is None:
        return RecordedStudy(name, "", "", {}), []
    return study, tracker.runs(study.experiment_id)
