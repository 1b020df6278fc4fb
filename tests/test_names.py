"""Names of tags and metrics are in one module, and only what writes to MLflow reads raw tags."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cnnstudy
from cnnstudy import names
from cnnstudy.names import CLEAN_METRICS, Metric, Tag

PACKAGE = Path(cnnstudy.__file__).parent
TAGS = {value for name, value in vars(Tag).items() if name.isupper()}
METRICS = {value for name, value in vars(Metric).items() if name.isupper() and "/" in value}
DERIVED = {
    name_of(metric)
    for name_of in (names.best_name, names.last_name, names.equal_updates_name, names.equal_fit_name)
    for metric in (*CLEAN_METRICS, Metric.FULL_TRAIN_ACCURACY, Metric.FULL_TRAIN_LOSS)
}
#: Spell names: the module itself, and the values that study files may have (a Literal takes no constants).
SPELL = {"names.py", "config/schema.py"}
#: Read raw tags, of MLflow's entities or to make a RecordedRun's properties of them.
READ = {
    *("tracking/client.py", "tracking/entities.py", "tracking/outbox.py", "tracking/recorded.py"),
    *("tracking/registry.py", "tracking/study_run.py", "study/recorder.py"),
}


def spelled(tree: ast.Module) -> Iterator[str]:
    """Literals that are, or put together, the name of a tag or a metric."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if id(node) in inside:
            put_together = "cnnstudy." in node.value
        else:
            put_together = node.value.startswith(("tags.`cnnstudy.", "metrics.`"))  # MLflow's query language
        if put_together or node.value in TAGS | METRICS | DERIVED:
            yield f"line {node.lineno} spells {node.value!r}"


def raw_reads(tree: ast.Module) -> Iterator[str]:
    """Attributes `.tags`, but for calls of a method of that name."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "tags" and id(node) not in called:
            yield f"line {node.lineno} reads {ast.unparse(node)}"


@pytest.mark.parametrize(
    "code",
    [
        'run["cnnstudy.trial"]',
        'metrics["val/accuracy"]',
        "f\"{metrics['best/epoch']}\"",
        '"last/val_loss"',
        'f"cnnstudy.{name}"',
        '"tags.`cnnstudy.kind` = 1"',
    ],
)
def test_a_spelled_name_is_found(code: str) -> None:
    assert len(list(spelled(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code", ['"cnnstudy.execution.worker"', 'f"{cnnstudy.__version__}"', '"val_accuracy"', "run.model"]
)
def test_other_texts_are_no_names(code: str) -> None:
    assert list(spelled(ast.parse(code))) == []


def test_a_raw_read_is_found() -> None:
    code = "run.tags['a']; run.tags.get('a'); tags = run.tags; 'a' in run.tags; tracker.tags(run_id)"
    assert len(list(raw_reads(ast.parse(code)))) == 4


def test_names_are_spelled_once_and_tags_are_read_in_one_place() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module, tree = path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{module}: {what}" for what in spelled(tree) if module not in SPELL]
        found += [f"{module}: {what}" for what in raw_reads(tree) if module not in READ]
    assert found == []


def test_no_name_has_two_meanings() -> None:
    for group in (Tag, Metric, names.Parameter):
        values = [value for name, value in vars(group).items() if name.isupper()]
        assert len(values) == len(set(values)), group.__name__


def test_the_names_import_nothing() -> None:
    code = "import sys; before = set(sys.modules); import cnnstudy.names; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"__future__", "cnnstudy", "cnnstudy.names"}
