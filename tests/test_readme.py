"""The README and the pages of docs/ agree with the code: commands, keys, defaults, places and links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command

from cnnstudy import architectures, cli
from cnnstudy.config.factors import FACTORS
from cnnstudy.config.find import SHIPPED_STUDIES
from cnnstudy.config.load import load_study
from cnnstudy.config.schema import Confirm, Objective, StudyConfig, Training, Weights
from cnnstudy.config.strategies import STRATEGY_KINDS
from cnnstudy.data import datasets

ROOT = SHIPPED_STUDIES.parent
PACKAGE = ROOT / "cnnstudy"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "study-files.md").read_text(encoding="utf-8")
#: A section of the reference -> the models whose keys it tells, each with a table of its own or all with one.
MODELS: dict[str, list[type[BaseModel]]] = {
    "": [StudyConfig],
    "training": [Training],
    "weights": [Weights],
    "strategy": list(STRATEGY_KINDS.values()),
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


def test_the_readme_is_short_and_has_the_test_command() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []
    assert len([line for line in lines if line.endswith("python -m pytest")]) == 1, ".ci/run looks for this line"


@pytest.mark.skipif(not (PACKAGE / "system").is_dir(), reason="the map is that of the package in rooms")
def test_the_map_names_every_room_and_place() -> None:
    (drawing,) = re.findall(r"## The map\n.*?```\n(.*?)```", README, flags=re.DOTALL)
    named = {indent: re.findall(rf"^{indent}([\w./]+)  ", drawing, flags=re.MULTILINE) for indent in ("", "  ")}
    assert {place for place in named[""] if not (ROOT / place).exists()} <= {"mlflow.db"}
    rooms = {f"{room.parent.name}/" for room in PACKAGE.glob("*/__init__.py")}
    assert {place for place in named["  "] if place.endswith("/")} == rooms
    assert [place for place in named["  "] if not (PACKAGE / place).exists()] == []


@pytest.mark.skipif(not (PACKAGE / "system").is_dir(), reason="the paths are those of the package in rooms")
def test_the_places_named_in_the_pages_exist() -> None:
    named = {
        place
        for page in PAGES
        for place in re.findall(r"`((?:cnnstudy|tests|benchmarks|scripts)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    }
    assert {place for place in named if not (ROOT / place).exists()} == set()


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text):
        if link.startswith("https:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_links_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)\)", README))
    assert linked == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("file", sorted(SHIPPED_STUDIES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_study_opens_as_a_lab_note(file: Path) -> None:
    note = file.read_text(encoding="utf-8").partition("\n\n")[0]
    assert [word for word in ("Question", "Command", "Time", "Result") if f"# {word}:" not in note] == []
    assert load_study(str(file)).config.name == file.stem
