"""Choose a factorial for a folder of photos that fits the time there is, at the speed of this machine, with reasons.

Nothing here reads files or trains: the choice follows from what was found in the folder (data.examination) and from the
measured speeds (estimate), and `new_study` finds these. `suggestion_text` writes the choice as a study file.

The designs are tried in order, from the one that tells most to the smallest that tells anything, and the first that
fits with its least number of seeds is taken; then it gets as many seeds as fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cnnstudy import architectures
from cnnstudy.config.schema import StudyConfig
from cnnstudy.data.batches import count_used_images
from cnnstudy.data.datasets import DataOptions
from cnnstudy.data.examination import Examined
from cnnstudy.errors import DataError, InputError
from cnnstudy.records import PreparedImages, Speed, TrialSpec
from cnnstudy.search.factorial import FactorialStrategy
from cnnstudy.study.estimate import STAND_IN_WEIGHTS, TrialKind, predict_seconds
from cnnstudy.study.resources import build_trial_spec
from cnnstudy.system.display import format_duration
from cnnstudy.training.verdict import LEAST_IMAGES_FOR_FIT

#: Shares of validation, the default first; more are tried while validation is too small for the verdict `fit`.
VALIDATION_SHARES = (0.15, 0.2, 0.25, 0.3)
#: Pixels of the images where trials run on CPUs, and where there is a GPU; smaller photos are not enlarged to these.
SIZE_ON_CPU, SIZE_ON_GPU = 64, 128
#: The network that always fits, and the one that is added where its ImageNet weights are on this machine.
SMALL, PRETRAINED = "alexnet", "vgg16"
#: What the studies vary, in the order of their files.
ALL_FACTORS = ("dropout", "data_fraction", "batch_size", "augmentation")
FEW_FACTORS = ("dropout", "data_fraction")
#: SMALL's learning rate. At its default of 5e-4 and batches of 8 or 16, it learnt nothing of 280 pictures with random
#: labels in 30 to 45 epochs; at this rate all of them by heart.
LEARNING_RATE = 2e-4
#: Updates with the larger batch on all images: SMALL learnt those pictures by heart in 100 (20 epochs of 5 batches of
#: 64, no dropout), and dropout takes more; and the fewest and most epochs.
UPDATES_TO_LEARN, LEAST_EPOCHS, MOST_EPOCHS = 150, 15, 60
#: Batch sizes, by the training images of the smaller amount that they take.
BATCH_SIZES = {64: (16, 64), 32: (8, 32), 0: (4, 16)}
#: Training images of a class below which the smaller amount is half of them instead of a quarter.
FEW_PER_CLASS = 40
#: Numbers of photos of each class that are tried in turn where all of them take too long; and those of training images
#: above which that costs little of the answer, and below which it is refused.
CAPS, ENOUGH_TRAIN, LEAST_TRAIN = (2000, 1000, 500, 250, 125, 60, 30), 400, 40
#: More seeds hardly narrow the intervals any more.
MOST_SEEDS = 12


@dataclass(frozen=True)
class Photos:
    """What the choice depends on in a folder of photos."""

    options: DataOptions  # with the shares of the split
    images: PreparedImages  # the parts at these shares
    side: int  # pixels: the median of the photos' shorter sides
    copies: int = 0  # photos with a copy among the others


@dataclass(frozen=True)
class Machine:
    """What the choice depends on in this machine."""

    has_gpu: bool = False
    has_weights: bool = False  # ImageNet's for PRETRAINED


@dataclass(frozen=True)
class Design:
    """A factorial without its number of seeds."""

    transfer: Mapping[str, tuple[str, ...]]  # by network
    factors: tuple[str, ...] = ALL_FACTORS
    fraction: int | None = 2  # one in so many cells; None: all
    least_seeds: int = 5
    images_per_class: int | None = None
    is_short: bool = False  # half the epochs


@dataclass(frozen=True)
class Suggestion:
    """A study that fits: what its file says, and what the choice rests on."""

    settings: dict[str, Any]  # of the file, in its order
    photos: Photos
    machine: Machine
    design: Design
    images: PreparedImages  # those that the study uses: fewer with `images_per_class`
    seconds: float  # predicted for its trials

    @property
    def config(self) -> StudyConfig:
        """The settings, checked."""
        return StudyConfig.model_validate(self.settings)


def choose_split(examined: Examined) -> tuple[DataOptions, PreparedImages]:
    """Return the options with the first share of validation that is large enough, and the parts that it makes.

    Photos that can't be decoded are skipped.

    Raises:
        DataError: a class has too few photos for three parts, whatever the shares.
    """
    listed, found, problem = examined.listed, None, ""
    given = {examined.image(place).part for place in examined.grouping.usable}
    for share in VALIDATION_SHARES[: 1 if "validation" in given else None]:
        update: dict[str, Any] = {"bad_images": "skip"} if examined.bad else {}
        update |= {} if "validation" in given else {"validation": share}
        options = listed.options.model_copy(update=update)
        try:
            divided = replace(listed, options=options, split=replace(listed.split, validation=options.validation))
            found = options, divided.divide(examined.bad, examined.grouping)
        except DataError as error:
            problem = problem or str(error)
            continue
        if sum(found[1].validation) >= LEAST_IMAGES_FOR_FIT:
            break
    if found is None:
        raise DataError(problem)
    return found


def choose_image_size(photos: Photos, machine: Machine) -> int:
    """Return the image size: not above the photos, unless the network needs it."""
    wanted = SIZE_ON_GPU if machine.has_gpu else SIZE_ON_CPU
    return max(architectures.find(SMALL).minimum_size, min(wanted, photos.side // 32 * 32))


def choose_levels(images: PreparedImages) -> dict[str, list[Any]]:
    """Return the two levels of each factor."""
    fraction = 0.25 if min(images.train) >= FEW_PER_CLASS else 0.5
    fewest = sum(count_used_images(count, fraction) for count in images.train)
    return {
        "dropout": [0.0, 0.5],
        "data_fraction": [fraction, 1.0],
        "batch_size": list(next(sizes for least, sizes in BATCH_SIZES.items() if fewest >= least)),
        "augmentation": ["none", "strong"],
    }


def choose_epochs(images: PreparedImages, is_short: bool = False) -> int:
    """Return the epochs in which the larger batch makes UPDATES_TO_LEARN updates on all images, within limits."""
    updates = math.ceil(sum(images.train) / choose_levels(images)["batch_size"][-1])
    epochs = min(MOST_EPOCHS, max(LEAST_EPOCHS, math.ceil(UPDATES_TO_LEARN / updates)))
    return math.ceil(epochs / 2) if is_short else epochs


def list_designs(images: PreparedImages, machine: Machine) -> Iterator[Design]:
    """Yield the designs to try, the one that tells most first."""
    caps = list(_list_caps(images, ENOUGH_TRAIN))
    alone: dict[str, tuple[str, ...]] = {SMALL: ("scratch",)}
    pretrained: list[tuple[str, ...]] = [("frozen", "fine-tune"), ("frozen",)] if machine.has_weights else []
    for transfer in (*({**alone, PRETRAINED: modes} for modes in pretrained), alone):
        yield Design(transfer, fraction=None, least_seeds=6)
        yield from (Design(transfer, images_per_class=cap) for cap in caps)
        yield Design(transfer, least_seeds=4, images_per_class=caps[-1])
    # three seeds tell little: fewer factors with more of them come first
    yield Design(alone, FEW_FACTORS, fraction=None, images_per_class=caps[-1])
    yield Design(alone, least_seeds=3, images_per_class=caps[-1])
    few = Design(alone, FEW_FACTORS, fraction=None, least_seeds=3)
    fewer = [cap for cap in _list_caps(images, LEAST_TRAIN) if cap not in caps[:-1]]
    validated = [cap for cap in fewer if sum(cap_images(images, cap).validation) >= LEAST_IMAGES_FOR_FIT]
    # shorter training costs less of the answer than a validation part that can't show that nothing overfits
    for some in (validated, [cap for cap in fewer if cap not in validated]):
        yield from (replace(few, images_per_class=cap) for cap in some)
        yield from (replace(few, images_per_class=cap, is_short=True) for cap in some)


def _list_caps(images: PreparedImages, least: int) -> Iterator[int | None]:
    """Yield None and the numbers of photos of each class that leave at least so many training images."""
    yield None
    largest = max(map(sum, zip(images.train, images.validation, images.test, strict=True)))
    for cap in CAPS:
        if cap < largest and sum(cap_images(images, cap).train) >= least:
            yield cap


def cap_images(images: PreparedImages, cap: int | None) -> PreparedImages:
    """Return about what is left with `images_per_class`: each part in the same shares, but at least one image."""
    if cap is None:
        return images
    totals = map(sum, zip(images.train, images.validation, images.test, strict=True))
    shares = [min(1.0, cap / total) for total in totals]
    train, validation, test = (
        tuple(max(1, round(share * count)) for share, count in zip(shares, counts, strict=True))
        for counts in (images.train, images.validation, images.test)
    )
    return replace(images, train=train, validation=validation, test=test)


def write_settings(name: str, photos: Photos, machine: Machine, design: Design, seeds: int) -> dict[str, Any]:
    """Return what the study file says, in its order."""
    images = cap_images(photos.images, design.images_per_class)
    levels = choose_levels(images)
    pretrained = {network: modes for network, modes in design.transfer.items() if modes != ("scratch",)}
    factors: dict[str, Any] = {factor: levels[factor] for factor in design.factors}
    factors |= {} if "batch_size" in factors else {"batch_size": levels["batch_size"][0]}
    factors["learning_rate"] = {SMALL: LEARNING_RATE}
    if pretrained:
        factors["transfer"] = {network: list(modes) for network, modes in pretrained.items()}
    strategy: dict[str, Any] = {"kind": "factorial", "design": "fractional" if design.fraction else "full"}
    strategy |= {"fraction": design.fraction} if design.fraction else {}
    return {
        "name": name,
        "data": _write_data(photos.options, design.images_per_class),
        "image_size": choose_image_size(photos, machine),
        "architectures": list(design.transfer),
        **({"weights": {network: {"source": "imagenet"} for network in pretrained}} if pretrained else {}),
        "factors": factors,
        "training": {"epochs": choose_epochs(images, design.is_short), "keep_models": False},
        "strategy": {**strategy, "seeds": seeds},
    }


def _write_data(options: DataOptions, images_per_class: int | None) -> dict[str, Any]:
    given = options.model_dump(mode="json", exclude_defaults=True)
    given |= {"copies": options.copies} | ({"images_per_class": images_per_class} if images_per_class else {})
    first = ("name", "path")
    return {key: given[key] for key in first} | {key: value for key, value in given.items() if key not in first}


def plan_trials(config: StudyConfig, images: PreparedImages) -> list[TrialSpec]:
    """Return the trials of a factorial on these images."""
    planned = FactorialStrategy(config, []).upcoming
    return [build_trial_spec(config, one, images, STAND_IN_WEIGHTS) for one in planned]


def widest_design(machine: Machine) -> Design:
    """Return the design with every kind of trial that the others have: the one whose speeds are measured."""
    modes: dict[str, tuple[str, ...]] = {PRETRAINED: ("frozen", "fine-tune")} if machine.has_weights else {}
    return Design({SMALL: ("scratch",), **modes}, fraction=None)


def suggest_study(
    name: str, photos: Photos, machine: Machine, speeds: Mapping[TrialKind, Speed], seconds: float, slots: int = 1
) -> Suggestion:
    """Return the first design that fits, with as many seeds as fit.

    Args:
        speeds: of every kind of trial of `widest_design`.
        seconds: for all trials.
        slots: the number of workers.

    Raises:
        InputError: not even the smallest design fits.
    """
    least = math.inf
    for design in list_designs(photos.images, machine):
        images = cap_images(photos.images, design.images_per_class)
        found = None
        for seeds in range(design.least_seeds, MOST_SEEDS + 1):
            settings = write_settings(name, photos, machine, design, seeds)
            predicted = predict_seconds(plan_trials(StudyConfig.model_validate(settings), images), speeds, slots)
            if predicted > seconds:
                least = min(least, predicted)
                break
            found = Suggestion(settings, photos, machine, design, images, predicted)
        if found is not None:
            return found
    missing = format_duration(1.2 * (least - seconds) + 10)  # some of the time is kept as a reserve
    raise InputError(
        f"the smallest study that can tell anything about these photos takes about {format_duration(least)} for its "
        f"trials on this machine, and {format_duration(max(0.0, seconds))} are left for them; give about {missing} "
        "more with --time."
    )
