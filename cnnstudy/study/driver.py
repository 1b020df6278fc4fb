"""The driver of a study: the loop that hands out trials to workers, records them, and reacts to failures."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from cnnstudy.errors import CnnstudyError, RepeatedFailureError, TakenOverError, as_sentence
from cnnstudy.execution import Done, Epoch, Failed, Job, Progress, Workers
from cnnstudy.execution.jobs import Watchdog, wait_for_event
from cnnstudy.names import Tag
from cnnstudy.records import OUTSIDE_REASONS, TrialResult
from cnnstudy.search.strategy import Proposal, Strategy
from cnnstudy.study.recorder import TrialRecording, remove_trial_files
from cnnstudy.study.recovery import tidy_machine
from cnnstudy.study.resources import StudyResources
from cnnstudy.system.processes import defer_interrupt
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.training import checkpoints
from cnnstudy.training.verdict import describe_accuracies


@contextlib.contextmanager
def closing_workers(workers: Workers) -> Iterator[Workers]:
    """Close the workers after the block, and remove what they left on this machine, in the cache too."""
    try:
        yield workers
    finally:
        workers.close()
        tidy_machine()


class Driver:
    """Keeps the workers busy until the strategy has nothing more to propose.

    Args:
        resources: prepared.
        strategy: proposes the trials.
    """

    def __init__(self, resources: StudyResources, strategy: Strategy) -> None:
        self.resources = resources
        self.rule = resources.config.objective.rule
        self.strategy = strategy
        self.recorder = resources.recorder
        self.executor = resources.executor
        self.display = resources.display
        self._failures = FailureCounter(count_attempts(resources.recorded), resources.config.training.equal_failures)
        self._reported: dict[str, int] = {}  # trial -> the last epoch reported to the strategy
        self._watchdog = Watchdog(resources.config.training.timeout)
        self._running: dict[str, tuple[Proposal, TrialRecording]] = {}
        self._waiting: Proposal | None = None  # for the source weights of its seed

    def run(self, total: int) -> None:
        """Run the strategy's remaining trials.

        Args:
            total: trials of the study, those already recorded among them.

        Raises:
            KeyboardInterrupt: interrupted; what the workers had reported is recorded.
            RepeatedFailureError: too many consecutive trials failed in the same way.
            TakenOverError: another driver has taken over the study.
            WeightsError, StudyChangedError: a seed's source weights can't be pretrained, or are not those of its
                recorded trials.
        """
        self.display.start_trials(total - self.strategy.remaining, total)
        try:
            self._fill_slots()
            while self._running or self._waiting:
                if self._running:
                    self._handle_next_event()
                elif self._waiting:  # all earlier trials are recorded, and all events are those of pretraining
                    self.resources.pretrain(self._waiting, self.strategy.upcoming)
                    self._fill_slots()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                with contextlib.suppress(CnnstudyError):  # MLflow itself may be the problem
                    self._record_reported()
            taken_over = isinstance(error, TakenOverError)
            why = "left to the study's new driver" if taken_over else "interrupted; resuming the study runs it again"
            for key in self._running:
                self.display.show_message(f"{key}  {why}")
            raise

    def _fill_slots(self) -> None:
        while len(self._running) < self.executor.slots:
            proposal, self._waiting = self._waiting or self.strategy.next(), None
            if proposal is None:
                return
            if self.resources.weights_of(proposal) is None:
                self._waiting = proposal
                return
            self._start(proposal)

    def _start(self, proposal: Proposal) -> None:
        weights = self.resources.weights_of(proposal)
        assert weights is not None
        spec = self.resources.build_spec(proposal, weights)
        spec = replace(spec, micro_batch=self._failures.micro_batch(spec.key, int(spec.levels["batch_size"])))
        tags = {Tag.ATTEMPT: str(self._failures.next_attempt(spec.key))}
        if weights.digest and spec.levels["transfer"] != "scratch":
            tags[Tag.WEIGHTS_DIGEST] = weights.digest
        recording = self.recorder.start(spec, tags)
        self._running[spec.key] = (proposal, recording)
        self.executor.submit(Job(spec.key, "run_trial", spec.to_json(), asks=self.strategy.prunes))
        images = sum(spec.images.train) * float(spec.levels["data_fraction"])
        self._watchdog.begin(spec.key, spec.architecture, images)
        self.display.start_trial(spec.key, recording.title, spec.epochs)

    def _handle_next_event(self) -> None:
        event = wait_for_event(self.executor, self._watchdog)
        if isinstance(event, Epoch):
            self._on_epoch(event)
        elif isinstance(event, Done):
            with defer_interrupt():  # the result of hours of training is recorded before the interrupt takes effect
                self._on_done(event)
        elif isinstance(event, Failed):
            self._on_failed(event)
        elif isinstance(event, Progress):
            self.display.count(f"{event.key}: {event.what}", event.done, event.total)

    def _on_epoch(self, event: Epoch) -> None:
        proposal, recording = self._running[event.key]
        epoch, prune = event.record.epoch, False
        # epochs that an earlier attempt reported already did not lead to pruning, and do not now
        if epoch > self._reported.get(event.key, 0):
            worse = self.strategy.report(proposal, epoch, self.rule.score(event.record.metrics))
            prune = worse and not event.record.replayed
            self._reported[event.key] = epoch
        if event.asks:
            self.executor.answer(event.key, not prune)
        # recorded after the answer, so that the worker trains on meanwhile
        self.recorder.epoch(recording, event.record)
        self.display.epoch(event.key, event.record)

    def _on_done(self, event: Done) -> None:
        proposal, recording = self._running[event.key]
        result = TrialResult.from_json(event.result)
        summary = result.summary
        beyond = self.rule.beyond(summary, result.verdict)
        self.strategy.tell(proposal, result.state, summary[self.rule.metric], beyond)
        self._failures.reset()
        del self._running[event.key]
        try:  # the next trial starts first, so that the worker trains while plots are drawn and this one is recorded
            self._fill_slots()
        finally:
            self._record(recording, result)
        if result.checkpoint_note:
            self.display.show_message(f"{event.key}  {result.checkpoint_note}")
        if result.micro_batch or result.evaluation_batch:
            self.display.show_message(f"{event.key}  {describe_memory_limits(result)}")
        self.display.end_trial(event.key, _describe_result(result))

    def _record(self, recording: TrialRecording, result: TrialResult) -> None:
        self.recorder.finish(recording, result)
        remove_trial_files(result)
        checkpoints.remove_checkpoint(recording.spec)

    def _record_reported(self) -> None:
        """Record the epochs and results that workers have reported and no event loop has handled yet."""
        while (event := self.executor.next_event(timeout=0)) is not None:
            if event.key not in self._running:  # of the pretraining that was interrupted
                continue
            if isinstance(event, Epoch):
                self.recorder.epoch(self._running[event.key][1], event.record)
            elif isinstance(event, Done):
                _, recording = self._running.pop(event.key)
                self._record(recording, TrialResult.from_json(event.result))

    def _on_failed(self, event: Failed) -> None:
        proposal, recording = self._running[event.key]
        again = self._failures.take_retry(event)
        self.recorder.fail(recording, event, again)
        del self._running[event.key]
        if event.reason in OUTSIDE_REASONS:
            self._failures.count(event)
        # half-written files would get in the way of another attempt
        shutil.rmtree(self.resources.folder / event.key, ignore_errors=True)
        if again:
            once = "again" if event.reason in OUTSIDE_REASONS else "once more"
            self.display.show_message(f"{event.key}  failed ({event.reason}), and runs {once}: {event.message}")
            self._start(proposal)
            return
        checkpoints.remove_checkpoint(recording.spec)
        self.strategy.tell(proposal, "failed", None, {})
        self.display.end_trial(event.key, f"failed ({event.reason}): {event.message}")
        self._failures.count(event)
        self._fill_slots()


def _describe_result(result: TrialResult) -> str:
    shared = result.shared_epochs
    text = (
        f"{result.state}, {describe_accuracies(result.verdict_counts, result.summary)} at epoch {result.best_epoch}: "
        f"{result.verdict}; {result.trainable_parameters:,} parameters trained, {result.frozen_parameters:,} frozen"
    )
    return f"{text}; {shared} of its {result.epochs} epochs shared with another trial" if shared else text


def describe_memory_limits(result: TrialResult) -> str:
    """Describe how a trial whose batches did not fit into memory was trained and evaluated."""
    notes = []
    if result.micro_batch:
        notes.append(
            f"larger batches were trained in parts of at most {result.micro_batch} images, their gradients "
            "added up: the same update as with the whole batch, except for the random draws of dropout and augmentation"
        )
    if result.evaluation_batch:
        notes.append(f"at most {result.evaluation_batch} images at once were evaluated")
    return f"whole batches did not fit into memory; {', and '.join(notes)}."


#: Failures that another attempt may avoid; a loss that is not finite would occur again.
RETRYABLE_REASONS = ("crash", "timeout", "oom")
MAX_ATTEMPTS = 2
_ADVICE = {
    "oom": "To use less memory, lower batch_size, image_size or --jobs.",
    "timeout": "If an epoch really takes that long, raise training.timeout, in seconds.",
    "crash": "The traceback is in MLflow, among the run's files, as traceback.txt.",
    **dict.fromkeys(OUTSIDE_REASONS, "`python -m cnnstudy doctor` checks packages, disks and the cache."),
}


def count_attempts(recorded: Iterable[RecordedRun]) -> Counter[str]:
    """Count the failed attempts of each trial that were followed by a retry, since a user last asked for one.

    Those whose cause lay outside the trial do not count.
    """
    attempts: Counter[str] = Counter()
    for run in recorded:
        own = run.retried and run.reason not in OUTSIDE_REASONS
        attempts[run.trial] = 0 if run.retry_asked else attempts[run.trial] + own
    return attempts


class FailureCounter:
    """Counts a driver's failed trials; decides which are retried, and when the study stops.

    Args:
        attempts: by trial, the failed attempts before this driver.
        most_alike: stop after this many consecutive identical failures.
    """

    def __init__(self, attempts: Counter[str], most_alike: int) -> None:
        self._attempts = attempts
        self._most_alike = most_alike
        self._out_of_memory: set[str] = set()  # trials whose last attempt ran out of memory
        self._last: tuple[str, str] | None = None
        self._in_a_row = 0

    def next_attempt(self, key: str) -> int:
        """Return the number of the trial's next attempt, from 1."""
        return self._attempts[key] + 1

    def take_retry(self, failed: Failed) -> bool:
        """Return whether the trial gets another attempt, and count it.

        Errors raised on purpose are not retried: they would occur again. A failure whose cause lies outside the trial
        is not counted; `count` stops the study if it lasts.
        """
        if failed.reason in OUTSIDE_REASONS:
            return True
        again = (
            failed.reason in RETRYABLE_REASONS and failed.error is None and self.next_attempt(failed.key) < MAX_ATTEMPTS
        )
        self._attempts[failed.key] += again
        # a worker killed from outside may have had a batch that fits: its retry keeps the batch, for identical numbers
        if failed.reason == "oom" and "killed by signal" not in failed.message:
            self._out_of_memory.add(failed.key)
        return again

    def micro_batch(self, key: str, batch: int) -> int | None:
        """Return half the batch size if the trial's last attempt ran out of memory; None: train whole batches."""
        return max(1, batch // 2) if key in self._out_of_memory else None

    def reset(self) -> None:
        """Forget the consecutive failures: a trial has finished."""
        self._last, self._in_a_row = None, 0

    def count(self, failed: Failed) -> None:
        """Count a trial that failed for good, or for a cause outside of it.

        A diverged trial is an answer to the study's question: it never stops the study.

        Raises:
            RepeatedFailureError: as many trials in a row as are allowed failed for the same reason and with the same
                message, numbers aside.
        """
        if failed.reason == "diverged":
            self.reset()
            return
        message, outside = failed.message.split("\n")[0], failed.reason in OUTSIDE_REASONS
        # one cause outside the trials may lead to various messages
        alike = (failed.reason, "" if outside else re.sub(r"0x[0-9a-f]+|\d+", "#", message))
        self._in_a_row = self._in_a_row + 1 if alike == self._last else 1
        self._last = alike
        if self._in_a_row >= self._most_alike:
            if outside:
                row = f"{self._in_a_row} attempts in a row failed for a cause outside the trials"
                resumes = "the study; none of its trials has used up an attempt."
            else:
                row = f"{self._in_a_row} trials in a row failed alike"
                resumes = "the study with the remaining trials, and with --retry-failed runs these again, too."
            raise RepeatedFailureError(
                f"{row} ({failed.reason}), the last one {failed.key}: {as_sentence(message)} The study was stopped. "
                f"{_ADVICE.get(failed.reason, '')} Everything is recorded; the same command resumes {resumes}"
            )
