"""The workers at their work: a study's images and weights, and the loop that hands out trials and records them."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from cnnstudy.errors import CnnstudyError, RepeatedFailureError, TakenOverError
from cnnstudy.execution import Done, Epoch, Failed, Job, Progress, Workers
from cnnstudy.execution.jobs import Watchdog, next_event
from cnnstudy.names import Metric, Tag
from cnnstudy.records import TrialResult
from cnnstudy.search.strategy import Proposal, Strategy
from cnnstudy.study.recorder import TrialRecording, remove_trial_files
from cnnstudy.study.recovery import tidy_machine
from cnnstudy.study.resources import StudyResources
from cnnstudy.system.processes import defer_interrupt
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.training import checkpoints

#: Another try may end otherwise; a loss that is not finite, or images that are gone, would be so again.
WORTH_ANOTHER_TRY = ("crash", "timeout", "oom")
MOST_ATTEMPTS = 2
_ADVICE = {
    "oom": "Smaller batch_size or image_size, or fewer --jobs, take less memory.",
    "timeout": "Where an epoch takes that long by right, training.timeout gives the seconds that it may take.",
    "crash": "The traceback is among the run's files in MLflow, as traceback.txt.",
    "data": "`python -m cnnstudy doctor` looks at the cache.",
}


def count_attempts(recorded: Iterable[RecordedRun]) -> Counter[str]:
    """By trial, how many of its runs failed and did not count."""
    return Counter(run.trial for run in recorded if run.retried)


class FailureCounter:
    """Counts them, for one driver.

    Args:
        attempts: by trial, how many runs failed before and did not count.
        most_alike: so many in a row stop the study.
    """

    def __init__(self, attempts: Counter[str], most_alike: int) -> None:
        self._attempts = attempts
        self._most_alike = most_alike
        self._out_of_memory: set[str] = set()  # trials whose last try ended so
        self._last: tuple[str, str] | None = None
        self._in_a_row = 0

    def attempt(self, key: str) -> int:
        """Which try of the trial the next one is, from 1."""
        return self._attempts[key] + 1

    def runs_again(self, failed: Failed) -> bool:
        """Whether the trial has another try; it is taken then.

        What was raised on purpose is said of the trial, and holds in the next try too.
        """
        again = failed.reason in WORTH_ANOTHER_TRY and failed.error is None and self.attempt(failed.key) < MOST_ATTEMPTS
        self._attempts[failed.key] += again
        # a worker that was killed from outside may have had a batch that fits: its next try comes to the same numbers
        if failed.reason == "oom" and "killed by signal" not in failed.message:
            self._out_of_memory.add(failed.key)
        return again

    def micro_batch(self, key: str, batch: int) -> int | None:
        """Images at once in the trial's next try: half a batch after one that ran out of memory; None: a batch."""
        return max(1, batch // 2) if key in self._out_of_memory else None

    def ended_well(self) -> None:
        """A trial came to its end: the row of failures is broken."""
        self._last, self._in_a_row = None, 0

    def count(self, failed: Failed) -> None:
        """A trial failed for good.

        Raises:
            RepeatedFailureError: it is one in a row that failed alike. A loss that is not finite is an answer to what
                the study asks, and never stops it.
        """
        if failed.reason == "diverged":
            self.ended_well()
            return
        message = failed.message.split("\n")[0]
        alike = (failed.reason, re.sub(r"0x[0-9a-f]+|\d+", "#", message))
        self._in_a_row = self._in_a_row + 1 if alike == self._last else 1
        self._last = alike
        if self._in_a_row >= self._most_alike:
            raise RepeatedFailureError(
                f"{self._in_a_row} trials in a row failed alike ({failed.reason}), {failed.key} the last: {message}. "
                f"The study was stopped. {_ADVICE.get(failed.reason, '')} All is recorded; the same command goes on "
                "with the trials that are left."
            )


def memory_note(result: TrialResult) -> str:
    """What became of a trial whose batches did not fit into memory."""
    said = []
    if result.micro_batch:
        said.append(
            f"each batch that is larger was trained in parts of at most {result.micro_batch} images, their gradients "
            "added up: the update of the whole batch, but for what dropout and augmentation draw"
        )
    if result.evaluation_batch:
        said.append(f"at most {result.evaluation_batch} images at once were evaluated")
    return f"the memory did not suffice for whole batches; {', and '.join(said)}."


@contextlib.contextmanager
def at_work(workers: Workers) -> Iterator[Workers]:
    """End the workers after the block, and remove what they left, in the cache too."""
    try:
        yield workers
    finally:
        workers.close()
        tidy_machine()


class Driver:
    """Keeps the workers busy until the strategy has nothing more to propose."""

    def __init__(self, resources: StudyResources, strategy: Strategy) -> None:
        self.resources = resources
        self.rule = resources.config.objective.rule
        self.strategy = strategy
        self.recorder = resources.recorder
        self.executor = resources.executor
        self.display = resources.display
        self._failures = FailureCounter(count_attempts(resources.recorded), resources.config.training.equal_failures)
        self._reported: dict[str, int] = {}  # by trial, the last epoch that the strategy was told of
        self._watchdog = Watchdog(resources.config.training.timeout)
        self._running: dict[str, tuple[Proposal, TrialRecording]] = {}

    def run(self, total: int) -> None:
        """All trials that are missing of so many."""
        self.resources.prepare()
        self.display.start_trials(total - self.strategy.remaining, total)
        try:
            self._fill_slots()
            while self._running:
                event = next_event(self.executor, self._watchdog)
                if isinstance(event, Epoch):
                    self._on_epoch(event)
                elif isinstance(event, Done):
                    with defer_interrupt():  # whoever asks to stop waits for it: hours may lie in it
                        self._on_done(event)
                elif isinstance(event, Failed):
                    self._on_failed(event)
                elif isinstance(event, Progress):
                    self.display.count(f"{event.key}: {event.what}", event.done, event.total)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                with contextlib.suppress(CnnstudyError):  # MLflow may be what is broken
                    self._record_what_was_said()
            taken = isinstance(error, TakenOverError)
            why = "left to the driver that has the study now" if taken else "interrupted; the next call runs it again"
            for key in self._running:
                self.display.say(f"{key}  {why}")
            raise

    def _fill_slots(self) -> None:
        while len(self._running) < self.executor.slots:
            proposal = self.strategy.next()
            if proposal is None:
                return
            self._start(proposal)

    def _start(self, proposal: Proposal) -> None:
        spec = self.resources.spec_of(proposal)
        spec = replace(spec, micro_batch=self._failures.micro_batch(spec.key, int(spec.levels["batch_size"])))
        tags = {Tag.ATTEMPT: str(self._failures.attempt(spec.key))}
        digest = self.resources.weights[proposal.architecture].digest
        if digest and spec.levels["transfer"] != "scratch":
            tags[Tag.WEIGHTS_DIGEST] = digest
        recording = self.recorder.start(spec, tags)
        self._running[spec.key] = (proposal, recording)
        self.executor.submit(Job(spec.key, "run_trial", spec.to_json(), asks=self.strategy.prunes))
        images = sum(spec.images.train) * float(spec.levels["data_fraction"])
        self._watchdog.begin(spec.key, spec.architecture, images)
        self.display.start_trial(spec.key, recording.title, spec.epochs)

    def _on_epoch(self, event: Epoch) -> None:
        proposal, recording = self._running[event.key]
        epoch, prune = event.record.epoch, False
        # what a first try reported led to going on, and does so again
        if epoch > self._reported.get(event.key, 0):
            worse = self.strategy.report(proposal, epoch, self.rule.score(event.record.metrics))
            prune = worse and not event.record.replayed  # it went on then
            self._reported[event.key] = epoch
        if event.asks:
            self.executor.answer(event.key, not prune)
        # the worker trains on while the epoch is recorded
        self.recorder.epoch(recording, event.record)
        self.display.epoch(event.key, event.record)

    def _on_done(self, event: Done) -> None:
        proposal, recording = self._running[event.key]
        result = TrialResult.from_json(event.result)
        summary = result.summary
        beyond = self.rule.beyond(summary, result.verdict)
        self.strategy.tell(proposal, result.state, summary[self.rule.metric], beyond)
        self._failures.ended_well()
        del self._running[event.key]
        try:  # the worker trains on while pictures are drawn and the trial is recorded
            self._fill_slots()
        finally:
            self._record(recording, result)
        if result.checkpoint_note:
            self.display.say(f"{event.key}  {result.checkpoint_note}")
        if result.micro_batch or result.evaluation_batch:
            self.display.say(f"{event.key}  {memory_note(result)}")
        self.display.end_trial(
            event.key,
            f"{result.state}, train {100 * summary[Metric.TRAIN_ACCURACY]:.1f} %, validation "
            f"{100 * summary[Metric.VAL_ACCURACY]:.1f} %, gap {100 * summary[Metric.GAP_ACCURACY]:+.1f} points "
            f"at epoch {result.best_epoch}: {result.verdict}; {result.trainable_parameters:,} parameters trained, "
            f"{result.frozen_parameters:,} frozen{_shared(result)}",
        )

    def _record(self, recording: TrialRecording, result: TrialResult) -> None:
        self.recorder.finish(recording, result)
        remove_trial_files(result)
        checkpoints.remove_checkpoint(recording.spec)

    def _record_what_was_said(self) -> None:
        """Trials that have ended, and epochs, of which nobody has taken note yet."""
        while (event := self.executor.next_event(timeout=0)) is not None:
            if isinstance(event, Epoch):
                self.recorder.epoch(self._running[event.key][1], event.record)
            elif isinstance(event, Done):
                _, recording = self._running.pop(event.key)
                self._record(recording, TrialResult.from_json(event.result))

    def _on_failed(self, event: Failed) -> None:
        proposal, recording = self._running[event.key]
        again = self._failures.runs_again(event)
        self.recorder.fail(recording, event, again)
        del self._running[event.key]
        # what it left half written would be in the way of another try
        shutil.rmtree(self.resources.folder / event.key, ignore_errors=True)
        if again:
            self.display.say(f"{event.key}  failed ({event.reason}), and runs once more: {event.message}")
            self._start(proposal)
            return
        checkpoints.remove_checkpoint(recording.spec)
        self.strategy.tell(proposal, "failed", None, {})
        self.display.end_trial(event.key, f"failed ({event.reason}): {event.message}")
        self._failures.count(event)
        self._fill_slots()


def _shared(result: TrialResult) -> str:
    shared, epochs = result.shared_epochs, result.epochs
    return f"; {shared} of its {epochs} epochs shared with another trial" if shared else ""
