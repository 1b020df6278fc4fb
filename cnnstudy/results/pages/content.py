"""The text of a study's page: its numbers, sentences and tables."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cnnstudy.analysis.causes import NETWORKS, NetworkAnalysis
from cnnstudy.analysis.configurations import CONFIGURATION_HEADINGS, list_configurations
from cnnstudy.analysis.confirmation_text import describe_metric, format_value
from cnnstudy.analysis.effects_text import effect_headings, effect_rows
from cnnstudy.analysis.leaderboard import describe_configurations, leaderboard_table, transfer_label
from cnnstudy.analysis.observations import on_most_images
from cnnstudy.analysis.participation import compared_headings, compared_rows
from cnnstudy.config.factors import ALWAYS_SHOWN, FACTORS, describe_levels
from cnnstudy.names import Metric, Parameter, column_name, last_name
from cnnstudy.results.pages.curve_panels import varied_factors
from cnnstudy.results.pages.report_data import ReportData
from cnnstudy.system.display import count_noun
from cnnstudy.tracking.recorded import RecordedRun, mark_interrupted
from cnnstudy.tracking.ui_layout import run_url
from cnnstudy.training.verdict import VERDICTS


@dataclass(frozen=True)
class Fact:
    """A named value, with a note."""

    name: str
    value: str
    note: str = ""


def facts(report: ReportData) -> list[Fact]:
    """Return the numbers at the top of the page: trials, networks, data, best validation score, mean gap."""
    frame = report.frame
    states = frame["state"].value_counts() if len(frame) else pd.Series(dtype=int)
    others = [f"{states[state]} {state}" for state in ("pruned", "failed", "interrupted", "running") if state in states]
    listed = [Fact("Trials", f"{states.get('finished', 0)} finished", ", ".join(others) or "none pruned or failed")]
    if len(frame):
        names, seeds = list(dict.fromkeys(frame["architecture"])), count_noun(frame["seed"].nunique(), "seed")
        several = Fact("Networks", str(len(names)), f"{', '.join(names)}; {seeds}")
        listed.append(several if len(names) > 1 else Fact("Network", names[0], seeds))
    if (data := _data_fact(report)) is not None:
        listed.append(data)
    finished = report.finished
    if len(finished):
        best, rule = finished.iloc[0], report.study.rule
        if pd.notna(value := best[column_name(rule.metric)]):
            gap = f", gap {100 * best['gap_accuracy']:+.1f} points" if pd.notna(best["gap_accuracy"]) else ""
            listed.append(Fact(f"Best {describe_metric(rule)}", format_value(value, rule), f"{best['trial']}{gap}"))
    balanced = any(one.question.unequal for one in report.causes)  # as in the headline
    column = column_name(last_name(Metric.GAP_BALANCED_ACCURACY if balanced else Metric.GAP_ACCURACY))
    factors = next((one.factors for one in report.causes if one.factors), {})
    counted, images = on_most_images(finished, factors) if column in finished else (finished, "")
    gaps = counted[column].dropna().astype(float) if column in finished else pd.Series(dtype=float)
    if len(gaps):
        unlearnt = int((finished.loc[gaps.index, "verdict"] == "not-learning").sum())
        kind = " of balanced accuracy" if balanced else ""
        note = f"points{kind} after the last epoch, over {count_noun(len(gaps), 'finished trial')}{images}"
        note += f", of which {unlearnt} did not learn" if unlearnt else ""
        listed.append(Fact("Mean gap", f"{100 * gaps.mean():+.1f}", note))
    return listed


def _data_fact(report: ReportData) -> Fact | None:
    for run in report.runs:
        values = run.parameters
        if {Parameter.DATA, Parameter.CLASSES, Parameter.TRAIN_IMAGES, Parameter.VALIDATION_IMAGES} <= set(values):
            used = sorted({number for one in report.runs if (number := one.train_images_used)})
            share = f"{', '.join(map(str, used))} of " if used not in ([], [run.train_images]) else ""
            images = f"{share}{run.train_images} train and {values[Parameter.VALIDATION_IMAGES]} validation images"
            return Fact("Data", values[Parameter.DATA], f"{run.classes} classes, {images}")
    return None


def verdict_counts(report: ReportData) -> list[tuple[str, int]]:
    """Return how many finished trials have each verdict, and how many of the others have each state."""
    counts = dict.fromkeys((*reversed(VERDICTS), "pruned", "failed"), 0)
    for run in mark_interrupted(report.runs):
        word = run.verdict if run.state in ("finished", "failed") else ""
        word = word or ("" if run.state == "finished" else run.state)
        if word:
            counts[word] = counts.get(word, 0) + 1
    return [(word, count) for word, count in counts.items() if count]


def describe_best(report: ReportData) -> str:
    """Describe the best trial and how far its score can be trusted; empty if no trial finished."""
    finished = report.finished
    if not len(finished):
        return ""
    best = finished.iloc[0]
    run, rule = report.run_of(best["trial"]), report.study.rule
    if run is None or pd.isna(value := best[column_name(rule.metric)]):
        return ""
    varied = varied_factors([one for one in report.runs if one.architecture == best["architecture"]])
    words = describe_levels(run.levels, varied)
    text = (
        f"The best {describe_metric(rule)} is {format_value(value, rule)} ({best['trial']}"
        f"{': ' + words if words else ''}), with a gap in accuracy of {100 * best['gap_accuracy']:+.1f} points."
    )
    if len(finished) > 1:
        text += (
            f" It is the best of {len(finished)} trials on the images that it was selected by, which makes it look "
            "better than it is."
        )
    return text


def describe_missing(report: ReportData) -> str:
    """Say why there is no answer; empty if a trial has finished."""
    if len(report.finished):
        return ""
    if not report.runs:
        return "This study has no trials yet."
    return f"None of {count_noun(len(report.runs), 'trial')} has finished, so there are no results yet."


def describe_missing_factors(report: ReportData) -> str:
    """Say why there is no figure of the gap by factor."""
    finished = report.finished
    if finished.empty:
        return "No trial has finished."
    if finished["last_gap_accuracy"].isna().all():
        return "No gap after the last epoch is recorded of the finished trials."
    return f"No factor has two levels among {count_noun(len(finished), 'finished trial')}."


def describe_dates(report: ReportData) -> str:
    """Return the first and last day on which trials started, in UTC; empty if there are none."""
    started = [run.started for run in report.runs]
    if not started:
        return ""
    days = [
        datetime.datetime.fromtimestamp(moment / 1000, datetime.UTC).date().isoformat()
        for moment in (min(started), max(started))
    ]
    return " to ".join(dict.fromkeys(days))


def provenance_facts(report: ReportData) -> list[Fact]:
    """Return where the numbers come from: dates, code, packages, digests of data and weights, MLflow's ids."""
    versions = _distinct(run.code_version for run in report.runs)
    packages = [run.packages for run in report.runs if run.state == "finished"]
    texts = _distinct(", ".join(f"{name} {version}" for name, version in one.items()) for one in packages)
    return [
        fact
        for fact in (
            Fact("Trials ran", describe_dates(report)),
            Fact("Code", ", ".join(versions), "several versions: compare with care" if len(versions) > 1 else ""),
            Fact("Packages", "; ".join(texts)),
            Fact("Data digest", ", ".join(_distinct(run.data_digest for run in report.runs))),
            Fact("Weights digest", ", ".join(_distinct(run.weights_digest for run in report.runs))),
            Fact("MLflow", f"experiment {report.study.experiment_id}, run {report.study.run_id}"),
        )
        if fact.value
    ]


def _distinct(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]


def recorded_configuration(report: ReportData) -> str:
    """Return the configuration that the trials ran with, as JSON."""
    return json.dumps(report.study.config, indent=2, ensure_ascii=False)


def limitation_sentences(report: ReportData) -> list[str]:
    """Return the limits of what the numbers can show."""
    lines = []
    strategy = report.study.config.get("strategy", {})
    seeds = report.frame["seed"].nunique() if len(report.frame) else 0
    if strategy.get("kind") == "factorial" and seeds > 1:
        weights = report.study.config.get("weights") or {}
        redrawn = any(given.get("draws") == "each-seed" for given in weights.values())
        lines.append(
            f"The intervals are over {seeds} seeds, which vary the split of the images (unless they were divided "
            f"beforehand), the initial weights{', the pretrained source weights' if redrawn else ''} and the order of "
            "batches. They hold for these "
            "images and these levels, not for other data sets."
        )
    if seeds == 1:
        lines.append("With one seed, an effect cannot be distinguished from luck in the split and the initial weights.")
    if len(report.finished) and report.confirmed is None:
        lines.append(
            "The test split was not used, and the best trial was selected by its validation score: "
            f"`python -m cnnstudy confirm {report.study.name}` retrains the best trials with fresh seeds."
        )
    lines.append(
        "Gaps are compared at equal epochs, equal updates or equal train loss. The answer can depend on which; where "
        "they disagree, the effect is tied to how far a network was trained."
    )
    lines.append("An effect that is not significant may still exist: more seeds narrow its interval.")
    return lines


#: Rows of the leaderboard, and of the table of confusions.
TOP = 20


@dataclass(frozen=True)
class Cell:
    """A text, and the number that it is sorted by (None: by the text)."""

    text: str
    number: float | None = None
    numeric: bool = False


@dataclass(frozen=True)
class TrialRow:
    """One row of the table of all trials, with the values that it can be filtered by."""

    trial: str
    network: str
    transfer: str
    state: str
    verdict: str  # "" if there is none
    front: bool  # on the Pareto front
    words: str  # its levels, shown when its point in a figure is touched
    link: str  # to its run in MLflow's UI; "" if that is not known
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    hidden: int = 0  # number of rows left out
    title: str = ""


#: Measured columns of the table of all trials: name, heading, format, multiplier.
_MEASURED = (
    ("train_accuracy", "train %", "{:.1f}", 100.0),
    ("val_accuracy", "val %", "{:.1f}", 100.0),
    ("gap_accuracy", "gap", "{:+.1f}", 100.0),
    ("last_gap_accuracy", "last gap", "{:+.1f}", 100.0),
)
_AFTER_VERDICT = (("best_epoch", "epoch", "{:.0f}", 1.0), ("seconds", "seconds", "{:.0f}", 1.0))
#: The column that trials are ranked by, if that is not their accuracy.
_RANKED_BY = {
    Metric.VAL_BALANCED_ACCURACY: ("val_balanced_accuracy", "balanced %", "{:.1f}", 100.0),
    Metric.VAL_MACRO_F1: ("val_macro_f1", "macro-F1 %", "{:.1f}", 100.0),
    Metric.VAL_LOSS: ("val_loss", "val loss", "{:.3f}", 1.0),
}


def trial_table(report: ReportData) -> tuple[list[str], list[TrialRow]]:
    """Return the headings and rows of all trials, best first."""
    frame = report.frame
    if frame.empty:
        return [], []
    factors = [name for name in FACTORS if name in frame and (name in ALWAYS_SHOWN or _varies(frame, name))]
    headings = ["trial", *(_heading(name) for name in factors), "seed"]
    ranked_by = _RANKED_BY.get(report.study.objective)
    before = (*_MEASURED, ranked_by) if ranked_by else _MEASURED
    headings += [*(heading for _, heading, _, _ in before), "verdict"]
    headings += [*(heading for _, heading, _, _ in _AFTER_VERDICT), "state"]
    runs_by_network: dict[str, list[RecordedRun]] = {}
    for run in report.runs:
        runs_by_network.setdefault(run.architecture, []).append(run)
    varied = {network: varied_factors(runs) for network, runs in runs_by_network.items()}
    rows = []
    by_trial = {run.trial: run for run in report.runs}
    for row, front in zip(frame.to_dict("records"), report.front, strict=True):
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
                link=report.ui and run_url(report.ui, report.study.experiment_id, by_trial[row["trial"]].run_id),
                cells=(
                    Cell(row["trial"]),
                    *(_factor_cell(row, name) for name in factors),
                    Cell(str(row["seed"]), float(row["seed"]), True),
                    *(_measured_cell(row[column], form, scale) for column, _, form, scale in before),
                    Cell(verdict),
                    *(_measured_cell(row[column], form, scale) for column, _, form, scale in _AFTER_VERDICT),
                    Cell(f"{state}: {reason[:160]}" if reason else state),
                ),
            )
        )
    return headings, rows


def _varies(frame: pd.DataFrame, factor: str) -> bool:
    """Return whether a factor varies within a network; between networks its default may differ."""
    by_network = frame.groupby("architecture")[factor].nunique()
    return bool((by_network > 1).any())


def _heading(factor: str) -> str:
    return f"{FACTORS[factor].short_label} {FACTORS[factor].unit}".rstrip()


def _factor_cell(row: dict[Any, Any], factor: str) -> Cell:
    value = row[factor]
    if pd.isna(value):
        return Cell("", None, factor != "transfer")
    if isinstance(value, str):
        return Cell(transfer_label(value, row["weights"]) if factor == "transfer" else value)
    return Cell(FACTORS[factor].write(value, with_unit=False), float(value), True)


def _measured_cell(value: float | None, form: str, scale: float) -> Cell:
    return Cell("", None, True) if pd.isna(value) else Cell(form.format(scale * float(value)), float(value), True)


def best_trials(report: ReportData) -> Table:
    """Return the best trials by the study's objective."""
    finished = report.finished
    if finished.empty:
        return Table((), ())
    headings, rows = leaderboard_table(finished.head(TOP))
    return Table(tuple(headings), tuple(map(tuple, rows)), max(0, len(finished) - TOP))


def compared_table(causes: NetworkAnalysis) -> Table:
    """Return how many trials of each level are compared on each basis; empty for the comparison of networks."""
    if causes.architecture == NETWORKS or causes.frame.empty:
        return Table((), ())
    rows = compared_rows(causes.frame, causes.factors)
    return Table(compared_headings(causes.observations), tuple(map(tuple, rows)))


def configuration_table(report: ReportData) -> Table:
    """Return the verdict over all seeds of each configuration that has several, best first."""
    found = list_configurations(report.runs)
    rows = tuple(tuple(one.cells) for one in found[:TOP])
    return Table(CONFIGURATION_HEADINGS, rows, max(0, len(found) - TOP), describe_configurations(found))


def effect_table(causes: NetworkAnalysis, interactions: bool) -> Table:
    """Return the effects of one network with answers and intervals; of interactions only those with an answer."""
    rows, hidden = effect_rows(causes, interactions)
    headings = effect_headings(causes)
    return Table(
        (headings[0], headings[-1], *headings[1:-1]), tuple((row[0], row[-1], *row[1:-1]) for row in rows), hidden
    )


def largest_confusions(report: ReportData) -> Table:
    """Return the pairs of classes that are confused most, by the share of the true class's validation images."""
    classes = report.classes
    if classes is None:
        return Table((), ())
    names = [one.name for one in classes.of_trial]
    found = [
        (count / sum(row), count, names[true], names[predicted])
        for true, row in enumerate(classes.matrix or ())
        for predicted, count in enumerate(row)
        if count and true != predicted and len(classes.matrix) == len(names)
    ]
    found.sort(key=lambda one: (-one[0], -one[1], one[2:]))
    rows = tuple((true, taken, str(count), f"{100 * share:.0f} %") for share, count, true, taken in found[:TOP])
    return Table(("true class", "taken for", "images", "of the class"), rows, max(0, len(found) - TOP))
