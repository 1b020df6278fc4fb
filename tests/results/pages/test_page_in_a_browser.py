"""The page of a study in a browser, if one is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import BROWSER, QUIET_BROWSER
from odd_photos import write_odd_photos

from cnnstudy.data.datasets import find
from cnnstudy.data.examination import examine_images
from cnnstudy.results.pages.data_page import write_data_page
from cnnstudy.results.pages.data_summary import summarize
from cnnstudy.results.pages.study_page import write_page

from .example_study import Example, confirmation, entry, mistakes

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
DESKTOP, PHONE = 1280, 390


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study of two networks with every section, and with overlong names."""
    long = "a-very-long-name-without-a-place-to-break-" * 4
    example = Example(networks=("alexnet", "vgg16"), name=long, classes=(long, "dog"), unfinished=3, silent=2)
    example.change(example.runs[-1], tags={"cnnstudy.message": "/" + long})
    example.texts["study-run", "confirm/confirm.json"] = confirmation()
    folder = tmp_path_factory.mktemp("page")
    report = example.report(gallery=mistakes(entry(folder, key=long)), files={"example.yaml": f"name: {long}\n"})
    return write_page(report, folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BROWSER, args=QUIET_BROWSER)
        yield launched
        launched.close()


def opened(browser: Any, file: Path, width: int = DESKTOP, section: str = "", **changes: Any) -> tuple[Any, list[str]]:
    """The page, unfolded at that section; its console messages, and the requests it makes besides itself."""
    page = browser.new_context(viewport={"width": width, "height": 800}, **changes).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("data:", file.as_uri())) or said.append(request.url))
    page.goto(file.as_uri() + (f"#{section}" if section else ""))
    return page, said


def unfold(page: Any) -> None:
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


def rows_shown(page: Any) -> list[str]:
    rows = page.locator("#all-trials tbody tr:visible")
    return [str(trial) for trial in rows.evaluate_all("rows => rows.map(row => row.dataset.trial)")]


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_error_nothing_loaded_and_nothing_too_wide(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    page, said = opened(browser, page_file, width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    unfold(page)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(200)
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_answer_with_three_figures_comes_first_and_links_unfold_the_rest(browser: Any, page_file: Path) -> None:
    page, said = opened(browser, page_file)
    figures = page.locator("#answer .first figure")
    assert figures.count() == 3
    tops = figures.evaluate_all("all => all.map(one => one.getBoundingClientRect().top)")
    assert max(tops) - min(tops) < 1, "side by side"
    assert all(text.strip() for text in figures.locator("figcaption").all_inner_texts())
    assert page.locator("section details.section[open]").count() == 0
    page.locator("nav a", has_text="All trials").click()
    page.locator("#all-trials").wait_for(state="visible")
    assert page.locator("section details.section[open]").count() == 1
    assert said == []


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_data_set_fits_and_shows_its_pictures(
    browser: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    photos = write_odd_photos(tmp_path / "photos-with-a-name-that-has-no-place-to-break-whatever-the-width")
    examined = examine_images(find("folder").Options(name="folder", path=photos), 0, lambda *_: None)
    write_data_page(examined, summarize(examined, None, str(photos)), tmp_path / "page.html", lambda *_: None)
    page, said = opened(browser, tmp_path / "page.html", width, color_scheme=scheme)
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    pictures = page.evaluate("[...document.images].map(one => [one.naturalWidth, one.getBoundingClientRect().width])")
    assert {drawn for drawn, _ in pictures} == {112}
    assert {shown for _, shown in pictures} == {96}


def test_figures_are_as_large_as_they_were_drawn_even_on_a_phone(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file, PHONE)
    unfold(page)
    sizes = page.evaluate(
        "[...document.querySelectorAll('figure svg text')].map("
        "one => parseFloat(getComputedStyle(one).fontSize) * Math.hypot(one.getScreenCTM().a, one.getScreenCTM().b))"
    )
    assert min(sizes) > 6.5
    assert sorted(sizes)[len(sizes) // 2] > 9


def test_dark_is_dark_and_the_button_changes_it(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.locator("#theme").click()
    light = page.evaluate(background)
    assert [sum(map(int, colour[4:-1].split(","))) < 200 for colour in (dark, light)] == [True, False]
    assert page.locator("#theme").inner_text() == "theme: light"


def test_the_table_is_filtered(browser: Any, page_file: Path) -> None:
    page, said = opened(browser, page_file, section="trials")
    assert len(rows_shown(page)) == 144
    page.locator(".filters [name=network]").select_option("vgg16")
    assert len(rows_shown(page)) == 72
    page.locator(".filters [name=state]").select_option("failed")
    assert set(rows_shown(page)) == {"vgg16-069", "vgg16-071"}
    assert page.locator(".filters output").inner_text() == "2 of 144 trials"
    page.locator(".filters [name=state]").select_option("")
    page.locator(".filters [name=network]").select_option("")
    page.locator(".filters [name=verdict]").select_option("not-learning")
    assert set(rows_shown(page)) == {"alexnet-000", "alexnet-001"}
    page.locator(".filters [name=verdict]").select_option("")
    page.locator(".filters [name=text]").fill("vgg16-01 FROZEN")
    assert set(rows_shown(page)) == {f"vgg16-{number:03d}" for number in range(12, 20)}
    page.locator(".filters [name=text]").fill("no such trial")
    assert rows_shown(page) == []
    assert said == []


def test_the_table_is_sorted_by_numbers_and_by_text(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file, section="trials")
    heading = page.get_by_role("button", name="trial", exact=True)
    heading.click()
    upwards = rows_shown(page)
    assert upwards == sorted(upwards)
    heading.click()
    assert rows_shown(page) == upwards[::-1]
    page.get_by_role("button", name="data %", exact=True).click()
    shown = page.locator("#all-trials tbody tr td:nth-child(5)").all_inner_texts()
    assert [float(text) for text in shown] == sorted(float(text) for text in shown)
    page.get_by_role("button", name="val %", exact=True).click()
    numbers = page.locator("#all-trials tbody tr td:nth-child(8)").all_inner_texts()
    known = [float(text) for text in numbers if text]
    assert known == sorted(known)
    # trials without a number come last, whichever way
    assert numbers[: len(known)] == [text for text in numbers if text]


def test_a_point_says_whose_it_is_and_leads_to_its_row(browser: Any, page_file: Path) -> None:
    page, said = opened(browser, page_file, section="trials", reduced_motion="reduce")
    page.locator(".filters [name=network]").select_option("vgg16")
    page.locator("#trials summary").click()
    assert page.locator("#all-trials").is_hidden()
    page.locator("#front summary").click()
    point = page.locator("#front svg [data-trial^=alexnet]").last
    trial = point.get_attribute("data-trial")
    point.scroll_into_view_if_needed()
    # what scrolling brings about is over
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    point.hover(force=True)
    tip = page.locator("#tip")
    tip.wait_for(state="visible")
    assert trial in tip.inner_text()
    assert "validation" in tip.inner_text()
    point.click(force=True)
    found = page.locator("tr.found")
    assert found.get_attribute("data-trial") == trial
    assert found.is_visible()
    assert said == []


def test_it_can_be_read_without_its_script(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file, java_script_enabled=False)
    for section in page.locator("details.section > summary").all():
        section.click()
    assert page.locator("#all-trials tbody tr:visible").count() == 144
    assert page.locator(".filters").is_hidden()
    assert page.locator("#theme").is_hidden()
    assert page.locator("figure svg:visible").count() > 10


def test_paper_has_all_rows_in_light_and_no_controls(browser: Any, page_file: Path) -> None:
    page, said = opened(browser, page_file, section="trials", color_scheme="dark")
    page.locator(".filters [name=network]").select_option("vgg16")
    page.locator("#trials summary").click()
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 1000})
    assert len(rows_shown(page)) == 144
    assert page.locator("nav").is_hidden()
    assert page.locator(".filters").is_hidden()
    assert page.locator(".dump").first.is_hidden(), "the study file and its settings would take pages"
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink')").strip() == "#1c2126"
    assert page.evaluate(
        "document.querySelector('.scroll.tall').scrollHeight <= document.querySelector('.scroll.tall').clientHeight + 1"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    assert page.pdf(format="A4").startswith(b"%PDF")
    assert said == []


def test_five_hundred_trials(browser: Any, tmp_path: Path) -> None:
    file = write_page(Example(seeds=7, networks=("alexnet", "vgg16", "googlenet")).report(), tmp_path)
    page, said = opened(browser, file, PHONE, "trials")
    assert len(rows_shown(page)) == 504
    page.locator(".filters [name=network]").select_option("googlenet")
    assert len(rows_shown(page)) == 168
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    assert said == []
