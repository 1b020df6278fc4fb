"""Adds the network of tests/networks/ to those that cnnstudy finds by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cnnstudy import architectures

NAME = "normalised"
FOLDER = str(Path(__file__).parent / "networks")
#: Parameters at 5 classes: kernels, scales and offsets, the head; and the means and variances of two normalisations.
BACKBONE = (27 * 8 + 2 * 8) + (9 * 8 + 2 * 8) + (8 * 16 + 2 * 16)
HEAD = 16 * 12 + (12 + 1) * 5
STATISTICS = 4 * 8


@contextmanager
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "__path__", [*architectures.__path__, FOLDER])
        yield
