"""What a study would take, from a measurement; nothing is trained to the end, and nothing is recorded."""

from __future__ import annotations

from collections.abc import Iterator

from cnnstudy import forecasts, strategies
from cnnstudy.config import Study
from cnnstudy.display import Display
from cnnstudy.driver import at_work
from cnnstudy.errors import UnknownNameError
from cnnstudy.estimate import tell_cost, tell_size
from cnnstudy.execution import Workers
from cnnstudy.factorial import Factorial
from cnnstudy.preparation import Preparation, SourceWeights
from cnnstudy.proposals import PastTrial, Proposal, Strategy
from cnnstudy.recording import Unrecorded
from cnnstudy.records import RecordedRun, RecordedStudy
from cnnstudy.resources import trial_spec
from cnnstudy.resume import past_trial
from cnnstudy.schema import StudyConfig
from cnnstudy.search import Search
from cnnstudy.tracking import Tracker


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
    if isinstance(strategy, Factorial):
        tell_size(config, len(missing), display)
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
        seconds = tell_cost(specs, runs, artifacts, executor, display)
    if seconds is not None and not past and _may_end_early(config):
        display.say("  less where trials are pruned or stop before their last epoch")
    if seconds is not None and not isinstance(strategy, Factorial):  # which is measured again when it runs
        forecasts.keep(config, len(missing), executor.slots, seconds)
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
        Factorial(config, past) if isinstance(config.strategy, strategies.Factorial) else Search(config, past)
    )
    return strategy, list(_proposals(strategy))


def _proposals(strategy: Strategy) -> Iterator[Proposal]:
    while (proposal := strategy.next()) is not None:
        yield proposal
