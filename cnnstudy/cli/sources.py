"""What the arguments of commands name: images, of a study or not, and a network's weights; with the options for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cnnstudy.cli.weights import FOLDER
from cnnstudy.errors import InputError, did_you_mean, printable

if TYPE_CHECKING:
    from cnnstudy.config.load import Study
    from cnnstudy.data.datasets import DataOptions
    from cnnstudy.results.lookalikes import FeatureSource

Layout = Annotated[
    Literal["classes", "divided", "classes-below"] | None,
    typer.Option("--layout", help="How to read folders that can be read in two ways."),
]
IgnoreFolders = Annotated[
    str | None,
    typer.Option("--ignore-folders", metavar="NAMES", help="Names of folders to pass over, separated by commas."),
]

ImageColumn = Annotated[
    str | None, typer.Option("--image", metavar="COLUMN", help="Of a table: the column with the images' files.")
]
LabelColumn = Annotated[
    str | None, typer.Option("--label", metavar="COLUMN", help="Of a table: the column with the classes.")
]
PartColumn = Annotated[
    str | None, typer.Option("--part", metavar="COLUMN", help="Of a table: the column with train, validation, test.")
]
GroupColumn = Annotated[
    str | None,
    typer.Option("--group", metavar="COLUMN", help="Of a table: the column that names what images belong to."),
]


def find_features(weights: str | None, network: str | None, study: Study | None) -> FeatureSource:
    """Return the network and weights that the options name.

    Args:
        weights: of `weights list`, a file, or "imagenet".
        network: whose they are; None: as the file of imported weights says, or the study's only network.

    Raises:
        InputError: there is no such file, or it is not known whose weights they are.
        UnknownNameError: there is no such network.
        WeightsError: the file can't be read.
    """
    from cnnstudy import architectures
    from cnnstudy.results.lookalikes import IMAGE_SIZE, FeatureSource
    from cnnstudy.training.weight_import import read_about

    if weights is None:
        raise InputError(f"--network {printable(network or '')} needs --weights: a name in `weights list`, or a file.")
    file, named = None, FOLDER / f"{weights}.npz"
    if weights != "imagenet":
        file = named if named.is_file() and not os.path.exists(weights) else Path(weights).expanduser()
    if file is not None and not file.is_file():
        raise InputError(
            f"there is no file {printable(weights)}, and no imported weights have this name; `python -m cnnstudy "
            "weights list` shows those that there are, and --weights imagenet takes Keras' own."
        )
    if network is None and file is not None and file.suffix == ".npz":
        network = about.network if (about := read_about(file)) else None
    if network is None and study is not None and len(study.config.architectures) == 1:
        (network,) = study.config.architectures
    if network is None:
        raise InputError("say whose weights they are, such as --network vgg16; only those of `weights import` say it.")
    architecture = architectures.find(network)
    if file is None and architecture.imagenet is None:
        raise InputError(f"there are no imagenet weights for {network}; give a file of weights.")
    of_study = study is not None and architecture.name in study.config.architectures
    size = study.config.image_size_of(architecture.name) if study and of_study else IMAGE_SIZE
    return FeatureSource(architecture.name, file, max(size, architecture.minimum_size))


def find_images_to_pretrain_on(study: Study) -> DataOptions | None:
    """Return the images that a study pretrains source weights on; None if it does not, or copies are ignored."""
    found = (study.config.weights_of(name) for name in study.config.architectures if transfers(study, name))
    data = next((weights.data for weights in found if weights and weights.data), None)
    return data if data and {data.copies, study.config.data.copies} == {"together"} else None


def transfers(study: Study, network: str) -> bool:
    """Check whether trials of a study's network start from source weights."""
    from cnnstudy.config.transfer_modes import starts_from_source

    return any(map(starts_from_source, study.config.transfer_modes_of(network)))


def find_own_features(study: Study) -> FeatureSource | None:
    """Return the first network of a study that starts from a file of weights on this machine, if there is one."""
    from cnnstudy import architectures
    from cnnstudy.results.lookalikes import FeatureSource
    from cnnstudy.system.download import keras_folder

    for name in study.config.architectures:
        weights = study.config.weights_of(name)
        if weights is None or not transfers(study, name):
            continue
        file, published = weights.file, architectures.find(name).imagenet
        if weights.source == "imagenet" and file is None and published:
            file = keras_folder("models") / published.file_name
        if file is not None and file.expanduser().is_file():
            return FeatureSource(name, file.expanduser(), study.config.image_size_of(name))
    return None


def find_source(
    source: str, columns: Mapping[str, str | None], layout: str | None, ignore_folders: str | None
) -> tuple[DataOptions, Study | None]:
    """Return the options of a data set, and the study that they belong to, if one was given.

    Args:
        columns: of a table: `image`, `label`, `part` and `group`.

    Raises:
        InputError: the path does not exist, or is neither images nor a study; an option does not fit it.
        ConfigError: the study file can't be used.
    """
    from cnnstudy.config.find import list_studies
    from cnnstudy.config.load import load_study
    from cnnstudy.data.archives import ARCHIVE_SUFFIXES
    from cnnstudy.data.datasets import folder, table
    from cnnstudy.data.layouts import quote_names

    ignored = tuple(filter(None, map(str.strip, (ignore_folders or "").split(","))))
    of_folder: dict[str, Any] = {"layout": layout, "ignore_folders": ignored}
    path, name = os.path.expanduser(source), source.lower()
    is_folder = os.path.isdir(path) or name.endswith(ARCHIVE_SUFFIXES)
    is_table = not is_folder and name.endswith(table.SUFFIXES)
    is_study = not is_folder and not is_table and (name.endswith((".yaml", ".yml")) or source in list_studies())
    archives, tables = ", ".join(ARCHIVE_SUFFIXES), ", ".join(table.SUFFIXES)
    if not is_study and not os.path.exists(path):
        raise InputError(
            f"there is no {printable(source)}{did_you_mean(source, list_studies())} Give a folder, an archive "
            f"({archives}), a table ({tables}), a study file, or one of the studies {', '.join(list_studies())}."
        )
    if not (is_study or is_folder or is_table):
        raise InputError(
            f"{printable(source)} is no archive ({archives}), no table ({tables}) and no study file (.yaml); give one, "
            "or the folder of the images."
        )
    if not is_folder and (given := [name.replace("_", "-") for name, value in of_folder.items() if value]):
        raise InputError(f"--{', --'.join(given)}: only for folders and archives, and {printable(source)} is none.")
    if not is_table and (given := [f"--{name}" for name, column in columns.items() if column]):
        raise InputError(f"{', '.join(given)}: only a table ({tables}) has columns; {printable(source)} is none.")
    if is_study:
        study = load_study(source)
        return study.config.data, study
    if is_folder:
        return folder.Options(name="folder", path=Path(path), **of_folder), None
    if missing := [f"--{name} COLUMN" for name in ("image", "label") if not columns[name]]:
        raise InputError(
            f"{printable(source)} is a table: give {' and '.join(missing)}. Its columns are "
            f"{quote_names(table.list_columns(Path(path)))}."
        )
    return table.Options(name="table", path=Path(path), copies="together", **columns), None
