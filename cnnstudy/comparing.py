"""Two recorded studies side by side: read from MLflow, compared, and shown on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from cnnstudy.analysis import comparison_sentences as words
from cnnstudy.analysis.comparison import Comparison, Side, compare
from cnnstudy.analysis.comparison_champions import champion_of
from cnnstudy.confirmation import RECORD
from cnnstudy.errors import InputError, TrackingError
from cnnstudy.records import RecordedStudy
from cnnstudy.report import WIDE, causes_of, latest_trials, plain_table, say
from cnnstudy.tracking import Tracker


def compare_studies(tracker: Tracker, name_a: str, name_b: str) -> Comparison:
    """What two recorded studies tell side by side.

    Raises:
        InputError: they are the same study.
        UnknownNameError: there is no study of that name.
    """
    a, b = tracker.study(name_a), tracker.study(name_b)
    if a.name == b.name:
        raise InputError(f"{name_a!r} can't be compared with itself; give two studies.")
    return compare(_side(tracker, a), _side(tracker, b))


def _side(tracker: Tracker, study: RecordedStudy) -> Side:
    trials, record = latest_trials(tracker, study), tracker.read_text(study.run_id, RECORD)
    try:
        champion = champion_of(record, trials, study.rule)
    except ValueError as error:
        raise TrackingError(
            f"{RECORD} of study {study.name!r} can't be used: {error}. `python -m cnnstudy confirm {study.name}` "
            "writes it anew."
        ) from error
    return Side(study, trials, causes_of(tracker, study), champion)


def show_comparison(console: Console, comparison: Comparison) -> None:
    """The answer in words, what to keep in mind, then the tables that it rests on."""
    for line in words.comparison_sentences(comparison):
        say(console, line)
    for note in comparison.notes:
        say(console, f"note: {note}")
    tables = (
        ("what differed", words.DIFFERENCE_HEADINGS, words.difference_rows(comparison)),
        ("outcomes at the end of training, 95 % intervals", words.OUTCOME_HEADINGS, words.outcome_rows(comparison)),
        ("effects in points, 95 % intervals", words.EFFECT_HEADINGS, words.effect_rows(comparison)),
        ("champions", words.CHAMPION_HEADINGS, words.champion_rows(comparison)),
    )
    for title, headings, rows in tables:
        if rows:
            _show_table(console, title, headings, rows)


def _show_table(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A narrow terminal does without methods, a network that is the same in all rows, and intervals of A and B."""
    narrow, settings = console.width < WIDE, headings == words.DIFFERENCE_HEADINGS
    left_out = {"by", *(["network"] if len({row[0] for row in rows}) == 1 else [])} if narrow else set()
    shown = [place for place, heading in enumerate(headings) if heading not in left_out]
    grid = plain_table(title)
    grid.padding = 0
    for place in shown:
        text = headings[place] not in words.NUMBERS or settings
        grid.add_column(headings[place], justify="left" if text else "right", no_wrap=not text)
    for row in rows:
        cells = [
            row[place].partition(" [")[0] if narrow and headings[place] in ("A", "B") and not settings else row[place]
            for place in shown
        ]
        grid.add_row(*map(Text, cells))
    console.print(grid, markup=False, emoji=False)
