"""Files that large contents go to in pieces."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: Bytes that one call writes. In calls of 4 MB and more, 71 MB took 0.19 s instead of 0.014 (Linux 6.18, ext4, in a
#: virtual machine).
PIECE = 1 << 20


class InPieces(io.BufferedWriter):
    """A new file, open for writing; as text it is its path."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))
        self._path = path

    def __str__(self) -> str:
        return str(self._path)  # Keras knows by its end what it is to write

    def write(self, content: ReadableBuffer) -> int:
        """All of it; how many bytes that were."""
        whole = memoryview(content).cast("B")
        for start in range(0, len(whole), PIECE):
            super().write(whole[start : start + PIECE])
        return len(whole)
