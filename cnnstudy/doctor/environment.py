"""What a study needs around it: packages, and a machine with room. Nothing heavy is imported for that."""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from ctypes.util import find_library
from importlib import metadata
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import cnnstudy
from cnnstudy.cache import cache_folder
from cnnstudy.display import size
from cnnstudy.doctor.findings import Finding
from cnnstudy.processes import cores, gpus

#: Where a module has another name than its package.
_MODULES = {"scikit-learn": "sklearn", "pillow": "PIL", "ruamel.yaml": "ruamel"}
LEAST_PYTHON = (3, 11)
#: Bytes. With less, a study stops in its midst.
LEAST_DISK = 10**9
LEAST_MEMORY = 2 * 10**9


def packages() -> Iterator[Finding]:
    """Python, and each package that cnnstudy asks for: is it there, and new enough?"""
    yield Finding(
        "packages",
        f"Python {platform.python_version()}",
        sys.version_info < LEAST_PYTHON,
        f"cnnstudy needs Python {'.'.join(map(str, LEAST_PYTHON))} or newer",
    )
    for name, allowed in requirements().items():
        install = f'python -m pip install "{name}{allowed}"'
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding("packages", f"{name} is not installed", True, install)
            continue
        if not allowed.contains(version, prereleases=True):
            yield Finding("packages", f"{name} {version} is not supported; it takes {allowed}", True, install)
        elif importlib.util.find_spec(_MODULES.get(name, name)) is None:
            again = f"python -m pip install --force-reinstall {name}"
            yield Finding("packages", f"{name} {version} is installed, and its module is not there", True, again)
        else:
            yield Finding("packages", f"{name} {version}")


def requirements() -> dict[str, SpecifierSet]:
    """Return the versions allowed of each package, by the checkout's file, else by the installed package's metadata."""
    project = Path(cnnstudy.__file__).parent.parent / "pyproject.toml"
    lines: list[str] = []
    if project.is_file():
        lines = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("dependencies", [])
    else:
        lines = metadata.requires("cnnstudy") or []
    wanted = [Requirement(line) for line in lines]
    # without those of an extra, such as `pytest>=8.3; extra == "test"`
    return {
        one.name.lower(): one.specifier for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})
    }


def machine(artifacts: Path | None) -> Iterator[Finding]:
    """Cores, memory, and room on the disks.

    Args:
        artifacts: the folder that MLflow's files go to; None where that is on another machine.
    """
    yield Finding("machine", f"{cores()} cores")
    if gpus():
        has_libraries = _is_there("nvidia.cudnn") or find_library("cudnn") is not None
        without = "" if has_libraries else ", and no CUDA libraries: TensorFlow trains on the processor"
        install = "python -m pip install -c constraints.txt 'tensorflow[and-cuda]'"
        count = f"{len(gpus())} NVIDIA GPU{'s' if len(gpus()) > 1 else ''}"
        yield Finding("machine", f"{count}{without}", not has_libraries, install)
    memory = psutil.virtual_memory().available
    remedy = "end other programs, or train smaller batches with fewer workers"
    yield Finding("machine", f"{size(memory)} of memory available", memory < LEAST_MEMORY, remedy)
    places = {"cache": cache_folder(), "temporary files": Path(tempfile.gettempdir())}
    if artifacts is not None:
        places["MLflow's files"] = artifacts
    for what, folder in places.items():
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        yield Finding("machine", f"{size(free)} free for {what}, {folder}", free < LEAST_DISK, f"make room in {there}")


def _is_there(module: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):  # of what it is a part of
        return importlib.util.find_spec(module) is not None
    return False
