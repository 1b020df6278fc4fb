"""What differed between two recorded studies: settings of the study file, images, code and packages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnnstudy.config_record import differences
from cnnstudy.records import RecordedRun, RecordedStudy

DIGEST = "cnnstudy.data_digest"
#: Tags of a trial that tell what made it, beside the study file.
_TAGS = {"data digest": DIGEST, "code version": "cnnstudy.code_version"}


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
    recorded = [(name, tag_values(trials_a, tag), tag_values(trials_b, tag)) for name, tag in _TAGS.items()]
    of_a, of_b = _packages(trials_a), _packages(trials_b)
    recorded += [(f"packages.{name}", of_a.get(name, []), of_b.get(name, [])) for name in sorted({*of_a, *of_b})]
    return found + [
        Difference(key, ", ".join(one) or None, ", ".join(other) or None)
        for key, one, other in recorded
        if one != other
    ]


def tag_values(trials: Sequence[RecordedRun], tag: str) -> list[str]:
    """What the trials have in a tag, each value once."""
    return sorted({run.tags[tag] for run in trials if tag in run.tags})


def _packages(trials: Sequence[RecordedRun]) -> dict[str, list[str]]:
    """Package -> versions among the trials."""
    found: dict[str, set[str]] = {}
    for text in tag_values(trials, "cnnstudy.packages"):
        for name, version in json.loads(text).items():
            found.setdefault(name, set()).add(str(version))
    return {name: sorted(versions) for name, versions in found.items()}
