"""Studies as MLflow would have recorded them, with effects that are known."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy

FACTORS: dict[str, list[Any]] = {
    "batch_size": [8, 64],
    "data_fraction": [0.25, 0.5, 1.0],
    "dropout": [0.0, 0.5],
    "transfer": ["scratch", "frozen"],
}
#: By how much a level changes the gap (shares of 0..1) after the same epochs.
EFFECTS = {"data_fraction": {0.25: 0.2, 0.5: 0.1, 1.0: 0.05}, "transfer": {"scratch": 0.04, "frozen": 0.0}}


class Simulated:
    """A factorial study of one network or more; `history` answers for its curves.

    Args:
        random: what the noise comes from.
        by_seed: standard deviation of what all trials of a seed share; None: 0.02 more gap with each seed.
        effects: instead of EFFECTS.
        digest: of the images.
    """

    def __init__(
        self,
        seeds: int = 4,
        architectures: tuple[str, ...] = ("alexnet",),
        noise: float = 0.004,
        random: int = 0,
        by_seed: float | None = None,
        effects: Mapping[str, Mapping[Any, float]] | None = None,
        digest: str = "d" * 24,
        **changes: Any,
    ):
        strategy = {"kind": "factorial", "design": "full", "seeds": seeds, "tune": []} | changes.pop("strategy", {})
        self.factors = {**FACTORS, **changes.pop("factors", {})}
        self.study = RecordedStudy(
            "simulated",
            "1",
            "run",
            {"factors": self.factors, "strategy": strategy, "training": {}, "architectures": architectures, **changes},
        )
        self.dice = np.random.default_rng(random)
        self.noise = noise
        self.effects = EFFECTS if effects is None else effects
        self.digest = digest
        self.of_seeds = [0.02 * seed if by_seed is None else self.dice.normal(0, by_seed) for seed in range(seeds)]
        self.curves: dict[str, dict[str, dict[int, float]]] = {}
        self.trials = [
            self._trial(architecture, seed, dict(zip(self.factors, levels, strict=True)), number)
            for architecture in architectures
            for seed in range(seeds)
            for number, levels in enumerate(itertools.product(*self.factors.values()))
        ]

    def history(self, run_id: str, name: str) -> Mapping[int, float]:
        return self.curves[run_id][name]

    def _trial(self, architecture: str, seed: int, levels: dict[str, Any], number: int) -> RecordedRun:
        gap = sum(by_level[levels[factor]] for factor, by_level in self.effects.items() if factor in levels)
        gap += self.of_seeds[seed] + self.dice.normal(0, self.noise) + (0.03 if architecture == "vgg16" else 0.0)
        if levels.get("learning_rate") == 0.01:
            gap += 0.3
        # what the usual protocol adds, and what goes with the number of updates
        legacy = gap + (0.06 if levels["batch_size"] == 64 else 0.0)
        updates = gap - (0.02 if levels["batch_size"] == 8 else 0.0)
        validation = 0.7 - gap / 2
        metrics = {
            "last/gap_accuracy": gap,
            "last/val_accuracy": validation,
            "last/train_accuracy": validation + gap,
            "last/val_loss": 1 + gap,
            "last/gap_loss": gap,
            "equal_updates/gap_accuracy": updates,
            "equal_updates/val_accuracy": validation,
            "legacy/gap_accuracy": legacy,
            "legacy/validation_images": 240.0 if levels["batch_size"] == 8 else 192.0,
        }
        run_id = f"{architecture}-{seed}-{number}"
        self.curves[run_id] = {
            "train/loss": {1: 1.0, 2: 0.5},
            "gap/accuracy": {1: gap / 2, 2: gap},
            "val/accuracy": {1: validation, 2: validation},
            "val/loss": {1: 1.0, 2: 1 + gap},
            "gap/loss": {1: 0.0, 2: gap},
        }
        tags = {
            "cnnstudy.trial": run_id,
            "cnnstudy.architecture": architecture,
            "cnnstudy.levels": json.dumps(levels),
            "cnnstudy.seed": str(seed),
            "cnnstudy.number": str(number),
            "cnnstudy.verdict": "overfit",
            "cnnstudy.data_digest": self.digest,
        }
        parameters = {"train_images": "200", "classes": "5"}
        return RecordedRun(run_id, run_id, "trial", "finished", "", number, parameters, metrics, tags)
