"""Figures in a page, and as files."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from xml.etree import ElementTree

from matplotlib.figure import Figure

from cnnstudy.results.pages.svg import (
    INK,
    PURPLE,
    VARIABLES,
    inline_svg,
    mark_trials,
    panel,
    save_png,
    styled,
    svg_text,
)


@styled
def drawn(title: str = "title", label: str = "label", points: int = 2) -> Figure:
    figure, axes = panel(title, 3, 2)
    (marks,) = axes.plot(range(points), range(points), "o", color=PURPLE, label=label)
    axes.plot([0, 1], [1, 0], color=INK)
    axes.set_ylim(-1, 5)
    axes.legend()
    mark_trials(marks, [f"alexnet-{number:03d}" for number in range(points)])
    return figure


def elements(svg: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter())


def test_the_same_figure_is_the_same_text() -> None:
    first, second = svg_text(drawn()), svg_text(drawn())
    assert first == second
    assert "<dc:date>" not in first


def test_two_figures_on_a_page_share_no_id() -> None:
    ids = [
        [one.get("id") for one in elements(inline_svg(svg_text(drawn()), name, "")) if one.get("id")] for name in "ab"
    ]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])


def test_every_reference_leads_to_an_id_of_its_own_figure() -> None:
    svg = inline_svg(svg_text(drawn()), "curves-1", "")
    ids = {one.get("id") for one in elements(svg)}
    referred = re.findall(r'href="#(.*?)"', svg) + re.findall(r"url\(#(.*?)\)", svg)
    assert referred
    assert set(referred) <= ids
    assert all(one.startswith("curves-1-") for one in referred)


def test_colours_follow_the_theme() -> None:
    svg = inline_svg(svg_text(drawn()), "a", "")
    styles = " ".join(one.get("style", "") for one in elements(svg))
    assert "var(--purple)" in styles
    assert "var(--surface)" in styles
    assert re.findall(r"#[0-9a-f]{6}", styles) == []


def test_a_file_keeps_its_colours() -> None:
    assert PURPLE in svg_text(drawn())


def test_colours_are_told_apart() -> None:
    assert len(set(VARIABLES.values())) == len(VARIABLES)


def test_a_studys_names_stay_text() -> None:
    svg = inline_svg(svg_text(drawn("a <b> & $x_1$", "</svg><script>alert(1)</script>")), "a", 'say "no" <i>')
    assert "<script" not in svg
    root = ElementTree.fromstring(svg)
    texts = ["".join(one.itertext()) for one in root.iter("text")]
    assert "a <b> & $x_1$" in texts
    assert "</svg><script>alert(1)</script>" in texts
    assert root.get("aria-label") == 'say "no" <i>'


def test_a_letter_that_the_font_does_not_have_is_no_error(tmp_path: Path) -> None:
    figure = drawn("日本")
    assert "日本" in inline_svg(svg_text(figure), "a", "")
    save_png(figure, tmp_path / "a.png")


def test_each_point_knows_its_trial() -> None:
    svg = inline_svg(svg_text(drawn(points=3)), "a", "")
    marked = [(one.tag, one.get("data-trial")) for one in elements(svg) if one.get("data-trial")]
    assert marked == [("use", "alexnet-000"), ("use", "alexnet-001"), ("use", "alexnet-002")]


def test_points_outside_the_axes_give_no_point_a_wrong_trial() -> None:
    figure = drawn(points=3)
    figure.axes[0].set_xlim(1.5, 1.6)
    assert "data-trial" not in inline_svg(svg_text(figure), "a", "")


def test_it_loads_nothing_and_styles_nothing_else() -> None:
    svg = inline_svg(svg_text(drawn()), "a", "")
    assert not re.search(r"https?://|<style|<metadata|@import|<!DOCTYPE", svg)


def test_the_picture_is_large_enough_to_print(tmp_path: Path) -> None:
    save_png(drawn(), tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (600, 400)
