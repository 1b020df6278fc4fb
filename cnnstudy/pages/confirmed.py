"""What fresh seeds said of a study's best trials: the artifact confirm/confirm.json of its run.

Keys that it has beyond these are passed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ARTIFACT = "confirm/confirm.json"


@dataclass(frozen=True)
class Candidate:
    """One trial that ran again with fresh seeds. Values are the rule's metric: shares of 0..1, or nats."""

    trial: str
    title: str
    searched: float | None  # what the study had measured
    values: tuple[float, ...]  # of each fresh seed
    mean: float | None
    low: float | None  # the ends of the 95 % interval
    high: float | None
    gap: float | None
    standing: str  # "champion", "tied", "behind", or why it can't be the champion


@dataclass(frozen=True)
class Test:
    """The champion on the test images, which nothing was chosen by."""

    opened: str  # ISO 8601
    digest: str
    images: int
    mean: float | None  # accuracy, 0..1; None: not measured yet
    low: float | None
    high: float | None
    openings: int


@dataclass(frozen=True)
class Confirmed:
    """The confirmation as a whole. `optimism`: by how much the study's best validation is better than the test."""

    metric: str
    limits: str  # that a champion has to keep, in words; ""
    best_trial: str
    best_value: float | None
    candidates: tuple[Candidate, ...]
    champion: str | None
    model: str
    reason: str
    test: Test | None
    refusal: str  # why the test images were not looked at
    optimism: float | None

    @property
    def shows_accuracy(self) -> bool:
        return self.metric.endswith("accuracy")

    @property
    def percent(self) -> float:
        """What values are shown times: accuracies in percent, losses as they are."""
        return 100.0 if self.shows_accuracy else 1.0

    @property
    def axis(self) -> str:
        return "validation accuracy, %" if self.shows_accuracy else "validation loss, nats"

    @property
    def winner(self) -> Candidate | None:
        """The champion among the candidates."""
        return next((one for one in self.candidates if one.trial == self.champion), None)

    @property
    def tested(self) -> float | None:
        """The champion's accuracy (0..1) on the test images."""
        return None if self.test is None else self.test.mean

    def with_standing(self, standing: str) -> list[Candidate]:
        return [one for one in self.candidates if one.standing == standing]

    def shown(self, value: float) -> str:
        """`86.0 %`, or nats."""
        return f"{100 * value:.1f} %" if self.shows_accuracy else f"{value:.3f}"


def read_confirmed(text: str) -> Confirmed:
    """The artifact's text.

    Raises:
        ValueError: it is not what `confirm` writes; says what is wrong.
    """
    try:
        data = json.loads(text)
        rule, best, test = data["rule"], data.get("best_validation") or {}, data.get("test")
        return Confirmed(
            metric=str(rule["metric"]),
            limits=_limits(rule),
            best_trial=str(best.get("trial") or ""),
            best_value=_number(best.get("value")),
            candidates=tuple(_candidate(one) for one in data["candidates"]),
            champion=data.get("champion"),
            model=str(data.get("model") or ""),
            reason=str(data.get("reason") or ""),
            test=_test(test) if test else None,
            refusal=str(data.get("refusal") or ""),
            optimism=_number(data.get("optimism")),
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from error
    except KeyError as error:
        raise ValueError(f"the key {error} is missing") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"a value has another type: {error}") from error


def _candidate(data: Mapping[str, Any]) -> Candidate:
    return Candidate(
        trial=str(data["trial"]),
        title=str(data.get("title") or ""),
        searched=_number(data.get("searched")),
        values=tuple(float(value) for value in data["values"]),
        mean=_number(data["mean"]),
        low=_number(data.get("low")),
        high=_number(data.get("high")),
        gap=_number(data.get("gap")),
        standing=str(data["standing"]),
    )


def _test(data: Mapping[str, Any]) -> Test:
    return Test(
        opened=str(data["opened"]),
        digest=str(data.get("digest") or ""),
        images=int(data["images"]),
        mean=_number(data.get("mean")),
        low=_number(data.get("low")),
        high=_number(data.get("high")),
        openings=int(data.get("openings", 1)),
    )


def _limits(rule: Mapping[str, Any]) -> str:
    gap = _number(rule.get("maximum_gap"))
    least = _number(rule.get("minimum_accuracy", rule.get("minimum")))
    limits = [f"a gap of at most {100 * gap:g} points"] if gap is not None else []
    limits += [f"validation accuracy of at least {100 * least:g} %"] if least is not None else []
    return " and ".join(limits)


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(float(value)) else float(value)
