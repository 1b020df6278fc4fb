"""Each field of a trial's specification says what it changes, and the content addresses of trials follow from that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from cnnstudy.records import TRAINING, Optimizer, PreparedImages, Record, Rule, Split, TrialSpec
from cnnstudy.study.preparation import pretraining_recipe
from cnnstudy.training import checkpoints, shared_epochs

IMAGES = PreparedImages("digits", "/cache/images/0", "0" * 64, 32, ("zero", "one"), (3, 4), (1, 1), (1, 1))
SPEC = TrialSpec(
    study="tiny",
    purpose="pretrain",
    architecture="vgg16",
    number=0,
    seed=3,
    levels={"batch_size": 8, "dropout": 0.5, "transfer": "scratch"},
    images=IMAGES,
    split=Split(0.15, 0.15, 0),
    epochs=3,
    head_epochs=1,
    patience=None,
    rule=Rule("val/loss", 0.1),
    optimizer=Optimizer("adam"),
    weights_source="none",
    weights_file=None,
)
#: Another value of each field whose type does not say one.
OTHERS: dict[str, Any] = {
    "architecture": "alexnet",
    "levels": {**SPEC.levels, "dropout": 0.25},
    "images": dataclasses.replace(IMAGES, digest="1" * 64),
    "split": Split(0.15, 0.15, 1),
    "rule": Rule("val/accuracy"),
    "optimizer": Optimizer("sgd"),
    "classes": ("zero", "two"),
}
#: Where an address differs from what the metadata say: what it has in another form, or has besides.
DIFFERENCES: dict[str, set[str]] = {
    "checkpoints": set(),
    "shared epochs": {"epochs", "head_epochs", "weights_file", "precision", "xla", "micro_batch"},
    "source weights": {"study", "features", "xla"},
}
ADDRESSES: dict[str, tuple[Callable[[TrialSpec], str], tuple[str, ...]]] = {
    "checkpoints": (checkpoints.checkpoint_address, ("training", "record")),
    "shared epochs": (lambda spec: shared_epochs._trained_as(spec, "w", {"device": "cpu"}), ("training",)),
    "source weights": (pretraining_recipe, ("training", "record")),
}


def changed(record: Any, name: str) -> Any:
    value = getattr(record, name)
    if name in OTHERS:
        other = OTHERS[name]
    elif isinstance(value, bool):
        other = not value
    elif value is None:
        other = 7
    else:
        other = value + type(value)("x" if isinstance(value, str) else (1,) if isinstance(value, tuple) else 1)
    return dataclasses.replace(record, **{name: other})


@pytest.mark.parametrize("name", [one.name for one in dataclasses.fields(TrialSpec)])
@pytest.mark.parametrize("which", ADDRESSES)
def test_a_field_changes_an_address_as_it_says(which: str, name: str) -> None:
    address, counted = ADDRESSES[which]
    says = TrialSpec.__dataclass_fields__[name].metadata["changes"] in counted
    assert (address(changed(SPEC, name)) != address(SPEC)) == (says != (name in DIFFERENCES[which]))


@pytest.mark.parametrize("name", [one.name for one in dataclasses.fields(PreparedImages)])
@pytest.mark.parametrize("which", ["checkpoints", "shared epochs"])
def test_a_field_of_the_images_does_too(which: str, name: str) -> None:
    """The folder's name is a content address of the decoded images, which shared epochs depend on."""
    address, counted = ADDRESSES[which]
    says = PreparedImages.__dataclass_fields__[name].metadata["changes"] in counted
    other = dataclasses.replace(SPEC, images=changed(IMAGES, name))
    assert (address(other) != address(SPEC)) == (says != (which == "shared epochs" and name == "folder"))


def test_source_weights_have_the_address_that_studies_have_on_record() -> None:
    assert pretraining_recipe(SPEC) == "f64e2f7176215431a2714a0b"


def test_a_field_that_does_not_say_what_it_changes_is_an_error() -> None:
    @dataclass(frozen=True)
    class More(Record):
        seed: int = field(metadata=TRAINING)
        new: int = 0

    with pytest.raises(TypeError, match=r"More\.new needs metadata"):
        More(1).fields_that_change("training")
