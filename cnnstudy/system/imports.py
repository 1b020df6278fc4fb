"""Python's garbage collector, kept from looking through what is no garbage.

TensorFlow and MLflow make a million objects when they are imported, and all of them stay. The collector looks through
them again and again meanwhile (a third of TensorFlow's import), then at each of its large rounds, and once more when
the process ends, for most of a second.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator, Sequence

#: Keras imports them where they are installed, for data adapters, plots and wrappers that nothing here uses: a second
#: and 150 MB of each worker.
NOT_FOR_TENSORFLOW = ("matplotlib", "pandas", "pyarrow", "sklearn")
#: So does MLflow, for data sets and plots: 70 MB of a driver, which makes its tables when the study is over.
NOT_FOR_MLFLOW = ("matplotlib", "pandas", "pyarrow")
#: Objects more than before until it looks for garbage among the youngest; Python's own number is 2,000 or 700.
YOUNGEST = 50_000


@contextlib.contextmanager
def fast_import(without: Sequence[str] = ()) -> Iterator[None]:
    """Collect nothing meanwhile, and leave alone for good what is there at the end: garbage too, so do it once.

    Args:
        without: as for `hidden`.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with without_modules(without):
            yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


@contextlib.contextmanager
def without_modules(libraries: Sequence[str]) -> Iterator[None]:
    """Libraries that what is imported meanwhile can do without, and would import if they were found.

    They can be imported afterwards.
    """
    absent = [name for name in libraries if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment] # an ImportError, as where it is not installed
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextlib.contextmanager
def reduce_garbage_collection() -> Iterator[None]:
    """For a whole command: collect seldom, and nothing at the end of the process."""
    gc.set_threshold(YOUNGEST, *gc.get_threshold()[1:])
    try:
        yield
    finally:
        gc.freeze()
