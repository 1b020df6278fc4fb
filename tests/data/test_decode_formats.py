"""Data sets with file formats of their own: what is read, and what is refused."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from cnnstudy.data.datasets import cifar10, fashion_mnist, flowers
from cnnstudy.errors import DataError

from .samples import cifar_files, fashion_files, flower_files, tree, write_folder, write_tar


def test_flowers_come_from_the_archive_or_a_folder(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "flower_photos.tgz", flower_files())
    folder = write_folder(tmp_path / "unpacked", flower_files())
    sources = [
        flowers.load(flowers.Options(name="flowers", path=path)) for path in (archive, folder, folder / "flower_photos")
    ]
    for source in sources:
        assert source.classes == flowers.CLASSES
        assert [image.key for image in source.images] == [image.key for image in sources[0].images]
    assert sources[0].images[0].key == "daisy/0_daisy.jpg"


def test_other_flowers_are_refused_by_name(tmp_path: Path) -> None:
    path = write_folder(tmp_path, tree("daisy/1.png", "lilies/1.png"))
    with pytest.raises(DataError, match="holds the classes daisy, lilies; those of flowers are daisy, dandelion"):
        flowers.load(flowers.Options(name="flowers", path=path))


def test_cifar_pixels_are_red_green_blue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = cifar_files(monkeypatch)
    path = write_folder(tmp_path, files)
    record = np.frombuffer(files["cifar-10-batches-bin/data_batch_2.bin"], np.uint8).reshape(20, 3073)[7]
    for given in (path, path / "cifar-10-batches-bin", write_tar(tmp_path / "cifar-10-binary.tar.gz", files)):
        source = cifar10.load(cifar10.Options(name="cifar10", path=given))
        image = next(image for image in source.images if image.key == "data_batch_2/00007")
        assert source.classes[image.label] == "horse"
        assert isinstance(image.content, np.ndarray)
        assert image.content.shape == (32, 32, 3)
        assert image.content[5, 9].tolist() == [record[1 + 1024 * plane + 32 * 5 + 9] for plane in range(3)]
        assert len(source.images) == 120


def test_cifar_classes_keep_the_order_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_folder(tmp_path, cifar_files(monkeypatch))
    source = cifar10.load(cifar10.Options(name="cifar10", path=path, classes=("ship", "cat")))
    assert source.classes == ("ship", "cat")
    assert {image.key: image.label for image in source.images if image.key.startswith("test")} == {
        "test_batch/00003": 1,
        "test_batch/00008": 0,
        "test_batch/00013": 1,
        "test_batch/00018": 0,
    }


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda content: content[:-1], "data_batch_3.bin in .* has 61,459 bytes and must have 61,460"),
        (lambda content: content + b"x", "has 61,461 bytes and must have 61,460"),
        (lambda content: b"\x0a" + content[1:], "has the label 10, but labels are 0 to 9"),
        (None, "lacks data_batch_3.bin; it must be cifar-10-binary.tar.gz"),
    ],
    ids=["short", "long", "label", "missing"],
)
def test_damaged_cifar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes] | None, text: str
) -> None:
    files = cifar_files(monkeypatch)
    name = "cifar-10-batches-bin/data_batch_3.bin"
    content = files.pop(name)
    if change:
        files[name] = change(content)
    for path in (write_folder(tmp_path / "unpacked", files), write_tar(tmp_path / "c.tgz", files)):
        with pytest.raises(DataError, match=text):
            cifar10.load(cifar10.Options(name="cifar10", path=path))


def test_fashion_files_may_be_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = fashion_files(monkeypatch)
    path = write_folder(tmp_path, files)
    name = "train-images-idx3-ubyte"
    (path / f"{name}.gz").write_bytes(gzip.compress(files[name]))
    (path / name).unlink()
    source = fashion_mnist.load(fashion_mnist.Options(name="fashion_mnist", path=path, classes=("Bag", "Ankle boot")))
    assert [image.key for image in source.images][:3] == ["t10k/00008", "t10k/00009", "t10k/00018"]
    assert [image.label for image in source.images][:3] == [0, 1, 0]
    image = next(image for image in source.images if image.key == "train/00019")
    assert np.array_equal(image.content, np.frombuffer(files[name], np.uint8)[16:].reshape(50, 28, 28)[19])  # type: ignore[arg-type]


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        (IMAGES, lambda packed: packed[:-20], "can't read .*train-images.*cut off"),
        (IMAGES, lambda packed: b"<html>not found</html>", "can't read .*train-images"),
        (IMAGES, lambda packed: gzip.compress(gzip.decompress(packed)[:-1]), "has 39,215 bytes and must have 39,216"),
        (IMAGES, lambda packed: gzip.compress(bytes(10**6)), "starts with the bytes 00 00 00 00 .*00 00 08 03"),
        (LABELS, lambda packed: gzip.compress(gzip.decompress(packed) + b"\0\0"), "has more than 28 bytes"),
        (LABELS, lambda packed: gzip.compress(gzip.decompress(packed)[:-1] + b"\x0b"), "the label 11, but labels are"),
        (LABELS, None, "has neither t10k-labels-idx1-ubyte.gz nor t10k-labels-idx1-ubyte"),
    ],
    ids=["truncated", "html", "short", "magic", "long", "label", "missing"],
)
def test_damaged_fashion(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    change: Callable[[bytes], bytes] | None,
    text: str,
) -> None:
    packed = {f"{file}.gz": gzip.compress(content) for file, content in fashion_files(monkeypatch).items()}
    content = packed.pop(name)
    if change:
        packed[name] = change(content)
    with pytest.raises(DataError, match=text):
        fashion_mnist.load(fashion_mnist.Options(name="fashion_mnist", path=write_folder(tmp_path, packed)))


def test_classes_are_checked_with_the_study_file() -> None:
    with pytest.raises(ValidationError, match="no class 'plane'; did you mean 'airplane'"):
        cifar10.Options(name="cifar10", classes=("plane", "cat"))
    with pytest.raises(ValidationError, match="is listed twice"):
        cifar10.Options(name="cifar10", classes=("cat", "cat"))
    with pytest.raises(ValidationError, match="at least 2"):
        fashion_mnist.Options(name="fashion_mnist", classes=("Bag",))


def test_fashion_takes_a_folder_only(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "fashion.tgz", {})
    with pytest.raises(ValidationError, match=r"fashion\.tgz is not a folder; give one"):
        fashion_mnist.Options(name="fashion_mnist", path=archive)
    shutil.rmtree(tmp_path)
    with pytest.raises(ValidationError, match=r"there is no .*; give a folder that exists"):
        fashion_mnist.Options(name="fashion_mnist", path=tmp_path)
