"""Trials that share compiled networks give the same numbers as alone, in whatever order they run."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cnnstudy.architectures import build_network, find, names
from cnnstudy.records import Optimizer, TrialSpec
from cnnstudy.training import compiled, trial, weights
from cnnstudy.training.compiled import CompiledNetworks
from cnnstudy.training.graph import Graph
from cnnstudy.training.trainer import DivergedError

MakeSpec = Callable[..., TrialSpec]
MODES = ("scratch", "frozen", "fine-tune", "last-block", "two-phase")
#: Those of networks other than AlexNet: the modes take the same way through each.
FEW_MODES = ("scratch", "last-block")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that writes source weights by architecture, initialised from another seed."""
    folder = tmp_path_factory.mktemp("sources")

    def source(name: str) -> Path:
        path = folder / f"{name}.npz"
        if not path.exists():
            network = build_network(find(name), find(name).minimum_size, 5, 0.5)
            weights.initialise(network, 99)
            weights.save_backbone(network, path)
        return path

    return source


@dataclass(frozen=True)
class Outcome:
    """Everything that a trial leaves behind except the time it took."""

    epochs: list[dict[str, float]]
    summary: dict[str, float]
    final: dict[str, float]
    frozen: str | None
    config: str  # of the saved model
    weights: dict[str, bytes]


def outcome(spec: TrialSpec, folder: Path, networks: CompiledNetworks | None = None) -> Outcome:
    epochs = []
    result = trial.run_trial(spec, folder, lambda record: not epochs.append(record.metrics), networks)
    with zipfile.ZipFile(Path(result.files["model"]) / "data" / "model.keras") as archive:
        # where an object lies in memory is in it too
        config = re.sub(r'"shared_object_id": \d+', "", archive.read("config.json").decode())
        saved = io.BytesIO(archive.read("model.weights.h5"))
    return Outcome(
        [{name: value for name, value in of.items() if not name.startswith("time/")} for of in epochs],
        result.summary,
        result.final,
        result.frozen_digest,
        config,
        {name: array.tobytes() for name, array in arrays_of(h5py.File(saved))},
    )


def arrays_of(group: h5py.Group) -> Iterator[tuple[str, np.ndarray]]:
    for name, entry in group.items():
        if isinstance(entry, h5py.Group):
            yield from ((f"{name}/{inner}", array) for inner, array in arrays_of(entry))
        else:
            yield name, entry[()]


def disturb(spec: TrialSpec, folder: Path, networks: CompiledNetworks) -> None:
    """Run other trials on the same network: one that is pruned, one that diverges."""
    other = {"dropout": 0.1, "batch_size": 7, "learning_rate": 0.01}
    pruned = TrialSpec.from_json(spec.to_json() | {"levels": spec.levels | other, "seed": 8, "epochs": 2})
    assert trial.run_trial(pruned, folder / "pruned", lambda record: False, networks).ended_by == "pruner"
    wild = {"learning_rate": 1e30, "batch_size": 4, "dropout": 0.0}
    settings = {"seed": 9, "optimizer": {"name": spec.optimizer.name, "momentum": spec.optimizer.momentum}}
    diverges = TrialSpec.from_json(spec.to_json() | {"levels": spec.levels | wild, "epochs": 2} | settings)
    with pytest.raises(DivergedError):
        trial.run_trial(diverges, folder / "diverged", lambda record: True, networks)


@pytest.mark.parametrize("name", names())
def test_a_warm_trial_equals_a_cold_one(
    name: str, make_spec: MakeSpec, sources: Callable[[str], Path], tmp_path: Path
) -> None:
    given = {"batch_size": 16, "weights": sources(name), "optimizer": Optimizer("sgd")}
    given |= {"learning_rate": 1e-5} if name == "resnet50" else {}  # random weights of 50 layers diverge
    modes = MODES if name == "alexnet" else FEW_MODES
    specs = {mode: make_spec(name, transfer=mode, epochs=2 if mode == "two-phase" else 1, **given) for mode in modes}
    specs["strong"] = make_spec(name, augmentation="strong", dropout=0.0, seed=3, epochs=1, **given)
    specs["flipped"] = make_spec(name, transfer="frozen", augmentation="flip", epochs=1, **given)
    cold = {mode: outcome(spec, tmp_path / "cold" / mode) for mode, spec in specs.items()}
    networks = CompiledNetworks()
    disturb(specs["scratch"], tmp_path, networks)
    for number, mode in enumerate([*reversed(specs), "strong"]):
        assert outcome(specs[mode], tmp_path / f"warm{number}", networks) == cold[mode], mode


def test_a_network_comes_back_after_others(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(epochs=1)
    alone = outcome(spec, tmp_path / "alone")
    networks = CompiledNetworks()
    for number in range(2):
        assert outcome(spec, tmp_path / f"{number}", networks) == alone
        assert outcome(make_spec("googlenet", epochs=1), tmp_path / f"other{number}", networks).summary
        monkeypatch.setattr(compiled, "MAX_NETWORKS", 1)  # the second time all are built anew


def built(networks: CompiledNetworks, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the networks and updates built from now on."""
    made = []
    for kind in (compiled.CompiledNetwork, compiled.Update):
        original = kind.__init__

        def init(self: Any, *given: Any, original: Any = original, name: str = kind.__name__) -> None:
            made.append(name)
            original(self, *given)

        monkeypatch.setattr(kind, "__init__", init)
    return made


@pytest.mark.parametrize("name", ["alexnet", "googlenet"])
def test_what_is_compiled_serves_every_rate_and_batch(
    name: str, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = CompiledNetworks()
    made = built(networks, monkeypatch)
    for number, (dropout, size, rate) in enumerate([(0.5, 16, 1e-4), (0.0, 8, 1e-3), (0.2, 50, 1e-4)]):
        spec = make_spec(name, dropout=dropout, batch_size=size, learning_rate=rate, epochs=1, keep_model=False)
        assert trial.run_trial(spec, tmp_path / str(number), lambda record: True, networks).state == "finished"
    assert made == ["CompiledNetwork", "Update"]
    kept = networks.start(spec)
    functions = [*kept._forwards.values(), *(update._steps for update in kept._updates.values())]
    assert [function.experimental_get_tracing_count() for function in functions] == [1, 1]


@pytest.mark.parametrize(("limit", "value"), [("MAX_NETWORKS", 1), ("MAX_BYTES", 1)])
def test_only_so_much_is_kept(
    limit: str, value: int, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, limit, value)
    networks = CompiledNetworks()
    made = built(networks, monkeypatch)
    for number, name in enumerate(["alexnet", "googlenet", "alexnet", "alexnet"]):
        spec = make_spec(name, epochs=1, keep_model=False)
        trial.run_trial(spec, tmp_path / str(number), lambda record: True, networks)
        assert networks._count() == 2
    assert made == ["CompiledNetwork", "Update"] * 3


def test_after_an_error_nothing_is_kept(make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks, spec = CompiledNetworks(), make_spec(epochs=1, keep_model=False)

    def fail(record: object) -> bool:
        raise MemoryError

    with pytest.raises(MemoryError):
        trial.run_trial(spec, tmp_path / "a", fail, networks)
    assert networks._count() == 0
    assert trial.run_trial(spec, tmp_path / "b", lambda record: True, networks).state == "finished"


@pytest.mark.parametrize("name", names())
def test_dropout_that_can_be_set_is_keras_own(name: str) -> None:
    import keras
    import tensorflow as tf

    set_later = build_network(find(name), find(name).minimum_size, 5, 0.5, 0.5)
    graph = Graph(set_later)
    graph.set_dropout({"dropout": 0.25, "auxiliary_dropout": 0.75})
    keras.utils.clear_session(free_memory=False)
    given = build_network(find(name), find(name).minimum_size, 5, 0.25, 0.75)
    for network in (set_later, given):
        weights.initialise(network, 0)
    images = np.random.default_rng(0).uniform(0, 255, (4, *set_later.training.input_shape[1:])).astype(np.float32)
    ours = graph.run(graph.outputs, {graph.input: tf.constant(images)}, training=True)
    theirs = given.training(images, training=True)
    for one, other in zip(ours, theirs if isinstance(theirs, list) else [theirs], strict=True):
        assert np.array_equal(one, other)


def test_frozen_layers_are_drawn_once_and_read_again_when_their_file_changes(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks, file = CompiledNetworks(), tmp_path / "source.npz"
    read = []
    original = weights.load_backbone
    monkeypatch.setattr(weights, "load_backbone", lambda network, path: read.append(path) or original(network, path))

    def write(seed: int) -> None:
        network = build_network(find("alexnet"), find("alexnet").minimum_size, 5, 0.5)
        weights.initialise(network, seed)
        weights.save_backbone(network, file)

    def frozen(number: int, **given: Any) -> str | None:
        spec = make_spec(transfer="frozen", epochs=1, weights=file, keep_model=False, **given)
        return trial.run_trial(spec, tmp_path / str(number), lambda record: True, networks).frozen_digest

    write(1)
    first = [frozen(number, seed=number) for number in range(3)]
    assert (len(set(first)), len(read)) == (1, 1)
    write(2)
    assert frozen(3) != first[0]
    assert len(read) == 2
    # one that trains the layers leaves none of them as it was
    trial.run_trial(make_spec(epochs=1, weights=file, transfer="fine-tune"), tmp_path / "4", lambda _: True, networks)
    assert frozen(5) == frozen(6)
    assert len(read) == 3
