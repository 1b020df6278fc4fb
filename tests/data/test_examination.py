"""What is found in a data set before anything trains: facts, copies, suspects, and nothing is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from odd_photos import HOSTILE, photo, save, write_odd_photos, write_photos
from PIL import Image, ImageFilter

from cnnstudy.data.datasets import find
from cnnstudy.data.decode import measure_image
from cnnstudy.data.examination import BLANK, BLURRED, DARK, Examined, examine_images
from cnnstudy.data.images import prepare_images


def examine(path: Path, **options: Any) -> Examined:
    return examine_images(find("folder").Options(name="folder", path=path, **options), 0, lambda *_: None)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Examined:
    return examine(write_odd_photos(tmp_path_factory.mktemp("photos")))


def keys(examined: Examined, places: Any) -> list[str]:
    return [examined.image(place).key for place in places]


def test_every_usable_image_has_facts_and_the_others_a_reason(odd: Examined) -> None:
    assert sorted(odd.facts) == list(odd.grouping.usable)
    assert {image.path: image.reason.split("(")[0] for image in odd.bad} == {
        "apple/broken.jpg": "can't be decoded ",
        "pear/empty.png": "an empty file",
    }
    assert odd.count_classes() == {"apple": 26, "pear": 16}


def test_facts_are_those_of_the_upright_image_as_stored(odd: Examined) -> None:
    facts = {odd.image(place).key: one for place, one in odd.facts.items()}
    turned = facts["apple/turned.jpg"]
    assert (turned.width, turned.height, turned.mode, turned.rotated) == (120, 160, "RGB", True)
    assert (facts["apple/large.jpg"].width, facts["apple/large.jpg"].height) == (320, 200)
    modes = {
        name: facts[f"pear/{name}"].mode for name in ("grey.png", "cmyk.jpg", "alpha.png", "palette.png", "deep.png")
    }
    assert list(modes.values()) == ["grey", "CMYK", "alpha", "palette", "16 bit"]
    assert sum(one.rotated for one in facts.values()) == 1


def test_colours_of_16_bit_are_told_though_they_are_read_as_8(tmp_path: Path) -> None:
    root = write_photos(tmp_path, {"a": 4, "b": 4})
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(range(12))) * 2)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    written = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    (root / "a" / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))
    examined = examine(root)
    assert [one.mode for place, one in examined.facts.items() if examined.image(place).key == "a/deep.png"] == [
        "16 bit"
    ]


def test_suspects_are_dark_blank_or_blurred_and_no_other_is(odd: Examined) -> None:
    found = {kind: keys(odd, places) for kind, places in odd.find_suspects().items()}
    assert found == {"dark": ["apple/dark.png"], "blank": ["apple/blank.png"], "blurred": ["pear/blurred.jpg"]}


def test_measures_are_those_of_the_textbook() -> None:
    squares = Image.new("L", (10, 10))
    squares.paste(200, (0, 0, 5, 10))
    facts = measure_image(squares)
    assert (facts.brightness, facts.contrast) == (100, 100)
    # of the 8 x 8 inner pixels those beside the edge are -200 and 200, which Pillow clips at -128 and 127
    assert facts.sharpness == pytest.approx((8 * 128**2 + 8 * 127**2) / 64, abs=1)
    flat = measure_image(Image.new("RGB", (2, 900), (30, 30, 30)))
    assert (flat.brightness, flat.contrast, flat.sharpness) == (30, 0, 0)


def test_blur_shows_at_any_size_of_an_image() -> None:
    for size in ((160, 120), (640, 480)):
        sharp = photo(1, size)
        blurred = sharp.filter(ImageFilter.GaussianBlur(size[0] / 40))
        assert measure_image(blurred).sharpness < BLURRED < measure_image(sharp).sharpness
    assert measure_image(photo(1)).brightness > DARK
    assert measure_image(photo(1)).contrast > BLANK


def test_copies_groups_and_conflicts(odd: Examined) -> None:
    groups = {frozenset(keys(odd, group)) for group in odd.copies.groups}
    assert groups == {
        frozenset({"apple/original.png", "apple/smaller.jpg", "pear/mirrored.jpg"}),
        frozenset({"pear/twin.png", "pear/twin-2.png"}),
    }
    assert odd.copies.identical == 1
    tested = set(keys(odd, odd.test))
    conflicts = {frozenset(keys(odd, pair)) for pair in odd.copies.conflicts}
    assert all("pear/mirrored.jpg" in pair for pair in conflicts)
    assert bool(conflicts) == ("pear/mirrored.jpg" not in tested)


def test_labels_of_near_copies_in_the_test_split_are_not_looked_at(tmp_path: Path) -> None:
    """Whatever the pair is called, it is a conflict exactly if it is not in the test split."""
    seen = set()
    for number in range(6):
        root = write_photos(tmp_path / str(number), {"a": 6, "b": 6}, first=100 * number)
        save(photo(7000 + number), root / f"a/{number}-x.png")
        save(photo(7000 + number).resize((120, 90)), root / f"b/{number}-x.png")
        examined = examine(root, test=0.4)
        pair = [place for place in examined.grouping.usable if examined.image(place).key.endswith("-x.png")]
        in_test = set(pair) <= examined.test
        assert in_test or not set(pair) & examined.test
        assert bool(examined.copies.conflicts) is not in_test
        seen.add(in_test)
    assert seen == {True, False}


def test_a_study_is_told_the_same(odd: Examined) -> None:
    options = odd.listed.options.model_copy(update={"bad_images": "skip"})
    (prepared,) = prepare_images(options, [32], 0, lambda *_: None)
    assert odd.prepared is not None
    for name in ("digest", "train", "validation", "test", "notes", "warnings", "passed_over", "groups"):
        assert getattr(prepared, name) == getattr(odd.prepared, name), name
    assert {image.path for image in prepared.skipped} == {image.path for image in odd.bad}


def test_where_copies_are_ignored_identical_files_are_told(tmp_path: Path) -> None:
    root = write_photos(tmp_path, {"a": 12, "b": 12})
    for number in range(12):
        (root / "a" / f"{number:02}-again.jpg").write_bytes((root / "a" / f"{number:02}.jpg").read_bytes())
    ignored, together = examine(root, copies="ignore"), examine(root)
    assert (len(ignored.copies.pairs), ignored.copies.identical) == (12, 12)
    assert ignored.grouping.of_usable is None
    assert ignored.copies.leaks["validation"][0] > 0
    assert ignored.copies.leaks["validation"] == together.copies.leaks["validation"]


def test_classes_that_are_too_small_are_no_error(tmp_path: Path) -> None:
    examined = examine(write_photos(tmp_path, {"a": 9, "b": 2}))
    assert examined.prepared is None
    assert examined.problem.startswith("class 'b' has 2 usable images; at least 4 are needed")
    assert (examined.count_classes(), len(examined.facts)) == ({"a": 9, "b": 2}, 11)


def test_images_none_of_which_can_be_used_are_no_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
    examined = examine(tmp_path)
    assert (len(examined.bad), examined.facts, examined.count_classes()) == (2, {}, {"a": 0, "b": 0})


def test_pixels_of_a_data_set_are_measured_too() -> None:
    options = find("digits").Options(name="digits", classes=(0, 1), images_per_class=6)
    examined = examine_images(options, 0, lambda *_: None)
    assert {(one.width, one.height, one.mode) for one in examined.facts.values()} == {(8, 8, "grey")}


def test_hostile_names_are_only_names(odd: Examined) -> None:
    assert HOSTILE in keys(odd, odd.grouping.usable)
