"""Coverage of the intervals: a few scenarios of benchmarks/coverage.py, with fewer studies."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def coverage(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    # another package has that name too
    spec = importlib.util.spec_from_file_location("benchmark_of_coverage", BENCHMARKS / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("scenario", "power"),
    [
        ("3 seeds, balanced", 0.75),
        ("3 seeds, two factors act differently by seed", 0.45),
        ("all at once: 3 seeds, 3 levels, 13 % missing, unequal, by seed, 160 images", 0.4),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(coverage: ModuleType, scenario: str, power: float) -> None:
    (chosen,) = [one for one in coverage.SCENARIOS if one.name == scenario]
    found = coverage.rates(chosen, 200, np.random.default_rng(1))
    # 200 studies of 2 planted effects and more: a standard error of 1 %
    assert 0.93 <= found.main <= 0.97
    assert np.isnan(found.interactions) or 0.92 <= found.interactions <= 0.98
    assert found.silent >= 0.93
    assert found.quiet >= 0.9
    assert found.power >= power
