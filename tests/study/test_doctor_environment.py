from __future__ import annotations

import shutil
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.specifiers import SpecifierSet

import cnnstudy
from cnnstudy.study import doctor
from cnnstudy.study.doctor import Finding


def troubles(found: list[Finding]) -> list[str]:
    return [finding.text for finding in found if finding.trouble]


def test_every_package_of_the_project_is_looked_at() -> None:
    project = tomllib.loads((Path(cnnstudy.__file__).parent.parent / "pyproject.toml").read_text())
    assert len(doctor.requirements()) == len(project["project"]["dependencies"])
    found = list(doctor.check_packages())
    assert len(found) == 1 + len(doctor.requirements())
    assert troubles(found) == []


def test_without_a_checkout_the_installed_package_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.cnnstudy, "__file__", "/site-packages/cnnstudy/__init__.py")
    wanted = ["tensorflow>=2.20", "ruamel.yaml>=0.18.6", 'pytest>=8.3; extra == "test"']
    monkeypatch.setattr(metadata, "requires", {"cnnstudy": wanted}.__getitem__)
    assert doctor.requirements() == {
        "tensorflow": SpecifierSet(">=2.20"),
        "ruamel.yaml": SpecifierSet(">=0.18.6"),
    }


def test_a_package_that_is_missing_old_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"mlflow": "3.9.9", "keras": "3.15", "tensorflow": "2.100.0rc1"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    wanted = {"mlflow": "3.17", "keras": "3.15", "tensorflow": "2.20", "optuna": "5.0"}
    allowed = {name: SpecifierSet(f">={least}") for name, least in wanted.items()}
    monkeypatch.setattr(doctor, "requirements", lambda: allowed)
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "keras" else object())
    found = list(doctor.check_packages())
    assert troubles(found) == [
        "mlflow 3.9.9 is not supported; cnnstudy needs >=3.17",
        "keras 3.15 is installed, but its module is missing",
        "optuna is not installed",
    ]
    assert found[1].remedy == 'python -m pip install "mlflow>=3.17"'


@pytest.mark.parametrize(
    ("version", "allowed", "does"),
    [
        ("3.15", ">=3.15", True),
        ("3.15.1", ">=3.15", True),
        ("3.15rc1", ">=3.15", False),  # before 3.15
        ("3.15rc1", ">=3.15.1", False),
        ("3.15.1rc1", ">=3.15", True),
        ("3.15.dev1", ">=3.15", False),
        ("3.15.post1", ">=3.15", True),
        ("3.15+cpu", ">=3.15", True),
        ("3.9", ">=3.15", False),
        ("1!1.0", ">=3.15", True),
        ("3.15.0.9", ">=3.15.1", False),
        ("3.16", ">=3.15,<3.16", False),
    ],
)
def test_versions_are_compared_as_pip_does(
    version: str, allowed: str, does: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "requirements", lambda: {"keras": SpecifierSet(allowed)})
    monkeypatch.setattr(metadata, "version", lambda name: version)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    assert [finding.trouble for finding in doctor.check_packages()] == [False, not does]


def test_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=(3, 10, 9)))
    assert next(doctor.check_packages()).trouble


@pytest.mark.parametrize(("free", "trouble"), [(10**9, False), (10**9 - 1, True)])
def test_room_on_the_disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, trouble: bool) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    found = [
        finding for finding in doctor.check_machine(tmp_path / "not" / "there yet") if " free for " in finding.text
    ]
    assert [finding.trouble for finding in found] == [trouble] * 3
    assert f"for MLflow's files, {tmp_path / 'not' / 'there yet'}" in found[-1].text
    assert found[-1].remedy == f"free some space in {tmp_path}"
    assert sum(" free for " in finding.text for finding in doctor.check_machine(None)) == 2


@pytest.mark.parametrize(
    ("cards", "library", "told"),
    [
        ([], None, []),
        (["GPU-a"], None, [True]),
        (["GPU-a", "GPU-b"], "libcudnn.so.9", [False]),
    ],
)
def test_gpus_and_their_libraries(
    cards: list[str], library: str | None, told: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "list_gpus", lambda: cards)
    monkeypatch.setattr(doctor, "find_library", lambda name: library)
    found = [finding for finding in doctor.check_machine(None) if "NVIDIA" in finding.text]
    assert [finding.trouble for finding in found] == told
    for finding in found:
        assert finding.text.startswith(f"{len(cards)} NVIDIA GPU")
        assert ("TensorFlow trains on the CPU" in finding.text) == finding.trouble


@pytest.mark.parametrize(("memory", "trouble"), [(2 * 10**9, False), (10**9, True)])
def test_memory(monkeypatch: pytest.MonkeyPatch, memory: int, trouble: bool) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=memory))
    found = [finding for finding in doctor.check_machine(None) if "memory" in finding.text]
    assert [(finding.text, finding.trouble) for finding in found] == [
        (f"{memory // 10**9} GB of memory available", trouble)
    ]
