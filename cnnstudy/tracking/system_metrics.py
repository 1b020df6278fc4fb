"""MLflow's system metrics of this machine, which its UI shows of each trial: processors, memory and GPUs in use.

A thread of the driver measures every few seconds what the whole machine does. The mean since a run's last record goes
to MLflow with the run's next epoch, so that it takes no request of its own, and a short epoch has none. MLflow's own
monitor would take a thread and a request every ten seconds for each trial. MLflow measures GPUs with nvidia-ml-py.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from mlflow.environment_variables import (
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING,
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
)
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

#: Seconds between two measurements, unless MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says otherwise.
SAMPLE_SECONDS = 5.0
#: What precedes the slash: MLflow's UI shows these metrics on a tab of their own.
SECTION = "system"

logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)  # a GPU that can't be asked is left out


def make_monitors() -> list[BaseMetricsMonitor]:
    """Return MLflow's monitors for this machine; none if `MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING` is false."""
    if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.is_set() and not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        return []
    monitors: list[BaseMetricsMonitor] = [CPUMonitor()]
    with contextlib.suppress(ImportError, RuntimeError):  # no nvidia-ml-py, or no GPU
        monitors.append(GPUMonitor())
    return monitors


def measure(monitors: list[BaseMetricsMonitor]) -> dict[str, float]:
    """Return what the machine does now, by MLflow's names: `system/cpu_utilization_percentage`."""
    found: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        found |= {f"{SECTION}/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return found


class SystemMetrics:
    """The means of what a machine does between the records of each run."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._samples: Counter[str] = Counter()
        self._taken: dict[str, tuple[Counter[str], Counter[str]]] = {}  # by run: sums and samples at its last record
        self._lock = threading.Lock()

    def add(self, measured: Mapping[str, float]) -> None:
        """Add a measurement."""
        with self._lock:
            self._sums.update(measured)
            self._samples.update(measured.keys())

    def begin(self, run: str) -> None:
        """Begin a run: what was measured before is not its own."""
        self.take(run)

    def take(self, run: str) -> dict[str, float]:
        """Return the mean of each metric since the run's last record; {} if nothing was measured since then."""
        with self._lock:
            sums, samples = self._taken.get(run, (Counter(), Counter()))
            self._taken[run] = self._sums.copy(), self._samples.copy()
            counts = {name: count - samples[name] for name, count in self._samples.items()}
            return {name: round((self._sums[name] - sums[name]) / count, 1) for name, count in counts.items() if count}

    def end(self, run: str) -> None:
        """Forget a run."""
        with self._lock:
            self._taken.pop(run, None)


@contextlib.contextmanager
def measuring_system(
    monitors: Callable[[], list[BaseMetricsMonitor]] = make_monitors, every: float | None = None
) -> Iterator[SystemMetrics]:
    """Measure within the block what this machine does.

    Args:
        every: seconds between two measurements; None for MLflow's setting, or SAMPLE_SECONDS.
    """
    system, over = SystemMetrics(), threading.Event()
    seconds = every or MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or SAMPLE_SECONDS
    found = monitors()

    def sample() -> None:
        measure(found)  # the first one has no beginning
        while not over.wait(seconds):
            system.add(measure(found))

    if found:
        threading.Thread(target=sample, name="system metrics", daemon=True).start()
    try:
        yield system
    finally:
        over.set()
