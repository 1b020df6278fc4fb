"""A study file that is edited between two calls: what matters is refused with what changed and the ways out, and what
does not is taken.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_executor import FakeExecutor, Work
from pictures import leave_out_pictures

from cnnstudy.config.load import load_study
from cnnstudy.errors import StudyChangedError
from cnnstudy.execution import Job, Workers
from cnnstudy.study.run import Outcome, run_study
from cnnstudy.system.display import PlainDisplay
from cnnstudy.tracking.client import Tracker

SEARCH = """\
name: searched
data: {name: folder, path: photos, classes: [cat, dog, owl]}
image_size: 64
architectures: [alexnet]
factors:
  transfer: [scratch, frozen]
  batch_size: [8, 16, 32]
  dropout: {low: 0.1, high: 0.7}
  learning_rate: 0.0001
weights:
  default: {source: file, file: weights.npz}
training: {epochs: 2}
strategy: {sampler: random}
objective: {metric: val/accuracy, maximum_gap: 0.5}
budget: {trials: 2}
seed: 5
"""
FACTORIAL = """\
name: crossed
data: {name: folder, path: photos, classes: [cat, dog, owl]}
image_size: 64
architectures: [alexnet]
factors:
  batch_size: [8, 32]
  learning_rate: [0.0001, 0.001]
training: {epochs: 1}
strategy: {kind: factorial, seeds: 1}
seed: 5
"""
FILES = {"searched": SEARCH, "crossed": FACTORIAL}
#: Study, text in its file, replacement, and the reported difference.
MATTERS = [
    ("searched", "folder, path: photos, classes: [cat, dog, owl]", "digits", 'data.name: "folder" -> "digits"'),
    ("searched", "classes: [cat, dog, owl]", "classes: [cat, dog]", 'data.classes: ["cat", "dog", "owl"] -> ["cat", '),
    ("searched", "classes: [cat, dog, owl]", "classes: [dog, cat, owl]", '["cat", "dog", "owl"] -> ["dog", "cat", '),
    ("searched", "owl]}", "owl], validation: 0.3}", "data.validation: 0.15 -> 0.3"),
    ("searched", "owl]}", "owl], test: 0.25}", "data.test: 0.15 -> 0.25"),
    ("searched", "owl]}", "owl], images_per_class: 9}", "data.images_per_class: null -> 9"),
    ("searched", "owl]}", "owl], bad_images: skip}", 'data.bad_images: "refuse" -> "skip"'),
    ("searched", "owl]}", "owl], copies: ignore}", 'data.copies: "together" -> "ignore"'),
    (
        *("searched", "owl]}", "owl], groups: {folder: 1}}"),
        'data.groups: null -> {"pattern": null, "folder": 1, "seconds": null}',
    ),
    ("searched", "image_size: 64", "image_size: 96", "image_size: 64 -> 96"),
    ("searched", "[alexnet]", "[alexnet, vgg16]", 'architectures: ["alexnet"] -> ["alexnet", "vgg16"]'),
    ("searched", "[scratch, frozen]", "[scratch]", 'factors.transfer: ["scratch", "frozen"] -> ["scratch"]'),
    ("searched", "[8, 16, 32]", "[8, 16, 64]", "factors.batch_size: [8, 16, 32] -> [8, 16, 64]"),
    ("searched", "high: 0.7", "high: 0.6", "factors.dropout.high: 0.7 -> 0.6"),
    ("searched", "low: 0.1, high: 0.7", "low: 0.1, high: 0.7, step: 0.2", "factors.dropout.step: null -> 0.2"),
    ("searched", "0.0001", "{low: 0.0001, high: 0.01, log: true}", 'factors.learning_rate: [0.0001] -> {"low": 0.0001'),
    ("searched", "  learning_rate: 0.0001\n", "", "factors.learning_rate: [0.0001] -> null"),
    ("searched", "factors:\n", "factors:\n  augmentation: flip\n", 'factors.augmentation: null -> ["flip"]'),
    ("searched", "source: file, file: weights.npz", "source: random", 'weights.default.source: "file" -> "random"'),
    ("searched", "{epochs: 2}", "{epochs: 3}", "training.epochs: 2 -> 3"),
    ("searched", "{epochs: 2}", "{epochs: 2, updates: 10}", "training.updates: null -> 10"),
    ("searched", "{epochs: 2}", "{epochs: 2, optimizer: sgd}", 'training.optimizer: "adam" -> "sgd"'),
    ("searched", "{epochs: 2}", "{epochs: 2, weight_decay: 0.01}", "training.weight_decay: 0.0 -> 0.01"),
    ("searched", "{epochs: 2}", "{epochs: 2, early_stopping: 1}", "training.early_stopping: null -> 1"),
    ("searched", "{epochs: 2}", "{epochs: 2, deterministic: true}", "training.deterministic: false -> true"),
    ("searched", "sampler: random", "sampler: tpe", 'strategy.sampler: "random" -> "tpe"'),
    ("searched", "sampler: random", "sampler: random, pruner: median", 'strategy.pruner: "none" -> "median"'),
    ("searched", "val/accuracy", "val/loss", 'objective.metric: "val/accuracy" -> "val/loss"'),
    ("searched", "maximum_gap: 0.5", "maximum_gap: 0.4", "objective.maximum_gap: 0.5 -> 0.4"),
    ("searched", "maximum_gap: 0.5", "minimum_accuracy: 0.4", "objective.minimum_accuracy: null -> 0.4"),
    ("searched", "seed: 5", "seed: 6", "seed: 5 -> 6"),
    ("crossed", "  learning_rate: [0.0001, 0.001]\n", "", "factors.learning_rate: [0.0001, 0.001] -> null"),
    ("crossed", "[8, 32]", "[8, 64]", "factors.batch_size: [8, 32] -> [8, 64]"),
    ("crossed", "[8, 32]", "[8, 16, 32]", "factors.batch_size: [8, 32] -> [8, 16, 32]"),
    ("crossed", "factors:\n", "factors:\n  dropout: [0, 0.5]\n", "factors.dropout: null -> [0.0, 0.5]"),
    ("crossed", "seeds: 1", "seeds: 2, tune: [learning_rate]", 'strategy.tune: [] -> ["learning_rate"]'),
    ("crossed", "seeds: 1", "seeds: 1, design: qmc, cells: 3", 'strategy.design: "full" -> "qmc"'),
    ("crossed", "{kind: factorial, seeds: 1}", "{kind: search}\nbudget: {trials: 4}", 'strategy.kind: "factorial" -> '),
]  # fmt: skip
HARMLESS = [
    ("searched", "name: searched", "# Which one overfits?\nname: searched  # a question"),
    ("searched", "image_size: 64\narchitectures: [alexnet]", "architectures: [alexnet]\nimage_size: 64"),
    ("searched", "{name: folder, path: photos,", "{path: photos, name: folder,"),
    ("searched", "[cat, dog, owl]", "['cat', \"dog\", owl]"),
    ("searched", "[8, 16, 32]", "\n    - 8\n    - 16\n    - 32"),
    ("searched", "learning_rate: 0.0001", "learning_rate: 1e-4"),
    ("searched", "learning_rate: 0.0001", "learning_rate: [1.0E-4]"),
    ("searched", "low: 0.1, high: 0.7", "high: 7e-1, low: 0.10, log: false"),
    ("searched", "[8, 16, 32]", "[8.0, 16, 0x20]"),
    ("searched", "\n", "\r\n"),
    ("searched", "{epochs: 2}", "{epochs: 2, optimizer: adam, weight_decay: 0, deterministic: false}"),
    ("searched", "{epochs: 2}", "{epochs: 2, timeout: 900}"),
    ("searched", "{epochs: 2}", "{epochs: 2, equal_failures: 7}"),
    ("searched", "{epochs: 2}", "{epochs: 2, keep_models: false}"),
    ("searched", "{epochs: 2}", "{epochs: 2, share_epochs: false}"),
    ("searched", "maximum_gap: 0.5", "maximum_gap: 0.50, goals: [accuracy, gap]"),
    ("searched", "sampler: random", "kind: search, sampler: random, start_with: []"),
    ("searched", "path: photos", "path: ./photos/"),
    ("searched", "path: photos", "path: elsewhere"),
    ("searched", "path: photos", "path: photos, layout: classes"),
    ("searched", "file: weights.npz", "file: elsewhere/weights.npz"),
    ("searched", "trials: 2", "trials: 3"),
    ("searched", "trials: 2", "trials: 1"),
    ("crossed", "seeds: 1", "seeds: 1, design: full, tune: []"),
    ("crossed", "[0.0001, 0.001]", "[1e-4, 1e-3]"),
    ("crossed", "seed: 5", "seed: 5\nconfirm: {top: 1, seeds: 2}"),
]


class Engine(FakeExecutor):
    """The digest of source weights is the text of their file."""

    def _check(self, job: Job) -> Work:
        file = job.payload["file"]
        yield self._end(job, {"file": file, "digest": Path(file).read_text(encoding="utf-8")})


class Recorded:
    """Both study files in a folder, and the records of both studies."""

    def __init__(self, folder: Path, tracker: Tracker) -> None:
        self.folder, self.tracker = folder, tracker
        self.executor: Engine | None = None

    def run(self, name: str, text: str, slots: int = 1, **script: Any) -> Outcome:
        (self.folder / f"{name}.yaml").write_bytes(text.encode())
        self.executor = None

        def make(folder: Path) -> Engine:
            self.executor = Engine(folder, slots, **script)
            return self.executor

        study = load_study(str(self.folder / f"{name}.yaml"))
        return run_study(study, self.tracker, Workers(make), PlainDisplay(lambda text: None))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Recorded]:
    folder = tmp_path_factory.mktemp("recorded")
    for place in ("photos", "elsewhere"):
        for name in ("cat", "dog", "owl"):
            (folder / place / name).mkdir(parents=True)
        (folder / place / "weights.npz").write_text("PK" + "f" * 22, encoding="utf-8")
    shutil.copy(folder / "photos" / "weights.npz", folder / "weights.npz")
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CNNSTUDY_CACHE", str(folder / "cache"))
        leave_out_pictures(patch)
        made = Recorded(folder, Tracker(f"sqlite:///{folder / 'mlflow.db'}"))
        assert made.run("searched", SEARCH).finished == 2
        assert made.run("crossed", FACTORIAL).finished == 4
        yield made


def edited(name: str, before: str, after: str) -> str:
    assert before in FILES[name], f"{before!r} is not in the file of {name}"
    return FILES[name].replace(before, after)


def test_there_are_enough_of_them() -> None:
    assert len({(name, before, after) for name, before, after, _ in MATTERS}) == len(MATTERS) >= 20
    assert len(set(HARMLESS)) == len(HARMLESS) >= 12


@pytest.mark.parametrize(("name", "before", "after", "told"), MATTERS, ids=[told for *_, told in MATTERS])
def test_an_edit_that_matters_is_refused(recorded: Recorded, name: str, before: str, after: str, told: str) -> None:
    held = recorded.tracker.study(name).config
    with pytest.raises(StudyChangedError) as caught:
        recorded.run(name, edited(name, before, after))
    message = str(caught.value)
    assert re.search(rf"^  (data\.classes: )?{re.escape(told)}", message, flags=re.MULTILINE), message
    assert f"{name}.yaml: study '{name}' has trials recorded with other settings" in message
    assert "Undo the change" in message
    assert f"--set name={name}-2" in message
    assert recorded.executor is None
    assert recorded.tracker.study(name).config == held


@pytest.mark.parametrize(("name", "before", "after"), HARMLESS, ids=[json.dumps(after) for *_, after in HARMLESS])
def test_a_harmless_edit_is_not_refused(recorded: Recorded, name: str, before: str, after: str) -> None:
    text = edited(name, before, after)
    assert recorded.run(name, text).missing == 0
    # and nothing of it is held against the file as it was
    assert recorded.run(name, FILES[name]).missing == 0


def test_more_workers_are_no_change(recorded: Recorded) -> None:
    assert recorded.run("crossed", FACTORIAL.replace("seeds: 1", "seeds: 2"), slots=2).finished == 8


# ---- the same file, and other content


def test_weights_that_were_replaced_are_refused(recorded: Recorded) -> None:
    file = recorded.folder / "weights.npz"
    whole = file.read_text(encoding="utf-8")
    more = SEARCH.replace("trials: 2", "trials: 5")
    recorded.run("searched", SEARCH.replace("trials: 2", "trials: 4"))  # the third is the first with source weights
    try:
        file.write_text("PK" + "0" * 22, encoding="utf-8")
        with pytest.raises(StudyChangedError) as caught:
            recorded.run("searched", more)
    finally:
        file.write_text(whole, encoding="utf-8")
    message = str(caught.value)
    assert (
        f"source weights of alexnet in {file} differ from those of the recorded trials of study 'searched'" in message
    )
    assert f"(digest PK{'0' * 22} instead of" in message
    assert "--set name=searched-2" in message
    assert recorded.executor is not None
    assert recorded.executor.trials == []
    assert recorded.run("searched", more).missing == 0


def test_other_images_at_another_place_are_refused(recorded: Recorded) -> None:
    moved = SEARCH.replace("path: photos", "path: elsewhere").replace("trials: 2", "trials: 6")
    with pytest.raises(StudyChangedError, match="files were added, removed or changed"):
        recorded.run("searched", moved, digest="e" * 24)
    assert recorded.executor is not None
    assert recorded.executor.trials == []
    assert recorded.run("searched", moved).missing == 0
