"""The command that writes a study file for a folder of photos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_executor import FakeExecutor
from odd_photos import write_photos
from typer.testing import CliRunner

from cnnstudy.cli import app
from cnnstudy.cli.start import parse_time
from cnnstudy.config.load import load_study
from cnnstudy.errors import CnnstudyError, InputError

Call = Callable[..., str]


@pytest.fixture
def call(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """call(*arguments): the output of a command whose trials take no time; expected errors are raised."""
    monkeypatch.setattr(
        "cnnstudy.execution.selection.make_executor", lambda slots, folder: FakeExecutor(folder, slots=slots)
    )
    write_photos(own_places / "photos", {"apple": 8, "pear": 8})

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
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
        (["photos", "--time", "30s"], "give more --time"),
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


@pytest.mark.parametrize(("given", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("30 min", 1800)])
def test_times(given: str, seconds: float) -> None:
    assert parse_time(given) == seconds
