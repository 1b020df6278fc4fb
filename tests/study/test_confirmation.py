"""Confirming: simulated trials with a real MLflow database, and at the end a real study."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_executor import FakeExecutor
from pictures import leave_out_pictures
from scipy import stats
from trained_study import NAME, Trained

from cnnstudy.analysis.confirmation import RECORD_PATH, Confirmation, confirmation_from_json, confirmation_to_json
from cnnstudy.analysis.confirmation_text import confirmation_sentences
from cnnstudy.config.load import load_study
from cnnstudy.errors import ConfigError, TrackingError, UnknownNameError
from cnnstudy.execution import Epoch, Event, Failed, Workers
from cnnstudy.names import NOBODY, Tag
from cnnstudy.records import Rule
from cnnstudy.results.models import find_model
from cnnstudy.study import confirmation
from cnnstudy.study.confirmation import NothingToConfirmError
from cnnstudy.study.recorder import Recorder
from cnnstudy.study.run import Outcome, confirm_study, run_study
from cnnstudy.system.display import PlainDisplay, SilentDisplay
from cnnstudy.tracking import registry
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.training.cross_fit import cross_fit

FILE = """
name: fake
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {batch_size: [8, 16, 32, 64]}
training: {epochs: 2, keep_models: false}
strategy: {sampler: grid}
budget: {trials: 4}
"""
OPTIONS = {"top": 2, "seeds": 2, "most_seeds": 2}
FIRST = 10_000


def keys(numbers: list[int], seeds: range | list[int]) -> list[str]:
    return [f"confirm-alexnet-{number:03d}-seed-{FIRST + seed}" for seed in seeds for number in numbers]


class Desk:
    """Runs and confirms a study on one database, as the commands do."""

    def __init__(self, folder: Path, tracker: Tracker) -> None:
        self.tracker, self.file = tracker, folder / "fake.yaml"
        self.file.write_text(FILE, encoding="utf-8")
        self.said: list[str] = []
        self.executor: FakeExecutor | None = None

    def make(self, **script: Any) -> Workers:
        self.executor = None

        def make(folder: Path) -> FakeExecutor:
            self.executor = FakeExecutor(folder, **script)
            return self.executor

        return Workers(make)

    def search(self, *overrides: str, **script: Any) -> Outcome:
        # by default 0.9, 0.8, 0.7 and 0.6 in the search
        accuracy = {f"alexnet-{n:03d}": 0.9 - 0.1 * n for n in range(4)} | script.pop("accuracy", {})
        study = load_study(str(self.file), overrides)
        return run_study(study, self.tracker, self.make(accuracy=accuracy, **script), PlainDisplay(self.said.append))

    def confirm(self, options: dict[str, int] | None = None, again: bool = False, **script: Any) -> Outcome:
        make = self.make(**script)
        given = OPTIONS if options is None else options
        return confirm_study("fake", given, self.tracker, make, PlainDisplay(self.said.append), again)

    @property
    def trained(self) -> list[str]:
        return [] if self.executor is None else self.executor.trials

    @property
    def opened(self) -> int:
        return 0 if self.executor is None else sum(job.kind == "open_test" for job in self.executor.jobs)

    def runs(self, kind: str = "confirm") -> list[RecordedRun]:
        experiment = self.tracker.study("fake").experiment_id
        return [run for run in self.tracker.runs(experiment) if run.kind == kind]

    @property
    def own(self) -> RecordedRun:
        (run,) = self.runs("study")
        return run

    def champion(self) -> Any:
        return self.tracker._client.get_model_version_by_alias("fake", "champion")

    def record(self) -> dict[str, Any]:
        path = self.tracker._client.download_artifacts(self.own.run_id, RECORD_PATH)
        return json.loads(Path(path).read_text(encoding="utf-8"))

    def is_at_rest(self) -> bool:
        runs = self.tracker.runs(self.tracker.study("fake").experiment_id)
        return all(self.tracker._client.get_run(run.run_id).info.status != "RUNNING" for run in runs)


@pytest.fixture
def desk(own_places: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Desk:
    leave_out_pictures(monkeypatch)
    return Desk(own_places, tracker)


def done(outcome: Outcome) -> Confirmation:
    assert outcome.confirmed is not None
    return outcome.confirmed


#: With fresh seeds the second candidate is clearly better than the first.
TURNED = {key: 0.6 + 0.01 * n for n, key in enumerate(keys([0], range(4)))} | {
    key: 0.8 + 0.01 * n for n, key in enumerate(keys([1], range(4)))
}


def test_the_best_two_run_again_in_pairs_and_the_better_mean_is_champion(desk: Desk) -> None:
    desk.search()
    clear = {key: 0.1 + 0.01 * n for n, key in enumerate(keys([0], range(3)))}
    clear |= {key: 0.8 + 0.01 * n for n, key in enumerate(keys([1], range(3)))}
    confirmed = done(desk.confirm({"top": 2, "seeds": 3, "most_seeds": 3}, accuracy=clear))
    assert desk.trained == keys([0, 1], range(3))
    assert confirmed.champion is not None
    assert (confirmed.champion.candidate.trial, confirmed.champion.mean) == ("alexnet-001", pytest.approx(0.81))
    assert [one.standing for one in confirmed.standings] == ["champion", "behind"]
    assert confirmed.best_validation == ("alexnet-000", pytest.approx(0.9))
    by_seed = {(run.parameters["seed"], run.parameters["block"]) for run in desk.runs()}
    assert by_seed == {(str(seed), str(seed)) for seed in range(FIRST, FIRST + 3)}, (
        "the same seeds and divisions for both"
    )
    assert {run.tags["cnnstudy.trial"] for run in desk.runs("trial")} == {f"alexnet-00{n}" for n in range(4)}
    assert desk.is_at_rest()


#: One combination; its source weights are pretrained on other digits.
TRANSFER = (
    "factors={transfer: frozen}",
    "weights={default: {source: pretrain, epochs: 1, data: {name: digits, classes: [3, 4]}}}",
)


def test_fresh_seeds_of_a_factorial_pretrain_their_own_source_weights(desk: Desk) -> None:
    desk.search(*TRANSFER, "strategy={kind: factorial, seeds: 2}", "budget=")
    confirmed = done(desk.confirm({"top": 1, "seeds": 2, "most_seeds": 2}))
    trials = keys([0], range(2))
    pretrained = [f"pretrain-alexnet-seed-{FIRST + seed}" for seed in range(2)]
    assert desk.trained == [pretrained[0], trials[0], pretrained[1], trials[1]]
    assert len({run.weights_digest for run in (*desk.runs("trial"), *desk.runs())}) == 4
    assert any(line.endswith("2 fresh seeds each, and source weights pretrained for each seed") for line in desk.said)
    assert confirmed.shared_weights == ()


def test_fresh_seeds_of_a_search_start_from_its_source_weights_and_the_champion_says_so(desk: Desk) -> None:
    desk.search(*TRANSFER, "budget.trials=1")
    confirmed = done(desk.confirm({"top": 1, "seeds": 2, "most_seeds": 2}))
    assert desk.trained == keys([0], range(2))
    assert len({run.weights_digest for run in (*desk.runs("trial"), *desk.runs())}) == 1
    told = "Transfer starts from the same source weights (pretrained once) with every seed"
    assert any(line.startswith(told) for line in confirmation_sentences(confirmed))
    assert confirmation_from_json(json.dumps(desk.record())).shared_weights == ("pretrain",)


def test_the_alias_moves_to_the_median_model_with_the_reason(desk: Desk) -> None:
    desk.search()
    done(desk.confirm({"top": 2, "seeds": 3, "most_seeds": 3}, accuracy=TURNED))
    version = desk.champion()
    run = next(run for run in desk.runs() if run.run_id == version.run_id)
    assert run.tags["cnnstudy.trial"] == "confirm-alexnet-001-seed-10001"
    assert "alexnet-001" in version.description
    assert "best of 2 by mean validation accuracy over 3 fresh seeds, 81.0 %" in version.description
    for words in ("- Champion: alexnet-001", "Test split: accuracy", "training images.", "RGB arrays of", "**Limits**"):
        assert words in version.description, version.description
    score, last = (100 * run.metrics[name] for name in ("best/val_accuracy", "val/accuracy"))
    assert f"the model is that of epoch {run.best_epoch}".capitalize() in version.description
    assert f"validation accuracy {score:.1f} %" in version.description
    assert f"`val/accuracy` is that of the last epoch, {last:.1f} %." in version.description
    gap = r"Gap, train minus validation accuracy: [+-]\d+\.\d points( \[.*\])? over 3 seeds"
    assert re.search(gap, version.description)
    outputs = desk.tracker.client.get_run(desk.own.run_id).outputs.model_outputs
    assert [f"models:/{output.model_id}" for output in outputs] == [run.model], "once, though the search was resumed"
    assert "?" not in version.description, "everything is known of it"
    model = find_model("fake", desk.tracker.uri, Path("files"))
    assert (model.title, model.note) == ("fake/confirm-alexnet-001-seed-10001", "")


def test_the_test_split_is_opened_once_with_time_and_hash(desk: Desk) -> None:
    desk.search()
    confirmed = done(desk.confirm(accuracy=TURNED))
    assert desk.opened == 1
    assert confirmed.test is not None
    assert (confirmed.test.openings, confirmed.test.images, confirmed.test.digest) == (1, 50, "t" * 64)
    assert confirmed.test.values == (0.7, 0.72)
    assert confirmed.optimism == pytest.approx(0.9 - 0.71)
    assert confirmed.test.low is not None
    assert confirmed.test.low < 0.71 < (confirmed.test.high or 0)
    recorded = json.loads(desk.own.tags[Tag.TEST_SPLIT])
    assert (recorded["opened"], recorded["digest"]) == (confirmed.test.opened, "t" * 64)
    assert desk.own.metrics["test/accuracy"] == pytest.approx(0.71)
    assert desk.own.metrics["selection/optimism"] == pytest.approx(0.19)
    assert desk.record() == json.loads(json.dumps(confirmation_to_json(confirmed)))
    assert confirmation_from_json(json.dumps(desk.record())) == confirmed


def test_a_second_call_trains_and_opens_nothing(desk: Desk) -> None:
    desk.search()
    before = done(desk.confirm(accuracy=TURNED))
    again = done(desk.confirm(accuracy=TURNED))
    assert desk.executor is None
    assert again.test is not None
    assert before.test is not None
    assert before.test.confusion == ((1, 0), (0, 1))
    assert again.test == before.test
    assert (
        desk.record()
        == json.loads(json.dumps(confirmation_to_json(again)))
        == json.loads(json.dumps(confirmation_to_json(before)))
    )
    assert (again.model, again.version) == (before.model, before.version)


def test_a_second_opening_is_refused_unless_it_is_asked_for(desk: Desk) -> None:
    desk.search()
    first = done(desk.confirm(accuracy=TURNED))
    more = {"top": 2, "seeds": 3, "most_seeds": 3}
    second = done(desk.confirm(more, accuracy=TURNED))
    assert desk.opened == 0
    assert second.test is None
    assert first.test is not None
    assert f"opened on {first.test.opened} for alexnet-001 with 2 seeds" in second.refusal
    assert "--open-test-again" in second.refusal
    assert second.optimism is None
    third = done(desk.confirm(more, again=True, accuracy=TURNED))
    assert desk.opened == 1
    assert third.test is not None
    assert (third.test.openings, len(third.test.runs)) == (2, 3)
    assert any("evaluation 2 of this study's test split" in line for line in confirmation_sentences(third))


def test_an_opening_that_was_cut_off_is_finished_and_counts_once(desk: Desk) -> None:
    desk.search()
    broken = Failed("test", "crash", "the worker died", "Traceback")
    with pytest.raises(Exception, match="the worker died"):
        desk.confirm(accuracy=TURNED, failures={"test": broken})
    assert desk.is_at_rest()
    assert json.loads(desk.own.tags[Tag.TEST_SPLIT])["openings"] == 1
    confirmed = done(desk.confirm(accuracy=TURNED))
    assert confirmed.test is not None
    assert (confirmed.test.openings, confirmed.test.values) == (1, (0.7, 0.72))


def test_the_tag_of_an_opening_does_not_grow_with_the_seeds(desk: Desk) -> None:
    desk.search()
    lengths = []
    for seeds in (2, 3):
        confirmed = done(desk.confirm({"top": 1, "seeds": seeds, "most_seeds": seeds}, again=True))
        tag = desk.own.tags[Tag.TEST_SPLIT]
        assert confirmed.test is not None
        assert not any(run in tag for run in confirmed.test.runs)
        assert json.loads(tag)["mean"] == confirmed.test.mean
        lengths.append(len(tag.replace(str(confirmed.test.mean), "")))
    assert lengths[0] == lengths[1]


def test_an_opening_that_an_earlier_version_told_of_counts(desk: Desk) -> None:
    desk.search()
    first = done(desk.confirm(accuracy=TURNED)).test
    assert first is not None
    whole = {name: value for name, value in vars(first).items() if name != "confusion"}
    desk.tracker.set_tags(desk.own.run_id, {Tag.TEST_SPLIT: json.dumps(whole)})
    assert done(desk.confirm(accuracy=TURNED)).test == first
    assert desk.opened == 0
    more = done(desk.confirm({"top": 2, "seeds": 3, "most_seeds": 3}, accuracy=TURNED))
    assert f"opened on {first.opened} for alexnet-001 with 2 seeds" in more.refusal


@pytest.mark.parametrize(
    "tag", ['{"opened": "2026-01-01T00:00:00+00:00", "runs": ["0123', "[]", '{"opened": 1}', "null"]
)
def test_an_opening_that_can_not_be_read_is_an_error_with_a_way_out(desk: Desk, tag: str) -> None:
    desk.search()
    desk.tracker.set_tags(desk.own.run_id, {Tag.TEST_SPLIT: tag})
    with pytest.raises(TrackingError, match=r"cnnstudy\.test_split of study 'fake'.*can't be read.*--open-test-again"):
        desk.confirm(accuracy=TURNED)
    assert desk.opened == 0
    confirmed = done(desk.confirm(again=True, accuracy=TURNED))
    assert confirmed.test is not None
    assert confirmed.test.openings == 2


def test_more_seeds_where_it_is_close(desk: Desk) -> None:
    desk.search()
    close = {key: 0.7 + 0.001 * (n % 3) for n, key in enumerate(keys([0, 1], range(6)))}
    clear = {key: 0.02 + 0.001 * n for n, key in enumerate(keys([2], range(6)))}
    confirmed = done(desk.confirm({"top": 3, "seeds": 5, "most_seeds": 6}, accuracy=close | clear))
    assert desk.trained == [*keys([0, 1, 2], range(5)), *keys([0, 1], [5])]
    assert [len(one.seeds) for one in confirmed.standings] == [6, 6, 5]
    assert [one.standing for one in confirmed.standings] == ["champion", "tied", "behind"]
    assert any("Statistically tied with it" in line for line in confirmation_sentences(confirmed))


def test_it_says_why_more_seeds_follow(desk: Desk) -> None:
    desk.search()
    close = {key: 0.7 + 0.001 * (n % 3) for n, key in enumerate(keys([0, 1], range(4)))}
    done(desk.confirm({"top": 2, "seeds": 3, "most_seeds": 4}, accuracy=close))
    assert [line for line in desk.said if "alexnet-000, alexnet-001" in line] == [
        "confirming alexnet-000, alexnet-001 with 3 fresh seeds each",
        "the result is close after 3 seeds: alexnet-000, alexnet-001 run with 1 further seed each",
    ]


@pytest.mark.parametrize("stop", range(1, 14, 2))
def test_stopped_anywhere_it_goes_on_to_the_same(desk: Desk, stop: int) -> None:
    desk.search()
    options = {"top": 2, "seeds": 2, "most_seeds": 3}
    first = desk.confirm(options, accuracy=TURNED, interrupt_at=stop)
    assert desk.is_at_rest()
    if first.interrupted:
        assert first.confirmed is None
        assert desk.own.reason == "interrupted"
    confirmed = done(desk.confirm(options, accuracy=TURNED))
    assert confirmed.champion is not None
    assert confirmed.champion.candidate.trial == "alexnet-001"
    assert confirmed.test is not None
    assert confirmed.test.openings == 1
    finished = [run.tags["cnnstudy.trial"] for run in desk.runs() if run.state == "finished"]
    assert sorted(finished) == sorted(set(finished)), "nothing is trained twice"


def test_a_store_of_models_that_is_down_is_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.search()
    at, downloads = registry.Registry.at, []

    def elsewhere(self: registry.Registry, address: str) -> registry.StoredModel:
        stored = at(self, address)
        return replace(stored, location=f"s3://bucket{stored.location}")

    def download(artifact_uri: str, **where: Any) -> str:
        downloads.append(artifact_uri)
        if len(downloads) == 1:
            raise ConnectionError("no connection to the store")
        return artifact_uri.removeprefix("s3://bucket")

    class Listed:
        def list_artifacts(self) -> list[str]:
            return []

    monkeypatch.setattr(registry, "get_artifact_repository", lambda *_: Listed())
    monkeypatch.setattr(registry.Registry, "at", elsewhere)
    monkeypatch.setattr(registry, "download_artifacts", download)
    assert done(desk.confirm(accuracy=TURNED)).test is not None
    assert downloads[0] == downloads[1]


def test_where_no_candidate_keeps_the_limits_nobody_is_champion(desk: Desk) -> None:
    desk.search("objective.maximum_gap=0.01")
    confirmed = done(desk.confirm(accuracy=TURNED))
    assert confirmed.champion is None
    assert desk.opened == 0
    assert Tag.TEST_SPLIT not in desk.own.tags
    assert desk.tracker._client.search_registered_models() == []
    assert "2 are outside the limits (gap at most 1 points)" in confirmation_sentences(confirmed)[0]
    assert desk.record()["champion"] is None


def test_where_all_fail_that_is_the_recorded_reason(desk: Desk) -> None:
    desk.search()
    failures = {key: Failed(key, "diverged", "the loss is not finite", "Traceback") for key in keys([0, 1], range(2))}
    confirmed = done(desk.confirm(failures=failures))
    assert confirmed.champion is None
    assert desk.record()["reason"] == "of 2 candidates, 2 failed with at least one seed"
    assert confirmation_sentences(confirmed) == ["No champion: of 2 candidates, 2 failed with at least one seed."]


def test_a_candidate_that_learns_nothing_with_fresh_seeds_is_no_champion(desk: Desk) -> None:
    desk.search("objective.maximum_gap=0.2")
    by_numbers = done(desk.confirm(accuracy=TURNED))
    assert [one.candidate.number for one in by_numbers.standings if one.standing == "champion"] == [1]
    for run in desk.runs():
        if "alexnet-001" in run.tags["cnnstudy.trial"]:
            desk.tracker._client.set_tag(run.run_id, "cnnstudy.verdict", "not-learning")
    confirmed = done(desk.confirm(accuracy=TURNED))
    assert [(one.candidate.number, one.standing) for one in confirmed.standings] == [
        (0, "champion"),
        (1, "learnt nothing"),
    ]
    assert desk.champion().run_id in {run.run_id for run in desk.runs() if "alexnet-000" in run.tags["cnnstudy.trial"]}


def test_mlflow_is_asked_once_for_the_runs_where_nothing_is_missing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.search()
    done(desk.confirm(accuracy=TURNED))
    asked: list[str] = []
    runs = Recorder.runs

    def count(self: Recorder) -> list[RecordedRun]:
        asked.append("runs")
        return runs(self)

    monkeypatch.setattr(Recorder, "runs", count)

    def confirm(*arguments: Any) -> Confirmation:
        asked.clear()
        found = confirmation.confirm(*arguments)
        asked.append("end")
        return found

    monkeypatch.setattr("cnnstudy.study.run.confirm", confirm)
    done(desk.confirm(accuracy=TURNED))
    assert asked == ["end"], "it was asked when the call began"


def test_a_candidate_that_fails_with_a_seed_is_no_champion(desk: Desk) -> None:
    desk.search()
    key = keys([1], [1])[0]
    broken = Failed(key, "diverged", "the loss is not finite", "Traceback")
    confirmed = done(desk.confirm(accuracy=TURNED, failures={key: broken}))
    assert [(one.candidate.number, one.standing) for one in confirmed.standings] == [(0, "champion"), (1, "failed")]
    assert any(
        "Failed with at least one seed" in line and "alexnet-001" in line for line in confirmation_sentences(confirmed)
    )


def test_run_study_confirms_where_the_file_asks_for_it(desk: Desk) -> None:
    ask = "confirm={top: 2, seeds: 2, most_seeds: 2}"
    assert desk.search(accuracy=TURNED).confirmed is None
    outcome = desk.search(ask, accuracy=TURNED)  # asking to confirm does not change the study
    assert desk.trained == keys([0, 1], range(2))
    assert done(outcome).champion is not None
    assert desk.search(ask).confirmed is not None
    assert desk.executor is None
    assert (outcome.finished, outcome.missing) == (4, 0)


def test_an_interrupted_search_is_not_confirmed(desk: Desk) -> None:
    outcome = desk.search("confirm={}", interrupt_at=4)
    assert (outcome.interrupted, outcome.confirmed) == (True, None)
    assert desk.runs() == []


def test_a_search_of_failures_is_not_confirmed(desk: Desk) -> None:
    def fail(key: str) -> Failed:
        return Failed(key, "oom", "no memory", "Traceback")

    failures = {f"alexnet-{n:03d}": fail(f"alexnet-{n:03d}") for n in range(4)}
    assert desk.search("confirm={}", "training.equal_failures=9", failures=failures).confirmed is None
    with pytest.raises(NothingToConfirmError, match=r"'fake' has no candidate to confirm.*leaderboard fake"):
        desk.confirm()
    assert desk.is_at_rest()
    assert (desk.own.state, desk.own.status) == ("finished", "FINISHED"), "as the search left it"
    assert desk.own.tags[Tag.DRIVER] == NOBODY


def test_what_can_not_be_confirmed(desk: Desk) -> None:
    with pytest.raises(UnknownNameError, match="no study"):
        desk.confirm()
    desk.search()
    with pytest.raises(ConfigError, match="--most-seeds is 2, fewer than the 5 seeds"):
        desk.confirm({"seeds": 5, "most_seeds": 2})


def test_ctrl_c_in_an_epoch_leaves_nothing_running(desk: Desk) -> None:
    desk.search()

    def interrupt(event: Event) -> None:
        if isinstance(event, Epoch):
            raise KeyboardInterrupt

    assert desk.confirm(on_event=interrupt).interrupted
    assert desk.is_at_rest()
    assert all(run.reason == "interrupted" for run in desk.runs())


def test_really(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trained study whose test split is opened by a real worker: the result agrees with the model's predictions."""
    shutil.copytree(trained.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("mlruns"))
    monkeypatch.chdir(tmp_path / "copy")
    tracker = Tracker(f"sqlite:///{tmp_path / 'copy' / 'mlflow.db'}")
    options = {"top": 1, "seeds": 2}
    outcome = confirm_study(NAME, options, tracker, Workers(lambda _: trained.executor), SilentDisplay(), False)
    confirmed = done(outcome)
    assert confirmed.test is not None
    assert confirmed.champion is not None
    assert (len(confirmed.champion.seeds), confirmed.test.images, len(confirmed.test.values)) == (2, 9, 2)
    assert sum(map(sum, confirmed.test.confusion)) == 18
    correct = sum(confirmed.test.confusion[label][label] for label in range(3))
    assert correct / 18 == pytest.approx(confirmed.test.mean)
    experiment = tracker.study(NAME).experiment_id
    runs = [run for run in tracker.runs(experiment) if run.kind == "confirm" and run.seed in confirmed.champion.seeds]
    assert (confirmed.champion.low, confirmed.champion.high) == pytest.approx(interval_of_record(tracker, runs))


def interval_of_record(tracker: Tracker, runs: list[RecordedRun]) -> tuple[float, float]:
    """The interval of a mean accuracy, from the runs' artifacts alone, as docs/statistics.md says."""
    means, deviations = [], {}
    for run in runs:
        with np.load(tracker._client.download_artifacts(run.run_id, "correctness.npz")) as kept:
            labels, places = kept["validation_labels"], kept["validation_places"].tolist()
            probe, right = (
                np.unpackbits(kept[f"{part}_by_epoch"], axis=1)[:, : len(kept[f"{part}_places"])].astype(bool)
                for part in ("probe", "validation")
            )
            crossed = cross_fit(probe, kept["probe_labels"], right, labels, Rule())
        assert crossed is not None
        means.append(crossed.right.mean())
        deviations[run.seed] = dict(zip(places, crossed.right.tolist(), strict=True))
    mean, validation, pool, seeds = np.mean(means), len(places), len(places) + runs[0].train_images, len(runs)
    distinct = pool * (1 - (1 - validation / pool) ** seeds)
    spread = np.var(means, ddof=1) * (1 / seeds + validation / (pool - validation))
    variance = max(spread, mean * (1 - mean) / distinct)
    every = {place for of_seed in deviations.values() for place in of_seed}
    totals = [sum(one[place] - mean for one in deviations.values() if place in one) for place in every]
    by_images = min(variance, sum(total**2 for total in totals) / (seeds * validation) ** 2)
    images, freedom = distinct, seeds - 1  # where another machine's networks get all right
    if mean < 1:
        assert by_images > 0
        images = mean * (1 - mean) / variance
        freedom = variance**2 / (by_images**2 / (len(every) - 1) + (variance - by_images) ** 2 / (seeds - 1))
    z = stats.t.ppf(0.975, freedom) ** 2 / images
    low, high = np.sort(np.roots([1 + z, -2 * mean - z, mean**2]))
    return float(low), float(high)
