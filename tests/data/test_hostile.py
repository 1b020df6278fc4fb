"""Malicious data, through the real path: each input is decoded correctly, refused by name, or ignored.

Whatever it is, nothing is written outside the cache, nothing incomplete stays in it, every failure is one of cnnstudy's
own errors, and time and memory stay bounded.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import call

from cnnstudy.data import archives
from cnnstudy.data.datasets.folder import Options
from cnnstudy.data.images import open_decoded, prepare_images
from cnnstudy.errors import DataError
from cnnstudy.execution import Job
from cnnstudy.execution.jobs import run_job
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.records import PreparedImages, Split
from cnnstudy.system.display import SilentDisplay

from . import hostile_images
from .hostile_archives import ARCHIVES, GOOD
from .hostile_headers import HEADERS
from .hostile_images import Odd
from .hostile_members import MEMBERS
from .samples import picture, write_folder, write_tar

IMAGES = [*hostile_images.IMAGES, *HEADERS]
ALL_ARCHIVES: dict[str, tuple[Callable[[Path], Path], str | list[str]]] = {**ARCHIVES, **MEMBERS}
SPLIT = Split(0.15, 0.15, 0)
MOST_SECONDS = 60  # for one input on a busy machine; what is not bounded takes minutes or never ends
MOST_MEGABYTES = 700  # that the reading process may grow by


def entries(root: Path, apart: Path) -> dict[str, tuple[int, ...]]:
    """Return kind, size and modification time of all entries below a folder except one; links are not followed."""
    found = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name) != apart]
        for name in [*folders, *files]:
            status = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def peak(process: int | str = "self") -> int:
    """MB of memory that a process had at most since the last call; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
        Path(f"/proc/{process}/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return 0
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def children() -> set[str]:
    """The processes that this one has started and that have not ended; none where the system does not tell."""
    return {child for task in Path("/proc/self/task").glob("*/children") for child in task.read_text().split()}


@pytest.fixture(autouse=True)
def nothing_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Checks after each test; call it once the input is made, for what comes then must change nothing."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("CNNSTUDY_CACHE", str(cache))
    for name in ("here", "temporary", "input"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "canary").write_text("sings")
    before: list[Any] = []
    yield lambda: before.extend([entries(tmp_path, cache), peak() and peak(), time.monotonic(), children()])
    tree, memory, started, processes = before
    assert children() <= processes, "a process was left"
    assert time.monotonic() - started < MOST_SECONDS
    assert peak() - memory < MOST_MEGABYTES
    assert entries(tmp_path, cache) == tree
    for entry in (cache / "images").iterdir() if (cache / "images").exists() else ():
        assert not entry.name.startswith("."), "half an entry was left"
        assert entry.suffix == ".lock" or {file.name for file in entry.iterdir()} >= {"images.npy", "index.json"}


def ready(path: Path, **settings: Any) -> PreparedImages:
    options = Options.model_validate({"name": "folder", "path": path, **settings})
    return prepare_images(options, [32], SPLIT.seed, lambda *_: None)[0]


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        ready(path, **settings)
    assert caught.value.exit_code == 3
    text = str(caught.value)
    assert "Traceback" not in text
    assert text.replace("\n", "").isprintable(), "a name could steer the terminal"
    return text


# ---- image files, all in one data set: what one of them is must not matter to the others


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PreparedImages, str]]:
    """Return what a worker prepares if bad images are skipped, and its message if they are refused."""
    folder = tmp_path_factory.mktemp("images")
    write_folder(folder / "data", GOOD | {f"pear/{odd.name}": odd.content for odd in IMAGES})
    (folder / "data" / "pear" / "sparse.jpg").touch()
    os.truncate(folder / "data" / "pear" / "sparse.jpg", 100 * 2**30)
    with pytest.MonkeyPatch.context() as patch, contextlib.closing(LocalExecutor(1, folder / "trials")) as executor:
        patch.setenv("CNNSTUDY_CACHE", str(folder / "cache"))

        def result(bad_images: str) -> Any:
            options = Options(name="folder", path=folder / "data", bad_images=bad_images)  # type: ignore[arg-type]
            payload = {"options": options.model_dump(mode="json"), "sizes": [32], "split_seed": SPLIT.seed}
            return run_job(executor, Job("images", "prepare_images", payload), SilentDisplay())

        before = entries(folder, folder / "cache")
        (prepared,) = result("skip")
        with pytest.raises(DataError) as caught:
            result("refuse")
        assert entries(folder, folder / "cache") == before
        assert peak(executor._idle[0]._process.pid) < MOST_MEGABYTES
    yield PreparedImages.from_json(prepared), str(caught.value)
    shutil.rmtree(folder)


def test_there_are_many_inputs(nothing_escapes: Callable[[], None]) -> None:
    nothing_escapes()
    assert len({odd.name for odd in IMAGES} | set(ALL_ARCHIVES) | set(IN_FOLDERS) | set(LABELS)) >= 250
    refused = [odd for odd in IMAGES if odd.refused]
    named = [becomes for _, becomes in (*ALL_ARCHIVES.values(), *IN_FOLDERS.values()) if isinstance(becomes, str)]
    assert len(refused) + len(list(filter(None, named))) + len(LABELS) >= 150


@pytest.mark.parametrize("odd", [odd for odd in IMAGES if not odd.refused], ids=lambda odd: ascii(odd.name[:40]))
def test_odd_images_are_decoded_right(
    odd: Odd, outcome: tuple[PreparedImages, str], nothing_escapes: Callable[[], None]
) -> None:
    nothing_escapes()
    decoded = open_decoded(outcome[0])
    place = decoded.keys.index(f"pear/{odd.name}")
    assert place in decoded.usable
    assert odd.pixels is not None
    assert np.abs(decoded.pixels[place].astype(int) - odd.pixels).max() <= odd.tolerance


@pytest.mark.parametrize("odd", [odd for odd in IMAGES if odd.refused], ids=lambda odd: odd.name)
def test_bad_images_are_named_with_the_reason(
    odd: Odd, outcome: tuple[PreparedImages, str], nothing_escapes: Callable[[], None]
) -> None:
    nothing_escapes()
    (bad,) = [bad for bad in outcome[0].skipped if bad.path == f"pear/{odd.name}"]
    assert odd.refused in bad.reason
    decoded = open_decoded(outcome[0])
    assert decoded.keys.index(f"pear/{odd.name}") not in decoded.usable


def test_bad_images_are_refused_before_any_training(
    outcome: tuple[PreparedImages, str], nothing_escapes: Callable[[], None]
) -> None:
    nothing_escapes()
    bad = [odd for odd in IMAGES if odd.refused]
    assert len(outcome[0].skipped) == len(bad) + 1
    assert "pear/sparse.jpg: a file of 107,374,182,400 bytes; the most is 536,870,912" in map(str, outcome[0].skipped)
    head, *lines = outcome[1].splitlines()
    assert head == f"{len(bad) + 1} of {len(IMAGES) + 13} images of folder can't be used:"
    assert lines[20:] == [f"  and {len(bad) - 19} more", lines[-1]]
    assert "Traceback" not in outcome[1]


def test_a_command_says_it_and_exits(tmp_path: Path, nothing_escapes: Callable[[], None]) -> None:
    write_folder(tmp_path / "input", GOOD | {"pear/\x1b[2J\nodd.jpg": b"%!PS"})
    (tmp_path / "here" / "probe.yaml").write_text(
        "name: probe\ndata: {name: folder, path: ../input}\nimage_size: 64\narchitectures: [alexnet]\n"
        "training: {epochs: 1}\nbudget: {trials: 1}\n"
    )
    answer = call("run-study", "probe.yaml", folder=tmp_path / "here")
    assert answer.code == 3, answer.text
    assert "Traceback" not in answer.text
    assert "  pear/\\x1b[2J\\nodd.jpg: PostScript, which is not supported; save it as JPEG or PNG" in answer.errors
    nothing_escapes()  # the command leaves its record in the folder


# ---- archives


@pytest.mark.parametrize("name", ALL_ARCHIVES)
def test_archives(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_escapes: Callable[[], None]
) -> None:
    make, becomes = ALL_ARCHIVES[name]
    path = make(tmp_path / "input")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 10_000)
    nothing_escapes()
    if isinstance(becomes, str) and becomes:
        text = refusal(path)
        assert becomes in text
        assert str(path) in text
        assert not (tmp_path / "cache" / "images").exists()
    else:
        decoded = open_decoded(ready(path))
        assert list(decoded.keys) == sorted([*GOOD, *becomes])
        assert not list(tmp_path.rglob("escaped*"))


# ---- folders


def _linked(root: Path, name: str, target: str) -> None:
    (root / name).symlink_to(target)


def _socket(root: Path) -> None:
    with contextlib.chdir(root / "pear"), socket.socket(socket.AF_UNIX) as made:  # their paths must be short
        made.bind("9.png")


def _deep(root: Path) -> None:
    write_folder(root, {f"pear/{'d/' * 150}9.png": picture(0, "PNG")})


def _files(*names: str, content: bytes | None = None) -> Callable[[Path], Any]:
    return lambda root: write_folder(root, {name: picture(9, "PNG") if content is None else content for name in names})


def _folder_like_an_image(root: Path) -> None:
    (root / "pear" / "9.png").mkdir()


#: By name: what is done to a folder of twelve good images, and the message that refuses it, or the images that it adds.
IN_FOLDERS: dict[str, tuple[Callable[[Path], Any], str | list[str]]] = {
    "hidden file": (_files("pear/._9.png", ".DS_Store", content=b"no image"), []),
    "hidden folder": (_files(".git/9.png", "pear/.thumbnails/9.png", content=b"no image"), []),
    "folders of systems": (_files("__MACOSX/pear/9.png", "pear/@eaDir/9.png", "lost+found/9.png", content=b"-"), []),
    "files of systems": (_files("pear/Thumbs.db", "pear/desktop.ini", "Icon\r", content=b"-"), []),
    "deep": (_deep, [f"pear/{'d/' * 150}9.png"]),
    "folder like an image": (_folder_like_an_image, []),
    "loop": (lambda root: _linked(root, "pear/loop", ".."), []),
    "loops of two": (lambda root: (_linked(root, "pear/a", "../apple"), _linked(root, "apple/b", "../pear")), []),
    "link to the root": (lambda root: _linked(root, "pear/all", str(root)), []),
    "link out of the folder": (lambda root: _linked(root, "pear/9.png", "../../more/9.png"), ["pear/9.png"]),
    "link to no image": (lambda root: _linked(root, "pear/9.png", "/etc/passwd"), "pear/9.png: not an image"),
    "link to nowhere": (lambda root: _linked(root, "pear/9.png", "gone.png"), "can't read {root}/pear/9.png: No such"),
    "link to itself": (lambda root: _linked(root, "pear/9.png", "9.png"), "can't read {root}/pear/9.png: Too many"),
    "class that leads nowhere": (
        lambda root: _linked(root, "quince", "gone"),
        "the link {root}/quince leads to nothing",
    ),
    "other link to nowhere": (lambda root: _linked(root, "pear/notes.txt", "gone"), []),
    "pipe": (lambda root: os.mkfifo(root / "pear" / "9.png"), []),
    "link to a device": (lambda root: _linked(root, "pear/9.png", "/dev/zero"), []),
    "socket": (_socket, []),
    "link to this process' memory": (
        lambda root: _linked(root, "pear/9.png", "/proc/self/mem"),
        "can't read {root}/pear/9.png: Input/output error",
    ),
    "bytes that are no text": (_files(os.fsdecode(b"pear/\xff9.png")), r"is not valid Unicode: 'pear/\udcff9.png'"),
    "no text beside": (_files(os.fsdecode(b"pear/\xff9.txt"), content=b"-"), []),
    "same name in another form": (
        _files("pear/\u00e4.png", "pear/a\u0308.png"),
        "have the name 'pear/\u00e4.png' once",
    ),
    "empty class": (lambda root: (root / "quince").mkdir(), "no images in {root} for 'quince'"),
    "class of one image": (_files("quince/9.png"), "class 'quince' has 1 usable image; at least 4 are"),
    "one class": (lambda root: shutil.rmtree(root / "apple"), "holds only one folder, 'pear'"),
    "no class": (lambda root: (shutil.rmtree(root / "apple"), shutil.rmtree(root / "pear")), "holds no folder"),
}


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
@pytest.mark.parametrize("forbidden", ["pear", "pear/1.png"])
def test_what_may_not_be_read_is_named(forbidden: str, tmp_path: Path, nothing_escapes: Callable[[], None]) -> None:
    root = write_folder(tmp_path / "input", GOOD)
    (root / forbidden).chmod(0)
    nothing_escapes()
    try:
        assert f"can't read {root}/{forbidden}: Permission denied" in refusal(root)
    finally:
        (root / forbidden).chmod(0o700)


@pytest.mark.parametrize("name", IN_FOLDERS)
def test_folders(name: str, tmp_path: Path, nothing_escapes: Callable[[], None]) -> None:
    root = write_folder(tmp_path / "input", GOOD)
    write_folder(tmp_path / "more", {"9.png": picture(99, "PNG")})
    change, expected = IN_FOLDERS[name]
    change(root)
    nothing_escapes()
    if isinstance(expected, str):
        assert expected.format(root=root) in refusal(root)
    else:
        decoded = open_decoded(ready(root))
        assert list(decoded.keys) == sorted([*GOOD, *expected])
        assert len(decoded.usable) == len(decoded.keys)


#: By name: two class folders that are one on some file system, or whose names no table can show.
LABELS = {
    "case": ("Pear", "pear", "differ only in upper and lower case"),
    "form": ("b\u00e4r", "ba\u0308r", r"\u0308r' and 'b\xe4r'), and are the same folder on other file systems"),
    "space": ("pear", "pear ", "in spaces or dots at the end"),
    "dot": ("pear", "pear.", "in spaces or dots at the end"),
    "sharp s": ("Strasse", "Stra\u00dfe", "differ only in upper and lower case"),
    "line break": ("pear", "two\nlines", "the name of the class folder 'two\\nlines' in"),
    "direction": ("pear", "pe\u202ear", "contains a line break or another control character"),
    "escape": ("pear", "\x1b[2J", "the name of the class folder '\\x1b[2J' in"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
@pytest.mark.parametrize("name", LABELS)
def test_class_folders(name: str, packed: bool, tmp_path: Path, nothing_escapes: Callable[[], None]) -> None:
    one, other, why = LABELS[name]
    files = {f"{label}/{number}.png": picture(number, "PNG") for label in (one, other, "sloe") for number in range(4)}
    path = write_tar(tmp_path / "input" / "1.tar", files) if packed else write_folder(tmp_path / "input", files)
    if not packed and len(list(path.iterdir())) < 3:
        pytest.skip("this file system makes one of the two names")
    nothing_escapes()
    assert why in refusal(path)
