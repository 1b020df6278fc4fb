"""The worker process: `python -m cnnstudy.execution.worker`. Jobs come on standard input, one JSON a line; events leave
on what was standard output. It ends when its input ends, so no driver's death leaves it behind.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cnnstudy.errors import CnnstudyError, DataError
from cnnstudy.records import BadImage, EpochRecord, PreparedImages, Split, TrialSpec
from cnnstudy.system.imports import NOT_FOR_TENSORFLOW, fast_import

if TYPE_CHECKING:
    from cnnstudy.training.compiled import CompiledNetworks


#: Seconds between two looks.
INTERVAL = 10.0


class Heartbeat:
    """Watches one thread of this process.

    Args:
        tell: called after each interval in which the thread got on.
    """

    def __init__(self, thread: int, tell: Callable[[], None]) -> None:
        self._thread = thread
        self._tell = tell
        self._used = self._processor_time()

    def start(self) -> None:
        """Look again and again, for as long as the process lives."""

        def watch() -> None:
            while True:
                time.sleep(INTERVAL)
                if self.has_got_on():
                    self._tell()

        threading.Thread(target=watch, daemon=True).start()

    def has_got_on(self) -> bool:
        """Whether the thread has done anything since the last look."""
        before, self._used = self._used, self._processor_time()
        return self._used > before

    def _processor_time(self) -> float:
        if hasattr(time, "pthread_getcpuclockid"):
            return time.clock_gettime(time.pthread_getcpuclockid(self._thread))
        return time.process_time() - time.thread_time()  # all but the thread that looks


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--ahead", action="store_true", help="import TensorFlow before there is a job")
    parser.add_argument("--folder", type=Path, required=True, help="by which whoever looks knows whose worker it is")
    arguments = parser.parse_args()
    # Whatever a library prints goes to the log; only events go to the driver.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    _write_stacks_when_aborted()
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_messages, args=(sys.stdin, messages), daemon=True).start()
    worker = Worker(events, messages, arguments.threads, arguments.deterministic)
    if arguments.ahead:
        worker.get_ready()
    Heartbeat(threading.get_ident(), worker.tell_that_it_gets_on).start()
    while True:
        worker.run(messages.get())


def _write_stacks_when_aborted() -> None:
    """Into the log, where it crashes in C or is aborted because it hangs; without a core file of gigabytes."""
    faulthandler.enable()
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read_messages(stream: TextIO, messages: queue.Queue[dict[str, Any]]) -> None:
    for line in stream:
        messages.put(json.loads(line))
    os._exit(0)  # the driver is gone: nobody waits for what is being trained


class Worker:
    """Runs one job after the other in this process, TensorFlow imported once."""

    def __init__(
        self, events: TextIO, messages: queue.Queue[dict[str, Any]], threads: int, deterministic: bool
    ) -> None:
        self.events = events
        self.messages = messages
        self.threads = threads
        self.deterministic = deterministic
        self.folder, self.asks = Path(), False  # of the job under way
        self._compiled: CompiledNetworks | None = None
        self._is_set_up = self._has_told = False
        self._key: str | None = None  # of the job under way
        self._writing = threading.Lock()

    def run(self, job: dict[str, Any]) -> None:
        """Run a job; whatever it raises becomes a Failed event."""
        key = self._key = job["key"]
        self.folder, self.asks = Path(job["folder"]), bool(job["asks"])
        functions = {
            "prepare_images": self._prepare_images,
            "check_weights": self._check_weights,
            "measure_speed": self._measure_speed,
            "run_trial": self._run_trial,
            "predict": self._predict,
            "export_model": self._export_model,
            "explain_errors": self._explain_errors,
            "open_test": self._open_test,
        }
        try:
            self._send("done", key, result=functions[job["kind"]](key, job["payload"]))
        except Exception as error:
            self._send(
                "failed",
                key,
                reason=_reason(error),
                message=str(error) or type(error).__name__,
                traceback=traceback.format_exc(),
                error=type(error).__name__ if isinstance(error, CnnstudyError) else None,
            )

    def tell_that_it_gets_on(self) -> None:
        """For another thread: nothing is said between jobs."""
        if self._key is not None:
            self._send("alive", self._key)

    def _send(self, kind: str, key: str, **content: Any) -> None:
        with self._writing:
            if self._key is None:  # it ended while another thread was about to speak of it
                return
            if kind in ("done", "failed"):
                self._key = None
            self.events.write(json.dumps({"kind": kind, "key": key, **content}) + "\n")

    def _progress(self, key: str) -> Callable[[str, int, int], None]:
        """Tells the driver of something countable; total 0 means: not known."""
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

    def _check_weights(self, key: str, payload: dict[str, Any]) -> dict[str, str]:
        """Find the file and lay it into the network once, so that no trial finds out later that it does not fit."""
        from cnnstudy import architectures

        self._send("progress", key, what=f"checking source weights of {payload['architecture']}", done=0, total=0)
        self._set_up_tensorflow()
        from cnnstudy.training import weights

        architecture = architectures.find(payload["architecture"])
        path = Path(payload["file"]).expanduser() if payload["file"] else weights.imagenet_file(architecture)
        network = architectures.build_network(architecture, payload["image_size"], payload["classes"], dropout=0.0)
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

        self._tell_of_an_unused_gpu(key)
        spec = TrialSpec.from_json(payload)
        return run_trial(spec, self.folder / key, report, self._networks(), self._progress(key)).to_json()

    def _tell_of_an_unused_gpu(self, key: str) -> None:
        from cnnstudy.training import devices

        told, self._has_told = self._has_told, True
        if not told and (what := devices.unused_gpu_message()):
            self._send("progress", key, what=what, done=0, total=0)

    def _predict(self, key: str, payload: dict[str, Any]) -> list[Any]:
        self._send("progress", key, what="starting TensorFlow", done=0, total=0)
        self._set_up_tensorflow()
        from cnnstudy.training.predict import predict_images

        found = predict_images(
            Path(payload["model"]), payload["classes"], payload["images"], payload["top"], self._progress(key)
        )
        return [{"bad": one.to_json()} if isinstance(one, BadImage) else {"classes": one} for one in found]

    def _export_model(self, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        self._send("progress", key, what="starting TensorFlow", done=0, total=0)
        self._set_up_tensorflow()
        import tensorflow as tf

        # what is exported is compared with what a processor makes of it, which has float32 only
        tf.config.experimental.enable_tensor_float_32_execution(False)
        from cnnstudy.training.export import export_model

        model, folder = Path(payload["model"]), Path(payload["folder"])
        return export_model(model, payload["classes"], folder, payload["format"], self._progress(key))

    def _explain_errors(self, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        self._set_up_tensorflow()
        from cnnstudy.training.mistakes import explain_errors

        spec, model, folder = TrialSpec.from_json(payload["spec"]), Path(payload["model"]), Path(payload["folder"])
        return explain_errors(spec, model, folder, payload["count"], self._progress(key))

    def _open_test(self, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        self._set_up_tensorflow()
        from cnnstudy.training.test_split import evaluate_on_test

        images, split = PreparedImages.from_json(payload["images"]), Split.from_json(payload["split"])
        return evaluate_on_test([Path(file) for file in payload["models"]], images, split, self._progress(key))

    def _networks(self) -> CompiledNetworks:
        """What is compiled, from trial to trial."""
        from cnnstudy.training.compiled import CompiledNetworks

        if self._compiled is None:
            self._compiled = CompiledNetworks()
        return self._compiled

    def get_ready(self) -> None:
        """Import what trials take, while nobody waits for it."""
        with contextlib.suppress(Exception), fast_import():  # the job that needs it says so
            self._set_up_tensorflow()
            importlib.import_module("cnnstudy.training.trial")

    def _set_up_tensorflow(self) -> None:
        if self._is_set_up:  # what else imports TensorFlow, a data set's download say, sets nothing
            return
        with fast_import(without=NOT_FOR_TENSORFLOW):
            import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(self.threads)
        tf.config.threading.set_inter_op_parallelism_threads(min(2, self.threads))
        if self.deterministic:
            tf.config.experimental.enable_op_determinism()
        for device in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(device, True)
        self._is_set_up = True


#: What the libraries of a GPU say where it has no memory left.
_NO_MEMORY = (
    "ALLOC_FAILED",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "Dst tensor is not initialized",
)


def _reason(error: Exception) -> str:
    """One of records.FAILURE_REASONS."""
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return "oom"
    if type(error).__module__.startswith("tensorflow") and any(words in str(error) for words in _NO_MEMORY):
        return "oom"
    if type(error).__name__ == "DivergedError":
        return "diverged"
    return "data" if isinstance(error, DataError) else "crash"


if __name__ == "__main__":
    main()
