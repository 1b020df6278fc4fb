"""A dry run estimates a study without training a trial or recording anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fake_executor import FakeExecutor
from pictures import leave_out_pictures

from cnnstudy.config.load import load_study
from cnnstudy.execution import Workers
from cnnstudy.study import forecast
from cnnstudy.study.dry_run import plan_study
from cnnstudy.study.run import run_study
from cnnstudy.system import cache
from cnnstudy.system.cache import entry_folder
from cnnstudy.system.display import PlainDisplay, SilentDisplay
from cnnstudy.tracking.client import Tracker

FILE = """
name: fake
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {batch_size: [8, 16, 32], dropout: {low: 0.1, high: 0.7}, transfer: [scratch, frozen]}
weights: {default: {source: pretrain, epochs: 2, data: {name: digits, classes: [3, 4]}}}
training: {epochs: 2}
budget: {trials: 6}
"""


class Desk:
    def __init__(self, folder: Path, tracker: Tracker) -> None:
        self.tracker, self.file = tracker, folder / "fake.yaml"
        self.file.write_text(FILE, encoding="utf-8")
        self.executor: FakeExecutor | None = None

    def make(self) -> Workers:
        self.executor = None

        def make(folder: Path) -> FakeExecutor:
            self.executor = FakeExecutor(folder)
            return self.executor

        return Workers(make)

    def plan(self, *overrides: str) -> list[str]:
        said: list[str] = []
        plan_study(load_study(str(self.file), overrides), self.tracker, self.make(), PlainDisplay(said.append))
        return said

    @property
    def kinds(self) -> set[str]:
        return set() if self.executor is None else {job.kind for job in self.executor.jobs}


@pytest.fixture
def desk(own_places: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Desk:
    leave_out_pictures(monkeypatch)
    return Desk(own_places, tracker)


def test_a_search_is_told_and_nothing_is_trained_or_recorded(desk: Desk) -> None:
    said = desk.plan()
    assert said[0] == "search: study fake, 1 network, 6 trials (0 recorded, 6 to run)"
    assert said[1] == "  batch size 8, 16, 32; dropout 0.1 to 0.7; transfer scratch, frozen"
    assert not any("different combination" in line for line in said)
    (told,) = [line for line in said if line.startswith("  about ")]
    assert "alexnet scratch" in told
    assert "alexnet frozen" in told
    assert "of disk" in told
    assert any(line.endswith(" of these pretrain source weights: alexnet once") for line in said)
    assert desk.kinds == {"prepare_images", "measure_speed"}
    assert desk.tracker.studies() == []


@pytest.mark.parametrize(
    "setting", ["strategy.pruner=median", "training.early_stopping=1", "training.until_train_loss=0.1"]
)
def test_trials_that_may_end_early_take_at_most_so_long(desk: Desk, setting: str) -> None:
    assert [line for line in desk.plan() if line.startswith("  less where")] == []
    assert "  less where trials are pruned or stop before their last epoch" in desk.plan(setting)


def test_what_is_recorded_is_not_counted_again(desk: Desk) -> None:
    run_study(load_study(str(desk.file), ["budget.trials=4"]), desk.tracker, desk.make(), SilentDisplay())
    assert desk.plan()[0] == "search: study fake, 1 network, 6 trials (4 recorded, 2 to run)"
    assert desk.plan("budget.trials=4")[0] == "search: study fake, 1 network, 4 trials (4 recorded, 0 to run)"
    assert desk.executor is None


def test_combinations_that_must_repeat_are_told_when_a_search_starts_too(desk: Desk) -> None:
    few = ("factors.dropout=0.5", "factors.transfer=scratch", "weights={}", "budget.trials=5")
    told = "  at most 3 different combinations; at least 2 trials repeat an earlier one with another seed"
    assert told in desk.plan(*few)
    said: list[str] = []
    run_study(load_study(str(desk.file), few), desk.tracker, desk.make(), PlainDisplay(said.append))
    start = said.index("search: study fake, 1 network, 5 trials (0 recorded, 5 to run)")
    assert said[start + 1 : start + 3] == ["  batch size 8, 16, 32", told]


def test_nothing_need_be_recorded_anywhere(desk: Desk) -> None:
    said: list[str] = []
    plan_study(load_study(str(desk.file)), None, desk.make(), PlainDisplay(said.append))
    assert said[0].endswith("(0 recorded, 6 to run)")


@pytest.mark.parametrize("more", [[], ["confirm={top: 2, seeds: 3}"]])
def test_a_factorial_and_its_confirmation(desk: Desk, more: list[Any]) -> None:
    factorial = ["strategy={kind: factorial, seeds: 2}", "budget=", "factors.dropout=0.5", *more]
    said = desk.plan(*factorial)
    assert said[0] == "factorial: 1 network x 6 cells x 2 seeds = 12 trials (0 recorded, 12 to run)"
    confirming = [line for line in said if "plus 2 x 3 trials to confirm" in line]
    assert len(confirming) == len(more)
    assert all(line.endswith("; source weights are pretrained for each of these seeds too") for line in confirming)
    told = " of these pretrain source weights: alexnet"
    assert any(line.endswith(f"{told} 2 times (each seed has its own)") for line in said)
    assert any(line.endswith(f"{told} once") for line in desk.plan(*factorial, "weights.default.draws=one"))
    assert not any(told in line for line in desk.plan(*factorial, "factors.transfer=scratch"))
    assert "measure_speed" in desk.kinds
    assert "run_trial" not in desk.kinds


def run_with(desk: Desk, *overrides: str) -> list[str]:
    said: list[str] = []
    run_study(load_study(str(desk.file), overrides), desk.tracker, desk.make(), PlainDisplay(said.append))
    return [line for line in said if line.startswith("the trials took ")]


def forecast_tags(desk: Desk) -> dict[str, str]:
    tags = desk.tracker.tags(desk.tracker.study("fake").run_id)
    return {name: of for name, of in tags.items() if name.startswith("cnnstudy.seconds_")}


def test_what_was_foretold_is_told_beside_what_it_took(desk: Desk) -> None:
    desk.plan()
    (told,) = run_with(desk)
    assert re.fullmatch(r"the trials took \d+ s; the estimate was .* \([+-]\d+ %\)", told)
    tags = forecast_tags(desk)
    assert set(tags) == {"cnnstudy.seconds_foretold", "cnnstudy.seconds_taken"}
    assert 0 < float(tags["cnnstudy.seconds_taken"]) < 60
    assert float(tags["cnnstudy.seconds_foretold"]) > 0


def test_what_was_foretold_of_another_study_is_not(desk: Desk) -> None:
    desk.plan("training.epochs=3")
    desk.plan("budget.trials=5")
    assert run_with(desk) == []
    assert forecast_tags(desk) == {}


def test_a_factorial_measures_what_it_is_compared_with(desk: Desk) -> None:
    assert len(run_with(desk, "strategy={kind: factorial, seeds: 2}", "budget=", "factors.dropout=0.5")) == 1
    assert len(forecast_tags(desk)) == 2


def test_the_newest_forecast_counts_once(desk: Desk) -> None:
    config = load_study(str(desk.file), []).config
    for seconds in (7.0, 90.0):
        forecast.save_estimate(config, 6, 2, seconds)
    (entry,) = cache.list_entries("forecasts")
    assert entry.about == "6 trials of study fake: 1 min 30 s estimated"
    asked = ((6, 1), (5, 2), (6, 2), (6, 2))
    assert [forecast.pop_estimate(config, *given) for given in asked] == [None, None, 90.0, None]
    assert cache.list_entries("forecasts") == []


@pytest.mark.parametrize("broken", ["", '"much"', "[1]"])
def test_a_broken_forecast_is_none(desk: Desk, broken: str) -> None:
    config = load_study(str(desk.file), []).config
    forecast.save_estimate(config, 6, 2, 7.0)
    (entry,) = cache.list_entries("forecasts")
    (file,) = (entry_folder("forecasts", entry.address)).glob("*.json")
    file.write_text(broken)
    assert forecast.pop_estimate(config, 6, 2) is None


def test_a_cache_that_takes_no_forecast_is_no_matter(desk: Desk, own_places: Path) -> None:
    (own_places / "cache").mkdir()
    (own_places / "cache" / "forecasts").write_text("no folder")
    assert any("measured: " in line for line in desk.plan())


def test_few_validation_images_are_warned_of(desk: Desk) -> None:
    (said,) = [line for line in desk.plan() if "validation images are too few" in line]
    assert said.startswith("  12 validation images are too few for the verdict `fit`: that takes at least 59")
