"""The epochs and updates of trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from cnnstudy.config.load import load_study
from cnnstudy.config.schema import StudyConfig
from cnnstudy.data.batches import count_updates
from cnnstudy.errors import ConfigError
from cnnstudy.records import PreparedImages
from cnnstudy.search.strategy import Proposal
from cnnstudy.study.budget import equal_updates, trial_epochs
from cnnstudy.study.preparation import SourceWeights
from cnnstudy.study.resources import build_trial_spec

FILE = """
name: probe
data: {name: digits}
image_size: 64
architectures: [alexnet]
factors: {batch_size: [8, 32], data_fraction: [0.5, 1.0], transfer: scratch}
training: {epochs: 10}
budget: {trials: 3}
"""
MakeConfig = Callable[..., StudyConfig]
#: 50 training images, 25 at data_fraction 0.5
IMAGES = PreparedImages("digits", "/images", "d" * 64, 64, ("cat", "dog"), (30, 20), (4, 4), (2, 2))


@pytest.fixture
def config(tmp_path: Path) -> MakeConfig:
    def make(*overrides: str) -> StudyConfig:
        (tmp_path / "probe.yaml").write_text(FILE, encoding="utf-8")
        return load_study(str(tmp_path / "probe.yaml"), overrides).config

    return make


def levels(batch_size: int, data_fraction: float = 1.0, **more: str) -> dict[str, int | float | str]:
    return {
        "batch_size": batch_size,
        "data_fraction": data_fraction,
        "protocol": "clean",
        "transfer": "scratch",
        **more,
    }


def test_every_trial_makes_the_updates_at_which_they_are_compared(config: MakeConfig) -> None:
    found = equal_updates(config(), "alexnet", IMAGES)
    assert found == 10  # one batch of 32 on 25 images, ten times
    made = [count_updates(images, size, 10, "clean") for images in (25, 50) for size in (8, 32)]
    assert min(made) == found
    legacy = equal_updates(config("factors.protocol=[clean, legacy]", "factors.batch_size=[8, 16]"), "alexnet", IMAGES)
    # 25 images in batches of 16: one full batch and a partial one
    assert legacy == count_updates(25, 16, 10, "legacy") == 10


@pytest.mark.parametrize(("given", "block"), [((), 3), (("test", "train"), 3), (("train", "validation"), None)])
def test_no_seed_divides_images_with_a_given_validation_part(
    config: MakeConfig, given: tuple[str, ...], block: int | None
) -> None:
    """Analyses then take the seeds for ones that share their validation images, as they do."""
    images = dataclasses.replace(IMAGES, given=given)
    proposal = Proposal("alexnet", 0, levels(8), 5, 3)
    assert build_trial_spec(config(), proposal, images, SourceWeights("none", None)).block == block


def test_a_range_counts_with_its_end(config: MakeConfig) -> None:
    assert equal_updates(config("factors.batch_size={low: 4, high: 25}"), "alexnet", IMAGES) == 10


def test_epochs_follow_from_updates(config: MakeConfig) -> None:
    study = config("training.updates=20", "training.epochs=100")
    assert equal_updates(study, "alexnet", IMAGES) == 20
    assert trial_epochs(study, "alexnet", levels(8), IMAGES) == 3  # 7 updates an epoch
    assert trial_epochs(study, "alexnet", levels(32), IMAGES) == 10
    assert trial_epochs(study, "alexnet", levels(32, 0.5), IMAGES) == 20
    assert trial_epochs(config(), "alexnet", levels(32, 0.5), IMAGES) == 10


def test_updates_out_of_reach_are_named(config: MakeConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"training.updates: \w+ with batch_size 32 makes only 20 of 21 updates within the 20 epochs"
    ):
        trial_epochs(config("training.updates=21", "training.epochs=20"), "alexnet", levels(32, 0.5), IMAGES)


def test_two_phase_needs_epochs_for_both(config: MakeConfig) -> None:
    study = config("training.updates=1", "training.epochs=20")
    with pytest.raises(ConfigError, match="two-phase trains the head for 1 of them and needs at least one more"):
        trial_epochs(study, "alexnet", levels(32, transfer="two-phase"), IMAGES)


def test_a_pruner_has_nothing_to_compare_at_other_updates(config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"strategy\.pruner.*use none"):
        config("training.updates=20", "strategy.pruner=median")
