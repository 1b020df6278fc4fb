"""The pyfunc of a saved model: photos come in as training sees them, and bad ones are named by their row."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from keras import layers
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import invocations
from photos import encoded, photos
from PIL import Image

from cnnstudy.data.datasets import SourceImage
from cnnstudy.data.decoder_pool import decode_all
from cnnstudy.training import model_package

SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(0)
    inputs = layers.Input((SIZE, SIZE, 3))
    outputs = layers.Dense(3, activation="softmax")(layers.Flatten()(layers.Rescaling(1 / 255)(inputs)))
    place = tmp_path_factory.mktemp("served") / "model"
    model_package.save_model(keras.Model(inputs, outputs), place, ["a", "b", "c"])
    return place


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[PyFuncModel]:
    model = mlflow.pyfunc.load_model(str(folder))
    yield model
    model._model_impl._finalizer()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def pixels_in_training() -> np.ndarray:
    pixels = np.zeros((len(photos()), SIZE, SIZE, 3), np.uint8)
    images = [SourceImage(name, 0, content) for name, content in photos().items()]
    assert decode_all(images, [SIZE], lambda index, _, one: pixels.__setitem__(index, one), lambda *_: None) == []
    return pixels


def expected(served: PyFuncModel) -> np.ndarray:
    rows: np.ndarray = served.get_raw_model().predict_on_batch(pixels_in_training())
    assert len(np.unique(rows[:, 0].round(4))) > 10, "else other pixels would not show"
    return rows


def post(served: PyFuncModel, body: dict[str, Any]) -> np.ndarray:
    """What MLflow's server does with a request."""
    answer = invocations(json.dumps(body), "application/json", served, served.metadata.get_input_schema())
    return np.asarray(json.loads(answer.response)["predictions"])


def records(values: list[str]) -> dict[str, Any]:
    return {"dataframe_records": [{"image": value} for value in values]}


BODIES: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "records": records,
    "split": lambda values: {"dataframe_split": {"columns": ["image"], "data": [[value] for value in values]}},
    "inputs": lambda values: {"inputs": values},
    "named inputs": lambda values: {"inputs": {"image": values}},
    "instances": lambda values: {"instances": [{"image": value} for value in values]},
    "wrapped as `base64` does": lambda values: records(
        ["\n".join(v[i : i + 76] for i in range(0, len(v), 76)) for v in values]
    ),
}


@pytest.mark.parametrize("form", BODIES)
def test_photos_are_seen_as_in_training(served: PyFuncModel, form: str) -> None:
    body = BODIES[form]([text(content) for content in photos().values()])
    np.testing.assert_allclose(post(served, body), expected(served), atol=1e-5)


def test_photos_as_bytes(served: PyFuncModel) -> None:
    table = pd.DataFrame({"image": list(photos().values())})
    np.testing.assert_allclose(served.predict(table), expected(served), atol=1e-5)


def test_pixels_are_taken_as_before(served: PyFuncModel) -> None:
    pixels = pixels_in_training()
    np.testing.assert_allclose(served.predict(pixels), expected(served), atol=1e-5)
    for body in ({"inputs": pixels.tolist()}, {"instances": pixels.tolist()}, {"inputs": {"image": pixels.tolist()}}):
        np.testing.assert_allclose(post(served, body), expected(served), atol=1e-5)


def test_the_example_is_taken(served: PyFuncModel) -> None:
    grey = np.full((1, SIZE, SIZE, 3), 128, np.uint8)
    np.testing.assert_allclose(served.predict(served.input_example), served.predict(grey), atol=1e-5)


# ---- refused


def refusal(served: PyFuncModel, body: dict[str, Any]) -> str:
    with pytest.raises(MlflowException) as caught:
        post(served, body)
    assert caught.value.get_http_status_code() == 400
    assert "Traceback" not in caught.value.serialize_as_json()
    return str(caught.value.message).partition("Error: ")[2]


def test_bad_photos_are_named_by_row(served: PyFuncModel) -> None:
    good = photos()["rgb.png"]
    values = [text(good), text(b"no image"), "no base64!", text(good[:99]), "", text(good)]
    assert refusal(served, records(values)).startswith(
        "4 of 6 images can't be used: row 1: not an image that Pillow can read; row 2: not the base64 text of a file "
    )
    reasons = refusal(served, records(values)).split("; ")
    assert [reason[:5] for reason in reasons[2:]] == ["row 3", "row 4"]
    assert reasons[3] == "row 4: an empty file"
    assert refusal(served, {"inputs": [text(good), 3]}) == (
        "1 of 2 images can't be used: row 1: a value of the type int; send the base64 text of an image file"
    )


def test_a_bomb_is_refused_by_its_header(served: PyFuncModel) -> None:
    header = bytearray(encoded(Image.new("L", (8, 8)), "BMP"))
    header[18:26] = (100_000).to_bytes(4, "little") * 2
    assert refusal(served, records([text(bytes(header))])) == (
        "1 of 1 images can't be used: row 0: can't be decoded (100000 x 100000 pixels; the most is 100,000,000)"
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("ctypes.string_at(0)", "can't be decoded (its decoder ended with SIGSEGV)"),
        ("bytearray(2**34)", "can't be decoded (takes more than 3,072 MiB of memory)"),
    ],
    ids=["crash", "memory"],
)
def test_what_breaks_the_decoder_breaks_nothing_else(
    folder: Path, broken_decoder: Callable[[str], None], code: str, reason: str
) -> None:
    broken_decoder(code)
    served = mlflow.pyfunc.load_model(str(folder))
    photo = encoded(Image.new("RGB", (64, 48), "red"), "BMP")
    assert refusal(served, records([text(photo), text(photo + b"BREAK"), text(photo)])) == (
        f"1 of 3 images can't be used: row 1: {reason}"
    )
    assert len(post(served, records([text(photo)] * 2))) == 2
    running = [decoder._process for decoder in served._model_impl._idle]
    assert [process.poll() for process in running] == [None]
    served._model_impl._finalizer()
    assert [process.returncode for process in running] == [0]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((1, 8, 8, 3), int), "the pixels have the shape (1, 8, 8, 3), and this model takes (n, 16, 16, 3)"),
        (np.zeros((SIZE, SIZE, 3), int), "the pixels have the shape (16, 16, 3), and"),
        (np.full((1, SIZE, SIZE, 3), 256), "the pixels are not whole numbers of 0 to 255"),
        (np.full((1, SIZE, SIZE, 3), 0.5), "the pixels are not whole numbers of 0 to 255"),
        (np.full((1, SIZE, SIZE, 3), "x"), "the pixels are not numbers"),
        (np.zeros(0), "there are no images; send at least one"),
    ],
    ids=["size", "one image", "range", "scaled", "text", "none"],
)
def test_arrays_that_are_no_images(served: PyFuncModel, pixels: np.ndarray, message: str) -> None:
    assert refusal(served, {"inputs": pixels.tolist()}).startswith(message)


# ---- its code


def test_the_stored_decoder_needs_nothing_of_the_installed_package(folder: Path, tmp_path: Path) -> None:
    """And is preferred to it: -I leaves out PYTHONPATH and the working folder."""
    archive = folder / "code" / "cnnstudy_decoder.zip"
    content = photos()["sixteen.png"]
    request = {"sizes": [SIZE], "images": [{"name": "", "path": None, "digest": None, "bytes": len(content)}]}
    request["measured"] = False
    done = subprocess.run(
        [sys.executable, "-I", "-v", str(archive)],
        input=json.dumps(request).encode() + b"\n" + content,
        capture_output=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    ready, answer, pixels = done.stdout.split(b"\n", 2)
    assert (ready, json.loads(answer)) == (b"[]", [{"bytes": [SIZE * SIZE * 3], "facts": None}])
    assert len(pixels) == SIZE * SIZE * 3
    imports = [line for line in done.stderr.decode().splitlines() if line.startswith("import 'cnnstudy.")]
    assert len(imports) == 7
    assert all(f'<zipimporter object "{archive}' in line for line in imports), imports


def test_the_name_of_the_loader_is_that_of_its_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = (folder / "code").glob("*.py")
    loader = file.stem
    assert re.search(r"^\s*(from|import) cnnstudy", file.read_text(encoding="utf-8"), flags=re.MULTILINE) is None
    model_package._served_code.cache_clear()
    assert model_package._served_code()[0] == loader
    monkeypatch.setattr(model_package, "_DECODER_START", "other()")
    model_package._served_code.cache_clear()
    assert model_package._served_code()[0] != loader
    model_package._served_code.cache_clear()
