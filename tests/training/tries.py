"""Run trials, some of them killed, and collect what they report."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cnnstudy.records import EpochRecord, TrialResult, TrialSpec
from cnnstudy.training import trial
from cnnstudy.training.compiled import CompiledNetworks


class KilledError(Exception):
    """Stands in for a kill in the middle of an epoch."""


@dataclasses.dataclass
class Tried:
    """The outcome of one attempt."""

    result: TrialResult | None
    told: list[EpochRecord]
    said: list[str]
    start: list[EpochRecord] = dataclasses.field(default_factory=list)  # epoch 0
    weights: dict[str, bytes] = dataclasses.field(default_factory=dict)
    correct: dict[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def trained(self) -> list[int]:
        return [record.epoch for record in self.told if not record.replayed]

    @property
    def numbers(self) -> Any:
        """Everything that does not depend on the machine."""
        assert self.result is not None
        result = dataclasses.replace(self.result, seconds=0.0, files={}, checkpoint_note="", shared_epochs=0)
        epochs = [
            {name: of for name, of in one.metrics.items() if "time/" not in name} for one in self.start + self.told
        ]
        return result, epochs, [one.epoch for one in self.told], self.weights, self.correct


#: What `shared_networks` returns; others where networks are narrow.
networks_of_tests = CompiledNetworks()


def shared_networks() -> CompiledNetworks:
    """Return the networks that tests share as a worker's trials do: to build and trace one takes most of a trial."""
    return networks_of_tests


def tried(spec: TrialSpec, folder: Path, killed_in: int = 0, networks: CompiledNetworks | None = None) -> Tried:
    """Run an attempt, killed in that epoch: after its last update and before it is reported.

    Args:
        networks: None: those that tests share.
    """
    found = Tried(None, [], [])

    def report(record: EpochRecord) -> bool:
        if record.epoch == killed_in > 0 and not record.replayed:
            raise KilledError
        (found.told if record.epoch else found.start).append(record)
        return True

    def progress(what: str, done: int, total: int) -> None:
        found.said.append(what)

    try:
        found.result = trial.run_trial(spec, folder, report, networks or shared_networks(), progress)
    except KilledError:
        return found
    with np.load(found.result.files["correctness"], allow_pickle=False) as kept:
        found.correct.update({name: kept[name].tobytes() for name in kept.files})
    with zipfile.ZipFile(Path(found.result.files["model"]) / "data" / "model.keras") as archive:
        file = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    file.visititems(lambda name, one: found.weights.update({name: one[()].tobytes()} if hasattr(one, "shape") else {}))
    return found


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
