"""What a study writes to MLflow: each record once, in order, with its time, whether MLflow answers or not.

While it answers, a write is a call that returns when it is done. Where it does not (a locked or read-only database, a
server that is down, slow or restarting) the records go to disk and whoever writes goes on; delivery.py brings them
there later, and the next call does where this one ended before.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from cnnstudy import operations
from cnnstudy.delivery import Delivery
from cnnstudy.errors import DiskFullError, TrackingError
from cnnstudy.leftovers import INTERRUPTED
from cnnstudy.linking import link_tree
from cnnstudy.names import Tag
from cnnstudy.operations import Attempt, EndRun, LogFiles, LogMetrics, LogModel, Operation, SetTags, StartRun
from cnnstudy.patience import Patience
from cnnstudy.records import RecordedStudy
from cnnstudy.scratch import Scratch
from cnnstudy.spool import Envelope, Spool, own_folder
from cnnstudy.tracking import Tracker

_TOKEN = "token-"
#: Kinds of runs of which one of a trial counts.
_RUN_ONCE = ("trial", "confirm")


class Outbox:
    """Writes to MLflow for one study, with the times.

    A run is named by MLflow's id or, where MLflow did not answer when it was started, by a token that stands for it.
    The token is on the run, and another on a model: where the reply was lost that it was made, it is found, not made
    again.

    Args:
        say: for the user.
        patience: None: the usual one.
        check: called before anything but metrics is written, also late, to raise where that is no longer to be done.

    `delivery` is what is on its way: to wait for it, or to read from MLflow once it has arrived.

    What writes raises:
        TrackingError: MLflow refuses the record, or refused one that had been waiting.
        DiskFullError: there is no room for a record that has to wait.
    """

    def __init__(
        self,
        tracker: Tracker,
        study: RecordedStudy,
        say: Callable[[str], None] = lambda text: None,
        patience: Patience | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        writer = _Writer(tracker, study, say, check)
        self.delivery = Delivery(Spool(study.name, tracker.uri), writer.apply, say, patience or Patience())
        self._scratch: Scratch | None = None
        self._open: dict[str, None] = {}  # runs that were started here and not ended

    def start_run(self, run: StartRun) -> str:
        """Start a run, and return what names it."""
        token = _TOKEN + uuid.uuid4().hex
        self._open[token] = None
        name = self.delivery.put(_envelope(token, run, token)) or token
        del self._open[token]
        self._open[name] = None
        return name

    def write(self, run: str, operation: LogMetrics | SetTags | LogFiles | LogModel | EndRun) -> None:
        """Carry out an operation on the run; whoever gave a folder may remove it then."""
        token, files = "", None
        if isinstance(operation, LogModel):
            token = uuid.uuid4().hex
        if isinstance(operation, LogModel | LogFiles):
            files = self._own(operation.folder)
        self.delivery.put(_envelope(run, operation, token, files))
        if isinstance(operation, EndRun):
            self._open.pop(run, None)

    def leave(self, run: str, end: EndRun) -> None:
        """Leave the end of a run on disk, whatever happened before: for those who are about to stop."""
        self.delivery.leave(_envelope(run, end))
        self._open.pop(run, None)

    def leave_interrupted(self, tags: Mapping[str, str]) -> None:
        """Leave the ends of all runs that were started here and not ended."""
        for run in list(self._open):
            self.leave(run, EndRun("failed", tags))

    def close(self) -> None:
        """End the delivery's thread. What has not arrived lies on disk."""
        self.delivery.close()
        if self._scratch is not None:
            self._scratch.close()

    def _own(self, folder: Path) -> Path:
        """A folder with the same files, that nobody else removes."""
        if self._scratch is None:  # nothing lies in it: who holds it has the folders that are named after it
            self._scratch = Scratch()
        own = own_folder(self._scratch)
        try:
            own.mkdir(mode=0o700)  # nobody else's to read while MLflow does not have it
            link_tree(folder, own)
        except OSError as error:
            shutil.rmtree(own, ignore_errors=True)
            raise DiskFullError(f"the files of a trial can't be kept in {own.parent}: {error}") from error
        return own


class _Writer:
    """Carries out what arrives: finds the run that a token stands for, and sees what other drivers did meanwhile."""

    def __init__(
        self, tracker: Tracker, study: RecordedStudy, say: Callable[[str], None], check: Callable[[], None]
    ) -> None:
        self._tracker, self._study, self._say, self._check = tracker, study, say, check
        self._run_ids: dict[str, str] = {}  # by token

    def apply(self, envelope: Envelope, again: bool) -> str:
        """Write it to MLflow, and return the id of the run that it starts or the address of the model that it makes.

        Args:
            again: it may have been written before.
        """
        operation, experiment = _operation_in(envelope), self._study.experiment_id
        attempt = Attempt(envelope.at, envelope.token, again)
        if not isinstance(operation, LogMetrics):
            self._check()
        if isinstance(operation, StartRun):
            started = self._run_ids[envelope.token] = self._tracker.write(operation, experiment, "", attempt)
            if again:
                self._give_up_if_another_ended(operation, started, envelope.at)
            return started
        run_id = self._run_id(envelope.run)
        if run_id is None and isinstance(operation, EndRun):  # it never came so far that there is something to end
            return ""
        if run_id is None:
            raise TrackingError(f"MLflow has no run with the tag {Tag.TOKEN} = {envelope.run}; somebody removed it.")
        if again and self._is_given_up(operation, run_id):
            return ""
        return self._tracker.write(operation, experiment, run_id, attempt)

    def _give_up_if_another_ended(self, start: StartRun, run_id: str, at: int) -> None:
        """Mark a run interrupted whose trial another driver has brought to its end before MLflow knew of this one."""
        trial = start.tags.get(Tag.TRIAL)
        if start.tags.get(Tag.KIND) not in _RUN_ONCE:
            return
        same = self._tracker.runs(self._study.experiment_id, f"tags.`{Tag.TRIAL}` = '{trial}'")
        ended = next((run for run in same if run.done and run.kind in _RUN_ONCE and run.run_id != run_id), None)
        if ended is not None:
            message = f"another driver took the study over and ran this trial to its end: run {ended.run_id}"
            self._tracker.end_run(run_id, "failed", {Tag.REASON: INTERRUPTED, Tag.MESSAGE: message}, at)
            self._say(f"{trial}: {message}. The record that waited here does not count")

    def _is_given_up(self, operation: Operation, run_id: str) -> bool:
        """Whether another driver has marked the run interrupted meanwhile: its trial runs again."""
        ends_so = isinstance(operation, EndRun | SetTags) and operation.tags.get(Tag.REASON) == INTERRUPTED
        own = run_id == self._study.run_id or ends_so
        return not own and self._tracker.tags(run_id).get(Tag.REASON) == INTERRUPTED

    def _run_id(self, run: str) -> str | None:
        """MLflow's id of the run; None: it has none."""
        if not run.startswith(_TOKEN):
            return run
        if run not in self._run_ids:
            found = self._tracker.find_run(self._study.experiment_id, run)
            if found is None:
                return None
            self._run_ids[run] = found
        return self._run_ids[run]


def _envelope(run: str, operation: Operation, token: str = "", files: Path | None = None) -> Envelope:
    name, arguments = operations.to_json(operation)
    return Envelope(name, _now(), run, arguments, token, files)


def _operation_in(envelope: Envelope) -> Operation:
    """Raises TrackingError where this version knows no such operation."""
    try:
        return operations.from_json(envelope.what, envelope.arguments, envelope.files)
    except (KeyError, TypeError, AttributeError) as error:
        raise TrackingError(
            f"a record of {envelope.what!r} is none of this version's ({error}); another version left it for MLflow."
        ) from error


def _now() -> int:
    return int(time.time() * 1000)
