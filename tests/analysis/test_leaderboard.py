"""The leaderboard as a frame, CSV, Markdown and cells."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from cnnstudy.analysis.leaderboard import (
    STANDARD_OUTPUT,
    best_by_transfer,
    build_leaderboard,
    describe_front,
    describe_scores,
    leaderboard_table,
    unfinished_rows,
    write_csv,
    write_markdown,
)
from cnnstudy.errors import InputError
from cnnstudy.names import CROSSED_METRICS, crossed_name
from cnnstudy.system.files import escape_formula
from cnnstudy.tracking.recorded import RecordedRun

MakeRun = Callable[..., RecordedRun]
ACCURACY = "val/accuracy"


@pytest.fixture
def failed(make_run: MakeRun) -> RecordedRun:
    tags = {"cnnstudy.message": "no | memory"}
    return make_run(8, None, {"dropout": 0.1}, state="failed", reason="oom", tags=tags)


@pytest.fixture
def pruned(make_run: MakeRun) -> RecordedRun:
    return make_run(9, 0.99, state="pruned")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- order


def test_the_best_is_first_and_what_did_not_finish_last(
    make_run: MakeRun, failed: RecordedRun, pruned: RecordedRun
) -> None:
    runs = [failed, pruned, make_run(1, 0.5), make_run(2, 0.75), make_run(3, 0.25)]
    frame = build_leaderboard(runs, ACCURACY)
    assert list(frame["trial"]) == [f"alexnet-{number:03d}" for number in (2, 1, 3, 9, 8)]
    assert list(frame.index) == [0, 1, 2, 3, 4]


def test_a_loss_is_best_when_small(make_run: MakeRun, failed: RecordedRun) -> None:
    frame = build_leaderboard([failed, *(make_run(number, number / 10) for number in (2, 4, 3))], "val/loss")
    assert list(frame["val_loss"])[:3] == [0.6, 0.7, 0.8]
    assert frame["trial"].iloc[-1] == failed.name


def test_between_equals_the_lower_loss_then_the_name(make_run: MakeRun) -> None:
    runs = [make_run(number) for number in range(40)]
    for number in (5, 30):
        runs[number] = make_run(number, metrics={**runs[number].metrics, "best/val_loss": 0.1})
    frame = build_leaderboard(list(reversed(runs)), ACCURACY)
    expected = [5, 30, *(number for number in range(40) if number not in (5, 30))]
    assert list(frame["trial"]) == [f"alexnet-{number:03d}" for number in expected]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("batch_size", [32, 16, 8]),
        ("dropout", [0.5, 0.4, 0.3]),
        ("gap_accuracy", [0.25, 0.5, 0.75]),
        ("train_loss", [0.1, 0.2, 0.3]),
        ("seconds", [1.0, 2.0, 3.0]),
        ("transfer", ["fine-tune", "frozen", "scratch"]),
        ("trial", ["alexnet-000", "alexnet-001", "alexnet-002"]),
    ],
)
def test_any_column_sorts(make_run: MakeRun, column: str, expected: list[object]) -> None:
    runs = []
    for number, transfer in enumerate(("scratch", "fine-tune", "frozen")):
        levels = {"transfer": transfer, "batch_size": (16, 8, 32)[number], "dropout": (0.4, 0.3, 0.5)[number]}
        metrics = {"best/gap_accuracy": (0.5, 0.25, 0.75)[number], "time/total_seconds": (2.0, 3.0, 1.0)[number]}
        metrics |= {"best/train_loss": (0.2, 0.3, 0.1)[number]}
        runs.append(make_run(number, levels=levels, metrics={"best/val_accuracy": 0.5, **metrics}))
    assert list(build_leaderboard(runs, ACCURACY, column)[column]) == expected


def test_an_unknown_column_is_answered_with_a_near_one(make_run: MakeRun) -> None:
    with pytest.raises(InputError, match=r"'val_acuracy' to sort by\. Did you mean val_accuracy, .*\?") as caught:
        build_leaderboard([make_run(1)], ACCURACY, "val_acuracy")
    assert str(caught.value).count(",") == 4
    with pytest.raises(InputError, match="'_place'"):
        build_leaderboard([make_run(1)], ACCURACY, "_place")


@pytest.mark.parametrize(
    ("heading", "column"), [("gap", "gap_accuracy"), ("val", "val_accuracy"), ("batch", "batch_size")]
)
def test_a_heading_sorts_as_its_column(make_run: MakeRun, heading: str, column: str) -> None:
    runs = [
        make_run(number, levels={"batch_size": size}, metrics={"best/val_accuracy": value, "best/gap_accuracy": -value})
        for number, (size, value) in enumerate([(8, 0.5), (32, 0.25), (16, 0.75)])
    ]
    assert list(build_leaderboard(runs, ACCURACY, heading).trial) == list(
        build_leaderboard(runs, ACCURACY, column).trial
    )


# ---- missing values


def test_factors_without_a_level_are_left_out(make_run: MakeRun) -> None:
    columns = build_leaderboard([make_run(1)], ACCURACY).columns
    assert "auxiliary_weight" not in columns
    assert "data_fraction" in columns


def test_a_study_without_trials(tmp_path: Path) -> None:
    frame = build_leaderboard([], ACCURACY)
    assert frame.empty
    write_csv(frame, tmp_path / "none.csv")
    write_markdown(frame, tmp_path / "none.md")
    assert read(tmp_path / "none.csv") == []
    assert (tmp_path / "none.md").read_text() == "No trials yet.\n"
    assert leaderboard_table(frame) == ([], [])


def test_a_study_of_failures(failed: RecordedRun, make_run: MakeRun, tmp_path: Path) -> None:
    frame = build_leaderboard([failed, make_run(3, None, state="failed", reason="diverged")], ACCURACY)
    assert unfinished_rows(frame) == [
        ["alexnet-003", "failed", "diverged"],
        ["alexnet-008", "failed", "oom: no | memory"],
    ]
    assert best_by_transfer(frame) == []
    write_csv(frame, tmp_path / "failed.csv")
    assert [row["val_accuracy"] for row in read(tmp_path / "failed.csv")] == ["", ""]


def test_a_run_whose_driver_died_at_its_start(make_run: MakeRun, tmp_path: Path) -> None:
    frame = build_leaderboard([make_run(1), make_run(2, None, state="running", parameters={})], ACCURACY)
    write_csv(frame, tmp_path / "all.csv")
    assert [row["epochs"] for row in read(tmp_path / "all.csv")] == ["3", ""]


# ---- CSV


def test_a_dash_prints_what_the_file_would_hold(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = build_leaderboard([make_run(1), make_run(2)], ACCURACY)
    write_csv(frame, tmp_path / "all.csv")
    write_csv(frame, STANDARD_OUTPUT)
    assert capsys.readouterr().out == (tmp_path / "all.csv").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["all.csv"]


def test_numbers_in_the_csv_read_back_exactly(make_run: MakeRun, failed: RecordedRun, tmp_path: Path) -> None:
    values = [1 / 3, 0.1 + 0.2, 1e-17, math.nextafter(1.0, 0.0)]
    runs = [make_run(number, value, {"dropout": value / 7}) for number, value in enumerate(values)]
    frame = build_leaderboard([*runs, failed], ACCURACY, "trial")
    write_csv(frame, tmp_path / "all.csv")
    rows = read(tmp_path / "all.csv")
    assert [row["val_accuracy"] for row in rows] == [*map(repr, values), ""]
    assert [float(row["dropout"]) for row in rows[:4]] == [value / 7 for value in values]
    assert list(rows[0]) == list(frame.columns)


def test_whole_numbers_stay_whole_beside_a_failed_trial(make_run: MakeRun, failed: RecordedRun, tmp_path: Path) -> None:
    write_csv(build_leaderboard([make_run(1), failed], ACCURACY), tmp_path / "all.csv")
    finished, other = read(tmp_path / "all.csv")
    whole = ("batch_size", "best_epoch", "updates", "trainable_parameters", "frozen_parameters", "seed", "epochs")
    assert [finished[column] for column in whole] == ["16", "2", "30", "10000000", "0", "0", "3"]
    assert [other[column] for column in whole] == ["16", "", "", "", "", "0", "3"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_is_never_a_spreadsheets_formula(make_run: MakeRun, tmp_path: Path, start: str) -> None:
    text = f"{start}1+1"
    tags = {"cnnstudy.trial": text, "cnnstudy.architecture": text, "cnnstudy.weights": text, "cnnstudy.model": text}
    run = make_run(
        1,
        0.25,
        {"transfer": text, "augmentation": text},
        tags={**tags, "cnnstudy.message": text},
        state=text,
        run_id=text,
        parameters={"optimizer": text, "epochs": "3", "image_size": "64"},
    )
    write_csv(build_leaderboard([run], ACCURACY), tmp_path / "all.csv")
    (row,) = read(tmp_path / "all.csv")
    texts = {column: cell for column, cell in row.items() if "1+1" in cell}
    named = {"trial", "architecture", "transfer", "augmentation", "weights", "optimizer", "state", "run_id", "model"}
    assert set(texts) == named | {"reason"}
    assert set(texts.values()) == {f"'{text}"}


def test_text_with_line_ends_stays_in_its_row(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(number, None, state="failed", reason=f"a{end}b,c") for number, end in enumerate("\n\r")]
    write_csv(build_leaderboard(runs, ACCURACY), tmp_path / "all.csv")
    assert [row["reason"] for row in read(tmp_path / "all.csv")] == ["a\nb,c", "a\rb,c"]


def test_negative_numbers_stay_numbers(make_run: MakeRun, tmp_path: Path) -> None:
    write_csv(build_leaderboard([make_run(1, 0.99)], ACCURACY), tmp_path / "all.csv")
    assert float(read(tmp_path / "all.csv")[0]["gap_accuracy"]) == 0.95 - 0.99
    assert escape_formula(-0.5) == -0.5


def test_a_file_that_cannot_be_written_is_the_users_mistake(make_run: MakeRun, tmp_path: Path) -> None:
    frame = build_leaderboard([make_run(1)], ACCURACY)
    for write in (write_csv, write_markdown):
        with pytest.raises(InputError, match=r"can't write .*nowhere"):
            write(frame, tmp_path / "nowhere" / "file")


# ---- Markdown and table cells


def test_cells_for_reading(make_run: MakeRun) -> None:
    headings, rows = leaderboard_table(build_leaderboard([make_run(1, 0.875)], ACCURACY))
    shown = dict(zip(headings, rows[0], strict=True))
    assert shown == {
        "trial": "alexnet-001",
        "transfer": "scratch",
        "batch": "16",
        "dropout": "0.5",
        "train": "95.0 %",
        "val": "87.5 %",
        "gap": "+7.5",
        "epoch": "2",
    }


def test_a_gap_of_nothing_learnt_is_told_from_a_small_one(make_run: MakeRun) -> None:
    runs = [make_run(1, tags={"cnnstudy.verdict": "not-learning"}), make_run(2, tags={"cnnstudy.verdict": "fit"})]
    headings, rows = leaderboard_table(build_leaderboard(runs, ACCURACY))
    assert sorted(row[headings.index("verdict")] for row in rows) == ["fit", "not-learning"]


def test_a_factor_that_varies_gets_a_column(make_run: MakeRun) -> None:
    runs = [make_run(number, levels={"data_fraction": fraction}) for number, fraction in enumerate((0.25, 1.0))]
    headings, rows = leaderboard_table(build_leaderboard(runs, ACCURACY))
    assert sorted(row[headings.index("data")] for row in rows) == ["100 %", "25 %"]
    assert "images" not in headings, "earlier versions did not record how many images were used"


def test_the_number_of_images_used_is_told_where_it_varies(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [
        make_run(number, parameters={"train_images": "100", "train_images_used": used})
        for number, used in enumerate(("25", "100"))
    ]
    frame = build_leaderboard([*runs, make_run(2)], ACCURACY)
    headings, rows = leaderboard_table(frame)
    assert sorted(row[headings.index("images")] for row in rows) == ["", "100", "25"]
    assert "images" not in leaderboard_table(build_leaderboard(runs[:1], ACCURACY))[0]
    write_csv(frame, tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        written = {row["trial"]: (row["train_images_used"], row["train_images"]) for row in csv.DictReader(file)}
    assert written == {"alexnet-000": ("25", "100"), "alexnet-001": ("100", "100"), "alexnet-002": ("", "")}


def test_random_weights_are_said(make_run: MakeRun) -> None:
    random_weights = make_run(1, levels={"transfer": "frozen"}, tags={"cnnstudy.weights": "random"})
    assert leaderboard_table(build_leaderboard([random_weights], ACCURACY))[1][0][1] == "frozen (random weights)"


def test_markdown_keeps_what_did_not_finish_apart(
    make_run: MakeRun, failed: RecordedRun, pruned: RecordedRun, tmp_path: Path
) -> None:
    write_markdown(build_leaderboard([make_run(1), failed, pruned], ACCURACY), tmp_path / "all.md")
    finished, _, others = (tmp_path / "all.md").read_text().partition("Not finished:")
    assert "alexnet-001" in finished
    assert "alexnet-009" not in finished
    assert "oom: no \\| memory" in others
    assert "pruned" in others


def test_markdown_cells_hold_no_column_or_line_ends(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(1, levels={"transfer": "a|b"})
    broken = make_run(2, None, state="failed", reason="x|y\nz\x1b")
    write_markdown(build_leaderboard([run, broken], ACCURACY), tmp_path / "all.md")
    lines = [line for line in (tmp_path / "all.md").read_text().splitlines() if line.startswith("|")]
    assert [line.replace("\\|", "").count("|") for line in lines] == [9] * 3 + [4] * 3
    assert r"x\|y z\x1b" in lines[-1]


def test_the_best_of_each_transfer_mode(make_run: MakeRun) -> None:
    modes = [("scratch", 0.5), ("scratch", 0.6), ("frozen", 0.9), ("fine-tune", 0.7)]
    runs = [make_run(number, accuracy, {"transfer": mode}) for number, (mode, accuracy) in enumerate(modes)]
    unfinished = make_run(9, 0.99, {"transfer": "scratch"}, state="pruned")
    (line,) = best_by_transfer(build_leaderboard([*runs, unfinished], ACCURACY))
    assert line == "alexnet: frozen 90.0 % (1), fine-tune 70.0 % (1), scratch 60.0 % (2)"
    assert best_by_transfer(build_leaderboard(runs[:2], ACCURACY)) == []


# ---- what scores are


def test_cross_fitted_scores_where_all_finished_trials_have_them(make_run: MakeRun, pruned: RecordedRun) -> None:
    crossed = {crossed_name(name): 0.6 for name in CROSSED_METRICS}
    crossed |= {"crossed/train_accuracy": 0.9, "crossed/gap_accuracy": 0.3}
    runs = [make_run(1, 0.8), make_run(2, 0.7)]
    lucky, steady = (dataclasses.replace(run, metrics=run.metrics | crossed) for run in runs)
    steady.metrics["crossed/val_accuracy"] = 0.65
    frame = build_leaderboard([lucky, steady, pruned], ACCURACY)
    assert frame["val_accuracy"].tolist()[:2] == [0.65, 0.6]
    assert frame["best_val_accuracy"].tolist()[:2] == [0.7, 0.8]
    assert frame["gap_accuracy"].tolist()[:2] == [0.3, 0.3]
    assert describe_scores(frame).startswith("Accuracies and gaps are means over two epochs, the best one on each half")
    older = build_leaderboard([lucky, runs[1]], ACCURACY)
    assert older["val_accuracy"].tolist() == [0.8, 0.7]
    assert "too high" in describe_scores(older)


def test_which_trials_count_for_the_front_is_said(make_run: MakeRun, pruned: RecordedRun) -> None:
    silent = make_run(2, 0.2, tags={"cnnstudy.verdict": "not-learning"})
    frame = build_leaderboard([make_run(1, 0.8), silent, pruned], ACCURACY)
    assert describe_front(frame).startswith(
        "1 of 2 finished trials is on the Pareto front; 1 that did not learn is left out"
    )
    assert describe_front(frame.iloc[:1]) == "1 of 1 finished trial is on the Pareto front."


@pytest.mark.parametrize(
    ("metric", "heading", "cell", "words"),
    [
        ("val/balanced_accuracy", "balanced", "61.0 %", "mean recall of the classes"),
        ("val/macro_f1", "macro-F1", "62.0 %", "Macro-F1 is that of the best epoch too, not cross-fitted"),
        ("val/loss", "val loss", "0.500", "Val loss is that of the best epoch too, not cross-fitted"),
    ],
)
def test_what_trials_are_ranked_by_is_shown_and_named(
    make_run: MakeRun, metric: str, heading: str, cell: str, words: str
) -> None:
    run = make_run(1)
    run.metrics.update({"best/val_balanced_accuracy": 0.61, "best/val_macro_f1": 0.62})
    frame = build_leaderboard([run], metric)
    headings, (row,) = leaderboard_table(frame)
    assert row[headings.index(heading)] == cell
    assert set(headings) & {"balanced", "macro-F1", "val loss"} == {heading}
    assert words in describe_scores(frame)
    assert words not in describe_scores(build_leaderboard([run], ACCURACY))
