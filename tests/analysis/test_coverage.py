"""Coverage of the intervals: a few scenarios of benchmarks/coverage.py, with fewer studies."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

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
        ("3 seeds, balanced", 0.6),
        ("5 seeds, 2^3, 6.6 points", 0.75),
        ("3 seeds, accuracy of 160 images", 0.35),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(coverage: ModuleType, scenario: str, power: float) -> None:
    found = rates_of(coverage, scenario, 50)
    # 50 studies of 2 planted effects: a standard error of 2.2 %
    assert 0.89 <= found.main <= 1
    assert found.false <= 0.12
    assert found.wrong <= 0.02
    assert found.power >= power
    assert abs(found.repeats - found.repeated) < 0.12


@pytest.mark.parametrize(
    "scenario",
    [
        "3 seeds, half of 2^3, interaction",
        "5 seeds, worst trials dropped, no effects",
        "2 seeds, probes of 25 images",
        "3 seeds, 3 networks, no effects",
    ],
)
def test_there_are_few_false_causes(coverage: ModuleType, scenario: str) -> None:
    found = rates_of(coverage, scenario, 25)
    assert found.false <= 0.12
    assert found.wrong <= 0.04
    assert math.isnan(found.allowed) or found.allowed >= 0.9


def rates_of(coverage: ModuleType, scenario: str, count: int) -> Any:
    (chosen,) = [one for one in coverage.SCENARIOS if one.name == scenario]
    return coverage.rates(chosen, count, np.random.default_rng(1))
