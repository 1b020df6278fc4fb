"""Python's garbage collector around imports, and at the end of a command."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnnstudy.data.datasets.digits import Options, load
from cnnstudy.system.imports import COLLECTION_THRESHOLD, fast_import, reduce_garbage_collection, without_modules


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)
    gc.enable()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "library_of_a_test.py").write_text("import gc\ncollected = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "library_of_a_test"
    sys.modules.pop("library_of_a_test", None)


def test_nothing_is_collected_meanwhile_and_what_is_there_stays(library: str) -> None:
    before = gc.get_freeze_count()
    with fast_import():
        module = importlib.import_module(library)
    assert module.collected is False
    assert gc.isenabled()
    assert gc.get_freeze_count() > before + 1000


def test_an_import_that_fails_leaves_the_collector_at_work() -> None:
    with pytest.raises(ModuleNotFoundError), fast_import():
        importlib.import_module("a_library_that_nobody_has")
    assert gc.isenabled()


def test_where_nothing_was_collected_nothing_is_afterwards() -> None:
    gc.disable()
    with fast_import():
        pass
    assert not gc.isenabled()


def test_what_is_left_out_can_be_imported_afterwards(library: str) -> None:
    with fast_import(without=[library]), pytest.raises(ImportError):
        importlib.import_module(library)
    assert importlib.import_module(library).__name__ == library


def test_what_is_hidden_can_be_imported_afterwards_and_nothing_is_frozen(library: str) -> None:
    before = gc.get_freeze_count()
    with without_modules((library,)), pytest.raises(ImportError):
        importlib.import_module(library)
    assert importlib.import_module(library).collected is True
    assert gc.get_freeze_count() == before


def test_digits_may_be_loaded_again_and_again() -> None:
    load(Options(name="digits"))
    before = gc.get_freeze_count()
    load(Options(name="digits"))
    assert gc.get_freeze_count() == before, "what is garbage by then would stay for ever"


def test_what_is_there_already_is_not_left_out(library: str) -> None:
    module = importlib.import_module(library)
    with fast_import(without=[library]):
        assert importlib.import_module(library) is module
    assert sys.modules[library] is module


def test_a_command_collects_seldom_and_nothing_at_its_end() -> None:
    with reduce_garbage_collection():
        assert gc.get_threshold()[0] == COLLECTION_THRESHOLD
        assert gc.isenabled()
    assert gc.get_freeze_count() > 1000


def test_a_worker_imports_nothing_that_only_keras_asks_for() -> None:
    code = (
        "import queue, sys\n"
        "from cnnstudy.execution.worker import Worker\n"
        "from cnnstudy.system.imports import NOT_FOR_TENSORFLOW\n"
        "Worker(sys.stdout, queue.Queue(), threads=1, deterministic=False).warm_up()\n"
        "assert 'cnnstudy.training.trial' in sys.modules\n"
        "print('LOADED', sorted({*NOT_FOR_TENSORFLOW, 'mlflow'} & set(sys.modules)))\n"
        "import pandas, keras\n"
        "print(pandas.DataFrame({'there': [1]}).sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["LOADED []", "1"], done.stdout + done.stderr
