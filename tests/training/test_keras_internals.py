"""The installed Keras and TensorFlow have the undocumented parts that training needs; others are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import keras
import pytest

import cnnstudy
from cnnstudy.errors import WorkerError
from cnnstudy.training import keras_internals
from cnnstudy.training.compiled import CompiledNetworks

ROOT = Path(cnnstudy.__file__).parent.parent
#: The lowest versions allowed and those tested together, as pyproject.toml and the two files of constraints have them.
VERSIONS = {"keras": ("3.15", "3.15.1"), "tensorflow": ("2.20", "2.21.0")}


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    keras_internals.check_versions.cache_clear()
    yield
    keras_internals.check_versions.cache_clear()


@pytest.mark.parametrize("address", keras_internals.METHODS)
def test_a_function_has_these_parameters(address: str) -> None:
    assert not keras_internals._lacks_method(address)


@pytest.mark.parametrize("name", keras_internals.ATTRIBUTES)
def test_an_instance_has_these_attributes(name: str) -> None:
    assert not keras_internals._lacks_attribute(name)


@pytest.mark.parametrize(("package", "versions"), VERSIONS.items())
def test_the_versions_are_those_of_the_project(package: str, versions: tuple[str, str]) -> None:
    lowest, newest = versions
    assert f'"{package}>={lowest}"' in (ROOT / "pyproject.toml").read_text()
    assert f"\n{package}=={lowest}\n" in (ROOT / "constraints-lowest.txt").read_text()
    assert f"\n{package}=={newest}\n" in (ROOT / "constraints.txt").read_text()
    assert re.search(rf"(?mi)^ +{package} +{lowest} +{newest}$", keras_internals.__doc__ or "")


@pytest.mark.parametrize(
    ("owner", "name", "missing"),
    [
        (keras.optimizers.Optimizer, "_get_variable_index", "keras.optimizers:Optimizer._get_variable_index"),
        (keras.layers.Dense, "call", "keras.layers:Dense.call"),
    ],
)
def test_without_a_function_nothing_is_trained(
    owner: type, name: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = next(cls for cls in owner.__mro__ if name in cls.__dict__)
    monkeypatch.delattr(base, name)
    with pytest.raises(WorkerError, match=re.escape(missing)) as caught:
        CompiledNetworks()
    assert f"Keras {keras.__version__} and TensorFlow" in str(caught.value)


def test_with_other_parameters_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise optimisers would get unexpected arguments, or run Keras' own slower code."""

    def otherwise(self: object, grads_and_vars: object, learning_rate: object) -> None:
        raise AssertionError("nobody calls it")

    monkeypatch.setattr(keras.optimizers.Optimizer, "_backend_update_step", otherwise)
    with pytest.raises(WorkerError, match=r"Optimizer\._backend_update_step"):
        CompiledNetworks()


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("keras.layers.RandomFlip.get_random_transformation", "flips"),
        ("keras.optimizers.Adam.build", "_momentums"),
    ],
)
def test_without_an_attribute_nothing_is_trained(change: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change, lambda self, *given, **named: {})
    with pytest.raises(WorkerError, match=missing):
        CompiledNetworks()


def test_what_is_replaced_is_what_keras_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """If Keras no longer called the override, its own code would run and memory would grow."""
    called = []
    monkeypatch.setattr(
        keras_internals.SingleDeviceOptimizer, "_backend_update_step", lambda self, *given: called.append(given)
    )

    class Optimizer(keras_internals.SingleDeviceOptimizer, keras.optimizers.SGD):
        pass

    variable = keras.Variable([1.0])
    optimizer = Optimizer(0.5)
    optimizer.build([variable])
    optimizer.apply([keras.ops.ones(1)], [variable])
    assert len(called) == 1
    assert float(variable.value[0]) == 1.0
