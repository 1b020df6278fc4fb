"""When a study that stops once its question is answered stops, and that its intervals and tests hold then."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from simulated import Simulated

from cnnstudy.analysis import interim
from cnnstudy.analysis.causes import analyze_networks
from cnnstudy.analysis.interim import decide
from cnnstudy.analysis.looks import Looks
from cnnstudy.analysis.stopping import Decision, recorded_looks
from cnnstudy.tracking.recorded import RecordedRun

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def simulated(seeds: int = 4, most: int = 12, precision: float | None = None, **more: object) -> Simulated:
    strategy = {"least_seeds": 3, "precision": precision, "seeds": most}
    return Simulated(seeds=seeds, strategy=strategy, **more)  # type: ignore[arg-type]


def test_told_and_known_effects_end_it() -> None:
    made = simulated(precision=0.03)
    found = decide(made.study.config, made.trials)
    assert found.stop
    assert (
        "4 of at most 12 have run, look 2: it stops. Of 5 answers: 3 told; 2 not told, but known to 3 points either "
        "way." in found.sentence
    )


def test_an_effect_that_seeds_may_still_tell_keeps_it_going() -> None:
    # the effects of 4 to 15 points are within two standard errors of 0
    made = simulated(noise=0.12)
    found = decide(made.study.config, made.trials)
    assert not found.stop
    assert "look 2: it goes on" in found.sentence
    assert " open" in found.sentence


def test_what_seeds_would_hardly_tell_is_not_waited_for_unless_it_is_to_be_known_well() -> None:
    nothing: dict[str, dict[object, float]] = {}
    given = {"seeds": 11, "most": 12, "noise": 0.02, "effects": nothing, "random": 3}
    told = decide(simulated(**given).study.config, simulated(**given).trials)  # type: ignore[arg-type]
    assert told.stop
    assert "5 unlikely to be told with all 12 seeds" in told.sentence
    waits = simulated(**given, precision=0.009)  # type: ignore[arg-type]
    found = decide(waits.study.config, waits.trials)
    assert "unlikely" not in found.sentence, "with all seeds, intervals are as narrow as that"


def test_it_stops_neither_before_the_first_look_nor_after_the_last() -> None:
    early = simulated(seeds=2)
    found = decide(early.study.config, early.trials)
    assert (found.stop, "the first look is after 3" in found.sentence) == (False, True)
    late = simulated(seeds=4, most=4, noise=0.2)
    found = decide(late.study.config, late.trials)
    assert (found.stop, "all seeds have run" in found.sentence) == (True, True)


def test_the_driver_is_told_what_effects_and_report_say(monkeypatch: pytest.MonkeyPatch) -> None:
    made = simulated(architectures=("alexnet", "vgg16"), noise=0.05)
    shown = analyze_networks(made.study, made.trials, made.history, 0.05)[0].question
    asked = {"config": made.study.config, "trials": [dataclasses.asdict(run) for run in made.trials]}
    answered = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asked)))
    monkeypatch.setattr(sys, "stdout", answered)
    interim.main()
    told = Decision(**json.loads(answered.getvalue()))
    assert told.sentence == shown.progress
    assert "Of 11 answers" in told.sentence, "those of both networks, and their difference"
    assert told.sentence in shown.sentence()


def test_a_seed_that_failed_has_run_too() -> None:
    made = simulated(seeds=3)
    lost = [dataclasses.replace(run, state="failed", reason="data") if run.seed == 2 else run for run in made.trials]
    running = RecordedRun("r", "r", "trial", "running", "", 0, {}, {}, {"cnnstudy.seed": "9"})
    assert recorded_looks(made.study.config, [*lost, running]) == Looks(12, 3)
    assert recorded_looks(Simulated().study.config, made.trials) is None


@pytest.mark.thorough
def test_intervals_hold_when_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    spec = importlib.util.spec_from_file_location("benchmark_of_stopping", BENCHMARKS / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    found = module.stopped_rates("5 seeds, balanced", None, 40, np.random.default_rng(3))
    assert found.covered >= 0.92
    assert found.false <= 0.125
    assert found.wrong == 0
    assert found.power >= 0.9
    assert found.seeds < 8


@pytest.mark.thorough
def test_pairing_images_adds_nothing_and_late_epochs_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import paired_images

    scenario, rng = paired_images.Scenario(), np.random.default_rng(1)
    held, width = dict.fromkeys(paired_images.WAYS, 0), dict.fromkeys(paired_images.WAYS, 0.0)
    for _ in range(150):
        right, images, truth = paired_images.simulate(scenario, rng)
        for way, (middle, half) in paired_images.intervals(right, images).items():
            held[way] += abs(middle - truth) <= half
            width[way] += half
    assert held["accuracies"] >= 135
    assert held["late epochs"] >= 135
    assert width["image by image"] > width["accuracies"]
    assert width["late epochs"] < 0.85 * width["accuracies"]
