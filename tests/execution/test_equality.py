"""A trial comes to the same in every call: with one worker or two, in a fresh worker or one that has trained before."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cnnstudy import architectures
from cnnstudy.config.factors import complete_levels
from cnnstudy.data.datasets.digits import Options
from cnnstudy.data.images import prepare_images
from cnnstudy.execution import Done, Epoch, Failed, Job
from cnnstudy.execution.local import WORKER, LocalExecutor
from cnnstudy.records import Optimizer, Rule, Split, TrialSpec
from cnnstudy.system.cache import entry_folders

#: By trial, the metrics of every epoch and of the best one's weights, without the seconds.
Found = dict[str, list[dict[str, float]]]
#: How far apart losses and accuracies may be where the number of threads differs: sums are rounded in another order,
#: and a dozen updates carry that on; one of the 12 validation images is 0.083.
LOSS, ACCURACY = 0.01, 0.084


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> list[TrialSpec]:
    """Four that differ in what a worker compiles anew and in what it only sets."""
    options = Options(name="digits", classes=(0, 1, 2), images_per_class=20)
    (images,) = prepare_images(options, [64], 0, lambda *_: None)
    found = architectures.find("alexnet")
    made = []
    for number, given in enumerate(
        (
            {"transfer": "scratch", "dropout": 0.5, "batch_size": 8},
            {"transfer": "scratch", "dropout": 0.1, "batch_size": 16},
            {"transfer": "frozen", "dropout": 0.1, "batch_size": 8},
            {"transfer": "scratch", "dropout": 0.3, "batch_size": 8, "augmentation": "strong"},
        )
    ):
        levels = complete_levels(
            found.has_auxiliary_heads, found.defaults, lambda factor, of=given: of.get(factor.name)
        )
        made.append(
            TrialSpec(
                study="test",
                purpose="trial",
                architecture="alexnet",
                number=number,
                seed=number,
                levels=levels,
                images=images,
                split=Split(options.validation, options.test, 0),
                epochs=2,
                head_epochs=1,
                patience=None,
                rule=Rule(),
                optimizer=Optimizer("adam"),
                weights_source="random",
                weights_file=None,
                keep_model=False,
            )
        )
    return made


def train(
    trials: list[TrialSpec], slots: int, folder: Path, deterministic: bool, program: tuple[str, ...] = WORKER
) -> Found:
    """As a driver has them trained: the next one as soon as a worker is free."""
    executor, found = LocalExecutor(slots, folder, program), Found()
    executor.deterministic = deterministic
    waiting = [dataclasses.replace(trial, deterministic=deterministic) for trial in trials]
    under_way = 0
    try:
        while waiting or under_way:
            while waiting and under_way < slots:
                trial = waiting.pop(0)
                found[trial.key] = []
                executor.submit(Job(trial.key, "run_trial", trial.to_json()))
                under_way += 1
            event = executor.next_event(timeout=120)
            assert event is not None
            assert not isinstance(event, Failed), event
            if isinstance(event, Epoch):
                found[event.key].append(_without_times(event.record.metrics))
                if event.asks:
                    executor.answer(event.key, True)
            elif isinstance(event, Done):
                found[event.key].append(_without_times(event.result["summary"]))
                under_way -= 1
        return found
    finally:
        executor.close()


def _without_times(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if "time/" not in name}


@pytest.fixture(scope="module")
def with_one(trials: list[TrialSpec], tmp_path_factory: pytest.TempPathFactory) -> Found:
    """All four, one after the other in the same worker."""
    return train(trials, 1, tmp_path_factory.mktemp("one"), deterministic=True)


def test_deterministic_trials_are_equal_to_the_last_bit_with_one_worker_or_two(
    trials: list[TrialSpec], with_one: Found, tmp_path: Path
) -> None:
    assert train(trials, 2, tmp_path, deterministic=True) == with_one
    assert all(len(epochs) == 4 for epochs in with_one.values()), "before the first update, and after each epoch"
    assert len({str(epochs) for epochs in with_one.values()}) == 4, "four trials that differ"


def test_a_trial_after_others_in_a_worker_is_that_of_a_fresh_worker(
    trials: list[TrialSpec], with_one: Found, tmp_path: Path
) -> None:
    assert train(trials[-1:], 1, tmp_path, deterministic=True)[trials[-1].key] == with_one[trials[-1].key]


def test_other_numbers_of_threads_change_rounding_only(trials: list[TrialSpec], tmp_path: Path) -> None:
    one, two = (train(trials, slots, tmp_path / str(slots), deterministic=False) for slots in (1, 2))
    for key, epochs in one.items():
        for mine, others in zip(epochs, two[key], strict=True):
            assert mine.keys() == others.keys()
            for name, value in mine.items():
                allowed = ACCURACY if "accuracy" in name else LOSS
                assert others[name] == pytest.approx(value, abs=allowed), (key, name)


def test_a_trial_that_shares_another_workers_epochs_is_that_of_a_fresh_worker(
    trials: list[TrialSpec], with_one: Found, own_places: Path
) -> None:
    """Frozen, for one epoch in one worker and for two in another."""
    frozen = dataclasses.replace(trials[2], share_epochs=True)
    program = (str(Path(__file__).with_name("sharing_worker.py")),)
    for name in ("a", "b"):
        (own_places / name).mkdir()
    train([dataclasses.replace(frozen, epochs=1)], 1, own_places / "a", True, program)
    assert [folder.parent.name for folder in entry_folders("prefixes")] == ["prefixes"]
    assert train([frozen], 1, own_places / "b", True, program)[frozen.key] == with_one[frozen.key]


def test_a_network_with_batch_normalization_in_a_worker_that_has_trained_before(
    trials: list[TrialSpec], tmp_path: Path
) -> None:
    program = (str(Path(__file__).with_name("normalised_worker.py")),)
    options = Options(name="digits", classes=(0, 1, 2), images_per_class=20)
    (images,) = prepare_images(options, [16], 0, lambda *_: None)
    scratch, other, frozen = (
        dataclasses.replace(one, architecture="normalised", images=images, levels={**one.levels, "learning_rate": 0.01})
        for one in trials[:3]
    )
    for name in ("warm", "cold"):
        (tmp_path / name).mkdir()
    warm = train([frozen, other, scratch], 1, tmp_path / "warm", True, program)
    assert len({str(epochs) for epochs in warm.values()}) == 3
    assert train([scratch], 1, tmp_path / "cold", True, program)[scratch.key] == warm[scratch.key]
