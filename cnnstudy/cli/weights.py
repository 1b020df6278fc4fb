"""Commands for weights of other programs: weights import, weights list, weights verify."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cnnstudy import architectures
from cnnstudy.errors import InputError, UnknownNameError, did_you_mean
from cnnstudy.records import plain_name
from cnnstudy.system import output

#: The folder of imported weights, beside study files.
FOLDER = Path("weights")

weights = typer.Typer(
    no_args_is_help=True,
    help="Import weights of PyTorch or Keras, list those that are there, compare networks with PyTorch's.",
)


class Precision(StrEnum):
    """What `verify` computes in."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"


@weights.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="A .pth, .safetensors, .keras, .h5 or .weights.h5, by its content.")],
    network: Annotated[str, typer.Option("--network", help="The network whose weights they are, such as resnet18.")],
    name: Annotated[
        str | None, typer.Option("--name", help="The name of the weights in study files.", show_default="FILE's")
    ] = None,
    source: Annotated[str, typer.Option("--source", help="Where the file is from, such as its address.")] = "",
    licence: Annotated[str, typer.Option("--licence", help="The licence of the weights.")] = "",
) -> None:
    """Check a file of weights, and write them as weights/NAME.npz for study files."""
    architecture = architectures.find(network)
    target = FOLDER / f"{plain_name(name or file.name.split('.')[0])}.npz"
    if target.exists():
        raise InputError(f"{target} is there already; give another --name, or remove it.")
    from cnnstudy.results.network_summary import silent_start
    from cnnstudy.system.imports import import_keras

    with silent_start():
        import_keras()
    from cnnstudy.training.weight_import import import_weights

    about = import_weights(architecture, file, target, source, licence)
    told = "without a classifier" if about.classes is None else f"of {about.classes} classes"
    fresh = "the head and auxiliary heads start" if architecture.has_auxiliary_heads else "the head starts"
    output.print_lines(
        output.open_console(),
        [
            f"{target}: weights of {architecture.title} from a {about.kind} file {told}",
            f"  source         {about.source}",
            f"  SHA-256        {about.sha256}",
            f"  preprocessing  {about.preprocessing}, inside the model; the file does not say what it expects",
            f"  licence        {about.licence}",
            f"  not taken      {fresh} fresh in each trial",
            f"In a study file: weights: {{{network}: {{source: file, file: {target.stem}}}}}",
        ],
    )


@weights.command("list")
def list_files() -> None:
    """List the imported weights in the folder `weights`."""
    from cnnstudy.system.display import count_noun
    from cnnstudy.training.weight_import import read_about

    console, grid = output.open_console(), output.plain_table()
    for heading in ("name", "network", "classes", "source", "licence"):
        grid.add_column(heading, overflow="fold")
    found = [(path, about) for path in sorted(FOLDER.glob("*.npz")) if (about := read_about(path)) is not None]
    for path, about in found:
        output.add_row(grid, (path.stem, about.network, str(about.classes or ""), about.source, about.licence))
    if found:
        output.print_table(console, grid)
    output.print_lines(console, [f"{count_noun(len(found), 'file')} of weights in {FOLDER.absolute()}"])


@weights.command("verify")
def verify(
    networks: Annotated[
        list[str] | None, typer.Argument(metavar="[NETWORK]...", help="Such as resnet18.", show_default="all")
    ] = None,
    precision: Annotated[
        Precision, typer.Option("--precision", help="What both compute in; roundings of float32 grow with depth.")
    ] = Precision.FLOAT64,
) -> None:
    """Compare networks with torchvision's, layer by layer, on weights that are imported; exit with 1 if they differ."""
    from cnnstudy.results.network_summary import silent_start
    from cnnstudy.system.imports import import_keras

    with silent_start():
        import_keras()
    from cnnstudy.training import weight_verification as verification

    known = verification.list_networks()
    for name in networks or ():
        if name not in known:
            raise UnknownNameError(
                f"{name!r} is no network with torchvision's weights{did_you_mean(name, known)} "
                f"These are {', '.join(known)}."
            )
    verification.require_packages()
    console, grid = output.open_console(), output.plain_table()
    for heading in ("network", "pixels", "layers", "largest difference", "in", "outputs", "two images"):
        grid.add_column(heading, justify="left" if heading in ("network", "in") else "right", overflow="fold")
    failed = []
    for name in networks or known:
        for size in verification.SIZES:
            output.print_line(output.open_console(error=True), f"comparing {name} at {size} pixels")
            found = verification.compare_with_torchvision(architectures.find(name), size, precision.value)
            failed += [] if found.holds else [f"{name} at {size} pixels"]
            differences = (f"{found.difference:.1e}", found.worst, f"{found.outputs:.1e}", f"{found.spread:.2f}")
            output.add_row(grid, (name, str(size), str(found.layers), *differences))
    output.print_table(console, grid)
    output.print_lines(console, _explain(failed, precision))
    if failed:
        raise typer.Exit(1)


def _explain(failed: list[str], precision: Precision) -> list[str]:
    """Return lines below the table of `verify`: what its columns are, and what it says."""
    from cnnstudy.training.weight_verification import BOUND, LEAST_SPREAD

    said = f"Not equal: {', '.join(failed)}." if failed else "All are equal."
    return [
        f"differences from torchvision in {precision.value}: L2 norms, as a share of that of its outputs",
        f"two images: by how much their outputs differ. Equal: at most {BOUND:g}, and at least {LEAST_SPREAD:g} there.",
        said,
    ]
