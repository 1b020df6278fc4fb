"""What a study writes to MLflow: each record once, in order, with its time, whether MLflow answers or not.

While it answers, a write is a call that returns when it is done. Where it does not (a locked or read-only database, a
server that is down, slow or restarting) the records go to disk and whoever writes goes on; delivery.py brings them
there later, and the next call does where this one ended before.
"""

from __future__ import annotations

import functools
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cnnstudy.delivery import Delivery
from cnnstudy.errors import DiskFullError, TrackingError
from cnnstudy.leftovers import INTERRUPTED
from cnnstudy.linking import link_tree
from cnnstudy.names import Tag
from cnnstudy.patience import Patience
from cnnstudy.records import PreparedImages, RecordedStudy
from cnnstudy.scratch import Scratch
from cnnstudy.spool import Operation, Spool, own_folder
from cnnstudy.tracking import Tracker

_TOKEN = "token-"
#: Kinds of runs of which one of a trial counts.
_RUN_ONCE = ("trial", "confirm")


class Outbox(Delivery):
    """The methods of Tracker that write, for one study, with the times.

    A run is named by MLflow's id or, where MLflow did not answer when it was started, by a token that stands for it.
    The token is on the run, and another on a model: where the reply was lost that it was made, it is found, not made
    again.

    Args:
        say: for the user.
        patience: None: the usual one.
        check: called before anything but metrics is written, also late, to raise where that is no longer to be done.

    Each raises:
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
        super().__init__(Spool(study.name, tracker.uri), self._write, say, patience or Patience())
        self._tracker, self._study, self._check = tracker, study, check
        self._run_ids: dict[str, str] = {}
        self._open: dict[str, None] = {}  # runs that were started here and not ended

    def start_run(
        self, name: str, tags: Mapping[str, str], parameters: Mapping[str, Any], images: PreparedImages
    ) -> str:
        """A new run; what names it."""
        token = _TOKEN + uuid.uuid4().hex
        texts = {key: str(value) for key, value in parameters.items()}
        given = {"name": name, "tags": dict(tags), "parameters": texts, "images": images.to_json()}
        self._open[token] = None
        run = self.put(Operation("start_run", _now(), token, given, token)) or token
        del self._open[token]
        self._open[run] = None
        return run

    def log_metrics(self, run: str, metrics: Mapping[str, float], step: int) -> None:
        """All metrics of one step."""
        self.put(Operation("log_metrics", _now(), run, {"metrics": dict(metrics), "step": step}))

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Tags may be cut to what MLflow takes."""
        self.put(Operation("set_tags", _now(), run, {"tags": dict(tags)}))

    def log_files(self, run: str, folder: Path) -> None:
        """The folder's content as the run's artifacts; the caller may remove it then."""
        self.put(Operation("log_files", _now(), run, files=self._own(folder)))

    def log_model(
        self,
        run: str,
        name: str,
        folder: Path,
        metrics: Mapping[str, float],
        step: int,
        images: PreparedImages,
        tags: Mapping[str, str],
    ) -> None:
        """The folder, a model that a worker packaged, as an output of the run; the caller may remove it then."""
        given = {"name": name, "metrics": dict(metrics), "step": step, "images": images.to_json(), "tags": dict(tags)}
        self.put(Operation("log_model", _now(), run, given, uuid.uuid4().hex, self._own(folder)))

    def end_run(self, run: str, state: str, tags: Mapping[str, str] | None = None) -> None:
        """The last word on a run."""
        self.put(_end(run, state, tags))
        self._open.pop(run, None)

    def leave_end(self, run: str, state: str, tags: Mapping[str, str] | None = None) -> None:
        """The last word on a run, left on disk whatever happened before: for those who are about to stop."""
        self.leave(_end(run, state, tags))
        self._open.pop(run, None)

    def leave_interrupted(self, tags: Mapping[str, str]) -> None:
        """Leave the ends of all runs that were started here and not ended."""
        for run in list(self._open):
            self.leave_end(run, "failed", tags)

    def close(self) -> None:
        """End the thread. What has not arrived lies on disk."""
        super().close()
        if "_scratch" in self.__dict__:
            self._scratch.close()

    @functools.cached_property
    def _scratch(self) -> Scratch:
        """Nothing lies in it: who holds it has the folders that are named after it."""
        return Scratch()

    def _own(self, folder: Path) -> Path:
        """A folder with the same files, that nobody else removes."""
        own = own_folder(self._scratch)
        try:
            own.mkdir(mode=0o700)  # nobody else's to read while MLflow does not have it
            link_tree(folder, own)
        except OSError as error:
            shutil.rmtree(own, ignore_errors=True)
            raise DiskFullError(f"the files of a trial can't be kept in {own.parent}: {error}") from error
        return own

    def _write(self, operation: Operation, again: bool) -> str:
        given, at, files = dict(operation.arguments), operation.at, operation.files
        if "images" in given:
            given["images"] = PreparedImages.from_json(given["images"])
        experiment = self._study.experiment_id
        if operation.what != "log_metrics":
            self._check()
        made: dict[str, Any] = {"at": at, "token": operation.token, "again": again}
        if operation.what == "start_run":
            started = self._run_ids[operation.token] = self._tracker.start_run(experiment, **given, **made)
            if again:
                self._give_up_if_another_ended(operation, started)
            return started
        run_id = self._run_id(operation.run)
        if run_id is None and operation.what == "end_run":  # it never came so far that there is something to end
            return ""
        if run_id is None:
            raise TrackingError(f"MLflow has no run with the tag {Tag.TOKEN} = {operation.run}; somebody removed it.")
        if again and self._is_given_up(operation, run_id):
            return ""
        if operation.what == "log_model":
            assert files is not None
            return self._tracker.log_model(experiment, run_id, folder=files, **given, **made)
        if operation.what == "log_files":
            assert files is not None
            self._tracker.log_files(run_id, files)
        elif operation.what == "set_tags":
            self._tracker.set_tags(run_id, **given)
        elif operation.what == "log_metrics":
            self._tracker.log_metrics(run_id, **given, at=at)
        else:
            self._tracker.end_run(run_id, **given, at=at)
        return ""

    def _give_up_if_another_ended(self, operation: Operation, run_id: str) -> None:
        """Mark a run interrupted whose trial another driver has brought to its end before MLflow knew of this one."""
        tags = operation.arguments["tags"]
        trial = tags.get(Tag.TRIAL)
        if tags.get(Tag.KIND) not in _RUN_ONCE:
            return
        same = self._tracker.runs(self._study.experiment_id, f"tags.`{Tag.TRIAL}` = '{trial}'")
        ended = next((run for run in same if run.done and run.kind in _RUN_ONCE and run.run_id != run_id), None)
        if ended is not None:
            message = f"another driver took the study over and ran this trial to its end: run {ended.run_id}"
            self._tracker.end_run(run_id, "failed", {Tag.REASON: INTERRUPTED, Tag.MESSAGE: message}, operation.at)
            self._say(f"{trial}: {message}. The record that waited here does not count")

    def _is_given_up(self, operation: Operation, run_id: str) -> bool:
        """Whether another driver has marked the run interrupted meanwhile: its trial runs again."""
        ends_so = operation.arguments.get("tags", {}).get(Tag.REASON) == "interrupted"
        own = run_id == self._study.run_id or ends_so
        return not own and self._tracker.tags(run_id).get(Tag.REASON) == "interrupted"

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


def _end(run: str, state: str, tags: Mapping[str, str] | None) -> Operation:
    return Operation("end_run", _now(), run, {"state": state, "tags": dict(tags or {})})


def _now() -> int:
    return int(time.time() * 1000)
