"""What fresh seeds said of a study's best trials, as the page shows it: accuracies in percent, losses in nats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnnstudy.analysis.champion import Standing
from cnnstudy.analysis.confirmed import Confirmed as Record
from cnnstudy.analysis.confirmed import Opening, from_json
from cnnstudy.analysis.selection import STANDING_HEADINGS, rows


@dataclass(frozen=True)
class Confirmed:
    """A recorded confirmation, for the figure and the table."""

    record: Record

    @property
    def candidates(self) -> Sequence[Standing]:
        """Best first."""
        return self.record.standings

    @property
    def champion(self) -> str | None:
        """The trial that stands for it."""
        return None if self.record.champion is None else self.record.champion.trial

    @property
    def test(self) -> Opening | None:
        return self.record.test

    @property
    def shows_accuracy(self) -> bool:
        return self.record.rule.maximize

    @property
    def percent(self) -> float:
        """What values are shown times: accuracies in percent, losses as they are."""
        return 100.0 if self.shows_accuracy else 1.0

    @property
    def axis(self) -> str:
        return "validation accuracy, %" if self.shows_accuracy else "validation loss, nats"

    @property
    def tested(self) -> float | None:
        """The champion's accuracy (0..1) on the test images."""
        return None if self.test is None else self.test.mean

    @property
    def headings(self) -> Sequence[str]:
        return STANDING_HEADINGS

    @property
    def rows(self) -> list[list[str]]:
        """Cells under `headings`."""
        return rows(self.record.standings, self.record.rule)


def read_confirmed(text: str) -> Confirmed:
    """From the record's text.

    Raises:
        ValueError: it is not what confirming writes; says what is wrong.
    """
    return Confirmed(from_json(text))
