"""Downloads by Keras' downloader, with a checked hash; errors say where to put the file without network access."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from cnnstudy.errors import CnnstudyError
from cnnstudy.system.cache import content_address, lock_for, require_cache

#: Where Keras puts downloads when its own folder can't be written.
_FALLBACK_FOLDER = Path("/tmp" if Path("/tmp").is_dir() else tempfile.gettempdir()) / ".keras"


def keras_folder(subfolder: str) -> Path:
    """Return where Keras keeps its downloads: `subfolder` of `$KERAS_HOME` or ~/.keras."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / subfolder


def download(
    url: str, file_name: str, file_hash: str, error: type[CnnstudyError], otherwise: str, subfolder: str = "datasets"
) -> Path:
    """Return the path of a file in Keras' cache, downloading it if it is not there.

    Args:
        file_hash: MD5 or SHA-256 in hexadecimal digits, which the file must have; "": none is known.
        error: the class of what is raised.
        otherwise: ends the message: what to write in the study file without network access.

    Raises:
        error: the download failed, or the file has another hash.
    """
    place = keras_folder(subfolder) / file_name
    if place.is_file() and not _has_hash(place, file_hash):
        # Keras would delete it and try the network
        raise error(f"{place} is not the file at {url}: its hash is not {file_hash}. Remove it, or {otherwise}")
    with lock_for(require_cache("locks") / content_address(["download", str(place)])):
        for existing in (place, _FALLBACK_FOLDER / subfolder / file_name):
            if existing.is_file() and _has_hash(existing, file_hash):
                return existing
        return _fetch(url, place, file_hash, error, otherwise, subfolder)


def _fetch(url: str, place: Path, file_hash: str, error: type[CnnstudyError], otherwise: str, subfolder: str) -> Path:
    """Download under another name, then rename: a process killed meanwhile leaves no partial file behind."""
    import keras

    try:
        part = keras.utils.get_file(
            f".{place.name}.part", origin=url, file_hash=file_hash or None, cache_subdir=subfolder, force_download=False
        )
        return Path(part).replace(Path(part).with_name(place.name))
    except Exception as reason:  # get_file raises bare Exception where the network fails
        cause = str(reason).rpartition(" -- ")[2]  # Keras puts the address before it
        known = f" (its hash must be {file_hash})" if file_hash else ""
        raise error(
            f"can't download {url}: {cause}. Without network access: put the file at {place}{known}, or {otherwise}"
        ) from reason


def _has_hash(path: Path, expected: str) -> bool:
    if not expected:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256" if len(expected) == 64 else "md5").hexdigest() == expected
