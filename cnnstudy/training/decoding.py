"""Files and arrays to pixels, in parallel: files in processes of their own (decoder.py); the bad ones are named."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

import cnnstudy
from cnnstudy.datasets import SourceImage
from cnnstudy.datasets.files import UNREAD_SUFFIXES
from cnnstudy.errors import DataError, WorkerError, printable
from cnnstudy.processes import cores
from cnnstudy.training.pixels import in_size

#: For one image, at all its sizes: bytes of memory, and seconds of the processor.
MOST_MEMORY_BYTES = 3 * 2**30
MOST_SECONDS = 60
#: Images that a decoder gets together: to answer each by itself would take as long as decoding a small one.
MOST_AT_ONCE = 16
ENVIRONMENT = {
    # threads of linear algebra, which is not used, would reserve memory for each core
    "OPENBLAS_NUM_THREADS": "1",
    # glibc keeps what an image took for the next one: a third less time for photos at 224 pixels
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
}
#: How a process ends whose decoder made a mistake, by name: not everywhere are there all of them.
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE", "SIGSYS")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BadImage:
    """An image that can't be used, and why."""

    key: str
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.key}: {self.reason}")


def decode_all(
    images: Sequence[SourceImage],
    sizes: Sequence[int],
    store: Callable[[int, int, np.ndarray], None],
    progress: Progress,
    digests: Sequence[bytes] | None = None,
) -> list[BadImage]:
    """Decode every image and hand its pixels, at every size, to `store(index, size, pixels)`.

    Pixels are [size, size, 3] uint8, RGB; `store` is called from several threads, once for each index and size.

    Args:
        digests: the SHA-256 that each file must still have; a file that can't be read any more is an error then, too.

    Raises:
        DataError: a file is not what it was, or a decoder was ended from outside.
        WorkerError: no decoder can be started.
    """
    with Decoders() as decoders:
        return decoders.decode_all(images, sizes, store, progress, digests)


class Decoders:
    """Processes that decode, at most one for each core, started when first needed; a context manager."""

    def __init__(self) -> None:
        self._idle: list[_Decoder] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._idle:
            self._idle.pop().end()

    def decode_all(
        self,
        images: Sequence[SourceImage],
        sizes: Sequence[int],
        store: Callable[[int, int, np.ndarray], None],
        progress: Progress,
        digests: Sequence[bytes] | None = None,
    ) -> list[BadImage]:
        """As the function of that name."""
        bad: list[BadImage] = []

        def decode(places: range) -> list[str | None]:
            outcomes = self._outcomes(
                [images[place] for place in places], sizes, digests and [digests[place] for place in places]
            )
            for place, outcome in zip(places, outcomes, strict=True):
                if not isinstance(outcome, str):
                    for size, decoded in zip(sizes, outcome, strict=True):
                        store(place, size, decoded)
            return [outcome if isinstance(outcome, str) else None for outcome in outcomes]

        count, threads = len(images), cores()
        at_once = max(1, min(MOST_AT_ONCE, count // (2 * threads)))
        parts = [range(start, min(start + at_once, count)) for start in range(0, count, at_once)]
        with ThreadPoolExecutor(threads) as pool:
            reasons = (reason for of_part in pool.map(decode, parts) for reason in of_part)
            for place, reason in enumerate(reasons):
                if reason is not None:
                    bad.append(BadImage(images[place].key, printable(reason)[:300]))
                if place % 64 == 63 or place + 1 == count:
                    progress("decoding images", place + 1, count)
        return bad

    def _outcomes(
        self, images: Sequence[SourceImage], sizes: Sequence[int], digests: Sequence[bytes] | None
    ) -> list[list[np.ndarray] | str]:
        """Of each image the pixels at every size, or why it can't be used."""
        outcomes = [_without_decoder(image, sizes) for image in images]
        asked = [place for place, outcome in enumerate(outcomes) if outcome is None]
        decoded = iter(self._decoded([images[i] for i in asked], sizes, digests and [digests[i] for i in asked]))
        return [next(decoded) if outcome is None else outcome for outcome in outcomes]

    def _decoded(
        self, images: Sequence[SourceImage], sizes: Sequence[int], digests: Sequence[bytes] | None
    ) -> list[list[np.ndarray] | str]:
        if not images:
            return []
        try:
            decoder = self._idle.pop()
        except IndexError:
            decoder = _Decoder()
        try:
            answers = decoder.ask([image.content for image in images], sizes, digests)
        except EOFError:
            code = decoder.end()
            if len(images) == 1:
                return [_blame(images[0], code)]
            # one by one, to see which of them it was
            singly = ((image, digests and [digests[place]]) for place, image in enumerate(images))
            return [outcome for image, digest in singly for outcome in self._decoded([image], sizes, digest)]
        except BaseException:
            decoder.end()
            raise
        self._idle.append(decoder)
        return [
            _outcome(image, sizes, answer, decoded, may_change=digests is None)
            for image, (answer, decoded) in zip(images, answers, strict=True)
        ]


def _without_decoder(image: SourceImage, sizes: Sequence[int]) -> list[np.ndarray] | str | None:
    """None where there is something to decode."""
    if isinstance(image.content, np.ndarray):
        picture = Image.fromarray(image.content).convert("RGB")
        return [np.asarray(in_size(picture, size)) for size in sizes]
    for suffix in UNREAD_SUFFIXES:
        if image.key.lower().endswith(suffix):
            return f"files that end in {suffix} are not read; save it as JPEG or PNG"
    return None


def _outcome(
    image: SourceImage, sizes: Sequence[int], answer: dict[str, Any], decoded: memoryview, may_change: bool
) -> list[np.ndarray] | str:
    """What a decoder's answer comes to.

    Raises:
        DataError: the file changed, and it may not.
    """
    unreadable = answer.get("unreadable")
    if "changed" in answer or (unreadable and not may_change):
        raise DataError(
            f"{printable(_name(image))} is not what it was a moment ago{f' ({unreadable})' if unreadable else ''}; "
            "run again when nothing changes the images."
        )
    if unreadable:
        return f"can't be read ({unreadable})"
    if "memory" in answer:
        return f"can't be decoded (takes more than {MOST_MEMORY_BYTES / 2**20:,.0f} MiB of memory)"
    if "bad" in answer:
        return str(answer["bad"])
    arrays, start = [], 0
    for size in sizes:
        arrays.append(np.frombuffer(decoded, np.uint8, 3 * size * size, start).reshape(size, size, 3))
        start += 3 * size * size
    return arrays


def _name(image: SourceImage) -> str:
    return str(image.content) if isinstance(image.content, Path) else image.key


def _blame(image: SourceImage, code: int) -> str:
    """Why the image can't be used whose decoder ended so.

    Raises:
        DataError: it was not the image's fault.
    """
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code:#x}"
    if name == "SIGPROF":
        return f"can't be decoded (takes more than {MOST_SECONDS} seconds)"
    if name in _CRASHES or code >= 0xC0000000:  # Windows has no signals but these codes
        return f"can't be decoded (its decoder crashed, {name})"
    hint = "; the machine may have run out of memory" if name == "SIGKILL" else ""
    raise DataError(f"the process that decoded {printable(_name(image))} was ended ({name}){hint}. Run again.")


class _Decoder:
    """One process of decoder.py; used by one thread at a time."""

    def __init__(self) -> None:
        root = str(Path(cnnstudy.__file__).parent.parent)
        paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "cnnstudy.training.decoder"),
                    *(f"--memory={MOST_MEMORY_BYTES}", f"--seconds={MOST_SECONDS}"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": paths, **ENVIRONMENT},
            )
        except OSError as error:
            raise WorkerError(f"can't start a process that decodes images: {error}") from error
        with contextlib.suppress(
            ImportError, AttributeError, OSError
        ):  # Linux; elsewhere answers take a few more switches
            import fcntl

            for stream in filter(None, (self._process.stdin, self._process.stdout)):
                fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, 2**20)
        try:
            self._read()
        except EOFError:
            raise WorkerError(f"a process that decodes images ended at its start (exit code {self.end()}).") from None

    def ask(
        self, contents: Sequence[Any], sizes: Sequence[int], digests: Sequence[bytes] | None
    ) -> list[tuple[dict[str, Any], memoryview]]:
        """Of each file or its bytes what the decoder answers, and the pixels.

        Raises:
            EOFError: it ended before it had answered.
        """
        given = [content if isinstance(content, bytes) else b"" for content in contents]
        images = [
            {
                "path": os.path.abspath(content) if isinstance(content, Path) else None,
                "digest": None if digests is None else digests[place].hex(),
                "bytes": len(given[place]),
            }
            for place, content in enumerate(contents)
        ]
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"sizes": list(sizes), "images": images}).encode() + b"\n")
            self._process.stdin.writelines(given)
            self._process.stdin.flush()
        except OSError:
            raise EOFError from None
        return self._read()

    def _read(self) -> list[tuple[dict[str, Any], memoryview]]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        answers = json.loads(line)
        decoded = memoryview(self._process.stdout.read(sum(answer["bytes"] for answer in answers)))
        found, start = [], 0
        for answer in answers:
            found.append((answer, decoded[start : start + answer["bytes"]]))
            start += answer["bytes"]
        if start != len(decoded):
            raise EOFError
        return found

    def end(self) -> int:
        """Its exit code, as subprocess has it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # it is gone, with what was still to be written to it
            self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait()
