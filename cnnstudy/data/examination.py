"""What is in a data set, looked at before anything trains: every image is decoded once, and nothing is refused.

Memory stays flat: of each image only facts and a thumbnail in a scratch file are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cnnstudy.data.copies import SIZE
from cnnstudy.data.datasets import DataOptions, SourceImage
from cnnstudy.data.decoder_pool import Progress, decode_all
from cnnstudy.data.groups import Copies, Grouping, describe_pairs, name_parts, pair_equal
from cnnstudy.data.images import ListedImages, list_images
from cnnstudy.data.source_copies import find_shared
from cnnstudy.errors import DataError
from cnnstudy.records import BadImage, ImageFacts, PreparedImages
from cnnstudy.system.files import allocate_memmap
from cnnstudy.system.scratch import scratch_folder

#: Below these an image may be dark (mean of its grey values, of 255), blank (their standard deviation) or blurred
#: (variance of their Laplacian); see data.decode.measure_image. They are conventions of this module, on the cautious
#: side: pieces of scikit-learn's two sample photos have 148 and more of the last, and 5 and less once blurred with a
#: Gaussian of 3 pixels.
DARK, BLANK, BLURRED = 20.0, 5.0, 25.0
#: If more of the images than this look blurred, they are smooth, and the measure says nothing about single ones.
MOST_BLURRED = 0.25


@dataclass(frozen=True)
class Examined:
    """What was found in a data set. Images are indices in `listed.source.images`."""

    listed: ListedImages
    bad: tuple[BadImage, ...]
    facts: dict[int, ImageFacts]  # of the usable images
    grouping: Grouping
    copies: Copies  # also where a study would not look for them: then only identical files
    parts: dict[int, str]  # of each image that is not left out: train, validation or test
    prepared: PreparedImages | None  # what a study would be told; None: it could not begin
    problem: str  # why not; else ""
    shared: tuple[int, ...] = ()  # images with a near-duplicate among those that source weights are pretrained on

    @cached_property
    def test(self) -> frozenset[int]:
        """The images of the test split."""
        return frozenset(place for place, part in self.parts.items() if part == "test")

    def image(self, place: int) -> SourceImage:
        """Return an image by its index."""
        return self.listed.source.images[place]

    def class_of(self, place: int) -> str:
        """Return the name of an image's class."""
        return self.listed.source.classes[self.image(place).label]

    def count_classes(self) -> dict[str, int]:
        """Return the number of usable images of each class."""
        counts = Counter(self.image(place).label for place in self.grouping.usable)
        return {name: counts[label] for label, name in enumerate(self.listed.source.classes)}

    def find_suspects(self) -> dict[str, list[int]]:
        """Return the images that may be dark, blank or blurred, each once, the most suspect first."""
        dark = self._below(DARK, "brightness", self.facts)
        blank = self._below(BLANK, "contrast", self.facts.keys() - set(dark))
        blurred = self._below(BLURRED, "sharpness", self.facts.keys() - {*dark, *blank})
        return {"dark": dark, "blank": blank, "blurred": blurred}

    def _below(self, limit: float, measure: str, places: Iterable[int]) -> list[int]:
        found = [(getattr(self.facts[place], measure), place) for place in places]
        return [place for value, place in sorted(found) if value < limit]


def examine_images(
    options: DataOptions, split_seed: int, progress: Progress, source: DataOptions | None = None
) -> Examined:
    """Look at a data set as a study with these options would find it, whatever is wrong with its images.

    Args:
        source: other images, on which source weights are pretrained, to compare with.

    Raises:
        DataError: the data set, or a file, can't be read.
    """
    listed = list_images(options, split_seed, progress)
    facts: dict[int, ImageFacts] = {}
    with scratch_folder() as folder:
        images = listed.source.images
        others = None if source is None else list_images(source, split_seed, progress)
        count = len(images) + (0 if others is None else len(others.source.images))
        thumbnails = allocate_memmap(folder / "thumbnails.npy", (count, SIZE, SIZE, 3), np.uint8)

        def store(index: int, size: int, pixels: np.ndarray) -> None:
            thumbnails[index] = pixels

        bad = decode_all(images, [SIZE], store, progress, listed.digests, facts.__setitem__)
        grouping = listed.group(bad, lambda: thumbnails[: len(images)], progress)
        shared: list[int] = []
        if others is not None:  # images that can't be used stay black, like no other
            decode_all(
                others.source.images,
                [SIZE],
                lambda index, size, pixels: store(len(images) + index, size, pixels),
                progress,
                others.digests,
            )
            shared = find_shared(thumbnails, len(images), progress)
    facts = dict(sorted(facts.items()))  # decoders finish in any order
    copies = grouping.copies or describe_pairs(
        listed.source,
        pair_equal(listed.digests, grouping.usable) if options.copies == "ignore" else (),
        listed.digests,
        grouping.usable,
        listed.split,
        grouping.of_usable,
    )
    try:
        prepared, problem = listed.divide(bad, grouping), ""
    except DataError as error:
        prepared, problem = None, str(error)
    parts = name_parts(listed.source, grouping.usable, listed.split, grouping.of_usable)
    return Examined(listed, tuple(bad), facts, grouping, copies, parts, prepared, problem, tuple(shared))
