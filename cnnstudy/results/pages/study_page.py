"""The page of a study: one self-contained HTML file, with its figures beside it as PNG and SVG."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

import cnnstudy
from cnnstudy.analysis.causes import NETWORKS, NetworkAnalysis, finished_networks
from cnnstudy.analysis.confirmation_text import confirmation_sentences, describe_metric
from cnnstudy.analysis.contrasts import varied_levels
from cnnstudy.analysis.data_law import DEFAULT_TARGET_GAP
from cnnstudy.analysis.effects_text import (
    answer_sentences,
    judge_overfitting,
    law_sentences,
    range_sentences,
    share_sentences,
)
from cnnstudy.analysis.leaderboard import GOALS, describe_front, describe_scores
from cnnstudy.analysis.named_causes import cause_sentence
from cnnstudy.config.factors import Levels, find_factor, recorded_factors
from cnnstudy.errors import TrackingError
from cnnstudy.results.pages import content
from cnnstudy.results.pages.curve_panels import curve_panels
from cnnstudy.results.pages.effect_figures import (
    GAPS,
    MOST_ROWS,
    OUTCOMES,
    candidate_forest,
    compares_levels,
    data_law_figure,
    effect_forest,
    effect_forest_rows,
    gap_by_factor,
    network_levels,
    shares_of_variance,
)
from cnnstudy.results.pages.rendering import Drawn, render
from cnnstudy.results.pages.report_data import LEFT_OUT, ReportData, collect_report_data
from cnnstudy.results.pages.svg import inline_svg, save_png, svg_text
from cnnstudy.results.pages.trial_figures import (
    LARGEST_MATRIX,
    MOST_CLASSES,
    class_gaps,
    confusion_figure,
    learning_curves,
    pareto_figure,
)
from cnnstudy.system.display import count_noun
from cnnstudy.system.files import write_whole
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedStudy
from cnnstudy.tracking.registry import Registry
from cnnstudy.tracking.ui_layout import trials_url

#: The sections whose figures show plain accuracies, and what they say where the answer is about balanced ones.
OF_PLAIN_ACCURACIES = ("curves", "factors", "effects", "interactions", "law")
PLAIN = "Plain accuracies; the answer is about balanced ones."
#: The sections whose first figure may stand beside the answer, the most telling first.
MOST_TELLING = ("curves", "effects", "law", "factors", "front", "classes")
FIRST = "answer"
#: The sections of a page that have figures.
SECTIONS = ("confirmed", "curves", "factors", "effects", "interactions", "law", "front", "importances", "classes")


@dataclass(frozen=True)
class Illustration:
    """A figure, the section that it belongs to, and its text alternative."""

    section: str
    group: str  # the network, or "" for all
    figure: Figure
    description: str
    caption: str = ""  # what its points and intervals are over


def list_illustrations(report: ReportData) -> Iterator[Illustration]:
    """Yield all figures of the page, section by section."""
    is_balanced = any(one.question.unequal for one in report.causes)
    for one in _illustrate(report):
        says_so = is_balanced and one.section in OF_PLAIN_ACCURACIES
        yield replace(one, caption=f"{one.caption} {PLAIN}".strip()) if says_so else one


def _illustrate(report: ReportData) -> Iterator[Illustration]:
    if report.confirmed is not None and report.confirmed.candidates:
        counts = sorted({len(one.seeds) for one in report.confirmed.candidates})
        seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        caption = f"95 % intervals of the means over {seeds} fresh seeds."
        description = "Confirmed candidates with their 95 % intervals"
        yield Illustration("confirmed", "", candidate_forest(report.confirmed), description, caption)
    yield from _curve_illustrations(report)
    for one in report.causes:
        yield from _factor_illustrations(report, one)
    for interactions, section, title, axis in (
        (False, "effects", "effects on the gap", "change of the gap, points"),
        (True, "interactions", "interactions", "how much larger the effect is there, points"),
    ):
        for one in report.causes:
            if rows := effect_forest_rows(one, interactions):
                outcomes = OUTCOMES if interactions else GAPS
                figure = effect_forest(f"{one.architecture}: {title}", rows, outcomes, axis)
                description = f"{one.architecture}: {title} with 95 % intervals"
                caption = f"95 % intervals over {_count_trials(one.frame)}. Hollow: cannot be told from 0."
                yield Illustration(section, one.architecture, figure, description, caption)
    for one in report.causes:
        for law in one.laws:
            if law.measured:
                description = f"{one.architecture}: {law.sentence()}"
                caption = f"Means of {_count_trials(one.frame)}, with 95 % intervals over the seeds."
                yield Illustration("law", one.architecture, data_law_figure(law), description, caption)
    if report.front.any():
        description = "Validation accuracy against gap"
        caption = f"{count_noun(int(report.front.sum()), 'trial')} of {len(report.finished)} on the front."
        yield Illustration("front", "", pareto_figure(report.frame, report.front), description, caption)
    for one in report.causes:
        if any(shares.shares for shares in one.importances.values()):
            title = f"{one.architecture}: share of the variance by factor"
            caption = f"95 % intervals over {_count_trials(one.frame)}."
            figure = shares_of_variance(title, one.importances)
            yield Illustration("importances", one.architecture, figure, title, caption)
    yield from _class_illustrations(report)


def _count_trials(frame: pd.DataFrame) -> str:
    """Return how many trials and seeds the frame has: `24 trials, 3 seeds`."""
    return f"{count_noun(len(frame), 'trial')}, {count_noun(frame['seed'].nunique(), 'seed')}"


def _curve_illustrations(report: ReportData) -> Iterator[Illustration]:
    for architecture in dict.fromkeys(run.architecture for run in report.runs):
        runs = [run for run in report.runs if run.architecture == architecture and run.state == "finished"]
        for panel in curve_panels(runs, report.curves):
            figure = learning_curves(panel, chance_accuracy(report))
            description = f"{architecture}, {panel.title}: clean train and validation accuracy by epoch"
            spread = "" if panel.seeds < 2 else "; bands from the lowest to the highest seed"
            if panel.lines and len(panel.trials) > 1:
                spread = "; thin lines: single trials"
            counts = f"{count_noun(len(panel.trials), 'trial')}, {count_noun(panel.seeds, 'seed')}"
            yield Illustration("curves", architecture, figure, description, f"{counts}{spread}.")


def _factor_illustrations(report: ReportData, one: NetworkAnalysis) -> Iterator[Illustration]:
    for factor, levels in _varied_factors(report, one.architecture).items():
        if compares_levels(one.frame, factor):
            description = f"{one.architecture}: gap of each trial by {find_factor(factor).label}"
            figure = gap_by_factor(one.frame, factor, levels)
            caption = f"{_count_trials(one.frame)}. Bars: means of the levels."
            yield Illustration("factors", one.architecture, figure, description, caption)


def _varied_factors(report: ReportData, architecture: str) -> dict[str, Levels]:
    one = next(one for one in report.causes if one.architecture == architecture)
    if one.frame.empty:
        return {}
    if architecture == NETWORKS:
        return {"network": network_levels(one.frame)}
    return varied_levels(one.frame, recorded_factors(report.study.config, architecture))


def chance_accuracy(report: ReportData) -> float | None:
    """Return the accuracy (0..1) of always guessing the largest class, None if the number of classes is not known.

    The classes' shares are those of the validation images in the recorded confusion matrix; without one, classes count
    as equally large.
    """
    if report.classes is not None and report.classes.matrix:
        images = [sum(row) for row in report.classes.matrix]
        return max(images) / sum(images)
    counts = {run.classes for run in report.runs if run.classes is not None}
    return 1 / int(counts.pop()) if len(counts) == 1 else None


def _class_illustrations(report: ReportData) -> Iterator[Illustration]:
    classes = report.classes
    if classes is None:
        return
    title, images = f"{classes.trial}: recall by class", sum(map(sum, classes.matrix or ()))
    over = f"1 trial, {images} validation images." if images else "1 trial."
    yield Illustration("classes", "", class_gaps(title, classes.of_trial), title, over)
    if classes.trials > 1:
        title = f"mean of the {classes.trials} trials that learnt"
        yield Illustration("classes", "", class_gaps(title, classes.mean), title, f"{classes.trials} trials.")
    names = [one.name for one in classes.of_trial]
    if classes.matrix and len(names) <= LARGEST_MATRIX and len(names) == len(classes.matrix):
        figure = confusion_figure(classes.matrix, names)
        yield Illustration("classes", "", figure, f"Confusion matrix of {classes.trial} on validation", over)


PAGE, FIGURES = "report.html", "figures"
#: The report's folder among the artifacts of the study's run.
ARTIFACT_FOLDER = "report"


@dataclass(frozen=True)
class Answer:
    """The results of one network in words and tables, and how much its figures leave out."""

    network: str
    lines: Sequence[str]
    notes: Sequence[str]
    unlearnt: int  # trials that did not learn
    compared: content.Table
    effects: content.Table
    interactions: content.Table
    ranges: Sequence[str]
    laws: Sequence[str]
    shares: Sequence[str]
    rows_not_drawn: Mapping[str, int]  # effects and interactions that their figures have no room for
    link: str = ""  # to the trials in MLflow's UI that all of this is about


def write_report(
    tracker: Tracker,
    study: RecordedStudy,
    folder: Path,
    gallery: Mapping[str, Any] | str = LEFT_OUT,
    gap: float = DEFAULT_TARGET_GAP,
    records: bool = True,
) -> Path:
    """Write `folder`/report.html and `folder`/figures/, and record both under report/ of the study's run.

    Obsolete figures of an earlier report are deleted, in MLflow only if its artifact store permits it.

    Args:
        gallery: the model's mistakes, or the reason why there are none (see report_data.read_gallery).
        gap: the target gap (0..1) of the data-size projection.
        records: False: MLflow's store can't be written, so that the page is only in the folder.

    Returns:
        The path of the page.

    Raises:
        TrackingError: MLflow does not answer, or does not accept the page, which is in the folder then.
        DataError: an image of the gallery can't be decoded.
        OSError: the folder can't be written.
    """
    report = collect_report_data(tracker, study, gap, gallery)
    with scratch_folder() as scratch:
        new = scratch / ARTIFACT_FOLDER
        write_page(report, new)
        for path in filter(_is_figure, (folder / FIGURES).glob("*")):
            path.unlink()
        _copy_page(new, folder, study.name)
        if not records:
            return folder / PAGE
        try:
            tracker.log_files(study.run_id, scratch)
        except TrackingError as error:
            raise TrackingError(
                f"{error} The page is written to {folder / PAGE}, but not recorded in MLflow."
            ) from error
        _remove_obsolete_figures(tracker, study, {path.name for path in (new / FIGURES).iterdir()})
    return folder / PAGE


def _copy_page(new: Path, folder: Path, study: str) -> None:
    """Copy the page and its figures into a folder.

    Raises:
        OSError: the folder can't be written, with what to do.
    """
    elsewhere = f"or write the page elsewhere: `python -m cnnstudy report {study} --out FOLDER`"
    if os.path.lexists(folder) and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder, so the page can't be written; move it away, {elsewhere}")
    try:
        shutil.copytree(new, folder, dirs_exist_ok=True)
    except shutil.Error as errors:  # one for each file
        _, path, why = errors.args[0][0]
        raise OSError(f"can't write {path}: {why}; make room, {elsewhere}") from errors


def _remove_obsolete_figures(tracker: Tracker, study: RecordedStudy, current: Collection[str]) -> None:
    """Remove recorded figures of an earlier report that this one does not have."""
    registry = Registry(tracker)
    for path in map(Path, tracker.files(study.run_id, f"{ARTIFACT_FOLDER}/{FIGURES}")):
        if _is_figure(path) and path.name not in current:
            with contextlib.suppress(TrackingError):
                registry.remove_files(study.run_id, path.as_posix())


def _is_figure(path: Path) -> bool:
    """Return whether a report wrote the file, rather than a user."""
    return path.suffix in (".png", ".svg") and path.name.split("-")[0] in SECTIONS


def write_page(report: ReportData, folder: Path) -> Path:
    """Write `folder`/report.html and its figures, and return the page's path."""
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[Drawn]] = {}
    illustrations = list(list_illustrations(report))
    first = _choose_first(illustrations)
    for place, illustration in enumerate(illustrations):
        section = drawn.setdefault(illustration.section, [])
        parts = (illustration.section, illustration.group, str(len(section) + 1))
        name = "-".join(re.sub(r"\W+", "-", part) for part in parts if part)
        text = svg_text(illustration.figure)
        write_whole(folder / FIGURES / f"{name}.svg", text)
        save_png(illustration.figure, folder / FIGURES / f"{name}.png")
        shown = {name: section}
        if place in first:
            shown[f"{FIRST}-{name}"] = drawn.setdefault(FIRST, [])
        for prefix, listed in shown.items():
            svg = inline_svg(text, prefix, illustration.description)
            listed.append(Drawn(illustration.group, name, svg, illustration.caption))
    drawn.setdefault(FIRST, []).sort(key=lambda one: MOST_TELLING.index(one.name.partition("-")[0]))
    page = folder / PAGE
    write_whole(page, study_page(report, drawn))
    return page


def _choose_first(illustrations: Sequence[Illustration]) -> set[int]:
    """Return the places of the figures beside the answer: the first ones of the three most telling sections."""
    first: dict[str, int] = {}
    for place, one in enumerate(illustrations):
        first.setdefault(one.section, place)
    return set([first[section] for section in MOST_TELLING if section in first][:3])


def study_page(report: ReportData, figures: Mapping[str, Sequence[Drawn]]) -> str:
    """Return the page as HTML; every text of the study is escaped.

    Args:
        figures: by section.
    """
    headings, rows = content.trial_table(report)
    common = _common_notes(report.causes)
    answers = [
        replace(
            _answer(one, common), link=_trials_link(report, "" if one.architecture == NETWORKS else one.architecture)
        )
        for one in report.causes
    ]
    return render(
        "study.html",
        report=report,
        title=_title(report),
        answers=answers,
        cause=cause_sentence(report.causes),
        common=common,
        question=next((one.question.sentence() for one in report.causes if one.effects), ""),
        figures={section: figures.get(section, ()) for section in (FIRST, *SECTIONS)},
        facts=content.facts(report),
        verdicts=content.verdict_counts(report),
        best=content.describe_best(report),
        nothing=content.describe_missing(report),
        absent=_list_absent(report, figures, answers),
        front_trials=describe_front(report.frame) if len(report.frame) else "",
        scores=describe_scores(report.finished) if len(report.finished) else "",
        metric=describe_metric(report.study.rule),
        dates=content.describe_dates(report),
        confirmation=confirmation_sentences(report.confirmed.record) if report.confirmed is not None else [],
        leaderboard=content.best_trials(report),
        configurations=content.configuration_table(report),
        headings=headings,
        rows=rows,
        front=[row for row in rows if row.front],
        goals=report.study.goals or GOALS,
        provenance=content.provenance_facts(report),
        limits=content.limitation_sentences(report),
        configuration=content.recorded_configuration(report),
        version=cnnstudy.__version__,
        most_classes=MOST_CLASSES,
        largest_matrix=LARGEST_MATRIX,
        confusions=content.largest_confusions(report),
        networks=NETWORKS,
        trials_link=_trials_link(report),
        confirm_link=report.ui and trials_url(report.ui, report.study.experiment_id, kind="confirm"),
    )


def _trials_link(report: ReportData, architecture: str = "") -> str:
    """Return the address of the study's or a network's trials in MLflow's UI; "" if it is not known."""
    return report.ui and trials_url(report.ui, report.study.experiment_id, architecture)


def _list_absent(
    report: ReportData, figures: Mapping[str, Sequence[Drawn]], answers: Sequence[Answer]
) -> dict[str, str]:
    """Return the sections that these trials have nothing for, and why."""
    hidden = any(one.interactions.hidden for one in answers)
    reasons = {
        "curves": "No trial has finished, so there are no curves.",
        "factors": content.describe_missing_factors(report),
        "effects": "No effect can be estimated: that takes enough trials that differ in a factor.",
        "interactions": "These trials show no significant interaction."
        if hidden
        else "No interaction can be estimated: that takes enough trials that differ in two factors.",
        "law": "This study does not vary the number of training images (data_fraction), so it cannot show what more "
        "images would do.",
        "front": "No finished trial has learnt anything yet.",
        "importances": " ".join(f"{one.network}: {line}" for one in answers for line in one.shares)
        or "The trials are too similar to attribute their differences to factors.",
        "leaderboard": "No trial has finished.",
        "classes": "No trial has metrics by class.",
        "gallery": report.gallery.reason,
        "trials": "There are no trials yet.",
    }
    there = {section for section in SECTIONS if figures.get(section)}
    for one in answers:
        tables = {"effects": one.effects.rows or one.ranges, "interactions": one.interactions.rows, "law": one.laws}
        there |= {section for section, found in tables.items() if found}
    present = {"leaderboard": len(report.finished), "gallery": report.gallery.mistakes, "trials": report.runs}
    there |= {section for section, found in present.items() if found}
    return {section: reason for section, reason in reasons.items() if section not in there}


def _title(report: ReportData) -> str:
    """Return the page's title, which asks why a study overfits only if it does."""
    judged = {judge_overfitting(one) for one in finished_networks(report.causes)}
    if "overfits" in judged:
        return f"{report.study.name}: why does it overfit?"
    known = {"hardly overfits": "it hardly overfits", "not learnt": "nothing was learnt"}
    only = judged.pop() if len(judged) == 1 else ""
    return f"{report.study.name}: {known.get(only, 'does it overfit?')}"


def _common_notes(analyses: Sequence[NetworkAnalysis]) -> list[str]:
    """Return the warnings that all networks share; empty for a single network."""
    each = [one.warnings for one in analyses if one.architecture != NETWORKS]
    return [note for note in each[0] if all(note in other for other in each)] if len(each) > 1 else []


def _answer(one: NetworkAnalysis, common: Sequence[str]) -> Answer:
    return Answer(
        network=one.architecture,
        lines=answer_sentences(one),
        notes=[note for note in one.warnings if note not in common],
        unlearnt=int((one.frame["verdict"] == "not-learning").sum()) if len(one.frame) else 0,
        compared=content.compared_table(one),
        effects=content.effect_table(one, False),
        interactions=content.effect_table(one, True),
        ranges=range_sentences(one),
        laws=law_sentences(one),
        shares=share_sentences(one),
        rows_not_drawn={
            section: max(0, len(effect_forest_rows(one, interactions)) - MOST_ROWS)
            for section, interactions in (("effects", False), ("interactions", True))
        },
    )
