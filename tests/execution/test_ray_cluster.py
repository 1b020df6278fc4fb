"""Trials on a Ray cluster whose nodes share neither paths nor environment with the driver, and are lost."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from execution.contract_jobs import PATIENCE, prepare, run, small_spec, trial_job
from execution.ray_nodes import Nodes

pytest.importorskip("ray")

from cnnstudy.errors import WorkerError
from cnnstudy.execution import Done, Epoch, Failed, Job, Waiting
from cnnstudy.execution.ray_cluster import RayExecutor
from cnnstudy.execution.ray_connection import SlotNeeds, describe_code
from cnnstudy.records import LOST, TrialResult, TrialSpec
from cnnstudy.system.code_version import training_code
from cnnstudy.training import checkpoints

TESTS = Path(__file__).parent.parent
#: Workers whose trials take no time.
FAST = (str(TESTS / "faults" / "fast_worker.py"),)
SECRET = "bobs-secret-of-4711"

Start = Callable[..., RayExecutor]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with contextlib.closing(Nodes(tmp_path_factory.mktemp("cluster"), 2)) as made:
        yield made


@pytest.fixture
def start(nodes: Nodes, own_places: Path) -> Iterator[Start]:
    """start(slots): an executor with so many slots, with a cache of its own."""
    with contextlib.ExitStack() as stack:

        def make(slots: int = 1, program: tuple[str, ...] = FAST) -> RayExecutor:
            (own_places / "files").mkdir(exist_ok=True)
            return stack.enter_context(
                contextlib.closing(RayExecutor(slots, own_places / "files", SlotNeeds(), nodes.address, program))
            )

        yield make
    wait_until_gone(nodes.workers)


def next_of(executor: RayExecutor, *kinds: type) -> Any:
    """The next event of one of these kinds; the others are passed over, and epochs answered."""
    while True:
        event = executor.next_event(PATIENCE)
        assert event is not None
        if isinstance(event, Epoch):
            executor.answer(event.key, True)
        if isinstance(event, kinds):
            return event


def wait_for_slots(executor: RayExecutor, slots: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while executor.slots != slots:
        assert time.monotonic() < deadline
        event = executor.next_event(0.2)
        if isinstance(event, Epoch):
            executor.answer(event.key, True)


def wait_until_gone(find: Callable[[], list[psutil.Process]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while left := find():
        assert time.monotonic() < deadline, f"still there: {[one.cmdline() for one in left]}"
        time.sleep(0.1)


def long_spec(executor: RayExecutor, **changes: Any) -> TrialSpec:
    """A trial that ends only after a minute or so, with a checkpoint of each epoch."""
    return small_spec(prepare(executor), epochs=5000, checkpoints="every-epoch", **changes)


# ---- files


def test_what_a_trial_needs_is_put_into_the_nodes_cache_and_its_files_come_back(
    start: Start, nodes: Nodes, own_places: Path
) -> None:
    executor = start()
    weights = own_places / "my weights.npz"
    weights.write_bytes(os.urandom(20 * 2**20))  # several pieces
    spec = small_spec(prepare(executor), weights_source="file", weights_file=str(weights))
    done = run(executor, trial_job(spec))[-1]
    assert isinstance(done, Done)
    model = Path(TrialResult.from_json(done.result).files["model"])
    assert model == own_places / "files" / spec.key / "model"
    assert (model / "data" / "model.keras").read_bytes() == spec.key.encode() * 1000
    (slot,) = executor.ready
    assert slot.facts is not None
    assert not slot.facts.shares_cache
    images = list(nodes.folder.glob(f"node-*/cache/images/{Path(spec.images.folder).name}/images.npy"))
    assert [file.read_bytes() for file in images] == [(Path(spec.images.folder) / "images.npy").read_bytes()]
    (received,) = nodes.folder.glob("node-*/cache/received/*/my weights.npz")
    assert received.read_bytes() == weights.read_bytes()
    assert not list(nodes.folder.glob("node-*/temporary/cnnstudy-*/*")), "nothing of the trial stays on the node"


def test_images_are_sent_once_to_a_node(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = start()
    spec = small_spec(prepare(executor))
    run(executor, trial_job(spec))
    calls: list[str] = []
    (slot,) = executor.ready
    real = slot.call
    monkeypatch.setattr(slot, "call", lambda method, *given: calls.append(method) or real(method, *given))
    run(executor, trial_job(spec, number=1))
    assert "start" in calls
    assert "take" not in calls


def test_a_file_that_arrives_damaged_is_sent_again_and_not_for_ever(
    start: Start, own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = start()
    spec = small_spec(prepare(executor))
    weights = own_places / "weights.npz"
    weights.write_bytes(b"what it is")
    times = [0]

    def damage(folder: Path, name: str, offset: int) -> bytes:
        data = (folder / name).read_bytes()[offset:]
        times[0] += name == weights.name
        return b"what it ix" if name == weights.name and times[0] < worst else data

    monkeypatch.setattr("cnnstudy.execution.ray_slot.read_piece", damage)
    worst = 2
    job = trial_job(spec, weights_source="file", weights_file=str(weights))
    assert isinstance(run(executor, job)[-1], Done)
    weights.write_bytes(b"what it as")  # other content
    worst = 100
    failed = run(executor, job)[-1]
    assert isinstance(failed, Failed)
    assert failed.reason == "environment"
    assert "weights.npz" in failed.message
    assert "with other content than was sent" in failed.message


# ---- secrets


def test_no_process_and_no_file_of_the_cluster_has_the_tracking_servers_password(
    start: Start, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://bob:{SECRET}@host")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    executor = start(2)
    nodes.add()  # as a node that joins after the driver
    spec = long_spec(executor)
    executor.submit(trial_job(spec))
    next_of(executor, Epoch)
    seen = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid():
                assert SECRET not in "\0".join([*process.environ().values(), *process.cmdline()]), process
                seen += process in nodes.workers()
    assert seen, "the worker's own environment was looked at"
    places = [nodes.folder, Path(nodes.cluster.head_node.get_session_dir_path())]
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]


# ---- losses


def test_a_trial_whose_actor_is_killed_is_lost_and_goes_on_from_its_checkpoint(start: Start, nodes: Nodes) -> None:
    executor = start()
    spec = long_spec(executor)
    executor.submit(trial_job(spec))
    address = checkpoints.checkpoint_address(spec)
    while checkpoints.find_epoch(address) < 3:
        next_of(executor, Epoch)
    (actor,) = [one for one in nodes.actors() if one.is_running()]
    (worker,) = [one for one in nodes.workers() if one.is_running()]
    actor.kill()
    failed = next_of(executor, Failed)
    assert (failed.key, failed.reason, failed.error) == (spec.key, LOST, None)
    assert "the node is still there" in failed.message
    wait_until_gone(lambda: [one for one in nodes.workers() if one == worker])
    reached = checkpoints.find_epoch(address)
    executor.submit(trial_job(spec))
    epoch = next_of(executor, Epoch)
    assert (epoch.record.epoch, epoch.record.replayed) == (1, True)
    while epoch.record.replayed:
        last, epoch = epoch.record.epoch, next_of(executor, Epoch)
    assert last >= reached
    executor.stop(spec.key)


def test_a_trial_whose_node_is_lost_goes_on_elsewhere_and_a_node_that_joins_is_used(start: Start, nodes: Nodes) -> None:
    while len(nodes.nodes) > 1:
        wait_until_gone(nodes.actors)
        nodes.cluster.remove_node(nodes.nodes.pop())
    executor = start(2)
    spec = long_spec(executor)
    executor.submit(trial_job(spec))
    address = checkpoints.checkpoint_address(spec)
    while checkpoints.find_epoch(address) < 3:
        next_of(executor, Epoch)
    assert executor.slots == 1, "one node, one core"
    nodes.add()
    wait_for_slots(executor, 2)
    first = next(slot for slot in executor.ready if slot.node == executor._busy[spec.key].node)
    nodes.kill(next(node for node in nodes.nodes if node.node_id == first.node))
    failed = next_of(executor, Failed)
    assert (failed.key, failed.reason) == (spec.key, LOST)
    assert "was lost" in failed.message
    assert executor.slots == 1
    executor.submit(trial_job(spec))
    epoch = next_of(executor, Epoch)
    assert epoch.record.replayed, "from the checkpoint that had come to the driver"
    assert executor._busy[spec.key].node != first.node
    executor.stop(spec.key)


def test_a_job_waits_where_no_node_has_room_and_says_so(start: Start, nodes: Nodes) -> None:
    first, second = start(len(nodes.nodes)), None
    spec = small_spec(prepare(first))
    wait_for_slots(first, len(nodes.nodes))
    second = start()
    second.submit(trial_job(spec))
    assert next_of(second, Waiting) == Waiting(spec.key, "a node of the cluster")
    first.close()
    assert next_of(second, Done).key == spec.key


def test_a_hung_trial_is_stopped_with_what_its_worker_was_doing(start: Start) -> None:
    executor = start(program=("-c", HANGS))
    executor.submit(trial_job(small_spec(prepare_elsewhere())))
    next_of(executor, Epoch)
    assert "where_it_hangs" in executor.stop("alexnet-000")
    executor.submit(Job("another", "measure_speed", {"spec": {}}))
    next_of(executor, Epoch)


HANGS = """
import faulthandler, json, os, sys, threading, time
faulthandler.enable()
job = json.loads(sys.stdin.readline())
record = {"epoch": 1, "metrics": {}}
print(json.dumps({"kind": "epoch", "key": job["key"], "record": record, "asks": False}), flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
def where_it_hangs():
    time.sleep(600)
where_it_hangs()
"""


def prepare_elsewhere() -> Any:
    from cnnstudy.records import PreparedImages

    return PreparedImages("digits", "/no/such", "d" * 64, 64, ("a", "b"), (6, 6), (4, 4), (2, 2))


# ---- processes


def test_close_ends_every_process_and_removes_its_files(start: Start, nodes: Nodes) -> None:
    executor = start()
    executor.submit(trial_job(long_spec(executor)))
    next_of(executor, Epoch)
    (worker,) = nodes.workers()
    executor.close()
    assert not worker.is_running()
    assert not list(nodes.folder.glob("node-*/temporary/cnnstudy-*"))
    assert executor.next_event(0.01) is None
    executor.close()


DRIVER = """
import json, sys, time
from pathlib import Path
tests, folder, address, program, job = sys.argv[1:]
sys.path.insert(0, tests)
from cnnstudy.execution import Epoch, Job
from cnnstudy.execution.ray_cluster import RayExecutor
from cnnstudy.execution.ray_connection import SlotNeeds
executor = RayExecutor(1, Path(folder), SlotNeeds(), address, (program,))
executor.submit(Job(**json.loads(job)))
while not isinstance(executor.next_event(60), Epoch):
    pass
print("under way", flush=True)
time.sleep(600)
"""


def test_no_worker_outlives_its_driver(start: Start, nodes: Nodes, own_places: Path) -> None:
    executor = start()
    job = trial_job(long_spec(executor))
    executor.close()
    arguments = [str(TESTS), str(own_places), nodes.address, FAST[0], json.dumps(vars(job))]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], stdout=subprocess.PIPE, text=True)
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "under way\n"
        assert nodes.workers()
        driver.kill()
    wait_until_gone(nodes.workers)


# ---- in words


def test_needs_that_no_node_can_meet(nodes: Nodes, own_places: Path) -> None:
    with pytest.raises(WorkerError) as raised:
        RayExecutor(1, own_places, SlotNeeds(64, 0.5, 10**15), nodes.address)
    text = str(raised.value)
    assert "64 CPUs, 0.5 GPUs, 1,000 TB of memory" in text
    assert "1 CPUs, 0 GPUs" in text, "what the nodes have"
    assert "Lower execution.cpus" in text


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_is_not_there(own_places: Path, address: str) -> None:
    with pytest.raises(WorkerError, match=f"can't reach the Ray cluster {address}: .*refused.* Check the address"):
        RayExecutor(1, own_places, SlotNeeds(), address)


def test_a_node_with_other_versions_gets_no_job(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "cnnstudy.execution.ray_slot.describe_code", lambda code, understands, host: f"{host} has others"
    )
    executor = start()
    spec = small_spec(prepare(executor))
    for _ in range(2):
        executor.submit(trial_job(spec))
        failed = next_of(executor, Failed)
        assert (failed.key, failed.reason, failed.error) == (spec.key, "environment", "WorkerError")
        assert failed.message.endswith(" has others")


def test_a_node_with_other_code_is_named_with_the_difference() -> None:
    code = training_code(()).to_json()
    assert describe_code(code, True, "node7") == ""
    assert "compared: cnnstudy (here -> there)" in describe_code(code, False, "node7")
    code["versions"] = {**code["versions"], "tensorflow": "1.0"}
    text = describe_code(code, True, "node7")
    assert text.startswith("node node7 has other versions than this machine")
    assert "-> 1.0" in text
    assert "Install the same ones" in text
