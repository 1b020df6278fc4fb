"""The features that a trial trains on, as a file for other programs: a row for each image outside the test split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnstudy.data.decoder_pool import Progress
from cnnstudy.data.images import list_parts, open_decoded
from cnnstudy.errors import InputError
from cnnstudy.records import TrialSpec
from cnnstudy.training import transfer
from cnnstudy.training.compiled import CompiledNetworks
from cnnstudy.training.features import Features, prepare_source

if TYPE_CHECKING:
    import pandas as pd


def write_features(spec: TrialSpec, path: Path, networks: CompiledNetworks, progress: Progress) -> dict[str, Any]:
    """Write the outputs of the trial's frozen layers for each image outside the test split, cached or computed now.

    Columns: image (its file), label (from 0), class, part (train or validation), group (a number; none without groups)
    and features. A Parquet file has them flat, with their shape and their layer in its `attrs`; an .npz file as an
    array [images, ...] float32, with the array `layer` and, without groups, no array `group`.

    Args:
        path: ends with .parquet or .npz.

    Returns:
        The layer's name, how many images there are, and the shape of the features of one.

    Raises:
        InputError: the trial has no frozen layers, or there is no room for the features of all images.
        DataError, WeightsError: images or source weights are gone.
    """
    # both act in updates only, and would keep features from being cached
    ignored = ("augmentation", "auxiliary_weight")
    levels = {name: level for name, level in spec.levels.items() if name not in ignored}
    spec = replace(spec, levels=levels, features=True)
    compiled = networks.start(spec)
    source = prepare_source(compiled, spec, transfer.plan_trial(spec, compiled.network)[0], progress)
    if source.features is None:
        raise InputError(f"no features of {spec.study}/{spec.key} can be written: {source.why}.")
    found = source.features
    about = {"layer": found.cut, "shape": list(found.views[0].shape[1:])}
    columns = _describe_images(spec, found)
    if path.suffix == ".npz":
        np.savez(path, allow_pickle=False, layer=np.array(found.cut), features=found.views[0], **columns)
    else:
        _frame(columns, found.views[0], about).to_parquet(path, engine="pyarrow", index=False)
    return {**about, "images": len(found.places)}


def _describe_images(spec: TrialSpec, features: Features) -> dict[str, np.ndarray]:
    """Return what is known of each image, by column."""
    decoded = open_decoded(spec.images)
    of_usable = zip(decoded.usable.tolist(), list_parts(spec.images, spec.split, spec.block), strict=True)
    parts = {place: part for place, (_, _, part) in of_usable}
    places, labels = features.places, decoded.labels[features.places]
    columns = {
        # the name of a file may hold bytes that are no valid text
        "image": np.array([decoded.keys[at].encode(errors="backslashreplace").decode() for at in places]),
        "label": labels,
        "class": np.array(spec.images.classes)[labels],
        "part": np.array([parts[at] for at in places.tolist()]),
    }
    return columns if decoded.groups is None else {**columns, "group": decoded.groups[places]}


def _frame(columns: dict[str, np.ndarray], features: np.ndarray, about: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame({name: columns.get(name) for name in ("image", "label", "class", "part", "group")})
    frame["features"] = pd.Series(list(features.reshape(len(features), -1)))
    frame.attrs.update(about)
    return frame
