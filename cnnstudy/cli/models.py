"""Commands for models: predict, export, describe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from cnnstudy import architectures
from cnnstudy.cli.options import ModelName, TrackingUri, note, one_worker, wide_console


def predict(
    model: ModelName,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to tell for each image.")] = 5,
    csv: Annotated[Path | None, typer.Option(help="Write them to this CSV file too.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write them to this JSON file too.")] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Say what a trained model sees on images: classes with probabilities, best first."""
    from cnnstudy.results import models
    from cnnstudy.results.models import find_model

    with one_worker() as (executor, display, folder):
        found = find_model(model, tracking_uri, folder)
        note(found.note)
        predictions = models.predict_files(found, images, top, executor, display)
    if found.classes is None:
        note(f"{model} came without the names of its classes (classes.json); they are numbered")
    models.show_predictions(wide_console(), found.title, predictions)
    if csv is not None:
        models.write_predictions_csv(predictions, csv)
    if json is not None:
        models.write_predictions_json(found.title, predictions, json)
    models.check_predictions(predictions)


def export(
    model: ModelName,
    folder: Annotated[Path, typer.Argument(help="Where to write it: a folder that is empty or not there yet.")],
    format_: Annotated[
        Literal["saved-model", "onnx", "keras"], typer.Option("--format", help="What to write.")
    ] = "saved-model",
    tracking_uri: TrackingUri = None,
) -> None:
    """Write a trained model for other programs, checked to give the same probabilities."""
    from cnnstudy.results import models
    from cnnstudy.results.models import find_model

    models.check_export_target(folder)
    with one_worker() as (executor, display, own):
        found = find_model(model, tracking_uri, own)
        note(found.note)
        done = models.export_to(found, folder, format_, executor, display)
    print(models.describe_export(found, folder, format_, done))


def describe(
    architecture: Annotated[str, typer.Argument(help=f"One of {', '.join(architectures.names())}.")],
    image_size: Annotated[int, typer.Option(min=1, help="Pixels.")] = 224,
    classes: Annotated[int, typer.Option(min=2, help="Classes that it tells apart.")] = 5,
    png: Annotated[Path | None, typer.Option(help="Draw the structure here.", show_default="ARCHITECTURE.png")] = None,
) -> None:
    """Print a network's layers and draw its structure."""
    found = architectures.find(architecture)
    found.check_size(image_size)
    from cnnstudy.results.network_summary import print_summary as describe_network

    describe_network(found, image_size, classes, png or Path(f"{architecture}.png"), Console())
