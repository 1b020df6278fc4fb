"""How fast a trial would train here, from a few updates and one batch of evaluation."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from cnnstudy.architectures import Network
from cnnstudy.data.batches import evaluation_batch_size
from cnnstudy.data.images import Images
from cnnstudy.records import Speed, TrialSpec
from cnnstudy.training import features, transfer
from cnnstudy.training.compiled import CompiledNetworks
from cnnstudy.training.trainer import Trainer
from cnnstudy.training.trial import load_images

#: What is timed is called so often, but not again after so many seconds.
CALLS, SECONDS = 5, 1.0


def measure_speed(spec: TrialSpec, batch_sizes: Sequence[int], networks: CompiledNetworks | None = None) -> Speed:
    """Build what the trial would train, and time it at each batch size (as far as there are images for it).

    The weights are trained a little and thrown away; what was compiled for it stays with `networks`.

    Raises:
        DataError, WeightsError: what the trial needs is gone.
    """
    networks = CompiledNetworks() if networks is None else networks
    first, _ = _set_up(spec, batch_sizes[0], networks)
    setup, trainer = _set_up(spec, batch_sizes[0], networks)
    network, places = trainer.compiled.network, np.arange(len(trainer.images.train))
    seconds_per_update, more_to_compile = [], 0.0
    for phase in _phases(spec, network):
        transfer.apply_phase(network, phase)
        trainer.start_phase(phase, features.placeholder_features(trainer.compiled, spec, phase))
        by_size = []
        for size in batch_sizes:
            first_seconds, seconds = _seconds_of_an_update(trainer, places[:size])
            more_to_compile += max(0.0, first_seconds - seconds)  # by XLA, each size
            by_size.append(seconds)
        seconds_per_update.append(tuple(by_size))
    batch = _batch(trainer)
    extraction_seconds, features_bytes = _extraction(trainer)
    return Speed(
        parameters=network.inference.count_params(),
        compile_seconds=max(0.0, first - setup) + more_to_compile,
        setup_seconds=setup,
        batch_sizes=tuple(batch_sizes),
        seconds_per_update=tuple(seconds_per_update),
        extraction_seconds=extraction_seconds,
        features_bytes=features_bytes,
        seconds_per_evaluated_image=_seconds_of(partial(trainer.logits, batch)) / len(batch),
        peak_bytes=_peak_bytes(),
    )


def _peak_bytes() -> int:
    """This process' memory at most, so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _set_up(spec: TrialSpec, batch_size: int, networks: CompiledNetworks) -> tuple[float, Trainer]:
    """A trial as far as its first update in each phase and its first evaluation; the seconds that this took."""
    started = time.perf_counter()
    trainer = Trainer(networks.start(spec), load_images(spec), spec)
    for phase in _phases(spec, trainer.compiled.network):
        transfer.apply_phase(trainer.compiled.network, phase)
        trainer.start_phase(phase, features.placeholder_features(trainer.compiled, spec, phase))
        trainer.update(np.arange(len(trainer.images.train))[:batch_size])
    trainer.logits(_batch(trainer))
    return time.perf_counter() - started, trainer


def _extraction(trainer: Trainer) -> tuple[float, int]:
    """Seconds, from one batch, and bytes; 0 where each phase runs the whole network."""
    compiled, spec, pixels = trainer.compiled, trainer.spec, np.asarray(_batch(trainer).pixels)
    plans = [features.plan_features(compiled, spec, phase) for phase in _phases(spec, compiled.network)]
    planned = next((plan for plan in plans if isinstance(plan, features.Plan)), None)
    if planned is None:
        return 0.0, 0
    extract = partial(compiled.features, pixels, planned.cut)
    extract()
    return planned.views * planned.images / len(pixels) * _seconds_of(extract), planned.bytes


def _phases(spec: TrialSpec, network: Network) -> list[transfer.Phase]:
    return transfer.plan_phases(spec, dict(network.architecture.cut_points))


def _batch(trainer: Trainer) -> Images:
    """A batch of evaluation."""
    return _first(trainer.images.validation, evaluation_batch_size(trainer.spec.images.size))


def _first(images: Images, count: int) -> Images:
    return Images(**{name: array[:count] for name, array in vars(images).items()})


def _seconds_of_an_update(trainer: Trainer, batch: np.ndarray) -> tuple[float, float]:
    """The first of that size, which takes longer; and one as it is in training, where short ones share a call."""
    started = time.perf_counter()
    trainer.update(batch)
    first = time.perf_counter() - started
    alone = _seconds_of(partial(trainer.update, batch))
    count = trainer.at_once(len(batch), alone)
    return first, alone if count == 1 else _seconds_of(partial(trainer.update_several, [batch] * count)) / count


def _seconds_of(call: Callable[[], object]) -> float:
    """Of one call."""
    started, calls = time.perf_counter(), 0
    while calls == 0 or (calls < CALLS and time.perf_counter() - started < SECONDS):
        call()
        calls += 1
    return (time.perf_counter() - started) / calls
