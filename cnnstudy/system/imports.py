"""Imports: less garbage collection, no optional libraries that nothing here uses, and no files that hide libraries.

TensorFlow and MLflow create a million permanent objects when they are imported. Python's garbage collector traverses
them again and again during the import (a third of TensorFlow's import time), at each full collection, and once more
when the process ends, for most of a second.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.machinery import all_suffixes

from cnnstudy.errors import EnvironmentTrouble, InputError

#: Keras imports these where they are installed, for data adapters, plots and wrappers that nothing here uses: it costs
#: each worker a second and 150 MB.
NOT_FOR_TENSORFLOW = ("matplotlib", "pandas", "pyarrow", "sklearn")
#: MLflow imports these, for data sets and plots: 70 MB in a driver, which needs them only when the study is over.
NOT_FOR_MLFLOW = ("matplotlib", "pandas", "pyarrow")
#: Names of folders that packages install by mistake, and of this package, which may hide nothing.
_HARMLESS = {"cnnstudy", "tests", "docs", "examples", "benchmarks", "scripts"}
#: Allocations between collections of the youngest generation; Python's default is 2,000 or 700.
COLLECTION_THRESHOLD = 50_000


def refuse_shadows() -> None:
    """Refuse a PYTHONPATH on which a file has the name of a module of Python or of an installed package.

    An empty entry means the working folder, by accident (`/x:$PYTHONPATH` with nothing set): it is taken out.

    Raises:
        InputError: there is such a file.
    """
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    folders = [folder for folder in entries if folder]
    if folders and len(folders) < len(entries):
        os.environ["PYTHONPATH"] = os.pathsep.join(folders)
        here = os.getcwd()
        if here not in map(os.path.abspath, folders):
            sys.path[:] = [folder for folder in sys.path if folder not in ("", here)]
    for folder in folders:
        try:
            names = sorted(os.listdir(folder))
        except OSError:  # Python passes over what it can't read, too
            continue
        if any(name.endswith(".dist-info") for name in names):  # packages are installed there
            continue
        for name in names:
            module = _module_in(folder, name)
            if module and (module in sys.stdlib_module_names or _is_installed(module)):
                raise InputError(
                    f"{os.path.join(folder, name)} would be imported in place of the module {module!r}, because "
                    f"PYTHONPATH lists {folder}. Rename it, or take its folder out of PYTHONPATH."
                )


def require_home() -> None:
    """Raise EnvironmentTrouble if this user has no home folder: libraries look for it while they are imported."""
    if os.path.expanduser("~") == "~":
        user = f"user {os.getuid()}" if hasattr(os, "getuid") else "this user"
        raise EnvironmentTrouble(
            f"there is no home folder: HOME is not set, and {user} has no entry in the list of users. Set "
            "HOME to a folder that you can write, as in `HOME=/tmp/me python -m cnnstudy ...`."
        )


def _module_in(folder: str, name: str) -> str:
    """Return the module that a name in a folder stands for; "" for what is none."""
    for suffix in all_suffixes():
        if name.endswith(suffix):
            return name.removesuffix(suffix).partition(".")[0]
    return name if os.path.isfile(os.path.join(folder, name, "__init__.py")) else ""


def _is_installed(module: str) -> bool:
    if module in _HARMLESS:
        return False
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return any(os.path.exists(os.path.join(place, module + suffix)) for place in places for suffix in ("", ".py"))


def import_keras() -> None:
    """Import Keras as networks need it, whatever `KERAS_BACKEND` and the user's keras.json say.

    With channels first or 16 bits by default, networks would be others.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)


@contextlib.contextmanager
def fast_import(without: Sequence[str] = ()) -> Iterator[None]:
    """Collect no garbage during the block, and exempt all objects that exist at its end from later collections.

    That includes garbage: use it once.

    Args:
        without: libraries to hide, as in `without_modules`.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with without_modules(without):
            yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def without_modules(libraries: Sequence[str]) -> Iterator[None]:
    """Hide installed libraries during the block, so that other libraries do not import them.

    A library that is imported already stays; the hidden ones can be imported afterwards.
    """
    absent = [name for name in libraries if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment] # raises ImportError, as if it were not installed
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextlib.contextmanager
def reduce_garbage_collection() -> Iterator[None]:
    """Collect garbage rarely during the block, a whole command, and not at all when the process ends."""
    gc.set_threshold(COLLECTION_THRESHOLD, *gc.get_threshold()[1:])
    try:
        yield
    finally:
        gc.freeze()
