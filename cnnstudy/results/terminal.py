"""Two recorded studies side by side: read from MLflow, compared, and shown on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cnnstudy.analysis import comparison_text as words
from cnnstudy.analysis.causes import NetworkAnalysis, analyze_networks, effects_frame
from cnnstudy.analysis.comparison import Comparison, Side, compare, find_champion
from cnnstudy.analysis.confirmation import Confirmation
from cnnstudy.analysis.confirmation_text import STANDING_HEADINGS, confirmed_sentences, standing_rows
from cnnstudy.analysis.data_law import TARGET
from cnnstudy.analysis.effects_text import EFFECT_HEADINGS, effect_rows, effect_sentences
from cnnstudy.analysis.leaderboard import (
    GOALS,
    UNFINISHED_HEADINGS,
    best_by_transfer,
    leaderboard,
    pareto_front,
    split_by_state,
    table,
    unfinished_rows,
    write_csv,
)
from cnnstudy.errors import InputError, TrackingError, sentence
from cnnstudy.study.confirmation import RECORD
from cnnstudy.study.reproduce import Reproduction
from cnnstudy.study.run import COUNTS, Outcome
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy
from cnnstudy.tracking.recorded import latest_trials as trials_among
from cnnstudy.tracking.retry import RetryPolicy

#: Columns of a terminal that the whole table of effects takes.
WIDE = 140


def trial_frame(tracker: Tracker, study: RecordedStudy, sort: str | None = None) -> pd.DataFrame:
    """The study's leaderboard. A trial that was interrupted and ran again is in it with its last run only."""
    frame = leaderboard(latest_trials(tracker, study), study.objective, sort)
    return frame if frame.empty else frame.assign(pareto_front=pareto_front(frame, study.goals or GOALS))


def latest_trials(tracker: Tracker, study: RecordedStudy) -> list[RecordedRun]:
    """The run of each trial that counts."""
    return trials_among(tracker.runs(study.experiment_id))


def show_trials(console: Console, name: str, frame: pd.DataFrame, top: int | None) -> None:
    """The finished trials, best first; apart from them those that did not finish, with the reason."""
    if frame.empty:
        console.print(f"study {name} has no trials yet", markup=False, emoji=False, highlight=False)
        return
    finished, others = split_by_state(frame)
    if len(finished):
        headings, rows = table(finished if top is None else finished.head(top))
        grid = plain_table(f"study {name}: best first, by validation")
        for heading in headings:
            grid.add_column(
                heading, justify="left" if heading in ("trial", "transfer", "verdict") else "right", no_wrap=True
            )
        for row in rows:
            grid.add_row(*map(Text, row))
        console.print(grid, markup=False, emoji=False)
        if top is not None and len(finished) > top:
            console.print(f"and {len(finished) - top} more", highlight=False)
        front = finished.loc[finished["pareto_front"], "trial"].tolist() if "pareto_front" in finished else []
        if len(finished) > 1 and front:
            more = f" and {len(front) - 8} more" if len(front) > 8 else ""
            print_line(console, f"Pareto front (no other is better in every goal): {', '.join(front[:8])}{more}")
    if len(others):
        grid = plain_table("not finished")
        for heading in UNFINISHED_HEADINGS:
            grid.add_column(heading, no_wrap=heading != "reason")
        for row in unfinished_rows(others):
            grid.add_row(*map(Text, row))
        console.print(grid, markup=False, emoji=False)


def show_outcome(console: Console, tracker: Tracker, outcome: Outcome) -> None:
    """The leaderboard, what transfer did, and where to look next."""
    name = outcome.recorded.name
    frame = trial_frame(tracker, outcome.recorded)
    show_trials(console, name, frame, 20)
    lines = [] if frame.empty else best_by_transfer(frame)
    if lines:
        lines = ["Best validation accuracy by transfer mode (trials):", *(f"  {line}" for line in lines), ""]
    counts = (f"{getattr(outcome, what)} {what}" for what in COUNTS)
    lines.append(f"Trials: {', '.join(counts)}")
    if outcome.interrupted:
        lines.append("Stopped. The same command goes on where it ended.")
    lines += [
        f"Curves and models:  python -m cnnstudy ui {name}",
        f"All numbers:        python -m cnnstudy leaderboard {name} --csv leaderboard.csv",
    ]
    if outcome.finished and not outcome.interrupted and outcome.confirmed is None:
        lines.append(f"The champion:       python -m cnnstudy confirm {name}")
    console.print("\n".join(lines), markup=False, emoji=False, highlight=False, soft_wrap=True)


def show_confirmed(console: Console, name: str, confirmed: Confirmation) -> None:
    """The champion in words, then all candidates."""
    for line in confirmed_sentences(confirmed):
        print_line(console, line)
    grid = plain_table(f"study {name}: candidates with fresh seeds, 95 % intervals")
    for heading in STANDING_HEADINGS:
        left = heading in (STANDING_HEADINGS[0], STANDING_HEADINGS[-1])
        grid.add_column(heading, justify="left" if left else "right", no_wrap=heading != STANDING_HEADINGS[0])
    for row in standing_rows(confirmed.standings, confirmed.rule):
        grid.add_row(*map(Text, row))
    console.print(grid, markup=False, emoji=False)
    if confirmed.model:
        print_line(console, f"The champion's model: models:/{name}@champion (version {confirmed.version})")


def show_reproduction(console: Console, found: Reproduction) -> None:
    """Whether a trial came out as it was recorded, and where not."""
    if not found.differences:
        print_line(
            console, f"{found.trial}: all {found.compared} numbers of its record came out equal to the last bit."
        )
    else:
        largest = found.differences[0]
        print_line(
            console,
            f"{found.trial}: {len(found.differences)} of {found.compared} numbers of its record came out otherwise, by "
            f"up to {largest.size:.3g} ({largest.metric}).",
        )
        grid = plain_table("the largest differences")
        for heading in ("metric", "epoch", "recorded", "again", "difference"):
            grid.add_column(heading, justify="left" if heading == "metric" else "right")
        for one in found.differences[:10]:
            epoch = "" if one.epoch is None else str(one.epoch)
            numbers = (f"{one.recorded:.6f}", f"{one.again:.6f}", f"{one.again - one.recorded:+.3g}")
            grid.add_row(*map(Text, (one.metric, epoch, *numbers)))
        console.print(grid, markup=False, emoji=False)
    for name, (then, now) in found.changed.items():
        print_line(console, f"note: {name} was {then} and is {now}")


def analyze_study(tracker: Tracker, study: RecordedStudy, target_gap: float = TARGET) -> list[NetworkAnalysis]:
    """What the study's trials tell of why its networks overfit."""
    return analyze_networks(study, latest_trials(tracker, study), tracker.metric_history, target_gap)


def record_effects(tracker: Tracker, study: RecordedStudy, found: Sequence[NetworkAnalysis]) -> None:
    """The effects as artifacts of the study's own run: the answer in words, and every number as CSV."""
    with scratch_folder() as scratch:
        folder = scratch / "effects"
        folder.mkdir()
        write_csv(effects_frame(found), folder / "effects.csv")
        with (folder / "answer.txt").open("w", encoding="utf-8") as file:
            show_effects(Console(file=file, width=160), study.name, found)
        tracker.log_files(study.run_id, scratch)


def analyze_ended_study(
    tracker: Tracker, study: RecordedStudy, say: Callable[[str], None], patience: RetryPolicy | None = None
) -> list[NetworkAnalysis] | None:
    """What the trials of a study that has ended tell, recorded with it; None where MLflow does not answer any more.

    Args:
        say: told of that: the study itself is whole.
        patience: how long MLflow is waited for; None: the usual one.
    """
    patient = patience or RetryPolicy()
    try:
        found = patient.ask(lambda: analyze_study(tracker, study), say)
        patient.ask(lambda: record_effects(tracker, study, found), say)
    except TrackingError as error:
        say(
            f"{sentence(error)} The study itself is recorded; its effects are not. `python -m cnnstudy effects "
            f"{study.name}` shows them."
        )
        return None
    return found


def show_effects(console: Console, name: str, found: Sequence[NetworkAnalysis]) -> None:
    """For each network the answer in words, then the table that it rests on."""
    if not found:
        console.print(f"study {name} has no trials yet", markup=False, emoji=False, highlight=False)
    for one in found:
        for line in effect_sentences(one):
            print_line(console, line)
        for warning in one.warnings:
            print_line(console, f"note: {warning}")
        for interactions, title in ((False, "effects"), (True, "interactions: how much an effect differs there")):
            rows, hidden = effect_rows(one, interactions)
            if rows:
                _show_effect_rows(console, f"{one.architecture}: {title}, with 95 % intervals", rows)
            if hidden:
                print_line(console, f"and {hidden} interactions of which these trials can't tell; --csv has all")


def _show_effect_rows(console: Console, title: str, rows: list[list[str]]) -> None:
    grid = plain_table(title)
    last = len(EFFECT_HEADINGS) - 1
    shown = [0, EFFECT_HEADINGS.index("gap"), last] if console.width < WIDE else range(last + 1)
    for column in shown:
        ends = column in (0, last)
        grid.add_column(EFFECT_HEADINGS[column], justify="left" if ends else "right", no_wrap=column != 0)
    for row in rows:
        grid.add_row(*(Text(row[column]) for column in shown))
    console.print(grid, markup=False, emoji=False)


def print_line(console: Console, line: str) -> None:
    """Print a line as it is; where nobody reads it on a terminal it is not wrapped."""
    console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=not console.is_terminal)


def plain_table(title: str) -> Table:
    """A table without columns yet."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)


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
        champion = find_champion(record, trials, study.rule)
    except ValueError as error:
        raise TrackingError(
            f"{RECORD} of study {study.name!r} can't be used: {error}. `python -m cnnstudy confirm {study.name}` "
            "writes it anew."
        ) from error
    return Side(study, trials, analyze_study(tracker, study), champion)


def show_comparison(console: Console, comparison: Comparison) -> None:
    """The answer in words, what to keep in mind, then the tables that it rests on."""
    for line in words.comparison_sentences(comparison):
        print_line(console, line)
    for note in comparison.notes:
        print_line(console, f"note: {note}")
    tables = (
        ("what differed", words.DIFFERENCE_HEADINGS, words.difference_rows(comparison)),
        ("outcomes at the end of training, 95 % intervals", words.OUTCOME_HEADINGS, words.outcome_rows(comparison)),
        ("effects in points, 95 % intervals", words.EFFECT_HEADINGS, words.effect_comparison_rows(comparison)),
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
