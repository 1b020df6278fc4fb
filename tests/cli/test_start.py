"""The commands that begin with photos: one writes a study file, the other runs it and says what it found."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_executor import FakeExecutor
from odd_photos import write_photos
from pictures import leave_out_pictures
from typer.testing import CliRunner

from cnnstudy.cli import app
from cnnstudy.cli.start import parse_time
from cnnstudy.config.load import load_study
from cnnstudy.errors import EXIT_INTERRUPTED, CnnstudyError, InputError, StudyChangedError
from cnnstudy.execution import Event
from cnnstudy.execution.time_limit import TimeLimit
from cnnstudy.study.suggestion import FEW_FACTORS, SMALL, Design

Call = Callable[..., str]


@pytest.fixture
def call(own_places: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """call(*arguments, code=0, **settings): the output of a command whose trials take no time; errors are raised.

    The settings are those of its executor.
    """
    leave_out_pictures(monkeypatch)
    # absolute: MLflow keeps what it opened by its address
    shutil.copy(empty_database, own_places / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{own_places / 'mlflow.db'}")
    small = Design({SMALL: ("scratch",)}, FEW_FACTORS, fraction=None, least_seeds=3)
    monkeypatch.setattr("cnnstudy.study.suggestion.list_designs", lambda images, machine: [small])
    monkeypatch.setattr("cnnstudy.study.suggestion.MOST_SEEDS", 3)
    monkeypatch.setattr("cnnstudy.study.suggestion.MOST_EPOCHS", 2)
    write_photos(own_places / "photos", {"apple": 8, "pear": 8})

    def run(*arguments: str, code: int = 0, **settings: Any) -> str:
        monkeypatch.setattr(
            "cnnstudy.execution.selection.make_executor",
            lambda slots, folder, execution=None: FakeExecutor(folder, slots=slots, reads_folders=True, **settings),
        )
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done.stdout

    return run


def test_a_file_is_written_that_a_dry_run_accepts(call: Call, own_places: Path) -> None:
    said = call("init", "photos", "--time", "300h")
    assert said.startswith("folder: 16 images of 2 classes: apple (8), pear (8)\n")
    assert said.endswith("trials; to run them:  python -m cnnstudy run-study photos.yaml\n")
    config = load_study("photos.yaml").config
    assert f"photos.yaml: {config.total_trials} trials" in said
    assert (config.name, config.data.model_dump()["path"]) == ("photos", own_places / "photos")
    assert f"= {config.total_trials} trials (0 recorded" in call("run-study", "photos.yaml", "--dry-run")


def test_a_file_that_exists_is_replaced_only_by_force(call: Call, own_places: Path) -> None:
    (own_places / "photos.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"photos\.yaml exists; .* --force"):
        call("init", "photos", "--time", "300h")
    assert (own_places / "photos.yaml").read_text("utf-8") == "mine"
    call("init", "photos", "--time", "300h", "--out", "other.yaml")
    assert load_study("other.yaml").config.name == "other"
    call("init", "photos", "--time", "300h", "--force")
    assert load_study("photos.yaml").config.name == "photos"


def test_a_table_is_read_with_its_columns(call: Call, own_places: Path) -> None:
    files = sorted((own_places / "photos").glob("*/*.jpg"))
    rows = [f"{file.relative_to(own_places).as_posix()},{file.parent.name}" for file in files]
    (own_places / "labels.csv").write_text("\n".join(["file,kind", *rows]), encoding="utf-8")
    call("init", "labels.csv", "--image", "file", "--label", "kind", "--time", "300h")
    data = load_study("labels.yaml").config.data.model_dump()
    assert (data["name"], data["image"], data["label"], data["copies"]) == ("table", "file", "kind", "together")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no nowhere"),
        (["quickstart"], "quickstart is a study already"),
        (["photos", "--time", "soon"], "--time soon can't be used; give a number with s, m or h"),
        (["photos", "--time", "1s"], "from 30s to 336h"),
        (["photos", "--time", "30s"], "give about .* more with --time"),
        (["photos", "--out", "file.txt"], "it must end in .yaml"),
        (["photos", "--out", "nowhere/file.yaml"], "there is no folder nowhere"),
        (["photos", "--image", "file"], "only a table"),
    ],
)
def test_what_can_not_be_used_is_said_and_nothing_written(
    call: Call, own_places: Path, arguments: list[str], said: str
) -> None:
    with pytest.raises(CnnstudyError, match=said):
        call("init", *arguments)
    assert list(own_places.glob("*.yaml")) == []


def test_a_search_ends_with_the_next_step_as_a_factorial_does(call: Call) -> None:
    call("init", "photos", "--time", "300h")
    search = ("--set", "strategy={kind: search, sampler: random}", "--set", "factors.batch_size=[8, 16]")
    said = call("run-study", "photos.yaml", *search, "--trials", "3")
    assert "3 trials" in said
    assert re.search(r"^Next: .*\n(?:.*\n)?    python -m cnnstudy ", said, flags=re.MULTILINE), said


# ---- diagnose


def test_a_diagnosis_ends_with_the_answer_the_cause_the_next_step_and_the_page(
    call: Call, own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnstudy.results.terminal.cause_sentence", lambda found: "The cause is this.")
    said = call("diagnose", "photos", "--time", "300h")
    *_, page = said.splitlines()
    assert "The study: photos.yaml\n" in said
    (answer,) = re.findall(r"^Answer: .*$", said, flags=re.MULTILINE)
    cause, first, line = said.partition(f"{answer}\n")[2].splitlines()[:3]
    assert cause == "The cause is this."
    assert first.startswith("Next: ")
    assert line.startswith("    python -m cnnstudy ")
    assert page == f"Page: {own_places / 'photos-report' / 'report.html'}"
    words = html.unescape(re.sub(r"<.*?>", "", (own_places / "photos-report/report.html").read_text("utf-8")))
    assert answer.removeprefix("Answer: ").partition(": ")[0] in words
    total = load_study("photos.yaml").config.total_trials
    assert f"x 3 seeds = {total} trials (0 recorded, {total} to run)" in said


def test_what_was_interrupted_goes_on_with_the_same_command(call: Call) -> None:
    said = call("diagnose", "photos", "--time", "300h", code=EXIT_INTERRUPTED, interrupt_at=20)
    assert "Stopped; " in said
    assert "Answer: " not in said
    text = Path("photos.yaml").read_text("utf-8")
    said = call("diagnose", "photos", "--time", "30m")
    assert "photos.yaml exists, and is used" in said
    assert "(0 recorded" not in said
    assert "Answer: " in said
    assert Path("photos.yaml").read_text("utf-8") == text
    assert "(12 recorded, 0 to run)" in call("diagnose", "photos", "--time", "30m")


def test_when_the_time_is_over_what_is_there_is_analysed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[TimeLimit] = []

    def keep(*given: Any) -> TimeLimit:
        limits.append(TimeLimit(*given))
        return limits[-1]

    def end(event: Event) -> None:
        seen.append(event)
        if len(seen) == 20:
            limits[-1].at = 0.0

    seen: list[Event] = []
    monkeypatch.setattr("cnnstudy.execution.time_limit.TimeLimit", keep)
    said = call("diagnose", "photos", "--time", "300h", on_event=end)
    missing = int(re.findall(r"Trials still missing: (\d+) of 12", said)[0])
    assert 0 < missing < 12
    assert "Answer: " in said


def test_a_file_of_other_photos_or_of_a_search_is_not_taken_for_theirs(call: Call, own_places: Path) -> None:
    write_photos(own_places / "elsewhere/photos", {"apple": 8, "pear": 8}, 5000)
    call("init", "photos", "--time", "300h")
    with pytest.raises(InputError, match=r"photos\.yaml exists and is about the photos in .* those in .*elsewhere"):
        call("diagnose", "elsewhere/photos")
    text = Path("photos.yaml").read_text("utf-8")
    Path("photos.yaml").write_text(text.replace("kind: factorial", "kind: search") + "budget: {trials: 2}\n")
    with pytest.raises(CnnstudyError, match="search"):
        call("diagnose", "photos")


def test_photos_that_changed_are_not_answered_for(call: Call, own_places: Path) -> None:
    call("diagnose", "photos", "--time", "300h")
    write_photos(own_places / "photos", {"apple": 1}, 7000)
    with pytest.raises(StudyChangedError, match="files were added, removed or changed"):
        call("diagnose", "photos", "--time", "300h")


def test_a_page_that_cannot_be_written_comes_after_the_answer(call: Call, own_places: Path) -> None:
    (own_places / "photos-report").write_text("mine", encoding="utf-8")
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnnstudy.cli.start.print_text", told.append)
        with pytest.raises(OSError, match="photos-report is no folder, so the page can't be written; move it away"):
            call("diagnose", "photos", "--time", "300h")
    assert any(line.startswith("Answer: ") for line in told)


def test_photos_are_the_same_by_another_path(call: Call, own_places: Path) -> None:
    (own_places / "elsewhere").mkdir()
    call("init", "elsewhere/../photos", "--time", "300h", "--layout", "classes")
    text = Path("photos.yaml").read_text("utf-8")
    assert "Written by: python -m cnnstudy init elsewhere/../photos --time 300h --layout classes" in text
    (own_places / "link").symlink_to(own_places / "photos")
    assert "Answer: " in call("diagnose", "link", "--out", "photos.yaml", "--time", "300h")


@pytest.mark.parametrize(("given", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("30 min", 1800)])
def test_times(given: str, seconds: float) -> None:
    assert parse_time(given) == seconds
