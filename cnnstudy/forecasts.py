"""What `--dry-run` foretold, kept in the cache until the study has run: told and recorded beside what it took."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from cnnstudy.cache import ABOUT, build_entry, content_address, entry_folder
from cnnstudy.display import Display, duration
from cnnstudy.names import Tag
from cnnstudy.operations import SetTags
from cnnstudy.recording import Recorder
from cnnstudy.schema import StudyConfig

KIND = "forecasts"
_FILE = "seconds.json"


def keep(config: StudyConfig, trials: int, workers: int, seconds: float) -> None:
    """Of so many trials that are to run yet, by so many workers; in place of an earlier one, if the cache takes it."""
    address = _address(config, trials, workers)

    def write(folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps(seconds), encoding="utf-8")
        about = f"{trials} trials of study {config.name}: {duration(seconds)} foretold"
        (folder / ABOUT).write_text(about, encoding="utf-8")

    with contextlib.suppress(OSError):
        shutil.rmtree(entry_folder(KIND, address), ignore_errors=True)
        build_entry(KIND, address, write)


def take(config: StudyConfig, trials: int, workers: int) -> float | None:
    """Seconds that were foretold of just these trials, for the last time; None where nobody asked."""
    folder = entry_folder(KIND, _address(config, trials, workers))
    try:
        seconds = json.loads((folder / _FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    shutil.rmtree(folder, ignore_errors=True)
    return float(seconds) if isinstance(seconds, int | float) else None


def compare(foretold: float, taken: float, recorder: Recorder, display: Display) -> None:
    """Tell and record both, in seconds."""
    tags = {Tag.SECONDS_FORETOLD: f"{foretold:.1f}", Tag.SECONDS_TAKEN: f"{taken:.1f}"}
    recorder.outbox.write(recorder.study.run_id, SetTags(tags))
    off = 100 * (taken / foretold - 1) if foretold else 0.0
    display.say(f"the trials took {duration(taken)}; the estimate was {duration(foretold)} ({off:+.0f} %)")


def _address(config: StudyConfig, trials: int, workers: int) -> str:
    return content_address([config.model_dump(mode="json"), trials, workers])
