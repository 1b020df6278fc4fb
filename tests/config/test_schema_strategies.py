"""The keys of `strategy`, what each kind takes, and what can't be combined with a factorial."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from mistakes import check_mistake, complaint, written

from cnnstudy.config.load import load_study
from cnnstudy.config.schema import StudyConfig
from cnnstudy.config.strategies import STRATEGY_KINDS, FactorialConfig, SearchConfig

STUDY = """\
name: probe
data: {name: digits}
image_size: 64
architectures: [alexnet, googlenet]
factors:
  batch_size: [8, 32]
  dropout: [0.0, 0.5]
  data_fraction: [0.5, 1.0]
training:
  epochs: 4
strategy:
  kind: factorial
  design: full
  seeds: 3
"""
SEARCH = "strategy: {sampler: random}\nbudget: {trials: 4}\n"


# What to put in place of what (`#!` marks the line that the message must name), the dotted key, and what the message
# must say: what was given, and what is allowed.
MISTAKES = [
    (
        "  kind: factorial",
        "  kind: factor #!",
        "strategy.kind",
        ["'search' (finds", "'factorial' (exp", "not 'factor'."],
    ),
    ("  kind: factorial", "  kind: [search] #!", "strategy.kind", ["must be 'search'", "not ['search']."]),
    ("  kind: factorial", "  kind: #!", "strategy.kind", ["must be 'search'", "not nothing."]),
    ("  design: full", "  design: half #!", "strategy.design", ["'full', 'fractional' or 'qmc'", "not 'half'."]),
    ("  design: full", "  design: true #!", "strategy.design", ["'full', 'fractional' or 'qmc'", "not true."]),
    ("  design: full", "  desing: full #!", "strategy.desing", ["unknown key; did you mean 'design'?", "seeds"]),
    ("  seeds: 3", "  seeds: 0 #!", "strategy.seeds", ["greater than or equal to 1", "not 0."]),
    ("  seeds: 3", "  seeds: 1001 #!", "strategy.seeds", ["less than or equal to 1000", "not 1001."]),
    ("  seeds: 3", "  seeds: [0, 1] #!", "strategy.seeds", ["must be a whole number", "not [0, 1]."]),
    ("  seeds: 3", "  seeds: 2.5 #!", "strategy.seeds", ["must be a whole number", "not 2.5."]),
    ("  seeds: 3", "  seeds: {least: 2, most: 9} #!", "strategy.seeds.least", ["number from 3 to 100", "not 2."]),
    ("  seeds: 3", "  seeds: {least: x, most: 5} #!", "strategy.seeds.least", ["must be a whole number", "not 'x'."]),
    ("  seeds: 3", "  seeds: {least: 3, most: 101} #!", "strategy.seeds.most", ["from 3 to 100", "not 101."]),
    (
        "  seeds: 3",
        "  seeds: {least: 5, most: 5} #!",
        "strategy.seeds.least",
        ["is 5, and must be less than the most, 5"],
    ),
    ("  seeds: 3", "  seeds: {least: 3} #!", "strategy.seeds.most", ["is missing; give {least: 3, most: 20}."]),
    ("  seeds: 3", "  seeds: {least: 3, most: 9, x: 1} #!", "strategy.seeds.x", ["unknown key", "are least, most."]),
    (
        "  seeds: 3",
        "  seeds: {least: 3, most: 9} #!\n  tune: [dropout]",
        "strategy.seeds",
        ["with tune, whose intervals"],
    ),
    (
        "  seeds: 3",
        "  seeds: 3\n  least_seeds: 3 #!",
        "strategy.least_seeds",
        ["is 3, and must be less than the most, 3."],
    ),
    ("  seeds: 3", "  seeds: 200\n  least_seeds: 101 #!", "strategy.least_seeds", ["less than or equal to 100"]),
    (
        "  seeds: 3",
        "  seeds: 101 #!\n  least_seeds: 3",
        "strategy.seeds",
        ["is 101; a study that stops", "at most 100."],
    ),
    (
        "  seeds: 3",
        "  precision: 0.03 #!\n  seeds: 3",
        "strategy.precision",
        ["nothing stops with one number", "{least: 3, most: 20}."],
    ),
    ("  seeds: 3", "  precision: 3 #!", "strategy.precision", ["for 3 points give 0.03, not 3."]),
    ("  design: full", "  assume_no_interactions: perhaps #!", "strategy.assume_no_interactions", []),
    ("  design: full", "  assume_no_interactions: [x] #!", "strategy.assume_no_interactions", []),
    ("  design: full", "  fraction: 2 #!", "strategy.fraction", ["belongs to design fractional, not to full"]),
    (
        "  design: full",
        "  design: fractional\n  fraction: 1 #!",
        "strategy.fraction",
        ["greater than or equal to 2", "not 1."],
    ),
    (
        "  design: full",
        "  design: fractional\n  fraction: half #!",
        "strategy.fraction",
        ["must be a whole number", "not 'half'."],
    ),
    (
        "  design: full",
        "  design: fractional\n  fraction: 3 #!",
        "strategy.fraction",
        ["one in 3 of alexnet's 8 cells leaves 3", "takes 4", "give at most 2."],
    ),
    ("  design: full", "  cells: 8 #!", "strategy.cells", ["belongs to design qmc, not to full"]),
    ("  design: full", "  design: qmc\n  cells: 1 #!", "strategy.cells", ["greater than or equal to 2", "not 1."]),
    (
        "  design: full",
        "  design: qmc\n  cells: 10001 #!",
        "strategy.cells",
        ["less than or equal to 10000", "not 10001."],
    ),
    (
        "  design: full",
        "  design: qmc\n  cells: 9 #!",
        "strategy.cells",
        ["alexnet's levels have 8 combinations", "the 9 cells", "give at most 8", "design full"],
    ),
    ("  seeds: 3", "  tune: learning_rate #!", "strategy.tune", ["must be a list", "not 'learning_rate'."]),
    ("  seeds: 3", "  tune: 3 #!", "strategy.tune", ["must be a list", "not 3."]),
    (
        "  design: full",
        "  sampler: tpe #!",
        "strategy.sampler",
        [
            "belongs to kind search",
            "this is kind factorial.",
            "The keys here are kind, design, seeds, fraction, cells",
        ],
    ),
    ("  design: full", "  pruner: none #!", "strategy.pruner", ["belongs to kind search", "this is kind factorial."]),
    (
        "  kind: factorial\n  design: full",
        "  design: full #!",
        "strategy.design",
        ["belongs to kind factorial", "this is kind search (the default).", "sampler, pruner"],
    ),
    (
        "  seeds: 3\n",
        "  seeds: 3\nbudget: #!\n  trials: 9\n",
        "budget",
        ["can't be combined with a factorial", "(and --trials)", "strategy.seeds."],
    ),
    (
        "  epochs: 4",
        "  epochs: 4\n  early_stopping: 2 #!",
        "training.early_stopping",
        ["can't be combined with a factorial", "leave it out", "the best epoch is recorded anyway"],
    ),
    (
        "  dropout: [0.0, 0.5]",
        "  dropout: {low: 0.0, high: 0.5} #!",
        "factors.dropout",
        ["is a range, and a full design needs lists", "design qmc."],
    ),
]


@pytest.mark.parametrize(("old", "new", "key", "fragments"), MISTAKES)
def test_a_mistake_is_named_with_file_line_key_what_was_given_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, key: str, fragments: list[str]
) -> None:
    assert STUDY.count(old) == 1
    check_mistake(tmp_path, STUDY.replace(old, new), key, fragments)


def test_every_key_of_a_factorial_has_at_least_two_mistakes_above() -> None:
    named = [key for _, _, key, _ in MISTAKES]
    for field in FactorialConfig.model_fields:
        assert named.count(f"strategy.{field}") >= 2, field


@pytest.mark.parametrize(
    ("overrides", "key", "fragments"),
    [
        (["strategy.design=fractional"], "strategy.fraction", ["is missing; design fractional needs it."]),
        (["strategy.design=qmc"], "strategy.cells", ["is missing; design qmc needs it."]),
        (
            ["strategy.seeds={least: 3, most: 9}", "strategy.least_seeds=3"],
            "strategy.least_seeds",
            ["is given twice, also as seeds.least; remove one."],
        ),
        (
            ["factors={batch_size: 8}", "architectures=[alexnet]", "strategy.seeds={least: 3, most: 9}"],
            "strategy.seeds",
            ["stops when the effects of the factors are clear, and no factor varies"],
        ),
        (
            ["strategy.design=fractional", "strategy.fraction=2", "strategy.cells=3"],
            "strategy.cells",
            ["belongs to design qmc, not to fractional"],
        ),
        (
            ["strategy.design=fractional", "strategy.fraction=2", "factors.data_fraction=1"],
            "strategy.fraction",
            ["one in 2 of alexnet's 4 cells leaves 2", "takes 3; use design full."],
        ),
        (
            ["factors={batch_size: 8}", "architectures=[alexnet]", "strategy.seeds=1"],
            "strategy.seeds",
            ["no factor varies", "a single trial", "use several seeds"],
        ),
        (
            ["strategy.design=fractional", "strategy.fraction=2", "factors.dropout={low: 0, high: 0.5}"],
            "factors.dropout",
            ["is a range, and a fractional design needs lists"],
        ),
        (["strategy={}"], "budget", ["is missing; for a search it must hold `trials`"]),
        (["strategy={kind: search}", "budget="], "budget", ["is missing; for a search it must hold `trials`"]),
        (["budget.trials=5"], "budget", ["leave it (and --trials) out", "strategy.seeds."]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_keys_that_do_not_go_together(tmp_path: Path, overrides: list[str], key: str, fragments: list[str]) -> None:
    found = complaint(written(tmp_path, STUDY), *overrides)
    assert re.search(rf"(^|, |--set ){re.escape(key)}: ", found, flags=re.MULTILINE), found
    assert [fragment for fragment in fragments if fragment not in found] == [], found


@pytest.mark.parametrize(
    ("overrides", "trials"),
    [
        ([], 2 * 8 * 3),
        (["strategy.seeds=1"], 2 * 8),
        (["strategy={kind: factorial}"], 2 * 8 * 5),
        (["strategy.design=fractional", "strategy.fraction=2"], 2 * 4 * 3),
        (["strategy.design=qmc", "strategy.cells=8"], 2 * 8 * 3),
        (["strategy.design=qmc", "strategy.cells=30", "factors.dropout={low: 0, high: 0.5}"], 2 * 30 * 3),
        (["factors={}"], 2 * 3),
        (["factors={}", "architectures=[alexnet]"], 3),
        (["budget="], 2 * 8 * 3),
        (["training.early_stopping="], 2 * 8 * 3),
        # the network with one factor has nothing to leave out
        (
            [
                "strategy={kind: factorial, design: fractional, fraction: 2, seeds: 3}",
                "factors.dropout={alexnet: [0.0, 0.5]}",
                "factors.data_fraction={alexnet: [0.5, 1.0]}",
            ],
            (4 + 2) * 3,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_goes_together(tmp_path: Path, overrides: list[str], trials: int) -> None:
    config = load_study(written(tmp_path, STUDY), overrides).config
    assert config.total_trials == trials
    assert config.pruner == "none"


def test_a_design_too_large_to_lay_out_is_refused_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, STUDY)
    levels = ", ".join(str(number / 100) for number in range(1, 91))
    many = [f"factors.{name}=[{levels}]" for name in ("dropout", "learning_rate", "data_fraction")]
    found = complaint(path, *many)
    assert f"alexnet's lists have {2 * 90**3:,} combinations, and a full design takes at most 100,000" in found
    assert ", strategy.design: " in found
    found = complaint(path, many[0], "strategy={kind: factorial, design: fractional, fraction: 40}", many[1])
    assert f"alexnet's lists have {4 * 90**2:,} combinations, and a fractional design takes at most 2,000" in found
    assert "use design qmc." in found
    found = complaint(path, many[0], many[1], "strategy.seeds=4")
    assert (
        f"--set strategy.seeds: 4 seeds make {2 * 4 * 90**2 * 4:,} trials, and a study takes at most 100,000" in found
    )
    config = load_study(path, [*many, "strategy={kind: factorial, design: qmc, cells: 16, seeds: 2}"]).config
    assert config.total_trials == 2 * 16 * 2


def test_a_search_is_what_it_was(tmp_path: Path) -> None:
    config = load_study(written(tmp_path, STUDY.partition("strategy:")[0] + SEARCH)).config
    assert isinstance(config.strategy, SearchConfig)
    assert (config.strategy.kind, config.total_trials, config.pruner) == ("search", 4, "none")
    pruned = load_study(str(tmp_path / "probe.yaml"), ["strategy.pruner=median"]).config
    assert pruned.pruner == "median"


@pytest.mark.parametrize(
    "strategy",
    [
        {"kind": "factorial"},
        {"kind": "factorial", "design": "fractional", "fraction": 2, "seeds": 7},
        {"kind": "factorial", "design": "qmc", "cells": 8},
        {"sampler": "qmc"},
    ],
)
def test_a_strategy_survives_json(strategy: dict[str, Any]) -> None:
    given = {
        "name": "probe",
        "data": {"name": "digits"},
        "architectures": ["alexnet"],
        "training": {"epochs": 2},
        "strategy": strategy,
        **({} if "kind" in strategy else {"budget": {"trials": 3}}),
    }
    config = StudyConfig.model_validate(given)
    plain = json.loads(json.dumps(config.model_dump(mode="json")))
    assert {key: plain["strategy"][key] for key in strategy} == strategy
    again = StudyConfig.model_validate(plain)
    assert again == config
    assert type(again.strategy) is STRATEGY_KINDS[plain["strategy"]["kind"]]
