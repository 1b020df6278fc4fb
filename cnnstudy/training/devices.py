"""Describe the device that this process computes on, and resolve a trial's settings for it."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

import tensorflow as tf

from cnnstudy.records import TrialSpec

#: Exists where the driver is loaded.
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def gpu_name() -> str | None:
    """Return TensorFlow's name of the GPU that it computes on; None if it has none."""
    return "GPU:0" if tf.config.list_physical_devices("GPU") else None


def list_devices() -> list[str]:
    """Return TensorFlow's names of the devices that divide each update among them: its GPUs, or else its CPU.

    A worker sees as many GPUs as each trial of the study gets; a CPU is several devices in tests only.
    """
    gpus, cpus = (tf.config.list_logical_devices(kind) for kind in ("GPU", "CPU"))
    return [device.name for device in gpus or cpus]


def choose_precision(asked: str) -> str:
    """Return a Keras policy; "auto" is mixed_float16 if every GPU has units for it (compute capability 7)."""
    if asked != "auto":
        return asked
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return "mixed_float16" if capabilities and min(capabilities) >= (7, 0) else "float32"


def uses_xla(spec: TrialSpec) -> bool:
    """Check whether a trial's updates are compiled with XLA.

    By default they are on a GPU, as in Keras, but not in deterministic trials: XLA has no deterministic gradient of
    max-pooling. Nor are they on several GPUs: a program of XLA runs on one. On a CPU the first update took 2 to 3 times
    as long, and no update was faster.
    """
    if len(list_devices()) > 1:
        return False
    return gpu_name() is not None and not spec.deterministic if spec.xla is None else spec.xla


def numeric_tolerance() -> float:
    """Return how far logits or losses of the same weights and images may differ, relative to the largest.

    A GPU multiplies in TensorFloat-32, with a 10-bit fraction, using whichever kernel was fastest for the batch size:
    results at two batch sizes may differ by more than a thousandth.
    """
    return 2e-2 if _has_tf32() else 1e-3


def _has_tf32() -> bool:
    return gpu_name() is not None and tf.config.experimental.tensor_float_32_execution_enabled()


def describe_device(spec: TrialSpec) -> dict[str, str]:
    """Return what a trial's numbers depend on besides its specification and the packages: settings by name."""
    precision, xla = choose_precision(spec.precision), "on" if uses_xla(spec) else "off"
    replicas = {"replicas": str(len(list_devices()))} if len(list_devices()) > 1 else {}
    return {**_kernel_settings(), "precision": precision, "xla": xla, **replicas}


def rounding_conditions(spec: TrialSpec) -> list[str]:
    """Return what determines the rounding of float32 results of inference here; part of the features' cache address."""
    return [*_kernel_settings().values(), "deterministic" if spec.deterministic else "as fast as it goes"]


def _kernel_settings() -> dict[str, str]:
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    return {
        "device": _gpu_model() or _cpu_model(),
        "threads": str(threads or "as many as there are cores"),
        # a worker always sets it, because TensorFlow's default depends on the processor
        "onednn": {"1": "on", "0": "off"}.get(os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""), "as TensorFlow has it"),
        **({"tf32": "on"} if _has_tf32() else {}),
    }


def unused_gpu_message() -> str:
    """Return what to do about a GPU that TensorFlow can't use; "" if there is none."""
    if not NVIDIA_DRIVER.exists() or gpu_name() is not None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ""
    return (
        "this machine has an NVIDIA driver, but TensorFlow can use no GPU: trials train on the CPU. Install the GPU "
        "libraries with: python -m pip install -c constraints.txt 'tensorflow[and-cuda]'"
    )


def _gpu_model() -> str:
    names = [
        str(tf.config.experimental.get_device_details(one).get("device_name", "GPU"))
        for one in tf.config.list_physical_devices("GPU")
    ]
    return ", ".join(dict.fromkeys(names))


def _cpu_model() -> str:
    """Return the CPU's name, with AVX-512 if it has it: kernels depend on that, and a virtual machine may hide it."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip() + (" with AVX-512" if "avx512f" in text.split() else "")
    return platform.processor() or platform.machine()
