from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cnnstudy.study import doctor
from cnnstudy.study.recovery import find_broken_entries
from cnnstudy.system import cache


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path))


@pytest.fixture
def images() -> Path:
    def fill(folder: Path) -> None:
        np.save(folder / "images.npy", np.zeros((5, 4, 4, 3), np.uint8))
        index = {"keys": list("abcde"), "labels": [0] * 5, "bad": {}, "classes": ["x"]}
        (folder / "index.json").write_text(json.dumps(index))

    return cache.build_entry("images", cache.content_address("images"), fill)


@pytest.fixture
def weights() -> Path:
    def fill(folder: Path) -> None:
        np.savez(folder / "backbone.npz", kernel=np.zeros(100))
        (folder / "record.json").write_text("{}")
        (folder / "model").mkdir()
        (folder / "model" / "MLmodel").touch()

    return cache.build_entry("weights", cache.content_address("weights"), fill)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_whole_entries(images: Path, weights: Path) -> None:
    (images.parent / ".hidden").mkdir()
    (images.parent / "notes.txt").touch()
    assert find_broken_entries() == {}
    (found,) = doctor.check_cache()
    assert not found.trouble


def test_broken_images(images: Path) -> None:
    whole = (images / "images.npy").read_bytes()
    cut(images / "images.npy")
    assert find_broken_entries() == {images: "images.npy is not what was written"}
    (images / "images.npy").unlink()
    (images / "index.json").write_text("{}")
    assert find_broken_entries()[images] == "images.npy is missing, index.json is not what was written"
    (images / "images.npy").write_bytes(whole)
    assert find_broken_entries() == {images: "index.json is not what was written"}


def test_weights_from_before_there_were_seals(weights: Path) -> None:
    (weights / cache.SEAL).unlink()
    assert find_broken_entries() == {}
    (weights / "model" / "MLmodel").unlink()
    assert find_broken_entries()[weights] == "model/MLmodel is missing"
    cut(weights / "backbone.npz")
    assert not zipfile.is_zipfile(weights / "backbone.npz")
    assert find_broken_entries()[weights] == "backbone.npz is missing or incomplete"
    (weights / "record.json").unlink()
    (found,) = doctor.check_cache()
    assert found.text == f"{weights} is broken: record.json is missing"
    assert found.trouble
    assert found.mendable
