"""What the machine does while trials run, as MLflow's system metrics."""

from __future__ import annotations

import threading

import pytest
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

from cnnstudy.tracking import system_metrics
from cnnstudy.tracking.system_metrics import SystemMetrics, make_monitors, measure, measuring_system

CPU = "system/cpu_utilization_percentage"


def test_mlflows_own_metrics_of_this_machine_are_measured() -> None:
    measured = measure(make_monitors())
    assert {CPU, "system/system_memory_usage_percentage", "system/system_memory_usage_megabytes"} <= measured.keys()
    assert 0 < measured["system/system_memory_usage_percentage"] < 100


def test_mlflows_switch_turns_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    assert make_monitors() == []
    with measuring_system(every=0.001) as system:
        assert system.take("a run") == {}


def test_a_run_has_the_mean_since_its_last_record() -> None:
    system = SystemMetrics()
    system.add({CPU: 90.0})
    system.begin("first")
    system.add({CPU: 10.0, "system/gpu_0_utilization_percentage": 50.0})
    system.begin("second")
    system.add({CPU: 20.0})
    assert system.take("first") == {CPU: 15.0, "system/gpu_0_utilization_percentage": 50.0}
    assert system.take("first") == {}
    assert system.take("second") == {CPU: 20.0}
    system.add({CPU: 30.0})
    assert system.take("first") == {CPU: 30.0}


class Counting(BaseMetricsMonitor):
    """A monitor whose measurements are 1, 2, 3 and so on; it tells of the third."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.third = 0.0, threading.Event()

    def collect_metrics(self) -> None:
        self.count += 1
        self._metrics["count"].append(self.count)
        if self.count == 3:
            self.third.set()

    def aggregate_metrics(self) -> dict[str, float]:
        return {name: values[-1] for name, values in self._metrics.items()}


def test_a_thread_measures_and_leaves_out_the_first_time_which_has_no_beginning() -> None:
    monitor = Counting()
    with measuring_system(lambda: [monitor], every=0.001) as system:
        system.begin("a run")
        assert monitor.third.wait(60)
    assert system.take("a run").get("system/count", 2.0) >= 2.0
    assert system_metrics.SAMPLE_SECONDS >= 1
