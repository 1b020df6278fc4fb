"""A process that decodes images under limits: `python -m cnnstudy.data.decoder_process`.

What is in an image file is not trusted. A decoder that crashes, hangs or takes all memory ends this process and nothing
else; it can write no file. Requests come on standard input and answers leave on what was standard output, each a line
of JSON that says how many bytes follow (the functions below `_answer`). It ends when its input ends, so no worker's
death leaves it behind.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image

from cnnstudy.data.decode import decode_image, read_file
from cnnstudy.records import BadImage, Decoded, Record

resource: Any
try:
    import resource
except ImportError:  # not on Windows: decoders run without limits there, though still apart
    resource = None


@dataclass(frozen=True)
class Request(Record):
    """An image to decode: a file, or the bytes of one that follow the line of requests."""

    name: str  # what a bad image is called
    path: str | None
    digest: str | None  # the SHA-256 that the file must have
    bytes: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", type=int, required=True, help="bytes, above what this process has at its start")
    parser.add_argument("--seconds", type=int, required=True, help="of the processor, for one image")
    arguments = parser.parse_args()
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    warnings.simplefilter(
        "ignore"
    )  # Pillow warns of odd metadata and of large images; what can be used is decided here
    Image.MAX_IMAGE_PIXELS = None  # pixels.py has a limit of its own
    _limit(arguments.memory)
    write_answers(answers, [])
    for line in requests:
        sizes, images = read_requests(line)
        found = []
        for image in images:
            content = requests.read(image.bytes)
            _allow(arguments.seconds)
            found.append(_answer(image, content, sizes, arguments.memory))
            _allow(0)
        write_answers(answers, found)


def _limit(memory: int) -> None:
    if resource is None:
        return
    sys.dont_write_bytecode = True
    limits = {"RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}
    with contextlib.suppress(OSError):  # Linux; elsewhere what a process has at its start can't be told as easily
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits["RLIMIT_AS"] = pages * os.sysconf("SC_PAGE_SIZE") + memory
    for name, most in limits.items():
        with contextlib.suppress(AttributeError, OSError, ValueError):  # a stricter one holds already
            resource.setrlimit(getattr(resource, name), (most, most))


def _allow(seconds: int) -> None:
    """The system ends this process after so many seconds of the processor, in native code too; 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _answer(image: Request, content: bytes | BadImage, sizes: Sequence[int], memory: int) -> Decoded | BadImage:
    try:
        if image.path is not None:
            content = read_file(image.path, image.name)
        if isinstance(content, BadImage):
            return content
        if image.path is not None and image.digest not in (None, hashlib.sha256(content).hexdigest()):
            return BadImage(image.name, "", "changed")
        return decode_image(image.name, content, sizes)
    except MemoryError:
        return BadImage(image.name, f"can't be decoded (takes more than {memory / 2**20:,.0f} MiB of memory)")


# ---- what this process and the one that started it write to each other


def write_requests(
    stream: IO[bytes], sizes: Sequence[int], images: Sequence[Request], contents: Sequence[bytes]
) -> None:
    """Write a line about all images, then their bytes, where they are no files."""
    line = {"sizes": list(sizes), "images": [image.to_json() for image in images]}
    stream.write(json.dumps(line).encode() + b"\n")
    stream.writelines(contents)
    stream.flush()


def read_requests(line: bytes) -> tuple[list[int], list[Request]]:
    """Return the sizes and the images of a line; the bytes of images come after it."""
    found = json.loads(line)
    return found["sizes"], [Request.from_json(image) for image in found["images"]]


def write_answers(stream: IO[bytes], answers: Sequence[Decoded | BadImage]) -> None:
    """Write a line about all images, then their pixels."""
    line = [
        {"bad": answer.to_json()} if isinstance(answer, BadImage) else {"bytes": list(map(len, answer.pixels))}
        for answer in answers
    ]
    stream.write(json.dumps(line).encode() + b"\n")
    stream.writelines(pixels for answer in answers if isinstance(answer, Decoded) for pixels in answer.pixels)
    stream.flush()


def read_answers(stream: IO[bytes]) -> list[Decoded | BadImage]:
    """Return what `write_answers` wrote.

    Raises:
        EOFError: the stream ended before.
    """
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answers = json.loads(line)
    pixels = memoryview(stream.read(sum(sum(answer.get("bytes", ())) for answer in answers)))
    found: list[Decoded | BadImage] = []
    start = 0
    for answer in answers:
        if "bad" in answer:
            found.append(BadImage.from_json(answer["bad"]))
            continue
        ends = list(itertools.accumulate(answer["bytes"], initial=start))
        found.append(Decoded(tuple(pixels[a:b] for a, b in itertools.pairwise(ends))))
        start = ends[-1]
    if start != len(pixels):
        raise EOFError
    return found


if __name__ == "__main__":
    main()
