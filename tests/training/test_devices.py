"""What a trial says of the device that it ran on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tensorflow as tf

from cnnstudy.records import TrialSpec
from cnnstudy.training import devices

MakeSpec = Callable[..., TrialSpec]


def test_a_trial_on_the_processor(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 2)
    found = devices.computed_on(make_spec(precision="auto"))
    assert found["device"]
    assert (found["threads"], found["precision"], found["xla"]) == ("2", "float32", "off")


def test_a_trial_on_a_gpu(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    details = {"device_name": "NVIDIA H100 80GB HBM3", "compute_capability": (9, 0)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    found = devices.computed_on(make_spec(precision="auto"))
    assert (found["device"], found["precision"], found["xla"]) == ("NVIDIA H100 80GB HBM3", "mixed_float16", "on")
    assert devices.computed_on(make_spec())["precision"] == "float32"


@pytest.mark.parametrize(("given", "said"), [("1", "on"), ("0", "off"), (None, "as TensorFlow has it")])
def test_whether_onednn_is_on(
    given: str | None, said: str, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if given is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    assert devices.computed_on(make_spec())["onednn"] == said
