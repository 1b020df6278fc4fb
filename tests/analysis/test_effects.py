"""Effects of factors: exact where there is no noise, and careful where there is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cnnstudy.analysis.effects import ALL_TRIALS, LEAST_SQUARES, PAIRS, Effect, correct_together, estimate_effects
from cnnstudy.config.factors import Choices, Levels, Range
from cnnstudy.records import Level

GAP, VALIDATION = "epochs/gap_accuracy", "epochs/val_accuracy"
BATCH, DROPOUT = Choices((128, 8)), Choices((0.0, 0.5))
AUGMENTATION = Choices(("none", "flip", "strong"))
#: What a trial's gap is, from its levels.
Truth = Callable[[Mapping[str, Any]], float]
#: No trial's gap is a multiple of 1 / n, and no two seeds agree to the last digit: then nothing says how finely they
#: are measured.
SEED, ALMOST_NONE = 0.01 * math.sqrt(2), 1e-10


def study(factors: Mapping[str, Levels], gap: Truth, seeds: int = 3, noise: float = ALMOST_NONE) -> pd.DataFrame:
    """Return a full factorial; a seed adds the same to all of its trials."""
    names = list(factors)
    lists = [levels.values for levels in factors.values() if isinstance(levels, Choices)]
    points = [dict(zip(names, point, strict=True)) for point in itertools.product(*lists)]
    return trials([{"seed": seed, **point} for seed in range(seeds) for point in points], gap, noise)


def trials(rows: list[dict[str, Any]], gap: Truth, noise: float = ALMOST_NONE) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(rows)
    values = np.array([gap(row) + SEED * row["seed"] for row in rows]) + noise * rng.normal(size=len(rows))
    return frame.assign(**{GAP: values, VALIDATION: 0.9 - values}, architecture="vgg16", verdict="overfit")


def of(effects: list[Effect], factor: str, level: Level, second: str | None = None, column: str = GAP) -> Effect:
    (found,) = [
        effect
        for effect in effects
        if (effect.factor, effect.level, effect.second) == (factor, level, second)
        and f"{effect.basis}/{effect.outcome}" == column
    ]
    return found


def additive(levels: Mapping[str, Any]) -> float:
    return 0.3 - 0.04 * (levels["batch_size"] == 8) + 0.1 * levels["dropout"]


# ---- matched pairs


def test_effects_without_noise_are_exact() -> None:
    effects = estimate_effects(
        study({"batch_size": BATCH, "dropout": DROPOUT}, additive), {"batch_size": BATCH, "dropout": DROPOUT}
    )
    batch, dropout = of(effects, "batch_size", 128), of(effects, "dropout", 0.5)
    assert (batch.baseline, dropout.baseline) == (8, 0.0)  # the lowest, wherever it stands in the list
    assert [batch.estimate, batch.low, batch.high] == pytest.approx([0.04] * 3)
    assert [dropout.estimate, dropout.low, dropout.high] == pytest.approx([0.05] * 3)
    assert (batch.answer, batch.seeds, batch.pairs, batch.method) == ("raises", 3, 6, PAIRS)
    assert of(effects, "batch_size", 128, column=VALIDATION).answer == "lowers"
    assert (batch.architecture, batch.basis, batch.outcome) == ("vgg16", "epochs", "gap_accuracy")


def test_an_interaction_is_the_difference_of_differences() -> None:
    factors = {"batch_size": BATCH, "augmentation": AUGMENTATION}

    def gap(levels: Mapping[str, Any]) -> float:
        return 0.3 + 0.06 * (levels["batch_size"] == 128 and levels["augmentation"] == "strong")

    effects = estimate_effects(study(factors, gap), factors)
    (strong,) = [e for e in effects if (e.second_level, e.outcome) == ("strong", "gap_accuracy")]
    assert (strong.second_baseline, strong.pairs) == ("none", 3)
    assert strong.estimate == pytest.approx(0.06)
    # a main effect is the average over the other factor's levels
    assert of(effects, "batch_size", 128).estimate == pytest.approx(0.02)
    assert of(effects, "augmentation", "strong").estimate == pytest.approx(0.03)
    assert of(effects, "augmentation", "flip").answer == "cannot tell"
    assert len(effects) == 2 * (1 + 2 + 2)


def test_the_interval_is_students_over_the_seeds() -> None:
    rows = [{"seed": seed, "batch_size": batch} for seed in range(3) for batch in (8, 128)]
    frame = trials(rows, lambda levels: [0.04, 0.05, 0.09][levels["seed"]] * (levels["batch_size"] == 128))
    (effect,) = estimate_effects(frame, {"batch_size": BATCH}, [GAP])
    # mean 0.06, standard deviation 0.026458, t(2) = 4.302653
    assert [effect.estimate, effect.low, effect.high] == pytest.approx([0.06, -0.005724, 0.125724], abs=1e-6)
    assert effect.p == pytest.approx(stats.ttest_1samp([0.04, 0.05, 0.09], 0).pvalue)
    assert effect.answer == "cannot tell"


def test_one_seed_has_no_interval() -> None:
    factors = {"batch_size": BATCH, "dropout": DROPOUT}
    effect = of(estimate_effects(study(factors, additive, seeds=1), factors), "batch_size", 128)
    assert effect.estimate == pytest.approx(0.04)
    assert (effect.low, effect.high, effect.p, effect.p_adjusted, effect.seeds) == (None, None, None, None, 1)
    assert effect.answer == "cannot tell"


def test_missing_trials_drop_their_pairs_only() -> None:
    factors = {"batch_size": BATCH, "dropout": DROPOUT, "augmentation": AUGMENTATION}
    whole = study(factors, additive)
    frame = whole.drop(index=[0, 7, 20]).sample(frac=1, random_state=0)
    full, part = (of(estimate_effects(given, factors), "dropout", 0.5) for given in (whole, frame))
    assert (full.pairs, part.pairs) == (18, 15)
    assert [part.estimate, part.low, part.high] == pytest.approx([0.05] * 3, abs=1e-8)


def test_a_seed_without_pairs_is_not_counted() -> None:
    frame = study({"batch_size": BATCH, "dropout": DROPOUT}, additive)
    frame = frame[(frame["seed"] < 2) | (frame["dropout"] == 0.0)]
    effects = estimate_effects(frame, {"batch_size": BATCH, "dropout": DROPOUT})
    assert (of(effects, "dropout", 0.5).seeds, of(effects, "batch_size", 128).seeds) == (2, 3)


def test_trials_that_repeat_a_cell_are_averaged() -> None:
    frame = study({"batch_size": BATCH, "dropout": DROPOUT}, additive)
    again = frame.iloc[:1].assign(**{GAP: frame[GAP].iloc[0] + 0.02})
    effect = of(estimate_effects(pd.concat([frame, again]), {"batch_size": BATCH, "dropout": DROPOUT}), "dropout", 0.5)
    # the first cell rises by 0.01: one pair of two in one seed of three
    assert (effect.estimate, effect.pairs) == (pytest.approx(0.05 - 0.01 / 6), 6)


# ---- factors that are not always active

NESTED: dict[str, Levels] = {
    "transfer": Choices(("scratch", "fine-tune")),
    "dropout": DROPOUT,
    "backbone_learning_rate_multiplier": Choices((0.1, 1.0)),
}


def nested_study(seeds: int = 3) -> pd.DataFrame:
    points = [("scratch", None), ("fine-tune", 0.1), ("fine-tune", 1.0)]
    rows = [
        {"seed": seed, "dropout": dropout, "transfer": transfer, "backbone_learning_rate_multiplier": multiplier}
        for seed in range(seeds)
        for dropout in (0.0, 0.5)
        for transfer, multiplier in points
    ]
    return trials(
        rows,
        lambda levels: (
            0.3
            - 0.1 * (levels["transfer"] == "fine-tune")
            + 0.04 * (levels["backbone_learning_rate_multiplier"] == 1.0)
            + 0.1 * levels["dropout"]
        ),
    )


def test_a_factor_active_on_one_side_is_averaged_over() -> None:
    effects = estimate_effects(nested_study(), NESTED, [GAP])
    transfer = of(effects, "transfer", "fine-tune")
    assert (transfer.estimate, transfer.pairs) == (pytest.approx(-0.08), 6)
    multiplier = of(effects, "backbone_learning_rate_multiplier", 1.0)
    assert (multiplier.estimate, multiplier.pairs) == (pytest.approx(0.04), 6)
    # two factors of which one is not active have no interaction
    assert {(effect.factor, effect.second) for effect in effects if effect.second} == {
        ("transfer", "dropout"),
        ("dropout", "backbone_learning_rate_multiplier"),
    }
    assert all(effect.estimate == pytest.approx(0.0, abs=1e-8) for effect in effects if effect.second)


def test_a_missing_trial_does_not_tilt_that_average() -> None:
    frame = nested_study()
    gone = (frame["seed"] == 0) & (frame["dropout"] == 0.5) & (frame["backbone_learning_rate_multiplier"] == 1.0)
    transfer = of(estimate_effects(frame[~gone], NESTED), "transfer", "fine-tune")
    assert [transfer.estimate, transfer.low, transfer.high] == pytest.approx([-0.08] * 3, abs=1e-8)


# ---- what is left out


def test_trials_that_learnt_nothing_count() -> None:
    frame = study({"batch_size": BATCH, "dropout": DROPOUT}, additive)
    idle = (frame["batch_size"] == 128) & (frame["dropout"] == 0.5)
    frame.loc[idle, ["verdict", GAP]] = ["not-learning", 0.0]
    gap = of(estimate_effects(frame, {"batch_size": BATCH, "dropout": DROPOUT}), "batch_size", 128)
    # of the gaps of 0.31 and 0.35 with dropout, only the first is left
    assert (gap.estimate, gap.pairs) == (pytest.approx((0.04 - 0.31 - SEED) / 2), 6)


def test_outcomes_that_trials_lack() -> None:
    frame = study({"batch_size": BATCH, "dropout": DROPOUT}, additive)
    frame["train_loss/gap_accuracy"] = np.where(frame["dropout"] == 0.0, frame[GAP], math.nan)
    frame["updates/gap_loss"] = math.nan
    effects = estimate_effects(frame, {"batch_size": BATCH, "dropout": DROPOUT})
    at_loss = [effect for effect in effects if effect.basis == "train_loss"]
    assert [(effect.factor, effect.pairs) for effect in at_loss] == [("batch_size", 3)]
    assert all(effect.basis != "updates" for effect in effects)


def test_nothing_to_compare() -> None:
    frame = study({"batch_size": BATCH, "dropout": DROPOUT}, additive)
    assert estimate_effects(frame, {"learning_rate": Choices((0.1, 0.2))}) == []
    assert estimate_effects(frame, {"batch_size": Choices((8,))}) == []
    assert estimate_effects(frame.iloc[:0], {"batch_size": BATCH}) == []
    assert estimate_effects(frame[frame["batch_size"] == 8], {"batch_size": BATCH}) == []


def test_several_networks() -> None:
    frame = study({"batch_size": BATCH}, lambda levels: 0.3)
    other = frame.assign(architecture="alexnet", **{GAP: frame[GAP] + 0.05})
    both = pd.concat([other, frame])
    with pytest.raises(ValueError, match="several networks: alexnet, vgg16"):
        estimate_effects(both, {"batch_size": BATCH})
    networks = Choices(("alexnet", "vgg16"))
    effect = of(estimate_effects(both, {"batch_size": BATCH, "architecture": networks}), "architecture", "vgg16")
    assert (effect.estimate, effect.architecture) == (pytest.approx(-0.05), "")


def test_an_unknown_outcome() -> None:
    frame = study({"batch_size": BATCH}, lambda levels: 0.3)
    for column in ("epochs/gap", "seed"):
        with pytest.raises(ValueError, match=f"no outcome '{column}'"):
            estimate_effects(frame, {"batch_size": BATCH}, [column])


# ---- least squares


def half(factors: Mapping[str, Levels], gap: Truth, seeds: int = 3, noise: float = ALMOST_NONE) -> pd.DataFrame:
    """In half of a two-level factorial no two cells differ in one factor alone."""
    lists = [levels.values for levels in factors.values() if isinstance(levels, Choices)]
    points = [point for point in itertools.product((0, 1), repeat=len(lists)) if sum(point) % 2 == 0]
    rows = [
        {"seed": seed, **{name: values[at] for name, values, at in zip(factors, lists, point, strict=True)}}
        for seed in range(seeds)
        for point in points
    ]
    return trials(rows, gap, noise)


TWO_LEVELS: dict[str, Levels] = {
    "batch_size": BATCH,
    "dropout": DROPOUT,
    "augmentation": Choices(("none", "flip")),
    "data_fraction": Choices((0.5, 1.0)),
}


def test_a_fraction_of_a_factorial() -> None:
    effects = estimate_effects(half(TWO_LEVELS, additive), TWO_LEVELS, [GAP])
    assert [(e.factor, round(e.estimate, 9), e.pairs, e.method) for e in effects] == [
        ("batch_size", 0.04, 0, LEAST_SQUARES),
        ("dropout", 0.05, 0, LEAST_SQUARES),
        ("augmentation", 0.0, 0, LEAST_SQUARES),
        ("data_fraction", 0.0, 0, LEAST_SQUARES),
    ]  # each interaction is mixed up with another: none is told
    assert [effect.answer for effect in effects] == ["raises", "raises", "cannot tell", "cannot tell"]


def test_a_fraction_that_tells_interactions() -> None:
    factors = TWO_LEVELS | {"protocol": Choices(("clean", "legacy"))}

    def gap(levels: Mapping[str, Any]) -> float:
        return additive(levels) + 0.08 * (levels["batch_size"] == 128 and levels["protocol"] == "legacy")

    effects = estimate_effects(half(factors, gap), factors, [GAP])
    assert of(effects, "batch_size", 128).estimate == pytest.approx(0.08)
    assert of(effects, "batch_size", 128, "protocol").estimate == pytest.approx(0.08)
    assert of(effects, "batch_size", 128, "dropout").estimate == pytest.approx(0.0, abs=1e-8)


RANGES: dict[str, Levels] = {
    "dropout": Range(0.0, 0.6),
    "learning_rate": Range(1e-5, 1e-3, log=True),
    "transfer": Choices(("scratch", "fine-tune")),
    "backbone_learning_rate_multiplier": Range(0.01, 1.0, log=True),
}


def points(seeds: list[int], count: int = 70) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        point = {"dropout": 0.6 * rng.random(), "learning_rate": 10 ** rng.uniform(-5, -3)}
        fine = number % 2 == 0
        point["backbone_learning_rate_multiplier"] = 10 ** rng.uniform(-2, 0) if fine else None
        found.append({**point, "transfer": "fine-tune" if fine else "scratch"})
    return [{"seed": seed, **point} for seed in seeds for point in found]


def on_ranges(levels: Mapping[str, Any]) -> float:
    rate, dropout = (math.log10(levels["learning_rate"]) + 5) / 2, levels["dropout"] / 0.6
    multiplier = levels["backbone_learning_rate_multiplier"]
    fine = 0.0 if multiplier is None else -0.1 + 0.05 * (math.log10(multiplier) + 1) / 2
    return 0.3 - 0.08 * dropout + 0.04 * rate + 0.06 * (dropout - 0.5) * (rate - 0.5) + fine


@pytest.mark.parametrize("seeds", [[0, 1, 2], [0]], ids=["seeds", "search"])
def test_ranges_by_their_ends(seeds: list[int]) -> None:
    effects = estimate_effects(trials(points(seeds), on_ranges), RANGES, [GAP])
    expected = {
        ("dropout", None): -0.08,
        ("learning_rate", None): 0.04,
        ("transfer", None): -0.1,
        ("backbone_learning_rate_multiplier", None): 0.05,
        ("dropout", "learning_rate"): 0.06,
    }
    found = {(effect.factor, effect.second): effect for effect in effects}
    for named, effect in found.items():
        assert effect.estimate == pytest.approx(expected.get(named, 0.0), abs=1e-9), named
        assert (effect.pairs, effect.method) == (0, LEAST_SQUARES if len(seeds) > 1 else ALL_TRIALS)
    assert set(expected) <= set(found)
    assert ("transfer", "backbone_learning_rate_multiplier") not in found
    assert (found["dropout", None].baseline, found["dropout", None].level) == (0.0, 0.6)


def test_a_search_has_the_intervals_of_hc3() -> None:
    import statsmodels.api as sm

    factors: dict[str, Levels] = {"dropout": Range(0.0, 0.6), "transfer": Choices(("scratch", "fine-tune"))}
    rows = [{**point, "seed": number} for number, point in enumerate(points([0], 14))]
    frame = trials(rows, lambda levels: levels["dropout"] / 10, noise=0.02)
    effects = estimate_effects(frame, factors, [GAP])
    fine = (frame["transfer"] == "fine-tune") - 0.5
    # a natural cubic spline is a cubic spline that is straight beyond its ends: six knots, six columns
    place = frame["dropout"].to_numpy() / 0.6
    knots = np.linspace(0, 1, 6)
    cubic = [np.maximum(place - knot, 0) ** 3 for knot in knots]
    slopes = [(cubic[i] - cubic[5]) / (1 - knots[i]) for i in range(5)]
    matrix = np.column_stack([np.ones(14), place, *(slope - slopes[4] for slope in slopes[:4]), fine])
    fitted = sm.OLS(frame[GAP].to_numpy(), matrix).fit(cov_type="HC3", use_t=True)
    at_end = np.array([1 - knots[i] for i in range(5)]) ** 2
    ends = np.array([0, 1, *(at_end[:4] - at_end[4]), 0])
    assert [(e.factor, e.second, e.method, e.seeds) for e in effects] == [
        ("dropout", None, ALL_TRIALS, 14),
        ("transfer", None, ALL_TRIALS, 14),
    ]  # 14 trials are too few for interactions
    test = fitted.t_test(ends)
    expected = [float(test.effect[0]), *test.conf_int()[0], float(test.pvalue)]
    assert [effects[0].estimate, effects[0].low, effects[0].high, effects[0].p] == pytest.approx(expected)


def test_a_level_of_one_trial_in_a_search() -> None:
    factors: dict[str, Levels] = {"dropout": Range(0.0, 0.6), "augmentation": AUGMENTATION}
    rows = [
        {**point, "seed": number, "augmentation": "strong" if number == 0 else ("none", "flip")[number % 2]}
        for number, point in enumerate(points([0], 20))
    ]
    effects = estimate_effects(trials(rows, lambda levels: levels["dropout"] / 10, noise=0.02), factors, [GAP])
    assert [(e.factor, e.level) for e in effects if e.second is None] == [("dropout", 0.6), ("augmentation", "flip")]


def test_too_few_trials_for_a_search() -> None:
    rows = [{**point, "seed": number} for number, point in enumerate(points([0], 5))]
    assert estimate_effects(trials(rows, on_ranges), RANGES) == []


# ---- many comparisons


def test_main_effects_and_interactions_are_one_family() -> None:
    effects = estimate_effects(study(TWO_LEVELS, additive, noise=0.02), TWO_LEVELS, [GAP])
    main = [effect for effect in effects if effect.second is None]
    assert (len(main), len(effects)) == (4, 10)
    for effect in effects:
        assert effect.p is not None
        assert effect.p_adjusted is not None
        assert 1.0 >= effect.p_adjusted >= effect.p
        assert (effect.answer == "cannot tell") == (effect.p_adjusted >= 0.05)
    assert [effect.answer for effect in main][:2] == ["raises", "raises"]
    alone = estimate_effects(study(TWO_LEVELS, additive, noise=0.02), {"batch_size": BATCH}, [GAP])
    assert alone[0].p_adjusted is not None
    assert alone[0].p_adjusted == alone[0].p


def test_more_networks_make_the_family_larger() -> None:
    frame = study(TWO_LEVELS, additive, noise=0.05)
    alone = estimate_effects(frame, TWO_LEVELS, [GAP])
    others = [estimate_effects(frame.assign(architecture=name), TWO_LEVELS, [GAP]) for name in ("alexnet", "googlenet")]
    together = correct_together([*alone, *others[0], *others[1]])
    assert len(together) == 30
    assert all(
        one.p_adjusted is not None and few.p_adjusted is not None and one.p_adjusted >= few.p_adjusted
        for one, few in zip(together, alone, strict=False)
    )
    assert sum(one.p_adjusted or 0 for one in together[:10]) > sum(one.p_adjusted or 0 for one in alone)


# ---- what gives no answer


def test_two_seeds_that_agree_are_no_answer() -> None:
    frame = study({"batch_size": BATCH}, lambda levels: 0.5 + 0.125 * (levels["batch_size"] == 128), seeds=2)
    frame[GAP] = (frame[GAP] * 8).round() / 8
    (effect,) = estimate_effects(frame, {"batch_size": BATCH}, [GAP])
    assert effect.estimate == 0.125
    assert effect.low is not None
    assert effect.high is not None
    assert -1 <= effect.low < 0.125 < effect.high <= 1
    assert (effect.answer, effect.repeats) == ("cannot tell", 1.0)
    assert effect.reason == "2 seeds may agree by chance; an answer takes at least 3"


def test_seeds_that_agree_are_as_variable_as_their_images_make_them() -> None:
    frame = study({"batch_size": BATCH}, lambda levels: 0.0, seeds=3)
    frame[GAP] = np.where(frame["batch_size"] == 128, 0.32, 0.24)
    for images, answer in ((25, "cannot tell"), (100_000, "raises")):
        (effect,) = estimate_effects(frame, {"batch_size": BATCH}, [GAP], images=images)
        q = (0.28 * images + 1) / (images + 2)
        variance = 2 * (1 / images**2 / 12 + q * (1 - q) / images)
        assert effect.high == pytest.approx(0.08 + stats.t.ppf(0.975, 2) * math.sqrt(variance / 3))
        assert effect.answer == answer


def test_seeds_that_agree_in_a_continuous_outcome_say_nothing() -> None:
    frame = study({"batch_size": BATCH}, lambda levels: 0.0).assign(**{"epochs/val_loss": math.pi})
    (effect,) = estimate_effects(frame, {"batch_size": BATCH}, ["epochs/val_loss"])
    assert (effect.estimate, effect.low, effect.answer) == (0.0, None, "cannot tell")
    assert "nothing tells how finely" in effect.reason


def test_a_main_effect_that_is_mixed_with_an_interaction() -> None:
    factors = {name: TWO_LEVELS[name] for name in ("batch_size", "dropout", "augmentation")}
    frame = half(factors, additive, noise=0.001)
    (batch, *others) = estimate_effects(frame, factors, [GAP])
    assert (batch.answer, batch.p_adjusted, batch.repeats) == ("cannot tell", None, 1.0)
    assert batch.reason == "mixed with dropout x augmentation: these trials cannot separate them"
    assert [effect.answer for effect in others] == ["cannot tell"] * 2
    (batch, *others) = estimate_effects(frame, factors, [GAP], interactions=False)
    assert [batch.answer, *(effect.answer for effect in others)] == ["raises", "raises", "cannot tell"]


def test_missing_trials_that_could_overturn_an_answer() -> None:
    factors = {"batch_size": BATCH, "dropout": DROPOUT}
    frame = study(factors, additive, seeds=4, noise=0.02)
    whole = of(estimate_effects(frame, factors, [GAP]), "batch_size", 128)
    assert whole.answer == "raises"
    frame.loc[[3, 7, 11], GAP] = math.nan
    rows = estimate_effects(frame, factors, [GAP])
    assert rows == estimate_effects(frame[frame[GAP].notna()], factors, [GAP]), "a trial without outcome is not there"
    part = of(rows, "batch_size", 128)
    assert part.answer == "cannot tell"
    assert part.missing > 0
    assert part.reason.startswith("3 trials are missing beside the 13 that are there")


def test_an_interaction_that_is_only_a_ceiling() -> None:
    factors = {"batch_size": BATCH, "dropout": DROPOUT}

    def accuracy(levels: Mapping[str, Any]) -> float:
        return 1 / (1 + math.exp(-1 - 1.5 * (levels["batch_size"] == 128) - 1.5 * (levels["dropout"] == 0.5)))

    frame = study(factors, accuracy, seeds=6, noise=0.002)
    frame[VALIDATION] = frame[GAP] - SEED * frame["seed"]
    effect = of(estimate_effects(frame, factors, [VALIDATION]), "batch_size", 128, "dropout", VALIDATION)
    assert (effect.answer, effect.ceiling) == ("lowers", True)
    assert "only a ceiling" in effect.reason
    assert not of(estimate_effects(frame, factors, [VALIDATION]), "batch_size", 128, column=VALIDATION).ceiling


def test_a_seed_that_has_hardly_begun_is_left_out() -> None:
    factors = {"batch_size": BATCH, "dropout": DROPOUT}
    frame = study(factors, additive, seeds=4, noise=0.01)
    begun = frame[(frame["seed"] < 3) | (frame.index == frame.index[-1])]
    assert estimate_effects(begun, factors, [GAP]) == estimate_effects(frame[frame["seed"] < 3], factors, [GAP])


@pytest.mark.parametrize(
    ("low", "high", "p_adjusted", "answer"),
    [
        (0.01, 0.05, 0.01, "raises"),
        (-0.05, -0.01, 0.01, "lowers"),
        (-0.01, 0.05, 0.01, "cannot tell"),
        (0.01, 0.05, 0.05, "cannot tell"),
        (None, None, None, "cannot tell"),
    ],
)
def test_the_answer(low: float | None, high: float | None, p_adjusted: float | None, answer: str) -> None:
    compared = ("vgg16", "dropout", 0.0, 0.5, None, None, None, "epochs", "gap_accuracy")
    effect = Effect(*compared, 0.02, low, high, p=0.01, p_adjusted=p_adjusted, seeds=3, pairs=9, method=PAIRS)
    assert effect.answer == answer
