"""The command that resumes a study, as its run records it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from fake_executor import FakeExecutor
from pictures import leave_out_pictures

from cnnstudy.config.find import SHIPPED_STUDIES
from cnnstudy.config.load import load_study
from cnnstudy.execution import Workers
from cnnstudy.names import Tag
from cnnstudy.study.resume import confirm_command, missing_trials_command, resume_command, run_command
from cnnstudy.study.run import confirm_study, run_study
from cnnstudy.system.display import SilentDisplay
from cnnstudy.tracking.client import Tracker

FILE = """
name: its-name
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {batch_size: [8, 16, 32], dropout: [0.1, 0.5]}
training: {epochs: 2}
budget: {trials: 3}
"""


def commands(tracker: Tracker) -> tuple[str, str]:
    (own,) = (run for run in tracker.runs(tracker.study("its-name").experiment_id) if run.kind == "study")
    found = resume_command(own), missing_trials_command(own)
    texts = [text.removeprefix("`").partition("`") for text in found]
    assert [rest for _, _, rest in texts] == [" resumes it"] * 2
    return texts[0][0], texts[1][0]


@pytest.mark.parametrize("overrides", [(), ("budget.trials=2", "factors.batch_size=[8, 16]")])
def test_a_stopped_run_and_a_stopped_confirm(
    own_places: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    """The recorded command finds the study's file from any folder, though its name differs from the study's."""
    leave_out_pictures(monkeypatch)
    file = own_places / "my studies" / "one.yaml"
    file.parent.mkdir()
    file.write_text(FILE, encoding="utf-8")

    def stopped(at: int | None, words: list[str]) -> tuple[str, str]:
        kind, given, *rest = words

        def make(folder: Path) -> FakeExecutor:
            return FakeExecutor(folder, interrupt_at=at)

        if kind == "run-study":
            run_study(load_study(given, rest[1::2]), tracker, Workers(make), SilentDisplay())
        else:
            options = {name.removeprefix("--"): int(value) for name, value in zip(rest[::2], rest[1::2], strict=True)}
            confirm_study(given, options, tracker, Workers(make), SilentDisplay(), again=False)
        return commands(tracker)

    given = [word for override in overrides for word in ("--set", override)]
    first = stopped(3, ["run-study", "my studies/one.yaml", *given])
    monkeypatch.chdir("/")
    assert shlex.split(first[0]) == ["python", "-m", "cnnstudy", "run-study", str(file), *given]
    assert first[0] == first[1]
    monkeypatch.chdir(own_places)  # the database's files lie there
    assert stopped(None, shlex.split(first[0])[3:]) == first
    confirming = stopped(2, ["confirm", "its-name", "--top", "2", "--seeds", "2"])
    assert confirming == ("python -m cnnstudy confirm its-name --top 2 --seeds 2", first[1])
    assert stopped(None, shlex.split(confirming[0])[3:]) == confirming


def test_a_study_that_comes_along_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder, given in [
        (SHIPPED_STUDIES.parent, "quickstart"),
        (SHIPPED_STUDIES, "quickstart.yaml"),
        (tmp_path, "quickstart"),
    ]:
        monkeypatch.chdir(folder)
        assert run_command(load_study(given))[Tag.LAST_COMMAND] == "python -m cnnstudy run-study quickstart"
    (tmp_path / "experiments").mkdir()
    own = tmp_path / "experiments" / "own.yaml"
    own.write_text(FILE, encoding="utf-8")
    assert run_command(load_study("own"))[Tag.LAST_COMMAND] == shlex.join(
        ["python", "-m", "cnnstudy", "run-study", str(own)]
    )


def test_a_confirm_that_opens_the_test_again_says_so() -> None:
    tags = confirm_command("its-name", {"most_seeds": 7}, again=True)
    assert tags == {Tag.LAST_COMMAND: "python -m cnnstudy confirm its-name --most-seeds 7 --open-test-again"}
