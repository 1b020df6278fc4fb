"""Downloads by Keras' own downloader, with a checked hash; for users without network, what to put where."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from cnnstudy.errors import CnnstudyError
from cnnstudy.system.cache import cache_folder, content_address, lock_for

#: Where Keras puts them when its own folder can't be written.
_ELSEWHERE = Path("/tmp" if Path("/tmp").is_dir() else tempfile.gettempdir()) / ".keras"


def keras_folder(subfolder: str) -> Path:
    """Where Keras keeps its downloads: `$KERAS_HOME` or ~/.keras, then `subfolder`."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / subfolder


def download(
    url: str, file_name: str, file_hash: str, error: type[CnnstudyError], otherwise: str, subfolder: str = "datasets"
) -> Path:
    """The file from Keras' cache, downloaded first where it is not there yet.

    Args:
        file_hash: MD5 or SHA-256 in hexadecimal digits; what is there or arrives must have it.
        otherwise: what a user without network can write in the study file instead.

    Raises:
        error: the download failed or the file has another hash.
    """
    place = keras_folder(subfolder) / file_name
    if place.is_file() and not _has_hash(place, file_hash):
        # Keras would delete it and try the network
        raise error(f"{place} is not the file that {url} gives: its hash is not {file_hash}. Remove it, or {otherwise}")
    lock = cache_folder() / "locks" / content_address(["download", str(place)])
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock_for(lock):
        for there in (place, _ELSEWHERE / subfolder / file_name):
            if there.is_file() and _has_hash(there, file_hash):
                return there
        return _downloaded(url, place, file_hash, error, otherwise, subfolder)


def _downloaded(
    url: str, place: Path, file_hash: str, error: type[CnnstudyError], otherwise: str, subfolder: str
) -> Path:
    """By another name first: a process that is killed meanwhile leaves no half of a file that the next would refuse."""
    import keras

    try:
        part = keras.utils.get_file(
            f".{place.name}.part", origin=url, file_hash=file_hash, cache_subdir=subfolder, force_download=False
        )
        return Path(part).replace(Path(part).with_name(place.name))
    except Exception as reason:  # get_file raises bare Exception where the network fails
        raise error(
            f"can't download {url}: {reason}. Without network: put the file at {place} "
            f"(its hash must be {file_hash}), or {otherwise}"
        ) from reason


def _has_hash(path: Path, expected: str) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256" if len(expected) == 64 else "md5").hexdigest() == expected
