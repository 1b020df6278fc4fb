"""What differed between two recorded studies: settings of the study file, images, code and packages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cnnstudy.config_record import differences
from cnnstudy.records import RecordedRun, RecordedStudy


@dataclass(frozen=True)
class Difference:
    """A setting that differs; None where a study has none."""

    key: str
    a: Any
    b: Any


def differing_settings(
    a: RecordedStudy, trials_a: Sequence[RecordedRun], b: RecordedStudy, trials_b: Sequence[RecordedRun]
) -> list[Difference]:
    """The keys of the study files that differ but the name, then what the trials were made from and with."""
    found = [Difference(*of) for of in differences(a.config, b.config) if of[0] != "name"]
    recorded = [
        ("data digest", data_digests(trials_a), data_digests(trials_b)),
        (
            "code version",
            _distinct(run.code_version for run in trials_a),
            _distinct(run.code_version for run in trials_b),
        ),
    ]
    of_a, of_b = _packages(trials_a), _packages(trials_b)
    recorded += [(f"packages.{name}", of_a.get(name, []), of_b.get(name, [])) for name in sorted({*of_a, *of_b})]
    return found + [
        Difference(key, ", ".join(one) or None, ", ".join(other) or None)
        for key, one, other in recorded
        if one != other
    ]


def data_digests(trials: Sequence[RecordedRun]) -> list[str]:
    """Return the digests of the images that the trials used, each once."""
    return _distinct(run.data_digest for run in trials)


def _distinct(values: Iterable[str]) -> list[str]:
    return sorted({value for value in values if value})


def _packages(trials: Sequence[RecordedRun]) -> dict[str, list[str]]:
    """Package -> versions among the trials."""
    found: dict[str, set[str]] = {}
    for run in trials:
        for name, version in run.packages.items():
            found.setdefault(name, set()).add(str(version))
    return {name: sorted(versions) for name, versions in found.items()}
