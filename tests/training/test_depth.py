"""Which stages train, how fast, and from when: `transfer: {from: STAGE}`, `discriminative` and `unfreeze`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import own_network
import pytest

from cnnstudy import architectures
from cnnstudy.architectures import HEAD, build_network
from cnnstudy.errors import ConfigError
from cnnstudy.records import EpochRecord, Optimizer, TrialResult, TrialSpec
from cnnstudy.training import shared_epochs, transfer, trial, updates, weights
from cnnstudy.training.compiled import CompiledNetwork
from cnnstudy.training.features import CACHED
from cnnstudy.training.transfer import Phase, find_cut_points

from .tries import shared_networks

MakeSpec = Callable[..., TrialSpec]


@pytest.fixture
def source_of(tmp_path: Path) -> Callable[[str], Path]:
    """source_of(name): a file of source weights, initialised from another seed."""

    def write(name: str) -> Path:
        found = architectures.find(name)
        network = build_network(found, found.minimum_size, 5, 0.5)
        weights.initialise(network, 99)
        weights.save_backbone(network, tmp_path / "source.npz")
        return tmp_path / "source.npz"

    return write


@pytest.fixture
def own() -> str:
    """The name of a user's network, in the cache of this module's tests."""
    return architectures.find(own_network.WRITTEN).name


def run(spec: TrialSpec, folder: Path) -> tuple[TrialResult, list[EpochRecord]]:
    records: list[EpochRecord] = []
    return trial.run_trial(
        spec, folder, lambda record: not (record.epoch and records.append(record)), shared_networks()
    ), records


def changes(spec: TrialSpec, folder: Path) -> dict[str, float]:
    """Run a trial; return the largest change of a weight in each layer with weights that trains in some phase."""
    compiled = shared_networks().start(spec)
    layers = [layer for layer in compiled.network.logits.layers if layer.weights]
    before = {layer.name: layer.get_weights() for layer in layers}
    run(spec, folder)
    found = {
        layer.name: max(
            float(np.abs(new - old).max()) for new, old in zip(layer.get_weights(), before[layer.name], strict=True)
        )
        for layer in layers
    }
    return {name: change for name, change in found.items() if change}


@pytest.mark.parametrize(
    ("network", "stage", "trained"),
    [
        ("alexnet", "conv4", {"conv4", "conv5"}),
        ("alexnet", "conv1", {"conv1", "conv2", "conv3", "conv4", "conv5"}),
        ("vgg16", "block5_conv2", {"block5_conv2", "block5_conv3"}),
        ("vgg16", "block5", {"block5_conv1", "block5_conv2", "block5_conv3"}),
        ("own", "middle", {"middle_depthwiseconv2d1", "block3_conv1", "block3_conv2"}),
    ],
)
def test_what_trains_is_all_from_that_stage_on(
    network: str,
    stage: str,
    trained: set[str],
    own: str,
    make_spec: MakeSpec,
    source_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    name = own if network == "own" else network
    changed = changes(make_spec(name, source_of(name), transfer=f"from {stage}", epochs=1), tmp_path / "trial")
    assert {layer for layer in changed if not layer.startswith(HEAD)} == trained


def test_a_stage_is_not_taken_for_one_with_a_longer_number() -> None:
    network = build_network(architectures.find("keras:MobileNetV2"), 32, 5, 0.5)
    (layers,) = (find_cut_points(network, f"from {stage}")[f"from {stage}"] for stage in ("block_1",))
    assert layers[0] == "block_1_expand$"
    trained = [
        layer.name
        for layer in weights.backbone_layers(network.logits)
        if transfer.is_trained_in(layer, Phase(1, layers, 1.0))
    ]
    names = [layer.name for layer in weights.backbone_layers(network.logits)]
    assert trained == names[names.index("block_1_expand") :]


def test_a_name_in_full_is_that_of_one_layer(own: str) -> None:
    """`block3_conv1$` and not `block3_conv10`."""
    network = build_network(architectures.find("vgg16"), 32, 5, 0.5)
    (one,) = [layer for layer in network.logits.layers if layer.name == "block1_conv1"]
    assert transfer.is_trained_in(one, Phase(1, ("block1_conv1$",), 1.0))
    assert not transfer.is_trained_in(one, Phase(1, ("block1_conv$",), 1.0))
    assert transfer.is_trained_in(one, Phase(1, ("block1_conv",), 1.0))


@pytest.mark.parametrize(
    ("network", "stage", "said"),
    [
        ("alexnet", "block4", "AlexNet (half width) has no stage 'block4'. Its stages are conv1, conv2, conv3, conv4"),
        ("alexnet", "comv4", "did you mean 'conv4'?"),
        ("resnet18", "conv", "has no stage 'conv'"),
        (
            "own",
            "block4",
            "own_network.py:build has no stage 'block4'; did you mean 'block3'? Its stages are layer002, ",
        ),
    ],
)
def test_a_stage_that_is_not_there(network: str, stage: str, said: str, own: str) -> None:
    found = architectures.find(own if network == "own" else network)
    built = build_network(found, found.minimum_size, 5, 0.5)
    with pytest.raises(ConfigError) as caught:
        find_cut_points(built, f"from {stage}")
    assert said in str(caught.value)


@pytest.mark.parametrize("network", ["alexnet", "own"])
def test_features_below_the_stage_give_the_same_numbers(
    network: str, own: str, make_spec: MakeSpec, source_of: Callable[[str], Path], tmp_path: Path
) -> None:
    name, stage = (own, "block3") if network == "own" else (network, "conv4")
    given = {"transfer": f"from {stage}", "epochs": 2, "deterministic": True}
    source = source_of(name)
    cached, with_features = run(make_spec(name, source, **given), tmp_path / "a")
    whole, without = run(make_spec(name, source, **given, features=False), tmp_path / "b")
    assert cached.features == CACHED
    assert whole.features != CACHED
    for one, other in zip(with_features, without, strict=True):
        assert one.metrics["train/loss"] == pytest.approx(other.metrics["train/loss"], rel=1e-4)
    assert cached.frozen_digest == whole.frozen_digest


def test_last_block_by_its_stage_is_the_same(
    make_spec: MakeSpec, source_of: Callable[[str], Path], tmp_path: Path
) -> None:
    source = source_of("alexnet")
    numbers = [
        run(make_spec("alexnet", source, transfer=mode, share_epochs=False), tmp_path / mode)[0].summary
        for mode in ("last-block", "from conv3")
    ]
    assert numbers[0] == numbers[1]


# ---- learning rates


@pytest.mark.parametrize(("mode", "stages"), [("fine-tune", 5), ("from conv4", 2), ("last-block", 3)])
def test_each_stage_is_that_many_times_slower_than_the_next(
    mode: str, stages: int, make_spec: MakeSpec, source_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Adam's first step of a weight is as long as the learning rate, whatever its gradient."""
    rates = {"learning_rate": 1e-3, "backbone_learning_rate_multiplier": 0.5, "discriminative": 2.0}
    spec = make_spec("alexnet", source_of("alexnet"), transfer=mode, **rates, updates=1, epochs=1, batch_size=50)
    found = changes(spec, tmp_path / "trial")
    assert found.pop("head_logits") == pytest.approx(1e-3, rel=1e-2)
    backbone = [found[f"conv{number}"] for number in range(5, 5 - stages, -1)]
    assert backbone == pytest.approx([0.5e-3 / 2.0**stage for stage in range(stages)], rel=1e-2)


def test_at_1_nothing_changes(make_spec: MakeSpec, source_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = source_of("alexnet")
    runs = [
        run(make_spec("alexnet", source, transfer="fine-tune", share_epochs=False, **given), tmp_path / str(at))[0]
        for at, given in enumerate(({}, {"discriminative": 1.0}, {"discriminative": 3.0}))
    ]
    assert runs[0].summary == runs[1].summary != runs[2].summary


def test_a_stage_that_does_not_train_counts_for_nothing(
    own: str, make_spec: MakeSpec, source_of: Callable[[str], Path]
) -> None:
    """Frozen BatchNormalization has no learning rate; the last stage has the backbone's."""
    spec = make_spec(own, source_of(own), transfer="fine-tune", discriminative=10.0, batch_size=50)
    compiled: CompiledNetwork = shared_networks().start(spec)
    (phase,) = transfer.plan_phases(spec, find_cut_points(compiled.network, "fine-tune"))
    transfer.apply_phase(compiled.network, phase)
    kind = updates.UpdateKind(phase.backbone, False, Optimizer("sgd"), "none", batch_norm=False, by_stage=True)
    update = compiled.update(kind)
    update.start(1.0, 0.1, discriminative=phase.discriminative)
    rates = [float(optimizer.learning_rate) for _, optimizer in update._groups]
    assert rates == pytest.approx([1.0, 0.1, 0.01, 0.001])
    names = [{variable.path.split("/")[0] for variable in variables} for variables, _ in update._groups[1:]]
    assert names == [{"block3_conv1", "block3_conv2"}, {"middle_depthwiseconv2d1"}, {"layer002_conv2d"}]


def test_shared_epochs_are_those_of_the_same_rates() -> None:
    described = [shared_epochs._describe(Phase(2, ("",), 0.1, False, rate)) for rate in (1.0, 2.6)]
    assert described[0] != described[1]


# ---- gradual unfreezing


def planned(spec: TrialSpec) -> list[tuple[int, set[str]]]:
    """The epochs of each phase, and the layers of the backbone that train in it."""
    network = shared_networks().start(spec).network
    layers = weights.backbone_layers(network.logits)
    return [
        (phase.epochs, {layer.name for layer in layers if transfer.is_trained_in(layer, phase)})
        for phase in transfer.plan_trial(spec, network)
    ]


@pytest.mark.parametrize(
    ("mode", "epochs", "stages"),
    [
        ("fine-tune", 13, [(2, 0), (2, 1), (2, 2), (2, 3), (2, 4), (3, 5)]),
        ("fine-tune", 6, [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]),
        ("fine-tune", 3, [(1, 0), (1, 2), (1, 5)]),
        ("fine-tune", 1, [(1, 5)]),
        ("last-block", 8, [(2, 0), (2, 1), (2, 2), (2, 3)]),
        ("from conv5", 5, [(2, 0), (3, 1)]),
    ],
)
def test_stages_unfreeze_from_the_last_one_down(
    mode: str, epochs: int, stages: list[tuple[int, int]], make_spec: MakeSpec, source_of: Callable[[str], Path]
) -> None:
    spec = make_spec("alexnet", source_of("alexnet"), transfer=mode, unfreeze="gradual", epochs=epochs)
    expected = [(each, {f"conv{number}" for number in range(6 - count, 6)}) for each, count in stages]
    assert planned(spec) == expected


def test_it_trains_as_planned(make_spec: MakeSpec, source_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = source_of("alexnet")
    given = {"transfer": "from conv4", "unfreeze": "gradual", "share_epochs": False}
    result, records = run(make_spec("alexnet", source, **given, epochs=3), tmp_path / "gradual")
    _, head_only = run(make_spec("alexnet", source, transfer="frozen", epochs=1), tmp_path / "frozen")
    assert records[0].metrics["train/loss"] == head_only[0].metrics["train/loss"]
    assert result.features == CACHED  # below each cut nothing has trained
    changed = changes(make_spec("alexnet", source, **given, epochs=3), tmp_path / "again")
    assert {layer for layer in changed if not layer.startswith(HEAD)} == {"conv4", "conv5"}
    without, _ = run(make_spec("alexnet", source, **given, epochs=3, features=False), tmp_path / "whole")
    assert result.summary["train/loss"] == pytest.approx(without.summary["train/loss"], rel=1e-3)


def test_at_once_is_as_before(make_spec: MakeSpec, source_of: Callable[[str], Path]) -> None:
    source = source_of("alexnet")
    plain, at_once = (
        planned(make_spec("alexnet", source, transfer="fine-tune", epochs=4, **given))
        for given in ({}, {"unfreeze": "at-once"})
    )
    assert plain == at_once == [(4, {"conv1", "conv2", "conv3", "conv4", "conv5"})]


def test_a_killed_trial_goes_on_where_it_was(
    make_spec: MakeSpec, source_of: Callable[[str], Path], tmp_path: Path
) -> None:
    given = {"transfer": "fine-tune", "unfreeze": "gradual", "discriminative": 2.6, "epochs": 4}
    spec = make_spec("alexnet", source_of("alexnet"), **given, deterministic=True, checkpoints="every-epoch")
    whole, _ = run(dataclasses.replace(spec, checkpoints="none"), tmp_path / "whole")

    class KilledError(Exception):
        pass

    def kill(record: EpochRecord) -> bool:
        if record.epoch == 3:
            raise KilledError
        return True

    with pytest.raises(KilledError):
        trial.run_trial(spec, tmp_path / "killed", kill, shared_networks())
    resumed, records = run(spec, tmp_path / "resumed")
    assert [record.replayed for record in records][:2] == [True, True]
    assert not records[3].replayed
    assert resumed.summary == whole.summary
