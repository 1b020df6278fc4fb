"""Hard-linked folders, and files that are written whole."""

from __future__ import annotations

import errno
import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cnnstudy.system import files
from cnnstudy.system.files import hardlink_tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text("about it")
    (folder / "data" / "model.keras").write_bytes(b"weights")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("durable", [False, True])
def test_files_are_the_same_ones(source: Path, tmp_path: Path, durable: bool) -> None:
    hardlink_tree(source, tmp_path / "target", durable)
    assert contents(tmp_path / "target") == contents(source)
    for name in contents(source):
        assert (tmp_path / "target" / name).samefile(source / name)


def test_the_target_outlives_the_source(source: Path, tmp_path: Path) -> None:
    before = contents(source)
    hardlink_tree(source, tmp_path / "target")
    for name in before:
        (source / name).unlink()
    assert contents(tmp_path / "target") == before


def test_what_an_interrupted_try_left_gives_way(source: Path, tmp_path: Path) -> None:
    """Files cut off, the same links again, and files that others have laid there."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "MLmodel").write_text("ab")
    (target / "other").write_text("stays")
    for _ in range(2):
        hardlink_tree(source, target)
        assert contents(target) == {**contents(source), "other": b"stays"}


def test_folders_get_the_rights_of_new_ones_not_those_of_the_source(source: Path, tmp_path: Path) -> None:
    """The source lies in a folder for this process alone; a store is for all who may look into it."""
    for folder in (source, source / "data"):
        folder.chmod(0o700)
    hardlink_tree(source, tmp_path / "target")
    (tmp_path / "new").mkdir()
    for folder in (tmp_path / "target", tmp_path / "target" / "data"):
        assert folder.stat().st_mode == (tmp_path / "new").stat().st_mode


def setgid(store: Path) -> None:
    store.chmod(0o2755)


def default_access(store: Path) -> None:
    """As `setfacl -d -m u::rwx,g::rwx,o::---`: the layout of Linux' posix_acl_xattr.h."""
    entries = [(0x01, 7), (0x04, 7), (0x20, 0)]
    given = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, rights, 0xFFFFFFFF) for tag, rights in entries)
    try:
        os.setxattr(store, "system.posix_acl_default", given)
    except (AttributeError, OSError) as reason:
        pytest.skip(f"no access control lists here: {reason}")


@pytest.mark.parametrize("give", [setgid, default_access])
def test_where_new_files_get_other_rights_they_are_copied(
    source: Path, tmp_path: Path, give: Callable[[Path], None]
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    give(store)
    for _ in range(2):
        hardlink_tree(source, store / "target")
        assert contents(store / "target") == contents(source)
        (store / "new").unlink(missing_ok=True)
        (store / "new").write_bytes(b"")
        new = (store / "new").stat()
        for name in contents(source):
            file = store / "target" / name
            assert not file.samefile(source / name)
            assert (file.stat().st_gid, file.stat().st_mode) == (new.st_gid, new.st_mode)


def test_a_link_of_before_is_not_written_into(source: Path, tmp_path: Path) -> None:
    """The store gets its setgid bit between two tries."""
    target = tmp_path / "target"
    hardlink_tree(source, target)
    (source / "MLmodel").unlink()
    (source / "MLmodel").write_text("another")
    other = tmp_path / "other"
    os.link(target / "MLmodel", other)
    setgid(target)
    hardlink_tree(source, target)
    assert (target / "MLmodel").read_text() == "another"
    assert other.read_text() == "about it"


@pytest.mark.parametrize("reason", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_where_nothing_can_be_linked_it_is_copied(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def no_link(source: str, target: str) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "link", no_link)
    for _ in range(2):
        hardlink_tree(source, tmp_path / "target", durable=True)
        assert contents(tmp_path / "target") == contents(source)
        assert not (tmp_path / "target" / "MLmodel").samefile(source / "MLmodel")


# ---- files that a user asked for


def test_a_file_is_written_whole_and_keeps_its_rights(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    files.write_whole(file, "one\r\n")
    assert file.read_bytes() == b"one\r\n"
    file.chmod(0o640)
    files.write_whole(file, "two, \u00e4 \udcff")
    assert file.read_bytes() == b"two, \xc3\xa4 \\udcff"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_on_a_full_disk_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = tmp_path / "a.csv"
    files.write_whole(file, "good")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(file, "x" * 100_000)
    assert file.read_text() == "good"
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    """Kill a process between writing and renaming."""
    file = tmp_path / "a.csv"
    code = (
        "import os, signal, sys; from pathlib import Path; from cnnstudy.system import files\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_whole(Path(sys.argv[1]), 'half')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)], check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    living = left.with_name(left.name.replace(left.name.split(".")[-2], str(os.getppid())))
    living.write_text("of another")
    files.write_whole(file, "whole")
    assert sorted(tmp_path.iterdir()) == sorted([file, living])
    assert (file.read_text(), living.read_text()) == ("whole", "of another")


def test_a_link_stays_one_and_a_device_is_written_to(tmp_path: Path) -> None:
    file, link = tmp_path / "a.csv", tmp_path / "link.csv"
    link.symlink_to(file)
    for text in ("new", "newer"):
        files.write_whole(link, text)
        assert (link.is_symlink(), file.read_text()) == (True, text)
    files.write_whole(Path(os.devnull), "gone")
    assert not Path(os.devnull).is_file()
    with pytest.raises(IsADirectoryError):
        files.write_whole(tmp_path, "text")


def test_a_name_of_any_length(tmp_path: Path) -> None:
    file = tmp_path / ("a" * 255)
    files.write_whole(file, "text")
    assert file.read_text() == "text"
