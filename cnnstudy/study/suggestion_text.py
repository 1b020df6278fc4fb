"""Write a suggested study as a file: its settings, with a comment at each that says why."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnnstudy import architectures
from cnnstudy.data.description import describe_given
from cnnstudy.errors import printable
from cnnstudy.records import PreparedImages
from cnnstudy.study.estimate import report_power
from cnnstudy.study.suggestion import (
    ALL_FACTORS,
    FEW_PER_CLASS,
    LEARNING_RATE,
    MOST_SEEDS,
    PRETRAINED,
    SIZE_ON_GPU,
    SMALL,
    Photos,
    Suggestion,
)
from cnnstudy.system.display import PlainDisplay, format_duration
from cnnstudy.system.download import keras_folder
from cnnstudy.training.verdict import IMBALANCE, LEAST_IMAGES_FOR_FIT

#: Columns of a comment.
WIDTH = 110
#: Words that YAML 1.1 or 1.2 takes for something else than text.
_NO_TEXT = {"true", "false", "yes", "no", "on", "off", "null", "nan", "inf", "y", "n"}


def write_study_file(suggestion: Suggestion, command: str) -> str:
    """Return the text of the study file.

    Args:
        command: that wrote it.
    """
    head = [
        "Question: why do networks overfit on these photos, and what helps?",
        f"Written by: {command}",
        f"Time: about {format_duration(suggestion.seconds)} for the trials, predicted from the speed measured here",
        "Every key can be changed: docs/study-files.md has them all. Once trials are recorded, only the number of "
        "seeds can; give the study another name for anything else.",
    ]
    lines = [*(line for text in head for line in _comment(text, "")), ""]
    reasons = dict(list_reasons(suggestion))
    for key, value in suggestion.settings.items():
        lines += [*_write_key(key, value, "", key, reasons), ""]
    return "\n".join(lines[:-1]) + "\n"


def _write_key(key: str, value: Any, indent: str, dotted: str, reasons: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a key: its reason, and what it holds."""
    if dotted in reasons:
        yield from _comment(reasons[dotted], indent)
    if isinstance(value, Mapping):
        yield f"{indent}{key}:"
        for inner, held in value.items():
            yield from _write_key(inner, held, f"{indent}  ", f"{dotted}.{inner}", reasons)
    else:
        yield f"{indent}{key}: {_write_value(value)}"


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=start,
        subsequent_indent=start,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _write_value(value: Any) -> str:
    """Return a value as YAML on one line; text in quotes unless it is plain without them."""
    if isinstance(value, list):
        return f"[{', '.join(map(_write_value, value))}]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z_-]*", value) and value.lower() not in _NO_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)


def list_reasons(suggestion: Suggestion) -> Iterator[tuple[str, str]]:
    """Yield each dotted key that has a reason, with it."""
    photos, settings = suggestion.photos, suggestion.settings
    yield "data", _describe_photos(photos)
    if photos.copies:
        yield (
            "data.copies",
            f"{photos.copies} photos have a copy among the others; copies stay on one side of the split",
        )
    if "validation" in settings["data"]:
        validation, least = sum(photos.images.validation), LEAST_IMAGES_FOR_FIT
        enough = "enough" if validation >= least else f"still fewer than the {least} that it takes"
        yield (
            "data.validation",
            f"a larger share than the default of 0.15, for {validation} validation images: {enough} to show that a "
            "network does not overfit",
        )
    if "bad_images" in settings["data"]:
        bad = photos.images.skipped
        yield "data.bad_images", f"{len(bad)} files can't be decoded, such as {bad[0]}; `data` lists them"
    if suggestion.design.images_per_class:
        yield "data.images_per_class", "all photos take longer than there is time for; with more --time there are more"
    yield "image_size", _explain_size(suggestion)
    yield "architectures", _explain_networks(suggestion)
    yield from _explain_factors(suggestion)
    yield from _explain_training(suggestion)
    yield "strategy", _explain_design(suggestion)
    yield "strategy.seeds", _explain_seeds(suggestion)


def _describe_photos(photos: Photos) -> str:
    images = photos.images
    sizes = [sum(parts) for parts in zip(images.train, images.validation, images.test, strict=True)]
    each = f"{min(sizes)} to {max(sizes)} of each" if min(sizes) < max(sizes) else f"{sizes[0]} of each"
    parts = ", ".join(f"{sum(getattr(images, part))} {part}" for part in ("train", "validation", "test"))
    text = f"{sum(sizes)} photos of {len(sizes)} classes, {each}: {parts}"
    if images.given:
        text += f" ({describe_given(images.given)})"
    if max(sizes) > IMBALANCE * min(sizes):
        text += (
            f". The largest class has more than {IMBALANCE} times the images of the smallest, so the study uses "
            "balanced accuracy, the mean recall of the classes, as it does without an `objective`"
        )
    return text


def _explain_size(suggestion: Suggestion) -> str:
    size, side = suggestion.settings["image_size"], suggestion.photos.side
    if side < size:
        return f"the photos are smaller, {side} pixels (median of the shorter sides); {SMALL} needs at least {size}"
    if suggestion.machine.has_gpu:
        return f"at most {SIZE_ON_GPU}, and not above the photos' {side} pixels (median of the shorter sides)"
    return (
        f"quick on a CPU; the photos have {side} pixels (median of the shorter sides), and images of twice the size "
        "take about four times as long"
    )


def _explain_networks(suggestion: Suggestion) -> str:
    if PRETRAINED in suggestion.settings["architectures"]:
        return f"{SMALL} from scratch, and {PRETRAINED} from its ImageNet weights, which are on this machine"
    if suggestion.machine.has_weights:
        return (
            f"{SMALL} from scratch; {PRETRAINED}'s ImageNet weights are here, but its trials take too long for --time"
        )
    imagenet = architectures.find(PRETRAINED).imagenet
    assert imagenet is not None
    place = keras_folder("models") / imagenet.file_name
    return (
        f"{SMALL} from scratch needs nothing else. {PRETRAINED}'s ImageNet weights are not on this machine. With "
        f"{imagenet.url} at {place}, another file by `init` compares frozen and fine-tuned {PRETRAINED} too"
    )


def _explain_factors(suggestion: Suggestion) -> Iterator[tuple[str, str]]:
    images, factors = suggestion.images, suggestion.settings["factors"]
    yield "factors", "what may cause overfitting, and what may help against it: two levels of each"
    yield "factors.dropout", "none, and the half that the networks' papers use: does more regularisation help?"
    share, least = factors["data_fraction"][0], min(images.train)
    why = f"{'enough' if least >= FEW_PER_CLASS else 'too few for a smaller part'}"
    yield (
        "factors.data_fraction",
        f"would more photos help? Training on {100 * share:.0f} % of them against all tells; the smallest class has "
        f"{least} training images, {why}",
    )
    if "batch_size" in suggestion.design.factors:
        yield (
            "factors.batch_size",
            "do large batches overfit? The larger one still fits into the smaller amount of photos",
        )
    else:
        yield "factors.batch_size", "one, and no augmentation: there is too little time to vary everything"
    if "augmentation" in factors:
        yield "factors.augmentation", "flips, small rotations, zoom and contrast: would more varied photos help?"
    default = architectures.find(SMALL).defaults["learning_rate"]
    yield (
        "factors.learning_rate",
        f"does not vary; {LEARNING_RATE:g} instead of {SMALL}'s default of {default:g}, at which small batches often "
        "learn nothing of photos",
    )
    if "transfer" in factors:
        yield "factors.transfer", "does training every layer overfit where a frozen backbone would do?"


def _explain_training(suggestion: Suggestion) -> Iterator[tuple[str, str]]:
    epochs, images = suggestion.settings["training"]["epochs"], suggestion.images
    batch = suggestion.settings["factors"]["batch_size"]
    largest = max(batch) if isinstance(batch, list) else batch
    updates = epochs * -(-sum(images.train) // largest)
    short = "; half of what it should be, because there is too little time" if suggestion.design.is_short else ""
    yield (
        "training.epochs",
        f"{updates} updates with batches of {largest} on all {sum(images.train)} training images, meant to be enough "
        f"to learn them; the report says if they were not{short}",
    )
    yield "training.keep_models", "saves disk; `confirm` trains the best again and keeps those models"


def _explain_design(suggestion: Suggestion) -> str:
    cells = sum(map(suggestion.config.cells_of, suggestion.config.architectures))
    if suggestion.design.fraction:
        return (
            f"{cells} cells, one in {suggestion.design.fraction} of all combinations, balanced, so that every factor's "
            "own effect can be told in less time"
        )
    few = "" if set(ALL_FACTORS) <= set(suggestion.design.factors) else "; there is too little time for more factors"
    return f"{cells} cells, every combination{few}"


def _explain_seeds(suggestion: Suggestion) -> str:
    """Return why so many seeds, and what they can tell."""
    texts: list[str] = []
    images: dict[str, PreparedImages] = dict.fromkeys(suggestion.config.architectures, suggestion.images)
    divisions = "" if "validation" in suggestion.images.given else " and another division into train and validation"
    report_power(suggestion.config, images, [], PlainDisplay(lambda text: texts.append(text.strip())))
    return (
        f"as many as fit into the time, from 3 to {MOST_SEEDS}; each has new initial weights{divisions}. "
        f"{'; '.join(texts)}. More seeds can be added later, and only they will run"
    )


def name_study(path: Path) -> str:
    """Return the name of a study of the photos at a path: that of the folder, archive or table."""
    stem = path.name if path.is_dir() else path.name.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:80] or "photos"
