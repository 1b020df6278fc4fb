"""What `describe` counts (compared with counts by hand), prints and draws."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from cnnstudy import architectures
from cnnstudy.architectures import Network
from cnnstudy.errors import InputError
from cnnstudy.results import network_drawing
from cnnstudy.results.network_drawing import LayerRow
from cnnstudy.results.network_summary import layer_rows, print_summary, sum_layers, transfer_rows
from cnnstudy.training import transfer


def rows_of(build: Callable[..., Network], name: str, size: int = 224) -> dict[str, LayerRow]:
    return {row.name: row for row in layer_rows(build(name, size))}


@pytest.mark.thorough
def test_no_gpu_is_taken(tmp_path: Path) -> None:
    code = "import os; from cnnstudy.results.network_summary import print_summary; from pathlib import Path; "
    code += "from cnnstudy.architectures import find; from rich.console import Console; "
    code += "print_summary(find('alexnet'), 64, 5, Path('a.png'), Console(quiet=True)); "
    code += "print(os.environ['CUDA_VISIBLE_DEVICES'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["-1"]


def run_describe(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cnnstudy", "describe", *arguments], capture_output=True, text=True, cwd=folder
    )


def as_printed(name: str, folder: Path, width: int, terminal: bool) -> str:
    written = StringIO()
    console = Console(file=written, width=width, force_terminal=terminal, color_system=None)
    print_summary(architectures.find(name), 224, 5, folder / "drawing.png", console)
    return written.getvalue()


def test_rows_follow_the_data(build: Callable[..., Network]) -> None:
    for name in architectures.names():
        rows = rows_of(build, name)
        seen: set[str] = set()
        for row in rows.values():
            assert seen.issuperset(row.inputs)
            seen.add(row.name)
        network = build(name, 224)
        assert {layer.name for layer in (*network.training.layers, *network.inference.layers)} <= seen
        assert sum_layers(list(rows.values())).parameters == network.training.count_params()


def test_googlenet_rows_are_in_the_papers_order(build: Callable[..., Network]) -> None:
    names = list(rows_of(build, "googlenet"))
    start = names.index("inception_4a_1x1")
    block = ["1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool", "projection", "output"]
    assert names[start : start + 8] == [f"inception_4a_{branch}" for branch in block]
    assert names[start + 8] == "auxiliary1_pool"
    assert names[start + 8 + 7] == "inception_4b_1x1"
    assert names[-1] == "predictions"


def test_kinds_and_parts(build: Callable[..., Network]) -> None:
    rows = rows_of(build, "googlenet")
    assert rows["conv1"].label == "conv 7x7/2"
    assert rows["pool1"].label == "max-pool 3/2"
    assert rows["auxiliary1_pool"].label == "avg-pool 5/3"
    assert rows["predictions"].label == "softmax"
    parts = ("inception_5b_1x1", "auxiliary1_conv", "head_logits", "predictions")
    assert [rows[name].part for name in parts] == ["backbone", "auxiliary", "head", "head"]
    kinds = ("image", "conv1", "pool1", "inception_3a_output", "head_dropout", "head_logits", "head_pool")
    assert [rows[name].kind for name in kinds] == [
        "preprocessing", "convolution", "pooling", "merge", "dropout", "dense", "pooling"
    ]  # fmt: skip


def test_multiply_adds_of_layers(build: Callable[..., Network]) -> None:
    alexnet, vgg16 = rows_of(build, "alexnet"), rows_of(build, "vgg16")
    assert alexnet["conv1"].multiply_adds == 11 * 11 * 3 * 48 * 55 * 55 == 52_707_600
    assert alexnet["conv2"].multiply_adds == 5 * 5 * 48 * 128 * 27 * 27 == 111_974_400
    assert alexnet["head_dense1"].multiply_adds == 4608 * 2048
    assert alexnet["conv1_pool"].multiply_adds == alexnet["pad"].multiply_adds == 0
    assert vgg16["block1_conv2"].multiply_adds == 3 * 3 * 64 * 64 * 224 * 224 == 1_849_688_064
    assert rows_of(build, "googlenet")["inception_3a_5x5"].multiply_adds == 5 * 5 * 16 * 32 * 28 * 28


def test_multiply_adds_of_networks(build: Callable[..., Network]) -> None:
    alexnet = sum_layers(list(rows_of(build, "alexnet").values()))
    # conv1 .. conv5
    assert alexnet.convolution_multiply_adds == 52_707_600 + 111_974_400 + 37_380_096 + 56_070_144 + 37_380_096
    # and the head: 309 M
    assert alexnet.inference_multiply_adds == 295_512_336 + 4608 * 2048 + 2048 * 2048 + 2048 * 5 == 309_154_064
    vgg16 = sum_layers(list(rows_of(build, "vgg16").values()))
    assert vgg16.convolution_multiply_adds == pytest.approx(15.35e9, abs=0.005e9)
    googlenet = sum_layers(list(rows_of(build, "googlenet").values()))
    assert googlenet.convolution_multiply_adds == pytest.approx(1.58e9, abs=0.005e9)
    # the auxiliary heads are not part of it: one of 1024 x 5 is all that is dense
    assert googlenet.inference_multiply_adds - googlenet.convolution_multiply_adds == 1024 * 5
    assert (googlenet.inference_parameters, googlenet.parameters) == (5_978_677, 10_318_655)


# r + (kernel - 1) * jump, where jump is the product of all strides before
RECEPTIVE_FIELDS = {
    "alexnet": {
        "pad": 1,
        "conv1": 11,
        "conv1_pool": 19,  # 11 + 2 * 4
        "conv2": 51,  # 19 + 4 * 8
        "conv2_pool": 67,  # 51 + 2 * 8
        "conv3": 99,  # 67 + 2 * 16
        "conv4": 131,
        "conv5": 163,
        "conv5_pool": 195,  # 163 + 2 * 16
        "head_flatten": None,
        "predictions": None,
    },
    "alexnet_torchvision": {"conv5_pool": 195, "head_pool": 195, "head_flatten": None},  # 6x6 is what 224 pixels give
    "googlenet_torchvision": {
        "pool2": 27,  # 7, + 2 * 2, + 2 * 4 twice
        "inception_3b_output": 59,  # + 2 * 8 twice
        "inception_4a_output": 107,  # + 2 * 8, + 2 * 16
        "auxiliary1_pool": 155,  # windows of 4 make 4 of 14: 107 + 3 * 16
        "auxiliary1_flatten": None,
    },
    "vgg16": {
        "block1_conv2": 5,
        "block1_pool": 6,  # 5 + 1 * 1
        "block2_pool": 16,  # 6 + 2 * 2 * 2 + 1 * 2
        "block3_pool": 44,  # 16 + 3 * 2 * 4 + 1 * 4
        "block4_pool": 100,  # 44 + 3 * 2 * 8 + 1 * 8
        "block5_conv3": 196,  # 100 + 3 * 2 * 16
        "block5_pool": 212,  # 196 + 1 * 16
        "head_dense1": None,
    },
    "googlenet": {
        "pool1": 11,  # 7 + 2 * 2
        "conv2": 19,  # 11 + 0 + 2 * 4
        "pool2": 27,  # 19 + 2 * 4
        "inception_3a_1x1": 27,
        "inception_3a_3x3": 43,  # 27 + 2 * 8
        "inception_3a_projection": 43,
        "inception_3a_output": 59,  # its 5x5: 27 + 4 * 8
        "inception_3b_output": 91,
        "pool3": 107,  # 91 + 2 * 8
        "inception_4a_output": 171,  # 107 + 4 * 16
        "auxiliary1_pool": 235,  # 171 + 4 * 16
        "auxiliary1_flatten": None,
        "inception_4e_output": 427,  # 171 + 4 * 64
        "pool4": 459,  # 427 + 2 * 16
        "inception_5b_output": 715,  # 459 + 2 * 4 * 32
        "head_pool": None,
    },
}


@pytest.mark.parametrize("name", RECEPTIVE_FIELDS)
def test_receptive_fields(name: str, build: Callable[..., Network]) -> None:
    rows = rows_of(build, name)
    assert {layer: rows[layer].receptive_field for layer in RECEPTIVE_FIELDS[name]} == RECEPTIVE_FIELDS[name]


@pytest.mark.parametrize("name", architectures.names())
def test_transfer_table_is_what_training_freezes(name: str, build: Callable[..., Network]) -> None:
    architecture = architectures.find(name)
    network = build(name, architecture.minimum_size)
    found = transfer_rows(layer_rows(network), architecture)
    stages = {"frozen": (), **architecture.cut_points, "fine-tune": ("",)}
    assert [row.mode for row in found] == list(stages)[: None if architecture.has_batch_norm else -1]
    try:
        for row in found:
            frozen = transfer.apply_phase(network, transfer.Phase(1, stages[row.mode], 1.0, batch_norm=False))
            frozen_names = {layer.name for layer in frozen}
            statistics = sum(
                math.prod(weight.shape)
                for layer in network.inference.layers
                if layer.name not in frozen_names
                for weight in layer.non_trainable_weights
            )
            assert row.frozen == sum(layer.count_params() for layer in frozen) + statistics
            assert row.trains == sum(math.prod(w.shape) for w in network.inference.trainable_weights)
    finally:
        transfer.apply_phase(network, transfer.Phase(1, ("",), 1.0))


def test_transfer_table_of_vgg16(build: Callable[..., Network]) -> None:
    frozen, last_block = transfer_rows(list(rows_of(build, "vgg16").values()), architectures.find("vgg16"))
    assert (frozen.trains, frozen.frozen) == (26_745_861, 14_714_688)
    assert (last_block.trains, last_block.frozen) == (26_745_861 + 7_079_424, 14_714_688 - 7_079_424)


@pytest.mark.parametrize("name", architectures.names())
def test_a_terminal_of_80_shows_each_row_whole(name: str, build: Callable[..., Network], tmp_path: Path) -> None:
    table, _, facts = as_printed(name, tmp_path, width=80, terminal=True).partition("\n\n")
    lines = table.splitlines()
    assert max(map(len, lines)) <= 80
    assert facts.startswith("parameters ")
    named = {layer.name for layer in build(name, 224).training.layers}
    for row in rows_of(build, name).values():
        if row.name not in named:
            continue  # an operation that is no layer takes another number with each build
        shown = [line.split() for line in lines if line.split()[:1] == [row.name]]
        assert len(shown) == 1, row.name
        assert row.shape_text in shown[0]
        assert not row.parameters or f"{row.parameters:,}" in shown[0]
    with Image.open(tmp_path / "drawing.png") as image:
        image.verify()
        assert image.format == "PNG"
        assert 800 <= image.width <= 4000
        assert 600 <= image.height <= (4000 if name != "resnet50" else 6000)  # 176 layers


def test_nothing_is_cut_on_a_narrow_terminal_or_in_a_pipe(tmp_path: Path) -> None:
    assert "…" not in as_printed("alexnet", tmp_path, width=50, terminal=True)
    piped = as_printed("alexnet", tmp_path, width=20, terminal=False)
    assert "conv1            conv 11x11/4 55x55x48     17,472    52.7    11 backbone" in piped
    for fact in ("14,591,685", "295.5 M", "309.2 M", "64 x 64 pixels", "RGB / 255", "Krizhevsky et al. 2012"):
        assert fact in piped


@pytest.mark.parametrize("name", architectures.names())
def test_the_drawing_shows_every_layer_and_none_on_top_of_another(name: str, build: Callable[..., Network]) -> None:
    rows = list(rows_of(build, name).values())
    layout = network_drawing._Layout(rows)
    assert set(layout.boxes) == {row.name for row in rows}
    for box in layout.boxes.values():
        assert 0 < box.left < box.right < layout.width
        assert network_drawing.TOP <= box.top < box.bottom < layout.height
    for one, other in itertools.combinations(layout.boxes.values(), 2):
        beside = one.right < other.left or other.right < one.left
        assert beside or one.bottom < other.top or other.bottom < one.top, (one.row.name, other.row.name)
    assert len(list(layout.edges())) == sum(len(row.inputs) for row in rows)


def test_the_drawing_leads_a_shortcut_past_what_it_skips() -> None:
    def row(name: str, *inputs: str) -> LayerRow:
        return LayerRow(name, "convolution", "conv", (8, 8, 4), 0, 0, 0, 1, "backbone", inputs)

    # one stage, so one column
    rows = [row("block1"), row("block1_conv1", "block1"), row("block1_conv2", "block1_conv1")]
    layout = network_drawing._Layout([*rows, row("block1_sum", "block1_conv2", "block1")])
    *_, (start, turn, _, end) = layout.edges()
    assert start == (layout.boxes["block1"].right, layout.boxes["block1"].y)
    assert turn[0] > layout.boxes["block1_conv1"].right
    assert end == (layout.boxes["block1_sum"].right, layout.boxes["block1_sum"].y)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("block5_conv1", "block5"),
        ("inception_4a_3x3_reduce", "inception_4a"),
        ("conv2_reduce", "conv2"),
        ("pool3", "pool3"),
        ("head_dense1", "head"),
        ("auxiliary1_conv", "auxiliary1"),
        ("preprocess_scale", "preprocess_scale"),
    ],
)
def test_stage_of_a_name(name: str, stage: str) -> None:
    assert network_drawing.stage_of(name) == stage


def test_a_drawing_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can't write the drawing to .*missing.*No such file or directory"):
        as_printed("alexnet", tmp_path / "missing", width=80, terminal=False)


@pytest.mark.thorough
def test_the_command_says_nothing_but_what_was_asked(tmp_path: Path) -> None:
    done = run_describe("alexnet", "--image-size", "64", "--png", "a.png", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("AlexNet (half width), 64 x 64 pixels, 5 classes")
    assert "conv5_pool       max-pool 3/2 1x1x128" in done.stdout
    assert done.stdout.rstrip().endswith("structure drawn to a.png")
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("alexnett",), "did you mean 'alexnet'?"),
        (("alexnet", "--image-size", "32"), "at least 64 x 64 pixels, not 32"),
    ],
)
def test_a_mistake_is_one_message(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = run_describe(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())
