"""A live view of a study that another process runs, maybe on another machine: all of it is read from MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable

from cnnstudy.calls import that_goes_on, that_runs_what_is_missing
from cnnstudy.display import Display, duration
from cnnstudy.errors import TrackingError
from cnnstudy.records import RecordedStudy
from cnnstudy.signals import terminate_as_interrupt
from cnnstudy.snapshots import Snapshot, first_snapshot, news, next_snapshot
from cnnstudy.tracking import Tracker

#: After so many seconds without news the view says so: a driver that was killed says nothing any more.
QUIET = 600.0


def watch(
    tracker: Tracker,
    name: str | None,
    display: Display,
    poll_seconds: float = 2.0,
    until_done: bool = True,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> None:
    """Show a study until its driver ends; a study that none runs is told and left, unless it is to be waited for.

    KeyboardInterrupt ends the view, not the study. Where MLflow stops answering it is asked again and again.

    Args:
        name: of the study; None: the one that was run last.
        until_done: else it waits for the next driver, and is ended by KeyboardInterrupt alone.
        clock: seconds since 1970.

    Raises:
        UnknownNameError: there is no such study.
        TrackingError: MLflow does not answer at the start.
    """
    study = tracker.study(name)
    before, now = None, first_snapshot(tracker, study)
    latest, silent = clock(), False
    try:
        with terminate_as_interrupt():
            while True:
                found = list(news(before, now, clock())) if now.running or before is not None else []
                for one in found:
                    one.tell(display)
                if before is None or before.running != now.running:
                    display.say(standing(study.name, now))
                if until_done and not now.running:
                    return
                if found:
                    latest, silent = clock(), False
                elif now.running and not silent and clock() - latest >= QUIET:
                    display.say(f"no news for {duration(clock() - latest)}: a long epoch, or its driver was killed")
                    silent = True
                before, now = now, _next(tracker, study, now, display, lambda: sleep(poll_seconds))
    except KeyboardInterrupt:
        display.say(f"The view ends; study {study.name} is left as it is.")
        raise


def _next(
    tracker: Tracker, study: RecordedStudy, before: Snapshot, display: Display, wait: Callable[[], None]
) -> Snapshot:
    """The next snapshot that can be had."""
    silent = False
    while True:
        wait()
        try:
            found = next_snapshot(tracker, study, before)
        except TrackingError as error:
            if not silent:
                display.say(f"{error}\nTrying again until it does; Ctrl-C ends the view.")
            silent = True
            continue
        if silent:
            display.say("MLflow answers again")
        return found


def standing(name: str, now: Snapshot) -> str:
    """Where the study of that name stands: how far it is, and how it ended where no driver runs it."""
    trials, total = now.done("trial"), now.total()
    states = [run.state for run in trials.values()]
    counts = [f"{states.count(state)} {state}" for state in ("finished", "pruned", "failed")]
    missing = total - len(trials)
    if now.running:
        counts.append(f"{len(now.under_way)} under way")
        missing -= sum(run.kind == "trial" for run in now.under_way)
    counts += [f"{max(0, missing)} {'to begin' if now.running else 'missing'}"] if total else []
    if confirmations := now.done("confirm"):
        counts.append(f"{len(confirmations)} done with fresh seeds")
    text = f"study {name}: {', '.join(counts)}"
    if now.running:
        return text if now.under_way else f"{text}; no trial is under way, its images or weights may be in the making"
    if now.study.reason == "interrupted":
        ended = f"it was stopped; {that_goes_on(now.study)}"
    elif now.study.state == "failed" and now.study.message:
        ended = f"it ended with an error: {now.study.message}"
    elif now.study.state == "failed":
        ended = f"it ended with trials missing; {that_runs_what_is_missing(now.study)}"
    else:
        ended = "it is done"
    return f"{text}. No driver is running: {ended}."
