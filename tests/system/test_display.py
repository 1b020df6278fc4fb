"""The displays of a running study."""

from __future__ import annotations

import dataclasses
import io
import re
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from rich.console import Console

from cnnstudy.records import EpochRecord
from cnnstudy.system.display import (
    Display,
    LiveDisplay,
    PlainDisplay,
    choose_display,
    format_duration,
    format_metrics,
    format_size,
    watch_command,
)


class Clock:
    """Time as the displays see it, in seconds."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("cnnstudy.system.display.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def epoch(number: int) -> EpochRecord:
    return EpochRecord(number, {"train/accuracy": 0.981, "val/accuracy": 0.913, "gap/accuracy": 0.068})


def play(display: Display, clock: Clock) -> Iterator[str]:
    """A study of three trials, the first of them recorded before; yields what goes on after each step."""
    display.count("decoding [x]", 50, 100)
    yield "decoding"
    display.show_message("digits: [1] image is skipped")
    display.start_trial("pretrain-alexnet", "on digits", 1)
    display.epoch("pretrain-alexnet", epoch(1))
    display.end_trial("pretrain-alexnet", "validation 90.0 %")
    display.start_trials(1, 3)
    display.start_trial("alexnet-001", "frozen, batch 8", 5)
    display.epoch("alexnet-001", epoch(0))  # before the first update
    yield "started"
    display.epoch("alexnet-001", epoch(4))
    clock.now += 125
    yield "trained"
    display.end_trial("alexnet-001", "finished")
    display.start_trial("alexnet-002", "scratch, batch 8", 5)
    yield "one left"
    display.end_trial("alexnet-002", "failed (oom): [Errno 12] no memory")
    yield "done"


def test_an_epoch_of_an_earlier_try_is_not_said_again(clock: Clock) -> None:
    lines: list[str] = []
    display = PlainDisplay(lines.append)
    display.start_trial("alexnet-001", "frozen, batch 8", 5)
    display.epoch("alexnet-001", dataclasses.replace(epoch(1), replayed=True))
    display.epoch("alexnet-001", epoch(2))
    assert [line[:22] for line in lines] == ["alexnet-001  frozen, b", "alexnet-001  epoch 2/5"]


def test_plain_lines(clock: Clock) -> None:
    lines: list[str] = []
    for _ in play(PlainDisplay(lines.append), clock):
        pass
    assert lines == [
        "decoding [x]: 50 of 100",
        "digits: [1] image is skipped",
        "pretrain-alexnet  on digits: started",
        "pretrain-alexnet  epoch 1/1  train  98.1 %  val  91.3 %  gap  +6.8",
        "pretrain-alexnet  validation 90.0 %",
        "alexnet-001  frozen, batch 8: started",
        "alexnet-001  epoch 4/5  train  98.1 %  val  91.3 %  gap  +6.8",
        "alexnet-001  finished  (2 of 3 trials) about 2 min 05 s left",
        "alexnet-002  scratch, batch 8: started",
        "alexnet-002  failed (oom): [Errno 12] no memory  (3 of 3 trials)",
    ]


def test_a_pipe_is_told_what_goes_on(clock: Clock) -> None:
    lines: list[str] = []
    display = PlainDisplay(lines.append)

    def said(seconds: float) -> list[str]:
        """What is said at the end of so many seconds in which nothing happens."""
        lines.clear()
        clock.now += seconds
        display.remind()
        return lines

    assert said(24) == []
    assert said(1) == ["still at work"]
    display.count("decoding", 50, 100)
    clock.now += 20
    display.count("decoding", 51, 100)  # not a line of its own
    assert said(10) == ["decoding: 51 of 100, for 30 s"]
    assert said(10) == []
    assert said(30) == ["decoding: 51 of 100, for 1 min 10 s"]
    display.count("decoding", 100, 100)
    assert said(30) == ["still at work"]
    display.count("checking weights", 0, 0)
    assert said(30) == ["checking weights, for 30 s"]
    display.start_trials(0, 2)
    display.start_trial("alexnet-001", "frozen", 5)
    display.count("alexnet-001: features", 10, 1000)
    display.count("alexnet-001: a GPU is not used", 0, 0)
    assert said(30) == ["alexnet-001  features: 10 of 1000, for 30 s"]
    display.epoch("alexnet-001", epoch(0))
    display.start_trial("alexnet-002", "scratch", 5)
    display.epoch("alexnet-002", epoch(4))
    assert said(40) == [
        "alexnet-001  epoch 1/5 is training, for 40 s",
        "alexnet-002  epoch 5/5 is training, for 40 s",
    ]
    display.epoch("alexnet-001", epoch(1))  # it took 40 s
    assert said(25) == [
        "alexnet-001  epoch 2/5 is training, for 25 s of about 40 s",
        "alexnet-002  epoch 5/5 is training, for 1 min 05 s",
    ]
    display.epoch("alexnet-001", dataclasses.replace(epoch(2), replayed=True))  # its time says nothing
    assert said(25)[0] == "alexnet-001  epoch 3/5 is training, for 25 s"
    display.epoch("alexnet-002", epoch(5))
    display.stop_trial("alexnet-001", "interrupted")
    assert said(25) == ["alexnet-002  after its last epoch, for 25 s"]
    display.end_trial("alexnet-002", "finished")
    assert said(25) == ["still at work"]


def test_a_command_that_answers_once_prints_only_what_takes_long(clock: Clock) -> None:
    lines: list[str] = []
    display = PlainDisplay(lines.append, only_silence=True)
    display.show_message("reading")
    display.count("decoding", 1, 100)
    clock.now += 8
    display.remind()
    display.count("decoding", 50, 100)
    assert lines == []
    clock.now += 1
    display.remind()
    assert lines == ["decoding: 50 of 100, for 9 s"]
    piped = watch_command(Console(file=io.StringIO(), force_terminal=False))
    assert isinstance(piped, PlainDisplay)
    assert piped.silent
    assert isinstance(watch_command(Console(file=io.StringIO(), force_terminal=True)), LiveDisplay)


@pytest.mark.parametrize("reminds", [True, False])
def test_a_pipe_is_told_by_itself(reminds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnstudy.system.display.LONGEST_SILENCE", 0.0)
    told = threading.Event()
    lines: list[str] = []

    def write(text: str) -> None:
        lines.append(text)
        told.set()

    with PlainDisplay(write, reminds, look=0.001):
        assert told.wait(60 if reminds else 0.05) is reminds
    assert bool(lines) is reminds


NASTY = "cat\x1b[2J\r\nerror: \u202e [/red]"


@pytest.mark.parametrize("terminal", [True, False])
def test_names_control_no_display(terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, color_system=None, width=200)
    with choose_display(console, quiet=False) as display:
        display.count(NASTY, 1, 2)
        display.show_message(NASTY)
        display.start_trial(NASTY, NASTY, 2)
        if isinstance(display, LiveDisplay):
            display._live.refresh()
        display.end_trial(NASTY, NASTY)
    said = re.sub(r"\r?\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue().replace("\x1b[2J", "CLEARED"))
    assert "CLEARED" not in said
    assert r"cat\x1b[2J\r" in said
    assert all(line.rstrip("\r").isprintable() for line in said.split("\n"))  # rich returns to begin a line anew
    assert "\nerror" not in said


def test_plain_counts_by_tenths() -> None:
    lines: list[str] = []
    display = PlainDisplay(lines.append)
    for done in range(1, 1001):
        display.count("decoding", done, 1000)
    display.count("checking", 0, 0)
    display.count("checking", 0, 0)
    assert len(lines) == 12
    assert lines[-2:] == ["decoding: 1000 of 1000", "checking"]


def test_quiet_shows_nothing(clock: Clock) -> None:
    stream = io.StringIO()
    with choose_display(Console(file=stream, force_terminal=True), quiet=True) as display:
        for _ in play(display, clock):
            pass
    assert stream.getvalue() == ""


def test_a_pipe_gets_plain_lines(clock: Clock) -> None:
    stream = io.StringIO()
    with choose_display(Console(file=stream, width=20), quiet=False) as display:
        for _ in play(display, clock):
            pass
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "alexnet-001  epoch 4/5  train  98.1 %  val  91.3 %  gap  +6.8\n" in text
    assert "[Errno 12]" in text


def test_only_a_quiet_display_is_silent() -> None:
    """Texts are not formatted for a display that shows nothing."""
    for terminal, quiet in ((True, False), (False, False), (True, True), (False, True)):
        console = Console(file=io.StringIO(), force_terminal=terminal)
        assert choose_display(console, quiet).silent is quiet


def test_the_live_view(clock: Clock) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    seen: dict[str, str] = {}
    with choose_display(console, quiet=False) as display:
        assert isinstance(display, LiveDisplay)
        for step in play(display, clock):
            start = len(stream.getvalue())
            display._live.refresh()
            seen[step] = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()[start:])
    assert "50/100" in seen["decoding"]
    assert re.search(r"alexnet-001 +frozen, batch 8 +epoch 0/5 +starting", seen["started"])
    assert re.search(r"trials .* 1/3", seen["started"])
    assert re.search(
        r"alexnet-001 +frozen, batch 8 +epoch 4/5 +train +98.1 % +val +91.3 % +gap +\+6.8 +2 min 05 s", seen["trained"]
    )
    assert re.search(r"trials .* 2/3 +about 2 min 05 s left, mean gap \+6.8", seen["one left"])
    assert "alexnet-001" not in seen["one left"]
    assert "3/3" in seen["done"]
    whole = stream.getvalue()
    # what stays above the live view
    assert "digits: [1] image is skipped" in whole
    assert "alexnet-001  frozen, batch 8: finished" in whole
    assert "alexnet-002  scratch, batch 8: failed (oom): [Errno 12] no memory" in whole


LONG = "confirm-mobilenet_v3_large-012-seed-10003"
TITLE = "fine-tune, batch size 32, dropout 0.25, learning rate 0.00025, backbone learning rate multiplier 0.1"


def test_a_trial_has_one_line_of_100_columns(clock: Clock) -> None:
    """The title gives way, then the key; the numbers stay."""
    result = "finished, train 92.5 %, val 74.6 %, gap +17.9 at epoch 11: overfit"
    stream = io.StringIO()
    with choose_display(Console(file=stream, force_terminal=True, width=100, color_system=None), False) as display:
        assert isinstance(display, LiveDisplay)
        for key in ("alexnet-001", LONG):
            display.start_trial(key, TITLE, 100)
            display.epoch(key, epoch(100))
            clock.now += 3900
            table, _ = display._render().renderables
            shown = io.StringIO()
            Console(file=shown, width=100).print(table)
            (line,) = shown.getvalue().splitlines()
            assert len(line.rstrip()) <= 100
            assert line.startswith(key[:11])
            assert re.search(r"epoch 100/100 +train +98.1 % +val +91.3 % +gap +\+6.8 +1 h 05 min", line)
            display.end_trial(key, result)
    ended = [line for line in stream.getvalue().splitlines() if result in line]
    ended = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", line) for line in ended]
    assert ended == [f"alexnet-001  fine-tune, …: {result}", f"{LONG}  {result}"]


def test_plain_lines_of_a_trial_have_100_columns(clock: Clock) -> None:
    """The title gives way, then the count, then the word `finished`; words and numbers stay whole."""
    result = "finished, train 92.5 %, val 74.6 %, gap +17.9 at epoch 11: overfit"
    lines: list[str] = []
    display = PlainDisplay(lines.append, reminds=False)
    display.start_trials(0, 24)
    for key in ("alexnet-001", "confirm-googlenet-012-seed-100003"):
        display.start_trial(key, TITLE, 100)
        clock.now += 80
        display.end_trial(key, result)
    display.start_trial("alexnet-002", "frozen", 100)
    display.end_trial("alexnet-002", "finished")
    assert lines == [
        "alexnet-001  fine-tune, batch size 32, dropout 0.25, learning rate 0.00025, …: started",
        f"alexnet-001  {result}",
        "1 of 24 trials, about 30 min 40 s left",
        "confirm-googlenet-012-seed-100003  fine-tune, batch size 32, dropout 0.25, …: started",
        f"confirm-googlenet-012-seed-100003  {result.removeprefix('finished, ')}",
        "2 of 24 trials, about 29 min 20 s left",
        "alexnet-002  frozen: started",
        "alexnet-002  finished  (3 of 24 trials) about 18 min 40 s left",
    ]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_breaks_inside_a_word(clock: Clock, width: int) -> None:
    """What is running, what has ended, and the answer so far."""
    answer = "So far, 3 of 5 seeds: alexnet gap +7.1 [+3.2, +11.0] points (overfits), dropout 0.5 instead of 0 -3.1"
    result = "finished, train 92.5 %, val 74.6 %, gap +17.9 at epoch 11: overfit"
    stream = io.StringIO()
    with choose_display(Console(file=stream, force_terminal=True, width=width, color_system=None), False) as display:
        assert isinstance(display, LiveDisplay)
        display.start_trials(0, 24)
        display.start_trial("alexnet-001", TITLE, 100)
        display.epoch("alexnet-001", epoch(100))
        display.show_answer("So far, an earlier answer")
        display.show_answer(answer)
        shown = io.StringIO()
        Console(file=shown, width=width).print(display._render())
        for key in ("alexnet-001", LONG):
            display.start_trial(key, TITLE, 100)
            display.end_trial(key, result)
    drawn = shown.getvalue()
    assert max(map(len, drawn.splitlines())) <= width
    assert "earlier" not in drawn
    assert drawn.split()[-len(answer.split()) :] == answer.split()
    words = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).split()
    assert [word for word in result.split() if words.count(word) < 2] == []


def test_no_bar_is_left_of_the_stage_before(clock: Clock) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    display = choose_display(console, quiet=False)
    assert isinstance(display, LiveDisplay)

    def bars() -> list[str]:
        return [task.description for task in display._bars.tasks]

    display.count("decoding images", 100, 100)
    display.start_trial("pretrain-alexnet", "on digits", 2)
    assert bars() == []
    display.count("compiling", 0, 0)
    display.epoch("pretrain-alexnet", epoch(1))
    assert bars() == []
    display.end_trial("pretrain-alexnet", "validation 90.0 %")
    display.start_trials(0, 2)
    for key in ("alexnet-000", "alexnet-001"):
        display.start_trial(key, "frozen", 2)
        display.count(f"{key}: extracting features", 1, 2)
    display.epoch("alexnet-000", epoch(1))
    assert bars() == ["trials", "alexnet-001: extracting features"]
    display.epoch("alexnet-001", epoch(1))
    display.end_trial("alexnet-001", "finished")
    assert bars() == ["trials"]


def test_the_live_view_gives_the_cursor_back() -> None:
    stream = io.StringIO()
    display = choose_display(Console(file=stream, force_terminal=True, width=80), quiet=False)

    def stopped() -> None:
        with display:
            display.start_trials(0, 1)
            display.start_trial("alexnet-000", "scratch", 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert stream.getvalue().rfind("\x1b[?25h") > stream.getvalue().rfind("\x1b[?25l") >= 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (9.4, "9 s"),
        (59.6, "1 min 00 s"),
        (127, "2 min 07 s"),
        (3599.7, "1 h 00 min"),
        (3900, "1 h 05 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 kB"),
        (999, "0.999 kB"),
        (200_000, "200 kB"),
        (999_400, "999 kB"),
        (999_600, "1 MB"),
        (2_400_000, "2.4 MB"),
        (2_610_000_000, "2.61 GB"),
        (999_700_000_000, "1 TB"),
        (1_023_000_000_000, "1.02 TB"),
        (1_234_500_000_000_000, "1,234 TB"),
    ],
)
def test_bytes_in_words(count: int, text: str) -> None:
    assert format_size(count) == text


def test_a_negative_gap_has_its_sign() -> None:
    record = EpochRecord(1, {"train/accuracy": 0.5, "val/accuracy": 1.0, "gap/accuracy": -0.5})
    assert format_metrics(record) == "train  50.0 %  val 100.0 %  gap -50.0"


def test_plain_lines_without_a_total(clock: Clock) -> None:
    lines: list[str] = []
    display = PlainDisplay(lines.append)
    display.start_trials(2, 0)
    display.start_trial("alexnet-002", "scratch", 1)
    display.stop_trial("alexnet-002", "interrupted")
    display.end_trial("alexnet-003", "finished")
    assert lines[1:] == ["alexnet-002  interrupted", "alexnet-003  finished  (3 so far)"]


def test_the_live_view_of_what_began_before(clock: Clock) -> None:
    """A late display shows how long a trial has been running; a stopped trial is removed and not counted."""
    stream = io.StringIO()
    with choose_display(
        Console(file=stream, force_terminal=True, width=120, color_system=None), quiet=False
    ) as display:
        assert isinstance(display, LiveDisplay)
        display.start_trials(2, 0)
        display.start_trial("alexnet-002", "scratch", 3, 70.0)
        display._live.refresh()
        assert re.search(r"alexnet-002 +scratch +epoch 0/3 +starting +1 min 10 s", stream.getvalue())
        display.stop_trial("alexnet-002", "interrupted")
        start = len(stream.getvalue())
        display._live.refresh()
        last = stream.getvalue()[start:]
        assert "2/?" in last
        assert "alexnet-002" not in last
    assert "alexnet-002  scratch: interrupted" in stream.getvalue()
