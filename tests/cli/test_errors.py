"""Messages and exit codes of commands that fail, each run in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Answer, answer_of, call, start
from odd_photos import write_photos

from cnnstudy import cli
from cnnstudy.errors import DataError, EnvironmentTrouble
from cnnstudy.system.cache import cache_folder

STUDY = """\
name: probe
data: {name: digits}
image_size: 64
architectures: [alexnet]
training:
  epochs: 1
budget:
  trials: 1
"""


def expect(answer: Answer, code: int, *fragments: str) -> None:
    """Check the exit code, and that a message with these fragments was printed instead of a traceback."""
    assert answer.code == code, answer.text
    assert "Traceback" not in answer.text
    assert all(line.isprintable() for line in answer.text.split("\n"))
    assert [fragment for fragment in fragments if fragment not in answer.errors] == [], answer.errors
    assert answer.output == ""


# ---- invalid input: exit 2, before heavy imports


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["run-study", "tinny"], ["there is no study file 'tinny'", "did you mean 'tiny'?"]),
        (["run-study", "probe.yml"], ["there is no study file 'probe.yml'"]),
        (["run-study", "."], [". is a folder"]),
        (
            ["run-study", "probe.yaml", "--set", "training.epoch=3"],
            ["--set training.epoch: ", "did you mean 'epochs'?"],
        ),
        (["run-study", "probe.yaml", "--set", "epochs"], ["--set 'epochs' is not key=value"]),
        (["run-study", "probe.yaml", "--set", "training.epochs=0"], ["--set training.epochs: ", "not 0."]),
        (["run-study", "probe.yaml", "--trials", "0"], ["Invalid value for '--trials'"]),
        (["run-study", "probe.yaml", "--trials", "many"], ["Invalid value for '--trials'"]),
        (["run-study", "probe.yaml", "--trials", "100001"], ["--trials", "less than or equal to 100000"]),
        (
            ["run-study", "probe.yaml", "--set", "strategy={kind: factorial}", "--trials", "5"],
            ["budget: can't be combined with a factorial", "leave it (and --trials) out", "strategy.seeds"],
        ),
        (["run-study", "probe.yaml", "--seed", "-1"], ["Invalid value for '--seed'"]),
        (["run-study", "probe.yaml", "--seed", "2147483648"], ["seed", "less than 2147483648"]),
        (["run-study", "probe.yaml", "--jobs", "0"], ["Invalid value for '--jobs'"]),
        (["run-study", "probe.yaml", "--trails", "3"], ["--trails", "--trials"]),
        (["leaderboard", "--top", "0"], ["Invalid value for '--top'"]),
        (["ui", "--port", "70000"], ["Invalid value for '--port'"]),
        (["predict", "gone.keras", "photo.jpg"], ["There is no gone.keras. A model is a study", "STUDY/TRIAL"]),
        (["predict", "./", "photo.jpg"], ["The folder ./ holds no Keras model"]),
        (["predict", "gone.keras"], ["Missing argument 'IMAGE...'"]),
        (["predict", "gone.keras", "photo.jpg", "--top", "0"], ["Invalid value for '--top'"]),
        (["export", "gone.keras", "out", "--format", "onyx"], ["Invalid value for '--format'", "'onnx'"]),
        (["export", "gone.keras", "."], ["the folder . is not empty"]),
        (["export", "gone.keras", "probe.yaml"], ["probe.yaml is a file"]),
        (["export", "gone.keras", "out"], ["There is no gone.keras."]),
        (["describe", "alexnett"], ["unknown architecture 'alexnett'", "did you mean 'alexnet'?"]),
        (["describe", "zzz"], ["unknown architecture 'zzz'. The architectures are alexnet"]),
        (["describe", "alexnet", "--image-size", "63"], ["at least 64 x 64 pixels, not 63"]),
        (["describe", "alexnet", "--classes", "1"], ["Invalid value for '--classes'"]),
        (["describe"], ["Missing argument"]),
        (["run"], ["No such command 'run'"]),
        (["run\x1b[2J\u202e"], ["No such command", r"run\x1b[2J\u202e"]),
        (["describe", "a\x1b[2J\nb"], [r"unknown architecture 'a\x1b[2J\nb'"]),
        (["run-study", "a\x1b[2J\rb.yml"], [r"a\x1b[2J\rb.yml"]),
        (["export", "gone\x9b2J.keras", "a\u202eb"], [r"There is no gone\x9b2J.keras."]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].islower() else None,
)
def test_a_mistake_in_a_command(tmp_path: Path, arguments: list[str], fragments: list[str]) -> None:
    (tmp_path / "probe.yaml").write_text(STUDY, encoding="utf-8")
    answer = call(*arguments, folder=tmp_path, TERM="dumb", NO_COLOR="1")
    expect(answer, 2, *fragments)
    assert [file.name for file in tmp_path.iterdir()] == ["probe.yaml"], "it left something behind"


def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "probe.yaml").write_text(STUDY.replace("  epochs: 1", "  epohcs: 1"), encoding="utf-8")
    answer = call("run-study", "probe.yaml", folder=tmp_path)
    expect(answer, 2, "probe.yaml, line 6, training.epohcs: unknown key; did you mean 'epochs'?")
    assert "is missing" not in answer.errors


def test_a_message_shows_what_the_user_wrote_as_it_is(tmp_path: Path) -> None:
    """Errors are printed without markup and without wrapping."""
    text = STUDY.replace("name: probe", 'name: "[red]x[/red] ' + "x" * 60 + '"')
    (tmp_path / "probe.yaml").write_text(text, encoding="utf-8")
    answer = call("run-study", "probe.yaml", folder=tmp_path, COLUMNS="40")
    expect(answer, 2, "'[red]x[/red] " + "x" * 60 + "'")


# ---- the record is there, but not the requested study


RECORD = """
from cnnstudy.config.load import load_study
from cnnstudy.tracking.client import Tracker
config = load_study("probe.yaml").config
Tracker("sqlite:///mine.db").open_study(config.name, config.model_dump(mode="json"))
"""


@pytest.mark.thorough
def test_a_leaderboard_without_its_study(tmp_path: Path) -> None:
    empty = call("leaderboard", folder=tmp_path, MLFLOW_TRACKING_URI="sqlite:///mine.db")
    expect(empty, 2, "mine.db yet. Create one with `", "python -m cnnstudy run-study", "--tracking-uri")
    assert list(tmp_path.iterdir()) == [], "it left something behind"

    (tmp_path / "probe.yaml").write_text(STUDY, encoding="utf-8")
    subprocess.run([sys.executable, "-c", RECORD], cwd=tmp_path, check=True)
    answer = call("leaderboard", "porbe", "--tracking-uri", "sqlite:///mine.db", folder=tmp_path)
    expect(answer, 2, "there is no study 'porbe'", "did you mean 'probe'?", "Available studies: probe.")


# ---- the record can't be reached: exit 3, soon, without the password in the message

SECRET = "s3cr3t-pa55"
URIS = {
    "no folder can be there": "sqlite:////dev/null/no/mlflow.db",
    "the file is no database": "sqlite:///notes.txt",
    "nobody listens": f"http://user:{SECRET}@127.0.0.1:9",
    "a database server": f"postgresql://user:{SECRET}@127.0.0.1:9/x",
}
#: Seconds; when nobody listens, MLflow retries for about 15 s.
LIMIT = 50


@pytest.fixture(scope="module")
def unreachable(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Answer]:
    """The answers of `leaderboard` for each URI; run in parallel, since most of the time is waiting."""
    folder = tmp_path_factory.mktemp("unreachable")
    (folder / "notes.txt").write_text("no database, but a text of some length\n" * 50, encoding="utf-8")
    started = time.monotonic()
    processes = {name: start("leaderboard", "--tracking-uri", uri, folder=folder) for name, uri in URIS.items()}
    answers: dict[str, Answer | AssertionError] = {}
    for name, process in processes.items():
        try:
            answers[name] = answer_of(process, started, max(1, started + LIMIT - time.monotonic()))
        except AssertionError as error:
            answers[name] = error

    def answer(name: str) -> Answer:
        found = answers[name]
        if isinstance(found, AssertionError):
            raise found
        return found

    return answer


@pytest.mark.thorough
@pytest.mark.parametrize("name", URIS)
def test_a_record_out_of_reach(unreachable: Callable[[str], Answer], name: str) -> None:
    answer = unreachable(name)
    shown = URIS[name].replace(f"user:{SECRET}@", "***@")
    expect(answer, 3, f"MLflow at {shown} failed: ")
    assert SECRET not in answer.text
    assert answer.seconds < LIMIT


@pytest.mark.parametrize("command", [["data", "photos"], ["run-study", "tiny"]])
def test_a_cache_that_can_not_be_written_is_named(
    command: list[str], own_places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(own_places / "photos", {"a": 6, "b": 6})
    (own_places / "file").touch()
    monkeypatch.setenv("CNNSTUDY_CACHE", str(own_places / "file" / "cache"))
    monkeypatch.setattr("sys.argv", ["cnnstudy", *command])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code in (EnvironmentTrouble.exit_code, DataError.exit_code)
    said = capsys.readouterr().err
    assert f"error: the cache folder {own_places / 'file' / 'cache'} can't be used (Not a directory)" in said
    assert "set CNNSTUDY_CACHE to a" in said


def test_a_full_disk_without_a_name_says_where_files_go(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_places: Path
) -> None:
    monkeypatch.setattr(cli, "app", lambda: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == EnvironmentTrouble.exit_code
    said = capsys.readouterr().err
    assert "error: a disk has no room left (No space left on device). There are " in said
    assert str(cache_folder()) in said
