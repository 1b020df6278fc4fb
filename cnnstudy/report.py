"""What a study came to, on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cnnstudy.analysis.causes import Causes, causes, effects_frame
from cnnstudy.analysis.confirmed import Confirmed
from cnnstudy.analysis.data_law import TARGET
from cnnstudy.analysis.leaderboard import (
    UNFINISHED_HEADINGS,
    best_by_transfer,
    leaderboard,
    split_by_state,
    table,
    unfinished_rows,
    write_csv,
)
from cnnstudy.analysis.pareto import GOALS, non_dominated
from cnnstudy.analysis.selection import STANDING_HEADINGS, confirmed_sentences, rows
from cnnstudy.analysis.sentences import EFFECT_HEADINGS, effect_rows, sentences
from cnnstudy.analysis.trials import latest_trials as trials_among
from cnnstudy.errors import TrackingError, sentence
from cnnstudy.patience import Patience
from cnnstudy.records import RecordedRun, RecordedStudy
from cnnstudy.reproduction import Reproduction
from cnnstudy.scratch import scratch_folder
from cnnstudy.study import COUNTS, Outcome
from cnnstudy.tracking import Tracker

#: Columns of a terminal that the whole table of effects takes.
WIDE = 140


def trials(tracker: Tracker, study: RecordedStudy, sort: str | None = None) -> pd.DataFrame:
    """The study's leaderboard. A trial that was interrupted and ran again is in it with its last run only."""
    frame = leaderboard(latest_trials(tracker, study), study.objective, sort)
    return frame if frame.empty else frame.assign(pareto_front=non_dominated(frame, study.goals or GOALS))


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
            say(console, f"Pareto front (no other is better in every goal): {', '.join(front[:8])}{more}")
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
    frame = trials(tracker, outcome.recorded)
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


def show_confirmed(console: Console, name: str, confirmed: Confirmed) -> None:
    """The champion in words, then all candidates."""
    for line in confirmed_sentences(confirmed):
        say(console, line)
    grid = plain_table(f"study {name}: candidates with fresh seeds, 95 % intervals")
    for heading in STANDING_HEADINGS:
        left = heading in (STANDING_HEADINGS[0], STANDING_HEADINGS[-1])
        grid.add_column(heading, justify="left" if left else "right", no_wrap=heading != STANDING_HEADINGS[0])
    for row in rows(confirmed.standings, confirmed.rule):
        grid.add_row(*map(Text, row))
    console.print(grid, markup=False, emoji=False)
    if confirmed.model:
        say(console, f"The champion's model: models:/{name}@champion (version {confirmed.version})")


def show_reproduction(console: Console, found: Reproduction) -> None:
    """Whether a trial came out as it was recorded, and where not."""
    if not found.differences:
        say(console, f"{found.trial}: all {found.compared} numbers of its record came out equal to the last bit.")
    else:
        largest = found.differences[0]
        say(
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
        say(console, f"note: {name} was {then} and is {now}")


def causes_of(tracker: Tracker, study: RecordedStudy, target_gap: float = TARGET) -> list[Causes]:
    """What the study's trials tell of why its networks overfit."""
    return causes(study, latest_trials(tracker, study), tracker.metric_history, target_gap)


def record_effects(tracker: Tracker, study: RecordedStudy, found: Sequence[Causes]) -> None:
    """The effects as artifacts of the study's own run: the answer in words, and every number as CSV."""
    with scratch_folder() as scratch:
        folder = scratch / "effects"
        folder.mkdir()
        write_csv(effects_frame(found), folder / "effects.csv")
        with (folder / "answer.txt").open("w", encoding="utf-8") as file:
            show_effects(Console(file=file, width=160), study.name, found)
        tracker.log_files(study.run_id, scratch)


def effects_of_ended(
    tracker: Tracker, study: RecordedStudy, say: Callable[[str], None], patience: Patience | None = None
) -> list[Causes] | None:
    """What the trials of a study that has ended tell, recorded with it; None where MLflow does not answer any more.

    Args:
        say: told of that: the study itself is whole.
        patience: how long MLflow is waited for; None: the usual one.
    """
    patient = patience or Patience()
    try:
        found = patient.ask(lambda: causes_of(tracker, study), say)
        patient.ask(lambda: record_effects(tracker, study, found), say)
    except TrackingError as error:
        say(
            f"{sentence(error)} The study itself is recorded; its effects are not. `python -m cnnstudy effects "
            f"{study.name}` shows them."
        )
        return None
    return found


def show_effects(console: Console, name: str, found: Sequence[Causes]) -> None:
    """For each network the answer in words, then the table that it rests on."""
    if not found:
        console.print(f"study {name} has no trials yet", markup=False, emoji=False, highlight=False)
    for one in found:
        for line in sentences(one):
            say(console, line)
        for warning in one.warnings:
            say(console, f"note: {warning}")
        for interactions, title in ((False, "effects"), (True, "interactions: how much an effect differs there")):
            rows, hidden = effect_rows(one, interactions)
            if rows:
                _show_effect_rows(console, f"{one.architecture}: {title}, with 95 % intervals", rows)
            if hidden:
                say(console, f"and {hidden} interactions of which these trials can't tell; --csv has all")


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


def say(console: Console, line: str) -> None:
    """Print a line as it is; where nobody reads it on a terminal it is not wrapped."""
    console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=not console.is_terminal)


def plain_table(title: str) -> Table:
    """A table without columns yet."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
