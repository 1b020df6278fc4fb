"""Pictures of a data set that a network's features show as alike, found by a worker: pairs to look at, not groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnstudy import architectures
from cnnstudy.data.examination import Examined
from cnnstudy.execution import Executor, Job
from cnnstudy.execution.jobs import run_job
from cnnstudy.system.display import Display, count_noun

#: Without an option, more images of a study are not looked at, since a network may take a second for each.
MOST_UNASKED = 2000
#: Fewer images have too few neighbours; features that find fewer of the changed copies cannot tell copies here.
LEAST_IMAGES, LEAST_FOUND = 50, 0.5
#: Pixels of the network's images where no study gives them.
IMAGE_SIZE = 160


@dataclass(frozen=True)
class FeatureSource:
    """A network with weights whose features are compared."""

    network: str
    file: Path | None  # None: Keras' ImageNet weights, downloaded if they are not there
    image_size: int  # pixels


def look_for_lookalikes(
    examined: Examined, features: FeatureSource, executor: Executor, display: Display
) -> dict[str, Any]:
    """Return the pairs that stand out as alike by a network's features, as JSON's types.

    Of a group of images that stay together only the first is compared.

    Returns:
        {"network": its name, "compared": number of images, "found": share of changed copies that the features find, or
        None if there are too few images, "pairs": [{"images": names, "parts": of the split}], "told": a sentence}

    Raises:
        CnnstudyError: the weights can't be used, or the images changed.
    """
    groups = examined.grouping.groups
    places = [place for place in examined.grouping.usable if not groups or groups[place] == place]
    found, pairs = None, list[list[int]]()
    if len(places) >= LEAST_IMAGES:
        payload = {
            "options": examined.listed.options.model_dump(mode="json"),
            "split_seed": examined.listed.split.seed,
            "digest": examined.listed.digest,
            "architecture": features.network,
            "image_size": features.image_size,
            "file": str(features.file.absolute()) if features.file else "",
            "places": places,
            "tested": sorted(examined.test),
        }
        answer = run_job(executor, Job("lookalikes", "find_lookalikes", payload), display)
        found, pairs = answer["found"], answer["pairs"] if answer["found"] >= LEAST_FOUND else []
    parts = [[examined.parts.get(place, "left out") for place in pair] for pair in pairs]
    return {
        "network": features.network,
        "compared": len(places),
        "found": found,
        "pairs": [
            {"images": [examined.image(place).key for place in pair], "parts": of}
            for pair, of in zip(pairs, parts, strict=True)
        ],
        "told": _tell(architectures.find(features.network).title, len(places), found, parts),
    }


def _tell(title: str, compared: int, found: float | None, parts: Sequence[Sequence[str]]) -> str:
    """Say what was found by a network's features, and what to do about it.

    Args:
        compared: the number of images.
        found: the share of changed copies that the features find; None: it was not measured.
        parts: of the split, of both images of each pair.
    """
    if found is None:
        return f"not looked for: {compared} images are too few to tell what is chance ({LEAST_IMAGES} are needed)"
    share = f"{100 * found:.0f} % of changed copies are found"
    if found < LEAST_FOUND:
        return (
            f"the features of {title} cannot tell copies from other pictures here ({share}; below "
            f"{100 * LEAST_FOUND:.0f} %, no pairs are listed)"
        )
    if not parts:
        return f"no pairs by the features of {title} ({share})"
    apart = sum(of.count("train") == 1 and "left out" not in of for of in parts)
    return (
        f"{count_noun(len(parts), 'pair')} by the features of {title} ({share}), {apart} with one image in train and "
        "one in validation or test. They are not grouped: look at them, and keep together what shows the same, by "
        "`groups` under `data` or the column `group` of a table"
    )
