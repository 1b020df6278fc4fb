"""The page of a study as HTML, and as files and artifacts."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cnnstudy.analysis.effects_text import answer_sentences
from cnnstudy.analysis.named_causes import cause_sentence
from cnnstudy.cli import results
from cnnstudy.records import EpochRecord, TrialResult, TrialSpec
from cnnstudy.results.pages.rendering import prose, split_off
from cnnstudy.results.pages.report_data import collect_report_data
from cnnstudy.results.pages.study_page import PLAIN, list_illustrations, study_page, write_page, write_report
from cnnstudy.study.recorder import Recorder
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedStudy
from cnnstudy.tracking.sqlite import sqlite_file
from cnnstudy.tracking.ui_layout import run_url
from cnnstudy.tracking.ui_server import find_ui

from .example_study import Example, confirmation, entry, mistakes

SECTIONS = ("answer", "curves", "factors", "effects", "interactions", "law", "front", "importances", "leaderboard")
SECTIONS = (*SECTIONS, "classes", "gallery", "trials", "measured", "limits", "reproduce")
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
FEW = {"transfer": ["scratch", "frozen"], "data_fraction": [0.5, 1.0]}
EMPTY = {"br", "img", "input", "link", "meta", "use", "path"}


class Reader(HTMLParser):
    """A parsed page: texts by section id, tags, and tags that are not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self.open: list[str] = []
        self._section = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "section":
            self._section = dict(attributes)["id"] or ""
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag in EMPTY:
            return
        assert self.open.pop() == tag
        self._section = "" if tag == "section" else self._section

    def handle_data(self, data: str) -> None:
        self.sections[self._section] = self.sections.get(self._section, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def whole(example: Example, folder: Path, **changes: Any) -> tuple[str, Reader]:
    page = write_page(example.report(**changes), folder).read_text(encoding="utf-8")
    return page, Reader(page)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Reader, Path]:
    """The page of a study with every section."""
    example = Example(networks=("alexnet", "vgg16"), unfinished=3, silent=2)
    example.texts["study-run", "confirm/confirm.json"] = confirmation()
    folder = tmp_path_factory.mktemp("rich")
    gallery = mistakes(entry(folder))
    return (*whole(example, folder, gallery=gallery, files={"example.yaml": "name: example\n"}), folder)


def test_every_section_is_there_and_linked(rich: tuple[str, Reader, Path]) -> None:
    _, reader, _ = rich
    there = {*SECTIONS, "confirmed", "absent"} - {"interactions"}  # which these trials do not show
    assert set(reader.sections) - {""} == there
    assert {link["href"] for link in reader.all("a")} == {"#main", *(f"#{name}" for name in there)}
    assert reader.open == []


def test_the_answer_comes_first_then_what_was_confirmed(rich: tuple[str, Reader, Path]) -> None:
    _, reader, _ = rich
    names = [attributes["id"] for attributes in reader.all("section")]
    assert names[:3] == ["answer", "confirmed", "curves"]
    answer = " ".join(reader.sections["answer"].split())
    assert answer.index("alexnet overfits by 5 points or more: after the last epoch the gap") < answer.index("Trials")
    assert "Between the networks" in answer
    assert "(gap at most 10 points)" in reader.sections["confirmed"]


def test_every_figure_says_how_many_trials_it_is_over(rich: tuple[str, Reader, Path]) -> None:
    page, reader, _ = rich
    captions = re.findall(r"<figcaption>(\d[^<]*?)</figcaption>", page)
    for words in (
        "36 trials, 3 seeds; bands from the lowest to the highest seed.",
        "72 trials, 3 seeds. Bars: means of the levels.",
        "95 % intervals over 72 trials, 3 seeds. Hollow: cannot be told from 0.",
    ):
        assert words in captions, captions
    assert len(reader.all("figcaption")) == len(reader.all("figure"))


def test_beside_the_answer_stand_what_happens_what_changes_it_and_what_more_images_do(
    rich: tuple[str, Reader, Path],
) -> None:
    page, _, _ = rich
    answer = page[page.index('<section id="answer">') : page.index("</section>")]
    curves, effects, law = re.findall(r'<svg[^>]* aria-label="([^"]*)"', answer)
    assert "accuracy by epoch" in curves
    assert "effects on the gap" in effects
    assert "images" in law


def test_what_these_trials_cannot_show_is_listed_once_and_has_no_heading(tmp_path: Path) -> None:
    _, reader = whole(Example(seeds=1, factors={"transfer": ["scratch"]}), tmp_path)
    assert "This study does not vary the number of training images" in reader.sections["absent"]
    assert "law" not in reader.sections
    assert "#law" not in [link["href"] for link in reader.all("a")]


def test_without_a_champion_it_says_why_not(tmp_path: Path) -> None:
    example = Example(seeds=1, factors=FEW)
    data = json.loads(confirmation(champion=None, reason="of 3 candidates 3 failed with a seed or more", test=None))
    for one in data["candidates"]:
        one["standing"] = "failed"
    example.texts["study-run", "confirm/confirm.json"] = json.dumps(data)
    _, reader = whole(example, tmp_path)
    assert "No champion: of 3 candidates, 3 failed with at least one seed." in reader.sections["confirmed"]
    assert "Why this trial" not in reader.sections["confirmed"]
    assert "champion’s model" not in reader.sections["confirmed"]


def test_ids_are_unique(rich: tuple[str, Reader, Path]) -> None:
    _, reader, _ = rich
    ids = [attributes["id"] for _, attributes in reader.tags if attributes.get("id")]
    assert len(set(ids)) == len(ids)


def test_it_loads_nothing(rich: tuple[str, Reader, Path]) -> None:
    page, reader, _ = rich
    assert not re.search(r"https?:", page)
    for _, attributes in reader.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), attributes
    assert not re.search(r"url\((?!#)|@import", page)


def test_its_policy_allows_its_own_script_alone(rich: tuple[str, Reader, Path]) -> None:
    page, reader, _ = rich
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (one["content"] for one in reader.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]


def test_every_figure_is_a_file_too(rich: tuple[str, Reader, Path]) -> None:
    page, _, folder = rich
    names = {path.stem for path in (folder / "figures").iterdir()}
    for ending in (".png", ".svg"):
        assert {path.stem for path in (folder / "figures").iterdir() if path.suffix == ending} == names
    assert page.count("<svg") == len(names) + 3, "three stand beside the answer too"
    assert {name.split("-")[0] for name in names} >= {"confirmed", "curves", "factors", "effects", "law", "front"}


def test_every_trial_is_a_row(rich: tuple[str, Reader, Path]) -> None:
    _, reader, _ = rich
    rows = [one for one in reader.all("tr") if "data-trial" in one]
    assert len(rows) == 144
    assert len({one["data-trial"] for one in rows}) == 144
    assert {one["data-state"] for one in rows} == {"finished", "failed", "pruned"}
    points = {one["data-trial"] for one in reader.all("use") if "data-trial" in one}
    assert points <= {one["data-trial"] for one in rows}


@pytest.mark.thorough
def test_the_same_study_is_the_same_page(tmp_path: Path) -> None:
    pages = [whole(Example(seeds=2, factors=FEW), tmp_path / name)[0] for name in "ab"]
    assert pages[0] == pages[1]


def test_names_are_text_wherever_they_stand(tmp_path: Path) -> None:
    example = Example(seeds=2, factors=FEW, name=EVIL, classes=(EVIL, "b"), unfinished=1)
    example.change(example.runs[-1], tags={"cnnstudy.message": EVIL, "cnnstudy.code_version": EVIL})
    example.texts["study-run", "confirm/confirm.json"] = confirmation(reason=EVIL, model=EVIL, refusal=EVIL, test=None)
    mistake = entry(tmp_path, true=EVIL, predicted=EVIL, key=EVIL)
    mistake["neighbours"][0] |= {"class": EVIL, "key": EVIL}
    page, reader = whole(example, tmp_path, gallery=mistakes(mistake), files={EVIL: EVIL})
    assert len(reader.all("script")) == 1
    assert all((one["src"] or "").startswith("data:image/webp") for one in reader.all("img"))
    assert reader.open == []
    assert EVIL not in page
    assert page.count(html.escape(EVIL).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")) > 10
    for name in ("answer", "classes", "confirmed", "gallery", "trials", "reproduce"):
        assert "alert(1)" in reader.sections[name] or name in ("answer", "classes"), name


def test_figures_never_bring_tags_along(tmp_path: Path) -> None:
    page, reader = whole(Example(seeds=2, factors=FEW, classes=("</svg><script>alert(1)</script>", "b")), tmp_path)
    assert page.count("</svg>") == len(reader.all("svg"))
    assert len(reader.all("script")) == 1


def test_no_trials(tmp_path: Path) -> None:
    _, reader = whole(Example(seeds=0), tmp_path)
    assert "This study has no trials yet." in reader.sections["answer"]
    assert set(reader.sections) - {""} == {"answer", "absent", "measured", "limits", "reproduce"}
    assert list((tmp_path / "figures").iterdir()) == []


def test_only_failed_trials(tmp_path: Path) -> None:
    example = Example(seeds=1)
    for run in list(example.runs):
        example.change(run, state="failed", reason="crash", metrics={}, tags={"cnnstudy.verdict": ""})
    _, reader = whole(example, tmp_path)
    assert "alexnet: no trial has finished yet." in reader.sections["answer"]
    assert "failed: crash" in reader.sections["trials"]
    assert "No trial has finished, so there are no curves." in reader.sections["absent"]


def test_nothing_was_learnt(tmp_path: Path) -> None:
    example = Example(seeds=2, factors=FEW, silent=1000)
    _, reader = whole(example, tmp_path)
    assert "did not learn in any of" in reader.sections["answer"]
    assert "No finished trial has learnt anything yet" in reader.sections["absent"]


def test_one_seed(tmp_path: Path) -> None:
    _, reader = whole(Example(seeds=1, factors=FEW), tmp_path)
    assert "one seed" in reader.sections["answer"].lower()
    assert "With one seed" in reader.sections["limits"]


def test_the_cause_stands_before_what_changes_the_gap() -> None:
    report = Example(seeds=5, factors=FEW).report()
    answer = Reader(study_page(report, {})).sections["answer"]
    cause = cause_sentence(report.causes)
    assert "the cause is too few images" in cause
    assert answer.index(cause.replace("-", "−").partition(" (")[0]) < answer.index("What changes it")


def test_figures_of_plain_accuracies_say_so_where_the_answer_is_about_balanced_ones() -> None:
    report = Example(seeds=3, factors=FEW).report()
    question = dataclasses.replace(report.causes[0].question, unequal=True)
    unequal = [dataclasses.replace(one, question=question) for one in report.causes]
    for causes, says_so in ((report.causes, False), (unequal, True)):
        shown = list_illustrations(dataclasses.replace(report, causes=causes))
        captions = {one.section: one.caption for one in shown}
        assert {PLAIN in captions[section] for section in ("curves", "effects", "law")} == {says_so}
        assert PLAIN not in captions["front"]


def test_a_search_over_three_networks(tmp_path: Path) -> None:
    factors = {"transfer": ["scratch", "frozen", "fine-tune"], "batch_size": [8]}
    example = Example(networks=("alexnet", "vgg16", "googlenet"), search=True, factors=factors)
    _, reader = whole(example, tmp_path)
    answer = reader.sections["answer"]
    # what holds for all is said once
    assert answer.count("these trials come from a search".capitalize()) == 1
    assert "For all networks" in answer
    assert reader.sections["curves"].count("frozen: one trial") == 3


def test_without_a_gallery_it_says_why(tmp_path: Path) -> None:
    page, reader = whole(Example(seeds=1, factors={}), tmp_path, gallery="None was kept. `confirm <b>` keeps one.")
    assert "None was kept. confirm <b> keeps one." in reader.sections["absent"]
    assert "<code>confirm &lt;b&gt;</code>" in page
    assert reader.all("img") == []
    _, reader = whole(Example(seeds=1, factors={}), tmp_path)
    assert "Left out of this report." in reader.sections["absent"]


def test_more_mistakes_than_are_shown(tmp_path: Path) -> None:
    _, reader = whole(Example(seeds=1, factors={}), tmp_path, gallery=mistakes(*[entry(tmp_path)] * 40))
    assert (
        "Shown are 30 of 40 mistakes among 200 validation images: the most confident ones" in reader.sections["gallery"]
    )
    assert len(reader.all("img")) == 120


def test_training_recall_that_was_not_recorded_is_said(tmp_path: Path) -> None:
    example = Example(seeds=1, factors=FEW)
    for run in list(example.runs):
        kept = {name: value for name, value in run.metrics.items() if not name.startswith("train_recall/")}
        example.change(run, metrics=kept)
    _, reader = whole(example, tmp_path)
    assert "the gap of each class is not known" in reader.sections["classes"]


def test_many_classes_have_no_matrix_that_can_be_read(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(40)]
    _, reader = whole(Example(seeds=1, factors={"transfer": ["scratch"]}, classes=names), tmp_path)
    assert "The 20 of 40 classes with the largest gap." in reader.sections["classes"]
    assert "confusion_matrix.csv" in reader.sections["classes"]
    assert "taken for" in reader.sections["classes"], "the pairs that are confused most"


@pytest.mark.thorough
def test_five_hundred_trials_stay_small(tmp_path: Path) -> None:
    example = Example(seeds=21)
    assert len(example.runs) == 504
    page, _ = whole(example, tmp_path)
    assert len(page.encode()) < 3_000_000


def test_prose() -> None:
    assert prose("run `a <b>` now") == "run <code>a &lt;b&gt;</code> now"
    assert prose("a <b> `c") == "a &lt;b&gt; `c"
    assert prose("one", capital=True) == "One"


def test_the_first_sentence() -> None:
    assert split_off("It is 1.5 points. Then less. Then more.") == ("It is 1.5 points.", "Then less. Then more.")
    assert split_off("It is [1, 2] vs. 3.") == ("It is [1, 2] vs. 3.", "")


# ---- files and artifacts


def record(tracker: Tracker, spec: TrialSpec, numbers: range) -> None:
    """Record trials of a study in MLflow."""
    config = {
        "objective": {"metric": "val/accuracy"},
        "factors": {"batch_size": [8, 16]},
        "strategy": {"kind": "factorial", "seeds": 1, "tune": []},
        "training": {},
        "architectures": ["alexnet"],
        "data": {"name": "digits", "validation": 0.2, "test": 0.2},
    }
    recorder = Recorder(tracker, tracker.open_study("fake", config))
    for number in numbers:
        levels = {**spec.levels, "batch_size": (8, 16)[number % 2]}
        recording = recorder.start(dataclasses.replace(spec, number=number, levels=levels))
        summary = {"train/accuracy": 1.0, "val/accuracy": 0.75, "gap/accuracy": 0.25, "train/loss": 0.1}
        summary |= {"val/loss": 0.5, "gap/loss": 0.4}
        for epoch in (1, 2):
            recorder.epoch(recording, EpochRecord(epoch, summary))
        final = {f"last/{name.replace('/', '_')}": value for name, value in summary.items()}
        result = TrialResult("finished", 2, 2, 3.0, summary, ((3, 1), (0, 4)), 10, 0, None, final, verdict="overfit")
        recorder.finish(recording, dataclasses.replace(result, train_confusion=((4, 0), (0, 4))))


def test_the_report_of_a_recorded_study(tracker: Tracker, spec: TrialSpec, tmp_path: Path) -> None:
    record(tracker, spec, range(2))
    study = tracker.study("fake")
    (tmp_path / "study.yaml").write_text("name: fake\n")
    tracker.start_study(study, study.config, tmp_path / "study.yaml", "name: fake # as given\n")
    page = write_report(tracker, study, tmp_path / "out", gallery=mistakes(entry(tmp_path)))
    assert page == tmp_path / "out" / "report.html"
    reader = Reader(page.read_text(encoding="utf-8"))
    assert "name: fake # as given" in reader.sections["reproduce"]
    assert "python -m cnnstudy run-study study.yaml" in reader.sections["reproduce"]
    assert [one["data-trial"] for one in reader.all("tr") if "data-trial" in one] == ["alexnet-000", "alexnet-001"]
    assert (tmp_path / "out" / "figures" / "curves-alexnet-1.svg").exists()
    # and as artifacts of the study's run
    assert tracker.read_text(study.run_id, "report/report.html") == page.read_text(encoding="utf-8")
    recorded = {path.rpartition("/")[2] for path in tracker.files(study.run_id, "report/figures")}
    assert recorded == {path.name for path in (tmp_path / "out" / "figures").iterdir()}


def test_figures_of_an_earlier_report_go_and_what_others_put_there_stays(
    tracker: Tracker, spec: TrialSpec, tmp_path: Path
) -> None:
    record(tracker, spec, range(1))
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in ("law-vgg16-1.png", "notes.txt", "holiday.png"):
        (figures / name).write_text("old")
    write_report(tracker, tracker.study("fake"), tmp_path)
    left = {path.name for path in figures.iterdir()}
    assert {"notes.txt", "holiday.png", "curves-alexnet-1.png"} <= left
    assert "law-vgg16-1.png" not in left


def recorded_figures(tracker: Tracker, study: RecordedStudy) -> set[str]:
    return {path.rpartition("/")[2] for path in tracker.files(study.run_id, "report/figures")}


@pytest.fixture
def with_an_old_figure(tracker: Tracker, spec: TrialSpec, tmp_path: Path) -> RecordedStudy:
    """A study whose earlier report had a figure that is now obsolete; a user has put another picture beside it."""
    record(tracker, spec, range(1))
    study = tracker.study("fake")
    figures = tmp_path / "earlier" / "report" / "figures"
    figures.mkdir(parents=True)
    for name in ("law-vgg16-1.png", "law-vgg16-1.svg", "curves-alexnet-1.svg", "holiday.png"):
        (figures / name).write_text("old")
    tracker.log_files(study.run_id, tmp_path / "earlier")
    return study


def test_recorded_figures_of_an_earlier_report_go_too(
    tracker: Tracker, with_an_old_figure: RecordedStudy, tmp_path: Path
) -> None:
    write_report(tracker, with_an_old_figure, tmp_path / "out")
    made = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert recorded_figures(tracker, with_an_old_figure) == made | {"holiday.png"}
    text = tracker.read_text(with_an_old_figure.run_id, "report/figures/curves-alexnet-1.svg")
    assert text == (tmp_path / "out" / "figures" / "curves-alexnet-1.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [NotImplementedError("no deleting"), PermissionError("not yours")])
def test_a_store_that_lets_nobody_delete_keeps_them(
    tracker: Tracker,
    with_an_old_figure: RecordedStudy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("mlflow.store.artifact.local_artifact_repo.LocalArtifactRepository.delete_artifacts", refuse)
    assert write_report(tracker, with_an_old_figure, tmp_path / "out").is_file()
    assert {"law-vgg16-1.png", "curves-alexnet-1.png"} <= recorded_figures(tracker, with_an_old_figure)


def test_a_folder_that_cant_be_written(tracker: Tracker, spec: TrialSpec, tmp_path: Path) -> None:
    record(tracker, spec, range(1))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        write_report(tracker, tracker.study("fake"), tmp_path / "file")


@pytest.mark.parametrize("locked", ["mlflow.db", "mlruns"])
def test_the_report_of_a_store_that_cannot_be_written_is_a_page_all_the_same(
    locked: str,
    tracker: Tracker,
    spec: TrialSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever runs the tests may write everywhere, so the system's answer is replaced."""
    record(tracker, spec, range(1))
    database = sqlite_file(tracker.uri)
    assert database is not None
    place = database.resolve().parent / locked
    place.mkdir(exist_ok=True) if locked == "mlruns" else None
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: False if Path(path) == place else access(path, mode))
    results.report("fake", out=tmp_path / "out", gallery=False, tracking_uri=tracker.uri)
    assert (tmp_path / "out" / "report.html").is_file()
    assert f"{place} can't be written, so the page is not recorded in MLflow." in capsys.readouterr().err
    assert tracker.files(tracker.study("fake").run_id, "report") == []


def test_every_statement_links_to_its_runs() -> None:
    example = Example(seeds=3)
    report = dataclasses.replace(example.report(), ui="http://127.0.0.1:5000")
    page = study_page(report, {})
    assert "its runs" not in study_page(example.report(), {})
    statements = [line for one in report.causes for line in answer_sentences(one)]
    assert page.count(">its runs</a>") >= len(statements) > 1
    for run in report.runs:
        address = html.escape(run_url(report.ui, report.study.experiment_id, run.run_id))
        assert f'<a href="{address}">{run.trial}</a>' in page
    assert "Links lead to MLflow’s UI, while <code>python -m cnnstudy ui" in page


def test_the_links_of_a_recorded_study(tracker: Tracker, spec: TrialSpec) -> None:
    record(tracker, spec, range(1))
    assert collect_report_data(tracker, tracker.study("fake")).ui == "http://127.0.0.1:5000"
    assert find_ui("https://me:secret@host/mlflow/") == "https://host/mlflow"


def test_a_page_needs_no_figures() -> None:
    assert "Limitations" in study_page(Example(seeds=1).report(), {})


@pytest.mark.parametrize("name", ["p?q.yaml", "p%20q.yaml", "p\nq.yaml", "odd <i>%2F#.yaml"])
def test_a_study_file_whose_name_mlflow_takes_for_an_address(
    name: str, tracker: Tracker, spec: TrialSpec, tmp_path: Path
) -> None:
    record(tracker, spec, range(1))
    study = tracker.study("fake")
    tracker.start_study(study, study.config, tmp_path / name, "name: fake # as given\n")
    earlier = tmp_path / "earlier" / "study"
    earlier.mkdir(parents=True)
    (earlier / name).write_text("as earlier versions recorded it")
    tracker.log_files(study.run_id, earlier.parent)
    page = write_report(tracker, study, tmp_path / "out").read_text(encoding="utf-8")
    assert "name: fake # as given" in page
