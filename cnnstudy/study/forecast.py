"""Compare the estimate of a study's trials with what they take; that of a dry run is saved in the cache until then."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from cnnstudy.config.schema import StudyConfig
from cnnstudy.names import Tag
from cnnstudy.study.recorder import Recorder
from cnnstudy.system.cache import ABOUT, build_entry, content_address, entry_folder
from cnnstudy.system.display import Display, format_duration
from cnnstudy.tracking.operations import SetTags

#: Estimates that dry runs save in the cache, and the file in each entry.
KIND = "forecasts"
_FILE = "seconds.json"


def save_estimate(config: StudyConfig, trials: int, workers: int, seconds: float) -> None:
    """Save the estimate of a dry run in the cache, if that can be written; it replaces an earlier one.

    Args:
        trials: the missing trials that it covers.
        workers: their number.
        seconds: estimated until all trials are done.
    """
    address = _estimate_address(config, trials, workers)

    def write(folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps(seconds), encoding="utf-8")
        about = f"{trials} trials of study {config.name}: {format_duration(seconds)} estimated"
        (folder / ABOUT).write_text(about, encoding="utf-8")

    with contextlib.suppress(OSError):
        shutil.rmtree(entry_folder(KIND, address), ignore_errors=True)
        build_entry(KIND, address, write)


def pop_estimate(config: StudyConfig, trials: int, workers: int) -> float | None:
    """Return the seconds estimated for exactly these trials, and remove the estimate; None if there was no dry run."""
    folder = entry_folder(KIND, _estimate_address(config, trials, workers))
    try:
        seconds = json.loads((folder / _FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    shutil.rmtree(folder, ignore_errors=True)
    return float(seconds) if isinstance(seconds, int | float) else None


def report_estimate_error(estimated: float, taken: float, recorder: Recorder, display: Display) -> None:
    """Report and record the estimated and the actual seconds of the trials."""
    tags = {Tag.ESTIMATED_SECONDS: f"{estimated:.1f}", Tag.MEASURED_SECONDS: f"{taken:.1f}"}
    recorder.outbox.write(recorder.study.run_id, SetTags(tags))
    off = 100 * (taken / estimated - 1) if estimated else 0.0
    display.show_message(
        f"the trials took {format_duration(taken)}; the estimate was {format_duration(estimated)} ({off:+.0f} %)"
    )


def _estimate_address(config: StudyConfig, trials: int, workers: int) -> str:
    return content_address([config.model_dump(mode="json"), trials, workers])
