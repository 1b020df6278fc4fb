"""The layers of a network with the numbers that papers give, counted on the built network.

`layer_rows`, `sum_layers` and `transfer_rows` count; `print_summary` prints the counts and draws the network.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnnstudy.architectures import AUXILIARY, HEAD, Architecture, Network, build_network, stage_of
from cnnstudy.errors import InputError
from cnnstudy.results.network_drawing import LayerRow
from cnnstudy.system.imports import import_keras
from cnnstudy.system.output import add_row, plain_table, print_lines, print_table

if TYPE_CHECKING:
    import keras

    from cnnstudy.system.output import Console, Table

BACKBONE = "backbone"

#: Class of a layer -> its kind and its label in the table. Other classes are labelled by their name.
KINDS = {
    "InputLayer": ("preprocessing", "input"),
    "Rescaling": ("preprocessing", "rescale"),
    "Flip": ("preprocessing", "channel flip"),
    "ZeroPadding2D": ("preprocessing", "zero-pad"),
    "Conv2D": ("convolution", "conv"),
    "MaxPooling2D": ("pooling", "max-pool"),
    "AveragePooling2D": ("pooling", "avg-pool"),
    "GlobalAveragePooling2D": ("pooling", "global avg"),
    "AdaptiveAveragePooling2D": ("pooling", "adaptive avg"),
    "UpSampling2D": ("pooling", "repeat"),
    "DepthwiseConv2D": ("convolution", "depthwise conv"),
    "Dense": ("dense", "dense"),
    "Dropout": ("dropout", "dropout"),
    "BatchNormalization": ("other", "batch norm"),
    "LayerNormalization": ("other", "layer norm"),
    "Concatenate": ("merge", "concatenate"),
    "Add": ("merge", "add"),
}
#: Layers after which each value depends on the whole image.
GLOBAL = ("Flatten", "GlobalAveragePooling2D")


@dataclass(frozen=True)
class Totals:
    """Sums over all layers; `inference_` means without auxiliary heads."""

    parameters: int
    inference_parameters: int
    inference_statistics: int  # of those, the moving statistics, which no optimiser updates
    convolution_multiply_adds: int  # of inference
    inference_multiply_adds: int


@dataclass(frozen=True)
class TransferRow:
    """The parameters of the inference network that a transfer mode trains, and those it freezes."""

    mode: str
    trains: int
    frozen: int


def layer_rows(network: Network) -> list[LayerRow]:
    """Return the layers in the order of the data flow; an auxiliary head follows the layer it is attached to."""
    rows: dict[str, LayerRow] = {}
    jumps: dict[str, int] = {}  # input pixels between neighbouring positions of the layer's output
    for operation, inputs in _in_graph_order(network):
        field, jump = _receptive_field(operation, [(rows[name].receptive_field, jumps[name]) for name in inputs])
        kind, label = KINDS.get(type(operation).__name__, ("other", type(operation).__name__.lower()))
        rows[operation.name] = LayerRow(
            name=operation.name,
            kind=kind,
            label=_label(operation, label),
            shape=tuple(operation.output.shape[1:]),
            parameters=_count_parameters(getattr(operation, "weights", ())),
            trainable=_count_parameters(getattr(operation, "trainable_weights", ())),
            multiply_adds=_multiply_adds(operation),
            receptive_field=field,
            part=_part(operation.name, [rows[name].part for name in inputs]),
            inputs=inputs,
        )
        jumps[operation.name] = jump
    return list(rows.values())


def _count_parameters(variables: Iterable[keras.Variable]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _in_graph_order(network: Network) -> Iterator[tuple[keras.Operation, tuple[str, ...]]]:
    """Yield each operation with the names of its input operations. Not all are layers: VGG16 flips its channels."""
    producers = {
        id(operation.output): operation
        for model in (network.training, network.inference)
        for operation in model.operations
    }
    seen: set[str] = set()

    def visit(operation: keras.Operation) -> Iterator[tuple[keras.Operation, tuple[str, ...]]]:
        if operation.name in seen:
            return
        seen.add(operation.name)
        tensors = operation.input if isinstance(operation.input, list) else [operation.input]
        sources = [producers[id(tensor)] for tensor in tensors]
        for source in sources:
            yield from visit(source)
        yield operation, tuple(source.name for source in sources)

    # auxiliary heads first: each visits only the layers before it
    for output in (*network.training.outputs[1:], *network.inference.outputs):
        yield from visit(producers[id(output)])


def _receptive_field(operation: keras.Operation, inputs: Sequence[tuple[int | None, int]]) -> tuple[int | None, int]:
    """Return receptive field and jump of an output, given those of its inputs."""
    if not inputs:
        return 1, 1
    fields = [field for field, _ in inputs]
    jump = max(jump for _, jump in inputs)
    if type(operation).__name__ in GLOBAL or None in fields:
        return None, jump
    kernel, stride = _window(operation)
    return max(field for field in fields if field is not None) + (kernel - 1) * jump, jump * stride


def _window(operation: keras.Operation) -> tuple[int, int]:
    """Return kernel size and stride; 1 and 1 for an operation on single positions."""
    if type(operation).__name__ == "AdaptiveAveragePooling2D":  # the largest of its windows
        given, made = operation.input.shape[1], operation.output.shape[1]
        return max(-(-(place + 1) * given // made) - place * given // made for place in range(made)), 1
    window = getattr(operation, "kernel_size", None) or getattr(operation, "pool_size", None)
    return (window[0], operation.strides[0]) if window else (1, 1)


def _label(operation: keras.Operation, label: str) -> str:
    if label == "activation":
        return str(operation.activation.__name__)
    kernel, stride = _window(operation)
    if hasattr(operation, "kernel_size"):
        return f"{label} {kernel}x{kernel}{f'/{stride}' if stride > 1 else ''}"
    return f"{label} {kernel}/{stride}" if hasattr(operation, "pool_size") else label


def _multiply_adds(operation: keras.Operation) -> int:
    """Return the multiply-adds: the kernel size, for a convolution once per output position."""
    kernel = getattr(operation, "kernel", None)
    return 0 if kernel is None else math.prod(kernel.shape) * math.prod(operation.output.shape[1:-1])


def _part(name: str, inputs: Sequence[str]) -> str:
    for part in (HEAD, AUXILIARY):
        if name.startswith(part):
            return part
    return HEAD if HEAD in inputs else BACKBONE  # softmax belongs to the head it follows


def sum_layers(rows: Sequence[LayerRow]) -> Totals:
    """Return the sums over the layers."""
    inference = [row for row in rows if row.part != AUXILIARY]
    return Totals(
        parameters=sum(row.parameters for row in rows),
        inference_parameters=sum(row.parameters for row in inference),
        inference_statistics=sum(row.parameters - row.trainable for row in inference),
        convolution_multiply_adds=sum(row.multiply_adds for row in inference if row.kind == "convolution"),
        inference_multiply_adds=sum(row.multiply_adds for row in inference),
    )


def transfer_rows(rows: Sequence[LayerRow], architecture: Architecture) -> list[TransferRow]:
    """Return the transfer modes that keep part of the backbone frozen throughout.

    BatchNormalization in it is frozen, as the factor `batch_norm` has it by default.
    """
    modes = []
    everything: dict[str, tuple[str, ...]] = {"fine-tune": ("",)} if architecture.has_batch_norm else {}
    for mode, stages in {"frozen": (), **architecture.cut_points, **everything}.items():
        trains = sum(
            row.trainable
            for row in rows
            if row.part == HEAD or (row.part == BACKBONE and row.name.startswith(stages) and not _is_batch_norm(row))
        )
        modes.append(TransferRow(mode, trains, sum_layers(rows).inference_parameters - trains))
    return modes


def _is_batch_norm(row: LayerRow) -> bool:
    return row.label == KINDS["BatchNormalization"][1]


def print_summary(architecture: Architecture, image_size: int, classes: int, png: Path, console: Console) -> None:
    """Print the network's layers and totals, and draw its structure.

    Raises:
        ConfigError: the images are too small for the network.
        InputError: the drawing can't be written.
    """
    architecture.check_size(image_size)
    with silent_start():
        import_keras()
    from cnnstudy.results.network_drawing import draw_network

    network = build_network(architecture, image_size, classes, dropout=float(architecture.defaults["dropout"]))
    rows, architecture = layer_rows(network), network.architecture
    title = f"{architecture.title}, {image_size} x {image_size} pixels, {classes} classes"
    _print_table(console, _layer_table(rows, title))
    print_lines(console, _facts(architecture, rows))
    _print_table(console, _transfer_table(transfer_rows(rows, architecture)))
    try:
        draw_network(rows, title, png)
    except OSError as error:
        raise InputError(f"can't write the drawing to {png}: {error.strerror or error}; give another --png.") from error
    print_lines(console, ["", f"structure drawn to {png}"])


@contextmanager
def silent_start() -> Iterator[None]:
    """Hide TensorFlow's start-up messages.

    During the import, its C++ part writes directly to file descriptor 2, before TF_CPP_MIN_LOG_LEVEL takes effect. If
    the import fails, the messages are shown after all.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # no GPU is needed, and TensorFlow would allocate all of its memory
    with tempfile.TemporaryFile() as written:
        terminal = os.dup(2)
        os.dup2(written.fileno(), 2)
        try:
            yield
        except BaseException:
            written.seek(0)
            os.write(terminal, written.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _layer_table(rows: Sequence[LayerRow], title: str) -> Table:
    # with one space between columns, GoogLeNet's longest names fit in 80 columns
    table = plain_table(title)
    for heading in ("layer", "kind", "output"):
        table.add_column(heading, overflow="fold")
    for heading in ("params", "mult-\nadds, M", "field\npx"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("part", overflow="fold")
    for row in rows:
        cells = (
            row.name,
            row.label,
            row.shape_text,
            f"{row.parameters:,}" if row.parameters else "",
            _millions(row.multiply_adds) if row.multiply_adds else "",
            "all" if row.receptive_field is None else str(row.receptive_field),
            "aux" if row.part == AUXILIARY else row.part,
        )
        add_row(table, cells)
    return table


def _millions(number: int) -> str:
    return f"{number / 1e6:,.1f}" if number >= 50_000 else "<0.1"


def _facts(architecture: Architecture, rows: Sequence[LayerRow]) -> list[str]:
    sums = sum_layers(rows)
    convolutions, inference = map(_millions, (sums.convolution_multiply_adds, sums.inference_multiply_adds))
    parameters = f"{sums.inference_parameters:,}"
    if sums.parameters != sums.inference_parameters:
        parameters += f"; {sums.parameters:,} with the auxiliary heads"
    if sums.inference_statistics:
        parameters += f"; {sums.inference_statistics:,} of them are moving statistics, which are not trained"
    normalised = sum(row.part == BACKBONE and _is_batch_norm(row) for row in rows)
    frozen = f"{normalised} layers, frozen below the head unless `scratch` or `batch_norm: trained`"
    return [
        "",
        f"parameters       {parameters}",
        f"multiply-adds    {convolutions} M in the convolutions, {inference} M in total",
        f"smallest image   {architecture.minimum_size} x {architecture.minimum_size} pixels",
        f"preprocessing    {architecture.preprocessing}, inside the model",
        f"stages           {', '.join(dict.fromkeys(stage_of(row.name) for row in rows if _is_stage(row)))}",
        *([f"batch norm       {frozen}"] if normalised else []),
        f"source           {architecture.source}",
        "",
    ]


def _is_stage(row: LayerRow) -> bool:
    return row.part == BACKBONE and row.parameters > 0


def _transfer_table(rows: Sequence[TransferRow]) -> Table:
    table = plain_table(padding=(0, 1))
    table.add_column("transfer")
    for heading in ("trainable params", "frozen"):
        table.add_column(heading, justify="right")
    for row in rows:
        add_row(table, (row.mode, f"{row.trains:,}", f"{row.frozen:,}"))
    return table


def _print_table(console: Console, table: Table) -> None:
    """Print a table; in a file or a pipe as wide as it needs."""
    if not console.is_terminal:
        unbounded = console.options.update(width=1000)
        console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    print_table(console, table)
