"""The summary of a data set: its numbers are told once, and each warning names the key that answers it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from odd_photos import photo, save, write_odd_photos, write_photos

from cnnstudy.config.load import load_study
from cnnstudy.data.datasets import find
from cnnstudy.data.examination import Examined, examine_images
from cnnstudy.results.pages import data_summary
from cnnstudy.results.pages.data_page import data_page
from cnnstudy.results.pages.data_summary import format_summary, summarize


def look(path: Path, **options: Any) -> tuple[Examined, dict[str, Any]]:
    examined = examine_images(find("folder").Options(name="folder", path=path, **options), 0, lambda *_: None)
    return examined, summarize(examined, None, str(path))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Examined, dict[str, Any]]:
    return look(write_odd_photos(tmp_path_factory.mktemp("photos")))


def warnings(summary: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: one["text"] for one in summary["warnings"]}


def test_the_summary_holds_what_was_found(odd: tuple[Examined, dict[str, Any]]) -> None:
    _, summary = odd
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["layout"], summary["images"], summary["rotated"], summary["smooth"]) == ("classes", 42, 1, 0)
    assert summary["sizes"] == {"smallest": [30, 40], "median": [160, 120], "largest": [320, 200]}
    assert sum(summary["modes"].values()) == 42
    assert summary["modes"]["16 bit"] == 1
    assert {kind: [one["image"] for one in found] for kind, found in summary["suspects"].items()} == {
        "dark": ["apple/dark.png"],
        "blank": ["apple/blank.png"],
        "blurred": ["pear/blurred.jpg"],
    }
    assert summary["passed_over"][0] == {"count": 2, "kind": ".txt", "names": ["apple/more.txt", "apple/notes.txt"]}
    split = summary["split"]
    assert split["train"] + split["validation"] + split["test"] == 42
    for part in ("train", "validation", "test"):
        assert sum(one[part] for one in summary["classes"]) == split[part]
    assert summary["groups"] is None


def test_the_text_tells_the_numbers_of_the_summary(odd: tuple[Examined, dict[str, Any]]) -> None:
    examined, summary = odd
    text = format_summary(examined, summary)
    assert text.startswith("folder: 42 images of 2 classes: apple (26), pear (16)\n  parts: ")
    split = summary["split"]
    assert f"{split['train']} train, {split['validation']} validation, {split['test']} test" in text
    assert "passed over: 2 .txt (apple/more.txt, apple/notes.txt), 1 hidden (.hidden)" in text
    assert "bad images: 2\n  apple/broken.jpg: can't be decoded" in text
    assert "may be dark (mean of the grey values below 20 of 255): 1\n  apple/dark.png (5)" in text
    assert f"{summary['copies']['pairs']} pairs in 2 groups of 5 images, the largest of 3; 1 identical" in text
    for one in summary["warnings"]:
        assert f"  {one['text']} [{one['key']}]" in text
    for sentence in summary["told"]:
        assert sentence in text


def test_each_warning_names_its_key(odd: tuple[Examined, dict[str, Any]]) -> None:
    found = warnings(odd[1])
    assert found["data.bad_images: skip"].startswith("bad images: 2;")
    assert "has 26 images and the smallest, pear, 16" in found["factors.class_weights: [none, balanced]"]
    assert found["image_size"] == "images enlarged to 224 pixels, the default, because a side is smaller: 42"
    assert found["data.classes"].startswith("classes with fewer than 10 training or 5 validation")
    assert found["data.test"].startswith("test images: ")
    assert "data.groups: {folder: 1}" not in found


def test_a_good_data_set_has_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is small; and with a weaker demand, none."""
    root = write_photos(tmp_path, {"a": 40, "b": 40})
    monkeypatch.setattr(data_summary, "DEFAULT_IMAGE_SIZE", 100)
    _, summary = look(root)
    assert list(warnings(summary)) == ["data.test"]
    monkeypatch.setattr(data_summary, "WIDEST_INTERVAL", 0.9)
    examined, summary = look(root)
    assert summary["warnings"] == []
    assert "warnings" not in format_summary(examined, summary)


def test_bad_images_that_a_study_skips_are_no_warning(tmp_path: Path) -> None:
    root = write_photos(tmp_path, {"a": 8, "b": 8})
    (root / "a" / "bad\n\x1b.png").write_bytes(b"")
    examined, summary = look(root)
    assert "data.bad_images: skip" in warnings(summary)
    assert "bad images: 1\n  a/bad\\n\\x1b.png: an empty file\n" in format_summary(examined, summary)
    assert summary["bad"] == [{"image": "a/bad\n\x1b.png", "reason": "an empty file"}]
    assert "data.bad_images: skip" not in warnings(look(root, bad_images="skip")[1])


def test_copies_that_are_ignored_are_warned_about(tmp_path: Path) -> None:
    root = write_photos(tmp_path, {"a": 12, "b": 12})
    for number in range(12):
        (root / "a" / f"{number:02}-again.jpg").write_bytes((root / "a" / f"{number:02}.jpg").read_bytes())
    examined, summary = look(root, copies="ignore")
    text = warnings(summary)["data.copies: together"]
    leaks = summary["copies"]["leaks"]
    assert text == (
        f"{leaks['validation']['images']} of {leaks['validation']['of']} validation and {leaks['test']['images']} of "
        f"{leaks['test']['of']} test images have a copy in training"
    )
    assert "identical files only" in format_summary(examined, summary)
    kept = look(root)[1]
    assert "data.copies: together" not in warnings(kept), "that is what is done"
    assert kept["copies"]["leaks"] == leaks


def test_conflicting_copies_of_identical_files(tmp_path: Path) -> None:
    root = write_photos(tmp_path, {"a": 8, "b": 8})
    (root / "b" / "same.jpg").write_bytes((root / "a" / "00.jpg").read_bytes())
    examined, summary = look(root)
    assert summary["conflicts"] == [[{"image": "a/00.jpg", "class": "a"}, {"image": "b/same.jpg", "class": "b"}]]
    assert "data.copies: ignore" in warnings(summary)
    assert "pairs of copies with different labels: 1\n  a/00.jpg (a) ~ b/same.jpg (b)" in format_summary(
        examined, summary
    )


def test_images_left_out_are_counted_in_no_class(tmp_path: Path) -> None:
    for number, (part, name) in enumerate(itertools.product(("train", "test"), ("cat", "dog"))):
        for i in range(12):
            save(photo(100 * number + i), tmp_path / part / name / f"{i}.png")
    save(photo(200), tmp_path / "train" / "cat" / "copy.png")  # of test/cat/0.png
    examined, summary = look(tmp_path)
    assert (summary["images"], summary["left_out"]) == (48, 1)
    assert [one["images"] for one in summary["classes"]] == [24, 24]
    text = format_summary(examined, summary)
    assert text.startswith("folder: 48 images")
    assert "(test as given, validation cut from train)" in text
    page = data_page(examined, summary, lambda *_: None)
    told = "image of train is left out: each is a copy of an image in a part that was given"
    assert all(told in shown for shown in (text, page))
    assert "test as given, validation cut from train" in page


def test_a_class_of_copies_of_others_is_told_to_be_none(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        for i in range(12):
            picture = photo(100 * number + i)
            save(picture, tmp_path / name / f"{i}.png")
            save(picture.resize((64, 48)), tmp_path / "small" / f"{name}{i}.png")
    found = warnings(look(tmp_path)[1])
    assert found["data.ignore_folders: [small]"].startswith("most images of the class small are copies")
    assert "data.copies: ignore" not in found


def test_folders_below_the_classes_may_be_groups(tmp_path: Path) -> None:
    for number in range(20):
        save(photo(number), tmp_path / f"{'ab'[number % 2]}/animal{number % 4}/{number}.png")
    assert warnings(look(tmp_path)[1])["data.groups: {folder: 1}"].startswith("folders below those of the classes: 4;")
    examined, summary = look(tmp_path, groups={"folder": 1})
    assert summary["groups"] == {"groups": 4, "images": 20, "largest": 5}
    assert "groups: 4 groups of 20 images by `groups` and copies, the largest of 5\n" in format_summary(
        examined, summary
    )
    assert "data.groups: {folder: 1}" not in warnings(summary)


def test_what_has_no_split_says_why(tmp_path: Path) -> None:
    examined, summary = look(write_photos(tmp_path, {"a": 9, "b": 2}))
    assert (summary["split"], summary["told"], summary["detectable_gap"]) == (None, [], None)
    assert warnings(summary)["data.classes"] == summary["split_problem"]
    text = format_summary(examined, summary)
    assert "folder: 11 images of 2 classes: a (9), b (2)\n  parts: none. class 'b' has 2 usable images" in text


def test_smooth_images_are_not_called_blurred(tmp_path: Path) -> None:
    from PIL import ImageFilter

    for number in range(12):
        save(photo(number).filter(ImageFilter.GaussianBlur(9)), tmp_path / f"{'ab'[number % 2]}/{number}.png")
    examined, summary = look(tmp_path)
    assert (summary["smooth"], summary["suspects"]["blurred"]) == (12, [])
    assert "12 of 12 images have a variance of the Laplacian below 25" in format_summary(examined, summary)


def test_a_study_asks_its_own_question_at_its_own_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path / "photos", {"a": 20, "b": 20})
    monkeypatch.chdir(tmp_path)
    text = (
        "name: probe\ndata: {name: folder, path: photos}\nimage_size: 64\narchitectures: [alexnet]\n"
        "factors: {dropout: [0.2, 0.5]}\ntraining: {epochs: 1}\nstrategy: {kind: factorial, seeds: 3}\n"
    )
    (tmp_path / "probe.yaml").write_text(text, encoding="utf-8")
    study = load_study("probe.yaml")
    examined = examine_images(study.config.data, study.config.seed, lambda *_: None)
    summary = summarize(examined, study, "probe.yaml")
    assert summary["told"][0].startswith("power: with 3 seeds and 6 validation images, 80 % of studies find")
    assert "image_size" not in warnings(summary)


def test_what_can_be_told_grows_with_the_images(tmp_path: Path) -> None:
    few, many = (look(write_photos(tmp_path / str(n), {"a": n, "b": n}))[1] for n in (10, 60))
    assert many["detectable_gap"] < few["detectable_gap"]
    low, high = many["test_interval"]
    assert low < 0.8 < high
    assert f"find a difference in the gap of {100 * many['detectable_gap']:.0f} points" in many["told"][0]
