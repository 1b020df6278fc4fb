"""What the frozen part of a network makes of the images: computed once, shared by all trials and workers.

The part of a network that neither trains nor drops anything gives the same numbers in every epoch of every trial. Its
last outputs lie in the cache as one array for each view of the images; a trial trains what comes after them. Test
images are not among them.

A number may differ in its last digits from what the whole network gives for the image in another batch. So whether a
trial uses the cache depends on what it is, not on what lies there; the one exception is a full disk, or a quota.
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
from cnnstudy.data.images import open_all_but_test
from cnnstudy.errors import DataError
from cnnstudy.records import TrialSpec
from cnnstudy.system.cache import ABOUT, build_entry, cache_folder, content_address, entry_folder
from cnnstudy.system.code_version import network_code_digest
from cnnstudy.system.files import NO_ROOM, allocate_memmap
from cnnstudy.training import devices, transfer, weights
from cnnstudy.training.augmentation import VIEWS
from cnnstudy.training.compiled import CompiledNetwork
from cnnstudy.training.transfer import Phase

KIND = "features"
#: Bytes in the cache for the features of all studies, and the share of what is free on the disk that new ones may take.
LIMIT, SHARE_OF_FREE = 4 << 30, 0.1
#: Part of their address: raise it when the same images and weights would give other features.
VERSION = 4
#: In an entry: how many images went through the network at once, where it was not a whole batch.
AT_ONCE = "at-once.txt"
CACHED, TWO_VIEWS, FULL_FORWARD = "cached", "two views", "full forward"


@dataclass(frozen=True)
class Features:
    """Outputs of the operation `cut`, of images that are in no test."""

    cut: str
    places: np.ndarray  # [n] int64, ascending: the images' places in the data set
    views: tuple[np.ndarray, ...]  # each [n, ...] float32, on disk; the images as they are, then flipped

    def of(self, places: np.ndarray) -> np.ndarray:
        """Features [k, ...] of the images at those places, as they are."""
        return self.views[0][np.searchsorted(self.places, places)]

    def all_views_of(self, places: np.ndarray) -> list[np.ndarray]:
        """Features [k, ...] of them as they are and, where there are two views, flipped."""
        rows = np.searchsorted(self.places, places)
        return [view[rows] for view in self.views]

    def views_of(self, places: np.ndarray) -> np.ndarray:
        """What an update takes: [k, ...], or [k, 2, ...] where there are two views."""
        views = self.all_views_of(places)
        return np.stack(views, axis=1) if len(views) > 1 else views[0]


@dataclass(frozen=True)
class Plan:
    """Which features a phase can train on."""

    cut: str
    views: int
    images: int
    shape: tuple[int, ...]  # of one image's

    @property
    def bytes(self) -> int:
        return self.views * self.images * math.prod(self.shape) * 4

    def __str__(self) -> str:
        views = " in two views" if self.views > 1 else ""
        return f"{self.cut} of {self.images:,} images{views}, {self.bytes / 1e6:.2f} MB in {cache_folder() / KIND}"


@dataclass(frozen=True)
class Source:
    """What a phase trains on."""

    features: Features | None  # None: images
    what: str  # CACHED, TWO_VIEWS or FULL_FORWARD
    why: str
    as_planned: bool = True  # false: only because the disk is full


def plan_features(compiled: CompiledNetwork, spec: TrialSpec, phase: Phase) -> Plan | str:
    """The features for that phase; or why it has to run the whole network."""
    if not spec.features:
        return "asked for"
    if spec.levels.get("auxiliary_weight"):
        return "auxiliary heads train on what lies before them"
    backbone = {layer.name: layer for layer in weights.backbone_layers(compiled.network.logits)}
    cut = compiled.graph.last_constant(
        lambda name: name not in backbone or transfer.is_trained_in(backbone[name], phase.backbone)
    )
    if cut is None:
        return "the first layers train"
    augmentation = str(spec.levels["augmentation"])
    if augmentation not in VIEWS:
        return f"augmentation {augmentation} makes another image of each one in every epoch"
    images = sum(spec.images.train) + sum(spec.images.validation)
    found = Plan(cut, len(VIEWS[augmentation]), images, compiled.graph.shape(cut))
    if found.bytes > LIMIT:
        return f"features would take {found.bytes / 1e9:.1f} GB, more than {LIMIT / 1e9:.1f}"
    return found


def prepare_source(compiled: CompiledNetwork, spec: TrialSpec, phase: Phase, progress: Progress) -> Source:
    """What the phase trains on, computed first where it is not in the cache.

    Args:
        compiled: with the weights that the trial starts from.

    Raises:
        DataError: the decoded images are gone.
    """
    planned = plan_features(compiled, spec, phase)
    if isinstance(planned, str):
        return Source(None, FULL_FORWARD, planned)
    pixels, places = open_all_but_test(spec.images, spec.split)
    address = _address(compiled, spec, planned.cut)
    addresses = [content_address([address, "flipped"]) if view else address for view in range(planned.views)]
    missing = [address for address in addresses if not entry_folder(KIND, address).is_dir()]
    needed = planned.bytes // planned.views * len(missing)
    free = _free()
    if needed > SHARE_OF_FREE * free:
        why = f"features would take {needed / 1e9:.2f} GB, and {free / 1e9:.2f} are free in {cache_folder()}"
        return Source(None, FULL_FORWARD, why, as_planned=False)

    def build(folder: Path, flipped: bool) -> None:
        _make_room(LIMIT - planned.bytes, kept=addresses)
        _extract(compiled, planned.cut, pixels, places, flipped, folder / "features.npy", progress)
        of_images = f"{len(places)} images of {spec.images.name}, {spec.images.size} pixels"
        about = f"{spec.architecture} up to {planned.cut}, of {of_images}{', flipped' if flipped else ''}"
        (folder / ABOUT).write_text(about, encoding="utf-8", errors="replace")

    try:
        views = tuple(
            _open(address, lambda folder, flipped=bool(view): build(folder, flipped))  # type: ignore[misc]
            for view, address in enumerate(addresses)
        )
    except OSError as reason:
        if reason.errno not in NO_ROOM:
            raise
        why = f"features would take {needed / 1e9:.2f} GB, for which {cache_folder()} has no room ({reason.strerror})"
        return Source(None, FULL_FORWARD, why, as_planned=False)
    why = str(planned) + "".join(_take_as_many_at_once(compiled, address) for address in addresses)
    what = TWO_VIEWS if planned.views > 1 else CACHED
    return Source(Features(planned.cut, places, views), what, why)


def placeholder_features(compiled: CompiledNetwork, spec: TrialSpec, phase: Phase) -> Features | None:
    """Zeros in the shape of the features that the phase would train on, to see how fast that is."""
    planned = plan_features(compiled, spec, phase)
    if isinstance(planned, str):
        return None
    zeros = np.zeros((planned.images, *planned.shape), np.float32)
    return Features(planned.cut, open_all_but_test(spec.images, spec.split)[1], (zeros,) * planned.views)


def _address(compiled: CompiledNetwork, spec: TrialSpec, cut: str) -> str:
    """Of the images as they are: by all that the numbers depend on."""
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
            "numbers": ["float32", tf.__version__, keras.__version__, *devices.rounding_conditions(spec)],
        }
    )


def _take_as_many_at_once(compiled: CompiledNetwork, address: str) -> str:
    """Where the memory did not suffice for whole batches when features were computed, the trial evaluates in such parts
    too: its numbers are rounded as theirs. What is to be said of that."""
    try:
        at_once = int((entry_folder(KIND, address) / AT_ONCE).read_text(encoding="ascii"))
    except FileNotFoundError:
        return ""
    compiled.micro_batches.limit("evaluation", at_once)
    return (
        f"; computed from {at_once} images at once, for want of memory then, and so the trial evaluates too "
        "(`cache clear --kind features` has them made anew)"
    )


def _open(address: str, build: Callable[[Path], None]) -> np.ndarray:
    """The entry's array, on disk; marked as used now."""
    for _ in range(3):
        folder = build_entry(KIND, address, build)
        with contextlib.suppress(FileNotFoundError):  # another worker made room in this very moment
            os.utime(folder)
            return np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
    raise DataError(f"the features in {entry_folder(KIND, address)} vanish as soon as they are there; {_ADVICE}")


_ADVICE = "does something else clean up the cache? Set CNNSTUDY_CACHE to another folder."


def _extract(
    compiled: CompiledNetwork,
    cut: str,
    pixels: np.ndarray,
    places: np.ndarray,
    flipped: bool,
    path: Path,
    progress: Progress,
) -> None:
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
        path.with_name(AT_ONCE).write_text(str(at_once), encoding="ascii")


def _free() -> int:
    """Bytes on the disk of the cache."""
    folder = cache_folder()
    return shutil.disk_usage(next(there for there in (folder, *folder.parents) if there.exists())).free


def _make_room(limit: int, kept: list[str]) -> None:
    """Remove the features that were not used for longest, until the others take no more than `limit` bytes."""
    entries = []
    for folder in (cache_folder() / KIND).iterdir():
        with contextlib.suppress(OSError):  # another worker may be about the same
            if folder.is_dir() and not folder.name.startswith(".") and folder.name not in kept:
                entries.append((folder.stat().st_mtime, (folder / "features.npy").stat().st_size, folder))
    total = sum(size for _, size, _ in entries)
    for _, size, folder in sorted(entries):
        if total <= limit:
            return
        with contextlib.suppress(OSError):  # in use, on Windows
            gone = folder.rename(folder.with_name(f".{folder.name}-gone"))  # whole or not there
            shutil.rmtree(gone, ignore_errors=True)
            total -= size
