"""The levels of the factor `transfer`: its modes, and those that name a part of the network.

What a level does is in training/transfer.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cnnstudy.errors import did_you_mean
from cnnstudy.records import FROM, PROBE, PROBE_FIRST, Level, LinearInput, read_probe

TRANSFER_MODES = {
    "scratch": "random initial weights; every layer trains",
    "frozen": "source weights; only the head trains",
    "probe": "linear probe: source weights; the head is a logistic regression on the frozen features",
    "last-block": "source weights; the last block and the head train",
    "fine-tune": "source weights; every layer trains, the backbone at a lower learning rate",
    "two-phase": "first frozen, then fine-tune",
    PROBE_FIRST: "fine-tune from a probe: its head is fitted before the first epoch",
}
#: Modes that train layers with source weights; so do those that begin with FROM, which a stage of the network follows.
_FINE_TUNING_MODES = ("last-block", "fine-tune", "two-phase", PROBE_FIRST)
#: The name of a network's layer or stage.
_PART = r"[\w.-]+"


def fine_tunes(mode: Level) -> bool:
    """Return whether a transfer mode trains layers with source weights."""
    return mode in _FINE_TUNING_MODES or str(mode).startswith(FROM)


def starts_from_source(mode: Level) -> bool:
    """Return whether a transfer mode starts from source weights."""
    return mode != "scratch"


def needs_built_network(mode: Level) -> bool:
    """Return whether only the built network tells if it has what a mode names, or if its outputs are not too many."""
    probe = read_probe(mode)
    return str(mode).startswith(FROM) or (probe is not None and probe.takes != LinearInput())


@dataclass(frozen=True, eq=False)  # so that factors have a hash
class Form:
    """Levels that name a part of the network: keys in a study file, as `{from: block4}`, and text everywhere else.

    The first of its keys must be given; those without choices take the name of a layer or stage.
    """

    keys: Mapping[str, tuple[str, ...]]
    pattern: str  # of the text
    write: Callable[[Mapping[str, str]], str]  # the keys as text

    @property
    def first(self) -> str:
        """The key that must be given."""
        return next(iter(self.keys))

    def example(self) -> str:
        """Return how it is written in a study file."""
        keys = (f"{key}: {' or '.join(choices) or 'STAGE'}" for key, choices in self.keys.items())
        return f"{{{', '.join(keys)}}}"

    def read(self, given: Mapping[Any, Any]) -> str:
        """Return the level that the keys give, as text.

        Raises:
            ValueError: a key is unknown, or its value is none that it takes.
        """
        for key, value in given.items():
            if key not in self.keys:
                raise ValueError(f"unknown key {key!r}{did_you_mean(str(key), self.keys)} Expected {self.example()}.")
            choices = self.keys[key]
            if str(value) not in choices if choices else not re.fullmatch(_PART, str(value)):
                raise ValueError(f"{key} is {value!r}{did_you_mean(str(value), choices)} Expected {self.example()}.")
        return self.write({key: str(value) for key, value in given.items()})


def _write_probe(keys: Mapping[str, str]) -> str:
    flat = "flat " if keys.get("features") == "flat" else ""
    svm = "svm " if keys["probe"] == "svm" else ""
    return f"{flat}{svm}probe" + (f" of {keys['layer']}" if "layer" in keys else "")


FORMS = (
    Form({"from": ()}, rf"{FROM}{_PART}", lambda keys: f"{FROM}{keys['from']}"),
    Form({"probe": ("logistic", "svm"), "layer": (), "features": ("pooled", "flat")}, PROBE, _write_probe),
)
