"""The page of a study: one HTML file that loads nothing from anywhere, its figures beside it as PNG and SVG."""

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
from cnnstudy.analysis.contrasts import varied_levels
from cnnstudy.analysis.data_law import TARGET
from cnnstudy.analysis.effects_text import effect_sentences
from cnnstudy.analysis.leaderboard import GOALS
from cnnstudy.config.factors import Levels, find_factor
from cnnstudy.errors import TrackingError
from cnnstudy.results.pages import content
from cnnstudy.results.pages.curve_panels import curve_panels
from cnnstudy.results.pages.figures import (
    GAPS,
    LARGEST_MATRIX,
    MOST_CLASSES,
    MOST_ROWS,
    OUTCOMES,
    candidate_forest,
    class_gaps,
    compares_levels,
    confusion_figure,
    count_left_out,
    data_law,
    effect_forest,
    effect_forest_rows,
    gap_by_factor,
    learning_curves,
    network_levels,
    pareto_figure,
    shares_of_variance,
)
from cnnstudy.results.pages.report_data import LEFT_OUT, ReportData, collect_report_data
from cnnstudy.results.pages.svg import inline_svg, save_png, svg_text
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedStudy
from cnnstudy.tracking.registry import Registry

#: The sections of a page that have figures.
SECTIONS = ("confirmed", "curves", "factors", "effects", "interactions", "law", "front", "importances", "classes")


@dataclass(frozen=True)
class Illustration:
    """A figure, where it belongs, and what it shows for those who can't see it."""

    section: str
    group: str  # a network, or ""
    figure: Figure
    description: str


def list_illustrations(story: ReportData) -> Iterator[Illustration]:
    """All figures of the page, section by section."""
    if story.confirmed is not None and story.confirmed.candidates:
        yield Illustration(
            "confirmed", "", candidate_forest(story.confirmed), "Confirmed candidates with their 95 % intervals"
        )
    yield from _curves(story)
    for one in story.causes:
        for factor, levels in _varied(story, one.architecture).items():
            if not compares_levels(one.frame, factor):
                continue
            described = f"{one.architecture}: gap of each trial by {find_factor(factor).label}"
            yield Illustration("factors", one.architecture, gap_by_factor(one.frame, factor, levels), described)
    for interactions, section, title, axis in (
        (False, "effects", "effects on the gap", "change of the gap, points"),
        (True, "interactions", "interactions", "how much larger the effect is there, points"),
    ):
        for one in story.causes:
            if rows := effect_forest_rows(one, interactions):
                outcomes = OUTCOMES if interactions else GAPS
                figure = effect_forest(f"{one.architecture}: {title}", rows, outcomes, axis)
                yield Illustration(
                    section, one.architecture, figure, f"{one.architecture}: {title} with 95 % intervals"
                )
    for one in story.causes:
        for law in one.laws:
            if law.gaps:
                yield Illustration("law", one.architecture, data_law(law), f"{one.architecture}: {law.sentence()}")
    if story.front.any():
        yield Illustration("front", "", pareto_figure(story.frame, story.front), "Validation accuracy against gap")
    for one in story.causes:
        if any(one.importances.values()):
            title = f"{one.architecture}: share of the variance by factor"
            yield Illustration("importances", one.architecture, shares_of_variance(title, one.importances), title)
    yield from _classes(story)


def _curves(story: ReportData) -> Iterator[Illustration]:
    for architecture in dict.fromkeys(run.architecture for run in story.runs):
        runs = [run for run in story.runs if run.architecture == architecture and run.state == "finished"]
        for panel in curve_panels(runs, story.curves):
            figure = learning_curves(panel, _chance(story))
            described = f"{architecture}, {panel.title}: clean train and validation accuracy by epoch"
            yield Illustration("curves", architecture, figure, described)


def _varied(story: ReportData, architecture: str) -> dict[str, Levels]:
    one = next(one for one in story.causes if one.architecture == architecture)
    if one.frame.empty:
        return {}
    if architecture == NETWORKS:
        return {"network": network_levels(one.frame)}
    return varied_levels(one.frame, recorded_factors(story.study.config, architecture))


def _chance(story: ReportData) -> float | None:
    """The accuracy of guessing one of the classes, where the runs tell how many there are."""
    counts = {run.classes for run in story.runs if run.classes is not None}
    return 1 / int(counts.pop()) if len(counts) == 1 else None


def _classes(story: ReportData) -> Iterator[Illustration]:
    classes = story.classes
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
#: Its folder among the artifacts of the study's run.
RECORDED = "report"


@dataclass(frozen=True)
class Drawn:
    """A figure inside the page."""

    group: str  # a network, or ""
    name: str  # of its files, without the ending
    svg: Markup


@dataclass(frozen=True)
class Answer:
    """What is known of one network, in words, and how much its figures leave out."""

    network: str
    lines: Sequence[str]
    notes: Sequence[str]
    left_out: int  # trials that learnt nothing
    effects: content.Table
    interactions: content.Table
    laws: Sequence[str]
    rows_not_drawn: Mapping[str, int]  # effects and interactions beyond those that their figures have room for


def write_report(
    tracker: Tracker,
    study: RecordedStudy,
    folder: Path,
    gallery: Mapping[str, Any] | str = LEFT_OUT,
    gap: float = TARGET,
) -> Path:
    """Write `folder`/report.html and `folder`/figures/, and record both under report/ of the study's run.

    Figures of an earlier report that had others go, in MLflow as far as its store lets them.

    Args:
        gallery: images that are wrong beside those that they resemble, or why there are none (gallery.read_gallery).
        gap: the gap (0..1) that the data law aims at.

    Returns:
        The page.

    Raises:
        TrackingError: MLflow does not answer, or does not take the page: it lies in the folder then.
        DataError: an image of the gallery can't be decoded.
        OSError: the folder can't be written.
    """
    story = collect_report_data(tracker, study, gap, gallery)
    with scratch_folder() as scratch:
        made = scratch / RECORDED
        write_page(story, made)
        for path in filter(_is_figure, (folder / FIGURES).glob("*")):
            path.unlink()
        shutil.copytree(made, folder, dirs_exist_ok=True)
        try:
            tracker.log_files(study.run_id, scratch)
        except TrackingError as error:
            raise TrackingError(f"{error} The page is in {folder / PAGE}, and only not recorded.") from error
        _remove_recorded_figures(tracker, study, {path.name for path in (made / FIGURES).iterdir()})
    return folder / PAGE


def _remove_recorded_figures(tracker: Tracker, study: RecordedStudy, kept: Collection[str]) -> None:
    """Those of an earlier report that this one has not made."""
    registry = Registry(tracker)
    for path in map(Path, tracker.files(study.run_id, f"{RECORDED}/{FIGURES}")):
        if _is_figure(path) and path.name not in kept:
            with contextlib.suppress(TrackingError):
                registry.remove_files(study.run_id, path.as_posix())


def _is_figure(path: Path) -> bool:
    """Whether a report made it, and nobody else put it there."""
    return path.suffix in (".png", ".svg") and path.name.split("-")[0] in SECTIONS


def write_page(story: ReportData, folder: Path) -> Path:
    """Write `folder`/report.html and its figures; the page's path."""
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[Drawn]] = {}
    for illustration in list_illustrations(story):
        there = drawn.setdefault(illustration.section, [])
        parts = (illustration.section, illustration.group, str(len(there) + 1))
        name = "-".join(re.sub(r"\W+", "-", part) for part in parts if part)
        text = svg_text(illustration.figure)
        (folder / FIGURES / f"{name}.svg").write_text(text, encoding="utf-8")
        save_png(illustration.figure, folder / FIGURES / f"{name}.png")
        there.append(Drawn(illustration.group, name, inline_svg(text, name, illustration.description)))
    page = folder / PAGE
    page.write_text(study_page(story, drawn), encoding="utf-8")
    return page


def study_page(story: ReportData, figures: Mapping[str, Sequence[Drawn]]) -> str:
    """The page as HTML; every text of the study is escaped.

    Args:
        figures: by section.
    """
    headings, rows = content.trial_table(story)
    common = common_notes(story.causes)
    return render(
        "study.html",
        story=story,
        title=f"{story.study.name}: why does it overfit?",
        answers=[_answer(one, common) for one in story.causes],
        common=common,
        figures={section: figures.get(section, ()) for section in SECTIONS},
        facts=content.facts(story),
        verdicts=content.verdict_counts(story),
        best=content.describe_best(story),
        nothing=content.describe_missing(story),
        dates=content.describe_dates(story),
        confirmation=content.confirmation_sentences(story.confirmed) if story.confirmed is not None else [],
        leaderboard=content.best_trials(story),
        headings=headings,
        rows=rows,
        front=[row for row in rows if row.front],
        goals=story.study.goals or GOALS,
        provenance=content.provenance_facts(story),
        limits=content.limitation_sentences(story),
        configuration=content.recorded_configuration(story),
        version=cnnstudy.__version__,
        most_classes=MOST_CLASSES,
        largest_matrix=LARGEST_MATRIX,
        networks=NETWORKS,
    )


def common_notes(found: Sequence[NetworkAnalysis]) -> list[str]:
    """The warnings that hold for each of several networks."""
    each = [one.warnings for one in found if one.architecture != NETWORKS]
    return [note for note in each[0] if all(note in other for other in each)] if len(each) > 1 else []


def _answer(one: NetworkAnalysis, common: Sequence[str]) -> Answer:
    return Answer(
        one.architecture,
        effect_sentences(one),
        [note for note in one.warnings if note not in common],
        count_left_out(one.frame),
        content.effect_table(one, False),
        content.effect_table(one, True),
        [law.sentence() for law in one.laws],
        {
            section: max(0, len(effect_forest_rows(one, interactions)) - MOST_ROWS)
            for section, interactions in (("effects", False), ("interactions", True))
        },
    )


def render(template: str, **values: Any) -> str:
    """A template of this package as HTML: values are escaped, style sheet and script are inside the page, and the
    page's policy allows that script alone.
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
    """A sentence (with a capital, where it is none of a name), and what stands between backquotes as code."""
    parts = (text[:1].upper() + text[1:] if capital else text).split("`")
    if len(parts) % 2 == 0:  # a backquote without its other half
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
