"""A worker process with the real one's protocol, whose trials take no time: their curves and models are made up.

It writes into the cache and its folder in parts, so that a kill may hit it within a file.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from fake_executor import DIGEST, FakeExecutor, Work

from cnnstudy.execution import Epoch, Job, Progress
from cnnstudy.records import PreparedImages
from cnnstudy.system import cache

#: Longest duration of a step, seconds.
STEP = 0.01


def pause() -> None:
    time.sleep(random.uniform(0, STEP))


def write(path: Path, content: bytes) -> None:
    """Write the file in parts, with pauses."""
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(content), 1 + len(content) // 3):
            file.write(content[start : start + 1 + len(content) // 3])
            pause()


def as_npy(images: int, size: int) -> bytes:
    """Return black images [images, size, size, 3] uint8 as the content of an .npy file."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({images}, {size}, {size}, 3), }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00\x76\x00" + header.encode() + bytes(images * size * size * 3)


class Fast(FakeExecutor):
    """A fake executor that puts images into the cache, and writes models in parts."""

    def _prepare(self, job: Job) -> Work:
        yield Progress(job.key, "reading", 0, 0)
        name, labels = job.payload["options"]["name"], job.payload["options"]["classes"]
        classes = tuple(f"class {label}" for label in labels)
        counts = {"train": (6,) * len(labels), "validation": (4,) * len(labels), "test": (2,) * len(labels)}
        images = 12 * len(labels)

        def fill(folder: Path) -> None:
            write(folder / "images.npy", as_npy(images, 8))
            index = {"keys": list(range(images)), "labels": [0] * images, "bad": {}}
            write(folder / "index.json", json.dumps(index).encode())

        prepared = []
        for size in job.payload["sizes"]:
            folder = cache.build_entry("images", cache.content_address([labels, size]), fill)
            prepared.append(PreparedImages(name, str(folder), DIGEST, size, classes, **counts))
        yield self._end(job, [images.to_json() for images in prepared])

    def _write_files(self, spec: Any) -> dict[str, str]:
        files = super()._write_files(spec)
        write(Path(files["model"]) / "data" / "model.keras", spec.key.encode() * 1000)
        if "backbone" in files:
            write(Path(files["backbone"]), b"PK\x05\x06" + bytes(18))  # an empty archive
        return files


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads")
    parser.add_argument("--ahead", action="store_true")
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    messages: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            messages.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    engine = Fast(arguments.folder)
    while True:
        message = messages.get()
        job = Job(message["key"], message["kind"], message["payload"], message["asks"])
        engine.submit(job)
        while True:
            pause()
            event = engine.next_event(0)
            assert event is not None
            kind = type(event).__name__.lower()
            print(json.dumps({"kind": kind, **_plain(event)}), flush=True)
            if isinstance(event, Epoch):
                engine.answer(job.key, messages.get()["go_on"])
            elif not isinstance(event, Progress):
                break


def _plain(event: Any) -> dict[str, Any]:
    return {**vars(event), "record": event.record.to_json()} if isinstance(event, Epoch) else vars(event)


if __name__ == "__main__":
    main()
