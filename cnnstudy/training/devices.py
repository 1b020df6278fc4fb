"""What this process computes on, and what a trial's settings mean there."""

from __future__ import annotations

import tensorflow as tf


def gpu() -> str | None:
    """TensorFlow's name of the GPU that it computes on; None where it has none."""
    return "GPU:0" if tf.config.list_physical_devices("GPU") else None


def precision_of(asked: str) -> str:
    """One of Keras' policies. "auto" is mixed_float16 where every GPU has units for it (compute capability 7)."""
    if asked != "auto":
        return asked
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return "mixed_float16" if capabilities and min(capabilities) >= (7, 0) else "float32"


def uses_xla(asked: bool | None) -> bool:
    """None: on a GPU. On a CPU it took 2 to 3 times as long to the first update, and none was faster then."""
    return gpu() is not None if asked is None else asked
