"""Arrays on disk, mapped into memory, whose room on the disk is taken at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

#: Of an OSError: there is no room, or the user may take no more of it.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def new_array(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> np.memmap:
    """An .npy file of zeros, to be written to. Without its room taken now, the lack of it later would be a signal
    that ends the process.

    Raises:
        OSError: one of NO_ROOM, or the file can't be made.
    """
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return mapped
