"""What an examination says, line by line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    area: str  # "packages", "machine", "cache", "database", "study NAME", "processes"
    text: str
    trouble: bool = False
    remedy: str = ""  # what to do about it
    mendable: bool = False  # --repair does it
