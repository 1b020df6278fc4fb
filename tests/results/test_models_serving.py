"""The registered model in MLflow's own server, called by HTTP as in docs/commands.md."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photos import photos
from trained_study import NAME, Trained

import cnnstudy
from cnnstudy.results import models
from cnnstudy.results.models import find_model
from cnnstudy.system.display import SilentDisplay

PATIENCE = 120  # seconds until a server that does not answer is an error


def ask(address: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        text = answer.read()
    return json.loads(text) if text.strip() else None


@pytest.fixture(scope="module")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow models serve` on the champion, on a free port of loopback; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("serving") / "log"
    command = ["models", "serve", "--env-manager", "local", "-m", f"models:/{NAME}@champion", "-p", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command],
            # it finds its server, uvicorn, on the path
            env=os.environ
            | {
                "MLFLOW_TRACKING_URI": trained.uri,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                ask(f"http://127.0.0.1:{port}/ping")
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its own session: nothing of anybody else is in the group
        process.wait()


def request_of_the_page(folder: Path, photo: bytes) -> Any:
    """What the line of Python in docs/commands.md prints."""
    page = (Path(cnnstudy.__file__).parent.parent / "docs" / "commands.md").read_text(encoding="utf-8")
    (line,) = re.findall(r'^python -c "(import base64.*)" \|$', page, flags=re.MULTILINE)
    (folder / "photo.jpg").write_bytes(photo)
    done = subprocess.run([sys.executable, "-c", line], cwd=folder, capture_output=True, check=True, timeout=PATIENCE)
    return json.loads(done.stdout)


def test_the_server_gives_what_predict_gives(server: str, trained: Trained, tmp_path: Path) -> None:
    for name, content in photos().items():
        (tmp_path / name).write_bytes(content)
    request = {"dataframe_records": [{"image": base64.b64encode(photo).decode()} for photo in photos().values()]}
    rows = ask(server, request)["predictions"]
    model = find_model(NAME, trained.uri, tmp_path)
    files = [str(tmp_path / name) for name in photos()]
    expected = models.predict_files(model, files, 3, trained.executor, SilentDisplay())
    for row, one in zip(rows, expected, strict=True):
        assert isinstance(one, models.Prediction)
        assert Trained.classes[int(np.argmax(row))] == one.classes[0][0]
        assert dict(zip(Trained.classes, row, strict=True)) == pytest.approx(dict(one.classes), abs=1e-5)
    assert len({one.classes for one in expected if isinstance(one, models.Prediction)}) > 10
    as_on_the_page = ask(server, request_of_the_page(tmp_path, photos()["rgba.png"]))["predictions"]
    assert as_on_the_page == [pytest.approx(rows[list(photos()).index("rgba.png")], abs=1e-5)]


def test_a_broken_photo_is_named_by_its_row(server: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(server, {"dataframe_records": [{"image": base64.b64encode(b"no image").decode()}]})
    with caught.value as answer:
        assert answer.code == 400
        message = json.loads(answer.read())["message"]
    assert message.endswith("1 of 1 images can't be used: row 0: not an image that Pillow can read")


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (1, 64, 64)], ids=["another size", "grey"])
def test_images_that_the_model_does_not_take_are_refused(server: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(server, {"inputs": np.zeros(shape, dtype=int).tolist()})
    with caught.value as answer:
        assert answer.code == 400
        assert "shape" in json.loads(answer.read())["message"]
