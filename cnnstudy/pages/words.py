"""The numbers at the top of a study's page, and the sentences that no table holds."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from cnnstudy.analysis.causes import counted
from cnnstudy.analysis.selection import confirmed_sentences
from cnnstudy.names import Metric, Parameter
from cnnstudy.pages.confirmed import Confirmed
from cnnstudy.pages.grouping import varied_factors
from cnnstudy.pages.story import Story
from cnnstudy.space import describe_levels
from cnnstudy.training.verdict import VERDICTS


@dataclass(frozen=True)
class Fact:
    """One number at the top of a page, with what it is."""

    name: str
    value: str
    note: str = ""


def facts(story: Story) -> list[Fact]:
    """Trials, networks, images, the best validation with its gap, and what the gap is on average."""
    frame = story.frame
    states = frame["state"].value_counts() if len(frame) else pd.Series(dtype=int)
    others = [f"{states[state]} {state}" for state in ("pruned", "failed", "running") if state in states]
    found = [Fact("Trials", f"{states.get('finished', 0)} finished", ", ".join(others) or "none pruned or failed")]
    if len(frame):
        names, seeds = list(dict.fromkeys(frame["architecture"])), counted(frame["seed"].nunique(), "seed")
        several = Fact("Networks", str(len(names)), f"{', '.join(names)}; {seeds}")
        found.append(several if len(names) > 1 else Fact("Network", names[0], seeds))
    if (images := _images(story)) is not None:
        found.append(images)
    finished = story.finished
    learnt = finished[finished["verdict"] != "not-learning"] if len(finished) else finished
    if len(finished):
        best = finished.iloc[0]
        if pd.notna(best["val_accuracy"]):
            gap = f"gap {100 * best['gap_accuracy']:+.1f} points" if pd.notna(best["gap_accuracy"]) else ""
            found.append(Fact("Best validation", f"{100 * best['val_accuracy']:.1f} %", f"{best['trial']}, {gap}"))
    if len(learnt) and learnt["last_gap_accuracy"].notna().any():
        mean = 100 * learnt["last_gap_accuracy"].astype(float).mean()
        note = f"points at the end, over the {len(learnt)} that learnt"
        found.append(Fact("Mean gap", f"{mean:+.1f}", note))
    return found


def _images(story: Story) -> Fact | None:
    for run in story.runs:
        values = run.parameters
        if {Parameter.DATA, Parameter.CLASSES, Parameter.TRAIN_IMAGES, Parameter.VALIDATION_IMAGES} <= set(values):
            images = f"{run.train_images} train and {values[Parameter.VALIDATION_IMAGES]} validation images"
            return Fact("Data", values[Parameter.DATA], f"{run.classes} classes, {images}")
    return None


def verdict_counts(story: Story) -> list[tuple[str, int]]:
    """How many finished trials have each verdict, and how many did not finish, by their state."""
    counts = dict.fromkeys((*reversed(VERDICTS), "pruned", "failed"), 0)
    for run in story.runs:
        word = run.verdict if run.state in ("finished", "failed") else ""
        word = word or ("" if run.state == "finished" else run.state)
        if word:
            counts[word] = counts.get(word, 0) + 1
    return [(word, count) for word, count in counts.items() if count]


def best_in_words(story: Story) -> str:
    """The best trial of the study and how far that can be trusted; nothing where none finished."""
    finished = story.finished
    if not len(finished):
        return ""
    best = finished.iloc[0]
    run = story.run_of(best["trial"])
    if run is None or pd.isna(best["val_accuracy"]):
        return ""
    varied = varied_factors([one for one in story.runs if one.architecture == best["architecture"]])
    words = describe_levels(run.levels, varied)
    text = (
        f"The best validation accuracy is {100 * best['val_accuracy']:.1f} % ({best['trial']}"
        f"{': ' + words if words else ''}), with a gap of {100 * best['gap_accuracy']:+.1f} points."
    )
    if story.study.objective != Metric.VAL_ACCURACY:
        text = text.replace("The best validation accuracy is", "The trial with the best validation loss has")
    if len(finished) > 1:
        text += f" It is the best of {len(finished)} on the images that it was chosen by, so that number is too high."
    return text


def nothing_yet(story: Story) -> str:
    """Why there is no answer, where no trial has finished."""
    if len(story.finished):
        return ""
    if not story.runs:
        return "This study has no trials yet."
    return f"None of {counted(len(story.runs), 'trial')} has finished, so there is nothing to tell yet."


def confirmation(confirmed: Confirmed) -> list[str]:
    """What fresh seeds and the test images said, most important first."""
    return confirmed_sentences(confirmed.record)


def dates(story: Story) -> str:
    """When the trials ran, in UTC."""
    started = [run.started for run in story.runs]
    if not started:
        return ""
    days = [
        datetime.datetime.fromtimestamp(moment / 1000, datetime.UTC).date().isoformat()
        for moment in (min(started), max(started))
    ]
    return " to ".join(dict.fromkeys(days))


def provenance(story: Story) -> list[Fact]:
    """What made the numbers: code, packages, data, MLflow's ids."""
    versions = _distinct(run.code_version for run in story.runs)
    packages = [run.packages for run in story.runs if run.state == "finished"]
    texts = _distinct(", ".join(f"{name} {version}" for name, version in of_run.items()) for of_run in packages)
    return [
        fact
        for fact in (
            Fact("Trials ran", dates(story)),
            Fact("Code", ", ".join(versions), "several versions: compare with care" if len(versions) > 1 else ""),
            Fact("Packages", "; ".join(texts)),
            Fact("Data digest", ", ".join(_distinct(run.data_digest for run in story.runs))),
            Fact("Weights digest", ", ".join(_distinct(run.weights_digest for run in story.runs))),
            Fact("MLflow", f"experiment {story.study.experiment_id}, run {story.study.run_id}"),
        )
        if fact.value
    ]


def _distinct(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]


def recorded_configuration(story: Story) -> str:
    """As JSON, what the trials were run with."""
    return json.dumps(story.study.config, indent=2, ensure_ascii=False)


def cannot_tell(story: Story) -> list[str]:
    """What the numbers say nothing about."""
    lines = []
    strategy = story.study.config.get("strategy", {})
    seeds = story.frame["seed"].nunique() if len(story.frame) else 0
    if strategy.get("kind") == "factorial" and seeds > 1:
        lines.append(
            f"The intervals are over {seeds} seeds: of the split of the images, the initial weights and the order of "
            "batches. They hold for these images and these levels, not for other data sets."
        )
    if seeds == 1:
        lines.append("With one seed, what is luck of the split and the initial weights can't be told from an effect.")
    if len(story.finished) and story.confirmed is None:
        lines.append(
            "No test images were looked at. The best trial was chosen by its validation images, which flatters it; "
            f"`python -m cnnstudy confirm {story.study.name}` trains the best ones again with fresh seeds."
        )
    lines.append(
        "A gap is compared where something else is equal: epochs, updates or train loss. The answer can depend on "
        "which; where they disagree, the effect goes with how far a network was trained."
    )
    lines.append("That an effect can't be told does not mean that there is none: more seeds narrow its interval.")
    return lines
