"""Small real trials: digits at the networks' smallest sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from narrow import narrow_networks

from cnnstudy.architectures import build_network, find
from cnnstudy.config.factors import complete_levels
from cnnstudy.data.datasets import find as find_data
from cnnstudy.data.images import prepare_images
from cnnstudy.records import Optimizer, PreparedImages, Rule, Split, TrialSpec
from cnnstudy.training.compiled import CompiledNetworks

from . import tries

SPLIT = Split(0.25, 0.25, 0)


@pytest.fixture(scope="session")
def narrow_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("narrow-cache")


@pytest.fixture(scope="session")
def narrow_compiled() -> CompiledNetworks:
    return CompiledNetworks()


@pytest.fixture(autouse=True)
def _narrow(request: pytest.FixtureRequest, narrow_cache: Path, narrow_compiled: CompiledNetworks) -> Iterator[None]:
    """Train narrow networks, with a cache of their own, except in tests marked full_width."""
    if request.node.get_closest_marker("full_width"):
        yield
        return
    with narrow_networks(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNSTUDY_CACHE", str(narrow_cache))
        patch.setattr(tries, "networks_of_tests", narrow_compiled)
        yield


@pytest.fixture(scope="session")
def digits() -> Callable[[int], PreparedImages]:
    """Return a function that prepares the digits 0-4 at a size in pixels: 50 training and 25 validation images."""
    options = find_data("digits").Options(
        name="digits", classes=(0, 1, 2, 3, 4), images_per_class=20, validation=0.25, test=0.25
    )
    return lambda size: prepare_images(options, [size], 0, lambda *_: None)[0]


@pytest.fixture
def make_spec(digits: Callable[[int], PreparedImages]) -> Callable[..., TrialSpec]:
    """Return a function that makes a trial's specification from levels and fields by name."""

    def make(architecture: str = "alexnet", weights: Path | None = None, **given: Any) -> TrialSpec:
        found = find(architecture)
        fields = {name: given.pop(name) for name in list(given) if name in TrialSpec.__dataclass_fields__}
        levels = complete_levels(found.has_auxiliary_heads, found.defaults, lambda factor: given.get(factor.name))
        return TrialSpec(
            **{
                "study": "test",
                "purpose": "trial",
                "architecture": architecture,
                "number": 0,
                "seed": 0,
                "levels": levels,
                "images": digits(found.minimum_size),
                "split": SPLIT,
                "epochs": 2,
                "head_epochs": 1,
                "patience": None,
                "rule": Rule("val/accuracy"),
                "optimizer": Optimizer("adam"),
                "weights_source": "file" if weights else "none",
                "weights_file": str(weights) if weights else None,
                **fields,
            }
        )

    return make


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write source weights of AlexNet, initialised from another seed."""
    from cnnstudy.training import weights

    network = build_network(find("alexnet"), 64, 5, 0.5)
    weights.initialise(network, 99)
    weights.save_backbone(network, tmp_path / "backbone.npz")
    return tmp_path / "backbone.npz"
