"""What a trial records about its device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf

from cnnstudy.records import TrialSpec
from cnnstudy.training import devices

MakeSpec = Callable[..., TrialSpec]


def test_a_trial_on_the_processor(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 2)
    found = devices.describe_device(make_spec(precision="auto"))
    assert found["device"]
    assert (found["threads"], found["precision"], found["xla"]) == ("2", "float32", "off")


def test_a_trial_on_a_gpu(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    details = {"device_name": "NVIDIA H100 80GB HBM3", "compute_capability": (9, 0)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    found = devices.describe_device(make_spec(precision="auto"))
    assert (found["device"], found["precision"], found["xla"]) == ("NVIDIA H100 80GB HBM3", "mixed_float16", "on")
    assert devices.describe_device(make_spec())["precision"] == "float32"


def test_tensorfloat_is_told_and_allowed_for(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_gpu_model", lambda: "NVIDIA H100")
    for gpus, enabled, allowed in (([], True, 1e-3), (["gpu"], False, 1e-3), (["gpu"], True, 2e-2)):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind, gpus=gpus: gpus)
        monkeypatch.setattr(
            tf.config.experimental, "tensor_float_32_execution_enabled", lambda enabled=enabled: enabled
        )
        assert devices.numeric_tolerance() == allowed
        assert ("tf32" in devices.describe_device(make_spec())) == (allowed > 1e-3)
        assert ("on" in devices.rounding_conditions(make_spec())[-2:]) == (allowed > 1e-3), "features of both lie apart"


def test_updates_that_several_gpus_divide(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA's programs run on one. Features are computed on the first, so their address is that of one GPU."""
    details = {"device_name": "NVIDIA H100", "compute_capability": (9, 0)}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    found = []
    for gpus in (["GPU:0"], ["GPU:0", "GPU:1"]):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind, gpus=gpus: gpus)
        monkeypatch.setattr(devices, "list_devices", lambda gpus=gpus: gpus)
        found.append((devices.describe_device(make_spec()), devices.rounding_conditions(make_spec())))
    (one, features_of_one), (two, features_of_two) = found
    assert one["xla"] == "on"
    assert two == {**one, "xla": "off", "replicas": "2"}
    assert features_of_one == features_of_two


def test_a_gpu_that_tensorflow_cannot_use_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.unused_gpu_message() == ""
    driver = tmp_path / "version"
    driver.touch()
    monkeypatch.setattr(devices, "NVIDIA_DRIVER", driver)
    assert "TensorFlow can use no GPU" in devices.unused_gpu_message()
    assert "tensorflow[and-cuda]" in devices.unused_gpu_message()
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert devices.unused_gpu_message() == "", "the user does not want it"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu"])
    assert devices.unused_gpu_message() == ""


@pytest.mark.parametrize(("given", "said"), [("1", "on"), ("0", "off"), (None, "as TensorFlow has it")])
def test_whether_onednn_is_on(
    given: str | None, said: str, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if given is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    assert devices.describe_device(make_spec())["onednn"] == said
