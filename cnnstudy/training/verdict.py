"""A trial's verdict, with the numbers behind it.

The first rule that holds for the restored weights (those of the best epoch) decides:

    not-learning  neither probe nor validation is above guessing the largest class (one-sided binomial test, 1 %)
    overfit       probe accuracy is above validation accuracy by 5 points or more, and by more than chance
                  (one-sided Fisher's exact test, 2.5 %)
    underfit      probe accuracy is below 90 %
    fit           none of these

A trial whose loss is no longer finite is `diverged`; it has no weights to judge.
"""

from __future__ import annotations

from dataclasses import dataclass

VERDICTS = ("not-learning", "underfit", "fit", "overfit", "diverged")
#: Significance levels of the tests against guessing and for the gap.
GUESSING_LEVEL, GAP_LEVEL = 0.01, 0.025
#: The smallest gap that is overfitting, and the probe accuracy below which a trial underfits.
SMALLEST_GAP, UNDERFIT_BELOW = 0.05, 0.9


@dataclass(frozen=True)
class Verdict:
    """One of VERDICTS, and the reason."""

    name: str
    reason: str


def judge(train_accuracy: float, train_images: int, validation_accuracy: float, validation: list[int]) -> Verdict:
    """Return the verdict on the clean accuracies (0..1) of the probe and of the validation images.

    Args:
        train_images: number of images in the probe.
        validation: number of validation images of each class.
    """
    from scipy.stats import binomtest, fisher_exact  # slow to import, and not needed to read verdicts

    images, guessing = sum(validation), max(validation) / sum(validation)
    train_right, validation_right = round(train_accuracy * train_images), round(validation_accuracy * images)
    measured = (
        f"train {100 * train_accuracy:.1f} % of {train_images}, "
        f"validation {100 * validation_accuracy:.1f} % of {images}"
    )
    p_values = [
        binomtest(right, total, guessing, alternative="greater").pvalue
        for right, total in ((train_right, train_images), (validation_right, images))
    ]
    if min(p_values) > GUESSING_LEVEL:
        return Verdict(
            "not-learning", f"{measured}: not above the {100 * guessing:.1f} % of guessing the largest class"
        )
    gap = train_accuracy - validation_accuracy
    outcomes = [[train_right, train_images - train_right], [validation_right, images - validation_right]]
    if gap >= SMALLEST_GAP and fisher_exact(outcomes, alternative="greater").pvalue < GAP_LEVEL:
        return Verdict("overfit", f"{measured}: a gap of {100 * gap:+.1f} points, more than chance")
    if train_accuracy < UNDERFIT_BELOW:
        return Verdict("underfit", f"{measured}: train below {100 * UNDERFIT_BELOW:.0f} %, and no gap beyond chance")
    return Verdict("fit", f"{measured}: no gap beyond chance")
