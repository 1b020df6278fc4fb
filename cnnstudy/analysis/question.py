"""What a study is asked: the effects that are its answers, one family of tests, apart from all that is exploratory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cnnstudy.analysis.effects import Effect, correct_together
from cnnstudy.analysis.observations import BALANCED_VALIDATION, GAP, VALIDATION
from cnnstudy.config.factors import find_factor

#: A question's outcome in a study file -> its column in the observations, and its name in a sentence.
OUTCOMES = {
    "gap": (GAP, "the gap"),
    "accuracy": (VALIDATION, "validation accuracy"),
    "balanced-accuracy": (BALANCED_VALIDATION, "balanced validation accuracy"),
}


@dataclasses.dataclass(frozen=True)
class Question:
    """The outcome that a study asks about, and the factors; `factors` is None for all that vary, networks included."""

    outcome: str = "gap"
    factors: tuple[str, ...] | None = None

    @property
    def column(self) -> str:
        """The outcome's column in the observations."""
        return OUTCOMES[self.outcome][0]

    @property
    def words(self) -> str:
        """The outcome in a sentence, as `the gap`."""
        return OUTCOMES[self.outcome][1]

    def sentence(self) -> str:
        """Return what is asked, and how sure the answers are together."""
        if self.factors is None:
            whose = "the factors that vary"
        else:
            whose = ", ".join(find_factor(name).label for name in self.factors)
        return (
            f"The question: what changes {self.words} at equal epochs, of {whose}? Its answers are one family: "
            "about 5 % of studies give any false one. All other statements are exploratory."
        )

    def asks(self, effect: Effect) -> bool:
        """Return whether the effect is an answer: a main effect of one of the question's factors on its outcome."""
        is_of_factor = self.factors is None or effect.factor in self.factors
        return effect.second is None and effect.column == self.column and is_of_factor


def recorded_question(config: Mapping[str, Any]) -> Question:
    """Return the question of a recorded study file; studies of earlier versions ask about the gap and all factors."""
    given = config.get("question") or {}
    factors = given.get("factors")
    return Question(given.get("outcome", "gap"), None if factors is None else tuple(factors))


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
