from __future__ import annotations

import html
from pathlib import Path

import pytest
from simulated import Simulated

from cnnstudy.analysis.causes import analyze_networks
from cnnstudy.analysis.comparison import Comparison, Side, compare_studies
from cnnstudy.analysis.comparison_champions import find_champion
from cnnstudy.results.pages.comparison_page import comparison_page, write_comparison

EVIL = '<script>alert("x")</script>'


def side(name: str, **changes: object) -> Side:
    made = Simulated(objective={"metric": "val/accuracy"}, **changes)  # type: ignore[arg-type]
    study = type(made.study)(name, "1", "run", made.study.config)
    found = analyze_networks(study, made.trials, made.history, 0.05)
    return Side(study, made.trials, found, find_champion(None, made.trials, study.rule))


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare_studies(side("before"), side(EVIL, seeds=3, noise=0.01))


def test_the_page_has_the_words_the_tables_and_a_figure(comparison: Comparison) -> None:
    page = comparison_page(comparison)
    for heading in ("The answer", "Effects on the gap", "What differed", "Outcomes", "All effects", "Champions"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<svg") == 1
    assert "4 times the training images" in page
    assert "default-src &#39;none&#39;" in page


def test_names_are_escaped(comparison: Comparison) -> None:
    page = comparison_page(comparison)
    assert EVIL not in page
    assert html.escape(EVIL) in page or "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in page


def test_it_is_written_with_its_folder(comparison: Comparison, tmp_path: Path) -> None:
    write_comparison(comparison, tmp_path / "deep" / "page.html")
    assert (tmp_path / "deep" / "page.html").read_text(encoding="utf-8") == comparison_page(comparison)


def test_studies_that_have_nothing_in_common_say_so() -> None:
    a, b = side("a"), side("b", architectures=("vgg16",))
    page = comparison_page(compare_studies(a, b))
    assert "The studies have no network in common." in page
    assert "<svg" not in page
