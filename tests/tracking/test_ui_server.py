"""MLflow's UI on a study: the server's pages, and what a browser shows of them where there is one."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from browser import BROWSER, QUIET_BROWSER

from cnnstudy.errors import TrackingError
from cnnstudy.tracking import ui_server
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.ui_layout import study_url
from cnnstudy.tracking.ui_server import serve


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """The address of a UI, and the experiment of a study with one trial in it."""
    folder = tmp_path_factory.mktemp("ui")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    tracker = Tracker(uri)
    study = tracker.open_study("shown-study", {"objective": {"metric": "val/accuracy"}})
    run_id = tracker._client.create_run(
        study.experiment_id,
        run_name="alexnet-000 frozen",
        tags={"cnnstudy.kind": "trial", "cnnstudy.state": "finished"},
    ).info.run_id
    for epoch, gap in enumerate((0.05, 0.12, 0.2), 1):
        tracker.log_metrics(run_id, {"train/accuracy": 0.7 + gap, "val/accuracy": 0.7, "gap/accuracy": gap}, epoch)
    tracker.log_metrics(run_id, {"best/gap_accuracy": 0.2, "best/val_accuracy": 0.7}, 3)
    tracker.end_run(run_id, "finished")
    with serve(uri, None) as (base, _):
        yield base, study.experiment_id


def test_the_servers_pages_find_the_study(server: tuple[str, str]) -> None:
    base, experiment_id = server
    with urllib.request.urlopen(base) as page:
        assert "<title>MLflow</title>" in page.read().decode()
    address = f"{base}/ajax-api/2.0/mlflow/experiments/get?experiment_id={experiment_id}"
    with urllib.request.urlopen(address) as answer:
        experiment = json.load(answer)["experiment"]
    assert experiment["name"] == "shown-study"
    assert "mlflow.sharedViewState.cnnstudy" in {tag["key"] for tag in experiment["tags"]}


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_trial_and_gap_chart_are_on_the_screen_without_a_click(server: tuple[str, str], tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    base, experiment_id = server
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=QUIET_BROWSER)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(study_url(base, experiment_id))
        for text in ("alexnet-000 frozen", "Overfitting", "gap/accuracy", "best_gap_accuracy", "Learning curves"):
            page.get_by_text(text).first.wait_for(timeout=60_000)
        page.screenshot(path=tmp_path / "ui.png")
        browser.close()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program answers everything."""
    code = (
        "import http.server as h\n"
        "class Answer(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n        self.send_response(200)\n        self.end_headers()\n"
        "server = h.ThreadingHTTPServer(('127.0.0.1', 0), Answer)\n"
        "print(server.server_port, flush=True)\nserver.serve_forever()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
        assert other.stdout is not None
        yield int(other.stdout.readline())
        other.kill()


def test_a_port_that_is_taken_is_refused_and_its_owner_named(taken: int, tmp_path: Path) -> None:
    refused = rf"port {taken} is in use by `\S+ -c import .* \(process \d+\); choose another with --port"
    with pytest.raises(TrackingError, match=refused), serve(f"sqlite:///{tmp_path / 'mlflow.db'}", taken):
        pass


def test_another_server_that_was_faster_to_take_the_port_is_not_taken_for_ours(
    taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui_server, "_free_port", lambda port: taken)
    with (
        pytest.raises(TrackingError, match=f"port {taken} is in use by"),
        serve(f"sqlite:///{tmp_path / 'mlflow.db'}", None),
    ):
        pass


def test_a_system_without_groups_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows: neither the import nor the end of a server needs what is not there."""
    found = importlib.util.find_spec("cnnstudy.tracking.ui_server")
    assert found is not None
    assert found.loader is not None
    ui = importlib.util.module_from_spec(found)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        patch.delattr(signal, "SIGKILL")
        patch.delattr(os, "killpg")
        found.loader.exec_module(ui)
    monkeypatch.setattr(ui, "signal", SimpleNamespace(SIGTERM=signal.SIGTERM))
    monkeypatch.setattr(sys, "platform", "win32")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as server:
        ui._end_group(server)
        assert server.returncode is not None


@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.thorough), signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]
)
def test_the_command_prints_the_address_and_leaves_no_server(number: int, tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}")
    study = tracker.open_study("shown-study", {})
    command = [sys.executable, "-m", "cnnstudy", "ui", "shown-study", "--no-open", "--tracking-uri", tracker.uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            base = address.partition("/#")[0]
            assert address == study_url(base, study.experiment_id)
            assert process.stdout.readline() == "Press Ctrl-C to stop the server.\n"
            with urllib.request.urlopen(f"{base}/health") as answer:
                assert answer.status == 200
        finally:  # or a failed assertion would wait for the server
            process.send_signal(number)
        assert process.wait() == (130 if number != signal.SIGKILL else -signal.SIGKILL)
    if number == signal.SIGKILL:  # its end is seen by the server, a moment later
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            while urllib.request.urlopen(f"{base}/health"):
                time.sleep(0.05)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{base}/health")


def test_a_server_that_takes_its_time_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = itertools.count(step=5)
    monkeypatch.setattr(ui_server, "time", SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda _: None))
    monkeypatch.setattr(ui_server, "SECONDS_TO_START", 30)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        with pytest.raises(TrackingError, match=r"did not answer at http://127\.0\.0\.1:1 within 30 s"):
            ui_server._wait_until_ready("http://127.0.0.1:1", process)
        process.communicate(b"\n")
    assert capsys.readouterr().err == "starting MLflow's server: 10 s\nstarting MLflow's server: 20 s\n"
