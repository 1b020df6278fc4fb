"""What confirming came to, and its record: the artifact confirm/confirm.json of the study's run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from cnnstudy.analysis import champion as standing_records
from cnnstudy.analysis.champion import Standing
from cnnstudy.records import Rule

#: Where the record is among the artifacts.
RECORD = "confirm/confirm.json"


@dataclass(frozen=True)
class Opening:
    """What the champion's models say of the test split; accuracies 0..1, losses in nats."""

    opened: str  # ISO 8601, of the first opening for these models
    champion: str  # the trial that stands for it
    runs: tuple[str, ...]  # of its models, by seed
    openings: int  # of the study's test split, in all
    images: int = 0
    digest: str = ""
    values: tuple[float, ...] = ()  # accuracy of each seed's model
    losses: tuple[float, ...] = ()
    mean: float | None = None  # None: not measured yet
    low: float | None = None  # Wilson's 95 % interval for so many images
    high: float | None = None
    confusion: tuple[tuple[int, ...], ...] = ()  # of all models together: rows true class, columns predicted

    @property
    def loss(self) -> float:
        """Mean of the models, nats."""
        return sum(self.losses) / len(self.losses)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """What `vars` gave; the confusion matrix may be left out, and what is beyond that is passed over.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        return cls(
            opened=str(plain["opened"]),
            champion=str(plain["champion"]),
            runs=tuple(map(str, plain["runs"])),
            openings=int(plain["openings"]),
            images=int(plain["images"]),
            digest=str(plain["digest"]),
            values=tuple(map(float, plain["values"])),
            losses=tuple(map(float, plain["losses"])),
            mean=None if plain["mean"] is None else float(plain["mean"]),
            low=None if plain["low"] is None else float(plain["low"]),
            high=None if plain["high"] is None else float(plain["high"]),
            confusion=tuple(tuple(map(int, row)) for row in plain.get("confusion", ())),
        )


@dataclass(frozen=True)
class Confirmed:
    """What confirming came to."""

    rule: Rule
    standings: tuple[Standing, ...]  # best first
    best_validation: tuple[str, float]  # the trial that validates best, and its value
    champion: Standing | None
    model: str = ""
    version: str = ""
    reason: str = ""  # why this one is the champion, or why there is none
    test: Opening | None = None
    refusal: str = ""  # why the test split was not opened

    @property
    def tested(self) -> float | None:
        """The champion's accuracy on the test split, or its loss, whichever the study is chosen by; None: not known."""
        if self.test is None or self.test.mean is None:
            return None
        return self.test.mean if self.rule.maximize else self.test.loss

    @property
    def optimism(self) -> float | None:
        """By how much the best validation score of the study is better than the champion's test."""
        if self.tested is None:
            return None
        return (self.best_validation[1] - self.tested) * (1 if self.rule.maximize else -1)


def to_json(confirmed: Confirmed) -> dict[str, Any]:
    """As plain data, for the record."""
    trial, value = confirmed.best_validation
    return {
        "rule": confirmed.rule.to_json(),
        "best_validation": {"trial": trial, "value": value},
        "candidates": [standing_records.to_json(one) for one in confirmed.standings],
        "champion": confirmed.champion.trial if confirmed.champion else None,
        "model": confirmed.model,
        "version": confirmed.version,
        "reason": confirmed.reason,
        "test": dict(vars(confirmed.test)) if confirmed.test else None,
        "refusal": confirmed.refusal,
        "optimism": confirmed.optimism,
    }


def from_json(text: str) -> Confirmed:
    """The record as it was written.

    Raises:
        ValueError: it is not what confirming writes; says what is wrong.
    """
    try:
        plain = json.loads(text)
        standings = tuple(map(standing_records.from_json, plain["candidates"]))
        chosen = next((one for one in standings if one.trial == plain["champion"]), None)
        found = Confirmed(
            rule=Rule.from_json(plain["rule"]),
            standings=standings,
            best_validation=(str(plain["best_validation"]["trial"]), float(plain["best_validation"]["value"])),
            champion=chosen,
            model=str(plain["model"]),
            version=str(plain["version"]),
            reason=str(plain["reason"]),
            test=None if plain["test"] is None else Opening.from_json(plain["test"]),
            refusal=str(plain["refusal"]),
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from error
    except KeyError as error:
        raise ValueError(f"the key {error} is missing") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"a value has another type: {error}") from error
    if found.champion is None and plain["champion"] is not None:
        raise ValueError(f"its champion {plain['champion']!r} is none of its candidates")
    return found
