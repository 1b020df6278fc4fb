"""Simulated studies, as MLflow would have recorded them, with known effects."""

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
#: What each level adds to the gap (share of 0..1) after the same number of epochs.
EFFECTS = {"data_fraction": {0.25: 0.2, 0.5: 0.1, 1.0: 0.05}, "transfer": {"scratch": 0.04, "frozen": 0.0}}


class Simulated:
    """A factorial study of one or more networks, with its trials and, through `history`, their curves.

    Args:
        seeds: number of seeds.
        architectures: the networks; vgg16 has 3 points more gap than the others.
        noise: standard deviation of a trial's gap.
        random: seed of the noise.
        by_seed: standard deviation of what all trials of a seed share; None: each seed adds 0.02 to the gap.
        effects: used instead of EFFECTS.
        digest: data digest of the images.
        changes: keys of the study file to replace; `strategy` and `factors` are merged with the defaults.
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
        self.generator = np.random.default_rng(random)
        self.noise = noise
        self.effects = EFFECTS if effects is None else effects
        self.digest = digest
        self.seed_effects = [
            0.02 * seed if by_seed is None else self.generator.normal(0, by_seed) for seed in range(seeds)
        ]
        self.curves: dict[str, dict[str, dict[int, float]]] = {}
        self.trials = [
            self._trial(architecture, seed, dict(zip(self.factors, levels, strict=True)), number)
            for architecture in architectures
            for seed in range(seeds)
            for number, levels in enumerate(itertools.product(*self.factors.values()))
        ]

    def history(self, run_id: str, name: str) -> Mapping[int, float]:
        """Return a metric of a run by epoch."""
        return self.curves[run_id].get(name, {})

    def _trial(self, architecture: str, seed: int, levels: dict[str, Any], number: int) -> RecordedRun:
        gap = sum(by_level[levels[factor]] for factor, by_level in self.effects.items() if factor in levels)
        gap += (
            self.seed_effects[seed] + self.generator.normal(0, self.noise) + (0.03 if architecture == "vgg16" else 0.0)
        )
        if levels.get("learning_rate") == 0.01:
            gap += 0.3
        # the usual protocol adds 6 points to the large batch, and the number of updates 2 points to the small one
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
            "equal_updates/val_loss": 1 + gap,
            "equal_updates/gap_loss": gap,
            "equal_updates/train_loss": 0.5,
            "optimizer/updates": 240.0 if levels["batch_size"] == 8 else 30.0,
            "images/validation": 240.0,
            "images/train": 200.0,
            "legacy/gap_accuracy": legacy,
            "legacy/validation_images": 240.0 if levels["batch_size"] == 8 else 192.0,
        }
        run_id = f"{architecture}-{seed}-{number}"
        self.curves[run_id] = {
            "train/loss": {0: 1.6, 1: 1.0, 2: 0.5},
            "gap/accuracy": {0: 0.0, 1: gap / 2, 2: gap},
            "val/accuracy": {0: 0.2, 1: validation, 2: validation},
            "val/loss": {0: 1.6, 1: 1.0, 2: 1 + gap},
            "gap/loss": {0: 0.0, 1: 0.0, 2: gap},
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
