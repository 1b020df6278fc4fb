"""The Python API, on studies that were really run."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from trained_study import NAME, Trained

import cnnstudy
from cnnstudy.analysis.leaderboard import set_dtypes
from cnnstudy.errors import ConfigError, InputError, UnknownNameError

FACTORIAL = """\
name: small
data: {name: digits, images_per_class: 12, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
strategy: {kind: factorial, seeds: 3}
factors: {batch_size: [4, 8]}
training: {epochs: 2}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[cnnstudy.StudyResults]:
    """A factorial of six trials, run by `cnnstudy.run`."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    (folder / "small.yaml").write_text(FACTORIAL, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield cnnstudy.run("small.yaml", {"training.epochs": 3}, quiet=True)


def test_a_study_s_tables_agree_with_each_other(ran: cnnstudy.StudyResults) -> None:
    assert (len(ran.trials), set(ran.trials["state"])) == (6, {"finished"})
    assert dict(ran.curves.dtypes.astype(str)) == {
        "trial": "string",
        "architecture": "string",
        "seed": "Int64",
        "epoch": "Int64",
        **{f"{part}_{what}": "float64" for what in ("accuracy", "loss") for part in ("train", "val", "gap")},
    }
    assert len(ran.curves) == 6 * 4, "three epochs and the measurement before the first update"
    for trial in ran.trials.itertuples():
        curve = ran.curves[ran.curves["trial"] == trial.trial]
        assert curve["epoch"].tolist() == [0, 1, 2, 3]
        best = curve[curve["epoch"] == trial.best_epoch].iloc[0]
        assert best["val_accuracy"] == pytest.approx(trial.best_val_accuracy)
        assert best["train_accuracy"] - best["val_accuracy"] == pytest.approx(best["gap_accuracy"])
        predicted = ran.predictions[ran.predictions["trial"] == trial.trial]
        validation = predicted[predicted["part"] == "validation"]
        assert validation["right"].astype(float).mean() == pytest.approx(trial.best_val_accuracy)
        matrix = ran.confusion[ran.confusion["trial"] == trial.trial]
        assert matrix["images"].sum() == len(validation)
        right = matrix.loc[matrix["class"] == matrix["predicted"], "images"].sum()
        assert right == validation["right"].sum()
    assert ran.trials["batch_size"].dtype == ran.trials["epochs"].dtype == "Int64"
    assert ran.trials["val_loss"].dtype == "float64"
    assert ran.trials["verdict"].dtype == "string"


def test_a_study_s_effects_and_answers(ran: cnnstudy.StudyResults) -> None:
    gap = ran.effects[(ran.effects["factor"] == "batch_size") & (ran.effects["outcome"] == "gap_accuracy")]
    assert len(gap), "the effect of the only factor"
    assert set(gap["answer"]) <= {"raises", "lowers", "cannot tell"}
    assert ran.answers
    assert "alexnet" in ran.answers[0]
    assert repr(ran).startswith("study small: 6 of 6 trials finished")


def test_dtypes_do_not_depend_on_the_values(ran: cnnstudy.StudyResults) -> None:
    none = set_dtypes(
        ran.trials.astype(object).assign(val_loss=None, onset_epoch=None, early_stopping=None, batch_size=None)
    )
    assert none.dtypes.astype(str).to_dict() == ran.trials.dtypes.astype(str).to_dict()
    assert ran.trials["deterministic"].tolist() == [False] * 6
    effects = ran.effects.dtypes.astype(str)
    assert effects[["baseline", "level"]].tolist() == ["object", "object"]
    assert effects[["low", "high", "p_adjusted"]].tolist() == ["float64"] * 3
    assert ran.effects["baseline"].tolist()[0] == 4


def test_a_study_shows_itself_in_a_notebook(ran: cnnstudy.StudyResults) -> None:
    page = ran._repr_html_()
    assert page.count("<tr>") == 7
    assert "<b>study small</b>: 6 of 6 trials finished" in page
    assert any("`" in answer for answer in ran.answers), "commands are code"
    assert "`" not in page


def test_the_gap_is_drawn_as_it_was_measured(ran: cnnstudy.StudyResults) -> None:
    figure = ran.plot_gap()
    assert figure._repr_png_().startswith(b"\x89PNG"), "a notebook shows it"
    (axes,) = figure.axes
    assert axes.get_title() == "alexnet, mean of 6 trials"
    for line, column in zip(axes.lines, ("train_accuracy", "val_accuracy"), strict=True):
        expected = 100 * ran.curves.groupby("epoch")[column].mean()
        assert np.asarray(line.get_ydata()) == pytest.approx(expected.to_numpy())


def test_a_study_s_report(ran: cnnstudy.StudyResults, tmp_path: Path) -> None:
    page = ran.report(tmp_path / "page")
    assert page.is_file()
    assert "small" in page.read_text(encoding="utf-8")


def test_the_same_call_runs_nothing_again(ran: cnnstudy.StudyResults) -> None:
    again = cnnstudy.run("small.yaml", {"training.epochs": 3}, quiet=True)
    assert again.trials["run_id"].tolist() == ran.trials["run_id"].tolist()


def test_another_working_folder_has_another_record(
    ran: cnnstudy.StudyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path
) -> None:
    assert cnnstudy.load().name == "small"
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    with pytest.raises(UnknownNameError):
        cnnstudy.load("small")


def test_a_model_takes_images(trained: Trained) -> None:
    study = cnnstudy.load(NAME, trained.uri)
    (trial,) = study.trials["trial"]
    for model in (study.model(), study.model(trial), study.model(f"{NAME}/{trial}")):
        probabilities = model.predict(np.zeros((2, 64, 64, 3), np.uint8), verbose=0)
        assert probabilities.shape == (2, 3)
        assert probabilities.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    with pytest.raises(UnknownNameError):
        study.model("vgg16-007")
    with pytest.raises(InputError, match="trial=0 is of type int"):
        study.model(0)  # type: ignore[arg-type]


def test_without_a_champion_the_model_is_that_of_the_first_trial(
    ran: cnnstudy.StudyResults, capsys: pytest.CaptureFixture[str]
) -> None:
    best = ran.trials["trial"].iloc[0]
    of_best, of_study = ran.model(best).get_weights(), ran.model().get_weights()
    assert all(np.array_equal(one, other) for one, other in zip(of_best, of_study, strict=True))
    assert f"small has no confirmed champion; this is {best}" in capsys.readouterr().err


def test_values_of_numpy_are_numbers(ran: cnnstudy.StudyResults) -> None:
    again = cnnstudy.run(
        "small.yaml", {"training.epochs": np.int64(3), "factors.batch_size": np.array([4, 8])}, quiet=True
    )
    assert again.trials["run_id"].tolist() == ran.trials["run_id"].tolist()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            lambda: cnnstudy.run("tiny", "training.epochs=3"),
            "overrides='training.epochs=3' is of type str; give a",
        ),
        (lambda: cnnstudy.run("tiny", {"factors.dropout": {0.1, 0.5}}), "factors.dropout has a value of type set"),
        (lambda: cnnstudy.run("tiny", jobs=0), "jobs=0 can't be used"),
        (lambda: cnnstudy.run("tiny", jobs="2"), "jobs='2' is of type str"),
        (lambda: cnnstudy.diagnose(3), "path=3 is of type int; give a folder"),  # type: ignore[arg-type]
        (lambda: cnnstudy.diagnose("photos", 30), "time=30 is of type int; give a text"),  # type: ignore[arg-type]
        (lambda: cnnstudy.diagnose("photos", out=3), "out=3 is of type int"),  # type: ignore[arg-type]
        (
            lambda: cnnstudy.diagnose("photos", layout="nope"),
            "layout='nope' is no layout; give one of classes",
        ),
        (lambda: cnnstudy.diagnose("photos", ignore_folders=["a"]), "ignore_folders=.* is of type list"),  # type: ignore[arg-type]
        (lambda: cnnstudy.load(Path("tiny.yaml")), "is of type PosixPath; give a study's name"),
        (lambda: cnnstudy.load("tiny", Path("mlflow.db")), "tracking_uri=.* is of type PosixPath; give an address"),
    ],
)
def test_arguments_of_another_type(wrong: Callable[[], object], said: str, own_places: Path) -> None:
    with pytest.raises(InputError, match=said):
        wrong()
    assert not (own_places / "mlflow.db").exists()


def test_what_is_asked_for_wrongly_is_told(own_places: Path, trained: Trained) -> None:
    with pytest.raises(UnknownNameError):
        cnnstudy.load("nothing", trained.uri)
    with pytest.raises(ConfigError, match="epoch"):
        cnnstudy.run("tiny", {"training.epoch": 3})
    with pytest.raises(InputError, match="1 day"):
        cnnstudy.diagnose(own_places, time="1 day")
    assert not (own_places / "mlflow.db").exists(), "nothing was begun"


SCRIPT = """\
import cnnstudy, os, signal, threading
from cnnstudy.study import driver
def told(*arguments, before=driver.Driver.run):
    threading.Timer(0, os.kill, (os.getpid(), signal.SIGINT)).start()
    return before(*arguments)
driver.Driver.run = told
mine = [1, 2, 3]
try:
    cnnstudy.run("small.yaml")
except KeyboardInterrupt as stopped:
    print("STOPPED", stopped)
print("STILL HERE", mine, repr(cnnstudy.load("small")).splitlines()[0])
"""


def test_ctrl_c_leaves_the_program_and_the_record(own_places: Path) -> None:
    (own_places / "small.yaml").write_text(FACTORIAL, encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=240)
    assert "STOPPED the study was stopped" in done.stdout, done.stderr
    assert "STILL HERE [1, 2, 3] study small: 0 of 6 trials finished" in done.stdout
    assert done.returncode == 0
    assert signal.getsignal(signal.SIGINT) is not None
