"""A trial's verdict, with the numbers behind it, from how many images of each class are right.

The first rule that holds for the restored weights (those of the best epoch) decides:

    not-learning  neither the training nor the validation images are beyond guessing, and the training accuracy is less
                  than MARGIN above guessing
    cannot-tell   neither is beyond guessing, and the training accuracy may be MARGIN or more above it
    overfit       the gap (train minus validation) is MARGIN or more, and shown to be above 0 (one-sided, 2.5 %)
    underfit      the training accuracy is below 90 %
    fit           the training accuracy is at least 90 %, and the gap is shown to be below MARGIN (one-sided, 5 %)
    cannot-tell   none of these

A trial whose loss is no longer finite is `diverged`; it has no weights to judge.

What is estimated: the training accuracy is that of these training images. Measured on all of them it is known exactly,
without sampling error; measured on a sample, it has an interval like the validation accuracy, and "below 90 %", "at
least 90 %" and "less than MARGIN above guessing" must be shown (one-sided, 5 %). The validation accuracy is that of all
images of which the validation images are a random sample.

Accuracies are balanced (the mean over the classes of each one's share of right images) where the largest class has more
than IMBALANCE times the images of the smallest, and plain shares otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cnnstudy.errors import InputError
from cnnstudy.names import Metric

VERDICTS = ("not-learning", "cannot-tell", "underfit", "fit", "overfit", "diverged")
#: Level of each of the two tests against guessing (training, validation).
GUESSING_LEVEL = 0.005
#: Levels of the one-sided tests: that there is a gap; that it is below MARGIN.
GAP_LEVEL, EQUIVALENCE_LEVEL = 0.025, 0.05
#: The smallest gap that is overfitting, and the accuracy above guessing that counts as having learnt something.
SMALLEST_GAP = MARGIN = 0.05
#: The training accuracy below which a trial underfits.
UNDERFIT_BELOW = 0.9
#: Images of the largest class for each of the smallest, above which accuracies are balanced.
IMBALANCE = 1.5
#: Images that would tell are given for this power, and up to this many.
POWER, MOST_NEEDED = 0.8, 100_000
#: Up to so many classes, the distribution of a balanced accuracy is computed exactly, on a grid of this many steps for
#: each class; above, it is taken as normal.
_EXACT_CLASSES, _GRID = 20, 1000

#: Images added to each class for one of the hypotheses about recalls (`Part.tail`).
_PRIOR = 2.0


#: Even if all validation images are right, `fit` takes this many: (1 - MARGIN)^n is then below EQUIVALENCE_LEVEL.
LEAST_IMAGES_FOR_FIT = math.ceil(math.log(EQUIVALENCE_LEVEL) / math.log(1 - MARGIN))


@dataclass(frozen=True)
class Verdict:
    """One of VERDICTS, the reason, and about how many validation images would tell, if the verdict is cannot-tell.

    `images_needed` is None if no number up to MOST_NEEDED would, and where nothing is left to tell.
    """

    name: str
    reason: str
    images_needed: int | None = None


class Counts(NamedTuple):
    """The arguments of `judge`."""

    train_right: Sequence[int]
    train_images: Sequence[int]
    validation_right: Sequence[int]
    validation_images: Sequence[int]
    train_is_sample: bool = False


def count_right(confusion: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Return how many images of each class are right, and how many there are, from rows of true classes."""
    return [row[label] for label, row in enumerate(confusion)], [sum(row) for row in confusion]


@dataclass(frozen=True)
class Part:
    """How many images of each class are right, of those measured.

    Args:
        balanced: whether the accuracy is the mean over the classes that have images, or the share of all images.
        exact: whether these are all images that the statement is about, so that the accuracy has no sampling error.
    """

    right: np.ndarray  # [classes]
    images: np.ndarray  # [classes]
    balanced: bool = False
    exact: bool = False

    @property
    def accuracy(self) -> float:
        if self.balanced:
            return float((self.right / self.images).mean())
        return float(self.right.sum() / self.images.sum())

    @property
    def guessing(self) -> float:
        """The most that predictions reach on average that do not depend on the image."""
        return 1 / len(self.images) if self.balanced else float(self.images.max() / self.images.sum())

    def tail(self, accuracy: float, above: bool) -> float:
        """Return the probability to find so high an accuracy as this (`above`), or so low, if that is the true one.

        Right images are binomial in each class. The tail of a plain accuracy is at most that of one binomial count,
        however recalls differ between classes (Hoeffding 1956). That of a balanced accuracy depends on the recalls. The
        largest of three is taken: of equal recalls, of the likeliest ones with this mean, and of the likeliest ones
        after _PRIOR more images in each class of which this share is right. Any one of them alone makes the tail of
        some small classes too small (benchmarks/verdicts.py).
        """
        from scipy.special import betainc

        right = self.right if above else self.images - self.right
        found, expected = (self.accuracy, accuracy) if above else (1 - self.accuracy, 1 - accuracy)
        if found <= expected:
            return 1.0  # at least 0.3: never of interest
        if not self.balanced:
            return float(betainc(right.sum(), (self.images - right).sum() + 1, expected))
        if expected <= 0:
            return 0.0
        recalls = [_likeliest_recalls(right + n * expected, self.images + n, expected) for n in (0.0, _PRIOR)]
        recalls.append(np.full(len(right), expected))
        return max(_tail_of_recalls(right, self.images, one) for one in recalls)

    def limit(self, level: float, upper: bool) -> float:
        """Return the accuracy's one-sided confidence limit, where `tail` is `level`; of all images the accuracy itself.

        For plain accuracies that is Clopper and Pearson's (1934).
        """
        from scipy.special import betaincinv

        if self.exact:
            return self.accuracy
        if not self.balanced:
            right = float((self.images - self.right if upper else self.right).sum())
            low = float(betaincinv(right, self.images.sum() - right + 1, level)) if right > 0 else 0.0
            return 1 - low if upper else low
        inside, outside = self.accuracy, float(upper)
        for _ in range(12):  # to 0.02 points
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if self.tail(middle, above=not upper) > level else (inside, middle)
        return outside


def judge(
    train_right: Sequence[int],
    train_images: Sequence[int],
    validation_right: Sequence[int],
    validation_images: Sequence[int],
    train_is_sample: bool = False,
) -> Verdict:
    """Return the verdict on a network, from the right images of each class, measured in inference mode.

    Args:
        train_right, train_images: of each class, how many training images are right, and how many there are.
        validation_right, validation_images: the same of the validation images.
        train_is_sample: whether the training images given are a random sample of those that were trained on.

    Raises:
        InputError: the four are not counts of the same classes, or there are no training or no validation images.
    """
    given = Counts(train_right, train_images, validation_right, validation_images, train_is_sample)
    train, validation = make_parts(given)
    if missing := lacks_classes(given):
        return Verdict("cannot-tell", missing)
    measured = _describe(train, validation)
    return _judge_learning(train, validation, measured) or _judge_gap(train, validation, measured)


def make_parts(given: Counts, balanced: bool | None = None) -> tuple[Part, Part]:
    """Return both parts, balanced if the classes are unequal, of the classes that have images in both.

    Args:
        balanced: whether accuracies are balanced, whatever these classes are; None: decided by their images.

    Raises:
        InputError: as `judge`.
    """
    counts = _check_counts(given)
    both = (counts[1] > 0) & (counts[3] > 0)
    if balanced is None:
        balanced = are_unequal(counts[1], counts[3])
    balanced = balanced and bool(both.any())
    kept = counts[:, both] if both.any() else counts
    return (
        Part(kept[0], kept[1], balanced, exact=not given.train_is_sample),
        Part(kept[2], kept[3], balanced),
    )


def are_unequal(train: Sequence[int] | np.ndarray, validation: Sequence[int] | np.ndarray) -> bool:
    """Return whether the largest class has more than IMBALANCE times the images of the smallest.

    Args:
        train, validation: images of each class; those that lack one of the two do not count.
    """
    images = [a + b for a, b in zip(train, validation, strict=True) if a > 0 and b > 0]
    return len(images) > 1 and bool(max(images) > IMBALANCE * min(images))


def _check_counts(given: Counts) -> np.ndarray:
    """Return the counts, [train right, train images, validation right, validation images] x [classes]."""
    rows = []
    for name, counts in zip(Counts._fields, given[:4], strict=False):
        row = np.asarray(counts)
        if row.ndim != 1 or row.dtype.kind not in "iuf" or not np.isfinite(row).all() or (row != np.round(row)).any():
            raise InputError(f"{name} must be a list with a whole number for each class, not {counts!r}.")
        rows.append(row.astype(float))
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        raise InputError(
            f"a verdict needs counts of the same classes; given are {', '.join(map(str, lengths))} classes."
        )
    table = np.array(rows)
    if not table[[1, 3]].sum(axis=1).all():
        raise InputError("a verdict needs training and validation images; one of them has none.")
    if (table[[0, 2]] > table[[1, 3]]).any() or (table < 0).any():
        raise InputError(
            "counts must be from 0 on, with no more right images than images; given are "
            f"{', '.join(f'{name} {list(counts)}' for name, counts in zip(Counts._fields, given[:4], strict=False))}."
        )
    if not isinstance(given.train_is_sample, bool | np.bool_):
        raise InputError(f"train_is_sample must be True or False, not {given.train_is_sample!r}.")
    return table


def lacks_classes(given: Counts) -> str:
    """Return a sentence if fewer than two classes have training and validation images; else ""."""
    both = sum(a > 0 and b > 0 for a, b in zip(given.train_images, given.validation_images, strict=True))
    if both > 1:
        return ""
    classes = f"of {len(given.train_images)} classes, {both or 'none'}" if len(given.train_images) > 1 else "one class"
    return f"{classes} has training and validation images; a verdict takes two"


def _describe(train: Part, validation: Part) -> str:
    images = f"all {train.images.sum():.0f} training images" if train.exact else f"{train.images.sum():.0f}"
    return (
        f"{_kind(train)}train {100 * train.accuracy:.1f} % of {images}, "
        f"validation {100 * validation.accuracy:.1f} % of {validation.images.sum():.0f}"
    )


def describe_accuracies(counts: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    """Return the accuracies that a verdict compares, and the gap between them in points, in few words.

    Args:
        counts: what `judge` takes, by name; {} if a trial has none.
        metrics: the trial's clean metrics, which are described then.
    """
    if counts:
        train, validation = make_parts(Counts(**counts))
        values, kind = (train.accuracy, validation.accuracy), "balanced " if train.balanced else ""
    else:
        values, kind = (metrics[Metric.TRAIN_ACCURACY], metrics[Metric.VAL_ACCURACY]), ""
    return f"{kind}train {100 * values[0]:.1f} %, val {100 * values[1]:.1f} %, gap {100 * (values[0] - values[1]):+.1f}"


def _kind(part: Part) -> str:
    return "balanced accuracy on " if part.balanced else ""


# ---- learning


def _judge_learning(train: Part, validation: Part, measured: str) -> Verdict | None:
    """Return the verdict on a network that is not beyond guessing; None if it is."""
    if min(guessing_p(train), guessing_p(validation)) <= GUESSING_LEVEL:
        return None
    guessing = f"the {100 * train.guessing:.1f} % of guessing" + ("" if train.balanced else " the largest class")
    if train.limit(EQUIVALENCE_LEVEL, upper=True) < train.guessing + MARGIN:
        return Verdict("not-learning", f"{measured}: less than {100 * MARGIN:.0f} points above {guessing}")
    higher = max((train, validation), key=lambda part: part.accuracy - part.guessing)
    needed = None
    if higher.balanced:
        needed = _search_images(higher, -1.0, lambda part, _: guessing_p(part) <= GUESSING_LEVEL)
    elif higher.accuracy > higher.guessing:
        needed = _images_needed(higher, higher.guessing, GUESSING_LEVEL)
    more = (
        f"about {needed} {'training' if higher is train else 'validation'} images with this accuracy would tell"
        if needed
        else "more training images would tell"
    )
    return Verdict(
        "cannot-tell",
        f"{measured}: not beyond {guessing}, which so few images may be by chance; {more}",
        needed if higher is validation else None,
    )


def guessing_p(part: Part) -> float:
    """Return the probability that predictions that do not depend on the image are as accurate as this, or more.

    Such predictions have a mean recall of 1 / classes, and are right in at most the share of the largest class.
    """
    return part.tail(part.guessing, above=True)


def _likeliest_recalls(right: np.ndarray, images: np.ndarray, mean: float) -> np.ndarray:
    """Return the recalls [classes] of this mean that make the right images likeliest; their own mean is above it.

    Setting the derivative to zero with a Lagrange multiplier m gives m q^2 - (n + m) q + r = 0 for each class.
    """

    def recalls(multiplier: float) -> np.ndarray:
        total = images + multiplier
        root = np.sqrt(np.maximum(total**2 - 4 * multiplier * right, 0.0))  # below 0 by rounding
        return (total - root) / (2 * multiplier)

    low, high = 1e-9, float(images.sum()) / mean + 1
    for _ in range(60):  # the mean falls as the multiplier grows
        middle = math.sqrt(low * high)
        low, high = (middle, high) if recalls(middle).mean() > mean else (low, middle)
    return np.clip(recalls(high), 0, 1)


def _tail_of_recalls(right: np.ndarray, images: np.ndarray, recalls: np.ndarray) -> float:
    """Return the probability that shares of right images, binomial with these recalls, add up to at least those found.

    Up to _EXACT_CLASSES classes, shares are rounded up to a grid, so that the probability is not too low; above, their
    sum is taken as normal.
    """
    from scipy.special import gammaln, ndtr, xlog1py, xlogy

    if len(recalls) > _EXACT_CLASSES:
        error = math.sqrt((recalls * (1 - recalls) / images).sum()) / len(recalls)
        return float(ndtr((recalls.mean() - (right / images).mean()) / error)) if error > 0 else 0.0
    length = 1 << math.ceil(math.log2(len(recalls) * (_GRID + 1)))
    spectrum = np.ones(length // 2 + 1, complex)
    for count, recall in zip(images, recalls, strict=True):
        hits = np.arange(count + 1)
        logs = gammaln(count + 1) - gammaln(hits + 1) - gammaln(count - hits + 1)
        chances = np.exp(logs + xlogy(hits, recall) + xlog1py(count - hits, -recall))
        places = np.ceil(hits / count * _GRID - 1e-6).astype(int)
        spectrum = spectrum * np.fft.rfft(np.bincount(places, chances, minlength=length))
    found = math.floor((right / images).sum() * _GRID + 1e-6)
    return float(np.clip(np.fft.irfft(spectrum, length)[found:].sum(), 0, 1))


# ---- the gap


def _judge_gap(train: Part, validation: Part, measured: str) -> Verdict:
    """Return the verdict on a network that has learnt something."""
    name, gap = decide(train, validation), train.accuracy - validation.accuracy
    low, high = (gap_limit(train, validation, GAP_LEVEL, upper) for upper in (False, True))
    measured = f"{measured}: a gap of {100 * gap:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    points, below = f"{100 * SMALLEST_GAP:.0f} points", f"{100 * UNDERFIT_BELOW:.0f} %"
    reasons = {
        "overfit": "above 0 beyond chance",
        "underfit": f"train is below {below}",
        "fit": f"below {points} with 95 % confidence",
    }
    if name in reasons:
        return Verdict(name, f"{measured}, {reasons[name]}")
    if train.limit(EQUIVALENCE_LEVEL, upper=False) < UNDERFIT_BELOW:
        return Verdict(name, f"{measured}; train may be below or above {below}, which all its images would tell")
    overfits = gap >= SMALLEST_GAP
    needed = _needed_for_gap(train, validation, overfits)
    what = "none at all" if overfits else f"{points} or more"
    more = f"about {needed:,} validation images would tell" if needed else f"it is too near {points} to tell"
    return Verdict(name, f"{measured}; it may be {what}; {more}", needed)


def decide(train: Part, validation: Part) -> str:
    """Return the name of the verdict on a network that has learnt something."""
    gap = train.accuracy - validation.accuracy
    if gap >= SMALLEST_GAP and _shows(train, validation, GAP_LEVEL):
        return "overfit"
    if train.limit(EQUIVALENCE_LEVEL, upper=True) < UNDERFIT_BELOW:
        return "underfit"
    enough = train.limit(EQUIVALENCE_LEVEL, upper=False) >= UNDERFIT_BELOW
    shown = enough and gap < SMALLEST_GAP and _shows(train, validation, EQUIVALENCE_LEVEL, SMALLEST_GAP)
    return "fit" if shown else "cannot-tell"


def _shows(train: Part, validation: Part, level: float, below: float | None = None) -> bool:
    """Return whether the gap is shown to be above 0, or to be `below` that."""
    if train.exact:  # the same as by limits, but faster
        return validation.tail(train.accuracy - (below or 0.0), above=below is not None) <= level
    limit = gap_limit(train, validation, level, upper=below is not None)
    return limit > 0 if below is None else limit < below


def gap_limit(train: Part, validation: Part, level: float, upper: bool = True) -> float:
    """Return the one-sided confidence limit of the gap.

    With all training images it is the training accuracy minus a limit of the validation accuracy; with a sample, the
    errors of both are combined (Newcombe 1998, method 10; Zou and Donner 2008).
    """
    gap = train.accuracy - validation.accuracy
    distance = math.hypot(
        train.limit(level, upper) - train.accuracy, validation.accuracy - validation.limit(level, not upper)
    )
    return gap + (distance if upper else -distance)


def _needed_for_gap(train: Part, validation: Part, overfits: bool) -> int | None:
    """Return about how many validation images would tell, with POWER, that a network of these accuracies overfits, or
    that it does not; None: too many.
    """
    if validation.balanced:

        def shows(part: Part, factor: float) -> bool:
            other = train if train.exact else Part(train.right * factor, np.round(train.images * factor), True)
            return decide(other, part) == ("overfit" if overfits else "fit")

        return _search_images(validation, 1.0 if overfits else -1.0, shows)
    null, level = (train.accuracy, GAP_LEVEL) if overfits else (train.accuracy - SMALLEST_GAP, EQUIVALENCE_LEVEL)
    least = train.accuracy - SMALLEST_GAP if overfits else None
    return _images_needed(validation, null, level, None if train.exact else train, least)


def _images_needed(
    part: Part, null: float, level: float, sample: Part | None = None, least: float | None = None
) -> int | None:
    """Return about how many images of this plain accuracy would show that it is not `null`, with POWER; None: too many.

    Both variances are normal approximations: of the null hypothesis at `level`, of what was found at POWER.

    Args:
        sample: training images that the part is compared with, if they are a sample; it is to grow as well.
        least: the accuracy that must not be exceeded by chance, if there is one.
    """
    from scipy.special import ndtri

    if part.accuracy in (null, least):
        return None
    of_sample = sample.accuracy * (1 - sample.accuracy) if sample is not None else 0.0
    variances = np.array([max(0.0, at * (1 - at)) + of_sample for at in (null, part.accuracy)])
    quantiles = np.array([-ndtri(level), ndtri(POWER)])
    needed = (float(quantiles @ np.sqrt(variances)) / (part.accuracy - null)) ** 2
    if least is not None:
        needed = max(needed, float(variances[1]) * (float(quantiles[1]) / (part.accuracy - least)) ** 2)
    if part.accuracy == 1 and 0 < null < 1:  # where nothing varies, the exact number
        needed = max(needed, math.log(level) / math.log(null))
    return _round_up(max(needed, part.images.sum() + 1))


def _search_images(part: Part, towards: float, shows: Callable[[Part, float], bool]) -> int | None:
    """Return about how many images with these recalls would show something with POWER; None: too many.

    More images of each class are taken, as many times as now, whose recalls err by as much as they do with POWER, in
    the likeliest way.

    Args:
        towards: 1.0 if it is harder to show with a higher accuracy, -1.0 with a lower one.
        shows: whether so many images show it, given how many times as many they are.
    """
    from scipy.special import ndtri

    recalls = part.right / part.images

    def is_shown(factor: float) -> bool:
        images = np.round(part.images * factor)
        variances = recalls * (1 - recalls) / images
        error = math.sqrt(variances.sum())
        shift = towards * float(ndtri(POWER)) * variances / error if error > 0 else 0.0
        return shows(Part(images * np.clip(recalls + shift, 0, 1), images, True), factor)

    low, high = 1.0, MOST_NEEDED / float(part.images.sum())
    if high <= low or not is_shown(high):
        return None
    while high > 1.02 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_shown(middle) else (middle, high)
    return _round_up(max(high * part.images.sum(), part.images.sum() + 1))


def _round_up(number: float) -> int | None:
    """Return the number rounded up to two digits; None above MOST_NEEDED."""
    if number > MOST_NEEDED:
        return None
    step = 10 ** max(0, math.floor(math.log10(max(number, 1))) - 1)
    return int(math.ceil(number / step) * step)
