"""Cells of the page's tables: all trials, the best ones, effects."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cnnstudy.analysis.causes import NetworkAnalysis, count_noun
from cnnstudy.analysis.confirmation_text import confirmed_sentences
from cnnstudy.analysis.effects_text import EFFECT_HEADINGS, effect_rows
from cnnstudy.analysis.leaderboard import table, transfer_label
from cnnstudy.config.factors import ALWAYS_SHOWN, FACTORS, describe_levels
from cnnstudy.names import Metric, Parameter
from cnnstudy.results.pages.curve_panels import varied_factors
from cnnstudy.results.pages.report_data import ConfirmationData, ReportData
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.training.verdict import VERDICTS


@dataclass(frozen=True)
class Fact:
    """One number at the top of a page, with what it is."""

    name: str
    value: str
    note: str = ""


def facts(story: ReportData) -> list[Fact]:
    """Trials, networks, images, the best validation with its gap, and what the gap is on average."""
    frame = story.frame
    states = frame["state"].value_counts() if len(frame) else pd.Series(dtype=int)
    others = [f"{states[state]} {state}" for state in ("pruned", "failed", "running") if state in states]
    found = [Fact("Trials", f"{states.get('finished', 0)} finished", ", ".join(others) or "none pruned or failed")]
    if len(frame):
        names, seeds = list(dict.fromkeys(frame["architecture"])), count_noun(frame["seed"].nunique(), "seed")
        several = Fact("Networks", str(len(names)), f"{', '.join(names)}; {seeds}")
        found.append(several if len(names) > 1 else Fact("Network", names[0], seeds))
    if (images := _images(story)) is not None:
        found.append(images)
    finished = story.finished
    learnt = finished[finished["verdict"] != "not-learning"] if len(finished) else finished
    if len(finished):
        best = finished.iloc[0]
        if pd.notna(best["val_accuracy"]):
            gap = f"gap {100 * best['gap_accuracy']:+.1f} points" if pd.notna(best["gap_accuracy"]) else ""
            found.append(Fact("Best validation", f"{100 * best['val_accuracy']:.1f} %", f"{best['trial']}, {gap}"))
    if len(learnt) and learnt["last_gap_accuracy"].notna().any():
        mean = 100 * learnt["last_gap_accuracy"].astype(float).mean()
        note = f"points at the end, over the {len(learnt)} that learnt"
        found.append(Fact("Mean gap", f"{mean:+.1f}", note))
    return found


def _images(story: ReportData) -> Fact | None:
    for run in story.runs:
        values = run.parameters
        if {Parameter.DATA, Parameter.CLASSES, Parameter.TRAIN_IMAGES, Parameter.VALIDATION_IMAGES} <= set(values):
            images = f"{run.train_images} train and {values[Parameter.VALIDATION_IMAGES]} validation images"
            return Fact("Data", values[Parameter.DATA], f"{run.classes} classes, {images}")
    return None


def verdict_counts(story: ReportData) -> list[tuple[str, int]]:
    """How many finished trials have each verdict, and how many did not finish, by their state."""
    counts = dict.fromkeys((*reversed(VERDICTS), "pruned", "failed"), 0)
    for run in story.runs:
        word = run.verdict if run.state in ("finished", "failed") else ""
        word = word or ("" if run.state == "finished" else run.state)
        if word:
            counts[word] = counts.get(word, 0) + 1
    return [(word, count) for word, count in counts.items() if count]


def describe_best(story: ReportData) -> str:
    """The best trial of the study and how far that can be trusted; nothing where none finished."""
    finished = story.finished
    if not len(finished):
        return ""
    best = finished.iloc[0]
    run = story.run_of(best["trial"])
    if run is None or pd.isna(best["val_accuracy"]):
        return ""
    varied = varied_factors([one for one in story.runs if one.architecture == best["architecture"]])
    words = describe_levels(run.levels, varied)
    text = (
        f"The best validation accuracy is {100 * best['val_accuracy']:.1f} % ({best['trial']}"
        f"{': ' + words if words else ''}), with a gap of {100 * best['gap_accuracy']:+.1f} points."
    )
    if story.study.objective != Metric.VAL_ACCURACY:
        text = text.replace("The best validation accuracy is", "The trial with the best validation loss has")
    if len(finished) > 1:
        text += f" It is the best of {len(finished)} on the images that it was chosen by, so that number is too high."
    return text


def describe_missing(story: ReportData) -> str:
    """Why there is no answer, where no trial has finished."""
    if len(story.finished):
        return ""
    if not story.runs:
        return "This study has no trials yet."
    return f"None of {count_noun(len(story.runs), 'trial')} has finished, so there is nothing to tell yet."


def confirmation_sentences(confirmed: ConfirmationData) -> list[str]:
    """What fresh seeds and the test images said, most important first."""
    return confirmed_sentences(confirmed.record)


def describe_dates(story: ReportData) -> str:
    """When the trials ran, in UTC."""
    started = [run.started for run in story.runs]
    if not started:
        return ""
    days = [
        datetime.datetime.fromtimestamp(moment / 1000, datetime.UTC).date().isoformat()
        for moment in (min(started), max(started))
    ]
    return " to ".join(dict.fromkeys(days))


def provenance_facts(story: ReportData) -> list[Fact]:
    """What made the numbers: code, packages, data, MLflow's ids."""
    versions = _distinct(run.code_version for run in story.runs)
    packages = [run.packages for run in story.runs if run.state == "finished"]
    texts = _distinct(", ".join(f"{name} {version}" for name, version in of_run.items()) for of_run in packages)
    return [
        fact
        for fact in (
            Fact("Trials ran", describe_dates(story)),
            Fact("Code", ", ".join(versions), "several versions: compare with care" if len(versions) > 1 else ""),
            Fact("Packages", "; ".join(texts)),
            Fact("Data digest", ", ".join(_distinct(run.data_digest for run in story.runs))),
            Fact("Weights digest", ", ".join(_distinct(run.weights_digest for run in story.runs))),
            Fact("MLflow", f"experiment {story.study.experiment_id}, run {story.study.run_id}"),
        )
        if fact.value
    ]


def _distinct(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]


def recorded_configuration(story: ReportData) -> str:
    """As JSON, what the trials were run with."""
    return json.dumps(story.study.config, indent=2, ensure_ascii=False)


def limitation_sentences(story: ReportData) -> list[str]:
    """What the numbers say nothing about."""
    lines = []
    strategy = story.study.config.get("strategy", {})
    seeds = story.frame["seed"].nunique() if len(story.frame) else 0
    if strategy.get("kind") == "factorial" and seeds > 1:
        lines.append(
            f"The intervals are over {seeds} seeds: of the split of the images, the initial weights and the order of "
            "batches. They hold for these images and these levels, not for other data sets."
        )
    if seeds == 1:
        lines.append("With one seed, what is luck of the split and the initial weights can't be told from an effect.")
    if len(story.finished) and story.confirmed is None:
        lines.append(
            "No test images were looked at. The best trial was chosen by its validation images, which flatters it; "
            f"`python -m cnnstudy confirm {story.study.name}` trains the best ones again with fresh seeds."
        )
    lines.append(
        "A gap is compared where something else is equal: epochs, updates or train loss. The answer can depend on "
        "which; where they disagree, the effect goes with how far a network was trained."
    )
    lines.append("That an effect can't be told does not mean that there is none: more seeds narrow its interval.")
    return lines


#: Trials of the leaderboard.
TOP = 20


@dataclass(frozen=True)
class Cell:
    """What is shown, and the number that it is sorted by (None: the text)."""

    text: str
    number: float | None = None
    numeric: bool = False


@dataclass(frozen=True)
class TrialRow:
    """One trial of the table of all, with what it is filtered by."""

    trial: str
    network: str
    transfer: str
    state: str
    verdict: str  # or ""
    front: bool
    words: str  # what the page says of it where its point is touched
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table of texts; numbers stand to the right."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    hidden: int = 0  # rows that are left out


#: Columns of the table of all trials, after the factors: name, heading, how it is shown, with which factor and sign.
_MEASURED = (
    ("train_accuracy", "train %", "{:.1f}", 100.0),
    ("val_accuracy", "val %", "{:.1f}", 100.0),
    ("gap_accuracy", "gap", "{:+.1f}", 100.0),
    ("last_gap_accuracy", "last gap", "{:+.1f}", 100.0),
    ("best_epoch", "epoch", "{:.0f}", 1.0),
    ("seconds", "seconds", "{:.0f}", 1.0),
)
#: After so many of them stands the verdict.
_JUDGED = 4


def trial_table(story: ReportData) -> tuple[list[str], list[TrialRow]]:
    """Headings and rows of all trials, the best first."""
    frame = story.frame
    if frame.empty:
        return [], []
    factors = [name for name in FACTORS if name in frame and (name in ALWAYS_SHOWN or _varies(frame, name))]
    headings = ["trial", *(_heading(name) for name in factors), "seed"]
    headings += [*(heading for _, heading, _, _ in _MEASURED[:_JUDGED]), "verdict"]
    headings += [*(heading for _, heading, _, _ in _MEASURED[_JUDGED:]), "state"]
    of_network: dict[str, list[RecordedRun]] = {}
    for run in story.runs:
        of_network.setdefault(run.architecture, []).append(run)
    varied = {network: varied_factors(runs) for network, runs in of_network.items()}
    rows = []
    by_trial = {run.trial: run for run in story.runs}
    for row, front in zip(frame.to_dict("records"), story.front, strict=True):
        measured = [_measured(row[column], text, scale) for column, _, text, scale in _MEASURED]
        verdict, state = row["verdict"] or "", row["state"]
        reason = " ".join(str(row["reason"]).split())
        rows.append(
            TrialRow(
                trial=row["trial"],
                network=row["architecture"],
                transfer=str(row.get("transfer", "")),
                state=state,
                verdict=verdict,
                front=bool(front),
                words=describe_levels(by_trial[row["trial"]].levels, varied[row["architecture"]]),
                cells=(
                    Cell(row["trial"]),
                    *(_factor(row, name) for name in factors),
                    Cell(str(row["seed"]), float(row["seed"]), True),
                    *measured[:_JUDGED],
                    Cell(verdict),
                    *measured[_JUDGED:],
                    Cell(f"{state}: {reason[:160]}" if reason else state),
                ),
            )
        )
    return headings, rows


def _varies(frame: pd.DataFrame, factor: str) -> bool:
    """Within a network: between networks a default may differ."""
    by_network = frame.groupby("architecture")[factor].nunique()
    return bool((by_network > 1).any())


def _heading(factor: str) -> str:
    return f"{FACTORS[factor].short_label} {FACTORS[factor].unit}".rstrip()


def _factor(row: dict[Any, Any], factor: str) -> Cell:
    value = row[factor]
    if pd.isna(value):
        return Cell("", None, factor != "transfer")
    if isinstance(value, str):
        return Cell(transfer_label(value, row["weights"]) if factor == "transfer" else value)
    return Cell(FACTORS[factor].write(value, with_unit=False), float(value), True)


def _measured(value: float | None, text: str, scale: float) -> Cell:
    return Cell("", None, True) if pd.isna(value) else Cell(text.format(scale * float(value)), float(value), True)


def best_trials(story: ReportData) -> Table:
    """The best by the study's objective."""
    finished = story.finished
    if finished.empty:
        return Table((), ())
    headings, rows = table(finished.head(TOP))
    return Table(tuple(headings), tuple(map(tuple, rows)), max(0, len(finished) - TOP))


def effect_table(causes: NetworkAnalysis, interactions: bool) -> Table:
    """The effects of one network with the answer and their intervals; of interactions those with an answer."""
    rows, hidden = effect_rows(causes, interactions)
    headings = (EFFECT_HEADINGS[0], EFFECT_HEADINGS[-1], *EFFECT_HEADINGS[1:-1])
    return Table(headings, tuple((row[0], row[-1], *row[1:-1]) for row in rows), hidden)
