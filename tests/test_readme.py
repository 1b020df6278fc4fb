"""What the README says to type and to write works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command

from cnnstudy import architectures, cli, datasets
from cnnstudy.aims import Confirm, Objective
from cnnstudy.config import SHIPPED, load_study
from cnnstudy.schema import StudyConfig, Training
from cnnstudy.sources import Weights
from cnnstudy.space import FACTORS
from cnnstudy.strategies import KINDS

ROOT = SHIPPED.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "study-files.md").read_text(encoding="utf-8")
#: A section of the reference -> the models whose keys it tells, each with a table of its own or all with one.
MODELS: dict[str, list[type[BaseModel]]] = {
    "": [StudyConfig],
    "training": [Training],
    "weights": [Weights],
    "strategy": list(KINDS.values()),
    "objective": [Objective],
    "confirm": [Confirm],
}


def test_the_study_of_ones_own_photos_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").mkdir()
    (block,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "my-photos.yaml").write_text(block, encoding="utf-8")
    assert load_study(str(tmp_path / "my-photos.yaml")).config.name == "my-photos"


def tables(section: str) -> list[dict[str, tuple[str, str]]]:
    """Of a section of the reference: key -> its default and what it takes."""
    text = re.split(rf"^## {section}$" if section else r"\A", REFERENCE, flags=re.MULTILINE)[1].partition("\n## ")[0]
    row = re.compile(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", flags=re.MULTILINE)
    return [{key: (default, takes) for key, default, takes in row.findall(part)} for part in text.split("| key |")[1:]]


def stated(default: Any) -> str:
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


@pytest.mark.parametrize("section", MODELS)
def test_the_reference_tells_every_key_with_its_default(section: str) -> None:
    found = tables(section)
    assert [set(table) for table in found] == [set(model.model_fields) for model in MODELS[section]]
    for table, model in zip(found, MODELS[section], strict=True):
        for key, field in model.model_fields.items():
            if field.is_required():
                assert table[key][0] == "needed", key
            elif isinstance(field.default, bool | int | float | str):
                assert table[key][0] == stated(field.default), key


def test_the_reference_tells_the_keys_of_all_data_sets() -> None:
    (table,) = tables("data")
    options = [datasets.find(name).Options for name in datasets.names()]
    assert set(table) == {key for model in options for key in model.model_fields}
    for key in ("validation", "test", "bad_images"):
        assert table[key][0] == stated(datasets.DataOptions.model_fields[key].default)
    assert [name for name in datasets.names() if f"`{name}`" not in table["name"][1]] == []


def test_the_reference_tells_every_factor_with_its_default_and_levels() -> None:
    (table,) = tables("factors")
    assert list(table) == list(FACTORS)
    for name, factor in FACTORS.items():
        default, takes = table[name]
        assert default == ("the network's" if factor.default is None else stated(factor.default))
        assert [level for level in factor.choices if f"`{level}`" not in takes] == []
    for name in architectures.names():
        assert f"`{name}`" in tables("")[0]["architectures"][1]
        for factor, level in architectures.find(name).defaults.items():
            assert f"{level:g}" in table[factor][1], (name, factor)


def test_every_command_and_data_set_is_told() -> None:
    names = {*get_command(cli.app).commands, *datasets.names(), *architectures.names()}  # type: ignore[attr-defined]
    assert {name for name in names if f"`{name}`" not in README} == set()


def test_the_places_of_the_file_map_exist() -> None:
    (drawing,) = re.findall(r"## File map\n\n```\n(.*?)```", README, flags=re.DOTALL)
    for place in re.findall(r"^ *([\w./]+)(?:  |$)", drawing, flags=re.MULTILINE):
        if place != "mlflow.db":
            assert (ROOT / place).exists() or (ROOT / "cnnstudy" / place).exists(), place


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_study_opens_as_a_lab_note(file: Path) -> None:
    note = file.read_text(encoding="utf-8").partition("\n\n")[0]
    assert [word for word in ("Question", "Command", "Time", "Result") if f"# {word}:" not in note] == []
    assert load_study(str(file)).config.name == file.stem
