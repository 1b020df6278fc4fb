"""Terminal output of recorded studies: trials, outcome, champion, effects, reproduction, comparison of two studies."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from cnnstudy.analysis import comparison_text as words
from cnnstudy.analysis.causes import NETWORKS, NetworkAnalysis, analyze_networks, effects_frame
from cnnstudy.analysis.comparison import Comparison, Side, compare_studies
from cnnstudy.analysis.comparison_champions import find_champion
from cnnstudy.analysis.configurations import CONFIGURATION_HEADINGS, list_configurations
from cnnstudy.analysis.confirmation import RECORD_PATH, Confirmation, rank_candidates
from cnnstudy.analysis.confirmation_text import (
    STANDING_HEADINGS,
    confirmation_sentences,
    describe_metric,
    standing_rows,
)
from cnnstudy.analysis.data_law import DEFAULT_TARGET_GAP
from cnnstudy.analysis.effects import Effect
from cnnstudy.analysis.effects_text import effect_headings, effect_rows, effect_sentences
from cnnstudy.analysis.leaderboard import (
    GOALS,
    UNFINISHED_HEADINGS,
    best_by_transfer,
    build_leaderboard,
    describe_configurations,
    describe_front,
    describe_scores,
    leaderboard_table,
    split_by_state,
    unfinished_rows,
    write_csv,
)
from cnnstudy.analysis.named_causes import cause_sentence
from cnnstudy.analysis.next_steps import NextStep, list_next_steps
from cnnstudy.analysis.participation import compared_headings, compared_rows
from cnnstudy.config.factors import FACTORS
from cnnstudy.errors import InputError, TrackingError, as_sentence
from cnnstudy.names import Tag
from cnnstudy.records import Rule
from cnnstudy.results.study_note import describe_answer, describe_study_run
from cnnstudy.study.confirmation import ADVICE_UNLEARNT
from cnnstudy.study.reproduce import Reproduction
from cnnstudy.study.resume import resume_command, retry_command
from cnnstudy.study.run import COUNTS, Outcome
from cnnstudy.system.display import count_noun
from cnnstudy.system.output import console_on, plain_table, print_line, print_lines, print_table
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, mark_interrupted, tag_filter
from cnnstudy.tracking.recorded import counted_trials as trials_among
from cnnstudy.tracking.retry import RetryPolicy

if TYPE_CHECKING:
    from cnnstudy.system.output import Console

#: Terminal columns that the complete table of effects needs.
WIDE = 140
#: Columns that the change of an effect has at least; a longer one is wrapped.
_CHANGE = 28


def latest_trials(tracker: Tracker, study: RecordedStudy) -> list[RecordedRun]:
    """Return the latest run of each trial."""
    return trials_among(tracker.runs(study.experiment_id))


def trial_frame(tracker: Tracker, study: RecordedStudy, sort: str | None = None) -> pd.DataFrame:
    """Return the study's leaderboard. A trial that was interrupted and ran again appears with its last run only."""
    return build_frame(latest_trials(tracker, study), study, sort)


def build_frame(trials: Sequence[RecordedRun], study: RecordedStudy, sort: str | None = None) -> pd.DataFrame:
    """Return the leaderboard of a study's trials, from the latest run of each."""
    # without trials, one that is left out again gives the columns, so that a CSV has its header
    shown = mark_interrupted(trials) or [_placeholder(study)]
    return build_leaderboard(shown, study.objective, sort, study.goals or GOALS).iloc[: len(trials)]


def _placeholder(study: RecordedStudy) -> RecordedRun:
    """Return a trial with a level of each of the study's factors and without a result."""
    levels = {name: FACTORS[name].kind() for name in study.config.get("factors", {}) if name in FACTORS}
    return RecordedRun("", "", "trial", "", "", 0, {}, {}, {Tag.SEED: "0", Tag.LEVELS: json.dumps(levels)})


def show_trials(console: Console, name: str, frame: pd.DataFrame, top: int | None, sort: str | None = None) -> None:
    """Show the finished trials, best first or as sorted, and below them the unfinished ones with the reason."""
    if frame.empty:
        print_line(console, f"study {name} has no trials yet")
        return
    finished, others = split_by_state(frame)
    if len(finished):
        headings, rows = leaderboard_table(finished if top is None else finished.head(top))
        by = f"sorted by {sort}" if sort else f"best first, by {describe_metric(Rule(finished['objective'].iloc[0]))}"
        grid = plain_table(f"study {name}: {by}")
        for heading in headings:
            left = heading in ("trial", "transfer", "verdict")
            grid.add_column(heading, justify="left" if left else "right", no_wrap=True)
        print_table(console, grid, rows)
        if top is not None and len(finished) > top:
            print_line(console, f"and {len(finished) - top} more")
        print_line(console, describe_scores(finished))
        front = finished.loc[finished["pareto_front"], "trial"].tolist()
        if len(finished) > 1 and front:
            more = f" and {len(front) - 8} more" if len(front) > 8 else ""
            print_line(
                console, f"Pareto front (none is as good in every goal and better in one): {', '.join(front[:8])}{more}"
            )
            print_line(console, describe_front(finished))
    if len(others):
        grid = plain_table("not finished")
        for heading in UNFINISHED_HEADINGS:
            grid.add_column(heading, no_wrap=heading != "reason")
        print_table(console, grid, unfinished_rows(others))


def show_configurations(console: Console, runs: Sequence[RecordedRun], top: int | None) -> None:
    """Show the verdict over all seeds of each configuration that has several: one as a sentence, more as a table."""
    found = list_configurations(runs)
    if len(found) == 1:
        print_line(console, found[0].sentence())
    if len(found) < 2:
        return
    print_line(console, describe_configurations(found))  # a title would be broken at the width of the table
    grid = plain_table("")
    for heading in CONFIGURATION_HEADINGS:
        left = heading in ("configuration", "verdict")
        grid.add_column(heading, justify="left" if left else "right", no_wrap=heading != "configuration")
    print_table(console, grid, (one.cells for one in found[:top]))
    if top is not None and len(found) > top:
        print_line(console, f"and {len(found) - top} more")


def show_outcome(console: Console, tracker: Tracker, outcome: Outcome) -> None:
    """Show the leaderboard, the best of each transfer mode, counts, and the commands to continue with."""
    name = outcome.recorded.name
    trials = latest_trials(tracker, outcome.recorded)
    frame = build_frame(trials, outcome.recorded)
    show_trials(console, name, frame, 20)
    show_configurations(console, trials, 20)
    lines = [] if frame.empty else best_by_transfer(frame)
    if lines:
        lines = ["Best validation accuracy by transfer mode (trials):", *(f"  {line}" for line in lines), ""]
    counts = (f"{getattr(outcome, state)} {state}" for state in COUNTS)
    lines.append(f"Trials: {', '.join(counts)}")
    if outcome.interrupted:
        lines.append(_describe_stop(tracker, outcome))
    elif any(run.state == "failed" and run.done and run.reason != "diverged" for run in trials):
        (own,) = tracker.runs(outcome.recorded.experiment_id, tag_filter(Tag.KIND, "study"))
        lines.append(f"What failed, again:  {retry_command(own, tracker.uri)}")
    lines += [
        f"Curves and models:  python -m cnnstudy ui {name}",
        f"All numbers:        python -m cnnstudy leaderboard {name} --csv leaderboard.csv",
    ]
    if outcome.finished and not outcome.interrupted and outcome.confirmed is None:
        if rank_candidates(trials, outcome.recorded.rule, 1):
            lines.append(f"The champion:       python -m cnnstudy confirm {name}")
        else:
            lines.append(f"No champion: no trial has learnt anything. {ADVICE_UNLEARNT}")
    print_lines(console, lines)


def show_stopped(console: Console, tracker: Tracker, outcome: Outcome) -> None:
    """Show how to resume what was stopped."""
    print_lines(console, [_describe_stop(tracker, outcome)])


def _describe_stop(tracker: Tracker, outcome: Outcome) -> str:
    (own,) = tracker.runs(outcome.recorded.experiment_id, tag_filter(Tag.KIND, "study"))
    return f"Stopped; {resume_command(own, tracker.uri)}."


def show_confirmed(console: Console, name: str, confirmed: Confirmation) -> None:
    """Show the champion in words, then all candidates."""
    for line in confirmation_sentences(confirmed):
        print_line(console, line)
    grid = plain_table(f"study {name}: candidates with fresh seeds, 95 % intervals")
    for heading in STANDING_HEADINGS:
        left = heading in (STANDING_HEADINGS[0], STANDING_HEADINGS[-1])
        grid.add_column(heading, justify="left" if left else "right", no_wrap=heading != STANDING_HEADINGS[0])
    print_table(console, grid, standing_rows(confirmed.standings, confirmed.rule))
    if confirmed.model:
        print_line(console, f"The champion's model: models:/{name}@champion (version {confirmed.version})")


def show_reproduction(console: Console, found: Reproduction) -> None:
    """Show whether a trial's results equal the recorded ones, and the largest differences."""
    if not found.differences:
        print_line(console, f"{found.trial}: all {found.compared} recorded numbers are equal to the last bit.")
    else:
        largest = found.differences[0]
        print_line(
            console,
            f"{found.trial}: {len(found.differences)} of {found.compared} recorded numbers differ, by up to "
            f"{largest.size:.3g} ({largest.metric}).",
        )
        grid = plain_table("largest differences")
        for heading in ("metric", "epoch", "recorded", "again", "difference"):
            grid.add_column(heading, justify="left" if heading == "metric" else "right")
        rows = [
            (
                one.metric,
                "" if one.epoch is None else str(one.epoch),
                f"{one.recorded:.6f}",
                f"{one.again:.6f}",
                f"{one.again - one.recorded:+.3g}",
            )
            for one in found.differences[:10]
        ]
        print_table(console, grid, rows)
    for name, (then, now) in found.changed.items():
        print_line(console, f"note: {name} was {then} and is {now}")


def analyze_study(
    tracker: Tracker,
    study: RecordedStudy,
    target_gap: float = DEFAULT_TARGET_GAP,
    trials: Sequence[RecordedRun] | None = None,
) -> list[NetworkAnalysis]:
    """Analyse why the study's networks overfit.

    Args:
        target_gap: the target gap (0..1) of the data-size projection.
        trials: the latest run of each trial; None: they are read.
    """
    runs = latest_trials(tracker, study) if trials is None else trials
    return analyze_networks(study, runs, tracker.metric_history, target_gap)


def effects_table(found: Sequence[NetworkAnalysis]) -> pd.DataFrame:
    """Return every effect as a row, for CSV; the columns even if there is none."""
    frame = effects_frame(found)
    names = [field.name for field in dataclasses.fields(Effect)]
    return frame if len(frame.columns) else pd.DataFrame(columns=[*names, "answer"])


def record_effects(tracker: Tracker, study: RecordedStudy, found: Sequence[NetworkAnalysis]) -> None:
    """Record the effects as artifacts of the study's run: the answer in words, and all numbers as CSV."""
    with scratch_folder() as scratch:
        folder = scratch / "effects"
        folder.mkdir()
        write_csv(effects_table(found), folder / "effects.csv")
        with (folder / "answer.txt").open("w", encoding="utf-8") as file:
            show_effects(console_on(file), study.name, found)
        tracker.log_files(study.run_id, scratch)
    tracker.set_tags(study.run_id, {Tag.NOTE: describe_study_run(tracker, study, describe_answer(found))})


def analyze_ended_study(
    tracker: Tracker, study: RecordedStudy, say: Callable[[str], None], retry_policy: RetryPolicy | None = None
) -> list[NetworkAnalysis] | None:
    """Analyse a study that has ended and record its effects; return None if MLflow does not answer.

    Args:
        say: receives the messages about that; the study itself is complete.
        retry_policy: how long to wait for MLflow; None: the default.
    """
    retry = retry_policy or RetryPolicy()
    try:
        found = retry.call(lambda: analyze_study(tracker, study), say)
        retry.call(lambda: record_effects(tracker, study, found), say)
    except TrackingError as error:
        say(
            f"{as_sentence(error)} The study itself is recorded; its effects are not. `python -m cnnstudy effects "
            f"{study.name}` shows them."
        )
        return None
    return found


def show_effects(console: Console, name: str, found: Sequence[NetworkAnalysis]) -> None:
    """Show for each network the answer in words, then the tables behind it."""
    if not found:
        print_line(console, f"study {name} has no trials yet")
    for one in [one for one in found if one.effects][:1]:
        print_line(console, one.question.sentence())
    for one in found:
        for line in effect_sentences(one):
            print_line(console, line)
        for warning in one.warnings:
            print_line(console, f"note: {warning}")
        for interactions, title in ((False, "effects"), (True, "interactions: difference between effects")):
            rows, hidden = effect_rows(one, interactions)
            if rows:
                _show_effect_rows(
                    console, f"{one.architecture}: {title}, with 95 % intervals", effect_headings(one), rows
                )
            if hidden:
                what = count_noun(hidden, "interaction")
                print_line(console, f"and {what} without a significant result; --csv lists all")
        if one.architecture != NETWORKS:
            _show_compared_trials(console, one)


def list_steps(
    tracker: Tracker,
    study: RecordedStudy,
    found: Sequence[NetworkAnalysis],
    trials: Sequence[RecordedRun] | None = None,
) -> list[NextStep]:
    """Return what to do after a study.

    Args:
        found: its analysis.
        trials: the latest run of each trial; None: they are read.
    """
    runs = latest_trials(tracker, study) if trials is None else trials
    return list_next_steps(found, study, runs, tracker.tags(study.run_id))


def show_conclusion(console: Console, found: Sequence[NetworkAnalysis], steps: Sequence[NextStep]) -> None:
    """Show what causes the overfitting, and what to do next: each step, and under it the line to copy."""
    if cause := cause_sentence(found):
        print_line(console, cause)
    for number, step in enumerate(steps):
        print_line(console, f"{'Next' if number == 0 else 'Or'}: {step.sentence()}")
        print_lines(console, [f"    {step.line}"])  # not wrapped, so that it can be copied


def _show_compared_trials(console: Console, one: NetworkAnalysis) -> None:
    """Show how many trials of each level are compared at equal updates and at equal train loss."""
    rows = compared_rows(one.frame, one.factors)
    if len(rows) < 2:
        return
    grid = plain_table(f"{one.architecture}: trials that are compared")
    for place, heading in enumerate(compared_headings(one.observations)):
        grid.add_column(heading, justify="right" if place else "left", no_wrap=True)
    print_table(console, grid, rows)


def _show_effect_rows(console: Console, title: str, headings: Sequence[str], rows: list[list[str]]) -> None:
    grid = plain_table(title)
    last = len(headings) - 1
    widths = [max(map(len, cells)) for cells in zip(headings, *rows, strict=True)]
    fits = min(widths[0], _CHANGE) + sum(widths[1:]) + last <= console.width  # of changes, long ones are wrapped
    shown = range(last + 1) if console.width >= WIDE and fits else [0, 1, last]
    for column in shown:
        grid.add_column(headings[column], justify="left" if column in (0, last) else "right", no_wrap=column != 0)
    print_table(console, grid, ([row[column] for column in shown] for row in rows))


def compare_recorded_studies(tracker: Tracker, name_a: str, name_b: str) -> Comparison:
    """Compare two recorded studies.

    Raises:
        InputError: both names are the same study.
        UnknownNameError: there is no study of that name.
        TrackingError: MLflow does not answer, or a recorded confirmation can't be read.
    """
    a, b = tracker.study(name_a), tracker.study(name_b)
    if a.name == b.name:
        raise InputError(f"{name_a!r} can't be compared with itself; give two studies.")
    return compare_studies(_read_side(tracker, a), _read_side(tracker, b))


def _read_side(tracker: Tracker, study: RecordedStudy) -> Side:
    trials, record = latest_trials(tracker, study), tracker.read_text(study.run_id, RECORD_PATH)
    try:
        champion = find_champion(record, trials, study.rule)
    except ValueError as error:
        raise TrackingError(
            f"{RECORD_PATH} of study {study.name!r} can't be used: {error}. `python -m cnnstudy confirm {study.name}` "
            "writes it again."
        ) from error
    return Side(study, trials, analyze_study(tracker, study), champion)


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Show the answer in words and the notes, then the tables behind them."""
    for line in words.comparison_sentences(comparison):
        print_line(console, line)
    for note in comparison.notes:
        print_line(console, f"note: {note}")
    tables = (
        ("what differed", words.DIFFERENCE_HEADINGS, words.difference_rows(comparison)),
        ("outcomes at the end of training, 95 % intervals", words.OUTCOME_HEADINGS, words.outcome_rows(comparison)),
        ("effects in points, 95 % intervals", words.COMPARED_EFFECT_HEADINGS, words.effect_comparison_rows(comparison)),
        ("champions", words.CHAMPION_HEADINGS, words.champion_rows(comparison)),
    )
    for title, headings, rows in tables:
        if rows:
            _show_comparison_table(console, title, headings, rows)


def _show_comparison_table(
    console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Show a table; a narrow terminal omits methods, a network that all rows share, and the intervals of A and B."""
    narrow, settings = console.width < WIDE, headings == words.DIFFERENCE_HEADINGS
    omitted = {"method", *(["network"] if len({row[0] for row in rows}) == 1 else [])} if narrow else set()
    shown = [column for column, heading in enumerate(headings) if heading not in omitted]
    grid = plain_table(title)
    for column in shown:
        text = headings[column] not in words.NUMBERS or settings
        grid.add_column(headings[column], justify="left" if text else "right", no_wrap=not text)

    def cell(row: Sequence[str], column: int) -> str:
        shorten = narrow and headings[column] in ("A", "B") and not settings
        return row[column].partition(" [")[0] if shorten else row[column]

    print_table(console, grid, ([cell(row, column) for column in shown] for row in rows))
