"""Two studies side by side as one self-contained HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cnnstudy
from cnnstudy.analysis import comparison_text as words
from cnnstudy.analysis.comparison import Comparison
from cnnstudy.analysis.effects_text import describe_change
from cnnstudy.results.pages.content import Table
from cnnstudy.results.pages.effect_figures import EffectRow, effect_forest
from cnnstudy.results.pages.rendering import Drawn, render
from cnnstudy.results.pages.svg import inline_svg, svg_text
from cnnstudy.system.files import write_whole


@dataclass(frozen=True)
class _Section:
    """A table under a heading of its own."""

    id: str
    name: str
    table: Table
    none: str  # the text shown if the table has no rows
    texts: tuple[str, ...]  # headings of text columns; all others are numbers, aligned right


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the page to `path`.

    Raises:
        OSError: it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, comparison_page(comparison))


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
    tables = (
        ("settings", "What differed", words.DIFFERENCE_HEADINGS, words.difference_rows, "No recorded setting differs."),
        ("outcomes", "Outcomes", words.OUTCOME_HEADINGS, words.outcome_rows, "The studies have no network in common."),
        (
            *("effects-table", "All effects", words.COMPARED_EFFECT_HEADINGS, words.effect_comparison_rows),
            "The studies have no factor change in common.",
        ),
        ("champions", "Champions", words.CHAMPION_HEADINGS, words.champion_rows, "No trial has finished."),
    )
    sections = []
    for id_, name, headings, rows, none in tables:
        # A and B are values of a setting there, numbers elsewhere
        texts = headings if id_ == "settings" else tuple(one for one in headings if one not in words.NUMBERS)
        table = Table(tuple(headings), tuple(tuple(row) for row in rows(comparison)))
        sections.append(_Section(id_, name, table, none, texts))
    return sections


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
