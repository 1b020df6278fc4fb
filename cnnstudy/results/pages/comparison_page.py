"""Two studies side by side as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cnnstudy
from cnnstudy.analysis import comparison_text as words
from cnnstudy.analysis.comparison import Comparison
from cnnstudy.analysis.effects_text import describe_change
from cnnstudy.results.pages.content import Table
from cnnstudy.results.pages.effect_figures import EffectRow, effect_forest
from cnnstudy.results.pages.study_page import Drawn, render
from cnnstudy.results.pages.svg import inline_svg, svg_text

#: Headings of text columns; all others are numbers, aligned right.
TEXTS = (
    *("network", "at the end of training", "B is", "by"),  # outcomes
    *("change", "on", "the effects"),
    *("study", "champion", "standing"),
)


@dataclass(frozen=True)
class _Section:
    """A table under a heading of its own."""

    id: str
    name: str
    table: Table
    none: str  # the text shown if the table has no rows
    texts: tuple[str, ...] = TEXTS


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the page to `path`.

    Raises:
        OSError: it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(comparison_page(comparison), encoding="utf-8")


def comparison_page(comparison: Comparison) -> str:
    """Return the page as HTML; every text of the studies is escaped."""
    return render(
        "compare.html",
        title=f"{comparison.a} and {comparison.b}",
        version=cnnstudy.__version__,
        comparison=comparison,
        lines=words.comparison_sentences(comparison),
        drawn=_draw_forests(comparison),
        tables=_list_tables(comparison),
    )


def _list_tables(comparison: Comparison) -> list[_Section]:
    def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
        return Table(tuple(headings), tuple(tuple(row) for row in rows))

    return [
        _Section(
            "settings",
            "What differed",
            table(words.DIFFERENCE_HEADINGS, words.difference_rows(comparison)),
            "No recorded setting differs.",
            words.DIFFERENCE_HEADINGS,
        ),
        _Section(
            "outcomes",
            "Outcomes",
            table(words.OUTCOME_HEADINGS, words.outcome_rows(comparison)),
            "The studies have no network in common.",
        ),
        _Section(
            "effects-table",
            "All effects",
            table(words.EFFECT_HEADINGS, words.effect_comparison_rows(comparison)),
            "The studies have no factor change in common.",
        ),
        _Section(
            "champions",
            "Champions",
            table(words.CHAMPION_HEADINGS, words.champion_rows(comparison)),
            "No trial has finished.",
        ),
    ]


def _draw_forests(comparison: Comparison) -> list[Drawn]:
    """Draw a forest for each network: A's and B's effect on the gap, one below the other."""
    outcomes = {"A": comparison.a, "B": comparison.b}
    drawn: list[Drawn] = []
    for network in dict.fromkeys(effect.a.architecture for effect in comparison.effects):
        rows = [
            EffectRow(describe_change(effect.a), (("A", effect.a), ("B", effect.b)))
            for effect in comparison.effects
            if effect.a.architecture == network and effect.a.outcome == "gap_accuracy"
        ]
        if rows:
            name = f"effects-{len(drawn) + 1}"
            figure = effect_forest(f"{network}: effects on the gap", rows, outcomes)
            description = f"Effects on the gap of {network} in both studies, with 95 % intervals"
            drawn.append(Drawn(network, name, inline_svg(svg_text(figure), name, description)))
    return drawn
