"""Decode files and arrays to pixels, in parallel, and list the bad images.

Files are decoded in separate processes (`decoder_process`), one per thread of the pool.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from cnnstudy.data.datasets import SourceImage
from cnnstudy.data.decode import measure_image, resize
from cnnstudy.data.decoder_process import (
    MAX_CPU_SECONDS,
    MAX_MEMORY_BYTES,
    Request,
    read_answers,
    write_requests,
)
from cnnstudy.data.listing import UNSUPPORTED_SUFFIXES
from cnnstudy.errors import DataError, WorkerError, printable
from cnnstudy.records import BadImage, Decoded, ImageFacts
from cnnstudy.system.processes import count_cores, package_environment

#: Images in one request to a decoder: a round trip takes as long as decoding a small image.
IMAGES_PER_REQUEST = 16
DECODER_ENVIRONMENT = {
    # decoders do no linear algebra, and its threads would reserve memory for each core
    "OPENBLAS_NUM_THREADS": "1",
    # have glibc keep an image's memory for the next one: a third less time for photos at 224 pixels
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
}
#: The signals that end a process whose decoder has crashed; by name, because not all exist on every system.
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE", "SIGSYS")

#: Reports progress: what is being done, how many are done, and how many there are (0: unknown).
Progress = Callable[[str, int, int], None]
#: Receives the index of an image and its facts.
Measured = Callable[[int, ImageFacts], None]


@dataclass(frozen=True)
class _Asked:
    """What is asked of each image: its pixels at each size, and whether it is measured."""

    sizes: Sequence[int]
    measured: bool


def decode_all(
    images: Sequence[SourceImage],
    sizes: Sequence[int],
    store: Callable[[int, int, np.ndarray], None],
    progress: Progress,
    digests: Sequence[bytes] | None = None,
    measured: Measured | None = None,
) -> list[BadImage]:
    """Decode every image, pass its pixels at every size to `store(index, size, pixels)`, and return the bad images.

    Pixels are [size, size, 3] uint8, RGB; `store` is called from several threads, once for each index and size.

    Args:
        digests: the SHA-256 that each file must still have; with digests, an unreadable file is an error too.
        measured: is called with the index and the facts of each image, like `store`; None: nothing is measured.

    Raises:
        DataError: a file has changed, or a decoder was killed from outside.
        WorkerError: no decoder can be started.
    """
    with Decoders() as decoders:
        return decoders.decode_all(images, sizes, store, progress, digests, measured)


class Decoders:
    """A pool of decoder processes, at most one per core, started when first needed; a context manager."""

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
        measured: Measured | None = None,
    ) -> list[BadImage]:
        """Do what the function `decode_all` does, with the processes of this pool."""
        bad: list[BadImage] = []

        def decode_and_store(indices: range) -> list[BadImage | None]:
            asked = _Asked(sizes, measured is not None)
            results = self._decode(
                [images[index] for index in indices], asked, digests and [digests[index] for index in indices]
            )
            for index, result in zip(indices, results, strict=True):
                if isinstance(result, Decoded):
                    for size, pixels in zip(sizes, result.pixels, strict=True):
                        store(index, size, np.frombuffer(pixels, np.uint8).reshape(size, size, 3))
                    if measured is not None and result.facts is not None:
                        measured(index, result.facts)
            return [result if isinstance(result, BadImage) else None for result in results]

        count, threads = len(images), count_cores()
        chunk_size = max(1, min(IMAGES_PER_REQUEST, count // (2 * threads)))
        chunks = [range(start, min(start + chunk_size, count)) for start in range(0, count, chunk_size)]
        with ThreadPoolExecutor(threads) as pool:
            results = (result for chunk in pool.map(decode_and_store, chunks) for result in chunk)
            for done, bad_image in enumerate(results, 1):
                if bad_image is not None:
                    bad.append(bad_image)
                if done % 64 == 0 or done == count:
                    progress("decoding images", done, count)
        return bad

    def _decode(
        self, images: Sequence[SourceImage], asked: _Asked, digests: Sequence[bytes] | None
    ) -> list[Decoded | BadImage]:
        """Return the result for each image, from a decoder process only where one is needed."""
        results = [_decode_here(image, asked) for image in images]
        pending = [index for index, result in enumerate(results) if result is None]
        answers = iter(
            self._ask_decoder([images[i] for i in pending], asked, digests and [digests[i] for i in pending])
        )
        return [next(answers) if result is None else result for result in results]

    def _ask_decoder(
        self, images: Sequence[SourceImage], asked: _Asked, digests: Sequence[bytes] | None
    ) -> list[Decoded | BadImage]:
        if not images:
            return []
        try:
            decoder = self._idle.pop()
        except IndexError:
            decoder = _Decoder()
        try:
            answers = decoder.ask(images, asked, digests)
        except EOFError:
            exit_code = decoder.end()
            if len(images) == 1:
                return [_blame_image(images[0], exit_code)]
            # the process died: ask again one by one, to see which image it was
            singly = ((image, digests and [digests[index]]) for index, image in enumerate(images))
            return [answer for image, digest in singly for answer in self._ask_decoder([image], asked, digest)]
        except BaseException:
            decoder.end()
            raise
        self._idle.append(decoder)
        for image, answer in zip(images, answers, strict=True):
            if isinstance(answer, BadImage):
                _check_unchanged(image, answer, may_change=digests is None)
        return answers


def _decode_here(image: SourceImage, asked: _Asked) -> Decoded | BadImage | None:
    """Return the result for pixels, and for files that Pillow would misread; None for what a decoder must see."""
    if isinstance(image.content, np.ndarray):
        picture = Image.fromarray(image.content)
        facts = measure_image(picture) if asked.measured else None
        return Decoded(tuple(resize(picture.convert("RGB"), size).tobytes() for size in asked.sizes), facts)
    name = image.content.name if isinstance(image.content, Path) else image.key
    for suffix in UNSUPPORTED_SUFFIXES:
        if name.lower().endswith(suffix):
            return BadImage(image.key, f"files that end in {suffix} are not supported; save it as JPEG or PNG")
    return None


def _check_unchanged(image: SourceImage, bad: BadImage, may_change: bool) -> None:
    """Raise DataError if the file has changed, or disappeared, since its digest was taken."""
    if bad.kind == "changed" or (bad.kind == "unreadable" and not may_change):
        why = f" ({printable(bad.cause)})" if bad.cause else ""
        raise DataError(
            f"{printable(_describe_image(image))} changed while it was being read{why}; run again when nothing changes "
            "the images."
        )


def _describe_image(image: SourceImage) -> str:
    return str(image.content) if isinstance(image.content, Path) else image.key


def _blame_image(image: SourceImage, exit_code: int) -> BadImage:
    """Return why the image whose decoder ended with this exit code can't be decoded.

    Raises:
        DataError: it was not the image's fault.
    """
    name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"exit code {exit_code:#x}"
    if name == "SIGPROF":
        return BadImage(image.key, f"can't be decoded (takes more than {MAX_CPU_SECONDS} seconds)")
    if name in _CRASHES or exit_code >= 0xC0000000:  # Windows has these codes instead of signals
        return BadImage(image.key, f"can't be decoded (its decoder crashed, {name})")
    hint = "; the machine may have run out of memory" if name == "SIGKILL" else ""
    raise DataError(
        f"the process that decoded {printable(_describe_image(image))} ended unexpectedly ({name}){hint}. Run again."
    )


class _Decoder:
    """A process of `decoder_process`; used by one thread at a time."""

    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "cnnstudy.data.decoder_process"),
                    *(f"--memory={MAX_MEMORY_BYTES}", f"--seconds={MAX_CPU_SECONDS}"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=package_environment() | DECODER_ENVIRONMENT,
            )
        except OSError as error:
            raise WorkerError(f"can't start a process that decodes images: {error}") from error
        # larger pipes save context switches; only on Linux
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import fcntl

            for stream in filter(None, (self._process.stdin, self._process.stdout)):
                fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, 2**20)
        try:
            self._read_answers()  # an empty list once it has started
        except EOFError:
            raise WorkerError(f"a process that decodes images ended at its start (exit code {self.end()}).") from None

    def ask(
        self, images: Sequence[SourceImage], asked: _Asked, digests: Sequence[bytes] | None
    ) -> list[Decoded | BadImage]:
        """Have the process decode files, or the bytes of files.

        Raises:
            EOFError: the process ended before it had answered.
        """
        contents = [image.content if isinstance(image.content, bytes) else b"" for image in images]
        requests = [
            Request(
                name=image.key,
                path=os.path.abspath(image.content) if isinstance(image.content, Path) else None,
                digest=None if digests is None else digests[index].hex(),
                bytes=len(contents[index]),
            )
            for index, image in enumerate(images)
        ]
        assert self._process.stdin is not None
        try:
            write_requests(self._process.stdin, asked.sizes, requests, contents, asked.measured)
        except OSError:
            raise EOFError from None
        return self._read_answers()

    def _read_answers(self) -> list[Decoded | BadImage]:
        assert self._process.stdout is not None
        return read_answers(self._process.stdout)

    def end(self) -> int:
        """End the process and return its exit code, as `subprocess` gives it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # the process has ended, and what is in the buffer can't be written
            self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait()
