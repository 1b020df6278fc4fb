"""The command `data`: what it takes, what it prints where, and errors that are short."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_photos import write_odd_photos, write_photos
from typer.testing import CliRunner

from cnnstudy.cli import app
from cnnstudy.errors import CnnstudyError

Call = Callable[..., str]


@pytest.fixture
def call(own_places: Path) -> Call:
    """call(*arguments): the standard output of `data`; expected errors are raised."""

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["data", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def write_table(folder: Path, separator: str = ",") -> Path:
    files = sorted(folder.glob("photos/*/*.jpg"))
    rows = [
        separator.join((file.relative_to(folder).as_posix(), file.parent.name, str(i))) for i, file in enumerate(files)
    ]
    table = folder / "labels.csv"
    table.write_text("\n".join([separator.join(("file", "kind", "number")), *rows]), encoding="utf-8")
    return table


def test_text_json_and_page_tell_the_same_numbers(call: Call, own_places: Path) -> None:
    write_odd_photos(own_places / "photos")
    text = call("photos", "--html", "page.html")
    assert text.splitlines()[-1] == (own_places / "page.html").as_uri()
    found = json.loads(call("photos", "--json", "--html", "page.html"))
    page = (own_places / "page.html").read_text(encoding="utf-8")
    split = found["split"]
    assert f"folder: {found['images']} images of {len(found['classes'])} classes" in text
    assert f"  parts: {split['train']} train, {split['validation']} validation, {split['test']} test;" in text
    assert f"<dd>{split['train']} / {split['validation']} / {split['test']}</dd>" in page
    assert f"bad images: {len(found['bad'])}\n" in text
    assert re.search(rf"can&#39;t be used</dt><dd>{len(found['bad'])}</dd>", page)
    for one in found["classes"]:
        assert f"{one['name']} ({one['images']})" in text
        assert f'<td class="text">{one["name"]}</td><td>{one["images"]}</td>' in page
    for kind in ("dark", "blank", "blurred"):
        assert re.search(rf"may be {kind} \(.*\): {len(found['suspects'][kind])}\n", text)
    assert [f"  {one['text']} [{one['key']}]" for one in found["warnings"]] == text.split("answers it:\n")[
        1
    ].splitlines()[:-1]


def test_archives_are_read_like_folders(call: Call, own_places: Path) -> None:
    write_photos(own_places / "photos", {"a": 6, "b": 6})
    archive = shutil.make_archive(str(own_places / "photos"), "zip", own_places / "photos")
    both = [json.loads(call(source, "--json")) for source in ("photos", archive)]
    assert [one.pop("source") for one in both] == ["photos", archive]
    assert both[0] == both[1]


@pytest.mark.parametrize("separator", [",", ";"])
def test_tables_take_their_columns(call: Call, own_places: Path, separator: str) -> None:
    write_photos(own_places / "photos", {"a": 6, "b": 6})
    write_table(own_places, separator)
    found = json.loads(call("labels.csv", "--image", "file", "--label", "kind", "--json"))
    assert (found["data"], found["images"], found["copies"]["looked_for"]) == ("table", 12, "near")
    text = call("labels.csv", "--image", "file", "--label", "number")
    assert "parts: none. 12 classes are too small" in text
    with pytest.raises(CnnstudyError, match=r"--image COLUMN\. Its columns are 'file', 'kind', 'number'\.$"):
        call("labels.csv", "--label", "kind")
    with pytest.raises(CnnstudyError, match=r"no column 'kid'; did you mean 'kind'\? Its columns are 'file'"):
        call("labels.csv", "--label", "kid", "--image", "file")


def test_parquet_tables_name_their_columns_too(call: Call, own_places: Path) -> None:
    pd = pytest.importorskip("pandas")
    pd.DataFrame({"path": ["1.png"], "what": ["a"]}).to_parquet("labels.parquet")
    with pytest.raises(CnnstudyError, match=r"--image COLUMN and --label COLUMN\. Its columns are 'path', 'what'\.$"):
        call("labels.parquet")


def test_a_study_is_shown_with_its_own_options(call: Call, own_places: Path) -> None:
    write_photos(own_places / "photos", {"a": 20, "b": 20})
    study = (
        "name: probe\ndata: {name: folder, path: photos, validation: 0.3, copies: ignore}\nimage_size: 64\n"
        "architectures: [alexnet]\ntraining: {epochs: 1}\nbudget: {trials: 1}\n"
    )
    (own_places / "probe.yaml").write_text(study, encoding="utf-8")
    found = json.loads(call("probe.yaml", "--json"))
    assert (found["split"]["validation"], found["copies"]["looked_for"]) == (12, "identical")
    assert not [one for one in found["warnings"] if one["key"] == "image_size"]


def test_a_shipped_study_is_found_by_its_name(call: Call) -> None:
    found = json.loads(call("tiny", "--json"))
    assert (found["source"], found["data"], found["layout"]) == ("tiny", "digits", None)


def test_a_layout_that_is_ambiguous_is_asked_for(call: Call, own_places: Path) -> None:
    write_photos(own_places / "photos" / "train", {"a": 6, "b": 6})
    write_photos(own_places / "photos" / "extra", {"a": 6, "b": 6}, first=50)
    with pytest.raises(CnnstudyError, match=r"two ways(.|\n)*`data PATH` takes it as --layout or --ignore-folders\."):
        call("photos")
    assert "layout classes: each top folder is a class" in call("photos", "--layout", "classes")


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (
            ["nowhere"],
            "there is no nowhere. Give a folder, an archive (.tgz, .tar.gz, .tar, .zip), a table (.csv, .tsv",
        ),
        (["quickstat"], "there is no quickstat; did you mean 'quickstart'? Give a folder"),
        (["missing.zip"], "there is no missing.zip. Give a folder"),
        (["missing.yaml"], "there is no study file 'missing.yaml'"),
        (["empty"], "empty holds no folder of images; it must hold one folder per class"),
        (["notes.txt"], "notes.txt is no archive (.tgz, .tar.gz, .tar, .zip), no table"),
        (["broken.zip"], "can't read the archive broken.zip"),
        (["empty", "--image", "file", "--part", "split"], "--image, --part: only a table (.csv, .tsv, .parquet) has"),
        (["tiny", "--layout", "classes"], "--layout: only for folders and archives, and tiny is none."),
        (["tiny", "--ignore-folders", "a"], "--ignore-folders: only for folders and archives, and tiny is none."),
        (["empty.csv"], "empty.csv is a table: give --image COLUMN and --label COLUMN. Its columns are ."),
        (["", "--json"], "there is no . Give a folder"),
        (["one\ntwo"], "there is no one\\ntwo. Give a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_no_data_set_is_a_short_error(
    call: Call, own_places: Path, arguments: list[str], fragment: str
) -> None:
    (own_places / "empty").mkdir()
    for name in ("notes.txt", "broken.zip", "empty.csv"):
        (own_places / name).write_text("" if name == "empty.csv" else "text", encoding="utf-8")
    with pytest.raises(CnnstudyError) as caught:
        call(*arguments)
    assert str(caught.value).startswith(fragment)
    assert str(caught.value).count("\n") <= 4


def test_a_folder_of_one_class_and_one_without_images(call: Call, own_places: Path) -> None:
    write_photos(own_places / "photos", {"a": 6})
    with pytest.raises(CnnstudyError, match="only one folder, 'a'"):
        call("photos")
    (own_places / "photos" / "b").mkdir()
    with pytest.raises(CnnstudyError, match="no images in photos for 'b'"):
        call("photos")


def test_json_is_all_that_is_on_standard_output_and_the_page_may_not_be_writable(call: Call, own_places: Path) -> None:
    write_photos(own_places / "photos", {"a": 6, "b": 6})
    (own_places / "taken").mkdir()
    assert call("photos", "--json", "--html", "page.html") == call("photos", "--json")
    done = CliRunner().invoke(app, ["data", "photos", "--html", "taken"])
    assert isinstance(done.exception, IsADirectoryError)
    assert done.stdout.startswith("folder: 12 images"), "what was found is not lost"


def test_the_page_never_replaces_what_it_is_about(call: Call, own_places: Path) -> None:
    write_photos(own_places / "photos", {"cat": 12, "dog": 12})
    table = write_table(own_places)
    for source, target in (("labels.csv", "labels.csv"), ("photos", "photos/cat/00.jpg")):
        before = (own_places / target).read_bytes()
        columns = ("--image", "file", "--label", "kind") if source == table.name else ()
        with pytest.raises(CnnstudyError, match="belongs to the data itself; give another file"):
            call(source, *columns, "--html", target)
        assert (own_places / target).read_bytes() == before
    call("photos", "--html", "photos/page.html")
    call("photos", "--html", "photos/page.html")


def test_what_may_show_one_thing_several_times_is_said(call: Call, own_places: Path) -> None:
    write_photos(own_places / "plain", {"cat": 12, "dog": 12})
    assert "data.groups" not in call("plain")
    for name in ("cat", "dog"):
        for i in range(12):
            (own_places / "plain" / name / f"{i:02}.jpg").rename(
                own_places / "plain" / name / f"IMG_{i // 3}_{i % 3}.jpg"
            )
    text = call("plain")
    assert "images whose names differ in a last number only: 24, of 8 things" in text
    (pattern,) = re.findall(r"pattern: '(.*)'", text)
    assert re.search(pattern, "cat/IMG_1_2.jpg")["group"] == "cat/IMG_1"  # type: ignore[index]


def test_masks_are_named(call: Call, own_places: Path) -> None:
    write_photos(own_places / "photos", {"cat": 12, "dog": 12})
    for i in range(4):
        write_photos(own_places / "masks", {"cat": 4}, first=500)
        (own_places / "masks" / "cat" / f"{i:02}.jpg").rename(own_places / "photos" / "cat" / f"{i:02}_mask.jpg")
    assert "4 images are named like masks or labels of others, and are used as photos" in call("photos")
