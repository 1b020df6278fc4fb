"""cnnstudy.effects: the analysis of any table of trials."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import cnnstudy
from cnnstudy.analysis.effects import estimate_effects
from cnnstudy.analysis.tables import COLUMNS, find_levels
from cnnstudy.config.factors import Choices, Range


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


def test_nothing_to_compare_is_an_empty_table() -> None:
    frame = table()
    found = cnnstudy.effects(frame[frame["depth"] == 18], ["depth"], seed="run")
    assert (len(found), tuple(found)) == (0, COLUMNS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factors": ["depth"]}, "no column 'seed' for the seed; the columns are 'run', 'depth', 'pooling'"),
        ({"factors": ["deep"], "seed": "run"}, "no column 'deep' for the factor; the columns are"),
        ({"factors": ["depth"], "outcome": "loss", "seed": "run"}, "no column 'loss' for the outcome"),
        ({"factors": [], "seed": "run"}, "no factors; the columns are"),
        ({"factors": ["depth", "run"], "seed": "run"}, "must be different columns"),
        ({"factors": ["depth"], "outcome": "pooling", "seed": "run"}, "the outcome 'pooling' must be numbers"),
    ],
)
def test_columns_that_do_not_fit(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
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
    with pytest.raises(ValueError, match="the seed 'run' is missing in 1 trials"):
        cnnstudy.effects(frame, ["depth"], seed="run")


def test_importing_the_package_is_light() -> None:
    code = "import sys, cnnstudy; assert 'pandas' not in sys.modules; assert 'effects' in dir(cnnstudy)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'causes'"):
        _ = cnnstudy.causes


def test_what_is_no_table() -> None:
    with pytest.raises(ValueError, match="must be a pandas DataFrame with a row per trial, not list"):
        cnnstudy.effects([1, 2], ["depth"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="columns must have different names"):
        cnnstudy.effects(pd.concat([table(), table()], axis=1), ["depth"], seed="run")
    with pytest.raises(ValueError, match="images must be a whole number above 0, not -3"):
        cnnstudy.effects(table(), ["depth"], seed="run", images=-3)
    nameless = table().assign(architecture="net")
    nameless.loc[0, "architecture"] = None
    with pytest.raises(ValueError, match="the architecture is missing in 1 trials"):
        cnnstudy.effects(nameless, ["depth"], seed="run")
