from __future__ import annotations

import dataclasses

import pytest

from cnnstudy.analysis.confirmation import (
    BEHIND,
    CHAMPION,
    FAILED,
    OUTSIDE_LIMITS,
    TIED,
    UNLEARNT,
    Candidate,
    ChampionTest,
    Confirmation,
    Standing,
)
from cnnstudy.analysis.confirmation_text import (
    CROSS_FITTED,
    FLATTERED,
    STANDING_HEADINGS,
    champion_reason,
    champion_sentences,
    confirmation_sentences,
    no_champion_reason,
    optimism_sentence,
    standing_rows,
)
from cnnstudy.records import Rule

ACCURACY, LIMITED = Rule("val/accuracy"), Rule("val/loss", maximum_gap=0.1, minimum_accuracy=0.6)


def standing(number: int, standing: str, mean: float = 0.8, gap: float = 0.05, failed: int = 0) -> Standing:
    candidate = Candidate("vgg16", number, {"transfer": "frozen", "batch_size": 8, "dropout": 0.25}, 0.9, 0.1)
    keeps = standing not in (OUTSIDE_LIMITS, UNLEARNT)
    return Standing(
        candidate, (1, 2, 3), (mean,) * 3, (gap,) * 3, mean, mean - 0.1, mean + 0.1, gap, keeps, failed, standing
    )


def test_the_champion_then_ties_then_the_rest_each_by_its_reason() -> None:
    found = [
        standing(0, CHAMPION),
        standing(1, TIED, 0.79),
        standing(2, BEHIND, 0.6),
        standing(3, OUTSIDE_LIMITS, gap=0.3),
        standing(4, FAILED, failed=1),
    ]
    lines = list(champion_sentences(found, found[0], ACCURACY))
    assert lines == [
        "Champion: vgg16-000 (vgg16, frozen, batch size 8, dropout 0.25), validation accuracy 80.0 % [70.0, 90.0] over "
        "3 fresh seeds, gap +5.0 points.",
        "Statistically tied with it: vgg16-001 (79.0 %). Any of these may be as good; choose among them by cost.",
        "Significantly worse: vgg16-002 (60.0 %).",
        "Outside the limits () on average over the fresh seeds: vgg16-003.",
        "Failed with at least one seed, so cannot be champion: vgg16-004.",
    ]
    assert len(list(champion_sentences(found[:1], found[0], ACCURACY))) == 1


def test_what_learnt_nothing_is_said() -> None:
    found = [standing(0, CHAMPION), standing(1, UNLEARNT)]
    assert list(champion_sentences(found, found[0], ACCURACY))[1:] == [
        "Did not learn with any fresh seed, so cannot be champion: vgg16-001."
    ]


LIMITS = "(gap at most 10 points, validation accuracy at least 60 %) on average over fresh seeds"
NEAREST = "the best of them vgg16-003 with a gap of +30.0 points"


@pytest.mark.parametrize(
    ("standings", "reason"),
    [
        ([OUTSIDE_LIMITS], f"of 1 candidate, 1 is outside the limits {LIMITS}, {NEAREST}"),
        ([OUTSIDE_LIMITS, OUTSIDE_LIMITS], f"of 2 candidates, 2 are outside the limits {LIMITS}, {NEAREST}"),
        ([FAILED, FAILED], "of 2 candidates, 2 failed with at least one seed"),
        (
            [OUTSIDE_LIMITS, UNLEARNT, FAILED],
            f"of 3 candidates, 1 is outside the limits {LIMITS}, {NEAREST}; 1 did not learn with any fresh seed; 1 "
            "failed with at least one seed",
        ),
    ],
)
def test_why_there_is_no_champion(standings: list[str], reason: str) -> None:
    found = [standing(3 + place, name, gap=0.3) for place, name in enumerate(standings)]
    assert no_champion_reason(found, LIMITED) == reason
    assert list(champion_sentences(found, None, LIMITED)) == [f"No champion: {reason}."]


def test_why_it_is_the_champion() -> None:
    assert champion_reason([standing(0, CHAMPION), standing(1, TIED)], ACCURACY) == (
        "vgg16-000 (vgg16, frozen, batch size 8, dropout 0.25): the best of 2 by mean validation accuracy over 3 "
        "fresh seeds, 80.0 %, gap +5.0 points; statistically tied with vgg16-001; this is the model of the median seed"
    )


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("val/accuracy", "accuracy"),
        ("val/balanced_accuracy", "balanced accuracy"),
        ("val/macro_f1", "macro-F1"),
    ],
)
def test_the_metric_is_named(metric: str, words: str) -> None:
    text = optimism_sentence(("vgg16-001", 0.9), 0.8, 0.7, 0.2, Rule(metric))
    assert f"20.0 points better than its {words} on the test split (70.0 %)" in text
    assert text.endswith(f"Selecting by validation score overstates {words} by this much.")


def test_two_seeds_cannot_tell_candidates_apart() -> None:
    found = [dataclasses.replace(standing(0, CHAMPION), seeds=(1, 2)), standing(1, TIED, 0.6)]
    assert list(champion_sentences(found, found[0], ACCURACY))[1] == (
        "Cannot tell whether it is better than vgg16-001 (60.0 %): that takes at least 3 fresh seeds."
    )


def test_all_of_a_confirmation() -> None:
    best = standing(0, CHAMPION)
    test = ChampionTest("2026-11-24", "vgg16-000", ("a", "b"), 2, 50, "d", (0.7, 0.72), (0.5, 0.4), 0.71, 0.6, 0.8)
    confirmed = Confirmation(ACCURACY, (best,), ("vgg16-001", 0.9), best, test=test, refusal="")
    first, flattered, tested, optimism = confirmation_sentences(confirmed)
    assert flattered == FLATTERED
    assert confirmation_sentences(dataclasses.replace(confirmed, cross_fitted=True))[1] == CROSS_FITTED
    assert first.startswith("Champion: vgg16-000")
    assert tested == (
        "Test split: accuracy 71.0 % [60.0, 80.0] on 50 images that no trial has seen, mean of the 2 models (evaluated "
        "2026-11-24, evaluation 2 of this study's test split)."
    )
    assert "19.0 points better than its accuracy on the test split" in optimism
    refused = confirmation_sentences(dataclasses.replace(confirmed, test=None, refusal="it was opened"))
    assert refused[2] == "Not tested: it was opened"
    none = dataclasses.replace(confirmed, standings=(standing(0, FAILED),), champion=None)
    assert confirmation_sentences(none) == ["No champion: of 1 candidate, 1 failed with at least one seed."]


@pytest.mark.parametrize(
    ("best", "test", "optimism", "rule", "end"),
    [
        (0.9, 0.7, 0.2, ACCURACY, "90.0 % (a-1): 10.0 points better than the champion with fresh seeds, 20.0 points "
         "better than its accuracy on the test split (70.0 %). Selecting by validation score overstates accuracy by "
         "this much."),
        (0.8, 0.85, -0.05, ACCURACY, "80.0 % (a-1): 0.0 points better than the champion with fresh seeds, 5.0 points "
         "worse than its accuracy on the test split (85.0 %)."),
        (0.5, None, None, Rule("val/loss"), "0.500 nats (a-1): 0.300 nats better than the champion with fresh seeds."),
    ],
)  # fmt: skip
def test_how_much_the_best_score_flatters(
    best: float, test: float | None, optimism: float | None, rule: Rule, end: str
) -> None:
    assert optimism_sentence(("a-1", best), 0.8, test, optimism, rule).endswith(end)


def test_the_table() -> None:
    found = standing_rows([standing(0, CHAMPION), standing(4, FAILED, failed=1)], ACCURACY)
    assert [len(row) for row in found] == [len(STANDING_HEADINGS)] * 2
    assert found[0] == [
        "vgg16-000: frozen, batch size 8, dropout 0.25", "90.0 %", "80.0 %", "[70.0, 90.0]", "+5.0", "3", "champion"
    ]  # fmt: skip
    assert found[1][5:] == ["3, 1 failed", "failed"]
