"""The networks with an eighth of their channels and units, for tests that ask how a network is trained.

Layers, names, shapes of images and what is traced are those of the real networks; only the arithmetic is less.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cnnstudy import architectures
from cnnstudy.architectures import Architecture, Outputs

DIVISOR = 8
LEAST = 8


def _fewer(layer: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes that layer with fewer channels or units; those of the classes stay."""

    def make(width: int, *given: Any, **named: Any) -> Any:
        keep = str(named.get("name", "")).endswith("logits")
        return layer(width if keep else max(LEAST, width // DIVISOR), *given, **named)

    return make


def _narrow(architecture: Architecture) -> Architecture:
    def build(*given: Any) -> Outputs:
        from keras import layers
        from keras.src import layers as layers_of_applications  # VGG16 is Keras' own

        with pytest.MonkeyPatch.context() as patch:
            for kind in ("Conv2D", "Dense"):
                narrow = _fewer(getattr(layers, kind))
                patch.setattr(layers, kind, narrow)
                patch.setattr(layers_of_applications, kind, narrow)
            return architecture.build(*given)

    return dataclasses.replace(architecture, build=build)


@contextmanager
def narrow_networks() -> Iterator[None]:
    """Make cnnstudy find the narrow networks in this process during the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name in architectures.names():
            module = importlib.import_module(f"cnnstudy.architectures.{name}")
            patch.setattr(module, "ARCHITECTURE", _narrow(module.ARCHITECTURE))
        yield
