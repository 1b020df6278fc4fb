"""What a worker sets up, and what it calls the errors of jobs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tensorflow as tf

from cnnstudy.errors import DataError
from cnnstudy.execution.worker import _reason

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


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "oom"),
        (tf.errors.ResourceExhaustedError(None, None, "no memory"), "oom"),
        (tf.errors.InternalError(None, None, "_EagerConst: Dst tensor is not initialized."), "oom"),
        (tf.errors.NotFoundError(None, None, "No algorithm worked! CUDNN_STATUS_ALLOC_FAILED"), "oom"),
        (tf.errors.InternalError(None, None, "an illegal memory access was encountered"), "crash"),
        (RuntimeError("the words ALLOC_FAILED elsewhere"), "crash"),
        (DataError("gone"), "data"),
    ],
)
def test_what_an_error_is_called(error: Exception, reason: str) -> None:
    assert _reason(error) == reason
