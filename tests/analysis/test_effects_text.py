"""Every number in the sentences about effects is that of the trials that they name, and words follow the intervals."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulated import Simulated
from statsmodels.formula import api as smf
from statsmodels.stats.anova import anova_lm

from cnnstudy.analysis.causes import NetworkAnalysis, analyze_networks
from cnnstudy.analysis.effects_text import (
    effect_rows,
    effect_sentences,
    interim_sentence,
    judge_overfitting,
    leaning,
)
from cnnstudy.analysis.observations import mean_gap
from cnnstudy.analysis.participation import compared_headings, compared_rows
from cnnstudy.tracking.recorded import RecordedRun

FACTORS = ["batch_size", "data_fraction", "dropout", "transfer"]
Change = Callable[[RecordedRun], Mapping[str, float]]


def analyze(simulated: Simulated, change: Change | None = None, verdict: str = "") -> NetworkAnalysis:
    """Analyse a study whose trials get the metrics that `change` returns, and where it returns some, the verdict."""
    trials = []
    for run in simulated.trials:
        new = change(run) if change else {}
        tags = {**run.tags, **({"cnnstudy.verdict": verdict} if new and verdict else {})}
        trials.append(dataclasses.replace(run, metrics={**run.metrics, **new}, tags=tags))
    (found,) = analyze_networks(simulated.study, trials, simulated.history, 0.05)
    return found


def add_noise(run: RecordedRun) -> dict[str, float]:
    """Return metrics of which no difference is the same in all trials."""
    measuring, updates = np.random.default_rng([run.number, run.seed]).normal(0, 0.004, 2)
    small = run.levels["batch_size"] == 8
    return {
        "legacy/gap_accuracy": run.metrics["legacy/gap_accuracy"] + measuring,
        "equal_updates/gap_accuracy": run.metrics["equal_updates/gap_accuracy"] + (updates if small else 0.0),
    }


@pytest.fixture(scope="module")
def found() -> NetworkAnalysis:
    return analyze(Simulated(), add_noise)


def line(causes: NetworkAnalysis, words: str) -> str:
    """Return the only sentence with these words, without how probable a repeat is."""
    (only,) = [sentence for sentence in effect_sentences(causes) if words in sentence]
    return re.sub(r" A repeat of this study .*? %\.", "", only)


def numbers(text: str) -> list[str]:
    return re.findall(r"[-+]?\d+(?:\.\d+)?", text)


def interval(values: pd.Series) -> list[str]:
    """Return mean and ends of the 95 % t-interval in points, as they are written."""
    mean, half = values.mean(), stats.t.ppf(0.975, len(values) - 1) * values.std() / math.sqrt(len(values))
    return [f"{100 * number:+.1f}" for number in (mean, mean - half, mean + half)]


def paired(frame: pd.DataFrame, factor: str, baseline: object, level: object, column: str) -> list[str]:
    """Recompute an effect from the trials: pairs that differ in the factor alone, averaged within each seed."""
    others = [name for name in FACTORS if name != factor]
    wide = frame.pivot_table(index=["seed", *others], columns=factor, values=column)
    return interval((wide[level] - wide[baseline]).groupby("seed").mean())


def test_the_numbers_of_the_headline_are_those_of_the_trials_on_all_images(found: NetworkAnalysis) -> None:
    frame = found.observations.frame
    frame = frame[frame["data_fraction"] == 1]
    gap = interval(frame.groupby("seed")["epochs/gap_accuracy"].mean())
    accuracies = [f"{100 * frame[f'epochs/{part}_accuracy'].mean():.1f}" for part in ("train", "val")]
    expected = [*gap, str(len(frame)), *accuracies, str(frame["seed"].nunique()), str(len(frame))]
    assert (frame["epochs/train_accuracy"] < 0.9).all()
    assert numbers(effect_sentences(found)[0]) == [*expected, str(len(frame)), "90"]
    assert f"on average over all {len(frame)} finished trials on all training images (" in effect_sentences(found)[0]
    assert f"All {len(frame)} end with a train accuracy below 90 %" in effect_sentences(found)[0]


def test_a_network_that_overfits_on_a_part_of_the_images_only_hardly_overfits() -> None:
    """Mixed with the trials on all images, those on a quarter would show a gap of 10 points."""

    def close(run: RecordedRun) -> dict[str, float]:
        gap = run.metrics["last/gap_accuracy"] - 0.05  # with all images 0 to 2 points
        return {"last/gap_accuracy": gap, "last/train_accuracy": 0.99, "last/val_accuracy": 0.99 - gap}

    effects = {"data_fraction": {0.25: 0.25, 0.5: 0.15, 1.0: 0.05}}
    some = analyze(Simulated(by_seed=0.002, effects=effects), close)
    assert effect_sentences(some)[0].startswith("alexnet hardly overfits: after the last epoch the gap is +0.")
    assert judge_overfitting(some) == "hardly overfits"
    assert "gap +0." in interim_sentence(some)
    assert any(one.startswith("4 times the training images lower the gap") for one in effect_sentences(some))
    few = analyze(Simulated(by_seed=0.002, effects=effects, factors={"data_fraction": [0.25, 0.5]}), close)
    assert "on 50 % of the training images (" in effect_sentences(few)[0]
    assert judge_overfitting(few) == "overfits"


@pytest.mark.parametrize(
    ("words", "factor", "baseline", "level"),
    [
        ("4 times the training images lower", "data_fraction", 0.25, 1.0),
        ("Frozen instead of scratch lowers", "transfer", "scratch", "frozen"),
    ],
)
def test_the_numbers_of_an_effect_are_those_of_its_pairs(
    found: NetworkAnalysis, words: str, factor: str, baseline: object, level: object
) -> None:
    said = line(found, words).removeprefix(words)
    columns = ["epochs/gap_accuracy", "updates/gap_accuracy", "train_loss/gap_accuracy", "epochs/val_accuracy"]
    gap, updates, loss, accuracy = (paired(found.frame, factor, baseline, level, column) for column in columns)
    train = paired(found.frame, factor, baseline, level, "epochs/train_accuracy")
    train = [train[0].lstrip("-"), *train[1:]]
    assert numbers(said) == [*gap, *train, "30", *updates, "0.50", *loss, *accuracy]


def test_the_parts_of_the_batch_sizes_effect_are_those_of_its_pairs(found: NetworkAnalysis) -> None:
    frame = found.frame.assign(
        measuring=found.frame["epochs/legacy_gap_accuracy"] - found.frame["epochs/gap_accuracy"],
        more=found.frame["epochs/gap_accuracy"] - found.frame["updates/gap_accuracy"],
    )
    columns = ["epochs/legacy_gap_accuracy", "measuring", "epochs/gap_accuracy", "updates/gap_accuracy", "more"]
    legacy, measuring, total, left, more = (paired(frame, "batch_size", 8, 64, column) for column in columns)
    assert numbers(line(found, "usual protocol")) == ["64", "8", *legacy, "240", "8", "192", "64", *measuring]
    counts = ["48", "48", "8", "48", "48", "64"]
    said = numbers(line(found, "one order of two"))
    seen = ["30", f"{8 * 30}", "8", f"{64 * 30}", "64"]
    assert said == ["64", "8", *total, *counts, *left, *seen, *more, "64", "8"]
    assert float(total[0]) == pytest.approx(float(left[0]) + float(more[0]), abs=0.11)


@pytest.mark.parametrize("transfer", ["scratch", "frozen"])
def test_the_numbers_of_the_data_law_are_those_of_its_trials(found: NetworkAnalysis, transfer: str) -> None:
    trials, amounts = found.frame[found.frame["transfer"] == transfer], [10, 20, 40]
    by_seed = (
        trials.groupby(["seed", "data_fraction"])[["epochs/gap_accuracy", "updates/gap_accuracy"]].mean().unstack()
    )
    gaps = by_seed["epochs/gap_accuracy"]
    steps: list[str] = []
    for share, amount in zip(gaps, amounts, strict=True):
        steps += [*(text.lstrip("+") for text in interval(gaps[share])), str(amount)]
    trend, at_equal_updates = (
        interval(pd.Series([np.polyfit(np.log2(amounts), values, 1)[0] for values in by_seed[column].to_numpy()]))
        for column in ("epochs/gap_accuracy", "updates/gap_accuracy")
    )
    said = numbers(line(found, f"{transfer}: the gap by training images per class"))
    assert said == [*steps, *trend, "5", "3", "4", *at_equal_updates]


def test_the_shares_of_variance_are_omega_squared(found: NetworkAnalysis) -> None:
    terms = {"batch size": "C(batch_size)", "data fraction": "C(data_fraction)"}
    terms |= {"dropout": "C(dropout)", "transfer": "C(transfer)"}
    frame = found.frame.rename(columns={"epochs/gap_accuracy": "gap"})
    table = anova_lm(smf.ols(f"gap ~ C(seed) + {' + '.join(terms.values())}", frame).fit(), typ=2).drop(index="C(seed)")
    noise = table.loc["Residual", "sum_sq"] / table.loc["Residual", "df"]
    parts = (table["sum_sq"] - table["df"] * noise).clip(lower=0.0) / len(frame)
    shares = {name: parts[term] / (parts[list(terms.values())].sum() + noise) for name, term in terms.items()}
    shares["unexplained"] = 1 - sum(shares.values())
    said = line(found, "Share of the variance of the gap")
    for name, share in shares.items():
        told = re.search(rf"{name} (\d+) % \[(\d+), (\d+)\]", said)
        assert told is not None
        value, low, high = map(int, told.groups())
        assert value == round(100 * share)
        assert 0 <= low <= value <= high <= 100
    largest = max(terms, key=lambda name: shares[name])
    assert said.endswith(f"{largest.capitalize()} explains most.")


def test_the_numbers_of_an_interaction_are_those_of_its_fours() -> None:
    def with_an_interaction(run: RecordedRun) -> dict[str, float]:
        more = 0.08 * (run.levels["dropout"] == 0.5 and run.levels["transfer"] == "frozen")
        names = ("last/gap_accuracy", "equal_updates/gap_accuracy", "last/val_loss")
        return {name: run.metrics[name] + more for name in names}

    causes = analyze(Simulated(), with_an_interaction)
    rows, hidden = effect_rows(causes, interactions=True)
    (row,) = rows
    assert row[0] == "dropout 0.5 instead of 0, with frozen instead of scratch"
    for cell, column in ((row[1], "epochs/gap_accuracy"), (row[2], "updates/gap_accuracy")):
        wide = causes.frame.pivot_table(
            index=["seed", "batch_size", "data_fraction"], columns=["transfer", "dropout"], values=column
        )
        fours = (wide["frozen", 0.5] - wide["frozen", 0.0]) - (wide["scratch", 0.5] - wide["scratch", 0.0])
        assert numbers(cell) == interval(fours.groupby("seed").mean())
    kinds = {(one.factor, one.level, one.second, one.second_level) for one in causes.effects if one.second is not None}
    assert hidden == len(kinds) - 1
    assert row[-1] == "raises"


def test_what_large_classes_do_to_accuracy_is_said() -> None:
    causes = analyze(Simulated(), lambda run: {"last/val_balanced_accuracy": run.metrics["last/val_accuracy"] - 0.1})
    accuracies = causes.frame.loc[causes.frame["data_fraction"] == 1, "epochs/val_accuracy"]
    balanced = f"{100 * (accuracies.mean() - 0.1):.1f}"
    assert f"(balanced, validation is {balanced} %)" in effect_sentences(causes)[0]
    causes = analyze(Simulated(), lambda run: {"last/val_balanced_accuracy": run.metrics["last/val_accuracy"]})
    assert "balanced" not in effect_sentences(causes)[0]


def test_counts_in_sentences_are_those_of_the_table() -> None:
    causes = analyze(Simulated(), at_chance_with(8))
    table = {row[0]: row for row in compared_rows(causes.frame, causes.factors)}
    told = re.findall(r"(\d+) of (\d+)(?: trials)? with ([^,;)]+)", " ".join(effect_sentences(causes)))
    assert len(told) >= 4
    for compared, trials, words in told:
        assert [table[words][1], table[words][3]] == [trials, compared]


def at_chance_with(batch_size: int) -> Change:
    return lambda run: {"equal_updates/train_loss": 1.6} if run.levels["batch_size"] == batch_size else {}


def test_where_most_are_at_chance_equal_updates_cannot_tell() -> None:
    found = analyze(Simulated(), at_chance_with(8))
    for words in ("4 times the training images lower", "Frozen instead of scratch lowers"):
        told = re.search(r"After 30 updates each: cannot tell \(trials compared: (\d+) of (\d+) ", line(found, words))
        assert told is not None
        assert 2 * int(told[1]) == int(told[2])
    parts = line(found, "Cannot tell how much of the effect of batch size 64 instead of 8")
    assert "(trials compared: 0 of 48 with batch size 8, 48 of 48 with batch size 64;" in parts
    assert "every trial makes 30 updates" in parts
    assert "`training.updates`" in parts
    rows, _ = effect_rows(found, interactions=False)
    assert {row[2] for row in rows} == {"cannot tell"}
    table = {row[0]: row[1:] for row in compared_rows(found.frame, found.factors)}
    assert compared_headings(found.observations)[3:] == ("at 30 updates", "at a loss of 0.50")
    assert (table["all"], table["batch size 8"]) == (["96", "96", "48", "96"], ["48", "48", "0", "48"])


def test_a_smaller_gap_that_goes_with_less_learning_is_said_to_be_that() -> None:
    def learns_less(run: RecordedRun) -> dict[str, float]:
        large = run.levels["batch_size"] == 64
        gap = run.metrics["last/gap_accuracy"] - (0.08 if large else 0.0)
        train = run.metrics["last/train_accuracy"] - (0.176 if large else 0.0)
        return {"last/gap_accuracy": gap, "last/train_accuracy": train}

    said = line(analyze(Simulated(), learns_less), "Batch size 64 instead of 8 lowers the gap: -")
    assert re.search(r"epochs, but train accuracy falls by 17\.\d points \[-.*\] as well: it learns less\.", said)


def test_not_learning_is_an_outcome_with_effects_of_its_own() -> None:
    def does_not_learn(run: RecordedRun) -> dict[str, float]:
        lost = run.levels["batch_size"] == 64 and (run.levels["dropout"] == 0.5 or run.levels["transfer"] == "frozen")
        return {"last/gap_accuracy": 0.0} if lost else {}

    found = analyze(Simulated(), does_not_learn, "not-learning")
    counts = found.frame.groupby("batch_size")["verdict"].apply(lambda words: (words != "not-learning").sum())
    said = line(found, "Batch size 64 instead of 8 lowers the share")
    assert said.startswith("Batch size 64 instead of 8 lowers the share of trials that learn: -75.0 ")
    assert f"({counts[64]} of 48 with batch size 64 and {counts[8]} of 48 with batch size 8)" in said
    headline = effect_sentences(found)[0]
    assert "over all 32 finished trials on all training images" in headline, "every trial counts as measured"
    assert "20 overfit, 12 not-learning" in headline


def test_a_few_trials_that_do_not_learn_are_no_effect_on_learning() -> None:
    def does_not_learn(run: RecordedRun) -> dict[str, float]:
        return {"last/gap_accuracy": 0.0} if run.levels["batch_size"] == 64 and run.levels["dropout"] == 0.5 else {}

    few = {"data_fraction": [1.0], "transfer": ["scratch"]}
    found = analyze(Simulated(seeds=2, factors=few), does_not_learn, "not-learning")
    assert not [sentence for sentence in effect_sentences(found) if "share of trials that learn" in sentence]


def test_a_gap_that_may_be_small_or_large_cannot_be_told() -> None:
    noisy = analyze(Simulated(effects={}, by_seed=0.1, noise=0.02, random=3))
    gap = mean_gap(noisy.observations.frame)
    assert gap is not None
    assert gap.low is not None
    assert gap.high is not None
    assert gap.low < 0.05 < gap.high
    assert effect_sentences(noisy)[0].startswith("Cannot tell whether alexnet overfits by 5 points or more: ")
    small = Simulated(effects={}, by_seed=0.0, noise=0.01)
    learnt = analyze(small, lambda run: {"last/train_accuracy": 0.95})
    assert effect_sentences(learnt)[0].startswith("alexnet hardly overfits: ")
    unlearnt = effect_sentences(analyze(small, lambda run: {"last/train_accuracy": 0.85}))[0]
    assert unlearnt.startswith("Cannot tell whether alexnet overfits once it has learnt its training images: ")


def test_one_large_gap_among_trials_that_learn_nothing_is_no_overfitting() -> None:
    def only_one_learns(run: RecordedRun) -> dict[str, float]:
        return {} if run.number == 8 and run.seed == 0 else {"last/gap_accuracy": 0.01}

    found = analyze(Simulated(), only_one_learns, "not-learning")
    headline = effect_sentences(found)[0]
    gap = float(numbers(headline)[0])
    frame = found.observations.frame
    assert gap == pytest.approx(100 * frame.loc[frame["data_fraction"] == 1, "epochs/gap_accuracy"].mean(), abs=0.051)
    assert not headline.startswith("alexnet overfits")
    assert "31 not-learning, 1 overfit" in headline


def test_leaning_is_a_word_of_its_own(found: NetworkAnalysis) -> None:
    effect = found.find_effect("dropout", 0.5, "epochs/gap_accuracy")
    assert effect is not None
    for low, high, p_adjusted, words in (
        (0.01, 0.03, 0.2, "leans towards raising"),
        (-0.03, -0.01, 0.2, "leans towards lowering"),
        (-0.01, 0.03, 0.2, ""),
        (0.01, 0.03, 0.01, ""),
        (None, None, None, ""),
    ):
        changed = dataclasses.replace(effect, estimate=0.02, low=low, high=high, p_adjusted=p_adjusted)
        assert leaning(changed) == words
        rest = [one for one in found.effects if one is not effect]
        said = " ".join(effect_sentences(dataclasses.replace(found, effects=[*rest, changed])))
        assert (f"{words.capitalize()} the gap, which is no answer yet" in said) == bool(words)


def test_few_seeds_do_not_say_whether_a_network_overfits() -> None:
    for seeds, words, interval in (
        (1, "(one seed shows no variation between seeds; an answer takes at least 3)", "; no interval)"),
        (2, "(2 seeds may agree by chance; an answer takes at least 3)", "interval over 2 seeds)"),
    ):
        headline = effect_sentences(analyze(Simulated(seeds=seeds, by_seed=0.0)))[0]
        assert headline.startswith(f"Cannot tell whether alexnet overfits by 5 points or more {words}: ")
        assert interval in headline
    assert effect_sentences(analyze(Simulated(seeds=3, by_seed=0.0)))[0].startswith("alexnet overfits: ")


def test_how_probable_a_repeat_is_stands_with_the_answer(found: NetworkAnalysis) -> None:
    effect = copy.copy(found.find_effect("transfer", "frozen", "epochs/gap_accuracy"))
    object.__setattr__(effect, "repeats", 0.8034)
    others = [one for one in found.effects if (one.factor, one.column) != ("transfer", "epochs/gap_accuracy")]
    (said,) = [
        sentence
        for sentence in effect_sentences(dataclasses.replace(found, effects=[*others, effect]))
        if sentence.startswith("Frozen instead of scratch lowers")
    ]
    assert "A repeat of this study would say so in about 80 %." in said


def test_networks_are_compared_at_the_same_number_of_updates_only() -> None:
    simulated = Simulated(architectures=("alexnet", "vgg16"))
    *_, between = analyze_networks(simulated.study, simulated.trials, simulated.history, 0.05)
    assert between.find_effect("network", "vgg16", "updates/gap_accuracy") is not None
    shorter = [
        dataclasses.replace(run, metrics={**run.metrics, "optimizer/updates": run.metrics["optimizer/updates"] / 2})
        if run.architecture == "vgg16"
        else run
        for run in simulated.trials
    ]
    *_, between = analyze_networks(simulated.study, shorter, simulated.history, 0.05)
    assert between.find_effect("network", "vgg16", "epochs/gap_accuracy") is not None
    assert between.find_effect("network", "vgg16", "updates/gap_accuracy") is None
    assert np.isfinite(between.frame["updates/gap_accuracy"]).all()
