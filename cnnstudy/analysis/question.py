"""What a study is asked: the effects that are its answers, one family of tests, apart from all that is exploratory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cnnstudy.analysis.effects import Effect, correct_together
from cnnstudy.analysis.observations import BALANCED_GAP, BALANCED_VALIDATION, GAP, VALIDATION
from cnnstudy.config.factors import find_factor
from cnnstudy.names import Metric
from cnnstudy.training.verdict import IMBALANCE

#: A question's outcome in a study file, and whether it is of balanced accuracies -> its column in the observations, its
#: metric, and its name in a sentence.
OUTCOMES = {
    ("gap", False): (GAP, Metric.GAP_ACCURACY, "the gap"),
    ("gap", True): (BALANCED_GAP, Metric.GAP_BALANCED_ACCURACY, "the gap in balanced accuracy"),
    ("accuracy", False): (VALIDATION, Metric.VAL_ACCURACY, "validation accuracy"),
    ("balanced-accuracy", True): (BALANCED_VALIDATION, Metric.VAL_BALANCED_ACCURACY, "balanced validation accuracy"),
}


@dataclasses.dataclass(frozen=True)
class Question:
    """The outcome that a study asks about, and the factors; `factors` is None for all that vary, networks included.

    `unequal`: whether the classes are so unequal that a gap is that of balanced accuracies, as in the verdict.
    `progress`: where a study stops when it is answered, how far it has come, in a sentence; else "".
    """

    outcome: str = "gap"
    factors: tuple[str, ...] | None = None
    unequal: bool = False
    progress: str = ""

    @property
    def balanced(self) -> bool:
        """Whether the outcome is of balanced accuracies."""
        return self.outcome == "balanced-accuracy" or (self.outcome == "gap" and self.unequal)

    @property
    def column(self) -> str:
        """The outcome's column in the observations."""
        return OUTCOMES[self.outcome, self.balanced][0]

    @property
    def metric(self) -> str:
        """The outcome's metric, of an epoch."""
        return OUTCOMES[self.outcome, self.balanced][1]

    @property
    def words(self) -> str:
        """The outcome in a sentence, as `the gap`."""
        return OUTCOMES[self.outcome, self.balanced][2]

    def sentence(self) -> str:
        """Return what is asked, and how sure the answers are together."""
        if self.factors is None:
            whose = "the factors that vary"
        else:
            whose = ", ".join(find_factor(name).label for name in self.factors)
        why = ""
        if self.outcome == "gap" and self.balanced:
            why = (
                f" The gap is that of balanced accuracies, as in the verdicts, because the largest class has more than "
                f"{IMBALANCE} times the images of the smallest."
            )
        return (
            f"The question: what changes {self.words} at equal epochs, of {whose}? Its answers are one family: "
            "about 5 % of studies give any false one. All other statements are exploratory: each says raises or lowers "
            "only after a correction for all others on the same outcome, but its interval is 95 % for this effect "
            f"alone.{why}{f' {self.progress}' if self.progress else ''}"
        )

    def asks(self, effect: Effect) -> bool:
        """Return whether the effect is an answer: a main effect of one of the question's factors on its outcome."""
        return effect.second is None and effect.column == self.column and self.asks_about(effect.factor)

    def asks_about(self, factor: str) -> bool:
        """Return whether the question is about this factor."""
        return self.factors is None or factor in self.factors


def recorded_question(config: Mapping[str, Any], unequal: bool = False) -> Question:
    """Return the question of a recorded study file; studies of earlier versions ask about the gap and all factors.

    Args:
        unequal: whether the largest class has more than 1.5 times the images of the smallest.
    """
    given = config.get("question") or {}
    factors = given.get("factors")
    return Question(given.get("outcome", "gap"), None if factors is None else tuple(factors), unequal)


def correct_by_question(effects: Sequence[Effect], question: Question) -> list[Effect]:
    """Return the effects, corrected for multiple comparisons: the answers to the question in a family of their own.

    The probability of any false answer to the question, over all networks, is about 5 %. The other effects on each
    outcome are a family too, and exploratory.

    Args:
        effects: of all networks.
    """
    is_asked = [question.asks(effect) for effect in effects]
    asked = iter(correct_together([effect for effect, asks in zip(effects, is_asked, strict=True) if asks]))
    others = iter(correct_together([effect for effect, asks in zip(effects, is_asked, strict=True) if not asks]))
    return [next(asked if asks else others) for asks in is_asked]
