"""Ask whether `diagnose` names the right cause, on folders of pictures whose cause is known, or says it cannot tell.

    python benchmarks/diagnoses.py FOLDER [--seeds 10] [--kinds few large nothing]

makes three kinds of folders, ten of each, with pictures of 64 pixels in three classes, under a texture with the
spectrum of photos, and runs `python -m cnnstudy diagnose` on each:

    few      198 pictures; a spot of two colours somewhere tells the class: too few pictures
    large    198; the colour cast tells it, but 35 % were labelled by guessing, which a large network learns by heart;
             the study compares AlexNet with a network of 31 weights that the user wrote
    nothing  240; a spot of stronger colours: networks learn it from all pictures, and not yet from a quarter of them

The study is the one that `diagnose` writes with `--time 3m` on an idle machine of two cores, with four seeds wherever
it runs; in `few` and `large` the user gave half of the pictures to validation, and in `large` added the network. The
seed of a folder makes its pictures and is that of the study. A line for each diagnosis is added to results.jsonl in
FOLDER, beside its pictures and records; what is there is not run again, but judged anew. What each says is printed, and
then a table.

    --truth

trains on a part, all, and four times the training pictures of a folder of each kind, without dropout, and prints the
gaps: what the cause is.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

import cnnstudy
from cnnstudy.analysis.causes import NETWORKS, NetworkAnalysis
from cnnstudy.analysis.effects_text import CANNOT_TELL, answer_sentences, judge_overfitting
from cnnstudy.analysis.named_causes import cause_sentence, list_causes
from cnnstudy.analysis.observations import GAP
from cnnstudy.config.factors import find_factor
from cnnstudy.data.datasets import folder
from cnnstudy.results import terminal
from cnnstudy.study.new_study import look_at_photos
from cnnstudy.study.suggestion import FEW_FACTORS, LEARNING_RATE, SMALL, Design, Machine, write_settings
from cnnstudy.system.display import watch_command
from cnnstudy.system.output import open_console
from cnnstudy.tracking.client import existing_tracker

SIDE, CLASSES = 64, ("a", "b", "c")
RIGHT, WRONG = "right", "WRONG"
#: A network as a user writes it.
SMALL_NETWORK = '''"""A small network, which sees colours only."""

import keras
from keras import layers


def build(image_size):
    images = layers.Input((image_size, image_size, 3))
    x = layers.Rescaling(1 / 127.5, -1)(images)
    x = layers.AveragePooling2D(8)(x)
    return keras.Model(images, layers.Conv2D(4, 1, activation="relu", name="block1_conv")(x))
'''
OWN = "file:small.py:build"
#: The seed of the folders that show what the cause is.
TRUTH = 1000
#: The factors that have another name as a cause.
NAMES = {"data_fraction": "data"}


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Return noise with the spectrum of photos, [SIDE, SIDE, 3]: mostly grey, mean 0, standard deviation about 40."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE))
    frequency[0, 0] = 1

    def one() -> np.ndarray:
        found: np.ndarray = np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIDE, SIDE))) / frequency).real
        return (found - found.mean()) / found.std()

    shared = one()
    return 35 * np.stack([shared + 0.5 * one() for _ in range(3)], axis=-1)


def spot(rng: np.random.Generator, label: int, contrast: float) -> np.ndarray:
    """A square somewhere, with more of one colour and less of another."""
    pixels = rng.uniform(60, 190, 3) + _texture(rng)
    left, top = rng.integers(8, SIDE - 24, 2)
    pixels[top : top + 16, left : left + 16] += contrast * np.array([[1, 0, -1], [-1, 1, 0], [0, -1, 1]])[label]
    return pixels


def guessed(rng: np.random.Generator, label: int) -> np.ndarray:
    """A colour cast of the class, in 35 of 100 pictures that of any class, over soft colours that no two share."""
    shown = int(rng.integers(len(CLASSES))) if rng.random() < 0.35 else label
    soft = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )
    pixels = 0.8 * np.asarray(soft, dtype=float)
    colour = 115 + rng.normal(0, 8, 3)
    colour[shown] += 50
    return colour + pixels - pixels.mean((0, 1)) + 0.3 * _texture(rng)


#: The study that diagnose writes for these folders with `--time 3m` on an idle machine with two cores, but with as many
#: seeds wherever it runs.
DESIGN, SEEDS = Design({SMALL: ("scratch",)}, FEW_FACTORS, fraction=None, is_short=True), 4
#: What the user changed in it: half of the pictures for validation; and two networks instead of dropout.
HALVED: dict[str, Any] = {"validation": 0.5, "training": {"epochs": 25, "keep_models": False}}
TWO_NETWORKS: dict[str, Any] = HALVED | {
    "architectures": [SMALL, OWN],
    "factors": {
        "data_fraction": [0.5, 1.0],
        "batch_size": 32,
        "dropout": 0.0,
        "learning_rate": {SMALL: LEARNING_RATE, OWN: 0.05},
    },
    "training": {"epochs": 40, "keep_models": False},
}


@dataclass(frozen=True)
class Kind:
    """Folders with one cause."""

    cause: str  # data, network or nothing
    pictures: int  # of each class
    draw: Callable[[np.random.Generator, int], np.ndarray]
    changes: dict[str, Any] = field(default_factory=dict)  # of the study


KINDS = {
    "few": Kind("data", 66, functools.partial(spot, contrast=65), HALVED),
    "large": Kind("network", 66, guessed, TWO_NETWORKS),
    "nothing": Kind("nothing", 80, functools.partial(spot, contrast=110)),
}


def make_folder(place: Path, kind: Kind, seed: int, times: int = 1) -> None:
    """Write the photos below `place`, so many times as many as the kind has."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (place / "photos" / name).mkdir(parents=True, exist_ok=True)
        for number in range(times * kind.pictures):
            pixels = np.clip(kind.draw(rng, label), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / "photos" / name / f"{number:05d}.jpg", quality=92)


def write_study(place: Path, kind: Kind, seed: int) -> None:
    """Write photos.yaml beside the photos, and the small network."""
    with watch_command(open_console(error=True)) as display:
        _, photos = look_at_photos(folder.Options(name="folder", path=place / "photos"), display)
    study = {**write_settings("photos", photos, Machine(), DESIGN, SEEDS), **kind.changes, "seed": seed}
    if "validation" in study:
        study["data"]["validation"] = study.pop("validation")
    (place / "photos.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    (place / "small.py").write_text(SMALL_NETWORK, encoding="utf-8")


def diagnose(place: Path, kind: Kind, seed: int) -> dict[str, Any]:
    """Make a folder, diagnose it, and return how long that took (seconds) and how it ended."""
    make_folder(place, kind, seed)
    write_study(place, kind, seed)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "cnnstudy", "diagnose", "photos", "--time", "2h"],
        cwd=place,
        env={**os.environ, "MLFLOW_TRACKING_URI": address(place)},
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - began
    (place / "said.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    return {"seconds": round(seconds, 1), "rc": done.returncode}


def address(place: Path) -> str:
    """Return where the records of a diagnosis are."""
    return f"sqlite:///{(place / 'mlflow.db').absolute()}"


def run_all(results: Path, kinds: Sequence[str], seeds: int) -> list[dict[str, Any]]:
    """Run the diagnoses that the folder has no results of, seed by seed, and return all results."""
    results.mkdir(parents=True, exist_ok=True)
    file = results / "results.jsonl"
    found = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    found = [one for one in found if one["rc"] == 0]  # those that failed run again
    known = {(one["kind"], one["seed"]) for one in found}
    for seed, name in itertools.product(range(seeds), kinds):
        if (name, seed) not in known:
            place = results / f"{name}-{seed}"
            shutil.rmtree(place, ignore_errors=True)  # what was cut short
            found.append({"kind": name, "seed": seed, **diagnose(place, KINDS[name], seed)})
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(found[-1]) + "\n")
            if found[-1]["rc"] != 0:
                raise SystemExit(f"the diagnosis of {place} failed; said.txt there says why")
    return [one for one in found if one["kind"] in kinds and one["seed"] < seeds]


@dataclass(frozen=True)
class Judged:
    """A diagnosis, judged by its tables."""

    verdict: str
    overfits: list[str]  # what it says of each network
    causes: list[str]  # that it names, the first first
    advice: str  # the cause that its first step would mend; "" if it is about none
    sentences: list[str]


def judge(place: Path, cause: str) -> Judged:
    """Judge a diagnosis from its records: by the effects that it names as causes, and by its first step.

    It is wrong if the first cause that it names, or that its first step would mend, is not `cause`; where nothing is
    wrong, if it names any, or says that a network overfits; elsewhere, if it says that none does.
    """
    tracker = existing_tracker(address(place))
    study = tracker.study("photos")
    found = terminal.analyze_study(tracker, study)
    steps = terminal.list_steps(tracker, study, found)
    networks = [one for one in found if one.architecture != NETWORKS]
    overfits = [judge_overfitting(one) for one in networks]
    causes = [NAMES.get(effect.factor, effect.factor) for _, effect in list_causes(found)]
    advice = _read_advice(steps[0].action, found) if steps else ""
    named = [*causes[:1], *([advice] if advice else [])]
    if cause == "nothing":
        verdict = RIGHT if set(overfits) == {"hardly overfits"} else CANNOT_TELL
        verdict = WRONG if "overfits" in overfits or named else verdict
    else:
        verdict = RIGHT if named else CANNOT_TELL
        verdict = WRONG if set(overfits) == {"hardly overfits"} or set(named) - {cause} else verdict
    said = [
        *(answer_sentences(one)[0] for one in networks),
        cause_sentence(found),
        *(one.sentence() for one in steps[:1]),
    ]
    return Judged(verdict, overfits, causes, advice, [one for one in said if one])


def _read_advice(action: str, found: Sequence[NetworkAnalysis]) -> str:
    """Return the cause that a step would mend: `data` of `Add photos`, `dropout` of `Use dropout 0.5`.

    To use a level that is not known to have the smaller gap is about accuracy, and says nothing of a cause.
    """
    if action == "Add photos":
        return NAMES["data_fraction"]
    better = [
        (effect.factor, effect.level if effect.answer == "lowers" else effect.baseline)
        for one in found
        for effect in one.main_effects(GAP)
        if effect.answer != CANNOT_TELL
    ]
    named = (factor for factor, level in better if action == f"Use {find_factor(factor).describe(level)}")
    return next((NAMES.get(factor, factor) for factor in named), "")


def print_table(results: Path, found: Sequence[dict[str, Any]]) -> None:
    """Print what each diagnosis says and its verdict, then a table of these."""
    verdicts: dict[str, list[str]] = {}
    for one in sorted(found, key=lambda one: (list(KINDS).index(one["kind"]), one["seed"])):
        judged = judge(results / f"{one['kind']}-{one['seed']}", KINDS[one["kind"]].cause)
        verdicts.setdefault(one["kind"], []).append(judged.verdict)
        print(f"{one['kind']} {one['seed']}, {one['seconds']:.0f} s: {judged.verdict}", *judged.sentences, sep="\n    ")
    print("\n| folder | its cause | right | cannot tell | wrong |\n|:--|:--|--:|--:|--:|")
    for kind, words in verdicts.items():
        counts = " | ".join(str(words.count(word)) for word in (RIGHT, CANNOT_TELL, WRONG))
        print(f"| {kind} | {KINDS[kind].cause} | {counts} |")


def show_truth(results: Path, kinds: Sequence[str]) -> None:
    """Train on a part, all, and four times the pictures of a folder of each kind, and print accuracies and gaps."""
    print("| folder | network | of four times the pictures | train | validation | gap |\n|:--|:--|--:|--:|--:|--:|")
    for name in kinds:
        place = (results / f"{name}-truth").absolute()
        if not (place / "truth.yaml").exists():
            make_folder(place, KINDS[name], TRUTH)
            write_study(place, KINDS[name], 0)
            make_folder(place, KINDS[name], TRUTH, times=4)
            study = yaml.safe_load((place / "photos.yaml").read_text("utf-8"))
            shares = [share / 4 for share in study["factors"]["data_fraction"]]
            study["factors"] |= {"data_fraction": [*shares, 1.0], "dropout": 0.0}
            study["strategy"]["seeds"] = 2
            (place / "truth.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
        trials = cnnstudy.run(place / "truth.yaml", tracking_uri=address(place)).trials
        for (network, share), group in trials.groupby(["architecture", "data_fraction"]):
            train, validation, gap = (
                100 * group[f"last_{part}"].mean() for part in ("train_accuracy", "val_accuracy", "gap_accuracy")
            )
            print(f"| {name} | {network} | {share} | {train:.0f} | {validation:.0f} | {gap:+.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--truth", action="store_true")
    given = parser.parse_args()
    results = given.folder.absolute()
    if given.truth:
        show_truth(results, given.kinds)
    else:
        print_table(results, run_all(results, given.kinds, given.seeds))


if __name__ == "__main__":
    main()
