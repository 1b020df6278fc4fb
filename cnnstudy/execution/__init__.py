"""Engines that run jobs in workers, one file each; the driver sees only what is here.

A job is plain data that a worker turns into events: progress, epochs, and in the end one result or one failure. Where
a trial may be pruned, the driver answers each of its epochs with go on or prune; else the worker waits for nobody.

Comes in: Jobs. Goes out: their events, and files in the executor's folder.

    driver                                    worker
      submit(Job)           ------------->
                            <-------------    Alive, Progress, Epoch
      answer(key, go_on)    ------------->
                            <-------------    Done, or Failed

May import: errors, names, records, system, data, architectures, config, training.
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
    "check_weights",
    "measure_speed",
    "run_trial",
    "predict",
    "export_model",
    "explain_errors",
    "open_test",
]


@dataclass(frozen=True)
class Job:
    """One piece of work: its kind, and what the worker's function of that kind takes."""

    key: str
    kind: Kind
    payload: dict[str, Any]
    asks: bool = False  # a trial, after each epoch, whether to go on


@dataclass(frozen=True)
class Alive:
    """The job gets on, and has nothing to tell."""

    key: str


@dataclass(frozen=True)
class Progress:
    """Something countable goes on; total 0 means: not known."""

    key: str
    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Epoch:
    """A trial ended an epoch."""

    key: str
    record: EpochRecord
    asks: bool = True  # and waits for an answer


@dataclass(frozen=True)
class Done:
    """The job's result as plain data."""

    key: str
    result: Any


@dataclass(frozen=True)
class Failed:
    """The job ended without a result.

    `error` names a class of cnnstudy.errors where the job raised one; `reason` is one of records.FAILURE_REASONS.
    """

    key: str
    reason: str
    message: str
    traceback: str
    error: str | None = None


Event = Alive | Progress | Epoch | Done | Failed


class Executor(Protocol):
    """Runs up to `slots` jobs at once."""

    slots: int
    #: Whether results must be equal to the last bit, whatever the number of slots and cores; set before the first job.
    deterministic: bool

    def submit(self, job: Job) -> None:
        """Start a job; the caller keeps to the number of slots."""

    def next_event(self, timeout: float) -> Event | None:
        """The next event of any job; None after `timeout` seconds without one."""

    def answer(self, key: str, go_on: bool) -> None:
        """Answer the Epoch event of a job that asks: train on, or stop here."""

    def stop(self, key: str) -> str:
        """End a job that hangs; it gets no more events. What its worker was doing, as far as it can be told."""

    def close(self) -> None:
        """End all workers now; jobs under way get no more events."""


class Workers:
    """An executor and a scratch folder for its files, both made when they are first asked for.

    Args:
        make: makes an executor that leaves the files of trials in a folder.
    """

    def __init__(self, make: Callable[[Path], Executor]) -> None:
        self._make = make
        self._scratch: Scratch | None = None
        self._executor: Executor | None = None

    @property
    def folder(self) -> Path:
        """For files; `close` removes it."""
        if self._scratch is None:
            self._scratch = Scratch()
        return self._scratch.folder

    @property
    def executor(self) -> Executor:
        """The executor, which leaves its files in `folder`."""
        if self._executor is None:
            self._executor = self._make(self.folder)
        return self._executor

    def start(self) -> None:
        """Make the executor now, while its user has other things to do."""
        _ = self.executor

    def close(self) -> None:
        """End the workers and remove their files; nothing happens where there are none."""
        executor, scratch = self._executor, self._scratch
        self._executor = self._scratch = None
        if executor is not None:
            executor.close()
        if scratch is not None:
            scratch.close()
