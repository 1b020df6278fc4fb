"""A network of the user's own: `file:my_network.py:build`, a function that returns a Keras model, or `file:NAME.keras`.

It is known by its content. The file is copied into the cache when a study begins, and its name then ends with a digest
(`file:my_network.py:build@0123456789`), so that trials train what the study began with, whoever edits the file
meanwhile, and an edited file is another network. Of a .keras file the layers count, not the weights.

The model is copied layer by layer on the images of the trial, and models within it become part of it. Layers keep
their names; those that Keras only numbered are named after their place: `layer003_conv2d`, or after the model within
which they are: `block2_conv2d_1`.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnstudy.architectures import AUXILIARY, HEAD, Architecture, Outputs, pooled_head, stage_of
from cnnstudy.errors import CacheError, ConfigError, UnknownNameError, did_you_mean, printable
from cnnstudy.system.cache import (
    ABOUT,
    build_entry,
    cache_folder,
    content_address,
    describe_cache_trouble,
    entry_folder,
    is_intact,
)

if TYPE_CHECKING:
    from types import ModuleType

    import keras

PREFIX = "file:"
#: The kind of their entries in the cache.
KIND = "networks"
_DIGITS = 10
#: A larger file, or description of layers, is no network's.
_MOST_BYTES = 50_000_000
_USE_KERAS = "Use Keras' own layers, and functions that call them."


@dataclass(frozen=True)
class _Given:
    """A network's file and the function in it ("" of a .keras file)."""

    path: Path
    function: str

    @property
    def shown(self) -> str:
        return f"{self.path.name}:{self.function}" if self.function else self.path.name


def find_own_network(name: str) -> Architecture:
    """Return the network of that name, which begins with `file:`.

    Args:
        name: `file:PATH:FUNCTION`, where `:FUNCTION` may be left out if it is `build`, or `file:PATH.keras`; or the
            name that such a network has once it was found.

    Raises:
        UnknownNameError: there is no such file or function, it can't be read, or it is no longer in the cache.
        ConfigError: a .keras file holds layers that are not Keras' own, or code.
        CacheError: the cache can't be used.
    """
    known = re.fullmatch(rf"{PREFIX}(.+)@([0-9a-f]{{{_DIGITS}}})", name)
    if known:
        given = _split(known[1])
        folder = entry_folder(KIND, content_address(name))
        if not is_intact(KIND, folder.name):
            raise UnknownNameError(
                f"the network {given.shown} is no longer in the cache; give its study file to `run-study` once, beside "
                "the same network file, which puts it there again."
            )
        return _describe(name, _Given(folder / given.path.name, given.function))
    given = _split(name.removeprefix(PREFIX))
    content = _read_keras(given.path) if given.path.suffix == ".keras" else _read_python(given)
    name = f"{PREFIX}{given.shown}@{hashlib.sha256(content).hexdigest()[:_DIGITS]}"

    def fill(folder: Path) -> None:
        (folder / given.path.name).write_bytes(content)
        (folder / ABOUT).write_text(printable(str(given.path.absolute())), encoding="utf-8", errors="replace")

    try:
        folder = build_entry(KIND, content_address(name), fill)
    except OSError as error:
        raise CacheError(describe_cache_trouble(cache_folder(), error)) from error
    return _describe(name, _Given(folder / given.path.name, given.function))


def _split(text: str) -> _Given:
    """Split `PATH:FUNCTION`."""
    path, colon, function = text.rpartition(":")
    if not (colon and path.endswith(".py") and "/" not in function):
        path, function = text, "" if text.endswith(".keras") else "build"
    if path.endswith((".py", ".keras")):
        with contextlib.suppress(RuntimeError):  # `~` names no user
            return _Given(Path(path).expanduser(), function)
    raise UnknownNameError(
        f"{PREFIX}{text} names no network; write {PREFIX}my_network.py:build, for the function `build` of that file, "
        f"or {PREFIX}NAME.keras."
    )


def _describe(name: str, given: _Given) -> Architecture:
    """Describe the network; what only its layers tell is completed when it is built."""
    return Architecture(
        name=name,
        title=given.shown,
        source="a file of your own",
        minimum_size=8,
        preprocessing="as in the file",
        defaults={"dropout": 0.2, "learning_rate": 1e-3},
        cut_points={"last-block": ()},
        build=functools.partial(_build, given),
        has_batch_norm=True,  # it may
        name_layers=name_own_layers,
    )


# ---- reading the file, without running it


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST_BYTES and path.suffix == ".py":
            raise UnknownNameError(f"{printable(str(path))} has more than {_MOST_BYTES:,} bytes; it is no network.")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a name with a null byte
        reason = getattr(error, "strerror", None) or error
        raise UnknownNameError(f"can't read the network {printable(str(path))}: {reason}.") from error


def _read_python(given: _Given) -> bytes:
    """Return the file, which holds the function."""
    content = _read_bytes(given.path)
    shown = printable(str(given.path))
    try:
        tree = ast.parse(content)
    except SyntaxError as error:
        raise UnknownNameError(f"{shown}, line {error.lineno}: {error.msg}; this is not valid Python.") from error
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes, or thousands of brackets
        raise UnknownNameError(f"{shown}: {_one_line(error)}; this is not valid Python.") from error
    names = list(dict.fromkeys(_names_at_top(tree)))
    if given.function not in names:
        written = [f"{PREFIX}{given.path}:{name}" for name in names]
        near = did_you_mean(f"{PREFIX}{given.path}:{given.function}", written)
        raise UnknownNameError(
            f"{shown} has no function {given.function!r}{near} It has {', '.join(names) or 'none'}; the function takes "
            "the image size in pixels and returns a Keras model."
        )
    return content


def _names_at_top(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _read_keras(path: Path) -> bytes:
    """Return the description of the layers in a .keras file, as JSON."""
    shown = printable(str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("config.json").file_size > _MOST_BYTES:
                raise ValueError("its description of the layers is too large")
            model = json.loads(archive.read("config.json"))
        if not isinstance(model, dict) or model.get("class_name") not in ("Functional", "Sequential"):
            raise ValueError("it holds no model that is made of layers")
    except OSError as error:
        raise UnknownNameError(f"can't read the network {shown}: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError) as error:  # RecursionError among them
        raise UnknownNameError(f"{shown} is no .keras file of a network ({error}).") from error
    for class_name, module in _classes_in(model):
        if class_name in ("Lambda", "__lambda__"):
            raise ConfigError(
                f"{shown} has a Lambda layer, which is code that would be run; it is refused. {_USE_KERAS}"
            )
        if module.split(".")[0] != "keras":
            raise ConfigError(f"{shown} has {class_name!r} of {module!r}, which is not one of Keras'. {_USE_KERAS}")
    kept = {key: model[key] for key in ("module", "class_name", "config", "registered_name") if key in model}
    return json.dumps(kept, sort_keys=True).encode()


def _classes_in(node: Any) -> Iterator[tuple[str, str]]:
    """Yield each class that a description names, with its module."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            if isinstance(node.get("class_name"), str):
                own = node.get("registered_name")  # `Package>Class` of what others registered
                foreign = "another package" if isinstance(own, str) and ">" in own else "keras"
                yield node["class_name"], str(node.get("module") or foreign)
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


# ---- building it


def _build(given: _Given, image_size: int, classes: int, dropout: float, auxiliary_dropout: float) -> Outputs:
    """Build the network; it has no auxiliary heads."""
    from keras import layers

    inputs = layers.Input((image_size, image_size, 3), name="image")
    model = _load_keras(given) if given.path.suffix == ".keras" else _call_function(given, image_size)
    copy = _Copy(given.shown)
    try:
        x = copy.run(model, inputs)
    except ConfigError:
        raise
    except Exception as error:  # whatever Keras raises for images of this size
        raise ConfigError(f"{given.shown} can't be built for images of {image_size} pixels: {_one_line(error)}") from (
            error
        )
    if len(x.shape) == 4:
        logits = pooled_head(x, dropout, classes)
    elif len(x.shape) == 2:
        logits = layers.Dropout(dropout, name=f"{HEAD}_dropout")(x)
        logits = layers.Dense(classes, name=f"{HEAD}_logits")(logits)
    else:
        raise ConfigError(
            f"{given.shown} returns outputs of shape {tuple(x.shape)}; a network below its head returns maps [batch, "
            "height, width, channels] or features [batch, features]."
        )
    _refuse_classifier(given, x)
    return Outputs(inputs, logits, cut_points={"last-block": last_stages(copy.weighted)})


def _call_function(given: _Given, image_size: int) -> keras.Model:
    """Return the model of a function in a Python file."""
    import keras

    try:
        model = getattr(_import(given.path), given.function)(image_size)
    except (Exception, SystemExit) as error:
        raise ConfigError(_tell(error, given.path)) from error
    if not isinstance(model, keras.Model):
        raise ConfigError(
            f"{given.shown} returns {type(model).__name__!r}; it must return a Keras model of images, the network "
            "below its head."
        )
    return model


def _import(path: Path) -> ModuleType:
    """Run a Python file as a module, once in a process."""
    import importlib.util
    import sys

    name = f"cnnstudy_network_{path.parent.name}"
    if name in sys.modules:
        return sys.modules[name]
    described = importlib.util.spec_from_file_location(name, path)
    assert described is not None  # it ends with .py
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is added to the cache's entry
    sys.modules[name] = module
    try:
        described.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.dont_write_bytecode = writes
    return module


def _tell(error: BaseException, path: Path) -> str:
    """Say what the code of a file raised, and in which of its lines."""
    import traceback

    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f"{path.name}, line {lines[-1]}" if lines else path.name
    advice = ""
    if isinstance(error, ImportError):
        advice = " A network's file stands alone: it may import installed packages, but no file beside it."
    elif not lines and isinstance(error, TypeError):
        advice = " The function takes one argument, the image size in pixels."
    return f"{place}: {type(error).__name__}: {_one_line(error)}.{advice}"


def _one_line(error: BaseException) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # Keras prints some in bold
    text = printable(" ".join(text.split())) or "no message"
    return (text if len(text) <= 300 else f"{text[:297]}...").rstrip(".")


def _load_keras(given: _Given) -> keras.Model:
    """Return the model that a description of layers holds, with fresh weights."""
    import keras

    try:
        model = json.loads(given.path.read_bytes())
        return keras.saving.deserialize_keras_object(model, safe_mode=True)
    except Exception as error:
        raise ConfigError(f"{given.shown} can't be read by Keras {keras.__version__}: {_one_line(error)}.") from error


def _refuse_classifier(given: _Given, x: keras.KerasTensor) -> None:
    """Refuse a network that ends with probabilities: it has a head already."""
    operation = x._keras_history.operation
    activation = getattr(getattr(operation, "activation", None), "__name__", "")
    if type(operation).__name__ == "Softmax" or activation in ("softmax", "sigmoid"):
        raise ConfigError(
            f"{given.shown} ends with {operation.name!r}, which gives probabilities; leave out the network's "
            "classifier, for each study adds its own."
        )


@dataclass
class _Copy:
    """Copies a model's layers on other images, and names them.

    Attributes:
        weighted: the names of the copied layers with weights, in their order; and whether a layer only normalises.
        named: the original layers by the names of their copies.
    """

    shown: str
    weighted: dict[str, bool] = field(default_factory=dict)
    named: dict[str, keras.layers.Layer] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=lambda: {"image", "predictions"})
    _called: set[int] = field(default_factory=set)

    def run(self, model: keras.Model, images: keras.KerasTensor, scope: str = "") -> keras.KerasTensor:
        """Return the outputs of a copy of the model for these images.

        Args:
            scope: what layers without a name are named after; "": their place.

        Raises:
            ConfigError: it has layers that can't be copied.
        """
        import keras
        from keras.src.models import Functional

        if isinstance(model, keras.Sequential) and not model.built:
            model.build((None, *images.shape[1:]))
        if not isinstance(model, keras.Sequential | Functional):
            raise ConfigError(f"{self.shown} has the model {model.name!r}, which is a class of its own. {_USE_KERAS}")
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise ConfigError(f"{self.shown} must have one input, the images, and one output, the last features.")
        places = iter(range(1, 1_000_000))

        @functools.cache
        def copy(operation: keras.Operation) -> keras.Operation:
            if isinstance(operation, keras.Model):
                return operation
            self._check(operation)
            name = self._name(operation, scope, places)
            made = type(operation).from_config({**operation.get_config(), "name": name})
            self.named[name] = operation
            return made

        def call(operation: keras.Operation, *arguments: Any, **named: Any) -> Any:
            if isinstance(operation, keras.Model):
                numbered = _is_numbered(operation)
                within = f"layer{next(places):03d}" if numbered and not scope else "" if numbered else operation.name
                return self.run(operation, arguments[0], "_".join(filter(None, (scope, within))))
            self._refuse_second_call(operation)
            outputs = operation(*arguments, **named)
            if isinstance(outputs, list | tuple):
                raise ConfigError(f"{self.shown}: the layer {operation.name!r} has several outputs; it must have one.")
            if getattr(operation, "weights", ()):
                self.weighted[operation.name] = "Normalization" in type(operation).__name__
            return outputs

        plain = keras.Model(model.inputs[0], model.outputs[0])
        # `clone_model` would make inputs of its own for models within models
        return plain._run_through_graph(images, operation_fn=copy, call_fn=call)

    def _check(self, operation: keras.Operation) -> None:
        kind = type(operation)
        if kind.__name__ == "Lambda":
            raise ConfigError(
                f"{self.shown}: the layer {operation.name!r} is a Lambda, whose code a saved model can't hold. "
                f"{_USE_KERAS}"
            )
        if kind.__module__.split(".")[0] != "keras":
            raise ConfigError(
                f"{self.shown}: the layer {operation.name!r} is of the class {kind.__name__}, which is not one of "
                f"Keras', so that Keras alone could not load a saved model. {_USE_KERAS}"
            )
        self._refuse_second_call(operation)
        if operation.name.startswith((HEAD, AUXILIARY)):
            raise ConfigError(
                f"{self.shown}: the layer {operation.name!r} has a name that begins with {HEAD!r} or {AUXILIARY!r}, "
                "which are for the layers that the study adds; give it another."
            )

    def _refuse_second_call(self, operation: keras.Operation) -> None:
        if id(operation) in self._called:
            raise ConfigError(f"{self.shown}: the layer {operation.name!r} is called twice; make one for each call.")
        self._called.add(id(operation))

    def _name(self, operation: keras.Operation, scope: str, places: Iterator[int]) -> str:
        if not _is_numbered(operation):
            names = [operation.name, f"{scope}_{operation.name}"]
        else:
            place = next(places)
            kind = type(operation).__name__.lower()
            names = [f"{scope}_{kind}{place}" if scope else f"layer{place:03d}_{kind}"]
        names += [f"{names[-1]}_{number}" for number in range(2, 1000)]
        name = next(name for name in names if name not in self._taken)
        self._taken.add(name)
        return name


def _is_numbered(operation: keras.Operation) -> bool:
    """Check whether Keras gave the layer its name."""
    from keras.src.utils.naming import to_snake_case

    return re.fullmatch(rf"{to_snake_case(type(operation).__name__)}(_\d+)?", operation.name) is not None


def name_own_layers(model: keras.Model, image_size: int) -> dict[str, keras.layers.Layer]:
    """Return the layers of a user's model by the names that their copies have in the network.

    Raises:
        ConfigError: it has layers that can't be copied.
    """
    import keras

    copy = _Copy(model.name)
    copy.run(model, keras.layers.Input((image_size, image_size, 3), name="image"))
    return copy.named


def last_stages(weighted: Mapping[str, bool]) -> tuple[str, ...]:
    """Return what the names of the last stage's layers begin with, and of what only normalises after it.

    Args:
        weighted: the layers with weights in their order, and whether each only normalises.
    """
    stages = list(dict.fromkeys(map(stage_of, reversed(list(weighted)))))
    chosen: list[str] = []
    for stage in stages:
        chosen.append(stage)
        if not all(only for name, only in weighted.items() if stage_of(name) == stage):
            break
    if len(chosen) == len(stages):
        return tuple(weighted)[-1:]
    others = [name for name in weighted if stage_of(name) not in chosen]
    parts = [name for name in weighted if stage_of(name) in chosen]
    if any(name.startswith(tuple(chosen)) for name in others):  # `block1` also begins `block10`
        return tuple(parts)
    return tuple(reversed(chosen))
