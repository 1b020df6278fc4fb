"""The factors: their levels, when they act, and how they are written."""

from __future__ import annotations

import ast
import collections
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cnnstudy
from cnnstudy import architectures
from cnnstudy.config import factors as space
from cnnstudy.config.factors import (
    ALWAYS_SHOWN,
    FACTORS,
    NETWORK,
    Choices,
    Levels,
    Range,
    active_factors,
    complete_levels,
    describe_levels,
    find_factor,
    format_given,
    grid_points,
    is_one_of,
    parse_levels,
    pick_level,
    recorded_factors,
    title_factors,
)
from cnnstudy.config.transfer_modes import TRANSFER_MODES
from cnnstudy.records import Level
from cnnstudy.study import budget, preparation, suggestion

ALEXNET, GOOGLENET = architectures.find("alexnet"), architectures.find("googlenet")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("batch_size", 32, Choices((32,))),
        ("batch_size", 32.0, Choices((32,))),
        ("batch_size", [8, 16], Choices((8, 16))),
        ("batch_size", {"low": 8, "high": 64, "log": True}, Range(8, 64, log=True)),
        ("batch_size", {"low": 8, "high": 64, "step": 8}, Range(8, 64, step=8)),
        ("batch_size", {"low": 8, "high": 64, "step": 10}, Range(8, 58, step=10)),
        ("dropout", 0, Choices((0.0,))),
        ("dropout", [0.5, 0], Choices((0.5, 0.0))),
        ("dropout", {"low": 0.1, "high": 0.7}, Range(0.1, 0.7)),
        ("dropout", {"low": 0.1, "high": 0.7, "step": 0.2}, Range(0.1, 0.7, step=0.2)),
        ("dropout", {"low": 0.1, "high": 0.6, "step": 0.2}, Range(0.1, 0.5, step=0.2)),
        ("dropout", {"low": 0, "high": 0.9, "log": False, "step": None}, Range(0.0, 0.9)),
        ("learning_rate", {"low": 1e-5, "high": 1e-3, "log": True}, Range(1e-5, 1e-3, log=True)),
        ("transfer", "scratch", Choices(("scratch",))),
        ("transfer", ["frozen", "two-phase"], Choices(("frozen", "two-phase"))),
        ("transfer", {"from": "block4"}, Choices(("from block4",))),
        ("transfer", ["frozen", {"from": "block4"}, "from conv1"], Choices(("frozen", "from block4", "from conv1"))),
        ("transfer", {"probe": "svm"}, Choices(("svm probe",))),
        (
            "transfer",
            ["probe", {"probe": "logistic", "layer": "block4"}, {"features": "flat", "probe": "svm", "layer": "a.b"}],
            Choices(("probe", "probe of block4", "flat svm probe of a.b")),
        ),
        ("transfer", ["flat probe", "svm probe of conv1"], Choices(("flat probe", "svm probe of conv1"))),
    ],
)
def test_levels_of_a_study_file(name: str, given: Any, expected: Levels) -> None:
    found = parse_levels(name, given)
    assert found == expected
    of_kind = found.values if isinstance(found, Choices) else (found.low, found.high)
    assert {type(level) for level in of_kind} == {FACTORS[name].kind}


@pytest.mark.parametrize(
    ("name", "given", "fragments"),
    [
        ("drop_out", 0.5, ["unknown factor 'drop_out'", "did you mean 'dropout'?", "batch_size, dropout"]),
        ("xyzzy", 0.5, ["unknown factor 'xyzzy'. The factors are transfer, batch_size"]),
        ("batch_size", 0, ["0 is out of range", "batch_size takes whole numbers from 1 to 8192."]),
        ("batch_size", 8193, ["8193 is out of range", "1 to 8192"]),
        ("batch_size", 8.5, ["8.5 is not a whole number", "1 to 8192"]),
        ("batch_size", math.inf, ["inf is out of range", "1 to 8192"]),
        ("batch_size", math.nan, ["nan is out of range", "1 to 8192"]),
        ("batch_size", True, ["true is not a number", "whole numbers"]),
        ("batch_size", "8", ["'8' is not a number", "whole numbers"]),
        ("batch_size", None, ["nothing is not a number", "whole numbers"]),
        ("batch_size", [8, 16, 8], ["8 is listed twice", "once"]),
        ("batch_size", [8, 8.0], ["8 is listed twice"]),
        ("batch_size", [], ["empty", "at least one level", "default"]),
        ("batch_size", [[8]], ["[8] is not a number"]),
        ("dropout", 0.96, ["0.96 is out of range", "dropout takes numbers from 0 to 0.95."]),
        ("dropout", -0.1, ["-0.1 is out of range", "0 to 0.95"]),
        ("dropout", math.nan, ["nan is out of range"]),
        ("learning_rate", 0, ["0 is out of range", "1e-08 to 10"]),
        ("learning_rate", "1e-4", ["'1e-4' is not a number"]),
        ("data_fraction", 1.1, ["1.1 is out of range", "0.001 to 1"]),
        ("data_fraction", 0, ["0 is out of range"]),
        ("augmentation", "flop", ["'flop' is not a level", "did you mean 'flip'?", "none, flip, strong."]),
        ("augmentation", True, ["true is not a level", "none, flip, strong."]),
        ("augmentation", {"low": 0, "high": 1}, ["takes no range", "none, flip, strong."]),
        ("transfer", "last_block", ["did you mean 'last-block'?", "fine-tune"]),
        ("transfer", ["scratch", "scratch"], ["'scratch' is listed twice"]),
        ("transfer", ["from block4", {"from": "block4"}], ["'from block4' is listed twice"]),
        ("transfer", {"from": "block 4"}, ["from is 'block 4'. Expected {from: STAGE}."]),
        ("transfer", {"from": "a", "to": "b"}, ["unknown key 'to'", "Expected {from: STAGE}."]),
        (
            "transfer",
            {"probe": "tree"},
            ["probe is 'tree'. Expected {probe: logistic or svm, layer: STAGE"],
        ),
        ("transfer", {"probe": "logistc"}, ["probe is 'logistc'; did you mean 'logistic'? Expected {probe: "]),
        ("transfer", {"probe": "svm", "feature": "flat"}, ["unknown key 'feature'; did you mean 'features'?"]),
        ("transfer", {"layer": "block4"}, ["transfer takes no range; give a list of scratch, frozen", "{probe: "]),
        ("transfer", ["probe", {"probe": "logistic", "features": "pooled"}], ["'probe' is listed twice"]),
        ("transfer", "svm probes", ["'svm probes' is not a level of transfer"]),
        ("transfer", "from ", ["'from ' is not a level of transfer"]),
        ("protocol", {"from": "a"}, ["protocol takes no range"]),
        ("transfer", [["scratch"]], ["['scratch'] is not a level of transfer"]),
        ("backbone_learning_rate_multiplier", 0, ["0 is out of range", "1e-06 to 10"]),
        ("auxiliary_weight", -1, ["-1 is out of range", "0 to 10"]),
        ("auxiliary_dropout", 1, ["1 is out of range", "0 to 0.95"]),
        ("dropout", {}, ["needs both low and high"]),
        ("dropout", {"low": 0.1}, ["needs both low and high"]),
        (
            "dropout",
            {"lo": 0.1, "high": 0.2},
            ["unknown key 'lo'", "did you mean 'low'?", "log (true or false) or step"],
        ),
        ("dropout", {"low": 0.2, "high": 0.1}, ["low (0.2) must be below high (0.1)"]),
        ("dropout", {"low": 0.2, "high": 0.2}, ["low (0.2) must be below high (0.2)"]),
        ("dropout", {"low": 0.1, "high": 2}, ["2 is out of range", "0 to 0.95"]),
        ("dropout", {"low": "a", "high": 0.2}, ["'a' is not a number"]),
        ("dropout", {"low": 0, "high": 0.5, "log": True}, ["log range must start above 0"]),
        ("dropout", {"low": 0.1, "high": 0.5, "log": "yes"}, ["log is 'yes'", "true or false"]),
        ("dropout", {"low": 0.1, "high": 0.5, "log": 1}, ["log is 1", "true or false"]),
        ("dropout", {"low": 0.1, "high": 0.5, "step": 0}, ["step is 0", "above 0 and at most high - low"]),
        ("dropout", {"low": 0.1, "high": 0.5, "step": 0.5}, ["step is 0.5", "at most high - low"]),
        ("dropout", {"low": 0.1, "high": 0.5, "step": math.nan}, ["step is nan"]),
        ("dropout", {"low": 0.1, "high": 0.5, "step": True}, ["step is true"]),
        ("dropout", {"low": 0.1, "high": 0.5, "step": 0.1, "log": True}, ["log or step, not both"]),
        ("batch_size", {"low": 8, "high": 16, "step": 1.5}, ["step is 1.5", "whole numbers"]),
        ("batch_size", {"low": 8.5, "high": 16}, ["8.5 is not a whole number"]),
    ],
)
def test_levels_that_cant_be_used(name: str, given: Any, fragments: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the fragments say what must match
        parse_levels(name, given)
    text = str(caught.value)
    assert [fragment for fragment in fragments if fragment not in text] == [], text
    assert text.endswith((".", "?"))


def test_every_factor_refuses_what_lies_beyond_its_ends() -> None:
    for factor in FACTORS.values():
        if factor.choices:
            continue
        for level in (factor.low, factor.high):
            assert parse_levels(factor.name, level) == Choices((factor.kind(level),))
        for beyond in (math.nextafter(factor.low, -math.inf), math.nextafter(factor.high, math.inf)):
            with pytest.raises(ValueError, match="out of range"):
                parse_levels(factor.name, beyond)


def test_shown_is_what_stands_in_the_file_and_never_long() -> None:
    assert [format_given(value) for value in (None, True, False, 1, "a", [1])] == [
        "nothing",
        "true",
        "false",
        "1",
        "'a'",
        "[1]",
    ]
    assert len(format_given("x" * 5000)) == 100


# ---- level_at: equal shares


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_equal_shares_fall_to_each_level_of_a_list(count: int) -> None:
    levels = Choices(tuple(f"level{number}" for number in range(count)))
    parts = 50 * count
    found = collections.Counter(pick_level(FACTORS["transfer"], levels, part / parts) for part in range(parts))
    assert found == dict.fromkeys(levels.values, 50)
    assert pick_level(FACTORS["transfer"], levels, math.nextafter(1, 0)) == levels.values[-1]


@pytest.mark.parametrize(
    ("name", "levels", "expected"),
    [
        ("batch_size", Range(8, 12), [8, 9, 10, 11, 12]),
        ("batch_size", Range(8, 64, step=8), [8, 16, 24, 32, 40, 48, 56, 64]),
        ("dropout", Range(0.1, 0.7, step=0.2), [0.1, 0.3, 0.5, 0.7]),
        ("dropout", Range(0.0, 0.9, step=0.1), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
    ],
)
def test_equal_shares_fall_to_each_step_of_a_range(name: str, levels: Range, expected: list[float]) -> None:
    parts = 100 * len(expected)
    found = collections.Counter(pick_level(FACTORS[name], levels, (part + 0.5) / parts) for part in range(parts))
    assert found == dict.fromkeys(expected, 100)
    for position in (0.0, math.nextafter(1, 0)):
        assert pick_level(FACTORS[name], levels, position) in expected


@pytest.mark.parametrize("log", [False, True])
def test_equal_parts_of_a_range_get_equal_shares(log: bool) -> None:
    levels = Range(1e-5, 1e-1, log=log)
    scale = math.log if log else float
    ends = scale(levels.low), scale(levels.high)
    found = [pick_level(FACTORS["learning_rate"], levels, (part + 0.5) / 400) for part in range(400)]
    shares = collections.Counter(int(4 * (scale(level) - ends[0]) / (ends[1] - ends[0])) for level in found)
    assert shares == dict.fromkeys(range(4), 100)
    assert found == sorted(found)
    assert pick_level(FACTORS["learning_rate"], levels, 0.0) == pytest.approx(levels.low)
    assert levels.low <= min(found) < max(found) <= levels.high


def test_a_log_range_of_whole_numbers_gives_each_octave_its_share() -> None:
    levels = Range(1, 64, log=True)
    found = [pick_level(FACTORS["batch_size"], levels, (part + 0.5) / 7000) for part in range(7000)]
    assert {type(level) for level in found} == {int}
    assert set(found) == set(range(1, 65))
    small = sum(level <= 8 for level in found if isinstance(level, int))
    assert small == pytest.approx(7000 * math.log(8.5 / 0.5) / math.log(64.5 / 0.5), abs=2)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("batch_size", Range(3, 1000, log=True)),
        ("batch_size", Range(1, 8192)),
        ("batch_size", Range(5, 89, step=7)),
        ("dropout", Range(0.05, 0.95, step=0.05)),
        ("dropout", Range(0.3, 0.300001)),
        ("learning_rate", Range(1e-8, 10.0, log=True)),
        ("transfer", Choices(("frozen", "scratch"))),
    ],
)
def test_a_level_at_any_position_is_one_of_the_levels(name: str, levels: Levels) -> None:
    for position in [*(part / 997 for part in range(997)), math.nextafter(1, 0)]:
        level = pick_level(FACTORS[name], levels, position)
        assert is_one_of(level, levels), (position, level)
        assert type(level) is FACTORS[name].kind


@pytest.mark.parametrize(
    ("level", "levels", "expected"),
    [
        (8, Choices((8, 16)), True),
        (9, Choices((8, 16)), False),
        (0.3, Range(0.1, 0.7), True),
        (0.7, Range(0.1, 0.7), True),
        (0.71, Range(0.1, 0.7), False),
        (0.3, Range(0.1, 0.7, step=0.2), True),
        (0.4, Range(0.1, 0.7, step=0.2), False),
        ("scratch", Range(0.1, 0.7), False),
    ],
)
def test_is_among(level: Level, levels: Levels, expected: bool) -> None:
    assert is_one_of(level, levels) is expected


# ---- which factors are active


def chosen(levels: dict[str, Level]) -> dict[str, Level]:
    return complete_levels(True, GOOGLENET.defaults, lambda factor: levels.get(factor.name))


@pytest.mark.parametrize(
    ("levels", "with_multiplier", "with_weight", "with_dropout"),
    [
        ({"transfer": "scratch"}, False, True, True),
        ({"transfer": "frozen"}, False, False, False),
        ({"transfer": "last-block"}, True, False, False),
        ({"transfer": "from conv4"}, True, False, False),
        ({"transfer": "fine-tune"}, True, True, True),
        ({"transfer": "two-phase"}, True, True, True),
        ({"transfer": "probe-then-fine-tune"}, True, False, False),
        ({"transfer": "flat svm probe of conv4"}, False, False, False),
        ({"transfer": "scratch", "auxiliary_weight": 0.0}, False, True, False),
        ({"transfer": "frozen", "auxiliary_weight": 0.5, "auxiliary_dropout": 0.1}, False, False, False),
    ],
)
def test_a_conditional_factor_has_a_level_only_where_it_acts(
    levels: dict[str, Level], with_multiplier: bool, with_weight: bool, with_dropout: bool
) -> None:
    found = chosen(levels)
    assert ("backbone_learning_rate_multiplier" in found) is with_multiplier
    assert ("auxiliary_weight" in found) is with_weight
    assert ("auxiliary_dropout" in found) is with_dropout
    without = complete_levels(False, ALEXNET.defaults, lambda factor: levels.get(factor.name))
    assert not {"auxiliary_weight", "auxiliary_dropout"} & set(without)


def test_a_network_gives_its_own_defaults() -> None:
    for name in architectures.names():
        network = architectures.find(name)
        levels = complete_levels(network.has_auxiliary_heads, network.defaults, lambda factor: None)
        assert {**levels, **network.defaults} == levels
        assert (levels["batch_size"], levels["transfer"], levels["data_fraction"]) == (32, "scratch", 1.0)


def test_a_level_of_zero_is_a_level_and_not_a_default() -> None:
    assert chosen({"dropout": 0.0})["dropout"] == 0.0


def test_a_condition_reads_only_the_factors_that_it_names() -> None:
    for factor in FACTORS.values():
        before = list(FACTORS)[: list(FACTORS).index(factor.name)]
        assert set(factor.looks_at) <= set(before), factor.name
        for mode, weight in itertools.product(TRANSFER_MODES, (0.0, 0.3)):
            seen = {"transfer": mode, "auxiliary_weight": weight}
            factor.active({name: seen[name] for name in factor.looks_at}, True)  # reads nothing else: no KeyError


# ---- grids


def test_a_grid_has_every_combination_once() -> None:
    factors = {"batch_size": Choices((8, 16)), "dropout": Choices((0.1, 0.2, 0.3)), "transfer": Choices(("scratch",))}
    points = grid_points(factors, False, ALEXNET.defaults)
    expected = [
        {"transfer": "scratch", "batch_size": size, "dropout": dropout}
        for size, dropout in itertools.product((8, 16), (0.1, 0.2, 0.3))
    ]
    assert sorted(map(str, points)) == sorted(map(str, expected))


def test_combinations_that_differ_only_in_an_inactive_factor_are_one_point() -> None:
    factors: dict[str, Levels] = {
        "transfer": Choices(("scratch", "frozen", "fine-tune")),
        "backbone_learning_rate_multiplier": Choices((0.1, 0.5)),
        "auxiliary_weight": Choices((0.0, 0.3)),
        "auxiliary_dropout": Choices((0.4, 0.7)),
    }
    points = grid_points(factors, True, GOOGLENET.defaults)
    assert len({tuple(point.items()) for point in points}) == len(points)
    by_mode = collections.Counter(point["transfer"] for point in points)
    # auxiliary: weight 0, or 0.3 with two dropouts; fine-tune: times two multipliers
    assert by_mode == {"scratch": 3, "frozen": 1, "fine-tune": 6}
    assert by_mode.total() == len(grid_points(dict(reversed(factors.items())), True, GOOGLENET.defaults))
    assert len(grid_points(factors, False, ALEXNET.defaults)) == 1 + 1 + 2


def test_a_probe_is_one_point_whatever_acts_on_updates() -> None:
    factors: dict[str, Levels] = {
        "transfer": Choices(("probe", "svm probe of conv4", "frozen", "probe-then-fine-tune")),
        "dropout": Choices((0.1, 0.4)),
        "batch_size": Choices((8, 16)),
        "augmentation": Choices(("none", "flip", "strong")),
        "data_fraction": Choices((0.5, 1.0)),
    }
    points = grid_points(factors, False, ALEXNET.defaults)
    by_mode = collections.Counter(point["transfer"] for point in points)
    assert by_mode == {"probe": 2, "svm probe of conv4": 2, "frozen": 24, "probe-then-fine-tune": 12}
    assert {"transfer": "probe", "data_fraction": 0.5} in points


def test_a_range_counts_with_its_ends() -> None:
    assert grid_points({"dropout": Range(0.1, 0.7)}, False, ALEXNET.defaults) == [{"dropout": 0.1}, {"dropout": 0.7}]
    assert grid_points({}, False, ALEXNET.defaults) == [{}]


def test_active_factors_are_those_that_some_point_of_the_grid_has() -> None:
    alternatives: dict[str, list[Levels]] = {
        "transfer": [Choices(("scratch",)), Choices(("frozen",)), Choices(("frozen", "fine-tune"))],
        "auxiliary_weight": [Choices((0.0,)), Range(0.0, 1.0)],
    }
    rest = {"auxiliary_dropout": Choices((0.1, 0.2)), "backbone_learning_rate_multiplier": Range(0.1, 1.0)}
    for modes, weights in itertools.product(*alternatives.values()):
        for network in (ALEXNET, GOOGLENET):
            factors: dict[str, Levels] = {"transfer": modes, "auxiliary_weight": weights, **rest}
            arguments = factors, network.has_auxiliary_heads, network.defaults
            assert active_factors(*arguments) == {name for point in grid_points(*arguments) for name in point}


def test_active_factors_of_a_large_space_come_at_once() -> None:
    many = Choices(tuple(number / 1000 for number in range(1, 900)))
    factors: dict[str, Levels] = dict.fromkeys(("dropout", "learning_rate", "data_fraction", "auxiliary_dropout"), many)
    assert active_factors(factors, True, GOOGLENET.defaults) == set(factors)


# ---- how a factor and its levels are written


@pytest.mark.parametrize("factor", [*FACTORS.values(), NETWORK], ids=lambda factor: factor.name)
def test_each_factor_is_written_without_its_name_in_the_code(factor: space.Factor) -> None:
    assert find_factor(factor.name) is factor
    assert factor.label
    assert len(factor.short_label) <= len(factor.label)
    levels = factor.choices or ("alexnet",) if factor.kind is str else (factor.low, factor.high)
    written = [factor.write(level) for level in levels]
    assert len(set(written)) == len(levels)
    for level, text in zip(levels, written, strict=True):
        assert text.endswith(factor.unit)
        assert text == " ".join([factor.write(level, with_unit=False), factor.unit]).strip()
        assert level == "none" or text in factor.describe(level)
    for text in (factor.label, factor.short_label, *written, *map(factor.describe, levels)):
        assert "_" not in text
        assert text == text.strip()


@pytest.mark.parametrize(
    ("name", "level", "written", "described"),
    [
        ("transfer", "fine-tune", "fine-tune", "fine-tune"),
        ("batch_size", 16, "16", "batch size 16"),
        ("batch_size", 1024.0, "1024", "batch size 1024"),
        ("dropout", 0.0, "0", "dropout 0"),
        ("dropout", 0.4021, "0.402", "dropout 0.402"),
        ("learning_rate", 0.001, "0.001", "learning rate 0.001"),
        ("learning_rate", 1e-4, "1e-4", "learning rate 1e-4"),
        ("learning_rate", 2.5e-5, "2.5e-5", "learning rate 2.5e-5"),
        ("learning_rate", 10.0, "10", "learning rate 10"),
        ("learning_rate_scaling", "linear", "linear", "linear learning rate scaling"),
        ("data_fraction", 0.167, "16.7 %", "16.7 % of the data"),
        ("data_fraction", 1.0, "100 %", "100 % of the data"),
        ("shuffled_labels", 0.5, "50 %", "50 % of the labels shuffled"),
        ("protocol", "legacy", "legacy", "legacy protocol"),
        ("augmentation", "flip", "flip", "flip augmentation"),
        ("augmentation", "none", "none", "no augmentation"),
        ("label_smoothing", 0.1, "0.1", "label smoothing 0.1"),
        ("class_weights", "balanced", "balanced", "balanced class weights"),
        ("auxiliary_weight", 0.3, "0.3", "auxiliary weight 0.3"),
        ("network", "vgg16", "vgg16", "vgg16"),
    ],
)
def test_a_level_in_words(name: str, level: Level, written: str, described: str) -> None:
    factor = find_factor(name)
    assert (factor.write(level), factor.describe(level)) == (written, described)


@pytest.mark.parametrize(
    ("name", "level", "baseline", "expected"),
    [
        ("batch_size", 64, 8, "batch size 64 instead of 8"),
        ("transfer", "frozen", "scratch", "frozen instead of scratch"),
        ("augmentation", "flip", "none", "flip augmentation instead of none"),
        ("data_fraction", 1.0, 0.25, "4 times the training images"),
        ("shuffled_labels", 0.5, 0.25, "50 % of the labels shuffled instead of 25 %"),
        ("network", "vgg16", "alexnet", "vgg16 instead of alexnet"),
    ],
)
def test_a_comparison_in_words(name: str, level: Level, baseline: Level, expected: str) -> None:
    assert find_factor(name).compare(level, baseline) == expected


def test_all_levels_of_a_study_in_words() -> None:
    assert FACTORS["batch_size"].write_levels(Choices((8, 16))) == "8, 16"
    assert FACTORS["data_fraction"].write_levels(Range(0.25, 1.0)) == "25 % to 100 %"


def test_a_trial_is_named_by_what_is_always_shown_and_what_is_not_the_default() -> None:
    levels = complete_levels(False, ALEXNET.defaults, lambda factor: {"batch_size": 8}.get(factor.name))
    assert tuple(title_factors(levels)) == ALWAYS_SHOWN
    assert describe_levels(levels, title_factors(levels)) == "scratch, batch size 8, dropout 0.5"
    others = levels | {"data_fraction": 0.5, "protocol": "legacy", "learning_rate": 0.1}
    assert describe_levels(others, title_factors(others)) == (
        "scratch, batch size 8, dropout 0.5, 50 % of the data, legacy protocol"
    )
    assert describe_levels({"dropout": 0.25}, ["dropout", "auxiliary_weight"]) == "dropout 0.25"


#: Modules that may have a dictionary by factors' names, and why. Words of factors are no reason: factors.py has them.
ALLOWED = {
    **{
        Path(architectures.__file__).with_name(f"{name}.py"): "a network's own levels"
        for name in (
            *("alexnet", "googlenet", "vgg16", "alexnet_torchvision", "googlenet_torchvision", "vgg16_torchvision"),
            *("_residual", "_keras_applications", "_own_network"),
        )
    },
    Path(budget.__file__): "levels at which the number of updates is asked for",
    Path(suggestion.__file__): "levels of the studies that are suggested",
    Path(preparation.__file__): "levels with which source weights are learnt",
}


def tables_by_factor(tree: ast.AST) -> Iterator[int]:
    """Lines with a dictionary that has two or more factors' names as keys."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            if sum(key in FACTORS for key in keys) > 1:
                yield node.lineno


def test_no_other_module_has_a_table_of_factors() -> None:
    modules = Path(cnnstudy.__file__).parent.rglob("*.py")
    found = {path for path in modules if list(tables_by_factor(ast.parse(path.read_bytes())))}
    assert found - {Path(space.__file__)} == set(ALLOWED)
    assert list(tables_by_factor(ast.parse("{'dropout': 'dropout', 'batch_size': 'batch'}"))) == [1]


def test_levels_as_the_study_file_was_recorded() -> None:
    factors = {
        "dropout": {"low": 0.1, "high": 0.5, "log": False, "step": None},
        "transfer": {"alexnet": ["scratch"], "vgg16": ["frozen", "scratch"]},
    }
    found = recorded_factors({"factors": factors}, "vgg16")
    assert found == {"dropout": Range(0.1, 0.5), "transfer": Choices(("frozen", "scratch"))}
    assert "transfer" not in recorded_factors({"factors": {"transfer": {"alexnet": ["scratch"]}}}, "vgg16")
