"""Files that are written in chunks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cnnstudy.system import files
from cnnstudy.system.files import ChunkedWriter


@pytest.mark.parametrize(
    "size", [0, 1, files.CHUNK_BYTES - 1, files.CHUNK_BYTES, files.CHUNK_BYTES + 1, 3 * files.CHUNK_BYTES + 7]
)
def test_all_of_it_arrives(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    with ChunkedWriter(tmp_path / "file") as file:
        assert file.write(b"before ") == 7
        assert file.write(content) == size
        assert file.write(memoryview(content)[:5]) == min(5, size)
        file.seek(0)
        file.write(b"BEFORE")
    assert (tmp_path / "file").read_bytes() == b"BEFORE " + content + content[:5]


def test_no_call_of_the_system_gets_more_than_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    class Counted(files.io.FileIO):
        def write(self, content: memoryview) -> int:  # type: ignore[override]
            written.append(len(content))
            return super().write(content)

    monkeypatch.setattr(files.io, "FileIO", Counted)
    array = np.arange(1 << 20, dtype=np.float32).reshape(1024, 1024)
    with ChunkedWriter(tmp_path / "file.npz") as file:
        np.savez(file, array=array, turned=array.T)
    assert sum(written) > 2 * array.nbytes
    assert max(written) <= files.CHUNK_BYTES
    with np.load(tmp_path / "file.npz") as loaded:
        assert (loaded["array"] == array).all()
        assert (loaded["turned"] == array.T).all()


def test_a_file_that_was_there_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"something longer")
    with ChunkedWriter(tmp_path / "file") as file:
        file.write(b"short")
        assert str(file) == str(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"short"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ChunkedWriter(tmp_path / "nowhere" / "file")
