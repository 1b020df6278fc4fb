"""Image trees in folders and archives: what counts as a class and as an image, and what is refused."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from cnnstudy.data import archives, listing
from cnnstudy.data.datasets import ImageSource, folder
from cnnstudy.data.image_tree import read_tree
from cnnstudy.errors import DataError

from .samples import picture, tree, write_folder, write_tar, write_zip

PLAIN = tree("pear/2.png", "pear/1.JPG", "apple/deep/er/1.png")
KEYS = ["apple/deep/er/1.png", "pear/1.JPG", "pear/2.png"]


def keys(source: ImageSource) -> list[str]:
    return [image.key for image in source.images]


def pack(kind: str, root: Path, content: dict[str, bytes]) -> Path:
    """The files as a folder or an archive."""
    if kind == "folder":
        return write_folder(root / "images", content)
    return (write_zip if kind == ".zip" else write_tar)(root / f"images{kind}", content)


@pytest.fixture(params=["folder", ".tgz", ".tar.gz", ".tar", ".zip"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_one_folder_a_class(kind: str, tmp_path: Path) -> None:
    source = read_tree(pack(kind, tmp_path, PLAIN))
    assert source.classes == ("apple", "pear")
    assert keys(source) == KEYS
    assert [image.label for image in source.images] == [0, 1, 1]
    for image in source.images:
        content = image.content.read_bytes() if isinstance(image.content, Path) else image.content
        assert content == PLAIN[image.key]


@pytest.mark.parametrize("wrapping", ["photos", "photos/all", "./photos"])
def test_wrapping_folders_are_stripped(kind: str, wrapping: str, tmp_path: Path) -> None:
    wrapped = {f"{wrapping}/{name}": content for name, content in PLAIN.items()}
    beside = {"readme.txt": b"", "__MACOSX/photos/._1.png": b"", "photos/LICENSE.txt": b""}
    assert keys(read_tree(pack(kind, tmp_path, wrapped | beside))) == KEYS


def test_what_is_no_image_is_ignored(kind: str, tmp_path: Path) -> None:
    others = [
        ".DS_Store",
        "cover.png",
        "notes.txt",
        "pear/Thumbs.db",
        "pear/._1.png",
        "pear/.hidden/1.png",
        ".git/1.png",
        "__MACOSX/pear/1.png",
        "pear/1.txt",
        "pear/png.",
    ]
    source = read_tree(pack(kind, tmp_path, PLAIN | tree(*others)))
    assert keys(source) == KEYS
    told = " ".join(map(str, source.passed_over))
    for part in ("2 .txt (notes.txt, ...)", "1 image outside the class folders (cover.png)", "hidden (", "Thumbs.db"):
        assert part in told, told


@pytest.mark.parametrize("suffix", [*(suffix[1:] for suffix in listing.IMAGE_SUFFIXES), "JPG", "Tiff"])
def test_suffixes(suffix: str, tmp_path: Path) -> None:
    source = read_tree(write_folder(tmp_path, {f"a/1.{suffix}": b"", f"b/1.{suffix}": b""}))
    assert len(source.images) == 2


def test_classes_may_be_chosen_and_ordered(kind: str, tmp_path: Path) -> None:
    path = pack(kind, tmp_path, PLAIN | tree("quince/1.png", "empty/readme.txt"))
    source = read_tree(path, ("quince", "apple"))
    assert source.classes == ("quince", "apple")
    assert {image.key: image.label for image in source.images} == {"quince/1.png": 0, "apple/deep/er/1.png": 1}
    with pytest.raises(DataError, match=r"no class 'quinces' in .*; did you mean 'quince'.*'apple', 'empty', 'pear'"):
        read_tree(path, ("quinces", "apple"))


def test_an_empty_class_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images in .* for 'quince', 'sloe'; images are told by what is in a file"):
        read_tree(pack(kind, tmp_path, PLAIN | tree("quince/readme.txt", "sloe/deep/readme.txt")))


def test_an_empty_class_without_any_file_is_named(tmp_path: Path) -> None:
    (write_folder(tmp_path / "images", PLAIN) / "quince").mkdir()
    info = tarfile.TarInfo("quince/")
    info.type = tarfile.DIRTYPE
    for path in (
        tmp_path / "images",
        write_tar(tmp_path / "1.tgz", PLAIN, [info]),
        write_zip(tmp_path / "1.zip", PLAIN | {"quince/": b""}),
    ):
        with pytest.raises(DataError, match=r"no images in .* for 'quince'"):
            read_tree(path)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "holds no folder of images; it must hold one folder per class"),
        (["readme.txt"], "holds no folder of images; it must hold"),
        (
            ["1.png", "2.png"],
            r"holds no folder of images and 2 images outside any class folder \('1.png', '2.png'\)",
        ),
        (["pear/1.png"], "holds only one folder, 'pear'; it must hold one folder per class, at least two"),
        (["photos/pear/1.png"], "/photos holds only one folder, 'pear'; it must hold"),
        (["photos/mine/pear/1.png"], "/photos/mine holds only one folder, 'pear'; it must hold"),
        (["pear/1.png", "1.png"], "holds only one folder, 'pear', and 1 images outside any class folder"),
    ],
    ids=" ".join,
)
def test_too_few_classes(kind: str, names: list[str], text: str, tmp_path: Path) -> None:
    path = pack(kind, tmp_path, tree(*names))
    if kind == "folder":
        path.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=text):
        read_tree(path)


def test_names_are_unicode_normalised(kind: str, tmp_path: Path) -> None:
    names = ["Ku\u0308rbis/a\u0308.png", "k\u00fcbel/\u00f6.png"]
    source = read_tree(pack(kind, tmp_path, tree(*names)))
    assert source.classes == ("K\u00fcrbis", "k\u00fcbel")
    assert keys(source) == ["K\u00fcrbis/\u00e4.png", "k\u00fcbel/\u00f6.png"]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["pear/\u00e4.png", "pear/a\u0308.png"], "two images in .* have the name 'pear/\u00e4.png'"),
        (["b\u00e4r/1.png", "ba\u0308r/2.png"], "the class folders .* differ only in"),
        (["Pear/1.png", "pear/2.png"], "the class folders 'Pear' and 'pear' in .* differ only in upper and lower case"),
    ],
    ids=["image", "class", "case"],
)
def test_clashing_names_are_refused(kind: str, names: list[str], text: str, tmp_path: Path) -> None:
    path = pack(kind, tmp_path, tree(*names, "quince/1.png"))
    if kind == "folder" and len({entry for folder_ in path.iterdir() for entry in folder_.iterdir()}) < 3:
        pytest.skip("this file system makes one of the two names")
    with pytest.raises(DataError, match=text):
        read_tree(path)


def test_a_name_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, PLAIN)
    try:
        (tmp_path / "pear" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system refuses such names")
    with pytest.raises(DataError, match=r"a name in .* is not valid Unicode: 'pear/\\udcff.png'; rename it"):
        read_tree(tmp_path)


# ---- links


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", tree("many/1.png", "one.png"))
    root = write_folder(tmp_path / "images", PLAIN)
    (root / "quince").symlink_to(tmp_path / "elsewhere" / "many", target_is_directory=True)
    (root / "pear" / "3.png").symlink_to(tmp_path / "elsewhere" / "one.png")
    assert keys(read_tree(root)) == [*KEYS, "pear/3.png", "quince/1.png"]


def test_loops_end(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", PLAIN)
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "pear" / "up").symlink_to("..", target_is_directory=True)
    (root / "apple" / "self").symlink_to(".", target_is_directory=True)
    assert keys(read_tree(root)) == KEYS


def test_a_folder_linked_twice_counts_once(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", PLAIN)
    (root / "apple" / "pears").symlink_to(root / "pear", target_is_directory=True)
    assert keys(read_tree(root)) == KEYS
    (root / "a pear").symlink_to(root / "pear", target_is_directory=True)
    with pytest.raises(DataError, match=r"no images in .* for 'a pear'.*a folder that is linked to twice counts once"):
        read_tree(root)


def test_a_link_to_nowhere_is_not_left_out(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", PLAIN)
    (root / "pear" / "3.png").symlink_to(tmp_path / "gone.png")
    assert "pear/3.png" in keys(read_tree(root))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", PLAIN)
    os.mkfifo(root / "pear" / "3.png")
    (root / "pear" / "4.png").symlink_to("3.png")
    assert keys(read_tree(root)) == KEYS


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", PLAIN)
    (root / "pear").chmod(0)
    try:
        with pytest.raises(DataError, match=r"can't read .*pear: Permission denied"):
            read_tree(root)
    finally:
        (root / "pear").chmod(0o700)


# ---- archives


@pytest.mark.parametrize("kind", [".tgz", ".zip"])
def test_nothing_is_unpacked(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "here"))
    read_tree(pack(kind, tmp_path, PLAIN))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", f"images{kind}"]
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("kind", [".tgz", ".zip"])
@pytest.mark.parametrize("name", ["../evil/1.png", "/tmp/evil/1.png", "pear/../../evil/1.png", "C:/evil/1.png"])
def test_images_that_lead_out_are_refused(kind: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"'{name}' in .* points outside the archive; unpack"):
        read_tree(pack(kind, tmp_path, PLAIN | {name: picture(0)}))


@pytest.mark.parametrize("kind", [".tgz", ".zip"])
def test_other_files_that_lead_out_are_ignored(kind: str, tmp_path: Path) -> None:
    outside = {"../evil/run.sh": b"", "/etc/cron.d/run": b"", "../evil/": b""}
    assert keys(read_tree(pack(kind, tmp_path, PLAIN | outside))) == KEYS


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_images_that_are_links_or_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "1.tgz", PLAIN, [link("pear/3.png", "pear/2.png", kind)])
    with pytest.raises(DataError, match=r"'pear/3.png' in .* is a link or not a regular file; unpack the archive"):
        read_tree(path)


def test_other_links_are_ignored(tmp_path: Path) -> None:
    links = [link("pear/passwd", "/etc/passwd"), link("root", "/"), link("pear/up", "..")]
    assert keys(read_tree(write_tar(tmp_path / "1.tgz", PLAIN, links))) == KEYS


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "1.zip", PLAIN)
    info = zipfile.ZipInfo("pear/3.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is a link or not a regular file"):
        read_tree(path)


def test_backslashes_in_a_zip_separate_folders(tmp_path: Path) -> None:
    assert keys(read_tree(write_zip(tmp_path / "1.zip", PLAIN | {"pear\\3.png": b""}))) == [*KEYS, "pear/3.png"]


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pear/2.png")
    with pytest.raises(DataError, match=r"two images in .* have the name 'pear/2.png'"):
        read_tree(write_tar(tmp_path / "1.tgz", PLAIN, [info]))


@pytest.mark.parametrize("kind", [".tgz", ".zip"])
def test_bombs_are_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(kind, tmp_path, PLAIN | {"pear/3.png": bytes(5_000_000)})
    assert path.stat().st_size < 50_000
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1_000_000)
    with pytest.raises(DataError, match=r"'pear/3.png' in .* has 5,000,000 bytes unpacked; the most is 1,000,000"):
        read_tree(path)
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 2**20)
    with pytest.raises(DataError, match=r"holds more than 0.000976562 GiB; unpack it and give the folder"):
        read_tree(path)


def test_a_bomb_beside_the_images_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 1_000_000)
    path = write_tar(tmp_path / "1.tgz", {"pear/zeros.bin": bytes(5_000_000)} | PLAIN)
    with pytest.raises(DataError, match="holds more than"):
        read_tree(path)


@pytest.mark.parametrize("kind", [".tgz", ".tar", ".zip"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_a_cut_off_archive_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    path = pack(kind, tmp_path, PLAIN)
    content = path.read_bytes().rstrip(b"\0") if kind == ".tar" else path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"can't read the archive .*It may be damaged, cut off or encrypted; get a new"):
        read_tree(path)


def test_a_damaged_header_is_not_the_end_of_a_tar(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "1.tar", PLAIN)
    with tarfile.open(path) as archive:
        second = archive.getmembers()[1].offset
    content = bytearray(path.read_bytes())
    content[second] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"no file header at byte {second:,}"):
        read_tree(path)


def test_a_damaged_image_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "1.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in PLAIN.items():
            archive.writestr(name, content)
    packed = path.read_bytes()
    middle = packed.index(PLAIN["pear/2.png"]) + 200
    path.write_bytes(packed[:middle] + bytes([packed[middle] ^ 255]) + packed[middle + 1 :])
    with pytest.raises(DataError, match=r"can't read the archive .*CRC"):
        read_tree(path)


def test_a_page_in_place_of_an_archive_is_refused(tmp_path: Path) -> None:
    for name in ("1.tgz", "1.zip"):
        (tmp_path / name).write_text("<html>please log in</html>")
        with pytest.raises(DataError, match=r"can't read the archive .*Archives are .tgz, .tar.gz, .tar, .zip"):
            read_tree(tmp_path / name)


def test_compression_is_seen_from_the_content(tmp_path: Path) -> None:
    write_tar(tmp_path / "1.tar", PLAIN).rename(tmp_path / "1.tgz")
    assert keys(read_tree(tmp_path / "1.tgz")) == KEYS


# ---- options


def test_the_folder_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "images", PLAIN)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ("~/images", "images", str(tmp_path / "images")):
        options = folder.Options.model_validate({"name": "folder", "path": path, "classes": ["pear", "apple"]})
        assert "~" not in str(options.path)
        source = folder.load(options)
        assert source.classes == ("pear", "apple")
        assert keys(source) == KEYS


def test_a_path_must_exist_and_be_of_a_known_kind(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"there is no /.*gone; give a folder or an archive"):
        folder.Options(name="folder", path=tmp_path / "gone")
    (tmp_path / "images.rar").write_bytes(b"")
    with pytest.raises(ValidationError, match=r"images.rar is not a folder or an archive \(.tgz, .*.zip\); give one"):
        folder.Options(name="folder", path=tmp_path / "images.rar")
    with pytest.raises(ValidationError, match="Field required"):
        folder.Options.model_validate({"name": "folder"})


def test_chosen_classes_stand_once(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="a class is listed twice"):
        folder.Options(name="folder", path=tmp_path, classes=("pear", "pear"))
    with pytest.raises(ValidationError, match="at least 2 items"):
        folder.Options(name="folder", path=tmp_path, classes=("pear",))


def test_classes_may_be_numbers(tmp_path: Path) -> None:
    write_folder(tmp_path, tree("7/1.png", "8/1.png", "9/1.png"))
    options = folder.Options.model_validate({"name": "folder", "path": tmp_path, "classes": [9, 7]})
    assert folder.load(options).classes == ("9", "7")


def test_bytes_of_an_archive_are_images(tmp_path: Path) -> None:
    from PIL import Image

    source = read_tree(write_zip(tmp_path / "1.zip", PLAIN))
    assert isinstance(source.images[0].content, bytes)
    assert Image.open(io.BytesIO(source.images[0].content)).size == (40, 30)


def test_keys_do_not_depend_on_how_they_were_found(tmp_path: Path) -> None:
    reverse = dict(reversed(PLAIN.items()))
    decomposed = {unicodedata.normalize("NFD", name): content for name, content in PLAIN.items()}
    sources = [
        read_tree(write_zip(tmp_path / f"{number}.zip", content))
        for number, content in enumerate((PLAIN, reverse, decomposed))
    ]
    assert sources[0] == sources[1] == sources[2]
