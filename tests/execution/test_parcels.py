"""What travels between machines: no path of one reaches the other, and nothing is used that is not what was sent."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from cnnstudy.errors import DataError, EnvironmentTrouble
from cnnstudy.execution import Job
from cnnstudy.execution.parcels import (
    PIECE,
    Arrival,
    ArrivingEntry,
    Parcel,
    measure,
    name_files,
    pack_job,
    read_piece,
    unpack_job,
)
from cnnstudy.records import PreparedImages, TrialSpec
from cnnstudy.system.cache import build_entry, content_address, entry_folder, is_intact
from execution.contract_jobs import small_spec, trial_job

ADDRESS = content_address("images")


def fill(folder: Path) -> None:
    (folder / "images.npy").write_bytes(b"pixels" * 100)
    (folder / "index.json").write_text("{}")


@pytest.fixture
def spec(own_places: Path) -> TrialSpec:
    """A trial with images and groups in the cache, and weights outside of it."""
    images = build_entry("images", ADDRESS, fill)
    groups = build_entry("groups", ADDRESS, lambda folder: (folder / "groups.npy").write_bytes(b"groups") and None)
    weights = own_places / "home" / "weights.npz"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    prepared = PreparedImages("digits", str(images), "d" * 64, 64, ("a", "b"), (6, 6), (4, 4), (2, 2))
    prepared = dataclasses.replace(prepared, groups=str(groups / "groups.npy"))
    return small_spec(prepared, weights_source="file", weights_file=str(weights))


def receive(parcel: Parcel, folder: Path) -> list[str]:
    """Move a parcel into the cache of this process."""
    arriving = ArrivingEntry(parcel)
    try:
        while (missing := arriving.next_missing()) is not None:
            arriving.add(*missing, read_piece(folder, *missing))
        return arriving.store()
    finally:
        arriving.close()


@pytest.mark.parametrize("kind", ["run_trial", "measure_speed"])
def test_a_job_has_the_other_machines_paths_there_and_what_they_lead_to(
    spec: TrialSpec, own_places: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    job = trial_job(spec) if kind == "run_trial" else Job("speed", "measure_speed", {"spec": spec.to_json()})
    packed, parcels = pack_job(job)
    assert str(own_places) not in json.dumps(packed.payload)
    monkeypatch.setenv("CNNSTUDY_CACHE", str(own_places / "there"))
    for parcel, folder in parcels:
        assert receive(parcel, folder) == []
        assert is_intact(parcel.kind, parcel.address)
    payload = unpack_job(packed).payload
    there = TrialSpec.from_json(payload if kind == "run_trial" else payload["spec"])
    places = (there.images.folder, there.images.groups, there.weights_file)
    assert all(str(place).startswith(str(own_places / "there")) for place in places)
    assert (Path(there.images.folder) / "images.npy").read_bytes() == b"pixels" * 100
    assert Path(there.images.groups).read_bytes() == b"groups"
    assert Path(str(there.weights_file)).read_bytes() == b"weights"
    same = {"images": spec.images, "weights_file": spec.weights_file}
    assert dataclasses.replace(there, **same) == spec  # type: ignore[arg-type]


def test_a_network_of_ones_own_travels_with_its_trial(spec: TrialSpec) -> None:
    name = "file:net.py:build@0123456789"
    build_entry("networks", content_address(name), lambda folder: (folder / "net.py").write_text("x = 1") and None)
    _, parcels = pack_job(trial_job(dataclasses.replace(spec, architecture=name)))
    assert [parcel.files.keys() for parcel, _ in parcels if parcel.kind == "networks"] == [{"net.py"}]


def test_what_is_not_there_stays_for_the_worker_to_report(spec: TrialSpec) -> None:
    gone = dataclasses.replace(
        spec, weights_file="/no/such/file", images=dataclasses.replace(spec.images, folder="/no")
    )
    packed, parcels = pack_job(trial_job(gone))
    assert (packed.payload["weights_file"], packed.payload["images"]["folder"]) == ("/no/such/file", "/no")
    assert unpack_job(packed).payload["images"]["folder"] == "/no"
    assert [parcel.kind for parcel, _ in parcels] == ["groups"]
    for strange in ({"no": "specification"}, {"images": 3}):
        job = Job("strange", "run_trial", strange)
        assert pack_job(job) == (job, [])


def test_damaged_images_are_not_sent(spec: TrialSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnstudy.system.cache._intact", {})
    (Path(spec.images.folder) / "images.npy").write_bytes(b"others")
    with pytest.raises(DataError, match=r"damaged \(images.npy is not what was written\), so it was not sent"):
        pack_job(trial_job(spec))


def test_what_has_arrived_before_is_not_asked_for_again(tmp_path: Path) -> None:
    content = bytes(range(256)) * (PIECE // 100)
    (tmp_path / "from" / "deep").mkdir(parents=True)
    (tmp_path / "from" / "deep" / "large").write_bytes(content)
    (tmp_path / "from" / "empty").touch()
    files = measure(tmp_path / "from")
    first = Arrival(tmp_path / "to", files)
    missing = first.next_missing()
    assert missing == ("deep/large", 0)
    first.add(*missing, read_piece(tmp_path / "from", *missing))
    second, asked = Arrival(tmp_path / "to", files), []  # after the connection was lost
    while (missing := second.next_missing()) is not None:
        asked.append(missing)
        second.add(*missing, read_piece(tmp_path / "from", *missing))
        second.add(*missing, read_piece(tmp_path / "from", *missing))  # a call that is repeated
    assert asked == [("deep/large", PIECE), ("deep/large", 2 * PIECE), ("empty", 0)]
    assert second.find_altered() == []
    assert (tmp_path / "to" / "deep" / "large").read_bytes() == content
    assert measure(tmp_path / "to") == files


def test_what_arrives_altered_is_removed_and_asked_for_again(own_places: Path) -> None:
    folder = own_places / "from"
    folder.mkdir()
    fill(folder)
    parcel = Parcel("images", ADDRESS, measure(folder))
    arriving = ArrivingEntry(parcel)
    arriving.add("images.npy", 0, b"PIXELS" * 100)
    arriving.add("index.json", 0, b"{}")
    assert arriving.next_missing() is None
    assert arriving.store() == ["images.npy"]
    assert not arriving.is_there
    assert arriving.next_missing() == ("images.npy", 0)
    arriving.add("images.npy", 0, b"pixels" * 100)
    assert arriving.store() == []
    assert arriving.is_there
    assert arriving.is_ours
    assert not ArrivingEntry(parcel).is_ours, "two at once"
    arriving.close()
    again = ArrivingEntry(parcel)
    assert again.is_ours
    again.close()
    assert not list(entry_folder("images", ADDRESS).parent.parent.glob("incoming/*/*"))


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../out", "..", "", "a\\..\\out"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(EnvironmentTrouble, match="leads out of its folder"):
        Arrival(tmp_path, {name: (1, "")})


def test_results_name_their_files_relative_to_the_workers_folder(tmp_path: Path) -> None:
    files = {"model": str(tmp_path / "a" / "model"), "other": "/elsewhere/model", "text": "word"}
    assert name_files(files, tmp_path) == {"model": "a/model", "other": "/elsewhere/model", "text": "word"}
