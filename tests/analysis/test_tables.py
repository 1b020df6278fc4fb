"""cnnstudy.effects: the analysis of any table of trials."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import cnnstudy
from cnnstudy.analysis.effects import estimate_effects
from cnnstudy.analysis.tables import COLUMNS, find_levels
from cnnstudy.config.factors import Choices, Range
from cnnstudy.errors import InputError


def table(seeds: int = 4, networks: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return trials of factors that cnnstudy does not have; depth 50 raises the gap by 6 points."""
    rng = np.random.default_rng(2)
    rows = [
        {"run": seed, "depth": depth, "pooling": pooling, "warm": warm, **({"architecture": name} if name else {})}
        for name in networks or ("",)
        for seed in range(seeds)
        for depth, pooling, warm in itertools.product((50, 18), ("max", "mean"), (False, True))
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(gap=0.2 + 0.06 * (frame["depth"] == 50) + rng.normal(0, 0.01, len(frame)))


def test_a_row_for_each_contrast() -> None:
    found = cnnstudy.effects(table(), ["depth", "pooling", "warm"], seed="run")
    assert tuple(found) == COLUMNS
    assert len(found) == 3 + 3
    depth = found.iloc[0]
    assert list(depth[["architecture", "factor", "baseline", "level"]]) == ["", "depth", 18, 50]
    assert pd.isna(depth["second_factor"])
    assert depth["low"] < 0.06 < depth["high"]
    assert list(depth[["answer", "trials", "seeds"]]) == ["raises", 32, 4]
    assert "the 95 % interval excludes 0" in depth["reason"]
    assert 0.9 < depth["repeats"] <= 1
    second = found.iloc[3]
    names = ["factor", "baseline", "level", "second_factor", "second_baseline", "second_level"]
    assert list(second[names]) == ["depth", 18, 50, "pooling", "max", "mean"]


def test_it_is_what_the_command_computes() -> None:
    frame = table().rename(columns={"run": "seed", "gap": "epochs/gap_accuracy"}).assign(architecture="vgg16")
    levels = {"depth": Choices((50, 18)), "pooling": Choices(("max", "mean"))}
    found = cnnstudy.effects(frame, list(levels), "epochs/gap_accuracy")
    for row, effect in zip(found.itertuples(), estimate_effects(frame, levels), strict=True):
        assert [row.estimate, row.low, row.high] == [effect.estimate, effect.low, effect.high]
        assert [row.answer, row.reason, row.repeats] == [effect.answer, effect.reason, effect.repeats]


def test_networks_are_analysed_one_by_one_and_corrected_together() -> None:
    frame = table(networks=("a", "b"))
    found = cnnstudy.effects(frame, ["depth", "pooling"], seed="run")
    assert list(found["architecture"]) == ["a"] * 3 + ["b"] * 3
    compared = cnnstudy.effects(frame, ["architecture", "depth"], seed="run")
    assert list(compared["factor"]) == ["architecture", "depth", "architecture"]


def test_a_missing_trial_is_a_missing_outcome() -> None:
    frame = table().rename(columns={"run": "seed"})
    factors = ["depth", "pooling", "warm"]
    without = frame.drop(index=[2, 9])
    frame.loc[[2, 9], "gap"] = math.nan
    pd.testing.assert_frame_equal(cnnstudy.effects(frame, factors), cnnstudy.effects(without, factors))


def test_the_levels_of_columns() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"rate": 10 ** rng.uniform(-5, -2, 40), "drop": rng.random(40), "size": [8, 16] * 20})
    names = ["rate", "drop", "size"]
    rate, drop, size = (find_levels(frame, name, names) for name in names)
    assert rate == Range(frame["rate"].min(), frame["rate"].max(), log=True)
    assert drop == Range(frame["drop"].min(), frame["drop"].max())
    assert size == Choices((8, 16))


def test_nothing_to_compare_is_refused() -> None:
    frame = table()
    with pytest.raises(InputError, match=r"'depth' has one level \(18\) in all trials; leave it out"):
        cnnstudy.effects(frame[frame["depth"] == 18], ["depth"], seed="run")
    with pytest.raises(InputError, match="the table has no trials"):
        cnnstudy.effects(frame[:0], ["depth"], seed="run")


def test_texts_and_numbers_are_no_levels_of_one_factor() -> None:
    frame = table()
    frame["depth"] = [str(depth) if i % 2 else depth for i, depth in enumerate(frame["depth"])]
    with pytest.raises(InputError, match="'depth' has texts and numbers among its levels, as '18' and 50"):
        cnnstudy.effects(frame, ["depth"], seed="run")


def test_numbers_that_agree_up_to_rounding_are_one_level() -> None:
    frame = table()
    frame["depth"] = [0.1 + 0.2 if i % 2 else 0.3 for i in range(len(frame))]
    with pytest.raises(InputError, match=r"has one level \(0.3\)"):
        cnnstudy.effects(frame, ["depth"], seed="run")


@pytest.mark.parametrize("given", ["categorical", "levels"])
def test_the_baseline_of_names_can_be_given(given: str) -> None:
    """So that it does not depend on which trial comes first."""
    frame, levels = table()[::-1], None
    if given == "categorical":
        frame["pooling"] = pd.Categorical(frame["pooling"], ["max", "mean"])
    else:
        levels = {"pooling": ["max", "mean"]}
    assert cnnstudy.effects(table()[::-1], ["pooling"], seed="run")["baseline"].tolist() == ["mean"]
    assert cnnstudy.effects(frame, ["pooling"], seed="run", levels=levels)["baseline"].tolist() == ["max"]


def test_images_are_for_shares() -> None:
    frame = table()
    frame["gap"] *= 100
    with pytest.raises(InputError, match=r"lie in -1..1; divide percentages by 100"):
        cnnstudy.effects(frame, ["depth"], seed="run", images=40)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factors": ["depth"]}, "no column 'seed' for the seed; the columns are 'run', 'depth', 'pooling'"),
        ({"factors": None, "seed": "run"}, "factors must be a list of columns, not None"),
        ({"factors": [["depth"]], "seed": "run"}, "no column \\['depth'\\] for the factor"),
        ({"factors": ["depth"], "outcome": None, "seed": "run"}, "no column None for the outcome"),
        ({"factors": ["depth"], "seed": "run", "levels": {"deep": Choices((1, 2))}}, "'deep', which is no factor"),
        ({"factors": ["depth"], "seed": "run", "levels": {"depth": "18"}}, "must be a list of at least two, not '18'"),
        ({"factors": ["depth"], "seed": "run", "levels": {"depth": [18, 18]}}, "must be a list of at least two"),
        ({"factors": ["depth"], "seed": "run", "levels": [1]}, "levels must be a dictionary"),
        ({"factors": ["deep"], "seed": "run"}, "no column 'deep' for the factor; the columns are"),
        ({"factors": ["depth"], "outcome": "loss", "seed": "run"}, "no column 'loss' for the outcome"),
        ({"factors": [], "seed": "run"}, "no factors are given; the columns are"),
        ({"factors": ["depth", "run"], "seed": "run"}, "each column has one role"),
        ({"factors": ["depth"], "outcome": "pooling", "seed": "run"}, "the outcome 'pooling' must be numbers; 'max'"),
    ],
)
def test_columns_that_do_not_fit(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cnnstudy.effects(table(), **arguments)  # type: ignore[arg-type]


def test_main_effects_that_cannot_be_estimated_are_listed() -> None:
    rows = [(seed, size, drop) for seed in range(3) for size, drop in ((8, 0.0), (64, 0.5))]
    frame = pd.DataFrame(rows, columns=["seed", "batch_size", "dropout"]).assign(gap=[0.1, 0.3, 0.12, 0.31, 0.11, 0.33])
    found = cnnstudy.effects(frame, ["batch_size", "dropout"])
    assert found["factor"].tolist() == ["batch_size", "dropout"]
    assert found["answer"].tolist() == ["cannot tell", "cannot tell"]
    assert found["estimate"].isna().all()
    assert found["reason"].str.contains("cannot separate").all()
    assert (found["repeats"] == 1).all()


def test_a_trial_without_a_seed() -> None:
    frame = table().astype({"run": float})
    frame.loc[3, "run"] = math.nan
    with pytest.raises(InputError, match="the seed 'run' is missing in 1 trials"):
        cnnstudy.effects(frame, ["depth"], seed="run")


def test_importing_the_package_is_light() -> None:
    code = "import sys, cnnstudy; assert 'pandas' not in sys.modules; assert 'effects' in dir(cnnstudy)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'causes'"):
        _ = cnnstudy.causes


def test_what_is_no_table() -> None:
    with pytest.raises(InputError, match="must be a pandas DataFrame with a row per trial, not list"):
        cnnstudy.effects([1, 2], ["depth"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="columns must have different names"):
        cnnstudy.effects(pd.concat([table(), table()], axis=1), ["depth"], seed="run")
    with pytest.raises(InputError, match="images must be a whole number above 0, not -3"):
        cnnstudy.effects(table(), ["depth"], seed="run", images=-3)
    nameless = table().assign(architecture="net")
    nameless.loc[0, "architecture"] = None
    with pytest.raises(InputError, match="the architecture is missing in 1 trials"):
        cnnstudy.effects(nameless, ["depth"], seed="run")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("gap", [0.1] * 31 + [math.inf], "the outcome 'gap' is infinite, or beyond 1e\\+100, in 1 trials"),
        ("gap", [1e200] * 32, "beyond 1e\\+100, in 32 trials"),
        ("gap", ["0.1"] * 32, "must be numbers; '0.1' is str. pandas.to_numeric"),
        ("gap", pd.Categorical(["a", "b"] * 16), "must be numbers; 'a' is str"),
        ("gap", [True] * 32, "must be numbers; True is bool"),
        ("gap", [1j] * 32, "must be numbers; 1j is complex"),
        ("depth", [math.inf, 1.0] * 16, "the factor 'depth' has an infinite level"),
        ("depth", [[1], [2]] * 16, "the factor 'depth' must hold numbers or names; \\[1\\] is list"),
        ("run", [[1]] * 32, "the seed 'run' must hold numbers or names; \\[1\\] is list"),
        ("seed", [1, 2] * 16, "a factor cannot be named 'seed'"),
    ],
)
def test_values_that_do_not_fit(column: str, values: Any, message: str) -> None:
    frame = table().assign(**{column: values})
    with pytest.raises(InputError, match=message):
        cnnstudy.effects(frame, ["depth", "seed"] if column == "seed" else ["depth"], seed="run")


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.set_index(pd.Index([5] * len(frame))),
        lambda frame: frame.set_index(["run", "depth"], drop=False),
        lambda frame: pd.concat([frame, frame]),  # trials of one cell and seed are averaged
        lambda frame: frame.astype({"depth": "category", "pooling": "category", "run": "category"}),
        lambda frame: frame.astype({"depth": "Int64", "gap": "Float64", "pooling": "string"}),
        lambda frame: frame.astype({"depth": object, "gap": object}),
        lambda frame: frame.assign(run=frame["run"].map({0: 0, 1: "b", 2: math.inf, 3: pd.Timestamp("2026-01-01")})),
    ],
    ids=["index", "levels of an index", "twice", "categories", "nullable", "objects", "seeds of any kind"],
)
def test_the_same_table_in_other_clothes(change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    frame, numbers = table(), ["estimate", "low", "high"]
    found = cnnstudy.effects(change(frame), ["depth", "pooling"], seed="run")
    expected = cnnstudy.effects(frame, ["depth", "pooling"], seed="run")
    assert found[numbers].to_numpy(dtype=float) == pytest.approx(expected[numbers].to_numpy(dtype=float))
    assert found["answer"].tolist() == expected["answer"].tolist()


def test_trials_without_an_outcome_are_no_error() -> None:
    frame = table()
    nothing = cnnstudy.effects(frame.assign(gap=math.nan), ["depth"], seed="run")
    assert nothing["answer"].tolist() == ["cannot tell"]
