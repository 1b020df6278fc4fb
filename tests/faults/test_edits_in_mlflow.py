"""What users do in MLflow's UI and with its commands while a study runs, and between two calls."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from faulty_store import Desk
from mlflow import MlflowClient
from mlflow.cli import cli

from cnnstudy.errors import LostRunError, TrackingError, UnknownNameError
from cnnstudy.execution import Epoch, Event
from cnnstudy.names import Tag
from cnnstudy.study import doctor
from cnnstudy.tracking.client import Tracker


class Edited(Desk):
    """A study and what its user does in MLflow."""

    @property
    def mlflow(self) -> MlflowClient:
        return self.client.client

    @property
    def experiment(self) -> str:
        return self.mlflow.get_experiment_by_name("fake").experiment_id

    def run_of(self, trial: str) -> str:
        """Return the id of a trial's run, or of the study's own, named ""."""
        runs = self.mlflow.search_runs([self.experiment])
        return next(run.info.run_id for run in runs if run.data.tags.get(Tag.TRIAL, "") == trial)

    def command(self, *words: str) -> None:
        """Run one of MLflow's commands on the database."""
        done = CliRunner().invoke(cli, words, env={"MLFLOW_TRACKING_URI": self.tracker.uri}, catch_exceptions=False)
        assert done.exit_code == 0, done.output

    def troubles(self) -> list[str]:
        return [f"{one.area}: {one.text}" for one in doctor.examine(self.tracker.uri) if one.trouble]


@pytest.fixture
def desk(alone: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Edited:
    desk = Edited(alone, monkeypatch)
    desk.use(Tracker(f"sqlite:///{shutil.copy(empty_database, alone / 'mlflow.db')}"))
    return desk


def in_second_trial(act: Callable[[], object]) -> Callable[[Event], None]:
    """For an executor's `on_event`: act once, when the second trial reports its epoch."""
    waiting = [act]

    def told(event: Event) -> None:
        if isinstance(event, Epoch) and event.key == "alexnet-001" and waiting:
            waiting.pop()()

    return told


def test_an_experiment_that_is_renamed(desk: Edited) -> None:
    """The study under way ends well; the next call says how to rename it back, and begins nothing."""
    experiment: list[str] = []

    def rename() -> None:
        experiment.append(desk.experiment)
        desk.mlflow.rename_experiment(desk.experiment, "other")

    assert desk.run(on_event=in_second_trial(rename)).finished == 2
    advice = f"mlflow experiments rename --experiment-id {experiment[0]} --new-name fake"
    told = rf"the experiment of study 'fake' was renamed 'other' in MLflow. Rename it back: `{advice}`"
    with pytest.raises(LostRunError, match=told):
        desk.run("budget.trials=3")
    with pytest.raises(UnknownNameError, match=told):
        desk.tracker.study("fake")
    (trouble,) = desk.troubles()
    assert advice in trouble
    desk.command(*advice.split()[1:])
    assert desk.run("budget.trials=3").finished == 3
    assert desk.trained == ["alexnet-002"]
    assert desk.troubles() == []


def test_the_run_of_a_trial_under_way_is_deleted(desk: Edited) -> None:
    """The study goes on, and the next call runs the trial again."""
    outcome = desk.run("budget.trials=3", on_event=in_second_trial(lambda: delete(desk, "alexnet-001")))
    assert (outcome.finished, outcome.missing) == (2, 1)
    assert len([line for line in desk.said if line.startswith("the run of alexnet-001")]) == 1
    assert desk.run("budget.trials=3").finished == 3
    assert desk.trained == ["alexnet-001"]
    assert desk.troubles() == []


def delete(desk: Edited, trial: str) -> None:
    desk.mlflow.delete_run(desk.run_of(trial))


def test_a_run_that_is_deleted_run_again_and_restored_counts_once(desk: Edited) -> None:
    assert desk.run().finished == 2
    deleted = desk.run_of("alexnet-000")
    desk.mlflow.delete_run(deleted)
    assert desk.run().finished == 2
    assert desk.trained == ["alexnet-000"]
    desk.command("runs", "restore", "--run-id", deleted)
    outcome = desk.run()
    assert (outcome.finished, desk.trained) == (2, [])
    assert any(
        f"{one.area}: {one.text}" == "study fake: in order; trials done: 2" for one in doctor.examine(desk.tracker.uri)
    )


def test_the_studys_own_run_is_deleted_and_restored(desk: Edited) -> None:
    own: list[str] = []

    def delete_own() -> None:
        own.append(desk.run_of(""))
        desk.mlflow.delete_run(own[0])

    told = r"the own run of study 'fake' was deleted in MLflow. Restore it: `mlflow runs restore --run-id \w+`"
    with pytest.raises(LostRunError, match=told):
        desk.run(on_event=in_second_trial(delete_own))
    with pytest.raises(LostRunError, match=told):
        desk.run()
    with pytest.raises(UnknownNameError, match=told):
        desk.tracker.study("fake")
    (trouble,) = desk.troubles()
    desk.command(*trouble.partition("`")[2].partition("`")[0].split()[1:])
    assert desk.run().finished == 2
    assert desk.trained == [], "both trials were recorded"
    assert desk.troubles() == []


def test_the_studys_own_run_is_removed_for_good(desk: Edited) -> None:
    desk.run()
    delete(desk, "")
    desk.command("gc")
    (trouble,) = desk.troubles()
    assert trouble.startswith("study fake: the own run of study 'fake', with its settings, is not in MLflow any more")
    assert desk.run("budget.trials=3").finished == 3
    assert desk.trained == ["alexnet-002"]
    (warning,) = desk.told("WARNING: the own run of study 'fake' was not in MLflow any more")
    assert "whether the test split was opened, can't be told" in warning
    assert desk.troubles() == []
    desk.begin()
    desk.run("budget.trials=3")
    assert desk.told("WARNING: the own run") == []


def test_an_experiment_that_is_deleted_and_restored(desk: Edited) -> None:
    experiment: list[str] = []

    def delete_all() -> None:
        experiment.append(desk.experiment)
        desk.mlflow.delete_experiment(experiment[0])

    told = r"the experiment of study 'fake' was deleted in MLflow. Restore it: `mlflow experiments restore "
    with pytest.raises(LostRunError, match=told):
        desk.run(on_event=in_second_trial(delete_all))
    with pytest.raises(LostRunError, match=told):
        desk.run()
    with pytest.raises(UnknownNameError, match=told):
        desk.tracker.study("fake")
    desk.command("experiments", "restore", "--experiment-id", experiment[0])
    assert desk.run().finished == 2
    assert desk.trained == ["alexnet-001"]
    assert desk.troubles() == []


def test_an_experiment_that_is_removed_for_good_begins_anew(desk: Edited) -> None:
    desk.run()
    desk.mlflow.delete_experiment(desk.experiment)
    desk.command("gc")
    assert desk.run().finished == 2
    assert desk.trained == ["alexnet-000", "alexnet-001"]
    assert desk.troubles() == []


@pytest.mark.parametrize("value", ["{", "[]", '{"a": 1}'])
def test_the_tag_of_the_driver_is_edited(desk: Edited, value: str) -> None:
    def edit() -> None:
        desk.mlflow.set_tag(desk.run_of(""), Tag.DRIVER, value)

    told = rf"the tag {Tag.DRIVER} of MLflow's run .* If nobody runs the study, delete the tag"
    with pytest.raises(TrackingError, match=told):
        desk.run(on_event=in_second_trial(edit))
    with pytest.raises(TrackingError, match=told):
        desk.run()
    (trouble,) = desk.troubles()
    assert "delete the tag in MLflow's UI" in trouble
    desk.mlflow.delete_tag(desk.run_of(""), Tag.DRIVER)
    assert desk.run().finished == 2
    assert desk.troubles() == []


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (Tag.NUMBER, "x"),
        *((Tag.LEVELS, value) for value in ("[]", "{}", '{"transfer": 3}', '{"batch_size": 8}')),
        (Tag.SEED, ""),
    ],
)
def test_a_trials_tag_is_edited_and_the_advice_helps(desk: Edited, tag: str, value: str) -> None:
    desk.run()
    run_id = desk.run_of("alexnet-000")
    desk.mlflow.set_tag(run_id, tag, value)
    (trouble,) = desk.troubles()
    assert f"the tag {tag} of MLflow's run {run_id} is {value!r}" in trouble
    assert "delete the run in MLflow's UI; a trial then runs again" in trouble
    if tag == Tag.LEVELS:
        with pytest.raises(TrackingError, match=re.escape(f"the tag {tag} of MLflow's run {run_id} is {value!r}")):
            desk.confirm()
    desk.mlflow.delete_run(run_id)
    assert desk.run().finished == 2
    assert desk.trained == ["alexnet-000"]
    assert desk.troubles() == []


@pytest.mark.parametrize(("tag", "value"), [(Tag.KIND, "x"), (Tag.STATE, "x"), (Tag.RETRIED, "x")])
def test_a_trial_whose_state_was_edited_runs_again(
    desk: Edited, tag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.run(on_event=in_second_trial(lambda: desk.mlflow.set_tag(desk.run_of("alexnet-000"), tag, value)))
    assert desk.run().finished == 2
    assert desk.trained == ["alexnet-000"]
    told = f" is left out: its tag {tag} is 'x', which cnnstudy did not write"
    assert capsys.readouterr().err.count(told) == (0 if tag == Tag.RETRIED else 1)
    assert desk.troubles() == []


def test_the_clock_is_set_back_between_two_calls(desk: Edited) -> None:
    """What was recorded before lies in the future."""
    desk.times = itertools.count(4 * 10**12)
    assert desk.run("budget.trials=3", interrupt_at=5).interrupted
    desk.begin()
    assert desk.run("budget.trials=3").finished == 3
    assert desk.trained == ["alexnet-001", "alexnet-002"]
    assert desk.troubles() == []
    assert desk.run("budget.trials=3").finished == 3
    assert desk.trained == []
