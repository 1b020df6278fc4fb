"""Exported models, run by other programs."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from commands import call
from photos import photos
from trained_study import NAME, Trained

from cnnstudy.data.decode import describe_input
from cnnstudy.errors import InputError, ModelError
from cnnstudy.results import models
from cnnstudy.results.models import Model, find_model
from cnnstudy.system.display import SilentDisplay
from cnnstudy.training import model_files

Run = Callable[[np.ndarray], np.ndarray]


def run_saved_model(folder: Path) -> Run:
    import tensorflow as tf

    endpoint = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return lambda images: next(iter(endpoint(image=tf.constant(images)).values())).numpy()


def run_onnx(folder: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0]


def run_keras(folder: Path) -> Run:
    import keras

    return keras.saving.load_model(folder / "model.keras", safe_mode=True).predict_on_batch


def prepare_of_the_card(folder: Path) -> Callable[[str, int], np.ndarray]:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return cast(Callable[[str, int], np.ndarray], names["prepare"])


@pytest.mark.parametrize(("name", "run"), [("saved-model", run_saved_model), ("onnx", run_onnx), ("keras", run_keras)])
def test_another_program_gets_the_same(trained: Trained, tmp_path: Path, name: str, run: Callable[[Path], Run]) -> None:
    model = find_model(NAME, trained.uri, tmp_path)
    folder = tmp_path / "new" / "exported"
    done = models.export_to(model, folder, name, trained.executor, SilentDisplay())
    assert (done.size, done.classes, done.images) == (64, 3, 16)
    assert done.difference <= done.tolerance == 1e-4
    assert [path.name for path in folder.parent.iterdir()] == ["exported"]
    classes = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    assert tuple(classes) == Trained.classes
    contract = json.loads((folder / "input.json").read_text(encoding="utf-8"))
    assert contract == model.contract == describe_input(64, Trained.classes)
    prepare = prepare_of_the_card(folder)
    for name, content in photos().items():
        (tmp_path / name).write_bytes(content)
    images = [
        *map(str, sorted((trained.folder / "photos").glob("*/1.png"))),
        *(str(tmp_path / one) for one in photos()),
    ]
    rows = run(folder)(np.stack([prepare(image, contract["size"]) for image in images]))
    expected = models.predict_files(model, images, 3, trained.executor, SilentDisplay())
    for row, one in zip(rows, expected, strict=True):
        assert dict(zip(classes, map(float, row), strict=True)) == pytest.approx(dict(one.classes), abs=1e-5)


def test_a_folder_that_is_there_and_empty_is_filled(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "empty").symlink_to(tmp_path / "real")
    nameless = Model("nameless", find_model(NAME, trained.uri, tmp_path).file, None)
    assert nameless.notes == (
        "nameless has no input.json, which says how images were prepared in its training; they are taken to be "
        "prepared as this version of cnnstudy does it",
    )
    done = models.export_to(nameless, tmp_path / "empty", "keras", trained.executor, SilentDisplay())
    assert (tmp_path / "empty").is_symlink()
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["README.md", "input.json", "model.keras"]
    contract = model_files.read_contract(tmp_path / "empty" / "model.keras")
    assert contract is not None
    assert "not recorded with the model" in contract.pop("note")
    assert contract == describe_input(64, None)
    assert "input: RGB images [n, 64, 64, 3] of 0..255 (uint8)" in models.describe_export(
        nameless, tmp_path, "keras", done
    )
    assert "of classes without names" in models.describe_export(nameless, tmp_path, "keras", done)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o777 & ~umask


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty; give a folder that is empty or does not exist yet"):
        models.check_export(tmp_path, "keras")
    with pytest.raises(InputError, match=r"notes\.txt is a file; give a folder"):
        models.check_export(tmp_path / "notes.txt", "keras")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_can_not_be_replaced_is_refused_before_a_worker_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match=r"its folder, and \. is the current one; give a folder in it"):
        models.check_export(Path("."), "keras")
    with pytest.raises(InputError, match=r"nothing can be written in .*file, so not .*; give a folder where you can"):
        models.check_export(tmp_path / "file" / "model", "keras")


def test_onnx_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        ModelError, match=r"needs the packages .*not installed: tf2onnx, onnxruntime\. Install.*'\.\[onnx\]'"
    ):
        models.check_export(tmp_path / "onnx", "onnx")
    models.check_export(tmp_path / "keras", "keras")


def test_of_a_failed_export_nothing_is_left(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "broken.keras").write_text("no model")
    with pytest.raises(ModelError, match=r"not a complete \.keras file"):
        models.export_to(
            Model("broken", tmp_path / "broken.keras", None),
            tmp_path / "out",
            "onnx",
            trained.executor,
            SilentDisplay(),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["broken.keras"]


def test_the_command_exports_a_model_that_the_other_command_takes(trained: Trained, tmp_path: Path) -> None:
    arguments = ["export", NAME, "out", "--format", "keras", "--tracking-uri", trained.uri]
    answer = call(*arguments, folder=tmp_path)
    assert answer.code == 0, answer.text
    first, *_, last = answer.output.splitlines()
    assert first == f"out: {NAME}/alexnet-000 as keras"
    assert last == "on 16 random images the probabilities differ from Keras by at most 0.0e+00 (tolerance 1e-04)"
    model = find_model(str(tmp_path / "out"), None, tmp_path)
    (found,) = models.predict_files(
        model, [str(trained.folder / "photos" / "zero" / "3.png")], 1, trained.executor, SilentDisplay()
    )
    assert found.classes[0][0] in Trained.classes
