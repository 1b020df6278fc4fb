"""The progress of a running study: a live view on a terminal, plain lines elsewhere, nothing with --quiet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from cnnstudy.errors import printable
from cnnstudy.names import Metric
from cnnstudy.records import EpochRecord
from cnnstudy.system.output import print_message

#: What the bar of the study's trials counts.
_TRIALS = "trials"
#: Units of bytes, the largest first; and the fraction of a unit that is shown as 1.00 of it.
_UNITS, _ROUNDED_UP = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (1000, "kB")), 0.9995


class Display(Protocol):
    """Shows the progress of a study; the driver calls it."""

    silent: bool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show_message(self, text: str) -> None:
        """Show a message permanently."""

    def count(self, what: str, done: int, total: int) -> None:
        """Show progress in counting `what`; a total of 0 means unknown."""

    def start_trials(self, done: int, total: int) -> None:
        """Show that the study's trials begin; `done` were recorded before; a total of 0 means unknown."""

    def start_trial(self, key: str, title: str, epochs: int, seconds: float = 0.0) -> None:
        """Show that a worker received a trial, `seconds` ago."""

    def epoch(self, key: str, record: EpochRecord) -> None:
        """Show the metrics of a trial's epoch; nothing for epoch 0, the measurement before the first update."""

    def end_trial(self, key: str, text: str) -> None:
        """Show that a trial ended, and count it."""

    def stop_trial(self, key: str, text: str) -> None:
        """Show that a trial was stopped and will run again; it is not counted."""

    def show_answer(self, text: str) -> None:
        """Show what the trials that have ended say; a later answer takes its place."""


class SilentDisplay(Display):
    """A display that shows nothing."""

    silent = True

    def show_message(self, text: str) -> None:
        return

    def count(self, what: str, done: int, total: int) -> None:
        return

    def start_trials(self, done: int, total: int) -> None:
        return

    def start_trial(self, key: str, title: str, epochs: int, seconds: float = 0.0) -> None:
        return

    def epoch(self, key: str, record: EpochRecord) -> None:
        return

    def end_trial(self, key: str, text: str) -> None:
        return

    def stop_trial(self, key: str, text: str) -> None:
        return

    def show_answer(self, text: str) -> None:
        return


def format_metrics(record: EpochRecord) -> str:
    """Format clean accuracies: `train 98.1 %  val 91.3 %  gap +6.8`, the gap in points."""
    metrics = record.metrics
    train, validation = 100 * metrics[Metric.TRAIN_ACCURACY], 100 * metrics[Metric.VAL_ACCURACY]
    return f"train {train:5.1f} %  val {validation:5.1f} %  gap {100 * metrics[Metric.GAP_ACCURACY]:+5.1f}"


def shorten_title(title: str, room: int) -> str:
    """Return a trial's title without its last levels, so that it fits; a level that is shown is whole, "" if none."""
    levels = title.split(", ")
    fitting = [", ".join([*levels[:shown], "…"]) for shown in range(len(levels) - 1, 0, -1)]
    return next((text for text in (title, *fitting) if len(text) <= room), "")


def format_duration(seconds: float) -> str:
    """Format a duration: `1 h 05 min`, `2 min 07 s` or `9 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count_noun(number: int, noun: str) -> str:
    """Return `1 trial`, `2 trials`, `1,200 trials`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_size(count: int) -> str:
    """Format a number of bytes with three significant digits: `2.6 GB`; above 999 TB `1,500 TB`."""
    one, unit = next(((one, unit) for one, unit in _UNITS if count >= _ROUNDED_UP * one), _UNITS[-1])
    amount = count / one
    return f"{amount:,.0f} {unit}" if amount >= 100 else f"{amount:.3g} {unit}"


#: Columns of a line about a trial.
COLUMNS = 100


class _Clock:
    """Estimates the remaining time from the trials that ended since it was started."""

    def __init__(self) -> None:
        self.done = self.before = self.total = 0
        self.started = time.monotonic()

    def start(self, done: int, total: int) -> None:
        self.done = self.before = done
        self.total = total
        self.started = time.monotonic()

    def remaining(self) -> str:
        """Return `about 5 min 00 s left`; "" if it is unknown or nothing is left."""
        ended = self.done - self.before
        if not ended or self.done >= self.total:
            return ""
        return f"about {format_duration((time.monotonic() - self.started) / ended * (self.total - self.done))} left"


#: Without a line for so many seconds, a display of lines says what is going on; and how often it looks.
LONGEST_SILENCE, LOOK_SECONDS = 25.0, 5.0
#: The same of a command that answers once.
LONGEST_WAIT = 9.0


@dataclass
class _Work:
    """What is under way, since when (time.monotonic), and the seconds that it is expected to take; 0: not known."""

    text: str
    since: float
    epochs: int = 0
    expected: float = 0.0

    def __str__(self) -> str:
        taken = f"{self.text}, for {format_duration(time.monotonic() - self.since)}"
        return f"{taken} of about {format_duration(self.expected)}" if self.expected else taken


class PlainDisplay(Display):
    """A display that prints lines, for logs and pipes; in a `with` block it is never silent for more than 30 s.

    Args:
        write: prints a line.
        reminds: whether to say what is going on when nothing else is printed.
        look: seconds between two looks whether that is so.
        only_silence: whether to print nothing else than what takes long, as for a command that answers once.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        reminds: bool = True,
        look: float = LOOK_SECONDS,
        only_silence: bool = False,
    ) -> None:
        self.silent = only_silence
        self._print = write
        self._clock = _Clock()
        self._work: dict[str, _Work] = {}  # by trial; "": what is counted while none runs
        self._last = ("", 0)
        self._written = time.monotonic()
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._look = look
        self._reminder = threading.Thread(target=self._remind_always, daemon=True) if reminds else None

    def __enter__(self) -> Self:
        self._written = time.monotonic()
        if self._reminder is not None:
            try:
                self._reminder.start()
            except BaseException:  # an interrupt while it starts: nobody leaves the block that was not entered
                self._over.set()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()  # not waited for: it may write to a pipe that nobody reads

    def _remind_always(self) -> None:
        while not self._over.wait(self._look):
            self.remind()

    def remind(self) -> None:
        """Say what is going on, if nothing was printed for LONGEST_SILENCE or, `only_silence`, LONGEST_WAIT seconds."""
        with self._lock:
            silent = time.monotonic() - self._written
            if silent < (LONGEST_WAIT if self.silent else LONGEST_SILENCE) or self._over.is_set():
                return
            trials = [f"{key}  {work}" for key, work in self._work.items() if key]
            lines = trials or [str(self._work[""]) if "" in self._work else "still at work"]
            for line in lines:
                self._write(line)

    def _write(self, text: str) -> None:
        with self._lock:
            self._print(text)
            self._written = time.monotonic()

    def _begin(self, key: str, text: str, epochs: int = 0, expected: float = 0.0) -> None:
        with self._lock:
            self._work[key] = _Work(text, time.monotonic(), epochs, expected)

    def show_message(self, text: str) -> None:
        if not self.silent:
            self._write(text)

    def count(self, what: str, done: int, total: int) -> None:
        self._note_count(what, done, total)
        if self.silent:
            return
        tenth = 10 * done // total if total else 0
        if (what, tenth) != self._last:
            self._last = (what, tenth)
            self._write(f"{what}: {done} of {total}" if total else what)

    def _note_count(self, what: str, done: int, total: int) -> None:
        key, _, of_trial = what.partition(": ")
        key, doing = (key, of_trial) if key in self._work else ("", what)
        with self._lock:
            before = self._work.get(key)
            if key and not total:  # a remark on the trial, which goes on with what it does
                return
            if done == total > 0 and not key:
                self._work.pop("", None)
                return
            since = before.since if before and before.text.startswith(doing) else time.monotonic()
            text = f"{doing}: {done} of {total}" if total else doing
            self._work[key] = _Work(text, since, before.epochs if before else 0)

    def start_trials(self, done: int, total: int) -> None:
        with self._lock:
            self._work.pop("", None)
        self._clock.start(done, total)

    def start_trial(self, key: str, title: str, epochs: int, seconds: float = 0.0) -> None:
        self._begin(key, "starting", epochs)
        self._write(f"{key}  {shorten_title(title, COLUMNS - len(f'{key}  : started'))}: started")

    def epoch(self, key: str, record: EpochRecord) -> None:
        before = self._work[key]
        epochs = before.epochs
        if record.epoch < epochs:
            trained = bool(record.epoch) and not record.replayed
            expected = time.monotonic() - before.since if trained else 0.0  # as long as the epoch that has ended
            self._begin(key, f"epoch {record.epoch + 1}/{epochs} is training", epochs, expected)
        else:
            self._begin(key, "after its last epoch", epochs)
        if record.epoch and not record.replayed:  # it was printed when it was trained
            self._write(f"{key}  epoch {record.epoch}/{epochs}  {format_metrics(record)}")

    def end_trial(self, key: str, text: str) -> None:
        trial = not key.startswith("pretrain-")
        self._clock.done += trial
        done, total = self._clock.done, self._clock.total
        count = f"{done} of {total} trials" if total else f"{done} so far"
        left = self._clock.remaining()
        line = f"{text}  ({count}) {left}".rstrip() if trial else text
        if fits := len(f"{key}  {line}") <= COLUMNS:
            text = line
        elif len(f"{key}  {text}") > COLUMNS:
            text = text.removeprefix("finished, ")  # which is told by its result, too
        self.stop_trial(key, text)
        if not fits and trial and total:
            self._write(", ".join(filter(None, [count, left])))

    def stop_trial(self, key: str, text: str) -> None:
        with self._lock:
            self._work.pop(key, None)
        self._write(f"{key}  {text}")

    def show_answer(self, text: str) -> None:
        self.show_message(text)


class LiveDisplay(Display):
    """A display with a progress bar for the study and a line for each running trial."""

    silent = False

    def __init__(self, console: Console) -> None:
        self._console = console
        self._clock = _Clock()
        self._rows: dict[str, tuple[str, int, EpochRecord | None, float]] = {}
        self._gaps: list[float] = []  # of the trials that finished, points
        self._answer = ""  # so far
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._rows.clear()
        self._answer = ""
        for task in self._tasks.values():
            self._bars.update(task, visible=False)
        self._live.__exit__(None, None, None)

    def show_message(self, text: str) -> None:
        print_message(self._console, text)

    def count(self, what: str, done: int, total: int) -> None:
        what = printable(what)
        if what not in self._tasks:
            self._clear_bars(lambda other: True)
            self._tasks[what] = self._bars.add_task(what, total=total or None, note="")
        self._bars.update(self._tasks[what], completed=done, total=total or None)

    def _clear_bars(self, is_over: Callable[[str], bool]) -> None:
        """Remove the bars of what is over; that of the trials stays."""
        for what in [what for what in self._tasks if what != _TRIALS and is_over(what)]:
            self._bars.remove_task(self._tasks.pop(what))

    def _clear_bars_before(self, key: str) -> None:
        """Remove the bars of what came before a trial's epochs, but not those of other trials that are running."""
        running = [f"{other}: " for other in self._rows if other != key]
        self._clear_bars(lambda what: not what.startswith(tuple(running)))

    def start_trials(self, done: int, total: int) -> None:
        self._clock.start(done, total)
        self.count(_TRIALS, done, total)

    def start_trial(self, key: str, title: str, epochs: int, seconds: float = 0.0) -> None:
        self._clear_bars_before(key)
        self._rows[key] = (title, epochs, None, time.monotonic() - seconds)

    def epoch(self, key: str, record: EpochRecord) -> None:
        self._clear_bars_before(key)
        title, epochs, _, started = self._rows[key]
        self._rows[key] = (title, epochs, record if record.epoch else None, started)

    def end_trial(self, key: str, text: str) -> None:
        last = self._rows[key][2] if key in self._rows else None
        self.stop_trial(key, text)
        if key.startswith("pretrain-"):
            return
        self._clock.done += 1
        self.count(_TRIALS, self._clock.done, self._clock.total)
        if last is not None and text.startswith("finished"):
            self._gaps.append(100 * last.metrics[Metric.GAP_ACCURACY])
        gap = f"mean gap {sum(self._gaps) / len(self._gaps):+.1f}" if self._gaps else ""
        self._bars.update(self._tasks[_TRIALS], note=", ".join(filter(None, [self._clock.remaining(), gap])))

    def stop_trial(self, key: str, text: str) -> None:
        title = self._rows.pop(key, ("", 0, None, 0.0))[0]
        self._clear_bars(lambda what: what.startswith(f"{key}: "))
        # the result fits the line; the leaderboard has the rest
        title = shorten_title(title, self._console.width - len(f"{key}  : {text}"))
        self.show_message(f"{key}  {title}: {text}" if title else f"{key}  {text}")

    def show_answer(self, text: str) -> None:
        self._answer = printable(text)

    def _render(self) -> Group:
        rows = []
        for key, (title, epochs, record, started) in list(self._rows.items()):  # copied, because another thread draws
            seconds = format_duration(time.monotonic() - started)
            epoch = f"epoch {record.epoch}/{epochs}" if record else f"epoch 0/{epochs}"
            cells = (key, title, epoch, format_metrics(record) if record else "starting", seconds)
            rows.append(cells)
        table = Table.grid(padding=(0, 2))
        # a long title is cut, then the key: each trial has one line, and its numbers are whole
        room = self._console.width - sum(max(len(row[place]) + 2 for row in rows) for place in (2, 3, 4)) if rows else 0
        table.add_column(max_width=max(1, room - 4))
        for place in (1, 2, 3, 4):
            table.add_column(no_wrap=place > 1)
        for row in rows:
            table.add_row(*(Text(printable(cell), no_wrap=True, overflow="ellipsis") for cell in row))
        return Group(table, self._bars, *([Text(self._answer)] if self._answer else []))


def watch_command(console: Console) -> Display:
    """Return the display of a command that answers once."""
    if console.is_terminal:
        return LiveDisplay(console)
    return PlainDisplay(lambda text: print_message(console, text), look=1.0, only_silence=True)


def choose_display(console: Console, quiet: bool, reminds: bool = True) -> Display:
    """Return the display that fits the console.

    Args:
        reminds: as for PlainDisplay.
    """
    if quiet:
        return SilentDisplay()
    if console.is_terminal:
        return LiveDisplay(console)
    return PlainDisplay(lambda text: print_message(console, text), reminds)
