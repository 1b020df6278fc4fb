"""Features of the frozen part of a network: computed once, shared by all trials and workers.

The part of a network that neither trains nor has dropout gives the same outputs in every epoch of every trial. Its last
outputs, the features, are cached as one array for each view of the images, and a trial trains only the layers after
them. Features of test images are never computed.

A feature may differ in its last digits from what the whole network computes for the same image in another batch. So
whether a trial uses features depends on its specification, not on what the cache holds; the only exception is a cache
folder without room for them.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from cnnstudy.data.batches import evaluation_batch_size
from cnnstudy.data.decoder_pool import Progress
from cnnstudy.data.images import open_train_and_validation
from cnnstudy.errors import DataError
from cnnstudy.records import TrialSpec
from cnnstudy.system.cache import ABOUT, build_entry, cache_folder, content_address, entry_folder
from cnnstudy.system.code_version import network_code_digest
from cnnstudy.system.files import NO_ROOM, allocate_memmap
from cnnstudy.training import devices, transfer, weights
from cnnstudy.training.augmentation import VIEWS, augmentation_of
from cnnstudy.training.compiled import CompiledNetwork
from cnnstudy.training.transfer import Phase

KIND = "features"
#: Bytes that all features in the cache may take, and the share of the free disk space that new ones may take.
LIMIT, SHARE_OF_FREE = 4 << 30, 0.1
#: Part of the cache address: raise it when the same images and weights would give different features.
VERSION = 4
#: File in a cache entry: how many images went through the network at a time, if whole batches did not fit into memory.
BATCH_SIZE_FILE = "at-once.txt"
#: Source.what: features of the images, features of the images and their mirror images, or no features.
CACHED, TWO_VIEWS, FULL_FORWARD = "cached", "two views", "full forward"


@dataclass(frozen=True)
class Features:
    """Outputs of the operation `cut` for all images outside the test split."""

    cut: str
    places: np.ndarray  # [n] int64, ascending: the images' indices in the data set
    views: tuple[np.ndarray, ...]  # each [n, ...] float32, memory-mapped; of the images, then of the flipped images

    def of(self, places: np.ndarray) -> np.ndarray:
        """Return the features [k, ...] of the unflipped images with these indices in the data set."""
        return self.views[0][np.searchsorted(self.places, places)]

    def select_views(self, places: np.ndarray) -> list[np.ndarray]:
        """Return the features [k, ...] of these images in each view."""
        rows = np.searchsorted(self.places, places)
        return [view[rows] for view in self.views]

    def update_inputs(self, places: np.ndarray) -> np.ndarray:
        """Return what an update takes: features [k, ...], or [k, 2, ...] if there are two views."""
        views = self.select_views(places)
        return np.stack(views, axis=1) if len(views) > 1 else views[0]


@dataclass(frozen=True)
class Plan:
    """The features that a phase can train on."""

    cut: str
    views: int
    images: int
    shape: tuple[int, ...]  # of the features of one image

    @property
    def bytes(self) -> int:
        return self.views * self.images * math.prod(self.shape) * 4

    def __str__(self) -> str:
        views = " in two views" if self.views > 1 else ""
        return f"{self.cut} of {self.images:,} images{views}, {self.bytes / 1e6:.2f} MB in {cache_folder() / KIND}"


@dataclass(frozen=True)
class Source:
    """What a phase trains on: features, or images."""

    features: Features | None  # None: images
    what: str  # CACHED, TWO_VIEWS or FULL_FORWARD
    why: str
    as_planned: bool = True  # false: images instead of features, only because the cache has no room


def plan_features(compiled: CompiledNetwork, spec: TrialSpec, phase: Phase) -> Plan | str:
    """Return the features for the phase, or the reason why it must run the whole network."""
    if not spec.features:
        return "features are turned off"
    if spec.levels.get("auxiliary_weight"):
        return "the auxiliary heads train on earlier layers"
    backbone = {layer.name: layer for layer in weights.backbone_layers(compiled.network.logits)}
    cut = compiled.graph.find_last_constant(
        lambda name: name not in backbone or transfer.is_trained_in(backbone[name], phase)
    )
    if cut is None:
        return "the first layers train"
    augmentation = augmentation_of(spec)
    if augmentation not in VIEWS:
        return f"augmentation {augmentation} changes each image in every epoch"
    images = sum(spec.images.train) + sum(spec.images.validation)
    plan = Plan(cut, len(VIEWS[augmentation]), images, compiled.graph.shape(cut))
    if plan.bytes > LIMIT:
        return f"features would take {plan.bytes / 1e9:.1f} GB, more than the limit of {LIMIT / 1e9:.1f} GB"
    return plan


def prepare_source(compiled: CompiledNetwork, spec: TrialSpec, phase: Phase, progress: Progress) -> Source:
    """Return what the phase trains on; features that are not in the cache are computed first.

    Args:
        compiled: the network with the weights that the trial starts from.

    Raises:
        DataError: the decoded images are gone, or another program keeps removing the features.
    """
    plan = plan_features(compiled, spec, phase)
    if isinstance(plan, str):
        return Source(None, FULL_FORWARD, plan)
    pixels, places = open_train_and_validation(spec.images, spec.split)
    address = _address(compiled, spec, plan.cut)
    addresses = [content_address([address, "flipped"]) if view else address for view in range(plan.views)]
    missing = [address for address in addresses if not entry_folder(KIND, address).is_dir()]
    needed = plan.bytes // plan.views * len(missing)
    free = _free_bytes()
    if needed > SHARE_OF_FREE * free:
        why = (
            f"features would take {needed / 1e9:.2f} GB, more than {SHARE_OF_FREE:.0%} of the {free / 1e9:.2f} GB free "
            f"in {cache_folder()}"
        )
        return Source(None, FULL_FORWARD, why, as_planned=False)

    def build(folder: Path, flipped: bool) -> None:
        _make_room(LIMIT - plan.bytes, kept=addresses)
        _extract(compiled, plan.cut, pixels, places, flipped, folder / "features.npy", progress)
        images = f"{len(places)} images of {spec.images.name}, {spec.images.size} pixels"
        about = f"{spec.architecture} up to {plan.cut}, of {images}{', flipped' if flipped else ''}"
        (folder / ABOUT).write_text(about, encoding="utf-8", errors="replace")

    notes: list[str] = []
    try:
        views = tuple(
            _open(address, lambda folder, flipped=bool(view): build(folder, flipped), notes.append)  # type: ignore[misc]
            for view, address in enumerate(addresses)
        )
    except OSError as reason:
        if reason.errno not in NO_ROOM:
            raise
        why = f"features would take {needed / 1e9:.2f} GB, for which {cache_folder()} has no room ({reason.strerror})"
        return Source(None, FULL_FORWARD, why, as_planned=False)
    why = "; ".join([str(plan), *notes]) + "".join(_limit_evaluation_batch(compiled, address) for address in addresses)
    what = TWO_VIEWS if plan.views > 1 else CACHED
    return Source(Features(plan.cut, places, views), what, why)


def placeholder_features(compiled: CompiledNetwork, spec: TrialSpec, phase: Phase) -> Features | None:
    """Return zeros in the shape of the features that the phase would train on, for timing; None if there are none."""
    plan = plan_features(compiled, spec, phase)
    if isinstance(plan, str):
        return None
    zeros = np.zeros((plan.images, *plan.shape), np.float32)
    return Features(plan.cut, open_train_and_validation(spec.images, spec.split)[1], (zeros,) * plan.views)


def _address(compiled: CompiledNetwork, spec: TrialSpec, cut: str) -> str:
    """Return the cache address of the features of the unflipped images: a digest of all that they depend on."""
    before = compiled.graph.upstream(cut)
    layers = [layer for layer in weights.backbone_layers(compiled.network.logits) if layer.name in before]
    return content_address(
        {
            "version": VERSION,
            "images": Path(spec.images.folder).name,  # a content address too
            "without test": [spec.split.test, spec.split.seed],
            "network": [spec.architecture, spec.images.size, network_code_digest(spec.architecture)],
            "weights": weights.combined_digest(compiled.start_digests(layers)),
            "cut": cut,
            # a linear head's pooling has the same name whatever layer it is on, also where no weights tell them apart
            **({"linear": list(compiled.linear)} if compiled.linear else {}),
            "numbers": ["float32", tf.__version__, keras.__version__, *devices.rounding_conditions(spec)],
        }
    )


def _limit_evaluation_batch(compiled: CompiledNetwork, address: str) -> str:
    """Evaluate in parts if the features were computed in parts, so that both are rounded alike.

    Returns:
        A note for the user; "" if the features were computed in whole batches.
    """
    try:
        at_once = int((entry_folder(KIND, address) / BATCH_SIZE_FILE).read_text(encoding="ascii"))
    except FileNotFoundError:
        return ""
    compiled.micro_batches.limit("evaluation", at_once)
    return (
        f"; computed {at_once} images at a time for lack of memory, so the trial evaluates {at_once} at a time too "
        "(`cache clear --kind features` has them recomputed)"
    )


def _open(address: str, build: Callable[[Path], None], tell: Callable[[str], None]) -> np.ndarray:
    """Return the entry's array, memory-mapped, after computing it if needed; mark the entry as just used."""
    for _ in range(3):
        folder = build_entry(KIND, address, build, tell)
        with contextlib.suppress(FileNotFoundError):  # another worker has just removed it to make room
            os.utime(folder)
            return np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
    raise DataError(
        f"the features in {entry_folder(KIND, address)} are removed as soon as they are written. If another program "
        "cleans up the cache folder, set CNNSTUDY_CACHE to another folder."
    )


def _extract(
    compiled: CompiledNetwork,
    cut: str,
    pixels: np.ndarray,
    places: np.ndarray,
    flipped: bool,
    path: Path,
    progress: Progress,
) -> None:
    """Compute the features of the images and write them to `path`."""
    shape = (len(places), *compiled.graph.shape(cut))
    features = allocate_memmap(path, shape, np.float32)
    size = evaluation_batch_size(pixels.shape[1])
    for start in range(0, len(places), size):
        progress(f"features of {compiled.network.architecture.title}", start, len(places))
        batch = pixels[places[start : start + size]]
        features[start : start + size] = compiled.features(batch[:, :, ::-1] if flipped else batch, cut)
    features.flush()
    at_once = compiled.micro_batches.at_once["evaluation"]
    if at_once is not None:
        path.with_name(BATCH_SIZE_FILE).write_text(str(at_once), encoding="ascii")


def _free_bytes() -> int:
    """Return how many bytes are free on the disk of the cache."""
    folder = cache_folder()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def _make_room(limit: int, kept: list[str]) -> None:
    """Remove the least recently used features until the others, without `kept`, take no more than `limit` bytes."""
    entries = []
    for folder in (cache_folder() / KIND).iterdir():
        with contextlib.suppress(OSError):  # another worker may be removing it too
            if folder.is_dir() and not folder.name.startswith(".") and folder.name not in kept:
                entries.append((folder.stat().st_mtime, (folder / "features.npy").stat().st_size, folder))
    total = sum(size for _, size, _ in entries)
    for _, size, folder in sorted(entries):
        if total <= limit:
            return
        with contextlib.suppress(OSError):  # in use, on Windows
            gone = folder.rename(folder.with_name(f".{folder.name}-gone"))  # atomic: an entry is never incomplete
            shutil.rmtree(gone, ignore_errors=True)
            total -= size
