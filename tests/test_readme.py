"""What the README says to type and to write works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cnnstudy import architectures, datasets
from cnnstudy.config import SHIPPED, load_study
from cnnstudy.schema import StudyConfig, Training
from cnnstudy.space import FACTORS, TRANSFER_MODES
from cnnstudy.strategies import KINDS, Factorial, Search

ROOT = SHIPPED.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_study_of_ones_own_photos_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").mkdir()
    (block,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "my-photos.yaml").write_text(block, encoding="utf-8")
    assert load_study(str(tmp_path / "my-photos.yaml")).config.name == "my-photos"


def test_every_name_that_a_study_file_takes_is_told() -> None:
    names = {*datasets.names(), *architectures.names(), *FACTORS, *TRANSFER_MODES}
    for model in (StudyConfig, Training, Search, Factorial):
        names |= set(model.model_fields) - {"name", "kind"}
    names |= {f"kind: {kind}" for kind in KINDS}
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
