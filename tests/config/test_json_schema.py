"""The JSON Schema accepts the study files that cnnstudy accepts, and refuses what editors can know to be wrong."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import ruamel.yaml
from typer.testing import CliRunner

from cnnstudy.cli import app
from cnnstudy.config.factors import FACTORS
from cnnstudy.config.find import SHIPPED_STUDIES
from cnnstudy.config.json_schema import make_schema
from cnnstudy.data import datasets

SCHEMA = make_schema()
STUDY = """
name: photos
data: {name: folder, path: photos, classes: [1.10, 001, no]}
image_size: {alexnet: 64, vgg16: 32}
architectures: [alexnet, vgg16]
factors:
  batch_size: [8, 32]
  dropout: {low: 0.1, high: 0.5}
  learning_rate: {alexnet: 1.0e-3, vgg16: {low: 1.0e-5, high: 1.0e-3, log: true}}
  transfer: {alexnet: scratch, vgg16: [frozen, fine-tune]}
weights: {vgg16: {source: pretrain, data: {name: digits}, epochs: 3}}
training: {epochs: 3}
strategy: {kind: factorial, seeds: 3}
"""


def read(text: str) -> Any:
    return ruamel.yaml.YAML(typ="safe").load(text)


def problems(text: str) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(read(text))]


def test_networks_of_keras_applications_are_accepted() -> None:
    text = STUDY.replace("[alexnet, vgg16]", "[keras:MobileNetV2, vgg16]").replace(
        "alexnet: scratch", "keras:MobileNetV2: scratch"
    )
    assert problems(text) == []
    assert problems(text.replace("[keras:MobileNetV2", "[keras:MobileNetV9"))


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_it_is_the_file_that_the_shipped_studies_name() -> None:
    printed = CliRunner().invoke(app, ["schema"]).output
    assert json.loads(printed) == SCHEMA
    file = SHIPPED_STUDIES / "study.schema.json"
    assert file.read_text(encoding="utf-8") == printed, "python -m cnnstudy schema > experiments/study.schema.json"
    for study in SHIPPED_STUDIES.glob("*.yaml"):
        assert study.read_text(encoding="utf-8").startswith(f"# yaml-language-server: $schema={file.name}\n")


@pytest.mark.parametrize("path", sorted(SHIPPED_STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_study_is_accepted(path: Any) -> None:
    assert problems(path.read_text(encoding="utf-8")) == []


def test_levels_that_name_a_part_of_the_network_are_accepted_as_keys_and_as_text() -> None:
    for level in (
        *("{from: block4}", "from block4", "{probe: svm}", "{probe: logistic, layer: a.b, features: flat}"),
        *("svm probe", "flat probe of block4"),
    ):
        assert problems(STUDY.replace("[frozen, fine-tune]", f"[frozen, {level}]")) == []


def test_levels_ranges_and_levels_for_each_network_are_accepted() -> None:
    assert problems(STUDY) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("name: photos", "nam: photos"),
        ("seeds: 3", "seed: 3"),
        ("kind: factorial", "kind: factorials"),
        ("batch_size: [8, 32]", "batch_sizes: [8, 32]"),
        ("batch_size: [8, 32]", "batch_size: [8, many]"),
        ("batch_size: [8, 32]", "batch_size: [8, 8.5]"),
        ("low: 0.1", "lowest: 0.1"),
        ("low: 0.1", "low: -0.1"),
        ("[frozen, fine-tune]", "[frozen, finetune]"),
        ("[frozen, fine-tune]", "[frozen, {probe: tree}]"),
        ("[frozen, fine-tune]", "[frozen, {layer: block4}]"),
        ("[alexnet, vgg16]", "[alexnet, vgg]"),
        ("{name: digits}", "{name: digit}"),
        ("name: folder, path: photos", "name: folder"),
        ("name: folder, path: photos", "name: folder, path: photos, layouts: classes"),
        ("{epochs: 3}", "{epochs: three}"),
    ],
)
def test_what_is_wrong_by_itself_is_refused(before: str, after: str) -> None:
    assert before in STUDY
    assert problems(STUDY.replace(before, after)) != []


def test_every_factor_and_data_set_can_be_completed() -> None:
    assert set(SCHEMA["properties"]["factors"]["properties"]) == set(FACTORS)
    named = {options["properties"]["name"]["const"] for options in SCHEMA["$defs"]["data"]["anyOf"]}
    assert named == set(datasets.names())
