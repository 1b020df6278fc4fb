"""What a trial did, in a word, with the rule and the numbers behind it.

In this order, on the restored weights (those of the best epoch):

    not-learning  neither probe nor validation is above guessing the largest class (one-sided binomial test, 1 %)
    overfit       probe accuracy is above validation accuracy by 5 points or more, and by more than chance
                  (one-sided Fisher's exact test, 2.5 %)
    underfit      probe accuracy is below 90 %
    fit           none of these

A trial whose loss stopped being a number is `diverged`; it has no weights to judge.
"""

from __future__ import annotations

from dataclasses import dataclass

VERDICTS = ("not-learning", "underfit", "fit", "overfit", "diverged")
GUESSING_LEVEL, GAP_LEVEL = 0.01, 0.025
SMALLEST_GAP, LEARNT = 0.05, 0.9


@dataclass(frozen=True)
class Verdict:
    """One of VERDICTS, and why."""

    name: str
    reason: str


def judge(train_accuracy: float, train_images: int, validation_accuracy: float, validation: list[int]) -> Verdict:
    """The verdict on clean accuracies (0..1) of the probe and of validation.

    Args:
        train_images: images in the probe.
        validation: validation images of each class.
    """
    from scipy.stats import binomtest, fisher_exact  # the words about verdicts need none of it

    images, guessing = sum(validation), max(validation) / sum(validation)
    train_right, validation_right = round(train_accuracy * train_images), round(validation_accuracy * images)
    train, seen = 100 * train_accuracy, 100 * validation_accuracy
    measured = f"train {train:.1f} % of {train_images}, validation {seen:.1f} % of {images}"
    chances = [
        binomtest(right, of, guessing, alternative="greater").pvalue
        for right, of in ((train_right, train_images), (validation_right, images))
    ]
    if min(chances) > GUESSING_LEVEL:
        return Verdict(
            "not-learning", f"{measured}: not above the {100 * guessing:.1f} % of guessing the largest class"
        )
    gap = train_accuracy - validation_accuracy
    outcomes = [[train_right, train_images - train_right], [validation_right, images - validation_right]]
    if gap >= SMALLEST_GAP and fisher_exact(outcomes, alternative="greater").pvalue < GAP_LEVEL:
        return Verdict("overfit", f"{measured}: a gap of {100 * gap:+.1f} points, more than chance")
    if train_accuracy < LEARNT:
        return Verdict("underfit", f"{measured}: train below {100 * LEARNT:.0f} %, and no gap beyond chance")
    return Verdict("fit", f"{measured}: no gap beyond chance")
