"""From a data set to train, validation and probe: splits, subsets, bad files, and the cache."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnstudy.data import images
from cnnstudy.data.datasets.folder import Options
from cnnstudy.data.images import Images, load_for_training, prepare_images
from cnnstudy.data.splits import split_indices
from cnnstudy.errors import DataError
from cnnstudy.records import PreparedImages, Split
from cnnstudy.system import cache as system_cache
from cnnstudy.system.cache import build_entry, cache_folder

SPLIT = Split(validation=0.2, test=0.2, seed=7)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, in a folder of the test."""
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_classes(root: Path, **counts: int) -> Path:
    """Write so many images of each class, each of a different colour."""
    number = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            number += 1
            stream = io.BytesIO()
            Image.new("RGB", (10, 10), (number, number // 2, 255 - number)).save(stream, "PNG")
            (root / name / f"{index:03d}.png").write_bytes(stream.getvalue())
    return root


def ready(root: Path, sizes: tuple[int, ...] = (8,), **settings: Any) -> list[PreparedImages]:
    given = {"name": "folder", "path": root, "validation": SPLIT.validation, "test": SPLIT.test, "copies": "ignore"}
    return prepare_images(Options.model_validate(given | settings), sizes, SPLIT.seed, lambda *_: None)


def rows(part: Images) -> set[bytes]:
    """Each image has a colour of its own."""
    return {pixels.tobytes() for pixels in part.pixels}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "fruit", apple=30, pear=20, quince=10)


def test_pixels_stay_in_the_cache_until_they_are_asked_for(folder: Path) -> None:
    (prepared,) = ready(folder)
    train = load_for_training(prepared, SPLIT, 1.0).train
    everything = np.load(Path(prepared.folder) / "images.npy")[train.places]
    pixels = train.pixels
    assert isinstance(pixels._mapped, np.memmap)
    assert (len(pixels), pixels.shape, pixels.dtype) == (len(train), everything.shape, np.uint8)
    chosen = np.array([5, 0, 3])
    for ours, expected in (
        (pixels[:], everything),
        (pixels[2:4], everything[2:4]),
        (pixels[chosen], everything[chosen]),
        (pixels[train.labels == 1], everything[train.labels == 1]),
        (pixels[-1], everything[-1]),
        (np.asarray(pixels), everything),
        (np.asarray(pixels, np.float32), everything.astype(np.float32)),
    ):
        assert np.array_equal(ours, expected)
        assert type(ours) is np.ndarray
    assert [one.tobytes() for one in pixels] == [one.tobytes() for one in everything]


# ---- bad files


def spoil(folder: Path) -> None:
    (folder / "apple" / "003.png").write_bytes(b"")
    (folder / "pear" / "004.png").write_bytes((folder / "pear" / "004.png").read_bytes()[:45])


def test_refuse_names_every_bad_file(folder: Path) -> None:
    spoil(folder)
    with pytest.raises(DataError) as caught:
        ready(folder)
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 of 60 images of folder can't be used:"
    assert lines[1] == "  apple/003.png: an empty file"
    assert lines[2].startswith("  pear/004.png: can't be decoded (")
    assert lines[3] == "Repair or remove them, or write `bad_images: skip` under `data` to train without them."


def test_skip_leaves_them_out_of_the_counts(folder: Path) -> None:
    spoil(folder)
    (prepared,) = ready(folder, bad_images="skip")
    assert [bad.path for bad in prepared.skipped] == ["apple/003.png", "pear/004.png"]
    together = np.add(np.add(prepared.train, prepared.validation), prepared.test)
    assert together.tolist() == [29, 19, 10]
    loaded = load_for_training(prepared, SPLIT, 1.0)
    assert len(loaded.train) == sum(prepared.train)
    assert len(loaded.validation) == sum(prepared.validation)
    black = bytes(8 * 8 * 3)
    assert black not in rows(loaded.train) | rows(loaded.validation)


def test_a_bad_file_moves_no_other_to_another_split_of_another_class(folder: Path) -> None:
    (before,) = ready(folder)
    (folder / "apple" / "003.png").write_bytes(b"")
    (after,) = ready(folder, bad_images="skip")
    one, other = load_for_training(before, SPLIT, 1.0), load_for_training(after, SPLIT, 1.0)
    for label in (1, 2):
        assert np.array_equal(
            one.train.pixels[one.train.labels == label], other.train.pixels[other.train.labels == label]
        )


def test_a_file_that_can_not_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "pear" / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"can't read .*pear/link.png: a link to no file; repair or remove it"):
        ready(folder, bad_images="skip")


# ---- splits and subsets


def test_fractions_are_nested_and_stratified(folder: Path) -> None:
    (prepared,) = ready(folder)
    assert prepared.train == (18, 12, 6)
    smaller: set[bytes] = set()
    for fraction, expected in ((0.1, [2, 1, 1]), (0.25, [4, 3, 2]), (0.5, [9, 6, 3]), (1.0, [18, 12, 6])):
        train = load_for_training(prepared, SPLIT, fraction).train
        assert np.bincount(train.labels).tolist() == expected
        assert smaller < rows(train)
        smaller = rows(train)


def test_validation_stays_whatever_the_fraction(folder: Path) -> None:
    (prepared,) = ready(folder)
    few, all_ = load_for_training(prepared, SPLIT, 0.1), load_for_training(prepared, SPLIT, 1.0)
    assert np.array_equal(few.validation.pixels, all_.validation.pixels)
    assert not rows(all_.train) & rows(all_.validation)


def test_the_probe_is_part_of_train_and_as_large_as_validation(folder: Path) -> None:
    (prepared,) = ready(folder)
    loaded = load_for_training(prepared, SPLIT, 1.0)
    assert rows(loaded.probe) < rows(loaded.train)
    assert np.bincount(loaded.probe.labels).tolist() == list(prepared.validation) == [6, 4, 2]
    small = load_for_training(prepared, SPLIT, 0.1)
    assert rows(small.probe) == rows(small.train)
    half = load_for_training(prepared, SPLIT, 0.5)
    assert rows(half.probe) == rows(loaded.probe)


def test_the_seed_moves_the_split() -> None:
    keys, labels = [f"{index}" for index in range(100)], [0] * 100
    parts = [split_indices(keys, labels, Split(0.2, 0.2, seed))["train"][0] for seed in (1, 1, 2)]
    assert parts[0] == parts[1] != parts[2]


def test_images_per_class(folder: Path) -> None:
    (few,), (more,), (everything,) = (ready(folder, images_per_class=n) for n in (8, 15, 1000))
    assert np.sum([few.train, few.validation, few.test], axis=0).tolist() == [8, 8, 8]
    assert np.sum([more.train, more.validation, more.test], axis=0).tolist() == [15, 15, 10]
    assert everything.digest == ready(folder)[0].digest
    assert len({few.digest, more.digest, everything.digest}) == 3

    def used(prepared: PreparedImages) -> set[bytes]:
        return rows(Images(np.load(Path(prepared.folder) / "images.npy"), np.zeros(0), np.zeros(0)))

    assert used(few) < used(more) < used(everything)


def test_a_class_too_small_is_named(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "fruit", apple=10, pear=3)
    with pytest.raises(DataError, match="class 'pear' has 3 usable images; at least 4"):
        ready(root)


def test_a_class_that_skipping_made_too_small_is_named(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "fruit", apple=10, pear=4)
    (root / "pear" / "000.png").write_bytes(b"")
    with pytest.raises(DataError, match="class 'pear' has 3 usable images"):
        ready(root, bad_images="skip")


@pytest.mark.parametrize("count", [4, 6])
def test_shares_that_leave_nothing_to_train_on_are_refused(count: int, tmp_path: Path) -> None:
    root = write_classes(tmp_path / "fruit", apple=40, pear=count)
    with pytest.raises(DataError, match=f"'pear' has {count} usable images; with validation 0.45 and test 0.45 none"):
        ready(root, validation=0.45, test=0.45)


# ---- the cache


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The sizes of each decoding of the data set."""
    calls: list[list[int]] = []
    real = images.decode_all

    def counted(source: Any, sizes: Any, *others: Any) -> Any:
        calls.append(list(sizes))
        return real(source, sizes, *others)

    monkeypatch.setattr(images, "decode_all", counted)
    return calls


def test_images_are_decoded_once(folder: Path, decodings: list[list[int]]) -> None:
    first = ready(folder, (8, 12))
    assert ready(folder, (8, 12)) == first
    assert ready(folder, (12,)) == first[1:]
    assert decodings == [[8, 12]]
    ready(folder, (8, 20))
    assert decodings == [[8, 12], [20]]


def test_where_they_lie_does_not_matter_but_what_they_are(folder: Path, decodings: list[list[int]]) -> None:
    (before,) = ready(folder)
    moved = folder.rename(folder.parent / "moved")
    assert ready(moved) == [before]
    assert len(decodings) == 1
    (moved / "apple" / "000.png").write_bytes((moved / "apple" / "001.png").read_bytes())
    assert ready(moved)[0].digest != before.digest
    assert len(decodings) == 2


def test_an_entry_that_is_gone_is_named(folder: Path) -> None:
    (prepared,) = ready(folder)
    (Path(prepared.folder) / "images.npy").unlink()
    with pytest.raises(DataError, match=r"the decoded images in .* are gone .*; run the study again"):
        load_for_training(prepared, SPLIT, 1.0)


def test_a_damaged_entry_is_named(folder: Path) -> None:
    (prepared,) = ready(folder)
    for name in ("images.npy", "index.json"):
        whole = (Path(prepared.folder) / name).read_bytes()
        (Path(prepared.folder) / name).write_bytes(whole[:100])
        system_cache._intact.clear()
        with pytest.raises(DataError, match=r"the decoded images in .* are damaged .*; run the study again"):
            load_for_training(prepared, SPLIT, 1.0)
        (Path(prepared.folder) / name).write_bytes(whole)


def test_a_disk_without_room_is_told_before_decoding(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"take 11,520 bytes, and .*cache/images has no room for them \(No space left"):
        ready(folder)
    assert left_in(cache, "images") == []


def left_in(cache: Path, kind: str) -> list[str]:
    return sorted(path.name for path in (cache / kind).iterdir() if path.suffix != ".lock")


def test_a_failing_build_leaves_nothing(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(images, "decode_all", fail)
        with pytest.raises(KeyboardInterrupt):
            ready(folder)
    assert left_in(cache, "images") == []
    (prepared,) = ready(folder)
    assert left_in(cache, "images") == [Path(prepared.folder).name]


def test_what_a_killed_process_left_is_cleared(cache: Path) -> None:
    for name in (".one-killed", ".other-at-work"):
        (cache / "images" / name).mkdir(parents=True)
        (cache / "images" / name / "images.npy").write_bytes(b"half")
    build_entry("images", "one", lambda folder: None)
    assert left_in(cache, "images") == [".other-at-work", "one"]


def test_two_processes_build_one_entry(cache: Path) -> None:
    code = """
import sys, time
from cnnstudy.system.cache import build_entry

def build(folder):
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    (folder / "whole").write_text("yes")

print((build_entry("images", "address", build) / "whole").read_text())
"""
    cache.mkdir()
    log = cache / "log"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(log)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in processes] == ["yes", "yes"]
    assert log.read_text() == "built\n"
    assert left_in(cache, "images") == ["address"]


def test_the_cache_is_where_the_environment_says(cache: Path) -> None:
    assert cache_folder() == cache


# ---- blocks, and labels of chance


def test_every_block_divides_anew_and_leaves_the_test_images_alone(folder: Path) -> None:
    (prepared,) = ready(folder)
    parts = [load_for_training(prepared, SPLIT, 1.0, block) for block in (None, 0, 1)]
    sizes = {(len(part.train), len(part.validation), len(part.probe)) for part in parts}
    assert len(sizes) == 1
    for part in parts:
        assert not rows(part.train) & rows(part.validation)
    # what is neither trained on nor validated on is the test split
    assert len({frozenset(rows(part.train) | rows(part.validation)) for part in parts}) == 1
    assert len({frozenset(rows(part.validation)) for part in parts}) == 3
    again = load_for_training(prepared, SPLIT, 1.0, 1)
    assert np.array_equal(again.validation.places, parts[2].validation.places)


def test_the_subsets_of_a_block_are_nested(folder: Path) -> None:
    (prepared,) = ready(folder)
    small, large = (load_for_training(prepared, SPLIT, fraction, 3) for fraction in (0.25, 0.5))
    assert rows(small.train) < rows(large.train)
    assert rows(small.validation) == rows(large.validation)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_shuffled_labels_are_dealt_out_among_training_images_only(folder: Path, share: float) -> None:
    (prepared,) = ready(folder)
    plain = load_for_training(prepared, SPLIT, 1.0)
    shuffled = load_for_training(prepared, SPLIT, 1.0, shuffled_labels=share, seed=1)
    assert np.array_equal(shuffled.validation.labels, plain.validation.labels)
    assert np.array_equal(np.bincount(shuffled.train.labels), np.bincount(plain.train.labels))
    changed = (shuffled.train.labels != plain.train.labels).sum()
    assert 0 < changed <= share * len(plain.train)
    assert (changed > 0.5 * len(plain.train)) == (share == 1.0)
    # the probe has the labels that training sees
    seen = dict(zip(shuffled.train.places.tolist(), shuffled.train.labels.tolist(), strict=True))
    assert [seen[place] for place in shuffled.probe.places.tolist()] == shuffled.probe.labels.tolist()
    other = load_for_training(prepared, SPLIT, 1.0, shuffled_labels=share, seed=2)
    assert not np.array_equal(other.train.labels, shuffled.train.labels)


def test_places_are_those_of_the_data_set(folder: Path) -> None:
    (prepared,) = ready(folder)
    index = json.loads((Path(prepared.folder) / "index.json").read_text(encoding="utf-8"))
    part = load_for_training(prepared, SPLIT, 1.0).validation
    assert [index["labels"][place] for place in part.places] == part.labels.tolist()
