"""Executors: they run jobs in workers. This module is the protocol; each other module is an executor or part of one.

__init__        the protocol: Job, the events, Executor; Workers
selection       which executor runs a command's jobs, by its name
local           the usual executor: worker processes on this machine
ray_cluster     the executor for a Ray cluster: slots on its nodes
ray_slot        one of them on the driver's side: a thread that keeps an actor, and moves jobs, events and files
ray_node        the same slot on the node's side: the actor, with a `local` executor of one worker
ray_connection  join or start a cluster; what went wrong, in words
node_files      which files nodes have; checkpoints that come from them
parcels         files that travel between machines: by content, in pieces, checked
worker          the program that worker processes run: jobs in, events out
time_limit      an executor around another that stops at a time
jobs            run one job to its end; the watchdog that finds jobs that hang

Comes in: jobs, which are plain data. Goes out: events (progress, epochs), and for each job one result or one failure.
May import: errors, names, records, system, data, architectures, config, training.

    driver                                    worker
      submit(Job)           ------------->
                            <-------------    Alive, Progress, Epoch
      answer(key, go_on)    ------------->
                            <-------------    Done, or Failed

Where a trial may be pruned (`Job.asks`), the worker waits after each epoch for the driver to say whether to continue;
otherwise it never waits for the driver.

To add an executor, write a class that satisfies `Executor` in a file of its own here, return it from `make_executor`
in selection, and add it to `make` in tests/execution/test_contract.py, whose tests every executor must pass. The
rest of the package uses an executor only through this protocol; jobs and selection are its helpers.
docs/development.md has the details.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from cnnstudy.records import EpochRecord
from cnnstudy.system.scratch import Scratch

Kind = Literal[
    "prepare_images",
    "count_source_copies",
    "check_network",
    "check_weights",
    "measure_speed",
    "run_trial",
    "predict",
    "export_model",
    "export_features",
    "explain_mistakes",
    "find_lookalikes",
    "open_test",
]


@dataclass(frozen=True)
class Job:
    """One piece of work: its kind, and the arguments of the worker's function for that kind."""

    key: str
    kind: Kind
    payload: dict[str, Any]
    asks: bool = False  # whether the worker asks after each epoch if it should continue


@dataclass(frozen=True)
class Alive:
    """A sign of life: the job is making progress that no other event reports."""

    key: str


@dataclass(frozen=True)
class Waiting:
    """A job waits for a machine to run on; the time does not count as the job's."""

    key: str
    what: str  # it waits for


@dataclass(frozen=True)
class Progress:
    """The progress of something countable; a total of 0 means that the total is not known."""

    key: str
    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Epoch:
    """The end of an epoch of a trial."""

    key: str
    record: EpochRecord
    asks: bool = True  # whether the worker waits for an answer


@dataclass(frozen=True)
class Done:
    """The job's result as plain data."""

    key: str
    result: Any


@dataclass(frozen=True)
class Failed:
    """The end of a job without a result.

    `error` names a class of cnnstudy.errors where the job raised one; `reason` is one of records.FAILURE_REASONS. A
    machine that was lost or taken away is reported as `lost`, which uses up none of the trial's attempts. `is_guess`
    says that the reason is only the likeliest: a worker was killed, and the system does not tell why.
    """

    key: str
    reason: str
    message: str
    traceback: str
    error: str | None = None
    is_guess: bool = False


Event = Alive | Waiting | Progress | Epoch | Done | Failed


class Executor(Protocol):
    """Runs up to `slots` jobs at the same time; their number may change as machines come and go."""

    slots: int
    #: Whether results must be bit-identical whatever the number of slots and cores; set before the first job.
    deterministic: bool

    def start_ahead(self, job: Job) -> None:
        """Start a worker and this job early, while the caller has other things to do.

        The job's events are returned once it is submitted. If another job is submitted first, this one is dropped. An
        executor that gains nothing by this may do nothing.
        """

    def submit(self, job: Job) -> None:
        """Start a job; the caller submits no more jobs than there are slots."""

    def next_event(self, timeout: float) -> Event | None:
        """Return the next event of any job, or None after `timeout` seconds without one."""

    def answer(self, key: str, go_on: bool) -> None:
        """Answer the Epoch event of a job that asks: continue training, or stop here."""

    def stop(self, key: str) -> str:
        """End a job that hangs, which gets no more events; return what its worker was doing, as far as is known."""

    def close(self) -> None:
        """End all workers now; running jobs get no more events."""


class Workers:
    """An executor and a scratch folder for its files, both created on first use.

    Args:
        make: returns an executor that writes the files of trials to the folder that it is given.
    """

    def __init__(self, make: Callable[[Path], Executor]) -> None:
        self._make = make
        self._scratch: Scratch | None = None
        self._executor: Executor | None = None

    @property
    def folder(self) -> Path:
        """The scratch folder; `close` removes it."""
        if self._scratch is None:
            self._scratch = Scratch()
        return self._scratch.folder

    @property
    def executor(self) -> Executor:
        """The executor, which writes its files to `folder`."""
        if self._executor is None:
            self._executor = self._make(self.folder)
        return self._executor

    def start(self) -> None:
        """Create the executor now, while the caller has other things to do."""
        _ = self.executor

    def close(self) -> None:
        """End the workers and remove their files, if there are any."""
        executor, scratch = self._executor, self._scratch
        self._executor = self._scratch = None
        if executor is not None:
            executor.close()
        if scratch is not None:
            scratch.close()
