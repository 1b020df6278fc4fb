"""The page of a study: one HTML file that loads nothing from anywhere, its figures beside it as PNG and SVG."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

import cnnstudy
from cnnstudy.analysis.causes import NETWORKS, Causes
from cnnstudy.analysis.data_law import TARGET
from cnnstudy.analysis.pareto import GOALS
from cnnstudy.analysis.sentences import sentences
from cnnstudy.errors import TrackingError
from cnnstudy.pages import tables, words
from cnnstudy.pages.drawing import inline_svg, save_png, svg_text
from cnnstudy.pages.factor_figures import number_left_out
from cnnstudy.pages.forest_figures import MOST_ROWS, effect_forest_rows
from cnnstudy.pages.gallery import LEFT_OUT
from cnnstudy.pages.illustrations import SECTIONS, illustrations
from cnnstudy.pages.story import Story, collect
from cnnstudy.pages.trial_figures import LARGEST_MATRIX, MOST_CLASSES
from cnnstudy.records import RecordedStudy
from cnnstudy.registry import Registry
from cnnstudy.scratch import scratch_folder
from cnnstudy.tracking import Tracker

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
    effects: tables.Table
    interactions: tables.Table
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
    story = collect(tracker, study, gap, gallery)
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


def write_page(story: Story, folder: Path) -> Path:
    """Write `folder`/report.html and its figures; the page's path."""
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[Drawn]] = {}
    for illustration in illustrations(story):
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


def study_page(story: Story, figures: Mapping[str, Sequence[Drawn]]) -> str:
    """The page as HTML; every text of the study is escaped.

    Args:
        figures: by section.
    """
    headings, rows = tables.trial_table(story)
    common = common_notes(story.causes)
    return render(
        "study.html",
        story=story,
        title=f"{story.study.name}: why does it overfit?",
        answers=[_answer(one, common) for one in story.causes],
        common=common,
        figures={section: figures.get(section, ()) for section in SECTIONS},
        facts=words.facts(story),
        verdicts=words.verdict_counts(story),
        best=words.best_in_words(story),
        nothing=words.nothing_yet(story),
        dates=words.dates(story),
        confirmation=words.confirmation(story.confirmed) if story.confirmed is not None else [],
        leaderboard=tables.best_trials(story),
        headings=headings,
        rows=rows,
        front=[row for row in rows if row.front],
        goals=story.study.goals or GOALS,
        provenance=words.provenance(story),
        limits=words.cannot_tell(story),
        configuration=words.recorded_configuration(story),
        version=cnnstudy.__version__,
        most_classes=MOST_CLASSES,
        largest_matrix=LARGEST_MATRIX,
        networks=NETWORKS,
    )


def common_notes(found: Sequence[Causes]) -> list[str]:
    """The warnings that hold for each of several networks."""
    each = [one.warnings for one in found if one.architecture != NETWORKS]
    return [note for note in each[0] if all(note in other for other in each)] if len(each) > 1 else []


def _answer(one: Causes, common: Sequence[str]) -> Answer:
    return Answer(
        one.architecture,
        sentences(one),
        [note for note in one.warnings if note not in common],
        number_left_out(one.frame),
        tables.effect_table(one, False),
        tables.effect_table(one, True),
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
        loader=PackageLoader("cnnstudy.pages"),
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
