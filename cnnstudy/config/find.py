"""Find the study file that a command names, or say which was meant."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import cnnstudy
from cnnstudy.config.factors import format_given
from cnnstudy.errors import ConfigError, as_sentence, nearest_name

_PACKAGE = Path(cnnstudy.__file__).parent
#: The study files that come with cnnstudy: in the package that was installed, or in the checkout that it runs from.
SHIPPED_STUDIES = (_PACKAGE if (_PACKAGE / "experiments").is_dir() else _PACKAGE.parent) / "experiments"
#: The user's own come first.
_STUDY_FOLDERS = (Path("experiments"), SHIPPED_STUDIES)


def find_file(name_or_path: str) -> Path:
    """Return the study file at a path, or of that name in one of the folders of studies.

    Raises:
        ConfigError: there is none; the nearest names are given.
    """
    try:
        given = Path(name_or_path).expanduser()
        if given.is_file():
            return given
        if name_or_path and given.is_dir():
            raise ConfigError(_describe_folder(given))
    except (OSError, RuntimeError) as error:  # the name is too long, or `~` names no user
        why = as_sentence(getattr(error, "strerror", None) or error)
        raise ConfigError(
            f"there is no study file {format_given(name_or_path)}: {why} Give a path, or the name of a study in "
            "experiments/."
        ) from error
    if given.suffix not in (".yaml", ".yml"):
        for folder in _STUDY_FOLDERS:
            if (folder / f"{name_or_path}.yaml").is_file():
                return folder / f"{name_or_path}.yaml"
    known = list_studies()
    raise ConfigError(
        f"there is no study file {name_or_path!r}{_suggest_file(given, known)} "
        f"Give a path, or one of the names in experiments/: {', '.join(known) or 'none here'}."
    )


def list_studies() -> list[str]:
    """Return the names of the studies in ./experiments, and of those that come with cnnstudy."""
    return sorted({file.stem for folder in _STUDY_FOLDERS for file in folder.glob("*.yaml")})


def _suggest_file(given: Path, known: Sequence[str]) -> str:
    """Return the end of a sentence: the file that was meant, in the same folder or among the known names."""
    beside = {file.stem: str(file) for file in _study_files(given.parent)}
    meant = beside.get(given.name) or beside.get(given.stem) or nearest_name(given.stem, known)
    near = nearest_name(given.stem, beside)
    meant = meant or (None if near is None else beside[near])
    return "." if meant is None else f"; did you mean {meant!r}?"


def _study_files(folder: Path) -> list[Path]:
    return sorted(file for suffix in ("yaml", "yml") for file in folder.glob(f"*.{suffix}"))


def _describe_folder(folder: Path) -> str:
    """Say that a folder is no study file, and which to give: one in it, or one that reads its images."""
    files = [str(file) for file in _study_files(folder)]
    if files:
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        return f"{folder} is a folder; give a study file in it: {', '.join(files[:5])}{more}."
    if any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir()):
        return f"{folder} is a folder, not a study file. {advise_own_images(folder)}"
    return f"{folder} is a folder; give a study file in it, as {folder / 'study.yaml'}."


def advise_own_images(path: Path) -> str:
    """Say how to train on the images of a folder or archive."""
    shown = str(path) if re.fullmatch(r"[\w./~-]+", str(path)) else json.dumps(str(path), ensure_ascii=False)
    return (
        f"To train on the images in it, write `data: {{name: folder, path: {shown}}}` into a study file, as in the "
        "README under 'Your own photos', and give that file."
    )
