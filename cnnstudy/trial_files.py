"""A trial's files: tables for its run in MLflow, what its worker left for that, and their end."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cnnstudy.analysis.spreadsheet import without_formula
from cnnstudy.records import TrialResult, TrialSpec


def write_tables(
    folder: Path, classes: Sequence[str], result: TrialResult, per_class: Sequence[Mapping[str, float | str]]
) -> None:
    """Per-class metrics and the confusion matrix as CSV, and which images it had right, where the worker left that."""
    _write_rows(folder / "per_class.csv", list(per_class[0]), [list(row.values()) for row in per_class])
    rows = [[name, *counts] for name, counts in zip(classes, result.confusion, strict=True)]
    _write_rows(folder / "confusion_matrix.csv", ["true class", *classes], rows)
    if "correctness" in result.files:
        shutil.copy(result.files["correctness"], folder / "correctness.npz")


def write_spec(folder: Path, spec: TrialSpec) -> None:
    """All that the worker was told."""
    (folder / "trial.json").write_text(json.dumps(spec.to_json(), indent=2), encoding="utf-8")


def remove_files(result: TrialResult) -> None:
    """What the worker left on disk; MLflow has it now."""
    for path in map(Path, result.files.values()):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _write_rows(path: Path, header: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([without_formula(cell) for cell in row] for row in (header, *rows))
