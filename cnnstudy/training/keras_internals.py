"""The undocumented parts of Keras and TensorFlow that training relies on, in one place.

Compiled updates that are reused across trials, with one pass over memory per optimiser step, need more than the public
API. Any release may change the rest without notice, so `check_versions` is called before the first network is
compiled. If something is missing or has other parameters, training stops and lists it, rather than train differently
from what is recorded. Tests compare the behaviour with plain Keras: test_updates_optimizers.py, test_graph_dense.py and
test_compiled.py.

Tested versions, lowest allowed and newest:

    Keras       3.15   3.15.1
    TensorFlow  2.20   2.21.0
"""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from cnnstudy.errors import WorkerError

#: Functions as `module:name`, and their parameters in order.
METHODS: dict[str, tuple[str, ...]] = {
    # SingleDeviceOptimizer overrides it and calls `update_step`, which updates.py overrides for Adam
    "keras.optimizers:Optimizer._backend_update_step": ("self", "grads", "trainable_variables", "learning_rate"),
    "keras.optimizers:Optimizer._get_variable_index": ("self", "variable"),
    "keras.optimizers:SGD.update_step": ("self", "gradient", "variable", "learning_rate"),
    "keras.optimizers:RMSprop.update_step": ("self", "gradient", "variable", "learning_rate"),
    "keras.optimizers:Adam.update_step": ("self", "gradient", "variable", "learning_rate"),
    # graph.py computes the same with a faster gradient
    "keras.layers:Dense.call": ("self", "inputs", "training"),
    # graph.py draws the same random numbers, with a variable as the rate
    "keras.layers:Dropout.call": ("self", "inputs", "training"),
    "keras.layers:RandomFlip.get_random_transformation": ("self", "data", "training", "seed"),
    "tensorflow.python.eager.context:context": (),
    "tensorflow.python.eager.context:Context.clear_kernel_cache": ("self",),
}


class SingleDeviceOptimizer:
    """A mixin for optimisers that does not sum gradients over devices.

    Keras sums them with a custom-gradient operation. TensorFlow never frees it, nor the graph and the weights of every
    network that was dropped.
    """

    def _backend_update_step(
        self, grads: list[tf.Tensor], trainable_variables: list[keras.Variable], learning_rate: tf.Tensor
    ) -> None:
        assert isinstance(self, keras.optimizers.Optimizer)
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            self.update_step(gradient, variable.value, learning_rate)


def handle(variable: keras.Variable) -> tf.Tensor:
    """Return the resource handle that TensorFlow's raw operations take for a variable."""
    return variable.value.handle


def moments(optimizer: keras.optimizers.Adam, variable: tf.Variable) -> tuple[keras.Variable, keras.Variable]:
    """Return Adam's running means of a weight's gradient and of its square."""
    index = optimizer._get_variable_index(variable)
    return optimizer._momentums[index], optimizer._velocities[index]


def random_state(layer: keras.layers.Layer) -> keras.Variable | None:
    """Return the state [2] int64 of a layer's random stream, initially [seed, 0]; None if it has no random stream."""
    generators = (getattr(layer, name, None) for name in ("seed_generator", "generator"))
    return next((one.state for one in generators if isinstance(one, keras.random.SeedGenerator)), None)


def call_arguments(operation: keras.Operation, inputs: list[tf.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that the network calls the operation with, `inputs` in the place of its input tensors.

    Such as the constant in `x / 127.5`, which `operation.input` does not list.
    """
    node = operation._inbound_nodes[0]
    return node.arguments.fill_in({id(one): value for one, value in zip(node.input_tensors, inputs, strict=True)})


def draw_flips(layer: keras.layers.RandomFlip, images: tf.Tensor) -> tf.Tensor:
    """Draw which images the layer would flip, [images, 1, 1, 1] bool; advances its random stream."""
    # only the shape of the images matters
    return layer.get_random_transformation(tf.zeros((images, 1, 1, 1)), training=True)["flips"]


def clear_kernel_cache() -> None:
    """Free the kernels of functions that are no longer referenced, as Keras' clear_session does."""
    from tensorflow.python.eager import context

    context.context().clear_kernel_cache()


@functools.cache
def check_versions() -> None:
    """Check that the installed Keras and TensorFlow have everything that training relies on.

    Raises:
        WorkerError: something is missing; lists it.
    """
    if missing := [*filter(_lacks_method, METHODS), *filter(_lacks_attribute, ATTRIBUTES)]:
        raise WorkerError(
            f"cnnstudy can't train with Keras {keras.__version__} and TensorFlow {tf.__version__}: these changed: "
            f"{', '.join(missing)}. Install the versions that were tested together: python -m pip install -c "
            "constraints.txt keras tensorflow"
        )


def _lacks_method(address: str) -> bool:
    try:
        return tuple(inspect.signature(pkgutil.resolve_name(address)).parameters) != METHODS[address]
    except (ImportError, AttributeError, TypeError, ValueError):
        return True


def _lacks_attribute(name: str) -> bool:
    try:
        return not ATTRIBUTES[name]()
    except (AttributeError, KeyError, TypeError, ValueError):
        return True


def _variables_have_handles() -> bool:
    return bool(handle(keras.Variable([0.0], name="checked")).dtype == tf.resource)


def _adam_keeps_moments() -> bool:
    variable = keras.Variable([0.0, 0.0], name="checked")
    optimizer = keras.optimizers.Adam(name="checked")
    optimizer.build([variable])
    return all(
        tuple(one.shape) == (2,) and handle(one).dtype == tf.resource for one in moments(optimizer, variable.value)
    )


def _random_layers_have_states() -> bool:
    layers = keras.layers
    states = [
        random_state(layer)
        for layer in (
            layers.Dropout(0.5, seed=0, name="checked"),
            layers.RandomFlip("horizontal", seed=0, name="checked"),
            layers.RandomRotation(0.1, seed=0, name="checked"),
            layers.RandomZoom(0.1, seed=0, name="checked"),
            layers.RandomContrast(0.1, seed=0, name="checked"),
        )
    ]
    return all(state is not None and tuple(state.shape) == (2,) for state in states)


def _flips_can_be_drawn() -> bool:
    flips = draw_flips(keras.layers.RandomFlip("horizontal", seed=0, name="checked"), tf.constant(3))
    return tuple(flips.shape) == (3, 1, 1, 1) and flips.dtype == tf.bool


def _models_have_operations() -> bool:
    inputs = keras.Input((2,), name="checked_input")
    outputs = keras.layers.Flatten(name="checked")(inputs)
    first, last = keras.Model(inputs, outputs, name="checked_model").operations
    return first.output is inputs and last.input is inputs and last.output is outputs


def _operations_keep_their_arguments() -> bool:
    operation = keras.Model(x := keras.Input((2,), name="checked_input"), x - 3.0).operations[-1]
    arguments, named = call_arguments(operation, [tf.constant(5.0)])
    return [*map(float, (*arguments, *named.values()))] == [5.0, 3.0]


def _precision_can_be_set() -> bool:
    layer = keras.layers.Dense(1, name="checked")
    layer.dtype_policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    return bool(layer.compute_dtype == "float16")


#: What only instances have or calls return, each with a check that it is as expected.
ATTRIBUTES: dict[str, Callable[[], bool]] = {
    "keras.Variable.value.handle": _variables_have_handles,
    "keras.optimizers.Adam._momentums and ._velocities": _adam_keeps_moments,
    "seed_generator.state of keras.layers.Dropout, generator.state of random layers": _random_layers_have_states,
    'get_random_transformation(...)["flips"] of keras.layers.RandomFlip': _flips_can_be_drawn,
    "keras.Model.operations, keras.Operation.input and .output": _models_have_operations,
    "keras.Operation._inbound_nodes, input_tensors and arguments.fill_in of a node": _operations_keep_their_arguments,
    "keras.layers.Layer.dtype_policy (set while a graph is traced)": _precision_can_be_set,
}
