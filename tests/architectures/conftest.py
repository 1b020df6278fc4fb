"""Networks are costly to build: each is built once and shared, so a test leaves it as it was, but for its weights."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import pytest

from cnnstudy import architectures
from cnnstudy.architectures import Network

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

Build = Callable[..., Network]


@pytest.fixture(scope="session")
def build() -> Build:
    """build(name, image_size, classes=5, dropout=0.5)"""

    @functools.cache
    def built(name: str, image_size: int, classes: int = 5, dropout: float = 0.5) -> Network:
        return architectures.build_network(architectures.find(name), image_size, classes, dropout)

    return built
