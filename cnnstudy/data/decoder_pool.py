"""Files and arrays to pixels, in parallel: files in processes of their own (decoder.py); the bad ones are named."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

import cnnstudy
from cnnstudy.data.datasets import SourceImage
from cnnstudy.data.decode import resize
from cnnstudy.data.decoder_process import Request, read_answers, write_requests
from cnnstudy.data.image_tree import UNREAD_SUFFIXES
from cnnstudy.errors import DataError, WorkerError, printable
from cnnstudy.records import BadImage, Decoded
from cnnstudy.system.processes import cores

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

        def decode(places: range) -> list[BadImage | None]:
            outcomes = self._outcomes(
                [images[place] for place in places], sizes, digests and [digests[place] for place in places]
            )
            for place, outcome in zip(places, outcomes, strict=True):
                if isinstance(outcome, Decoded):
                    for size, pixels in zip(sizes, outcome.pixels, strict=True):
                        store(place, size, np.frombuffer(pixels, np.uint8).reshape(size, size, 3))
            return [outcome if isinstance(outcome, BadImage) else None for outcome in outcomes]

        count, threads = len(images), cores()
        at_once = max(1, min(MOST_AT_ONCE, count // (2 * threads)))
        parts = [range(start, min(start + at_once, count)) for start in range(0, count, at_once)]
        with ThreadPoolExecutor(threads) as pool:
            outcomes = (outcome for of_part in pool.map(decode, parts) for outcome in of_part)
            for place, outcome in enumerate(outcomes):
                if outcome is not None:
                    bad.append(outcome)
                if place % 64 == 63 or place + 1 == count:
                    progress("decoding images", place + 1, count)
        return bad

    def _outcomes(
        self, images: Sequence[SourceImage], sizes: Sequence[int], digests: Sequence[bytes] | None
    ) -> list[Decoded | BadImage]:
        outcomes = [_without_decoder(image, sizes) for image in images]
        asked = [place for place, outcome in enumerate(outcomes) if outcome is None]
        decoded = iter(self._decoded([images[i] for i in asked], sizes, digests and [digests[i] for i in asked]))
        return [next(decoded) if outcome is None else outcome for outcome in outcomes]

    def _decoded(
        self, images: Sequence[SourceImage], sizes: Sequence[int], digests: Sequence[bytes] | None
    ) -> list[Decoded | BadImage]:
        if not images:
            return []
        try:
            decoder = self._idle.pop()
        except IndexError:
            decoder = _Decoder()
        try:
            answers = decoder.ask(images, sizes, digests)
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
        for image, answer in zip(images, answers, strict=True):
            if isinstance(answer, BadImage):
                _check_unchanged(image, answer, may_change=digests is None)
        return answers


def _without_decoder(image: SourceImage, sizes: Sequence[int]) -> Decoded | BadImage | None:
    """None where there is something to decode."""
    if isinstance(image.content, np.ndarray):
        picture = Image.fromarray(image.content).convert("RGB")
        return Decoded(tuple(resize(picture, size).tobytes() for size in sizes))
    for suffix in UNREAD_SUFFIXES:
        if image.key.lower().endswith(suffix):
            return BadImage(image.key, f"files that end in {suffix} are not read; save it as JPEG or PNG")
    return None


def _check_unchanged(image: SourceImage, bad: BadImage, may_change: bool) -> None:
    """Raise DataError where the file changed, or went away, after its digest was taken."""
    if bad.kind == "changed" or (bad.kind == "unreadable" and not may_change):
        why = f" ({printable(bad.cause)})" if bad.cause else ""
        raise DataError(
            f"{printable(_name(image))} is not what it was a moment ago{why}; run again when nothing changes "
            "the images."
        )


def _name(image: SourceImage) -> str:
    return str(image.content) if isinstance(image.content, Path) else image.key


def _blame(image: SourceImage, code: int) -> BadImage:
    """Return why the image can't be used whose decoder ended with this exit code.

    Raises:
        DataError: it was not the image's fault.
    """
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code:#x}"
    if name == "SIGPROF":
        return BadImage(image.key, f"can't be decoded (takes more than {MOST_SECONDS} seconds)")
    if name in _CRASHES or code >= 0xC0000000:  # Windows has no signals but these codes
        return BadImage(image.key, f"can't be decoded (its decoder crashed, {name})")
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
                    *(sys.executable, "-m", "cnnstudy.data.decoder_process"),
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
            self._answers()
        except EOFError:
            raise WorkerError(f"a process that decodes images ended at its start (exit code {self.end()}).") from None

    def ask(
        self, images: Sequence[SourceImage], sizes: Sequence[int], digests: Sequence[bytes] | None
    ) -> list[Decoded | BadImage]:
        """Decode files, or the bytes of files.

        Raises:
            EOFError: the process ended before it had answered.
        """
        contents = [image.content if isinstance(image.content, bytes) else b"" for image in images]
        requests = [
            Request(
                name=image.key,
                path=os.path.abspath(image.content) if isinstance(image.content, Path) else None,
                digest=None if digests is None else digests[place].hex(),
                bytes=len(contents[place]),
            )
            for place, image in enumerate(images)
        ]
        assert self._process.stdin is not None
        try:
            write_requests(self._process.stdin, sizes, requests, contents)
        except OSError:
            raise EOFError from None
        return self._answers()

    def _answers(self) -> list[Decoded | BadImage]:
        assert self._process.stdout is not None
        return read_answers(self._process.stdout)

    def end(self) -> int:
        """Its exit code, as subprocess has it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # it is gone, with what was still to be written to it
            self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait()
