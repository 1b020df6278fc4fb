"""What is in a data set, for people and programs: one summary, shown as text, as JSON and on a page.

`summarize` computes every number once; the text and the page only lay them out.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from cnnstudy.analysis.power import POWER, TYPICAL_SEEDS, typical_power
from cnnstudy.config.load import Study
from cnnstudy.data.description import (
    describe_classes,
    describe_images,
    describe_left_out,
    warn_of_masks,
    warn_of_shares,
)
from cnnstudy.data.examination import BLANK, BLURRED, DARK, MOST_BLURRED, Examined
from cnnstudy.data.file_types import MOST_NAMES, PassedKind
from cnnstudy.data.groups import describe_leaks, warn_of_groups_held_out_twice
from cnnstudy.data.path_groups import name_bursts
from cnnstudy.data.source_copies import count_parts, describe_source_copies
from cnnstudy.errors import as_sentence, format_list, printable
from cnnstudy.records import PreparedImages
from cnnstudy.study.estimate import report_power, warn_of_few_validation_images
from cnnstudy.system.display import PlainDisplay, count_noun
from cnnstudy.training.verdict import IMBALANCE

#: The size of images in a study that names none.
DEFAULT_IMAGE_SIZE = 224
#: A class with fewer training or validation images than these is warned about: one image more or less that is right
#: changes its recall by 10 or 20 points.
LEAST_TRAIN, LEAST_VALIDATION = 10, 5
#: A test split whose interval is wider than this share on both sides together is warned about.
WIDEST_INTERVAL = 0.2
#: The end of `IMG_0001_7.jpg` and `IMG_0001 (7).jpg`: a number behind a number.
_SERIES = re.compile(r"(.*\d)[-_ (]+\d+\)?\.\w+")
#: Images that one camera took so soon after each other may show the same thing.
BURST_SECONDS = 2.0
#: What each kind of suspect is measured by.
MEASURES = {
    "dark": ("brightness", f"mean of the grey values below {DARK:g} of 255"),
    "blank": ("contrast", f"standard deviation of the grey values below {BLANK:g}"),
    "blurred": ("sharpness", f"variance of the Laplacian below {BLURRED:g}"),
}
#: The keys of warnings that a study suggested for the images answers.
_ANSWERED = ("data.bad_images: skip", "factors.class_weights: [none, balanced]", "data.test", "image_size")
#: What the layouts mean.
LAYOUTS = {
    "classes": "each top folder is a class",
    "divided": "the folders divide the images into train, validation and test",
    "classes-below": "the classes are one level below the top folders",
}


def summarize(
    examined: Examined, study: Study | None, source: str, lookalikes: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return everything that is told about a data set, as JSON's types; docs/commands.md lists the keys.

    Args:
        study: whose images they are; None: they were given without one.
        source: the path or study as it was given.
        lookalikes: what was found by a network's features, of `results.lookalikes`; None: nobody looked.
    """
    listed, copies, prepared = examined.listed, examined.copies, examined.prepared
    keys = [image.key for image in listed.source.images]
    facts = list(examined.facts.values())
    suspects, smooth = examined.find_suspects(), 0
    if len(suspects["blurred"]) > MOST_BLURRED * len(facts):
        smooth, suspects["blurred"] = len(suspects["blurred"]), []
    summary: dict[str, Any] = _count_images(examined, source) | {
        "sizes": _find_sizes(examined),
        "modes": dict(Counter(one.mode for one in facts).most_common()),
        "rotated": sum(one.rotated for one in facts),
        "passed_over": [{**asdict(kind), "names": list(kind.names)} for kind in listed.source.passed_over],
        "bad": [{"image": image.path, "reason": image.reason} for image in examined.bad],
        "copies": {
            "looked_for": "near" if listed.options.copies == "together" else "identical",
            "identical": copies.identical,
            "pairs": len(copies.pairs),
            "groups": [[keys[place] for place in group] for group in copies.groups],
            "leaks": {part: {"images": number, "of": total} for part, (number, total) in copies.leaks.items()},
        },
        "conflicts": [
            [{"image": keys[place], "class": examined.class_of(place)} for place in pair] for pair in copies.conflicts
        ],
        "groups": _count_groups(examined),
        "lookalikes": lookalikes,
        "suspects": {
            kind: [
                {"image": keys[place], "value": round(getattr(examined.facts[place], MEASURES[kind][0]), 1)}
                for place in places
            ]
            for kind, places in suspects.items()
        },
        "smooth": smooth,
        "split": None if prepared is None else _count_parts(prepared),
        "split_problem": examined.problem,
        **_tell(prepared, study),
    }
    summary["warnings"] = [{"text": text, "key": key} for text, key in _find_warnings(examined, summary, study)]
    return summary


def _count_images(examined: Examined, source: str) -> dict[str, Any]:
    classes = _list_classes(examined)
    used = sum(one["images"] for one in classes)
    return {
        "source": source,
        "data": examined.listed.options.name,
        "layout": examined.listed.source.layout or None,
        "images": used,
        "left_out": len(examined.grouping.usable) - used,
        "classes": classes,
    }


def _list_classes(examined: Examined) -> list[dict[str, Any]]:
    one = examined.prepared
    parts = {} if one is None else {"train": one.train, "validation": one.validation, "test": one.test}
    return [
        {"name": name, "images": sum(numbers.values()) if numbers else count, **numbers}
        for label, (name, count) in enumerate(examined.count_classes().items())
        for numbers in [{part: counts[label] for part, counts in parts.items()}]
    ]


def _find_sizes(examined: Examined) -> dict[str, list[int]] | None:
    """Return width and height of the smallest and the largest image, and the median of each."""
    sizes = sorted(
        ((one.width, one.height) for one in examined.facts.values()), key=lambda size: (size[0] * size[1], size)
    )
    if not sizes:
        return None
    median = [int(statistics.median(lengths)) for lengths in zip(*sizes, strict=True)]
    return {"smallest": list(sizes[0]), "median": median, "largest": list(sizes[-1])}


def _count_groups(examined: Examined) -> dict[str, int] | None:
    """Return how many groups of two or more images stay whole, how many images are in them, and in the largest.

    None if the images are grouped by copies alone.
    """
    members: dict[int, list[int]] = {}
    for place, group in zip(examined.grouping.usable, examined.grouping.of_usable or (), strict=False):
        members.setdefault(group, []).append(place)
    several = {tuple(places) for places in members.values() if len(places) > 1}
    if several <= set(examined.copies.groups):
        return None
    sizes = list(map(len, several))
    return {"groups": len(sizes), "images": sum(sizes), "largest": max(sizes)}


def _count_parts(prepared: PreparedImages) -> dict[str, Any]:
    sizes = [sum(counts) for counts in zip(prepared.train, prepared.validation, prepared.test, strict=True)]
    parts = {"train": prepared.train, "validation": prepared.validation, "test": prepared.test}
    return {
        **{part: sum(counts) for part, counts in parts.items()},
        "given": list(prepared.given),
        "smallest_class": prepared.classes[sizes.index(min(sizes))],
    }


def _tell(prepared: PreparedImages | None, study: Study | None) -> dict[str, Any]:
    """Return what so many images can tell, in numbers and sentences."""
    if prepared is None:
        return {"detectable_gap": None, "test_interval": None, "told": []}
    gap, low, high = typical_power(prepared)
    texts: list[str] = []
    said = PlainDisplay(lambda text: texts.append(text.strip()))
    if study is not None and study.config.strategy.kind == "factorial":
        report_power(study.config, dict.fromkeys(study.config.architectures, prepared), [], said)
    else:
        said.show_message(
            f"power: {100 * POWER:.0f} % of factorials of one factor with two levels and {TYPICAL_SEEDS} seeds find a "
            f"difference in the gap of {100 * gap:.0f} points (noise assumed until trials measure it)"
        )
    said.show_message(
        f"test: an accuracy of about 80 % on {sum(prepared.test)} images has a 95 % interval of {100 * low:.0f} to "
        f"{100 * high:.0f} %"
    )
    warn_of_few_validation_images([prepared], said)
    return {"detectable_gap": round(gap, 4), "test_interval": [round(low, 4), round(high, 4)], "told": texts}


def _find_image_size(study: Study | None) -> int:
    if study is None:
        return DEFAULT_IMAGE_SIZE
    return max(study.config.image_size_of(name) for name in study.config.architectures)


def _find_warnings(examined: Examined, summary: dict[str, Any], study: Study | None) -> Iterator[tuple[str, str]]:
    """Yield what may go wrong, each with the key of a study file that answers it."""
    options, classes = examined.listed.options, summary["classes"]
    if examined.problem:
        grouped = "data.group" if options.name == "table" else "data.groups"
        yield examined.problem, grouped if examined.grouping.groups else "data.classes"
    if examined.bad and options.bad_images == "refuse":
        yield f"bad images: {len(examined.bad)}; a study refuses to begin with them", "data.bad_images: skip"
    yield from examined.listed.source.warnings
    yield from _warn_of_relatives(examined)
    held = count_parts(examined.parts[place] for place in examined.shared if place in examined.parts)
    if text := describe_source_copies(held):
        yield text, "weights"
    sizes = {one["name"]: one["images"] for one in classes}
    smallest, largest = min(sizes, key=lambda name: sizes[name]), max(sizes, key=lambda name: sizes[name])
    if sizes[largest] > IMBALANCE * sizes[smallest]:
        yield (
            f"the largest class, {largest}, has {sizes[largest]} images and the smallest, {smallest}, {sizes[smallest]}"
            f", more than {IMBALANCE} times as many; balanced accuracy then ranks trials, unless the file names "
            "another metric, and training can be compared without and with weights",
            "factors.class_weights: [none, balanced]",
        )
    yield from _warn_of_few(summary, examined.prepared is not None and "test" in examined.prepared.given)
    image_size = _find_image_size(study)
    small = sum(min(one.width, one.height) < image_size for one in examined.facts.values())
    if small:
        named = "" if study else ", the default"
        yield f"images enlarged to {image_size} pixels{named}, because a side is smaller: {small}", "image_size"


def _warn_of_relatives(examined: Examined) -> Iterator[tuple[str, str]]:
    """Yield what is to be known of copies, masks and groups."""
    options, copies = examined.listed.options, examined.copies
    no_class = _find_class_of_copies(examined)
    if no_class:
        yield (
            f"most images of the class {no_class} are copies of images of other classes; if it is none, pass it over",
            f"data.ignore_folders: [{no_class}]",
        )
    elif copies.conflicts and options.copies == "together":
        yield (
            f"pairs of copies with different labels: {len(copies.conflicts)}; correct or remove one image of each, or "
            "say that they are no copies",
            "data.copies: ignore",
        )
    if any(number for number, _ in copies.leaks.values()) and options.copies == "ignore":
        yield f"{describe_leaks(copies)} have a copy in training", "data.copies: together"
    used = [examined.image(place) for place in examined.grouping.usable]
    yield from ((text, "data.name: table") for text in warn_of_masks(used))
    given = {image.part for image in used if image.part}
    yield from ((text, f"data.{text[1:].partition(':')[0]}") for text in warn_of_shares(options, given))
    yield from (
        (text, "data.part" if options.name == "table" else "data.copies: ignore")
        for text in warn_of_groups_held_out_twice(examined.listed.source, examined.grouping)
    )
    if not examined.grouping.groups:
        yield from _suggest_groups(examined)


def _find_class_of_copies(examined: Examined) -> str:
    """Return the class of a folder with small or raw versions of other classes' images; "" if there is none."""
    pairs = examined.copies.conflicts
    if examined.listed.source.layout is None or not pairs:
        return ""
    name, count = Counter(examined.class_of(place) for pair in pairs for place in pair).most_common(1)[0]
    images = {place for pair in pairs for place in pair if examined.class_of(place) == name}
    others = {examined.class_of(place) for pair in pairs for place in pair} - {name}
    is_most = 2 * len(images) >= examined.count_classes()[name]
    return name if count == len(pairs) and len(others) > 1 and is_most else ""


def _suggest_groups(examined: Examined) -> Iterator[tuple[str, str]]:
    """Yield what may show one thing several times, by folders, names and shooting times."""
    usable = examined.grouping.usable
    if folders := _count_inner_folders(examined):
        yield (
            f"folders below those of the classes: {folders}; if each shows one thing (an animal, a burst), its images "
            "must stay together",
            "data.groups: {folder: 1}",
        )
    series = Counter(match[1] for place in usable if (match := _SERIES.fullmatch(examined.image(place).key)))
    if alike := _is_much(series, len(usable)):
        yield (
            f"images whose names differ in a last number only: {alike}, of {sum(n > 1 for n in series.values())} "
            "things; if each shows one thing several times, its images must stay together",
            r"data.groups: {pattern: '(?P<group>.+)[-_ (]+\d+\)?\.\w+$'}",
        )
    facts = examined.facts
    taken = [(facts[place].camera, when) for place in usable if (when := facts[place].taken) is not None]
    groups = Counter(name_bursts(taken, BURST_SECONDS)) if taken else Counter()
    if in_bursts := sum(count for count in groups.values() if count > 1):
        yield (
            f"images taken within {BURST_SECONDS:g} seconds of another by the same camera: {in_bursts}; if they show "
            "the same thing, they must stay together",
            f"data.groups: {{seconds: {BURST_SECONDS:g}}}",
        )


def _is_much(series: Counter[str], images: int) -> int:
    """Return how many images are in series of several, if they are most images and no series is a third of them."""
    several = [count for count in series.values() if count > 1]
    return sum(several) if several and 2 * sum(several) > images and 3 * max(several) < images else 0


def _warn_of_few(summary: dict[str, Any], test_given: bool) -> Iterator[tuple[str, str]]:
    if summary["split"] is None:
        return
    few = [one for one in summary["classes"] if one["train"] < LEAST_TRAIN or one["validation"] < LEAST_VALIDATION]
    if few:
        least = min(few, key=lambda one: one["images"])
        yield (
            f"classes with fewer than {LEAST_TRAIN} training or {LEAST_VALIDATION} validation images: {len(few)}, such "
            f"as {least['name']} with {least['train']} and {least['validation']}; add images, or leave classes out",
            "data.classes",
        )
    low, high = summary["test_interval"]
    if high - low > WIDEST_INTERVAL:
        tested = summary["split"]["test"]
        yield (
            f"test images: {tested}; the 95 % interval of an accuracy of about 80 % is {100 * (high - low):.0f} points "
            f"wide; add images{'' if test_given else ', or make their share larger'}",
            "data.path" if test_given else "data.test",
        )


def _count_inner_folders(examined: Examined) -> int:
    """Return the number of folders with two or more images, one level below those of the classes."""
    if examined.listed.source.layout != "classes":
        return 0
    below = Counter(
        tuple(examined.image(place).key.split("/")[:2])
        for place in examined.grouping.usable
        if examined.image(place).key.count("/") > 1
    )
    several = [folder for folder, count in below.items() if count > 1]
    return len(several) if len(several) > 1 else 0


# ---- as text


def format_summary(examined: Examined, summary: dict[str, Any]) -> str:
    """Return a summary as text, beginning with the lines that a study shows at its start."""
    return "\n".join(_list_lines(examined, summary))


def format_short(examined: Examined, prepared: PreparedImages) -> str:
    """Return what a folder holds in a few lines: the images and their parts, copies, and what to see to first.

    Args:
        prepared: the parts that a study will have.
    """
    summary = summarize(replace(examined, prepared=prepared, problem=""), None, "")
    warnings = [one["text"] for one in summary["warnings"] if one["key"] not in _ANSWERED]
    lines = [describe_images(prepared), f"  {describe_sizes(summary)}", f"copies: {describe_copies(summary)}"]
    return "\n".join([*lines, *(f"  warning: {text}" for text in warnings)])


def _list_lines(examined: Examined, summary: dict[str, Any]) -> Iterator[str]:
    passed_over = tuple(PassedKind(**kind).describe(MOST_NAMES) for kind in summary["passed_over"])
    if examined.prepared is not None:
        yield describe_images(replace(examined.prepared, passed_over=passed_over))
    else:
        yield printable(describe_classes(summary["data"], examined.count_classes()))
        yield f"  parts: none. {as_sentence(summary['split_problem'])}"
        yield from [f"  passed over: {', '.join(passed_over)}"] if passed_over else []
    yield from (f"  {text}" for text in describe_left_out(summary["left_out"]))
    if summary["layout"]:
        yield f"  layout {summary['layout']}: {LAYOUTS[summary['layout']]}"
    if summary["sizes"]:
        yield f"  {describe_sizes(summary)}; {describe_modes(summary)}"
    yield from _list_named("bad images", [f"{one['image']}: {one['reason']}" for one in summary["bad"]])
    yield f"copies: {describe_copies(summary)}"
    groups = [
        " = ".join(group[:4]) + (f" and {len(group) - 4} more" if len(group) > 4 else "")
        for group in summary["copies"]["groups"]
    ]
    yield from _list_named("groups of copies", groups)
    if summary["groups"]:
        yield f"groups: {describe_groups(summary)}"
    if found := summary["lookalikes"]:
        named = [
            " ~ ".join(
                f"{printable(image)} ({part})" for image, part in zip(pair["images"], pair["parts"], strict=True)
            )
            for pair in found["pairs"]
        ]
        yield f"may show the same: {found['told']}{':' if named else ''}{format_list(named)}"
    pairs = [" ~ ".join(f"{one['image']} ({one['class']})" for one in pair) for pair in summary["conflicts"]]
    yield from _list_named("pairs of copies with different labels", pairs)
    for kind, images in summary["suspects"].items():
        named = [f"{one['image']} ({one['value']:g})" for one in images]
        yield from _list_named(f"may be {kind} ({MEASURES[kind][1]})", named)
    if summary["smooth"]:
        yield describe_smooth(summary)
    if summary["told"]:
        yield "what so many images can tell:"
        yield from (f"  {sentence}" for sentence in summary["told"])
    if summary["warnings"]:
        yield "warnings, each with the key of a study file that answers it:"
        yield from (f"  {one['text']} [{one['key']}]" for one in summary["warnings"])


def _list_named(what: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"{what}: {len(names):,}{format_list([printable(name) for name in names])}"


def describe_sizes(summary: dict[str, Any]) -> str:
    """Say how large the images are."""
    smallest, median, largest = (f"{w} x {h}" for w, h in summary["sizes"].values())
    if smallest == largest:
        return f"all images are {smallest} pixels"
    return f"sizes {smallest} to {largest} pixels, median {median}"


def describe_modes(summary: dict[str, Any]) -> str:
    """Say how the images are stored."""
    modes = ", ".join(f"{mode} {count:,}" for mode, count in summary["modes"].items())
    return f"stored as {modes}" + (f"; turned as EXIF says: {summary['rotated']:,}" if summary["rotated"] else "")


def describe_copies(summary: dict[str, Any]) -> str:
    """Say how many copies there are, and what they would do."""
    copies = summary["copies"]
    kept = copies["looked_for"] == "near"
    looked = "looked for near-duplicates and identical files" if kept else "looked for identical files only"
    if not copies["pairs"]:
        return f"none ({looked})"
    sizes = list(map(len, copies["groups"]))
    leaks = " and ".join(f"{one['images']} of {one['of']} {part}" for part, one in copies["leaks"].items())
    would = f"were they not kept together, {leaks} images would have" if kept else f"{leaks} images have"
    return (
        f"{count_noun(copies['pairs'], 'pair')} in {count_noun(len(sizes), 'group')} of {sum(sizes):,} images, the "
        f"largest of {max(sizes):,}; {copies['identical']:,} identical byte for byte to another ({looked}); {would} a "
        "copy in training"
    )


def describe_groups(summary: dict[str, Any]) -> str:
    """Say which images belong together by more than copies, and what that does."""
    groups, split = summary["groups"], summary["split"]
    given = split is not None and {"validation", "test"} & set(split["given"])
    kept = "; parts that were given stay as they are" if given else "; each stays on one side of every split"
    return (
        f"{count_noun(groups['groups'], 'group')} of {groups['images']:,} images by `groups` and copies, the largest "
        f"of {groups['largest']:,}{kept if split is not None else ''}"
    )


def describe_smooth(summary: dict[str, Any]) -> str:
    """Say that the measure of blur tells nothing here."""
    return (
        f"{summary['smooth']} of {summary['images']} images have a variance of the Laplacian below {BLURRED:g}: they "
        "are smooth, so the measure does not tell which are blurred"
    )
