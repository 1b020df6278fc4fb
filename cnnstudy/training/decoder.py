"""A process that decodes images under limits: `python -m cnnstudy.training.decoder`.

What is in an image file is not trusted. A decoder that crashes, hangs or takes all memory ends this process and nothing
else; it can write no file. Requests come on standard input and answers leave on what was standard output, each a line
of JSON that says how many bytes follow. It ends when its input ends, so no worker's death leaves it behind.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from PIL import Image

from cnnstudy.training.pixels import UnusableImageError, decode, read_file

resource: Any
try:
    import resource
except ImportError:  # not on Windows: decoders run without limits there, though still apart
    resource = None


#: What is to be said of an image, and its pixels at every size.
Answer = tuple[dict[str, Any], list[bytes]]


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
    _send(answers, [])
    for line in requests:
        request = json.loads(line)
        found = []
        for image in request["images"]:
            content = requests.read(image["bytes"])
            _allow(arguments.seconds)
            found.append(_answer(image, content, request["sizes"]))
            _allow(0)
        _send(answers, found)


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


def _answer(image: dict[str, Any], content: bytes, sizes: Sequence[int]) -> Answer:
    try:
        if image["path"] is not None:
            content = read_file(image["path"])
            if image["digest"] not in (None, hashlib.sha256(content).hexdigest()):
                return {"changed": True}, []
        return {}, decode(content, sizes)
    except UnusableImageError as reason:
        return {"bad": str(reason)}, []
    except OSError as reason:
        return {"unreadable": reason.strerror or str(reason)}, []
    except MemoryError:
        return {"memory": True}, []


def _send(stream: IO[bytes], answers: Sequence[Answer]) -> None:
    """A line about all of them, then their pixels."""
    line = [{**answer, "bytes": sum(map(len, pixels))} for answer, pixels in answers]
    stream.write(json.dumps(line).encode() + b"\n")
    stream.writelines(of_size for _, pixels in answers for of_size in pixels)
    stream.flush()


if __name__ == "__main__":
    main()
