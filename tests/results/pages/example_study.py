"""Example studies as MLflow would have recorded them, without MLflow."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from matplotlib.figure import Figure
from PIL import Image

from cnnstudy.results.pages.report_data import ReportData, build_report_data
from cnnstudy.results.pages.svg import inline_svg, svg_text
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy

FACTORS: dict[str, list[Any]] = {
    "transfer": ["scratch", "frozen"],
    "batch_size": [8, 64],
    "dropout": [0.0, 0.5],
    "data_fraction": [0.25, 0.5, 1.0],
}
CLASSES = ("cat", "dog", "eel")
#: Points of gap that a level adds, as shares of 0..1.
ADDS = {"data_fraction": {0.25: 0.2, 0.5: 0.1, 1.0: 0.05}, "transfer": {"scratch": 0.04, "frozen": 0.0}}


class Example:
    """A factorial study (with `search`: a search, which never repeats a seed), with its histories and texts.

    Args:
        unfinished: trials at the end of the list that failed or were pruned, by turns.
        silent: trials at the start of the list that learnt nothing.
    """

    def __init__(
        self,
        seeds: int = 3,
        networks: Sequence[str] = ("alexnet",),
        factors: Mapping[str, list[Any]] | None = None,
        name: str = "example",
        classes: Sequence[str] = CLASSES,
        search: bool = False,
        unfinished: int = 0,
        silent: int = 0,
        metric: str = "val/accuracy",
    ) -> None:
        self.factors = FACTORS if factors is None else dict(factors)
        self.classes = list(classes)
        strategy: dict[str, Any] = {"kind": "factorial", "design": "full", "seeds": seeds, "tune": []}
        if search:
            strategy = {"kind": "search", "sampler": "random", "pruner": "none", "startup_trials": None}
        config = {
            "name": name,
            "factors": self.factors,
            "strategy": strategy,
            "training": {},
            "architectures": list(networks),
            "objective": {"metric": metric},
            "data": {"name": "digits", "validation": 0.2, "test": 0.1},
            "budget": {"trials": 9},
        }
        self.study = RecordedStudy(name, "1", "study-run", config)
        self.texts: dict[tuple[str, str], str] = {}
        self.histories: dict[tuple[str, str], dict[int, float]] = {}
        self.read_trial_json: list[tuple[str, str]] = []
        self.dice = random.Random(0)
        combinations = list(itertools.product(*self.factors.values()))
        self.runs: list[RecordedRun] = []
        for network in networks:
            numbers = itertools.count()
            for seed in range(1 if search else seeds):
                for levels in combinations:
                    chosen = dict(zip(self.factors, levels, strict=True))
                    self.runs.append(self._run(network, next(numbers), seed, chosen, len(self.runs) < silent))
        for place, run in enumerate(self.runs[len(self.runs) - unfinished :]):
            state = ("failed", "pruned")[place % 2]
            self.change(run, state=state, reason="oom" if state == "failed" else "", tags={"cnnstudy.verdict": ""})

    def report(self, **changes: Any) -> ReportData:
        return build_report_data(self.study, self.runs, self.history, self.read_text, **changes)

    def history(self, run_id: str, name: str) -> Mapping[int, float]:
        self.read_trial_json.append((run_id, name))
        return self.histories.get((run_id, name), {})

    def read_text(self, run_id: str, path: str) -> str | None:
        return self.texts.get((run_id, path))

    def change(self, run: RecordedRun, tags: Mapping[str, str] | None = None, **changes: Any) -> None:
        """Replace a run by a changed copy."""
        place = self.runs.index(run)
        self.runs[place] = replace(run, **changes, tags={**run.tags, **(tags or {})})

    def _run(self, network: str, number: int, seed: int, levels: dict[str, Any], silent: bool) -> RecordedRun:
        gap = sum(by_level.get(levels[factor], 0.0) for factor, by_level in ADDS.items() if factor in levels)
        gap += 0.02 * seed + self.dice.gauss(0, 0.01)
        validation = 0.75 - gap / 2
        if silent:
            gap, validation = 0.0, 1 / len(self.classes)
        trial = f"{network}-{number:03d}"
        run_id = f"run-{trial}"
        ends = {"train_accuracy": validation + gap, "val_accuracy": validation, "gap_accuracy": gap}
        ends |= {"val_loss": 1 + gap, "gap_loss": gap, "train_loss": 1.0}
        metrics = {
            f"{moment}/{name}": value for moment in ("best", "last", "equal_updates") for name, value in ends.items()
        }
        metrics |= {"best/epoch": 3.0, "time/total_seconds": 5.0 + number % 7, "optimizer/updates": 30.0}
        metrics |= {"parameters/trainable": 1e6, "parameters/frozen": 1e5 * (levels.get("transfer") == "frozen")}
        for place, name in enumerate(self.classes):
            metrics |= {f"recall/{name}": validation, f"train_recall/{name}": min(1.0, validation + gap + 0.01 * place)}
            metrics |= {f"precision/{name}": validation}
        for epoch in (1, 2, 3):
            grown = epoch / 3
            values = {"gap/accuracy": gap * grown, "val/accuracy": validation * grown, "train/loss": 2.0 - grown}
            values |= {"val/loss": 2.0 - grown + gap, "gap/loss": gap}
            for name, value in values.items():
                self.histories.setdefault((run_id, name), {})[epoch] = value
        count = len(self.classes)
        rows = [[7 if i == j else 1 for j in range(count)] for i in range(count)]
        lines = [",".join(["true class", *self.classes])]
        lines += [",".join(map(str, [name, *row])) for name, row in zip(self.classes, rows, strict=True)]
        self.texts[run_id, "confusion_matrix.csv"] = "\n".join(lines)
        tags = {
            "cnnstudy.trial": trial,
            "cnnstudy.architecture": network,
            "cnnstudy.levels": json.dumps(levels),
            "cnnstudy.seed": str(seed),
            "cnnstudy.number": str(number),
            "cnnstudy.weights": "none",
            "cnnstudy.verdict": "not-learning" if silent else "overfit",
            "cnnstudy.code_version": "0.1.0+gabc",
            "cnnstudy.packages": json.dumps({"python": "3.11.7", "keras": "3.15.1"}),
            "cnnstudy.data_digest": "d" * 24,
        }
        parameters = {"train_images": "200", "validation_images": "40", "classes": str(count), "data": "digits"}
        parameters |= {"image_size": "64", "epochs": "3", "optimizer": "adam"}
        return RecordedRun(
            run_id, trial, "trial", "finished", "", 1_760_000_000_000 + number, parameters, metrics, tags
        )


def confirmation(champion: str | None = "alexnet-000", **changes: Any) -> str:
    """Return the text of a confirm/confirm.json."""
    candidates = [
        {
            "trial": trial,
            "title": f"alexnet, {transfer}, batch size 8",
            "architecture": "alexnet",
            "levels": {"transfer": transfer, "batch_size": 8},
            "searched": searched,
            "searched_gap": 0.08,
            "seeds": [10000, 10001],
            "values": [mean - 0.01, mean + 0.01],
            "gaps": [0.05, 0.07],
            "mean": mean,
            "low": mean - 0.03,
            "high": mean + 0.03,
            "gap": 0.06,
            "keeps": True,
            "failed": 0,
            "standing": standing,
        }
        for trial, transfer, searched, mean, standing in (
            ("alexnet-000", "scratch", 0.85, 0.86, "champion"),
            ("alexnet-001", "frozen", 0.91, 0.84, "tied"),
            ("alexnet-002", "frozen", 0.8, 0.7, "behind"),
        )
    ]
    test = {"opened": "2026-11-24T13:00:00+00:00", "digest": "ab", "images": 50, "values": [0.84], "losses": [0.4]}
    test |= {"mean": 0.84, "low": 0.8, "high": 0.88, "openings": 1, "champion": "alexnet-000", "runs": ["r1", "r2"]}
    data = {
        "rule": {"metric": "val/accuracy", "maximum_gap": 0.1, "minimum_accuracy": None},
        "best_validation": {"trial": "alexnet-001", "value": 0.91},
        "candidates": candidates,
        "champion": champion,
        "model": "models:/m-1",
        "version": "1",
        "reason": "the best of 3",
        "test": test,
        "refusal": "",
        "optimism": 0.07,
    }
    return json.dumps({**data, **changes})


def png(folder: Path, size: int = 16) -> str:
    """Write a picture and return its path."""
    path = folder / f"{size}.png"
    Image.new("RGB", (size, size), "red").save(path)
    return str(path)


def entry(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return a gallery entry, with its pictures in the folder."""
    image = png(folder)
    near = {"image": image, "class": "tulip", "similarity": 0.97, "key": "tulip/3.jpg"}
    whole = {
        "image": image,
        "cam_predicted": image,
        "cam_true": image,
        "true": "rose",
        "predicted": "tulip",
        "probability": 0.93,
        "key": "rose/12.jpg",
    }
    return {**whole, "neighbours": [near], **changes}


def mistakes(*entries: dict[str, Any]) -> dict[str, Any]:
    """Return a gallery of all mistakes of a model on 200 images."""
    found = {"entries": list(entries), "wrong": len(entries), "validation": 200, "map": [13, 13]}
    return {**found, "trial": "alexnet-000"}


def close(one: float | None, other: float) -> bool:
    return one is not None and math.isclose(one, other, abs_tol=1e-9)


def texts(figure: Figure) -> list[str]:
    """Return the texts of a drawn figure."""
    root = ElementTree.fromstring(inline_svg(svg_text(figure), "a", ""))
    return ["".join(one.itertext()) for one in root.iter("text")]


def trials(figure: Figure) -> list[str]:
    root = ElementTree.fromstring(inline_svg(svg_text(figure), "a", ""))
    return [trial for one in root.iter() if (trial := one.get("data-trial")) is not None]
