"""Commands that begin with photos instead of a study file: init."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnstudy.cli.data import GroupColumn, IgnoreFolders, ImageColumn, LabelColumn, Layout, PartColumn, find_source
from cnnstudy.errors import InputError, printable
from cnnstudy.system.imports import NOT_FOR_MLFLOW, fast_import
from cnnstudy.system.output import open_console, print_text

if TYPE_CHECKING:
    from cnnstudy.data.datasets import DataOptions, folder, table
    from cnnstudy.execution import Workers
    from cnnstudy.study.suggestion import Suggestion

#: Seconds of each unit of a time.
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600}
#: The shortest and longest time, in seconds.
SHORTEST, LONGEST = 30, 14 * 24 * 3600
#: Of the time, the share that predictions may be off and the seconds that the effects and the page take.
MARGIN, SECONDS_TO_REPORT = 0.1, 15.0

PhotosPath = Annotated[str, typer.Argument(metavar="PATH", help="A folder, an archive or a table of photos.")]
Time = Annotated[str, typer.Option("--time", metavar="TIME", help="How long it may all take: 90s, 30m, 2h.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="The study file.", show_default="NAME-OF-THE-FOLDER.yaml here"),
]


def init(
    path: PhotosPath,
    out: Out = None,
    time_: Time = "30m",
    force: Annotated[bool, typer.Option("--force", help="Replace a study file that exists.")] = False,
    image: ImageColumn = None,
    label: LabelColumn = None,
    part: PartColumn = None,
    group: GroupColumn = None,
    layout: Layout = None,
    ignore_folders: IgnoreFolders = None,
) -> None:
    """Look at photos, and write a commented study file that runs offline with what is here."""
    clock = TimeBudget(parse_time(time_))
    columns = {"image": image, "label": label, "part": part, "group": group}
    options = _find_photos(path, columns, layout, ignore_folders)
    file = choose_file(options.path, out)
    if file.exists() and not force:
        raise InputError(f"{printable(str(file))} exists; give another file with --out, or --force to replace it.")
    with contextlib.closing(_make_workers()) as workers:
        suggestion = _write_study(options, file, f"{path} --time {time_}", workers, clock)
    config = suggestion.config
    print_text(f"{file}: {config.total_trials} trials; to run them:  python -m cnnstudy run-study {file}")


def parse_time(given: str) -> float:
    """Return a time such as 90s, 30m or 2h in seconds.

    Raises:
        InputError: it is none, too short or too long.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|min|h)", given.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not SHORTEST <= seconds <= LONGEST:
        raise InputError(
            f"--time {printable(given)} can't be used; give a number with s, m or h, such as 90s, 30m or 2h, from "
            f"{SHORTEST}s to {LONGEST // 3600}h."
        )
    return seconds


@dataclass
class TimeBudget:
    """How much is left of the time that a command may take."""

    total: float  # seconds
    started: float = 0.0

    def __post_init__(self) -> None:
        self.started = self.started or time.monotonic()

    def seconds_for_trials(self) -> float:
        """Return the seconds that are left for trials, so that the whole ends in time."""
        elapsed = time.monotonic() - self.started
        return (1 - MARGIN) * (self.total - elapsed - SECONDS_TO_REPORT)


def _find_photos(
    path: str, columns: dict[str, str | None], layout: str | None, ignore_folders: str | None
) -> folder.Options | table.Options:
    """Return how the photos are read.

    Raises:
        InputError: as find_source; or the path is a study.
    """
    from cnnstudy.data.datasets import folder, table

    options, study = find_source(path, columns, layout, ignore_folders)
    if study is not None:
        raise InputError(f"{printable(path)} is a study already; `run-study` runs it. Give a folder of photos.")
    assert isinstance(options, folder.Options | table.Options)
    return options.model_copy(update={"path": options.path.expanduser().absolute()})


def choose_file(path: Path, out: Path | None) -> Path:
    """Return the study file: as given, or one here with the name of the photos.

    Raises:
        InputError: the name or the place can't be that of a study file.
    """
    from cnnstudy.study.suggestion_text import name_study

    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{printable(str(path))} has a name that is no valid text, which a study file can't hold; rename it."
        ) from None
    if out is None:
        return Path(f"{name_study(path)}.yaml")
    if out.suffix not in (".yaml", ".yml"):
        raise InputError(f"--out {printable(str(out))} is no name of a study file; it must end in .yaml.")
    if not out.expanduser().absolute().parent.is_dir():
        raise InputError(f"--out {printable(str(out))}: there is no folder {printable(str(out.parent))}; create it.")
    return out.expanduser()


def _make_workers() -> Workers:
    from cnnstudy.execution import Workers
    from cnnstudy.execution.selection import make_executor

    return Workers(lambda folder: make_executor(1, folder))


def _write_study(options: DataOptions, file: Path, given: str, workers: Workers, clock: TimeBudget) -> Suggestion:
    """Look at the photos, show what there is, and write the study file.

    Args:
        given: the arguments to name in the file.
    """
    with fast_import(without=NOT_FOR_MLFLOW):
        from cnnstudy.study.new_study import fit_study, look_at_machine, look_at_photos
    from cnnstudy.results.pages.data_summary import format_short
    from cnnstudy.study.suggestion_text import name_study, write_study_file
    from cnnstudy.system.display import watch_command
    from cnnstudy.system.files import write_whole

    console, name = open_console(error=True), name_study(file.with_suffix(""))
    with watch_command(console) as display:
        examined, photos = look_at_photos(options, display)
    print_text(format_short(examined, photos.images))
    with watch_command(console) as display:
        suggestion = fit_study(name, photos, look_at_machine(), workers, clock.seconds_for_trials, display)
    write_whole(file, write_study_file(suggestion, f"python -m cnnstudy init {given}"))
    return suggestion
