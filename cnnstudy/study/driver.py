"""The driver of a study: the loop that hands out trials to workers, records them, and reacts to failures."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import replace

from cnnstudy.errors import CnnstudyError, TakenOverError
from cnnstudy.execution import Done, Epoch, Failed, Job, Progress, Workers
from cnnstudy.execution.jobs import Watchdog, wait_for_event
from cnnstudy.names import Tag
from cnnstudy.records import OUTSIDE_REASONS, TrialResult
from cnnstudy.search.strategy import Proposal, Strategy
from cnnstudy.study.failures import FailureCounter, count_attempts, is_machine_error, raise_machine_error
from cnnstudy.study.interim import InterimAnswer
from cnnstudy.study.preparation import INTERRUPTED_TEXT
from cnnstudy.study.recorder import TrialRecording, remove_trial_files
from cnnstudy.study.recovery import tidy_machine
from cnnstudy.study.resources import StudyResources
from cnnstudy.system.processes import defer_interrupt
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
        interim: tells the answer so far of a factorial; None: nothing is told before the end.
    """

    def __init__(self, resources: StudyResources, strategy: Strategy, interim: InterimAnswer | None = None) -> None:
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
        self._interim = interim

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
            why = "left to the study's new driver" if taken_over else INTERRUPTED_TEXT
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

    def _has_room(self) -> bool:
        """Check whether more trials can run by now than do: a machine has joined."""
        return len(self._running) < self.executor.slots and self._waiting is None and self.strategy.remaining > 0

    def _start(self, proposal: Proposal) -> None:
        weights = self.resources.weights_of(proposal)
        assert weights is not None
        spec = self.resources.build_spec(proposal, weights)
        spec = replace(spec, micro_batch=self._failures.micro_batch(spec.key, spec.batch_size))
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
        event = wait_for_event(self.executor, self._watchdog, self._has_room)
        if event is None:
            self._fill_slots()
        elif isinstance(event, Epoch):
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
        self._reported.pop(event.key, None)
        try:  # the next trial starts first, so that the worker trains while plots are drawn and this one is recorded
            self._fill_slots()
        finally:
            self._record(recording, result)
        if result.checkpoint_note:
            self.display.show_message(f"{event.key}  {result.checkpoint_note}")
        if result.micro_batch or result.evaluation_batch:
            self.display.show_message(f"{event.key}  {describe_memory_limits(result)}")
        if result.shared_epochs:
            shared = f"{result.shared_epochs} of its {result.epochs} epochs shared with another trial"
            self.display.show_message(f"{event.key}  {shared}")
        self.display.end_trial(event.key, _describe_result(result))
        self._tell_answer_so_far()

    def _tell_answer_so_far(self) -> None:
        if self._interim is None:
            return
        unfinished = [proposal for proposal, _ in self._running.values()]
        unfinished += [self._waiting] if self._waiting else []
        blocks = [one.block for one in (*unfinished, *itertools.islice(self.strategy.upcoming, 1))]
        if answer := self._interim.take(min((block for block in blocks if block is not None), default=0)):
            self.display.show_answer(answer)
            self.recorder.tag_study({Tag.NOTE: answer})

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
        if is_machine_error(event):  # the trial failed, and runs again with the next call
            with contextlib.suppress(CnnstudyError, OSError):  # there may be no room to record it
                self.recorder.fail(recording, replace(event, reason="environment"), again=True)
            del self._running[event.key]
            raise_machine_error(event)
        again = self._failures.take_retry(event)
        self.recorder.fail(recording, event, again)
        del self._running[event.key]
        if event.reason in OUTSIDE_REASONS:
            self._failures.count(event)
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
    return (
        f"{result.state}, {describe_accuracies(result.verdict_counts, result.summary)} at epoch {result.best_epoch}: "
        f"{result.verdict}"
    )


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
