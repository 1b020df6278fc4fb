"""The worker process: `python -m cnnstudy.execution.worker`.

Comes in: jobs and answers on standard input, one JSON object per line. Goes out: events on the original standard
output, in the same form. The process ends when its input ends, so it never outlives its driver.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import json
import os
import queue
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cnnstudy.errors import CnnstudyError, DataError, EnvironmentTrouble, WorkerError
from cnnstudy.records import BadImage, EpochRecord, PreparedImages, Split, TrialSpec, read_probe
from cnnstudy.system.imports import NOT_FOR_TENSORFLOW, fast_import, import_keras
from cnnstudy.system.scratch import restate_os_error

if TYPE_CHECKING:
    from cnnstudy.training.compiled import CompiledNetworks

#: Seconds between two signs of life.
HEARTBEAT_INTERVAL = 10.0
#: What GPU libraries report when the GPU has run out of memory.
_NO_MEMORY = (
    "ALLOC_FAILED",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "Dst tensor is not initialized",
)
#: TensorFlow reports a full disk as exhausted resources too.
_DISK_FULL = "No space left on device"


def main() -> None:
    """Run jobs until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--gpus", type=int, default=1, help="divide each update among so many")
    parser.add_argument("--ahead", action="store_true", help="import TensorFlow before the first job")
    parser.add_argument("--folder", type=Path, required=True, help="identifies the driver in process listings")
    arguments = parser.parse_args()
    # only events go to the driver; whatever a library prints goes to the log
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    _log_stacks_on_abort()
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_messages, args=(sys.stdin, messages), daemon=True).start()
    worker = Worker(events, messages, arguments.threads, arguments.deterministic, arguments.gpus)
    if arguments.ahead:
        worker.warm_up()
    Heartbeat(threading.get_ident(), worker.send_alive).start()
    while True:
        worker.run(messages.get())


def _log_stacks_on_abort() -> None:
    """Have Python write stack traces to the log after a crash in C or an abort, but no core file of gigabytes."""
    faulthandler.enable()
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read_messages(stream: TextIO, messages: queue.Queue[dict[str, Any]]) -> None:
    for line in stream:
        messages.put(json.loads(line))
    os._exit(0)  # the driver has gone, so the results are no longer needed


class Worker:
    """Runs jobs one after another in this process, which imports TensorFlow once.

    Args:
        events: the stream for events.
        messages: from the driver: jobs, and answers to epochs.
        threads: that TensorFlow may use.
        deterministic: whether TensorFlow must be deterministic.
        gpus: that TensorFlow must find, if more than one.
    """

    def __init__(
        self,
        events: TextIO,
        messages: queue.Queue[dict[str, Any]],
        threads: int,
        deterministic: bool,
        gpus: int = 1,
    ) -> None:
        self.events = events
        self.messages = messages
        self.threads = threads
        self.deterministic = deterministic
        self.gpus = gpus
        self.folder, self.asks = Path(), False  # of the current job
        self._compiled: CompiledNetworks | None = None
        self._is_set_up = self._gpu_is_checked = False
        self._key: str | None = None  # of the current job
        self._lock = threading.Lock()  # guards _key and events

    def run(self, job: dict[str, Any]) -> None:
        """Run a job and report its result; whatever it raises becomes a Failed event."""
        key = self._key = job["key"]
        self.folder, self.asks = Path(job["folder"]), bool(job["asks"])
        functions = {
            "prepare_images": self._prepare_images,
            "count_source_copies": self._count_source_copies,
            "check_network": self._check_network,
            "check_weights": self._check_weights,
            "measure_speed": self._measure_speed,
            "run_trial": self._run_trial,
            "predict": self._predict,
            "export_model": self._export_model,
            "export_features": self._export_features,
            "explain_mistakes": self._explain_mistakes,
            "find_lookalikes": self._find_lookalikes,
            "open_test": self._open_test,
        }
        try:
            if self.gpus > 1:  # what is missing is told with the first job, before any trial
                self._set_up_tensorflow()
            self._send("done", key, result=functions[job["kind"]](key, job["payload"]))
        except Exception as raised:
            error = (restate_os_error(raised) if isinstance(raised, OSError) else None) or raised
            self._send(
                "failed",
                key,
                reason=_failure_reason(error),
                message=str(error) or type(error).__name__,
                traceback=traceback.format_exc(),
                error=type(error).__name__ if isinstance(error, CnnstudyError) else None,
            )

    def send_alive(self) -> None:
        """Send a sign of life if a job is running; for use by another thread."""
        if self._key is not None:
            self._send("alive", self._key)

    def _send(self, kind: str, key: str, **content: Any) -> None:
        with self._lock:
            if self._key is None:  # the job ended while another thread was about to report
                return
            if kind in ("done", "failed"):
                self._key = None
            self.events.write(json.dumps({"kind": kind, "key": key, **content}) + "\n")

    def _progress(self, key: str) -> Callable[[str, int, int], None]:
        """Return a function (what, done, total) that reports progress; a total of 0 means that it is not known."""
        return lambda what, done, total: self._send("progress", key, what=what, done=done, total=total)

    def _prepare_images(self, key: str, payload: dict[str, Any]) -> list[dict[str, Any]]:
        from cnnstudy.data import datasets, images

        options = datasets.find(payload["options"]["name"]).Options.model_validate(payload["options"])
        prepared = images.prepare_images(
            options,
            payload["sizes"],
            payload["split_seed"],
            self._progress(key),
        )
        return [entry.to_json() for entry in prepared]

    def _count_source_copies(self, key: str, payload: dict[str, Any]) -> dict[str, int]:
        from cnnstudy.data.source_copies import count_source_copies

        images, source = (PreparedImages.from_json(payload[name]) for name in ("images", "source"))
        return count_source_copies(images, source, Split.from_json(payload["split"]), self._progress(key))

    def _check_network(self, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Build a network once, so that what is wrong with it, or with its stages, is told before any trial."""
        from cnnstudy import architectures

        self._send("progress", key, what=f"building {payload['architecture']}", done=0, total=0)
        self._set_up_tensorflow()
        from cnnstudy.training import transfer

        architecture = architectures.find(payload["architecture"])
        build = partial(architectures.build_network, architecture, payload["image_size"], classes=2, dropout=0.0)
        network = build()
        for mode in payload["modes"]:
            transfer.find_cut_points(network, mode)
            if probe := read_probe(mode):
                build(linear=probe.takes)
        return {"has_batch_norm": network.architecture.has_batch_norm}

    def _check_weights(self, key: str, payload: dict[str, Any]) -> dict[str, str]:
        """Load the source weights into the network once, so that a file that does not fit fails before any trial."""
        from cnnstudy import architectures

        self._send("progress", key, what=f"checking source weights of {payload['architecture']}", done=0, total=0)
        self._set_up_tensorflow()
        from cnnstudy.training import weights

        architecture = architectures.find(payload["architecture"])
        path = Path(payload["file"]).expanduser() if payload["file"] else weights.imagenet_file(architecture)
        network = architectures.build_network(architecture, payload["image_size"], classes=2, dropout=0.0)
        weights.load_backbone(network, path)
        return {
            "file": str(path.absolute()),
            "digest": weights.combined_digest(weights.layer_digests(weights.backbone_layers(network.logits))),
        }

    def _measure_speed(self, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        self._set_up_tensorflow()
        from cnnstudy.training.speed import measure_speed

        spec = TrialSpec.from_json(payload["spec"])
        return measure_speed(spec, payload["batch_sizes"], self._networks()).to_json()

    def _run_trial(self, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        self._set_up_tensorflow()
        from cnnstudy.training.trial import run_trial

        def report(record: EpochRecord) -> bool:
            self._send("epoch", key, record=record.to_json(), asks=self.asks)
            return not self.asks or bool(self.messages.get()["go_on"])

        self._report_unused_gpu(key)
        spec = TrialSpec.from_json(payload)
        # half-written files of an attempt that failed would get in the way of this one
        shutil.rmtree(self.folder / key, ignore_errors=True)
        return run_trial(spec, self.folder / key, report, self._networks(), self._progress(key)).to_json()

    def _report_unused_gpu(self, key: str) -> None:
        """Report once per worker that TensorFlow does not use the GPU."""
        from cnnstudy.training import devices

        if not self._gpu_is_checked and (what := devices.unused_gpu_message()):
            self._send("progress", key, what=what, done=0, total=0)
        self._gpu_is_checked = True

    def _predict(self, key: str, payload: dict[str, Any]) -> list[Any]:
        self._send("progress", key, what="starting TensorFlow", done=0, total=0)
        self._set_up_tensorflow()
        from cnnstudy.training.predict import predict_images

        predictions = predict_images(
            Path(payload["model"]), payload["classes"], payload["images"], payload["top"], self._progress(key)
        )
        return [{"bad": one.to_json()} if isinstance(one, BadImage) else {"classes": one} for one in predictions]

    def _export_model(self, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        self._send("progress", key, what="starting TensorFlow", done=0, total=0)
        self._set_up_tensorflow()
        import tensorflow as tf

        # the export may be checked on the CPU, which computes in full float32
        tf.config.experimental.enable_tensor_float_32_execution(False)
        from cnnstudy.training.export import export_model

        model, folder, classes, contract = (payload[name] for name in ("model", "folder", "classes", "contract"))
        return export_model(Path(model), classes, contract, Path(folder), payload["format"], self._progress(key))

    def _export_features(self, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        self._send("progress", key, what="starting TensorFlow", done=0, total=0)
        self._set_up_tensorflow()
        from cnnstudy.training.feature_tables import write_features

        spec = TrialSpec.from_json(payload["spec"])
        return write_features(spec, Path(payload["path"]), self._networks(), self._progress(key))

    def _explain_mistakes(self, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        self._set_up_tensorflow()
        from cnnstudy.training.mistakes import explain_mistakes

        spec, model, folder = TrialSpec.from_json(payload["spec"]), Path(payload["model"]), Path(payload["folder"])
        return explain_mistakes(spec, model, folder, payload["count"], self._progress(key))

    def _find_lookalikes(self, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        self._send("progress", key, what="starting TensorFlow", done=0, total=0)
        self._set_up_tensorflow()
        from cnnstudy import architectures
        from cnnstudy.data import datasets, images
        from cnnstudy.training import lookalikes, weights

        architecture = architectures.find(payload["architecture"])
        file = Path(payload["file"]) if payload["file"] else weights.imagenet_file(architecture)
        model = lookalikes.feature_model(architecture, payload["image_size"], file)
        options = datasets.find(payload["options"]["name"]).Options.model_validate(payload["options"])
        listed = images.list_images(options, payload["split_seed"], self._progress(key))
        if listed.digest != payload["digest"]:
            raise DataError("the images changed while they were looked at; run again when nothing changes them.")
        places, tested = payload["places"], frozenset(payload["tested"])
        return lookalikes.find_lookalikes(model, listed, places, tested, self._progress(key))

    def _open_test(self, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        self._set_up_tensorflow()
        from cnnstudy.training.test_split import evaluate_on_test

        images, split = PreparedImages.from_json(payload["images"]), Split.from_json(payload["split"])
        return evaluate_on_test([Path(file) for file in payload["models"]], images, split, self._progress(key))

    def _networks(self) -> CompiledNetworks:
        """Return the compiled networks, which are reused from trial to trial."""
        from cnnstudy.training.compiled import CompiledNetworks

        if self._compiled is None:
            self._compiled = CompiledNetworks()
        return self._compiled

    def warm_up(self) -> None:
        """Import what trials need before the first job comes."""
        with contextlib.suppress(Exception), fast_import():  # the job that needs it will report the error
            self._set_up_tensorflow()
            importlib.import_module("cnnstudy.training.trial")

    def _set_up_tensorflow(self) -> None:
        if self._is_set_up:  # not the same as imported: a data set's download imports TensorFlow too
            return
        with fast_import(without=NOT_FOR_TENSORFLOW):
            import tensorflow as tf

            import_keras()
        tf.config.threading.set_intra_op_parallelism_threads(self.threads)
        tf.config.threading.set_inter_op_parallelism_threads(min(2, self.threads))
        if self.deterministic:
            tf.config.experimental.enable_op_determinism()
        gpus = tf.config.list_physical_devices("GPU")
        if len(gpus) < self.gpus > 1:
            raise WorkerError(
                f"each trial is to train on {self.gpus} GPUs (execution.gpus), and TensorFlow finds "
                f"{len(gpus) or 'none'} here. `python -m cnnstudy doctor` says whether its GPU libraries are there. "
                "With execution.gpus: 0 each trial takes one GPU, or else the CPU."
            )
        tf.config.set_visible_devices(gpus[: self.gpus], "GPU")  # updates are divided among all that are visible
        for device in gpus:
            tf.config.experimental.set_memory_growth(device, True)
        self._is_set_up = True


def _failure_reason(error: Exception) -> str:
    """Return one of records.FAILURE_REASONS."""
    if type(error).__module__.startswith("tensorflow") and _DISK_FULL in str(error):
        return "environment"
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return "oom"
    if type(error).__module__.startswith("tensorflow") and any(words in str(error) for words in _NO_MEMORY):
        return "oom"
    if type(error).__name__ == "DivergedError":
        return "diverged"
    if isinstance(error, DataError):
        return "data"
    # of the machine or its files, whatever the trial's settings are
    return "environment" if isinstance(error, EnvironmentTrouble | ImportError | OSError) else "crash"


class Heartbeat:
    """Watches one thread of this process and reports while it runs.

    Args:
        tell: called after each interval in which the thread has used the processor.
    """

    def __init__(self, thread: int, tell: Callable[[], None]) -> None:
        self._thread = thread
        self._tell = tell
        self._used = self._processor_time()

    def start(self) -> None:
        """Watch the thread, in another one, for as long as the process lives."""

        def watch() -> None:
            while True:
                time.sleep(HEARTBEAT_INTERVAL)
                if self.has_run():
                    self._tell()

        threading.Thread(target=watch, daemon=True).start()

    def has_run(self) -> bool:
        """Check whether the thread has used the processor since the last check."""
        before, self._used = self._used, self._processor_time()
        return self._used > before

    def _processor_time(self) -> float:
        if hasattr(time, "pthread_getcpuclockid"):
            return time.clock_gettime(time.pthread_getcpuclockid(self._thread))
        return time.process_time() - time.thread_time()  # of all threads but the one that watches


if __name__ == "__main__":
    main()
