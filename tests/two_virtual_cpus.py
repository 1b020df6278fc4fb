"""A plugin of pytest, `-p two_virtual_cpus`: TensorFlow takes the processor for two devices, from its start on."""

from __future__ import annotations

import tensorflow as tf

(_cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(_cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(2)])
