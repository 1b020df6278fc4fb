"""Files of weights of other programs: read right, and never run, whatever is in them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnstudy.errors import WeightsError
from cnnstudy.training.weight_files import read_weights

from .torch_files import stored, write_pickle, write_torch

#: Written by `torch.save` of PyTorch 2.13 from a state dict of eight tensors; `old.pth` in the form before 1.6.
FILES = Path(__file__).parent / "files"


def write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> Path:
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}  # type: ignore[dict-item]
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_what_pytorch_writes_is_read() -> None:
    found = read_weights(FILES / "tensors.pth")
    assert (found.kind, found.layers) == ("PyTorch", {})
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = {
        "conv.weight": np.arange(12, dtype=np.float32).reshape(2, 3, 2, 1),
        "strided": base[:, 1:4].T,
        "shared": base[2],
        "half": np.array([1.5, -2], np.float16),
        "bf16": np.array([1.5, -3.00405527047391e38], np.float32),
        "count": np.array(7),
        "param": np.ones(2, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert list(found.tensors) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found.tensors[name], array, err_msg=name)
        assert found.tensors[name].dtype == array.dtype


@pytest.mark.parametrize("wrapped", ["state_dict", "model", "model_state_dict"])
def test_a_checkpoint_of_training_is_unwrapped(wrapped: str, tmp_path: Path) -> None:
    content = {"epoch": 3, wrapped: OrderedDict({"module.w": stored("0", (2,), (1,), 2)})}
    path = write_pickle(tmp_path / "w.pth", content, {"0": np.ones(2, np.float32).tobytes()})
    assert list(read_weights(path).tensors) == ["w"]


def test_safetensors(tmp_path: Path) -> None:
    path = write_safetensors(
        tmp_path / "w.safetensors",
        {
            "w": ("F32", [2, 3], np.arange(6, dtype="<f4").tobytes()),
            "b": ("BF16", [2], b"\xc0\x3f\x00\xc0"),
            "n": ("I64", [], np.int64(5).tobytes()),
        },
    )
    found = read_weights(path).tensors
    np.testing.assert_array_equal(found["w"], np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(found["b"], [1.5, -2])
    assert found["n"] == 5


def test_the_content_tells_the_type_and_not_the_name(tmp_path: Path) -> None:
    shutil.copy(FILES / "tensors.pth", tmp_path / "weights.h5")
    assert read_weights(tmp_path / "weights.h5").kind == "PyTorch"


# ---- what is refused


class Run:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.mark.parametrize("function", [os.system, subprocess.Popen, eval, exec, getattr, __import__, print])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(
    function: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_pickle(tmp_path / "w.pth", {"w": Run(function, f"touch {tmp_path / 'ran'}")}, {})
    with pytest.raises(WeightsError, match=rf"holds \w+\.{function.__name__}, which is more than tensors .*torch.save"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()
    assert capsys.readouterr().out == ""


FOUR = {"0": np.ones(4, np.float32).tobytes()}


@pytest.mark.parametrize(
    ("tensor", "storages"),
    [
        (("0", (5,), (1,), 4), FOUR),
        (("0", (2, 2), (3, 2), 4), FOUR),
        (("0", (2,), (1,), 4, 3), FOUR),
        (("0", (2,), (-1,), 4, 1), FOUR),
        (("0", (-2,), (1,), 4), FOUR),
        (("0", (10**9, 10**9), (0, 0), 4), FOUR),
        (("0", (5,), (1,), 5), FOUR),
        (("0", (4,), (1,), -4), FOUR),
        (("1", (4,), (1,), 4), FOUR),
        (("../../data.pkl", (4,), (1,), 4), FOUR),
    ],
    ids=str,
)
def test_a_tensor_beyond_its_numbers_is_refused(tensor: Any, storages: dict[str, bytes], tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "w.pth", {"w": stored(*tensor)}, storages)
    with pytest.raises(WeightsError, match=r"can't read .*w.pth"):
        read_weights(path)


def test_many_tensors_of_one_storage_take_no_more_memory_than_the_file(tmp_path: Path) -> None:
    content = {str(number): stored("0", (1000,), (1,), 1000) for number in range(300)}
    path = write_pickle(tmp_path / "w.pth", content, {"0": bytes(4000)})
    with pytest.raises(WeightsError, match="its tensors take more memory than the file"):
        read_weights(path)


def test_compressed_storages_are_refused(tmp_path: Path) -> None:
    content = {"w": stored("0", (10**6,), (1,), 10**6)}
    path = write_pickle(tmp_path / "w.pth", content, {"0": bytes(4 * 10**6)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="data/0 is compressed"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "it is empty. Known are .pth, .safetensors"),
        (b"hello", "it begins with b'hello'"),
        (b"\n<!DOCTYPE html><html>", "it is a web page. Download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Run `git lfs pull`"),
        ((FILES / "old.pth").read_bytes(), "the form that PyTorch wrote before version 1.6"),
        (b"\xff" * 8 + b"{", "it begins with"),
    ],
)
def test_what_is_no_file_of_weights_is_told(content: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_weights(tmp_path / "w.pth")
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (["notes.txt"], r"is a zip without weights: it holds notes.txt\."),
        (["m/data.pkl", "m/code/__torch__.py", "m/constants.pkl"], "is a TorchScript program"),
    ],
)
def test_a_zip_without_weights_is_told(members: list[str], text: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        for name in members:
            archive.writestr(name, "x")
    with pytest.raises(WeightsError, match=text):
        read_weights(tmp_path / "w.pth")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"can't read .*gone.pth: No such file"):
        read_weights(tmp_path / "gone.pth")


def examples(folder: Path) -> list[Path]:
    import keras

    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3, name="conv"), keras.layers.Flatten()])
    model.save(folder / "w.keras")
    model.save_weights(folder / "w.weights.h5")
    model.save(folder / "w.h5")
    np.savez(folder / "w.npz", **{"conv/0": np.ones((3, 3)), "conv/1": np.zeros(3)})
    write_torch(folder / "w.pth", {"conv.weight": np.ones((3, 3))})
    write_safetensors(folder / "w.safetensors", {"w": ("F32", [2], bytes(8))})
    return sorted(folder.iterdir())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whatever_is_damaged_is_refused_or_read(tmp_path: Path) -> None:
    """Cut off anywhere it is refused; with other bytes in places, no other error than one in words is raised."""
    (tmp_path / "whole").mkdir()
    rng = random.Random(0)
    for file in examples(tmp_path / "whole"):
        read_weights(file)
        content = file.read_bytes()
        damaged = tmp_path / file.name
        for share in (0.02, 0.3, 0.6, 0.9):
            damaged.write_bytes(content[: int(len(content) * share)])
            with pytest.raises(WeightsError, match=file.name):
                read_weights(damaged)
        for _ in range(60):
            changed = bytearray(content)
            for _ in range(rng.randrange(1, 8)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            damaged.write_bytes(changed)
            with contextlib.suppress(WeightsError):
                read_weights(damaged)
