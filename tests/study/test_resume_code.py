"""A study whose code changed before it was resumed: refused, with what changed and what to do; or accepted."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_executor import FakeExecutor
from pictures import leave_out_pictures

import cnnstudy
from cnnstudy.cli import app
from cnnstudy.config.load import load_study
from cnnstudy.errors import StudyChangedError
from cnnstudy.execution import Workers
from cnnstudy.names import Tag
from cnnstudy.study import resume
from cnnstudy.study.run import Outcome, confirm_study, run_study
from cnnstudy.system import code_version
from cnnstudy.system.display import PlainDisplay
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.shown_names import shown_tag

PACKAGE = Path(cnnstudy.__file__).parent
FILE = """\
name: coded
data: {name: digits, classes: [0, 1]}
image_size: 64
architectures: [alexnet]
training: {epochs: 1}
strategy: {sampler: random}
budget: {trials: 2}
"""


class Recorded:
    """A study with two trials, and a copy of the package that can be edited."""

    def __init__(self, folder: Path, package: Path, tracker: Tracker) -> None:
        self.package, self.tracker = package, tracker
        self.file = folder / "coded.yaml"
        self.file.write_text(FILE, encoding="utf-8")
        self.said: list[str] = []
        self.executor: FakeExecutor | None = None

    def make(self, folder: Path) -> FakeExecutor:
        self.executor = FakeExecutor(folder)
        return self.executor

    def run(self, trials: int, **options: Any) -> Outcome:
        self.executor = None
        study = load_study(str(self.file), [f"budget.trials={trials}"])
        return run_study(study, self.tracker, Workers(self.make), PlainDisplay(self.said.append), **options)

    def confirm(self, **options: Any) -> Outcome:
        self.executor = None
        given = {"top": 1, "seeds": 2}
        return confirm_study(
            "coded", given, self.tracker, Workers(self.make), PlainDisplay(self.said.append), False, **options
        )

    def edit(self, file: str, before: str, after: str) -> None:
        text = (self.package / file).read_text(encoding="utf-8")
        assert before in text
        (self.package / file).write_text(text.replace(before, after), encoding="utf-8")
        code_version._units.cache_clear()
        code_version._package.cache_clear()

    @property
    def tags(self) -> dict[str, str]:
        return self.tracker.tags(self.tracker.study("coded").run_id)


@pytest.fixture
def recorded(
    own_places: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch, versioned: Callable[[str], None]
) -> Iterator[Recorded]:
    package = own_places / "copy" / "cnnstudy"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cnnstudy, "__file__", str(package / "__init__.py"))
    leave_out_pictures(monkeypatch)
    versioned("0.1.0+g1a2b3c4d5e6f")
    made = Recorded(own_places, package, tracker)
    assert made.run(2).finished == 2
    versioned("0.1.0+g999999999999")
    yield made
    code_version._units.cache_clear()
    code_version._package.cache_clear()


@pytest.fixture
def versioned(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that sets the code's version, without a commit."""
    return lambda text: monkeypatch.setattr(resume, "code_version", lambda: text)


EDIT = ("training/trainer.py", "self.epoch += 1", "self.epoch += 2")


def test_the_code_is_recorded_when_the_first_trial_begins(recorded: Recorded) -> None:
    held = resume.join_tags(Tag.CODE, recorded.tags)
    assert held["version"] == "0.1.0+g1a2b3c4d5e6f"
    assert held["form"] == code_version.FORM
    assert "Trainer.run_epoch" in held["units"]
    assert "HEAD_UNITS" in held["units"]
    assert "IMAGENET_MEANS" not in held["units"], "of a network that the study has not"
    assert Tag.CODE_VERSIONS not in recorded.tags
    assert max(len(text) for key, text in recorded.tags.items() if key.startswith(Tag.CODE)) <= 5000


def test_other_code_is_refused_with_what_changed_and_the_ways_out(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.edit(*EDIT)
    recorded.edit("architectures/alexnet.py", "1 / 255", "1 / 127.5")
    versions = {**code_version.training_versions(), "tensorflow": "99.0.0"}
    monkeypatch.setattr(code_version, "training_versions", lambda: versions)
    before = recorded.tags
    with pytest.raises(StudyChangedError) as caught:
        recorded.run(4)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert re.search(r"^  tensorflow \S+ -> 99\.0\.0$", message, flags=re.MULTILINE)
    assert "\n  architectures/alexnet.py: build changed\n  training/trainer.py: Trainer.run_epoch changed\n" in message
    assert "(cnnstudy 0.1.0+g1a2b3c4d5e6f; now it is 0.1.0+g999999999999)" in message
    assert "`git checkout 1a2b3c4d5e6f`" in message
    assert "--set name=coded-2" in message
    assert "--accept-code" in message
    assert recorded.executor is None, "nothing was begun"
    assert {key: text for key, text in recorded.tags.items() if Tag.CODE in key} == {
        key: text for key, text in before.items() if Tag.CODE in key
    }


def test_the_way_back_is_open(recorded: Recorded) -> None:
    recorded.edit(*EDIT)
    with pytest.raises(StudyChangedError):
        recorded.run(3)
    recorded.edit(EDIT[0], EDIT[2], EDIT[1])
    assert recorded.run(3).finished == 3


def test_code_is_accepted_once_and_the_study_says_so(recorded: Recorded, versioned: Callable[[str], None]) -> None:
    recorded.edit(*EDIT)
    assert recorded.run(3, accept_code=True).finished == 3
    assert json.loads(recorded.tags[Tag.CODE_VERSIONS]) == ["0.1.0+g1a2b3c4d5e6f", "0.1.0+g999999999999"]
    (warning,) = [text for text in recorded.said if "more than one version of the training code" in text]
    assert warning.endswith("\n  training/trainer.py: Trainer.run_epoch changed")
    assert recorded.run(4).finished == 4  # now recorded as the study's code
    recorded.edit(EDIT[0], EDIT[2], EDIT[1])
    with pytest.raises(StudyChangedError):
        recorded.run(5)
    versioned("0.1.0+g1a2b3c4d5e6f")
    assert recorded.run(5, accept_code=True).finished == 5
    assert len(json.loads(recorded.tags[Tag.CODE_VERSIONS])) == 3


def test_accepting_what_did_not_change_says_nothing(recorded: Recorded) -> None:
    before = recorded.tags
    assert recorded.run(3, accept_code=True).finished == 3
    assert Tag.CODE_VERSIONS not in recorded.tags
    assert recorded.tags[f"{Tag.CODE}.0"] == before[f"{Tag.CODE}.0"]


def test_where_nothing_is_to_be_trained_nothing_is_refused(recorded: Recorded) -> None:
    recorded.edit(*EDIT)
    assert recorded.run(2).finished == 2


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("training/trainer.py", "self.epoch += 1", "self.epoch += 1  # once"),
        ("architectures/vgg16.py", "HEAD_UNITS", "UNITS_OF_HEAD"),
        ("results/terminal.py", "", "\n\nimport os\n"),
    ],
)
def test_harmless_edits_are_taken(recorded: Recorded, file: str, before: str, after: str) -> None:
    recorded.edit(file, before, after)
    assert recorded.run(3).finished == 3
    assert Tag.CODE_VERSIONS not in recorded.tags


def test_confirming_by_other_code_is_refused_too(recorded: Recorded) -> None:
    recorded.edit(*EDIT)
    with pytest.raises(StudyChangedError, match=r"Trainer\.run_epoch changed"):
        recorded.confirm()
    assert recorded.executor is None or recorded.executor.trials == []
    assert recorded.confirm(accept_code=True).confirmed is not None
    assert len(json.loads(recorded.tags[Tag.CODE_VERSIONS])) == 2


def test_a_study_of_an_earlier_version_is_taken_as_it_is(recorded: Recorded) -> None:
    study = recorded.tracker.study("coded")
    for key in recorded.tags:
        if key.startswith(Tag.CODE):
            recorded.tracker._client.delete_tag(study.run_id, shown_tag(key))
    recorded.edit(*EDIT)
    assert recorded.run(3).finished == 3
    recorded.edit(EDIT[0], EDIT[2], "self.epoch += 3")
    with pytest.raises(StudyChangedError, match=r"Trainer\.run_epoch changed"):
        recorded.run(4)


@pytest.fixture
def recorded_by_file(recorded: Recorded) -> Recorded:
    """A study whose code was recorded file by file, by an earlier version."""
    study, versions = recorded.tracker.study("coded"), code_version.training_versions()
    before = {
        "version": "0.1.0+g1a2b3c4d5e6f",
        "units": {
            "architectures/alexnet.py": {"TABLE": "cfc96fe35d", "build()": "f26bffb1df", "HEAD_UNITS": "ca583346a6"},
            "records.py": {"_ROUNDING": "a63df712d0", "Rule.keeps": "cb91ce958b", "Rule": "83a2fafb57"},
            "training/trainer.py": {"Trainer.run_epoch": "93e8d6a9ef"},
        },
        "versions": dict(versions),
    }
    tags = resume.split_into_tags(Tag.CODE, before)
    for key in set(recorded.tags) - set(tags):
        if key.startswith(f"{Tag.CODE}."):
            recorded.tracker._client.delete_tag(study.run_id, shown_tag(key))
    recorded.tracker.set_tags(study.run_id, tags)
    return recorded


def test_code_recorded_in_another_way_is_refused_with_the_reason(
    recorded_by_file: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = recorded_by_file.tags
    with pytest.raises(StudyChangedError) as caught:
        recorded_by_file.run(3)
    message = str(caught.value)
    assert (
        "cnnstudy 0.1.0+g1a2b3c4d5e6f recorded the training code in another form than this version "
        "(0.1.0+g999999999999) does, so it can't be compared.\nGo back to that code "
        "(`git checkout 1a2b3c4d5e6f`), which ran with python 3."
    ) in message
    assert "--set name=coded-2" in message
    assert "--accept-code" in message
    assert " removed" not in message
    assert " added" not in message
    monkeypatch.setattr(code_version, "training_versions", lambda: {**before_versions(before), "tensorflow": "99.0.0"})
    with pytest.raises(StudyChangedError, match=r"These packages have changed:\n  tensorflow \S+ -> 99\.0\.0\nGo back"):
        recorded_by_file.run(3)
    assert recorded_by_file.executor is None, "nothing was begun"
    assert recorded_by_file.tags[f"{Tag.CODE}.0"] == before[f"{Tag.CODE}.0"]


def before_versions(tags: dict[str, str]) -> dict[str, str]:
    return dict(resume.join_tags(Tag.CODE, tags)["versions"])


def test_code_recorded_in_another_way_is_accepted_once(recorded_by_file: Recorded) -> None:
    assert recorded_by_file.run(3, accept_code=True).finished == 3
    (warning,) = [text for text in recorded_by_file.said if "more than one version of the training code" in text]
    assert (
        "may be from more than one version of the training code now: cnnstudy 0.1.0+g1a2b3c4d5e6f recorded" in warning
    )
    assert json.loads(recorded_by_file.tags[Tag.CODE_VERSIONS]) == ["0.1.0+g1a2b3c4d5e6f", "0.1.0+g999999999999"]
    assert recorded_by_file.run(4).finished == 4
    recorded_by_file.edit(*EDIT)
    with pytest.raises(StudyChangedError, match=r"Trainer\.run_epoch changed"):
        recorded_by_file.run(5)


def test_a_study_without_trials_takes_any_code(recorded: Recorded) -> None:
    recorded.file.write_text(FILE.replace("coded", "empty"), encoding="utf-8")
    recorded.tracker.open_study("empty", load_study(str(recorded.file)).config.model_dump(mode="json"))
    study = recorded.tracker.study("empty")
    recorded.tracker.set_tags(study.run_id, {f"{Tag.CODE}.0": recorded.tags[f"{Tag.CODE}.0"][:10]})
    recorded.edit(*EDIT)
    assert recorded.run(1).finished == 1


@pytest.mark.parametrize("command", ["run-study", "confirm"])
def test_the_commands_have_the_option(command: str) -> None:
    import typer.main

    options = {option for one in typer.main.get_command(app).commands[command].params for option in one.opts}  # type: ignore[attr-defined]
    assert "--accept-code" in options
