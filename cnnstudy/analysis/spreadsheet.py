"""What a spreadsheet makes of a cell of a CSV file."""

from __future__ import annotations

from typing import Any


def without_formula(value: Any) -> Any:
    """Text with an apostrophe before it where a spreadsheet would take it for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
