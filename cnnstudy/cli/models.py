"""Commands for models: predict, export, describe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cnnstudy import architectures
from cnnstudy.cli.options import ModelName, TrackingUri, one_worker
from cnnstudy.records import plain_name
from cnnstudy.system.output import open_console, print_note, print_text


def predict(
    model: ModelName,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Number of classes to show for each image.")] = 5,
    csv: Annotated[
        Path | None, typer.Option(help="Write the predictions to this CSV file as well; - prints it instead.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the predictions to this JSON file.")] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Classify images with a trained model: classes with probabilities, best first."""
    from cnnstudy.analysis.leaderboard import STANDARD_OUTPUT
    from cnnstudy.results import models
    from cnnstudy.results.models import find_model

    with one_worker() as (executor, display, folder):
        display.count(f"looking for {model}", 0, 0)
        resolved = find_model(model, tracking_uri, folder)
        for text in resolved.notes:
            print_note(text)
        predictions = models.predict_files(resolved, images, top, executor, display)
    if resolved.classes is None:
        print_note(f"{model} has no class names (classes.json); classes are numbered")
    if csv != STANDARD_OUTPUT:
        models.show_predictions(open_console(), resolved.title, predictions)
    if csv is not None:
        models.write_predictions_csv(predictions, csv)
    if json is not None:
        models.write_predictions_json(resolved.title, predictions, json)
    models.check_predictions(predictions)


def export(
    model: ModelName,
    folder: Annotated[Path, typer.Argument(help="Folder to write to; must be empty or not exist yet.")],
    format_: Annotated[
        Literal["saved-model", "onnx", "keras"], typer.Option("--format", help="File format.")
    ] = "saved-model",
    tracking_uri: TrackingUri = None,
) -> None:
    """Export a model as SavedModel, ONNX or Keras file, and check that its probabilities match."""
    from cnnstudy.results import models
    from cnnstudy.results.models import find_model

    models.check_export(folder, format_)
    with one_worker() as (executor, display, scratch):
        display.count(f"looking for {model}", 0, 0)
        resolved = find_model(model, tracking_uri, scratch)
        for text in resolved.notes:
            print_note(text)
        done = models.export_to(resolved, folder, format_, executor, display)
    print_text(models.describe_export(resolved, folder, format_, done))


def describe(
    architecture: Annotated[
        str,
        typer.Argument(
            help=f"One of {', '.join(architectures.names())}, keras:NAME of keras.applications, or file:PATH.py."
        ),
    ],
    image_size: Annotated[int, typer.Option(min=1, help="Image side in pixels.")] = 224,
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 5,
    png: Annotated[
        Path | None, typer.Option(help="PNG file to draw the structure to.", show_default="ARCHITECTURE.png")
    ] = None,
) -> None:
    """Print a network's layers, shapes and costs, and draw its structure."""
    network = architectures.find(architecture)
    network.check_size(image_size)
    from cnnstudy.results.network_summary import print_summary

    print_summary(network, image_size, classes, png or Path(f"{plain_name(architecture)}.png"), open_console())
