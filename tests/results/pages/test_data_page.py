"""The page of a data set: the numbers of its summary, pictures of a limited number, and names that stay text."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest
from odd_photos import write_odd_photos, write_photos
from PIL import Image

from cnnstudy.data.datasets import find
from cnnstudy.data.examination import Examined, examine_images
from cnnstudy.results.pages import data_page as module
from cnnstudy.results.pages.data_page import data_page, write_data_page
from cnnstudy.results.pages.data_summary import summarize


def look(path: Path) -> tuple[Examined, dict[str, Any]]:
    examined = examine_images(find("folder").Options(name="folder", path=path), 0, lambda *_: None)
    return examined, summarize(examined, None, str(path))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Examined, dict[str, Any]]:
    return look(write_odd_photos(tmp_path_factory.mktemp("photos")))


@pytest.fixture(scope="module")
def page(odd: tuple[Examined, dict[str, Any]]) -> str:
    return data_page(*odd, lambda *_: None)


def section(page: str, name: str) -> str:
    (found,) = re.findall(rf'<section id="{name}">(.*?)</section>', page, flags=re.DOTALL)
    return str(found)


def names(part: str) -> list[str]:
    return re.findall(r'<img [^>]*alt="([^"]*)"', part)


def test_the_page_has_the_numbers_of_the_summary(odd: tuple[Examined, dict[str, Any]], page: str) -> None:
    _, summary = odd
    split = summary["split"]
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert facts["images"] == f"{summary['images']}"
    assert facts["train / validation / test"] == f"{split['train']} / {split['validation']} / {split['test']}"
    assert facts["can&#39;t be used"] == f"{len(summary['bad'])}"
    assert facts["pairs of copies"] == f"{summary['copies']['pairs']}"
    assert facts["may be dark, blank or blurred"] == "3"
    for one in summary["classes"]:
        cells = "".join(f"<td>{one[key]}</td>" for key in ("images", "train", "validation", "test"))
        assert f'<td class="text">{one["name"]}</td>{cells}' in page
    for one in summary["warnings"]:
        assert f"<code>{one['key']}</code>" in section(page, "answer")
    assert section(page, "files").count("<tr>") == 1 + len(summary["bad"])
    assert "2 .txt (apple/more.txt, apple/notes.txt)" in section(page, "files")


def test_each_sheet_shows_its_images(odd: tuple[Examined, dict[str, Any]], page: str) -> None:
    _, summary = odd
    assert names(section(page, "suspects")) == ["apple/dark.png", "apple/blank.png", "pear/blurred.jpg"]
    shown = names(section(page, "copies"))
    assert sorted(shown) == sorted(name for group in summary["copies"]["groups"] for name in group)
    if summary["conflicts"]:
        assert len(names(section(page, "conflicts"))) == 2 * len(summary["conflicts"])


def test_the_test_split_is_in_no_sheet_of_a_class(odd: tuple[Examined, dict[str, Any]], page: str) -> None:
    examined, _ = odd
    tested = {examined.image(place).key for place in examined.test}
    shown = names(section(page, "classes"))
    assert len(shown) == len(set(shown)) == 42 - len(tested)
    assert not tested & set(shown)


def test_names_stay_text_and_nothing_is_loaded(page: str) -> None:
    assert "<img src=x" not in page
    assert "pear/&lt;img src=x onerror=&#34;alert(1)&#34;&gt;&amp;&#39;\\n.png" in page
    assert set(re.findall(r'<img src="([^,]*),', page)) == {"data:image/jpeg;base64"}
    assert "img-src data:" in page
    assert re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', page) == []


def test_pictures_are_small_jpegs_of_the_image(odd: tuple[Examined, dict[str, Any]], page: str) -> None:
    encoded = re.search(r'<img src="data:image/jpeg;base64,([^"]*)" alt="apple/blank.png"', page)
    assert encoded is not None
    content = base64.b64decode(encoded[1])
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.size) == ("JPEG", (module.PICTURE, module.PICTURE))
    assert picture.convert("L").getextrema() == pytest.approx((250, 250), abs=2)
    assert len(page) < 12_000 * page.count("<img ")


def test_the_number_of_pictures_is_limited_and_what_is_left_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_photos(tmp_path, {"a": 30, "b": 12})
    for number in range(6):
        for copy in "xyz":
            (root / "b" / f"{number:02}-{copy}.jpg").write_bytes((root / "b" / f"{number:02}.jpg").read_bytes())
    for name, limit in (("MOST_OF_CLASS", 5), ("MOST_OF_GROUP", 2), ("MOST_GROUPS", 4), ("MOST_CLASSES", 1)):
        monkeypatch.setattr(module, name, limit)
    examined, summary = look(root)
    page = data_page(examined, summary, lambda *_: None)
    kept = sum(examined.image(p).label == 0 for p in examined.grouping.usable if p not in examined.test)
    assert len(names(section(page, "classes"))) == 5
    assert f"and {kept - 5} more outside the test split" in section(page, "classes")
    assert "And 1 more classes." in section(page, "classes")
    assert len(names(section(page, "copies"))) == 4 * 2
    assert section(page, "copies").count("and 2 more<") == 4
    assert "And 2 more groups." in section(page, "copies")


def test_many_classes_share_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OF_CLASSES", 20)
    page = data_page(*look(write_photos(tmp_path, dict.fromkeys("abcd", 12))), lambda *_: None)
    assert len(names(section(page, "classes"))) == 4 * 5


def test_what_has_no_split_still_has_a_page(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", {"a": 9, "b": 2})
    write_data_page(*look(tmp_path / "photos"), tmp_path / "deep" / "page.html", lambda *_: None)
    page = (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    assert "class &#39;b&#39; has 2 usable images" in section(page, "answer")
    assert '<section id="copies">' not in page


def test_below_images_of_a_table_is_their_class(tmp_path: Path) -> None:
    write_photos(tmp_path / "all", {"one": 16})
    rows = [f"all/one/{number:02}.jpg,{'pear' if number % 2 else 'apple'}" for number in range(16)]
    (tmp_path / "all/one/copy.jpg").write_bytes((tmp_path / "all/one/01.jpg").read_bytes())
    (tmp_path / "labels.csv").write_text("\n".join(["file,fruit", *rows, "all/one/copy.jpg,apple"]), encoding="utf-8")
    options = {"name": "table", "path": tmp_path / "labels.csv", "image": "file", "label": "fruit"}
    examined = examine_images(find("table").Options(**options), 0, lambda *_: None)
    page = data_page(examined, summarize(examined, None, "labels.csv"), lambda *_: None)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", section(page, "conflicts"))
    assert captions == ["pear: all/one/01.jpg", "apple: all/one/copy.jpg"]
