"""The pyfunc of a saved model, which MLflow serves: image files as they are, or arrays of pixels, to probabilities.

`model_package` stores this file with every model, for places where there is no cnnstudy: it imports nothing of it.
Files are decoded by the modules of cnnstudy.data that training uses. They are stored with the model too, and run in
processes of their own, under the same limits; `decoder_process` describes the messages.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException

#: The column, or the named input, that holds the images.
COLUMN = "image"


def _load_pyfunc(path: str) -> ServedModel:
    """Return the model whose data is in the folder `path`; MLflow calls this."""
    from mlflow import tensorflow

    folder = Path(path).parent
    contract = json.loads((folder / "input.json").read_text(encoding="utf-8"))
    return ServedModel(tensorflow._load_pyfunc(path), contract["size"], folder / "code" / "cnnstudy_decoder.zip")


class ServedModel:
    """MLflow's model of the `tensorflow` flavour, with image files as a second kind of input.

    Args:
        network: MLflow's model, which takes pixels.
        size: of the images in pixels.
        decoder: the archive with the code that decodes files.
    """

    def __init__(self, network: Any, size: int, decoder: Path) -> None:
        self._network = network
        self._size = size
        self._decoder = decoder
        self._idle: list[_Decoder] = []
        self._finalizer = weakref.finalize(self, _end_all, self._idle)

    def get_raw_model(self) -> Any:
        """Return the Keras model."""
        return self._network.get_raw_model()

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        """Return the probabilities [n, classes].

        Args:
            data: `{"image": values}`, or the values alone: [n] files, each as base64 text or as its bytes; or pixels
                [n, size, size, 3], whole numbers of 0..255, RGB.
            params: not used.

        Raises:
            MlflowException: an image can't be used; the message names each by its row. A server answers HTTP 400.
        """
        values = np.atleast_1d(np.asarray(data[COLUMN] if isinstance(data, dict) else data))
        return self._network.predict(self._decode(values) if values.ndim == 1 else self._check(values))

    def _check(self, values: np.ndarray) -> np.ndarray:
        if values.shape[1:] != (self._size, self._size, 3):
            raise MlflowException.invalid_parameter_value(
                f"the pixels have the shape {values.shape}, and this model takes (n, {self._size}, {self._size}, 3); "
                f"or send image files, as base64 text in the column {COLUMN!r}."
            )
        if values.dtype == np.uint8:
            return values
        try:
            numbers = values.astype(np.float64)
        except (TypeError, ValueError) as reason:
            raise MlflowException.invalid_parameter_value(f"the pixels are not numbers: {reason}") from reason
        if not ((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers))).all():
            raise MlflowException.invalid_parameter_value(
                "the pixels are not whole numbers of 0 to 255; the model scales them itself."
            )
        return numbers.astype(np.uint8)

    def _decode(self, values: np.ndarray) -> np.ndarray:
        if len(values) == 0:
            raise MlflowException.invalid_parameter_value("there are no images; send at least one.")
        results = [_read_content(value) for value in values]
        rows = [row for row, content in enumerate(results) if isinstance(content, bytes)]
        answers = self._ask_decoder([content for content in results if isinstance(content, bytes)])
        for row, answer in zip(rows, answers, strict=True):
            results[row] = answer
        bad = [f"row {row}: {why}" for row, why in enumerate(results) if isinstance(why, str)]
        if bad:
            raise MlflowException.invalid_parameter_value(
                f"{len(bad)} of {len(values)} images can't be used: {'; '.join(bad)}"
            )
        pixels = b"".join(content for content in results if isinstance(content, bytes))
        return np.frombuffer(pixels, np.uint8).reshape(len(values), self._size, self._size, 3)

    def _ask_decoder(self, contents: Sequence[bytes]) -> list[bytes | str]:
        """Return the pixels of each file, or why it can't be used."""
        if not contents:
            return []
        try:
            decoder = self._idle.pop()
        except IndexError:
            decoder = _Decoder(self._decoder)
        try:
            answers = decoder.ask(contents, self._size)
        except EOFError:
            how = decoder.end()
            if len(contents) == 1:
                return [f"can't be decoded (its decoder ended with {how})"]
            # the process died: ask again one by one, to see which image it was
            return [answer for content in contents for answer in self._ask_decoder([content])]
        except BaseException:
            decoder.end()
            raise
        self._idle.append(decoder)
        return answers


def _read_content(value: Any) -> bytes | str:
    """Return the bytes of a file that were sent, or why they can't be read."""
    if isinstance(value, np.ndarray) and value.ndim == 0:  # MLflow wraps the values of `instances`
        value = value.item()
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        return f"a value of the type {type(value).__name__}; send the base64 text of an image file"
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError) as reason:
        return f"not the base64 text of a file ({reason})"


class _Decoder:
    """A process that runs the stored decoder; used by one thread at a time."""

    def __init__(self, archive: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(archive)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # its threads would count against the limit on memory
        )
        try:
            self._read()  # an empty list once it has started
        except EOFError:
            raise MlflowException(f"the decoder {archive} ended at its start ({self.end()}).") from None

    def ask(self, contents: Sequence[bytes], size: int) -> list[bytes | str]:
        """Return the pixels of each file, or why it can't be used.

        Raises:
            EOFError: the process ended before it had answered.
        """
        images = [{"name": "", "path": None, "digest": None, "bytes": len(content)} for content in contents]
        stream = self._process.stdin
        assert stream is not None
        try:
            stream.write(json.dumps({"sizes": [size], "images": images, "measured": False}).encode() + b"\n")
            stream.writelines(contents)
            stream.flush()
        except OSError:
            raise EOFError from None
        return self._read()

    def _read(self) -> list[bytes | str]:
        stream = self._process.stdout
        assert stream is not None
        line = stream.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        answers: list[bytes | str] = []
        for answer in json.loads(line):
            answers.append(str(answer["bad"]["cause"])[:300] if "bad" in answer else stream.read(answer["bytes"][0]))
            if "bytes" in answer and len(answers[-1]) != answer["bytes"][0]:
                raise EOFError
        return answers

    def end(self) -> str:
        """End the process, and return the signal or exit code with which it ended."""
        for stream in filter(None, (self._process.stdin, self._process.stdout)):
            with contextlib.suppress(OSError):  # the process has ended, and what is in the buffer can't be written
                stream.close()
        code = self._process.wait()
        return signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code:#x}"


def _end_all(decoders: list[_Decoder]) -> None:
    while decoders:
        decoders.pop().end()
