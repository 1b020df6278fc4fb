"""Measure how fast a trial would train on this machine, from a few updates and one batch of evaluation."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from cnnstudy.architectures import Network
from cnnstudy.data.batches import count_updates, evaluation_batch_size
from cnnstudy.data.images import Images
from cnnstudy.records import Speed, TrialSpec, read_probe
from cnnstudy.training import features, transfer
from cnnstudy.training.compiled import CompiledNetworks
from cnnstudy.training.trainer import Trainer
from cnnstudy.training.trial import load_images

#: A call is timed this many times, but not again after this many seconds.
CALLS, SECONDS = 5, 1.0


def measure_speed(spec: TrialSpec, batch_sizes: Sequence[int], networks: CompiledNetworks | None = None) -> Speed:
    """Build what the trial would train and time it at each batch size, or at all images if there are fewer.

    The trained weights are discarded; what was compiled stays in `networks`.

    Raises:
        DataError, WeightsError: the images or the source weights are gone.
    """
    networks = CompiledNetworks() if networks is None else networks
    first_setup, _ = _set_up(spec, batch_sizes[0], networks)
    setup, trainer = _set_up(spec, batch_sizes[0], networks)
    network, places = trainer.compiled.network, np.arange(len(trainer.images.train))
    seconds_per_update, compile_per_size = [], 0.0
    for phase in _phases(spec, network):
        transfer.apply_phase(network, phase)
        trainer.start_phase(phase, features.placeholder_features(trainer.compiled, spec, phase))
        if phase.fits_head:
            fitting = _time_fit(trainer)  # once, told as if in the updates of an epoch
            updates = (count_updates(len(places), size, 1, "clean") for size in batch_sizes)
            seconds_per_update.append(tuple(fitting / count for count in updates))
            continue
        by_size = []
        for size in batch_sizes:
            first_seconds, seconds = _time_update(trainer, places[:size])
            compile_per_size += max(0.0, first_seconds - seconds)  # XLA compiles for each size
            by_size.append(seconds)
        seconds_per_update.append(tuple(by_size))
    batch = _evaluation_batch(trainer)
    extraction_seconds, features_bytes = _time_extraction(trainer)
    return Speed(
        parameters=network.inference.count_params(),
        compile_seconds=max(0.0, first_setup - setup) + compile_per_size,
        setup_seconds=setup,
        batch_sizes=tuple(batch_sizes),
        seconds_per_update=tuple(seconds_per_update),
        extraction_seconds=extraction_seconds,
        features_bytes=features_bytes,
        seconds_per_evaluated_image=_time_call(partial(trainer.logits, batch)) / len(batch),
        peak_bytes=_peak_bytes(),
    )


def _peak_bytes() -> int:
    """Return this process' peak memory so far, in bytes; 0 if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _set_up(spec: TrialSpec, batch_size: int, networks: CompiledNetworks) -> tuple[float, Trainer]:
    """Run a trial up to its first update in each phase and its first evaluation; return the seconds it took."""
    started = time.perf_counter()
    trainer = Trainer(networks.start(spec), load_images(spec), spec)
    for phase in _phases(spec, trainer.compiled.network):
        transfer.apply_phase(trainer.compiled.network, phase)
        trainer.start_phase(phase, features.placeholder_features(trainer.compiled, spec, phase))
        if not phase.fits_head:
            trainer.update(np.arange(len(trainer.images.train))[:batch_size])
    trainer.logits(_evaluation_batch(trainer))
    return time.perf_counter() - started, trainer


def _time_fit(trainer: Trainer) -> float:
    """Return the seconds to fit a head to noise in the shape of the features."""
    from cnnstudy.training.linear_head import fit_head

    (cut,) = trainer.compiled.graph.sources[trainer.compiled.graph.outputs[0]]
    labels, classes = trainer.images.train.labels, len(trainer.spec.images.classes)
    noise = np.random.default_rng(0).normal(size=(len(labels), *trainer.compiled.graph.shape(cut)))
    started = time.perf_counter()
    probe = read_probe(trainer.spec.levels["transfer"])
    assert probe is not None
    fit_head(noise, labels, classes, trainer.spec.seed, classifier=probe.classifier)
    return time.perf_counter() - started


def _time_extraction(trainer: Trainer) -> tuple[float, int]:
    """Return the seconds to compute all features, extrapolated from one batch, and their bytes; 0 if there are none."""
    compiled, spec, pixels = trainer.compiled, trainer.spec, np.asarray(_evaluation_batch(trainer).pixels)
    plans = [features.plan_features(compiled, spec, phase) for phase in _phases(spec, compiled.network)]
    by_cut = {plan.cut: plan for plan in plans if isinstance(plan, features.Plan)}
    seconds = 0.0
    for plan in by_cut.values():
        extract = partial(compiled.features, pixels, plan.cut)
        extract()
        seconds += plan.views * plan.images / len(pixels) * _time_call(extract)
    return seconds, sum(plan.bytes for plan in by_cut.values())


def _phases(spec: TrialSpec, network: Network) -> list[transfer.Phase]:
    return transfer.plan_trial(spec, network)


def _evaluation_batch(trainer: Trainer) -> Images:
    count = evaluation_batch_size(trainer.spec.images.size)
    images = trainer.images.validation
    return Images(images.pixels[:count], images.labels[:count], images.places[:count])


def _time_update(trainer: Trainer, batch: np.ndarray) -> tuple[float, float]:
    """Return the seconds of the first update of this size, and of later ones, several in a call as in training."""
    started = time.perf_counter()
    trainer.update(batch)
    first = time.perf_counter() - started
    alone = _time_call(partial(trainer.update, batch))
    count = trainer.at_once(len(batch), alone)
    return first, alone if count == 1 else _time_call(partial(trainer.update_several, [batch] * count)) / count


def _time_call(call: Callable[[], object]) -> float:
    """Return the mean seconds of a call."""
    started, calls = time.perf_counter(), 0
    while calls == 0 or (calls < CALLS and time.perf_counter() - started < SECONDS):
        call()
        calls += 1
    return (time.perf_counter() - started) / calls
