"""Updates compiled with XLA, on the CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf

from cnnstudy.records import Optimizer, TrialSpec
from cnnstudy.training import devices, trial
from cnnstudy.training.compiled import CompiledNetworks
from cnnstudy.training.updates import UpdateKind

MakeSpec = Callable[..., TrialSpec]
#: How far losses (nats) may be apart.
TOLERANCE = 1e-4


@pytest.mark.parametrize(
    "given",
    [{"augmentation": "strong"}, {"micro_batch": 16}, {"precision": "mixed_float16"}, {"dropout": 0.5}],
    ids=lambda given: next(iter(given)),
)
def test_xla_gives_the_same_numbers(given: dict[str, object], make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(batch_size=25, learning_rate=1e-4, epochs=1, keep_model=False, **{"dropout": 0.0, **given})
    networks = CompiledNetworks()
    plain = trial.run_trial(spec, tmp_path / "plain", lambda record: True, networks)
    compiled = trial.run_trial(dataclasses.replace(spec, xla=True), tmp_path / "xla", lambda record: True, networks)
    tolerance = 1e-3 if "dropout" in given or "precision" in given else TOLERANCE  # dropout draws other numbers
    for metric in ("train/loss", "val/loss", "full_train/loss"):
        assert compiled.summary[metric] == pytest.approx(plain.summary[metric], abs=tolerance), metric
    again = trial.run_trial(spec, tmp_path / "again", lambda record: True, networks)
    assert again.summary == plain.summary, "updates with and without it are apart"


def test_the_update_is_compiled_only_if_asked_for(make_spec: MakeSpec) -> None:
    compiled = CompiledNetworks().start(make_spec())
    for xla in (False, True):
        update = compiled.update(UpdateKind(("",), False, Optimizer("sgd"), "none", xla=xla))
        functions = update._steps.get_concrete_function().graph.as_graph_def().library.function
        assert any(function.attr["_XlaMustCompile"].b for function in functions) == xla


def test_auto_is_on_a_gpu_but_not_in_deterministic_trials(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus in ([], ["GPU"]):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind, gpus=gpus: gpus)
        assert [devices.uses_xla(make_spec(xla=asked)) for asked in (None, True, False)] == [bool(gpus), True, False]
        assert not devices.uses_xla(make_spec(deterministic=True))
