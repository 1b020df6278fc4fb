"""How a worker sets up TensorFlow, and which failure reason it gives to an error."""

from __future__ import annotations

import errno
import io
import json
import queue
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

from cnnstudy.errors import DataError, UnknownNameError, WeightsError
from cnnstudy.execution.worker import Worker, _failure_reason
from cnnstudy.records import TrialSpec
from cnnstudy.training import devices, trial

SET_UP = """
import io, queue
import keras  # as a data set's download does
import tensorflow as tf
from cnnstudy.execution.worker import Worker
worker = Worker(io.StringIO(), queue.Queue(), 1, True)
for _ in range(2):
    worker._set_up_tensorflow()
print(tf.config.threading.get_intra_op_parallelism_threads(), end=" ")
print(tf.config.threading.get_inter_op_parallelism_threads(), end=" ")
try:
    tf.random.normal((2,))
except RuntimeError as error:  # without a seed there is no determinism
    print("deterministic" if "determinism" in str(error) else error)
"""


def test_threads_and_determinism_are_set_whoever_imported_tensorflow() -> None:
    done = subprocess.run([sys.executable, "-c", SET_UP], capture_output=True, text=True)
    assert done.stdout.split() == ["1", "1", "deterministic"], done.stderr[-2000:]


def test_an_unused_gpu_is_told_once_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "unused_gpu_message", lambda: "no GPU")
    monkeypatch.setattr(trial, "run_trial", lambda spec, *_: spec)
    monkeypatch.setattr(Worker, "_set_up_tensorflow", lambda self: None)
    monkeypatch.setattr(TrialSpec, "from_json", lambda given: SimpleNamespace(to_json=lambda: given))
    events = io.StringIO()
    worker = Worker(events, queue.Queue(), 1, False)
    for key in ("a", "b"):
        worker.run({"key": key, "kind": "run_trial", "folder": "", "asks": False, "payload": {}})
    told = [json.loads(line) for line in events.getvalue().splitlines()]
    assert [(one["kind"], one["key"]) for one in told] == [("progress", "a"), ("done", "a"), ("done", "b")]
    assert told[0]["what"] == "no GPU"


@pytest.mark.parametrize("asked", [1, 2])
def test_a_worker_sees_no_more_gpus_than_it_is_to_use(asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing lists the machine's GPUs, the environment hides none of them."""
    found, visible = ["GPU:0", "GPU:1", "GPU:2"], []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: found)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda names, kind: visible.append((names, kind)))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *_: None)
    for set_up in ("set_intra_op_parallelism_threads", "set_inter_op_parallelism_threads"):
        monkeypatch.setattr(tf.config.threading, set_up, lambda threads: None)
    Worker(io.StringIO(), queue.Queue(), 1, False, gpus=asked)._set_up_tensorflow()
    assert visible == [(found[:asked], "GPU")]


def test_gpus_that_tensorflow_does_not_find_are_told_with_the_first_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    for set_up in ("set_intra_op_parallelism_threads", "set_inter_op_parallelism_threads"):
        monkeypatch.setattr(tf.config.threading, set_up, lambda threads: None)
    events = io.StringIO()
    worker = Worker(events, queue.Queue(), 1, False, gpus=2)
    worker.run({"key": "a", "kind": "prepare_images", "folder": "", "asks": False, "payload": {}})
    (told,) = [json.loads(line) for line in events.getvalue().splitlines()]
    assert (told["kind"], told["reason"], told["error"]) == ("failed", "environment", "WorkerError")
    assert "to train on 2 GPUs (execution.gpus), and TensorFlow finds 1 here" in told["message"]
    assert "cnnstudy doctor" in told["message"]


def test_what_an_attempt_that_failed_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "model").mkdir(parents=True)
    monkeypatch.setattr(trial, "run_trial", lambda spec, folder, *_: pytest.fail("left") if folder.exists() else spec)
    monkeypatch.setattr(Worker, "_set_up_tensorflow", lambda self: None)
    monkeypatch.setattr(TrialSpec, "from_json", lambda given: SimpleNamespace(to_json=lambda: given))
    events = io.StringIO()
    worker = Worker(events, queue.Queue(), 1, False)
    worker.run({"key": "a", "kind": "run_trial", "folder": str(tmp_path), "asks": False, "payload": {}})
    assert json.loads(events.getvalue().splitlines()[-1])["kind"] == "done"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "oom"),
        (tf.errors.ResourceExhaustedError(None, None, "no memory"), "oom"),
        (tf.errors.InternalError(None, None, "_EagerConst: Dst tensor is not initialized."), "oom"),
        (tf.errors.NotFoundError(None, None, "No algorithm worked! CUDNN_STATUS_ALLOC_FAILED"), "oom"),
        (tf.errors.InternalError(None, None, "an illegal memory access was encountered"), "crash"),
        (RuntimeError("the words ALLOC_FAILED elsewhere"), "crash"),
        (tf.errors.ResourceExhaustedError(None, None, "/tmp/x; No space left on device"), "environment"),
        (OSError(errno.ENOSPC, "No space left on device"), "environment"),
        (FileNotFoundError("a disk that was taken away"), "environment"),
        (ModuleNotFoundError("No module named 'h5py'"), "environment"),
        (WeightsError("the file is gone"), "environment"),
        (UnknownNameError("no such network"), "crash"),
        (DataError("gone"), "data"),
    ],
)
def test_what_an_error_is_called(error: Exception, reason: str) -> None:
    assert _failure_reason(error) == reason
