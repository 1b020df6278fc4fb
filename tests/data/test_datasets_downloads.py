"""Failed downloads and their messages; nothing here needs a network."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from pathlib import Path
from typing import Any

import keras
import pytest
import ruamel.yaml

from cnnstudy.data import datasets
from cnnstudy.errors import DataError
from cnnstudy.system.download import download

DOWNLOADED = {
    "flowers": ("https://storage.googleapis.com/download.tensorflow.org/example_images/", "datasets/flower_photos.tgz"),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/", "datasets/cifar-10-binary.tar.gz"),
    "fashion_mnist": (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "datasets/fashion-mnist/train-images-idx3-ubyte.gz",
    ),
}


@pytest.mark.parametrize("name", DOWNLOADED)
def test_without_network_the_message_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fail(file_name: str, **arguments: Any) -> str:
        asked.append(arguments)
        raise Exception(f"URL fetch failure on {arguments['origin']}: None -- no route to host")

    monkeypatch.setattr(keras.utils, "get_file", fail)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    data_set = datasets.find(name)
    with pytest.raises(DataError) as caught:
        data_set.load(data_set.Options.model_validate({"name": name}))
    text = str(caught.value)
    url, place = DOWNLOADED[name]
    assert f"can't download {url}{place.rpartition('/')[2]}: " in text
    assert "URL fetch failure" not in text
    assert f"put the file at {tmp_path / place} (its hash must be {asked[0]['file_hash']})" in text
    # what it says to write can be written
    written = re.search("`data: (.*)`", text)
    assert written
    entry = ruamel.yaml.YAML(typ="safe").load(re.sub("PATH|FOLDER", str(tmp_path), written[1]))
    assert data_set.Options.model_validate(entry).path == tmp_path  # type: ignore[attr-defined]


@pytest.fixture
def into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keras' real downloader, with its cache in a folder of the test."""
    folder = tmp_path / "keras"
    folder.mkdir()
    monkeypatch.setattr(keras.utils, "get_file", partial(keras.utils.get_file, cache_dir=str(folder)))
    monkeypatch.setenv("KERAS_HOME", str(folder))
    return folder


def test_a_wrong_hash_is_refused(into: Path, tmp_path: Path) -> None:
    served = tmp_path / "served.tgz"
    served.write_bytes(b"<html>log in first</html>")
    with pytest.raises(DataError, match=f"hash does not match .*put the file at {into}/datasets/photos.tgz"):
        download(served.as_uri(), "photos.tgz", "0" * 64, DataError, "give another path.")


def test_a_file_put_there_by_hand_is_used(into: Path, tmp_path: Path) -> None:
    place = into / "datasets" / "photos.tgz"
    place.parent.mkdir()
    place.write_bytes(b"photos")
    nowhere = (tmp_path / "not there").as_uri()
    digest = hashlib.sha256(b"photos").hexdigest()
    assert download(nowhere, "photos.tgz", digest, DataError, "give another path.") == place
    assert place.read_bytes() == b"photos"


def test_a_download_that_was_killed_is_begun_again(into: Path, tmp_path: Path) -> None:
    served = tmp_path / "served.tgz"
    served.write_bytes(b"photos")
    place = into / "datasets" / "photos.tgz"
    place.parent.mkdir()
    (place.parent / ".photos.tgz.part").write_bytes(b"pho")
    digest = hashlib.sha256(b"photos").hexdigest()
    assert download(served.as_uri(), "photos.tgz", digest, DataError, "give another path.") == place
    assert [file.name for file in place.parent.iterdir() if file.suffix != ".lock"] == ["photos.tgz"]
    assert place.read_bytes() == b"photos"
