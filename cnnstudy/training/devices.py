"""What this process computes on, and what a trial's settings mean there."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

import tensorflow as tf

from cnnstudy.records import TrialSpec

#: It is there where the driver is loaded.
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def gpu_name() -> str | None:
    """TensorFlow's name of the GPU that it computes on; None where it has none."""
    return "GPU:0" if tf.config.list_physical_devices("GPU") else None


def choose_precision(asked: str) -> str:
    """One of Keras' policies. "auto" is mixed_float16 where every GPU has units for it (compute capability 7)."""
    if asked != "auto":
        return asked
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return "mixed_float16" if capabilities and min(capabilities) >= (7, 0) else "float32"


def uses_xla(spec: TrialSpec) -> bool:
    """Where nothing is asked for: on a GPU, as Keras does; but not in a deterministic trial, for XLA has no such
    gradient of max-pooling. On a CPU it took 2 to 3 times as long to the first update, and none was faster then.
    """
    return gpu_name() is not None and not spec.deterministic if spec.xla is None else spec.xla


def numeric_tolerance() -> float:
    """How far apart, relative to the largest, logits or losses of the same weights and images may come out.

    A GPU multiplies in TensorFloat-32, with 10 bits behind the point, by whichever kernel was fastest for a batch of
    that size: two sizes may differ by more than a thousandth.
    """
    return 2e-2 if _has_tf32() else 1e-3


def _has_tf32() -> bool:
    return gpu_name() is not None and tf.config.experimental.tensor_float_32_execution_enabled()


def describe_device(spec: TrialSpec) -> dict[str, str]:
    """What a trial's numbers may depend on beside its specification and the packages, in words."""
    precision, xla = choose_precision(spec.precision), "on" if uses_xla(spec) else "off"
    return {**_kernels(), "precision": precision, "xla": xla}


def rounding_conditions(spec: TrialSpec) -> list[str]:
    """What decides here how a sum is rounded in float32, where nothing is trained: for the address of what is kept."""
    return [*_kernels().values(), "deterministic" if spec.deterministic else "as fast as it goes"]


def _kernels() -> dict[str, str]:
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    return {
        "device": _name_of_gpu() or _name_of_processor(),
        "threads": str(threads or "as many as there are cores"),
        # TensorFlow's own default depends on the processor; a worker always sets it
        "onednn": {"1": "on", "0": "off"}.get(os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""), "as TensorFlow has it"),
        **({"tf32": "on"} if _has_tf32() else {}),
    }


def unused_gpu_message() -> str:
    """What to do about a GPU that is here and that TensorFlow can't use; "" where there is none."""
    if not NVIDIA_DRIVER.exists() or gpu_name() is not None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ""
    return (
        "this machine has an NVIDIA driver, and TensorFlow can use no GPU: trials train on the processor. Its "
        "libraries come with: python -m pip install -c constraints.txt 'tensorflow[and-cuda]'"
    )


def _name_of_gpu() -> str:
    names = [
        str(tf.config.experimental.get_device_details(one).get("device_name", "GPU"))
        for one in tf.config.list_physical_devices("GPU")
    ]
    return ", ".join(names)


def _name_of_processor() -> str:
    """With its widest instructions, which a virtual machine may hide: the kernels depend on them."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip() + (" with AVX-512" if "avx512f" in text.split() else "")
    return platform.processor() or platform.machine()
