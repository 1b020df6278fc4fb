"""Features from the cache: the same numbers as from the whole network, computed once, and never of test images."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from cnnstudy.architectures import build_network, find, names
from cnnstudy.data.images import load_for_training
from cnnstudy.records import EpochRecord, TrialResult, TrialSpec
from cnnstudy.system import cache
from cnnstudy.training import devices, features, test_split, transfer, trial, weights
from cnnstudy.training.compiled import CompiledNetwork, CompiledNetworks
from cnnstudy.training.features import CACHED, FULL_FORWARD, TWO_VIEWS, Source

from .tries import shared_networks

pytestmark = pytest.mark.full_width

MakeSpec = Callable[..., TrialSpec]
Started = tuple[CompiledNetwork, TrialSpec, transfer.Phase]
#: How far numbers may be apart: features and logits by their largest, losses in nats.
FEATURES, LOSSES = 1e-5, 1e-4


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Source weights by architecture and seed: fresh ones."""
    folder = tmp_path_factory.mktemp("sources")

    def source(name: str, seed: int = 99) -> Path:
        path = folder / f"{name}{seed}.npz"
        if not path.exists():
            network = build_network(find(name), find(name).minimum_size, 5, 0.5)
            weights.initialise(network, seed)
            weights.save_backbone(network, path)
        return path

    return source


@pytest.fixture
def frozen(make_spec: MakeSpec, sources: Callable[..., Path]) -> TrialSpec:
    return make_spec(weights=sources("alexnet"), transfer="frozen", epochs=2, batch_size=16, keep_model=False)


def run(spec: TrialSpec, folder: Path) -> tuple[TrialResult, list[EpochRecord]]:
    records: list[EpochRecord] = []
    return trial.run_trial(
        spec, folder, lambda record: not (record.epoch and records.append(record)), shared_networks()
    ), records


def source_of(spec: TrialSpec) -> tuple[Source, CompiledNetwork]:
    compiled = CompiledNetworks().start(spec)
    phase = transfer.plan_phases(spec, dict(compiled.network.architecture.cut_points))[0]
    transfer.apply_phase(compiled.network, phase)
    return features.prepare_source(compiled, spec, phase, lambda *_: None), compiled


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.is_dir())


# ---- the same numbers


@pytest.mark.parametrize(
    ("mode", "cuts"),
    [
        (
            "frozen",
            dict.fromkeys(("alexnet", "vgg16", "alexnet_torchvision", "vgg16_torchvision"), "head_flatten")
            | dict.fromkeys(("googlenet", "resnet18", "resnet50", "googlenet_torchvision"), "head_pool"),
        ),
        (
            "last-block",
            {"alexnet": "conv2_pool", "vgg16": "block4_pool", "googlenet": "pool4"}
            | {"alexnet_torchvision": "conv2_pool", "vgg16_torchvision": "conv4_pool", "googlenet_torchvision": "pool4"}
            | {"resnet18": "conv4_block2_relu", "resnet50": "conv4_block6_relu"},
        ),
    ],
)
@pytest.mark.parametrize("name", names())
def test_features_are_what_the_whole_network_makes_of_an_image(
    name: str, mode: str, cuts: dict[str, str], make_spec: MakeSpec, sources: Callable[..., Path]
) -> None:
    spec = make_spec(name, weights=sources(name), transfer=mode)
    source, compiled = source_of(spec)
    assert source.features is not None
    assert (source.what, source.features.cut) == (CACHED, cuts[name])
    for images in vars(load_for_training(spec.images, spec.split, 1.0, block=3)).values():
        chosen = np.arange(len(images))[::-1][:7]  # in another order and another batch than they were computed in
        ours = source.features.of(images.places[chosen])
        theirs = compiled.features(images.pixels[chosen], cuts[name])
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=FEATURES * np.abs(theirs).max())
        logits = compiled.logits(images.pixels[chosen])
        np.testing.assert_allclose(
            compiled.logits(ours, cuts[name]), logits, rtol=0, atol=FEATURES * np.abs(logits).max()
        )


@pytest.mark.parametrize(("mode", "augmentation"), [("frozen", "none"), ("frozen", "flip"), ("last-block", "flip")])
@pytest.mark.parametrize("name", names())
def test_a_trial_on_features_equals_one_on_images(
    name: str, mode: str, augmentation: str, make_spec: MakeSpec, sources: Callable[..., Path], tmp_path: Path
) -> None:
    given = {"weights": sources(name), "transfer": mode, "augmentation": augmentation, "batch_size": 16}
    spec = make_spec(name, dropout=0.3, learning_rate=1e-4, equal_updates=3, **given)
    cut, records = run(spec, tmp_path / "cut")
    whole, expected = run(dataclasses.replace(spec, features=False), tmp_path / "whole")
    assert cut.features == (TWO_VIEWS if augmentation == "flip" else CACHED)
    assert (whole.features, whole.features_note) == (FULL_FORWARD, "features are turned off")
    for ours, theirs in zip(records, expected, strict=True):
        for metric in (
            "train/loss",
            "val/loss",
            "running/loss",
            "train/accuracy",
            "running/accuracy",
            "legacy/gap_accuracy",
        ):
            assert ours.metrics[metric] == pytest.approx(theirs.metrics[metric], abs=LOSSES), metric
    assert cut.summary == pytest.approx(whole.summary, abs=LOSSES)
    assert {name for name in cut.final if "updates" in name} == {name for name in whole.final if "updates" in name}
    same = ("frozen_digest", "trainable_parameters", "frozen_parameters", "best_epoch", "confusion")
    assert [getattr(cut, of) for of in same] == [getattr(whole, of) for of in same]


def test_two_phases_on_features_equal_those_on_images(
    make_spec: MakeSpec, sources: Callable[..., Path], tmp_path: Path
) -> None:
    given = {"weights": sources("alexnet"), "transfer": "two-phase", "augmentation": "flip", "batch_size": 16}
    spec = make_spec(dropout=0.3, learning_rate=1e-4, epochs=3, keep_model=False, **given)
    cut, records = run(spec, tmp_path / "cut")
    whole, expected = run(dataclasses.replace(spec, features=False), tmp_path / "whole")
    assert (cut.features, whole.features) == ("two views then full forward", "full forward")
    for ours, theirs in zip(records, expected, strict=True):
        for metric in ("train/loss", "val/loss", "running/loss", "val/accuracy"):
            assert ours.metrics[metric] == pytest.approx(theirs.metrics[metric], abs=LOSSES), metric
    assert cut.summary == pytest.approx(whole.summary, abs=LOSSES)


def test_the_saved_model_is_the_whole_network(frozen: TrialSpec, tmp_path: Path) -> None:
    import keras

    result, _ = run(dataclasses.replace(frozen, keep_model=True), tmp_path)
    model = keras.saving.load_model(Path(result.files["model"]) / "data" / "model.keras", safe_mode=True)
    validation = load_for_training(frozen.images, frozen.split, 1.0).validation
    right = model.predict(validation.pixels[:], verbose=0).argmax(axis=1) == validation.labels
    assert right.mean() == result.summary["val/accuracy"]


# ---- computed once


@pytest.fixture
def extractions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cut of each extraction from now on."""
    made = []
    original = features._extract

    def extract(compiled: CompiledNetwork, cut: str, *given: object) -> None:
        made.append(cut)
        original(compiled, cut, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "_extract", extract)
    return made


def test_trials_of_all_levels_seeds_and_blocks_share_them(
    frozen: TrialSpec, extractions: list[str], own_cache: Path, tmp_path: Path
) -> None:
    levels = [{}, {"dropout": 0.1, "batch_size": 8}, {"learning_rate": 0.01, "data_fraction": 0.5}]
    for number, changes in enumerate(levels):
        spec = dataclasses.replace(frozen, seed=number, block=number, levels=frozen.levels | changes)
        result, _ = run(spec, tmp_path / str(number))
        assert result.features == CACHED
    assert extractions == ["head_flatten"]
    assert len(entries(own_cache)) == 1
    assert "head_flatten of 75 images, 0.04 MB in " in result.features_note


def test_flipped_images_add_one_view(
    frozen: TrialSpec, extractions: list[str], own_cache: Path, tmp_path: Path
) -> None:
    run(frozen, tmp_path / "a")
    flipped = dataclasses.replace(frozen, levels=frozen.levels | {"augmentation": "flip"})
    run(flipped, tmp_path / "b")
    run(flipped, tmp_path / "c")
    assert len(extractions) == len(entries(own_cache)) == 2
    abouts = sorted(entry.about for entry in cache.list_entries("features"))
    as_they_are = "alexnet up to head_flatten, of 75 images of digits, 64 pixels"
    assert abouts == [as_they_are, f"{as_they_are}, flipped"]


@pytest.mark.parametrize("other", ["weights", "cut", "test images", "deterministic"])
def test_what_differs_lies_apart(
    other: str, frozen: TrialSpec, sources: Callable[..., Path], extractions: list[str]
) -> None:
    changed = {
        "weights": {"weights_file": str(sources("alexnet", 7))},
        "cut": {"levels": frozen.levels | {"transfer": "last-block"}},
        "test images": {"split": dataclasses.replace(frozen.split, seed=1)},
        "deterministic": {"deterministic": True},
    }
    for spec in (frozen, dataclasses.replace(frozen, **changed[other])):  # type: ignore[arg-type]
        source_of(spec)
    assert len(extractions) == 2


@pytest.mark.parametrize("other", ["threads", "kernels", "device"])
def test_what_is_rounded_otherwise_lies_apart(
    other: str, frozen: TrialSpec, extractions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source_of(frozen)
    if other == "threads":
        monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 7)
    elif other == "kernels":
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    else:
        monkeypatch.setattr(devices, "_gpu_model", lambda: "another")
    source_of(frozen)
    assert len(extractions) == 2


def test_no_test_image_is_looked_at(frozen: TrialSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = CompiledNetwork.features

    def look(compiled: CompiledNetwork, pixels: np.ndarray, cut: str) -> np.ndarray:
        seen.extend(image.tobytes() for image in pixels)
        return original(compiled, pixels, cut)

    monkeypatch.setattr(CompiledNetwork, "features", look)
    source, _ = source_of(frozen)
    folder = Path(frozen.images.folder)
    entry = json.loads((folder / "index.json").read_text())
    test = test_split.list_test_indices(entry["keys"], entry["labels"], frozen.split)
    images = np.load(folder / "images.npy")
    assert source.features is not None
    assert len(seen) == len(source.features.places) == 75
    assert not set(source.features.places) & set(test)
    assert not set(seen) & {images[i].tobytes() for i in test}


# ---- where there are none


@pytest.mark.parametrize(
    ("name", "levels", "why"),
    [
        ("alexnet", {"transfer": "scratch"}, "the first layers train"),
        ("alexnet", {"transfer": "fine-tune"}, "the first layers train"),
        ("alexnet", {"transfer": "frozen", "augmentation": "strong"}, "augmentation strong changes each image"),
        ("googlenet", {"transfer": "two-phase"}, "the auxiliary heads train on earlier layers"),
    ],
)
def test_the_whole_network_and_why(
    name: str, levels: dict[str, str], why: str, make_spec: MakeSpec, sources: Callable[..., Path]
) -> None:
    source, _ = source_of(make_spec(name, weights=sources(name), **levels))
    assert source.features is None
    assert source.what == FULL_FORWARD
    assert why in source.why


def test_two_phases_say_what_each_trained_on(make_spec: MakeSpec, sources: Callable[..., Path], tmp_path: Path) -> None:
    result, _ = run(make_spec(weights=sources("alexnet"), transfer="two-phase"), tmp_path)
    assert result.features == "cached then full forward"
    assert "head_flatten of 75 images" in result.features_note
    assert "the first layers train" in result.features_note


def test_features_too_large(frozen: TrialSpec, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "LIMIT", 10_000)
    source, _ = source_of(frozen)
    assert (source.features, source.what) == (None, FULL_FORWARD)
    assert "more than" in source.why
    assert not own_cache.exists()


def test_a_disk_that_is_almost_full(frozen: TrialSpec, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(features.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100_000))
        source, _ = source_of(frozen)
        assert source.features is None
        assert "more than 10% of the 0.00 GB free in" in source.why
        assert not own_cache.exists()
    assert source_of(frozen)[0].what == CACHED
    monkeypatch.setattr(features.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    assert source_of(frozen)[0].what == CACHED, "what is there already takes no more"


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_gives_no_room(
    reason: int, frozen: TrialSpec, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota, say, of which the free bytes on the disk tell nothing."""

    def refuse(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    result, _ = run(frozen, tmp_path / "trial")
    assert result.features == FULL_FORWARD
    assert f"has no room ({os.strerror(reason)})" in result.features_note
    assert entries(own_cache) == []


def test_another_error_of_the_disk_is_none_of_room(frozen: TrialSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        source_of(frozen)


def test_features_of_another_network_lie_apart(
    frozen: TrialSpec, extractions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for code in ("a", "a", "b"):
        monkeypatch.setattr(features, "network_code_digest", lambda name, code=code: f"{name} {code}")
        source_of(frozen)
    assert len(extractions) == 2


def test_what_was_not_used_for_longest_makes_room(
    frozen: TrialSpec, sources: Callable[..., Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [dataclasses.replace(frozen, weights_file=str(sources("alexnet", seed))) for seed in range(3)]
    source_of(specs[0])
    (first,) = entries(own_cache)
    source_of(specs[1])
    (second,) = set(entries(own_cache)) - {first}
    for ago, name in ((60, first), (30, second)):
        os.utime(own_cache / name, times=(os.stat(own_cache).st_mtime - ago,) * 2)
    source_of(specs[0])  # used again
    size = (own_cache / first / "features.npy").stat().st_size
    monkeypatch.setattr(features, "LIMIT", 2 * size + 1000)
    source_of(specs[2])
    assert first in entries(own_cache)
    assert second not in entries(own_cache)
    assert len(entries(own_cache)) == 2


def test_an_entry_that_goes_in_the_wrong_moment_is_made_again(
    frozen: TrialSpec, extractions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = cache.build_entry
    gone = []

    def build_and_lose(*given: object) -> Path:
        folder = original(*given)  # type: ignore[arg-type]
        if not gone:
            gone.append(folder.rename(folder.with_name(".gone")))
        return folder

    monkeypatch.setattr(features, "build_entry", build_and_lose)
    assert source_of(frozen)[0].what == CACHED
    assert len(extractions) == 2


@pytest.mark.parametrize(
    ("levels", "view"),
    [({}, 0), ({"augmentation": "flip"}, 0), ({"augmentation": "flip"}, 1), ({"transfer": "two-phase"}, 0)],
)
def test_features_that_are_not_those_of_the_network_are_noticed(
    levels: dict[str, str], view: int, frozen: TrialSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = dataclasses.replace(frozen, levels=frozen.levels | levels)
    places = []
    original = cache.build_entry

    def build(*given: object) -> Path:
        places.append(original(*given))  # type: ignore[arg-type]
        return places[-1]

    monkeypatch.setattr(features, "build_entry", build)
    run(spec, tmp_path / "a")
    file = places[view] / "features.npy"
    np.save(file, np.load(file)[::-1] + 0.1)
    spec = dataclasses.replace(spec, share_epochs=True, checkpoints="every-epoch", seed=1)
    for again in ("b", "c"):
        with pytest.raises(RuntimeError, match="features from the cache give logits that differ by"):
            run(spec, tmp_path / again)
    assert cache.list_entries("prefixes") == []


def test_damaged_features_are_computed_again_and_said(
    frozen: TrialSpec, own_cache: Path, extractions: list[str]
) -> None:
    first, _ = source_of(frozen)
    (entry,) = entries(own_cache)
    file = own_cache / entry / "features.npy"
    values = np.load(file)
    np.save(file, np.random.default_rng(0).permutation(values))
    cache._intact.clear()  # another worker finds it so
    second, _ = source_of(frozen)
    assert len(extractions) == 2
    assert f"the cache entry {file.parent} is damaged (features.npy is not what was written)" in second.why
    assert first.what == second.what == CACHED
    np.testing.assert_array_equal(np.load(file), values)
