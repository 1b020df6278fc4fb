"""Damaged cache entries: whatever happened to the bytes, nothing trains on them, and it is said."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnnstudy.data.datasets import find
from cnnstudy.data.images import load_for_training, open_decoded, prepare_images
from cnnstudy.errors import DataError
from cnnstudy.records import PreparedImages, Split
from cnnstudy.study.doctor import check_cache
from cnnstudy.study.recovery import find_broken_entries
from cnnstudy.system import cache

#: Of the README's claim (docs/reliability.md): 300 random damages.
DAMAGES = range(300)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedImages]:
    """A cache with decoded images, their copies and groups, and what is in it."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNSTUDY_CACHE", str(folder))
        return folder, prepare()


def prepare() -> PreparedImages:
    options = {"name": "digits", "classes": [0, 1, 2], "images_per_class": 12, "copies": "together"}
    dataset = find("digits")
    return prepare_images(dataset.Options.model_validate(options), [16], 0, lambda *_: None)[0]


@pytest.fixture
def images(
    written: tuple[Path, PreparedImages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], PreparedImages]:
    """A copy of that cache, in which no process has looked yet; images() prepares the images as a study does."""
    shutil.copytree(written[0], tmp_path / "cache")
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    cache._intact.clear()
    return prepare


def damage(file: Path, rng: random.Random) -> str:
    """Damage a file in one of the ways of disks, people and programs."""
    content = bytearray(file.read_bytes())
    size = max(1, len(content))
    start = rng.randrange(size)
    end = min(len(content), start + rng.choice([1, 16, 512, size // 3 + 1]))
    match how := rng.choice(["bit", "zeros", "noise", "cut", "longer", "empty", "swapped", "gone"]):
        case "bit":
            content[start] ^= 1 << rng.randrange(8)
        case "zeros" if any(content[start:end]):
            content[start:end] = bytes(end - start)
        case "swapped" if content[:start] + content[start:] != content[start:] + content[:start]:
            content = content[start:] + content[:start]
        case "cut" | "zeros" | "swapped":
            del content[start:]
        case "noise":
            before = bytes(content[start:end])
            while content[start:end] == before:
                content[start:end] = rng.randbytes(end - start)
        case "longer":
            content += rng.randbytes(rng.choice([1, 128]))
        case "empty":
            content.clear()
    file.write_bytes(content)
    if how == "gone":
        file.unlink()
    return how


@pytest.mark.parametrize("seed", DAMAGES)
def test_nothing_trains_on_damaged_images(
    seed: int,
    images: Callable[[], PreparedImages],
    written: tuple[Path, PreparedImages],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = random.Random(seed)
    used = {Path(written[1].folder).name, Path(written[1].groups).parent.name}  # not the thumbnails of the search
    files = [file for file in sorted(cache.cache_folder().glob("*/*/*")) if file.name != cache.ABOUT]
    file = rng.choice([file for file in files if file.parent.name in used or file.name == "copies.json"])
    how = damage(file, rng)
    assert list(find_broken_entries()) == [file.parent], how
    prepared = images()
    assert f"note: the cache entry {file.parent} is damaged" in capsys.readouterr().err
    assert prepared.digest == written[1].digest
    found = open_decoded(prepared)
    pixels, index = (
        (written[0] / "images" / Path(prepared.folder).name / name) for name in ("images.npy", "index.json")
    )
    np.testing.assert_array_equal(found.pixels, np.load(pixels))
    assert found.labels.tolist() == json.loads(index.read_text())["labels"]
    assert not find_broken_entries()


def test_a_worker_refuses_images_that_were_damaged_after_the_driver_looked(
    images: Callable[[], PreparedImages],
) -> None:
    prepared = images()
    index = Path(prepared.folder) / "index.json"
    index.write_text(index.read_text().replace('"labels": [0', '"labels": [1'))
    cache._intact.clear()  # a worker is another process
    with pytest.raises(DataError, match=r"are damaged \(index.json is not what was written\); run the study again"):
        load_for_training(prepared, Split(0.15, 0.15, 0), 1.0)
    found = [finding for finding in check_cache() if finding.trouble]
    assert [finding.text for finding in found] == [f"{index.parent} is broken: index.json is not what was written"]
    load_for_training(images(), Split(0.15, 0.15, 0), 1.0)
