"""Which figures a story has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure

from cnnstudy.analysis.causes import NETWORKS, recorded_factors
from cnnstudy.analysis.contrasts import varied_levels
from cnnstudy.pages.curve_figures import learning_curves
from cnnstudy.pages.factor_figures import (
    data_law,
    gap_by_factor,
    network_levels,
    shares_of_variance,
    tells_levels_apart,
)
from cnnstudy.pages.forest_figures import GAPS, OUTCOMES, candidate_forest, effect_forest, effect_forest_rows
from cnnstudy.pages.grouping import curve_panels
from cnnstudy.pages.story import Story
from cnnstudy.pages.trial_figures import LARGEST_MATRIX, class_gaps, confusion_matrix, pareto_front
from cnnstudy.space import Levels, find_factor

#: The sections of a page that have figures.
SECTIONS = ("confirmed", "curves", "factors", "effects", "interactions", "law", "front", "importances", "classes")


@dataclass(frozen=True)
class Illustration:
    """A figure, where it belongs, and what it shows for those who can't see it."""

    section: str
    group: str  # a network, or ""
    figure: Figure
    description: str


def illustrations(story: Story) -> Iterator[Illustration]:
    """All figures of the page, section by section."""
    if story.confirmed is not None and story.confirmed.candidates:
        yield Illustration(
            "confirmed", "", candidate_forest(story.confirmed), "Confirmed candidates with their 95 % intervals"
        )
    yield from _curves(story)
    for one in story.causes:
        for factor, levels in _varied(story, one.architecture).items():
            if not tells_levels_apart(one.frame, factor):
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
        yield Illustration("front", "", pareto_front(story.frame, story.front), "Validation accuracy against gap")
    for one in story.causes:
        if any(one.importances.values()):
            title = f"{one.architecture}: share of the variance by factor"
            yield Illustration("importances", one.architecture, shares_of_variance(title, one.importances), title)
    yield from _classes(story)


def _curves(story: Story) -> Iterator[Illustration]:
    for architecture in dict.fromkeys(run.architecture for run in story.runs):
        runs = [run for run in story.runs if run.architecture == architecture and run.state == "finished"]
        for panel in curve_panels(runs, story.curves):
            figure = learning_curves(panel, _chance(story))
            described = f"{architecture}, {panel.title}: clean train and validation accuracy by epoch"
            yield Illustration("curves", architecture, figure, described)


def _varied(story: Story, architecture: str) -> dict[str, Levels]:
    one = next(one for one in story.causes if one.architecture == architecture)
    if one.frame.empty:
        return {}
    if architecture == NETWORKS:
        return {"network": network_levels(one.frame)}
    return varied_levels(one.frame, recorded_factors(story.study.config, architecture))


def _chance(story: Story) -> float | None:
    """The accuracy of guessing one of the classes, where the runs tell how many there are."""
    counts = {run.classes for run in story.runs if run.classes is not None}
    return 1 / int(counts.pop()) if len(counts) == 1 else None


def _classes(story: Story) -> Iterator[Illustration]:
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
        figure = confusion_matrix(classes.matrix, names)
        yield Illustration("classes", "", figure, f"Confusion matrix of {classes.trial} on validation")
