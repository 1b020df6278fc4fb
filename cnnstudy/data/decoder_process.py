"""A process that decodes images under limits: `python -m cnnstudy.data.decoder_process`.

The content of an image file is not trusted. A decoder that crashes, hangs or takes all memory ends only this
process, and it can write no file. Requests come on standard input and answers go to standard output; each is a
line of JSON that says how many bytes follow, as written and read by the functions at the end of this module. The
process ends when its input ends, so it does not outlive the worker that started it.
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

from cnnstudy.data.decode import MAX_FILE_BYTES, decode_image, read_file
from cnnstudy.records import BadImage, Decoded, ImageFacts, Record

#: Limits for decoding one image, at all its sizes: bytes of memory, and seconds of CPU time.
MAX_MEMORY_BYTES = 3 * 2**30
MAX_CPU_SECONDS = 60

resource: Any
try:
    import resource
except ImportError:  # on Windows decoders run without limits, though still in separate processes
    resource = None


@dataclass(frozen=True)
class Request(Record):
    """An image to decode: a file, or the bytes of one, which follow the line of requests."""

    name: str  # the name of the image in a BadImage
    path: str | None  # None: its bytes follow
    digest: str | None  # the SHA-256 that the file must have, in hexadecimal; None: any
    bytes: int  # how many follow; 0 for a file


def main() -> None:
    """Decode images until standard input ends."""
    parser = argparse.ArgumentParser()
    memory = "bytes, beyond those the process has at its start"
    parser.add_argument("--memory", type=int, default=MAX_MEMORY_BYTES, help=memory)
    parser.add_argument("--seconds", type=int, default=MAX_CPU_SECONDS, help="CPU time for one image")
    arguments = parser.parse_args()
    requests, output = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing a library prints gets between the answers
    # Pillow warns about odd metadata and large images; whether an image is usable is decided here
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None  # decode.py has its own limit
    _limit_resources(arguments.memory)
    write_answers(output, [])  # tells the pool that the process has started
    for line in requests:
        sizes, images, measured = read_requests(line)
        answers = []
        for image in images:
            content = requests.read(image.bytes)
            _limit_cpu_time(arguments.seconds)
            answers.append(_answer(image, content, sizes, measured, arguments.memory))
            _limit_cpu_time(0)
        write_answers(output, answers)


def _limit_resources(memory: int) -> None:
    if resource is None:
        return
    sys.dont_write_bytecode = True
    limits = {"RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}
    with contextlib.suppress(OSError):  # only Linux has this file; memory is not limited elsewhere
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits["RLIMIT_AS"] = pages * os.sysconf("SC_PAGE_SIZE") + memory
    for name, limit in limits.items():
        with contextlib.suppress(AttributeError, OSError, ValueError):  # not on this system, or already stricter
            resource.setrlimit(getattr(resource, name), (limit, limit))


def _limit_cpu_time(seconds: int) -> None:
    """Have the system end this process after this many seconds of CPU time, even in native code; 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _answer(
    image: Request, content: bytes | BadImage, sizes: Sequence[int], measured: bool, memory: int
) -> Decoded | BadImage:
    try:
        if image.path is not None:
            content = read_file(image.path, image.name)
        if isinstance(content, BadImage):
            return content
        if image.path is not None and image.digest not in (None, hashlib.sha256(content).hexdigest()):
            return BadImage(image.name, "", "changed")
        if len(content) > MAX_FILE_BYTES:
            return BadImage(image.name, f"a file of {len(content):,} bytes; the most is {MAX_FILE_BYTES:,}")
        return decode_image(image.name, content, sizes, measured)
    except MemoryError:
        return BadImage(image.name, f"can't be decoded (takes more than {memory / 2**20:,.0f} MiB of memory)")


# ---- the messages between this process and decoder_pool


def write_requests(
    stream: IO[bytes], sizes: Sequence[int], images: Sequence[Request], contents: Sequence[bytes], measured: bool
) -> None:
    """Write a line that lists all images, then the bytes of those that are not files."""
    line = {"sizes": list(sizes), "images": [image.to_json() for image in images], "measured": measured}
    stream.write(json.dumps(line).encode() + b"\n")
    stream.writelines(contents)
    stream.flush()


def read_requests(line: bytes) -> tuple[list[int], list[Request], bool]:
    """Return the sizes, the images, and whether facts are wanted; the bytes of the images follow in the stream."""
    request = json.loads(line)
    return request["sizes"], [Request.from_json(image) for image in request["images"]], request["measured"]


def write_answers(stream: IO[bytes], answers: Sequence[Decoded | BadImage]) -> None:
    """Write a line that lists all answers, then the pixels of the decoded images."""
    line = [
        {"bad": answer.to_json()}
        if isinstance(answer, BadImage)
        else {"bytes": list(map(len, answer.pixels)), "facts": answer.facts and answer.facts.to_json()}
        for answer in answers
    ]
    stream.write(json.dumps(line).encode() + b"\n")
    stream.writelines(pixels for answer in answers if isinstance(answer, Decoded) for pixels in answer.pixels)
    stream.flush()


def read_answers(stream: IO[bytes]) -> list[Decoded | BadImage]:
    """Read what `write_answers` wrote.

    Raises:
        EOFError: the stream ended before the last byte.
    """
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    headers = json.loads(line)
    pixels = memoryview(stream.read(sum(sum(header.get("bytes", ())) for header in headers)))
    answers: list[Decoded | BadImage] = []
    position = 0
    for header in headers:
        if "bad" in header:
            answers.append(BadImage.from_json(header["bad"]))
            continue
        bounds = list(itertools.accumulate(header["bytes"], initial=position))
        parts = tuple(pixels[start:end] for start, end in itertools.pairwise(bounds))
        answers.append(Decoded(parts, header["facts"] and ImageFacts.from_json(header["facts"])))
        position = bounds[-1]
    if position != len(pixels):
        raise EOFError
    return answers


if __name__ == "__main__":
    main()
