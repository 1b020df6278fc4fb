"""What the draw of images explains of a mean over confirming seeds, from the images that each seed's network got right.

It is computed from what trials record (correctness.npz, trial.json), by the code that computed their accuracies.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnstudy.analysis.resampled import ImageVariance, measure_images
from cnnstudy.names import Metric, crossed_name
from cnnstudy.records import RESULT_TABLES, Rule
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.tracking.registry import Registry
from cnnstudy.training.checkpoints import READ_ERRORS
from cnnstudy.training.cross_fit import cross_fit

#: A recorded accuracy and the one computed again differ at most by how a database rounds.
_ROUNDING = 1e-6


def explain_by_images(registry: Registry, runs: Sequence[RecordedRun], rule: Rule) -> ImageVariance | None:
    """Return what images explain of the variance of the runs' mean cross-fitted accuracy; None if that is not known.

    It is not where a run did not record which images were right after each epoch (earlier versions), where images come
    in groups, which are no independent draws, or where the record does not give the accuracy that the run has.

    Args:
        runs: one of each seed.

    Raises:
        TrackingUnavailableError: the store that files are in does not answer.
    """
    right = []
    for run in runs:
        with scratch_folder() as folder:
            of_seed = _read_right(registry, run, rule, folder)
        if of_seed is None:
            return None
        right.append(of_seed)
    return measure_images(right) if right else None


def _read_right(registry: Registry, run: RecordedRun, rule: Rule, folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a run's validation images and in which share of the choices of its best epoch each is right."""
    spec = registry.read_trial_json(run.run_id, folder)
    try:
        grouped = spec["images"].get("groups", "")
    except (AttributeError, KeyError, TypeError):  # another program wrote it, or there is none
        return None
    file = None if grouped else registry.fetch_file(run.run_id, RESULT_TABLES["correctness"], folder)
    if file is None:
        return None
    try:
        # NumPy leaves a damaged file open, bytes need no closing
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as kept:
            places = kept["validation_places"]
            probe, validation = (
                np.unpackbits(kept[f"{part}_by_epoch"], axis=1, count=len(kept[f"{part}_labels"])).astype(bool)
                for part in ("probe", "validation")
            )
            crossed = cross_fit(probe, kept["probe_labels"], validation, kept["validation_labels"], rule)
    except (*READ_ERRORS, IndexError):  # of an earlier version, or damaged
        return None
    recorded = run.metrics.get(crossed_name(Metric.VAL_ACCURACY))
    if crossed is None or recorded is None or len(places) != len(crossed.right):
        return None
    return (places, crossed.right) if abs(float(crossed.right.mean()) - recorded) <= _ROUNDING else None
