"""Where a run comes from, as MLflow's own tags: who ran which file, of which commit."""

from __future__ import annotations

import getpass
import re
import subprocess
from pathlib import Path

from cnnstudy.names import Tag


def describe_origin(file: Path | None) -> dict[str, str]:
    """Return MLflow's tags for the user, the study file and the git commit of the user's project.

    What is unknown is left out: a user without a name, a folder that is in no repository.

    Args:
        file: of the study; None: none was given, and the commit is that of the working folder.
    """
    tags = {Tag.COMMIT: _find_commit(Path.cwd() if file is None else file.absolute().parent), Tag.USER: _find_user()}
    if file is not None:
        tags |= {Tag.SOURCE: str(file.absolute()), Tag.SOURCE_TYPE: "LOCAL"}
    return {name: value for name, value in tags.items() if value}


def _find_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # KeyError: before Python 3.13
        return ""


def _find_commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "rev-parse", "--verify", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL)
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    commit = found.stdout.strip()
    return commit if found.returncode == 0 and re.fullmatch(r"[0-9a-f]{40,64}", commit) else ""
