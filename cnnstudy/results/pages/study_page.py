"""The page of a study: one self-contained HTML file, with its figures beside it as PNG and SVG."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

import cnnstudy
from cnnstudy.analysis.causes import NETWORKS, NetworkAnalysis, recorded_factors
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
from cnnstudy.config.factors import Levels, find_factor
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
from cnnstudy.system.files import write_whole
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedStudy
from cnnstudy.tracking.registry import Registry

#: The sections of a page that have figures.
SECTIONS = ("confirmed", "curves", "factors", "effects", "interactions", "law", "front", "importances", "classes")


@dataclass(frozen=True)
class Illustration:
    """A figure, the section that it belongs to, and its text alternative."""

    section: str
    group: str  # the network, or "" for all
    figure: Figure
    description: str


def list_illustrations(report: ReportData) -> Iterator[Illustration]:
    """Yield all figures of the page, section by section."""
    if report.confirmed is not None and report.confirmed.candidates:
        yield Illustration(
            "confirmed", "", candidate_forest(report.confirmed), "Confirmed candidates with their 95 % intervals"
        )
    yield from _curve_illustrations(report)
    for one in report.causes:
        for factor, levels in _varied_factors(report, one.architecture).items():
            if not compares_levels(one.frame, factor):
                continue
            description = f"{one.architecture}: gap of each trial by {find_factor(factor).label}"
            yield Illustration("factors", one.architecture, gap_by_factor(one.frame, factor, levels), description)
    for interactions, section, title, axis in (
        (False, "effects", "effects on the gap", "change of the gap, points"),
        (True, "interactions", "interactions", "how much larger the effect is there, points"),
    ):
        for one in report.causes:
            if rows := effect_forest_rows(one, interactions):
                outcomes = OUTCOMES if interactions else GAPS
                figure = effect_forest(f"{one.architecture}: {title}", rows, outcomes, axis)
                yield Illustration(
                    section, one.architecture, figure, f"{one.architecture}: {title} with 95 % intervals"
                )
    for one in report.causes:
        for law in one.laws:
            if law.measured:
                yield Illustration(
                    "law", one.architecture, data_law_figure(law), f"{one.architecture}: {law.sentence()}"
                )
    if report.front.any():
        yield Illustration("front", "", pareto_figure(report.frame, report.front), "Validation accuracy against gap")
    for one in report.causes:
        if any(shares.shares for shares in one.importances.values()):
            title = f"{one.architecture}: share of the variance by factor"
            yield Illustration("importances", one.architecture, shares_of_variance(title, one.importances), title)
    yield from _class_illustrations(report)


def _curve_illustrations(report: ReportData) -> Iterator[Illustration]:
    for architecture in dict.fromkeys(run.architecture for run in report.runs):
        runs = [run for run in report.runs if run.architecture == architecture and run.state == "finished"]
        for panel in curve_panels(runs, report.curves):
            figure = learning_curves(panel, chance_accuracy(report))
            description = f"{architecture}, {panel.title}: clean train and validation accuracy by epoch"
            yield Illustration("curves", architecture, figure, description)


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
    title = f"{classes.trial}: recall by class"
    yield Illustration("classes", "", class_gaps(title, classes.of_trial), title)
    if classes.trials > 1:
        title = f"mean of the {classes.trials} trials that learnt"
        yield Illustration("classes", "", class_gaps(title, classes.mean), title)
    names = [one.name for one in classes.of_trial]
    if classes.matrix and len(names) <= LARGEST_MATRIX and len(names) == len(classes.matrix):
        figure = confusion_figure(classes.matrix, names)
        yield Illustration("classes", "", figure, f"Confusion matrix of {classes.trial} on validation")


PAGE, FIGURES = "report.html", "figures"
#: The report's folder among the artifacts of the study's run.
ARTIFACT_FOLDER = "report"


@dataclass(frozen=True)
class Drawn:
    """A figure inside the page."""

    group: str  # the network, or "" for all
    name: str  # of its files, without suffix
    svg: Markup


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


def write_report(
    tracker: Tracker,
    study: RecordedStudy,
    folder: Path,
    gallery: Mapping[str, Any] | str = LEFT_OUT,
    gap: float = DEFAULT_TARGET_GAP,
) -> Path:
    """Write `folder`/report.html and `folder`/figures/, and record both under report/ of the study's run.

    Obsolete figures of an earlier report are deleted, in MLflow only if its artifact store permits it.

    Args:
        gallery: the model's mistakes, or the reason why there are none (see report_data.read_gallery).
        gap: the target gap (0..1) of the data-size projection.

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
        shutil.copytree(new, folder, dirs_exist_ok=True)
        try:
            tracker.log_files(study.run_id, scratch)
        except TrackingError as error:
            raise TrackingError(
                f"{error} The page is written to {folder / PAGE}, but not recorded in MLflow."
            ) from error
        _remove_obsolete_figures(tracker, study, {path.name for path in (new / FIGURES).iterdir()})
    return folder / PAGE


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
    for illustration in list_illustrations(report):
        section = drawn.setdefault(illustration.section, [])
        parts = (illustration.section, illustration.group, str(len(section) + 1))
        name = "-".join(re.sub(r"\W+", "-", part) for part in parts if part)
        text = svg_text(illustration.figure)
        write_whole(folder / FIGURES / f"{name}.svg", text)
        save_png(illustration.figure, folder / FIGURES / f"{name}.png")
        section.append(Drawn(illustration.group, name, inline_svg(text, name, illustration.description)))
    page = folder / PAGE
    write_whole(page, study_page(report, drawn))
    return page


def study_page(report: ReportData, figures: Mapping[str, Sequence[Drawn]]) -> str:
    """Return the page as HTML; every text of the study is escaped.

    Args:
        figures: by section.
    """
    headings, rows = content.trial_table(report)
    common = common_notes(report.causes)
    return render(
        "study.html",
        report=report,
        title=_title(report),
        answers=[_answer(one, common) for one in report.causes],
        common=common,
        question=next((one.question.sentence() for one in report.causes if one.effects), ""),
        figures={section: figures.get(section, ()) for section in SECTIONS},
        facts=content.facts(report),
        verdicts=content.verdict_counts(report),
        best=content.describe_best(report),
        nothing=content.describe_missing(report),
        no_factors=content.describe_missing_factors(report),
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
        networks=NETWORKS,
    )


def _title(report: ReportData) -> str:
    """Return the page's title, which asks why a study overfits only if it does."""
    networks = [one for one in report.causes if one.architecture != NETWORKS and len(one.observations.frame)]
    judged = {judge_overfitting(one) for one in networks}
    if "overfits" in judged:
        return f"{report.study.name}: why does it overfit?"
    known = {"hardly overfits": "it hardly overfits", "not learnt": "nothing was learnt"}
    only = judged.pop() if len(judged) == 1 else ""
    return f"{report.study.name}: {known.get(only, 'does it overfit?')}"


def common_notes(analyses: Sequence[NetworkAnalysis]) -> list[str]:
    """Return the warnings that all networks share; empty for a single network."""
    each = [one.warnings for one in analyses if one.architecture != NETWORKS]
    return [note for note in each[0] if all(note in other for other in each)] if len(each) > 1 else []


def _answer(one: NetworkAnalysis, common: Sequence[str]) -> Answer:
    return Answer(
        one.architecture,
        answer_sentences(one),
        [note for note in one.warnings if note not in common],
        int((one.frame["verdict"] == "not-learning").sum()) if len(one.frame) else 0,
        content.compared_table(one),
        content.effect_table(one, False),
        content.effect_table(one, True),
        range_sentences(one),
        law_sentences(one),
        share_sentences(one),
        {
            section: max(0, len(effect_forest_rows(one, interactions)) - MOST_ROWS)
            for section, interactions in (("effects", False), ("interactions", True))
        },
    )


def render(template: str, **values: Any) -> str:
    """Render a template of this package as HTML.

    Values are escaped, style sheet and script are inlined, and the page's content security policy allows only that
    script.
    """
    environment = Environment(
        loader=PackageLoader("cnnstudy.results.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_source(environment, name) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    environment.filters["prose"] = prose
    page = environment.get_template(template)
    return page.render(style=Markup(style), script=Markup(script), policy=policy, **values)


def prose(text: str, capital: bool = False) -> Markup:
    """Return a sentence as HTML, with text between backquotes as code; `capital` capitalises its first letter."""
    parts = (text[:1].upper() + text[1:] if capital else text).split("`")
    if len(parts) % 2 == 0:  # an unpaired backquote
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
