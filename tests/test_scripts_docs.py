"""scripts/docs builds a site that is whole, asks nobody for anything, and tells every command, key and public name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from typer.main import get_command

import cnnstudy
from cnnstudy import cli
from cnnstudy.config.json_schema import make_schema

ROOT = Path(__file__).parents[1]
#: Attributes for which a browser asks a server, unlike those of links.
ASKING = ("src", "srcset", "data", "poster")


def build(project: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / "scripts" / "docs" / "build.py"), str(target)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=target.parent)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    built = build(ROOT, folder)
    assert (built.returncode, built.stderr) == (0, "")
    assert built.stdout == f"{folder / 'index.html'}\n"
    return folder


def parse(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def test_no_page_asks_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= {page.stem for page in pages}
    asked = []
    for page in pages:
        for tag in parse(page).find_all(True):
            places = [tag[name] for name in ASKING if tag.has_attr(name)]
            if tag.name == "link":
                places.append(tag["href"])
            if tag.name in ("style", "script") or tag.has_attr("style"):
                places += re.findall(r"url\([^)]*\)|@import[^;]*", f"{tag.string} {tag.get('style')}")
            asked += [(page.name, place) for place in places if "//" in str(place)]
    for sheet in site.rglob("*.css"):
        called = re.findall(r"url\([^)]*\)|@import[^;]*", sheet.read_text(encoding="utf-8"))
        asked += [(sheet.name, place) for place in called if "//" in re.sub(r"url\(['\"]?data:.*", "", place)]
    assert asked == []
    assert (site / "searchindex.js").is_file(), "the search needs no server"


def commands(group: Any, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        yield before + name
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")


def test_every_command_and_option_is_told(site: Path) -> None:
    page = parse(site / "command-line.html")
    found = [heading.find("code").get_text() for heading in page.find_all(re.compile("h[23]"))]
    assert found == list(commands(get_command(cli.app)))
    for name, command in get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        told = page.find(id=name).get_text()
        assert [
            option for param in command.params for option in param.opts if option[0] == "-" and option not in told
        ] == []


def keys(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield from schema["properties"]
        for value in schema.values():
            yield from keys(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from keys(value)


def test_every_key_of_the_schema_is_told(site: Path) -> None:
    page, schema = parse(site / "keys.html"), make_schema()
    tables = {
        section.find("h2").contents[0]: [row.find("td").get_text() for row in section.select("tbody tr")]
        for section in page.select("section section")
    }
    assert tables["The file"] == list(schema["properties"])
    assert tables["training"] == list(schema["$defs"]["Training"]["properties"])
    assert tables["factors"] == list(schema["properties"]["factors"]["properties"])
    for one in schema["$defs"]["data"]["anyOf"]:
        assert tables[f"data: {one['properties']['name']['const']}"] == list(one["properties"])
    text = page.get_text()
    assert {key for key in keys(schema) if not re.search(rf"\b{key}\b", text)} == set()


def test_every_public_name_is_told_with_its_docstring(site: Path) -> None:
    page = parse(site / "api.html")
    for name in cnnstudy._API:
        told = page.find(id=f"cnnstudy.{name}").parent.get_text().replace("’", "'")
        first = (getattr(cnnstudy, name).__doc__ or "").splitlines()[0].replace("`", "")
        assert first in " ".join(told.split()), name
    for name in ("trials", "plot_gap", "report"):
        assert page.find(id=f"cnnstudy.StudyResults.{name}"), name


#: What leads nowhere -> what Sphinx says of it.
BROKEN = {
    "[a page](gone.md)": "'gone.md'",
    "[a heading](statistics.md#gone)": "'docs/statistics': 'gone'",
    "![a picture](gone.png)": "docs/gone.png",
    "```{eval-rst}\n:py:func:`cnnstudy.gone.effects`\n```": "cnnstudy.gone.effects",
}


def test_what_leads_nowhere_fails(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts" / "docs", tmp_path / "scripts" / "docs")
    (tmp_path / "docs").mkdir()
    for page in ("README.md", "CHANGELOG.md", *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))):
        (tmp_path / page).write_text("# A page\n", encoding="utf-8")
    (tmp_path / "docs" / "python.md").write_text("\n\n".join(["# A page", *BROKEN]), encoding="utf-8")
    built = build(tmp_path, tmp_path / "site")
    assert (built.returncode, built.stdout) == (1, "")
    warnings = [line for line in built.stderr.splitlines() if "WARNING" in line]
    assert len(warnings) == len(BROKEN), built.stderr
    assert [said for said in BROKEN.values() if not any(said in line for line in warnings)] == []
