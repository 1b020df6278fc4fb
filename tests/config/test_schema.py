from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from cnnstudy import architectures
from cnnstudy.config.factors import Choices, Range
from cnnstudy.config.schema import StudyConfig
from cnnstudy.config.transfer_modes import TRANSFER_MODES, starts_from_source
from cnnstudy.data import datasets

PRETRAIN = {"source": "pretrain", "data": {"name": "digits", "classes": [5, 6]}, "epochs": 2}


def study(**changes: Any) -> StudyConfig:
    minimal = {
        "name": "probe",
        "data": {"name": "digits"},
        "architectures": ["alexnet", "vgg16", "googlenet"],
        "training": {"epochs": 6},
        "budget": {"trials": 8},
    }
    return StudyConfig.model_validate({**minimal, **changes})


def test_what_a_minimal_study_leaves_out_has_its_default() -> None:
    config = study()
    assert config.image_size == 224
    assert config.seed == 0
    assert config.factors == {}
    assert config.strategy.sampler == "tpe"
    assert config.strategy.pruner == "none"
    assert config.objective.metric == "val/accuracy"
    assert config.training.optimizer == "adam"
    assert config.data.bad_images == "refuse"


def test_a_study_is_frozen() -> None:
    config = study()
    for model, key in ((config, "seed"), (config.training, "epochs"), (config.data, "name"), (config.budget, "trials")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, key, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_size": {"alexnet": 64, "vgg16": 32, "googlenet": 32}, "training": {"epochs": {"alexnet": 2}}},
        {"factors": {"dropout": {"low": 0.1, "high": 0.7, "step": 0.2}, "batch_size": [8, 16], "transfer": "frozen"}},
        {"factors": {"learning_rate": {"alexnet": {"low": 1e-5, "high": 1e-3, "log": True}, "vgg16": 1e-4}}},
        {"weights": {"default": PRETRAIN}},
        {"factors": {"batch_size": [8, 16]}, "strategy": {"start_with": [{"batch_size": 8}], "sampler": "qmc"}},
    ],
)
def test_a_study_survives_json(changes: dict[str, Any]) -> None:
    config = study(**changes)
    plain = json.loads(json.dumps(config.model_dump(mode="json"), allow_nan=False))
    assert StudyConfig.model_validate(plain).model_dump(mode="json") == plain
    assert StudyConfig.model_validate(plain).factors == config.factors


def test_the_options_of_a_data_set_are_its_own() -> None:
    config = study(data={"name": "digits", "classes": [3, 1]})
    assert isinstance(config.data, datasets.find("digits").Options)
    assert config.model_dump(mode="json")["data"]["classes"] == [3, 1]


def test_a_value_for_all_networks_or_for_each() -> None:
    config = study(
        image_size={"alexnet": 64, "vgg16": 32, "googlenet": 48},
        training={"epochs": {"alexnet": 3, "vgg16": 9, "googlenet": 1}},
    )
    assert [config.image_size_of(name) for name in config.architectures] == [64, 32, 48]
    assert [config.epochs_of(name) for name in config.architectures] == [3, 9, 1]
    assert [config.head_epochs_of(name) for name in config.architectures] == [1, 3, 1]
    assert {study().image_size_of(name) for name in config.architectures} == {224}
    assert {study(training={"epochs": 6, "head_epochs": 5}).head_epochs_of(name) for name in ("alexnet", "vgg16")} == {
        5
    }


def test_factors_for_all_networks_or_by_network() -> None:
    config = study(factors={"batch_size": 8, "dropout": {"alexnet": [0.1, 0.2], "vgg16": {"low": 0.1, "high": 0.7}}})
    assert config.factors_of("alexnet") == {"batch_size": Choices((8,)), "dropout": Choices((0.1, 0.2))}
    assert config.factors_of("vgg16") == {"batch_size": Choices((8,)), "dropout": Range(0.1, 0.7)}
    assert config.factors_of("googlenet") == {"batch_size": Choices((8,))}


def test_transfer_modes_of_a_network() -> None:
    config = study(factors={"transfer": {"alexnet": ["frozen", "scratch"]}}, weights={"default": PRETRAIN})
    assert config.transfer_modes_of("alexnet") == ("frozen", "scratch")
    assert config.transfer_modes_of("vgg16") == ("scratch",)
    assert [mode for mode in TRANSFER_MODES if not starts_from_source(mode)] == ["scratch"]


def test_weights_of_a_network_or_the_default() -> None:
    config = study(weights={"default": PRETRAIN, "vgg16": {"source": "imagenet"}})
    assert [getattr(config.weights_of(name), "source", None) for name in config.architectures] == [
        "pretrain",
        "imagenet",
        "pretrain",
    ]
    assert study(weights={"vgg16": {"source": "random"}}).weights_of("alexnet") is None


def test_each_seed_of_a_factorial_pretrains_unless_the_file_says_otherwise() -> None:
    def draws(**given: Any) -> tuple[str | None, bool]:
        weights = study(weights={"default": {**PRETRAIN, **given.pop("weights", {})}}, **given).weights["default"]
        return weights.draws, "draws" in weights.model_fields_set

    factorial = {"strategy": {"kind": "factorial"}, "budget": None}
    assert draws() == ("one", False)
    assert draws(**factorial) == ("each-seed", False)
    assert draws(**factorial, weights={"draws": "one"}) == ("one", True)
    assert study(weights={"default": {"source": "random"}}, **factorial).weights["default"].draws is None


@pytest.mark.parametrize("trials", range(3, 30))
def test_the_budget_is_shared_out_equally_and_whole(trials: int) -> None:
    config = study(budget={"trials": trials})
    shares = [config.trials_of(name) for name in config.architectures]
    assert sum(shares) == trials
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


def test_start_levels_take_the_type_of_their_factor() -> None:
    config = study(
        factors={"batch_size": [8, 16], "dropout": [0.0, 0.5]},
        strategy={"start_with": [{"batch_size": 8.0, "dropout": 0}]},
    )
    start = config.strategy.start_with[0]
    assert start == {"batch_size": 8, "dropout": 0.0}
    assert [type(level) for level in start.values()] == [int, float]


def test_the_objective_knows_its_direction() -> None:
    assert study().objective.rule.maximize
    assert not study(objective={"metric": "val/loss"}).objective.rule.maximize


@pytest.mark.parametrize(
    ("weights", "keys"),
    [
        ({"source": "pretrain"}, ["data", "epochs"]),
        ({"source": "pretrain", "data": None, "epochs": None}, ["data", "epochs"]),
        ({**PRETRAIN, "file": "x.h5"}, ["file"]),
        ({"source": "file"}, ["file"]),
        ({"source": "file", "file": None}, ["file"]),
        ({**PRETRAIN, "source": "random", "batch_size": 8}, ["batch_size", "data", "epochs"]),
        ({**PRETRAIN, "source": "imagenet"}, ["data", "epochs"]),
    ],
)
def test_each_source_of_weights_has_its_own_keys(weights: dict[str, Any], keys: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        study(weights={"default": weights})
    assert [error["loc"] for error in caught.value.errors()] == [("weights", "default", key) for key in keys]


@pytest.mark.parametrize("network", ["alexnet", "vgg16", "googlenet"])
def test_the_grid_of_a_network_has_only_factors_that_act_there(network: str) -> None:
    config = study(
        factors={"transfer": ["scratch", "frozen"], "auxiliary_weight": [0.0, 0.3], "batch_size": [8, 16]},
        weights={"default": PRETRAIN},
    )
    points = config.grid_of(network)
    heads = architectures.find(network).has_auxiliary_heads
    assert len(points) == (2 * 2 + 2 if heads else 4)
    assert any("auxiliary_weight" in point for point in points) is heads
    assert config.active_factors_of(network) == {factor for point in points for factor in point}
