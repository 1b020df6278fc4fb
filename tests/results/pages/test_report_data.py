"""The data of a study's report."""

from __future__ import annotations

import collections

from cnnstudy.analysis.leaderboard import build_leaderboard
from cnnstudy.names import Tag
from cnnstudy.results.pages import content
from cnnstudy.results.pages.content import best_trials, effect_table, trial_table

from .example_study import Example, close, confirmation


def test_no_history_is_asked_for_twice() -> None:
    example = Example(networks=("alexnet", "vgg16"))
    example.report()
    counts = collections.Counter(example.read_trial_json)
    assert counts.most_common(1)[0][1] == 1
    # what the analysis takes is enough for the curves too
    assert len(counts) == 5 * len(example.runs)


def test_curves_are_clean_train_and_validation() -> None:
    report = Example(seeds=1, factors={"transfer": ["scratch"]}).report()
    (run,) = report.runs
    curve = report.curves["alexnet-000"]
    assert curve.epochs == (1, 2, 3)
    assert close(curve.train[-1], run.metrics["last/train_accuracy"])
    assert close(curve.validation[-1], run.metrics["last/val_accuracy"])


def test_the_best_trials_classes_and_the_mean_of_those_that_learnt() -> None:
    example = Example(silent=3)
    report = example.report()
    assert report.classes is not None
    assert report.classes.trial == report.finished.iloc[0]["trial"]
    assert [one.name for one in report.classes.of_trial] == ["cat", "dog", "eel"]
    assert report.classes.trials == len(example.runs) - 3
    assert report.classes.matrix == ((7, 1, 1), (1, 7, 1), (1, 1, 7))
    learnt = [run.metrics["recall/cat"] for run in example.runs[3:]]
    assert close(report.classes.mean[0].validation, sum(learnt) / len(learnt))
    gaps = [one.gap for one in report.classes.of_trial]
    assert all(gap is not None for gap in gaps)


def test_classes_whose_names_mlflow_does_not_take() -> None:
    example = Example(seeds=1, factors={"transfer": ["scratch"]}, classes=("a_b", "c"))
    (run,) = example.runs
    example.texts[run.run_id, "confusion_matrix.csv"] = "true class,'=a?b,c\n'=a?b,3,1\nc,0,4\n"
    metrics = {name: value for name, value in run.metrics.items() if not name.startswith(("recall", "train_recall"))}
    example.change(run, metrics={**metrics, "recall/_a_b": 0.75, "train_recall/_a_b": 1.0, "recall/c": 1.0})
    classes = example.report().classes
    assert classes is not None
    assert [(one.name, one.validation, one.train) for one in classes.of_trial] == [
        ("=a?b", 0.75, 1.0),
        ("c", 1.0, None),
    ]


def test_classes_without_a_matrix() -> None:
    example = Example()
    example.texts.clear()
    classes = example.report().classes
    assert classes is not None
    assert classes.matrix == ()
    assert [one.name for one in classes.of_trial] == ["cat", "dog", "eel"]
    example.texts = dict.fromkeys([(run.run_id, "confusion_matrix.csv") for run in example.runs], "a,b\nc,many\n")
    broken = example.report().classes
    assert broken is not None
    assert broken.matrix == ()


def test_the_champions_classes_where_there_is_one() -> None:
    example = Example()
    example.texts["study-run", "confirm/confirm.json"] = confirmation("alexnet-002")
    report = example.report()
    assert report.classes is not None
    assert report.classes.trial == "alexnet-002"


def test_a_confirmation_that_cant_be_read_is_said_and_left_out() -> None:
    example = Example()
    example.texts["study-run", "confirm/confirm.json"] = "{}"
    report = example.report()
    assert report.confirmed is None
    (said,) = report.unreadable
    assert "the key 'candidates' is missing" in said
    assert "python -m cnnstudy confirm example" in said


def test_only_failed_trials() -> None:
    example = Example(seeds=1, factors={"transfer": ["scratch", "frozen"]})
    for run in list(example.runs):
        example.change(run, state="failed", reason="oom", metrics={}, tags={"cnnstudy.verdict": ""})
    report = example.report()
    assert (len(report.finished), report.classes, dict(report.curves)) == (0, None, {})
    assert not report.front.any()
    assert content.describe_missing(report) == "None of 2 trials has finished, so there are no results yet."
    assert content.verdict_counts(report) == [("failed", 2)]
    assert best_trials(report).rows == ()
    headings, rows = trial_table(report)
    assert [row.cells[headings.index("state")].text for row in rows] == ["failed: oom", "failed: oom"]


def test_no_trials() -> None:
    example = Example(seeds=0)
    report = example.report()
    assert content.describe_missing(report) == "This study has no trials yet."
    assert (content.describe_best(report), content.describe_dates(report), content.verdict_counts(report)) == (
        "",
        "",
        [],
    )
    assert [fact.value for fact in content.facts(report)] == ["0 finished"]
    assert trial_table(report) == ([], [])


def test_the_table_of_all_trials() -> None:
    report = Example(networks=("alexnet", "vgg16"), unfinished=3, silent=1).report()
    headings, rows = trial_table(report)
    assert headings[:6] == ["trial", "transfer", "batch", "dropout", "data %", "seed"]
    assert all(len(row.cells) == len(headings) for row in rows)
    assert [row.trial for row in rows] == build_leaderboard(report.runs, "val/accuracy")["trial"].tolist()
    assert collections.Counter(row.state for row in rows)["failed"] == 2
    assert {row.network for row in rows} == {"alexnet", "vgg16"}
    best = rows[0]
    shown = dict(zip(headings, (cell.text for cell in best.cells), strict=True))
    assert (shown["data %"], shown["verdict"], shown["state"]) == ("100", "overfit", "finished")
    assert shown["gap"].startswith(("+", "-"))
    assert best.words.count(",") == 3


def test_the_answer_stands_beside_its_change() -> None:
    (one,) = Example().report().causes
    table = effect_table(one, interactions=False)
    assert table.headings[:3] == ("change", "the gap", "gap")
    assert table.rows[0][:2] == ("4 times the training images", "lowers")


def test_facts_at_the_top() -> None:
    facts = {fact.name: fact for fact in content.facts(Example(silent=2, unfinished=2).report())}
    assert (facts["Trials"].value, facts["Trials"].note) == ("70 finished", "1 pruned, 1 failed")
    assert (facts["Network"].value, facts["Network"].note) == ("alexnet", "3 seeds")
    assert facts["Data"].note == "3 classes, 200 train and 40 validation images"
    assert facts["Mean gap"].note.endswith("over 23 finished trials on all training images")
    several = {fact.name: fact for fact in content.facts(Example(networks=("alexnet", "vgg16"), seeds=1).report())}
    assert (several["Networks"].value, several["Networks"].note) == ("2", "alexnet, vgg16; 1 seed")


def test_an_interrupted_trial_has_not_failed() -> None:
    example = Example()
    example.change(example.runs[0], state="failed", reason="interrupted")
    report = example.report()
    facts = {fact.name: fact for fact in content.facts(report)}
    assert facts["Trials"].note == "1 interrupted"
    assert ("interrupted", 1) in content.verdict_counts(report)
    (row,) = [row for row in trial_table(report)[1] if row.trial == example.runs[0].trial]
    assert (row.state, row.cells[-1].text) == ("interrupted", "interrupted: runs again")


def test_the_best_of_many_is_said_to_flatter() -> None:
    text = content.describe_best(Example().report())
    assert text.startswith("The best validation accuracy is ")
    assert "It is the best of 72 trials on the images that it was selected by" in text
    by_loss = content.describe_best(Example(metric="val/loss").report())
    assert by_loss.startswith("The best validation loss is 1.035 nats (alexnet-017: ")
    assert "with a gap in accuracy of +" in by_loss
    alone = Example(seeds=1, factors={"transfer": ["scratch"]})
    assert "it was selected by" not in content.describe_best(alone.report())


def test_what_it_cannot_tell() -> None:
    one_seed = " ".join(content.limitation_sentences(Example(seeds=1).report()))
    assert "With one seed" in one_seed
    assert "The test split was not used" in one_seed
    example = Example()
    example.texts["study-run", "confirm/confirm.json"] = confirmation()
    confirmed = " ".join(content.limitation_sentences(example.report()))
    assert "over 3 seeds" in confirmed
    assert "the initial weights and the order of batches" in confirmed
    redrawn = example.report()
    redrawn.study.config["weights"] = {"default": {"source": "pretrain", "draws": "each-seed"}}
    assert "the initial weights, the pretrained source weights and" in " ".join(content.limitation_sentences(redrawn))
    assert "No test images" not in confirmed


def test_what_made_the_numbers() -> None:
    example = Example()
    example.change(example.runs[0], tags={"cnnstudy.code_version": "0.2.0"})
    facts = {fact.name: fact for fact in content.provenance_facts(example.report())}
    assert facts["Code"].value == "0.2.0, 0.1.0+gabc"
    assert "compare with care" in facts["Code"].note
    assert facts["Packages"].value == "python 3.11.7, keras 3.15.1"
    assert facts["MLflow"].value == "experiment 1, run study-run"
    assert facts["Trials ran"].value == "2025-10-09"


def test_packages_that_were_cut() -> None:
    example = Example(seeds=1, factors={})
    example.change(example.runs[0], tags={"cnnstudy.packages": '{"python": "3.1'})
    assert example.runs[0].packages == {}
    assert "Packages" not in [fact.name for fact in content.provenance_facts(example.report())]


def test_a_search_has_next_steps_too() -> None:
    for search in (False, True):
        example = Example(search=search)
        assert example.report().next_steps == []
        assert example.report(tags={Tag.RUN_COMMAND: "python -m cnnstudy run-study study.yaml"}).next_steps
