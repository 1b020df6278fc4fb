"""Networks of one's own in study files: paths, names by content, and the places of mistakes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cnnstudy.config.load import load_study
from cnnstudy.config.schema import StudyConfig
from cnnstudy.errors import ConfigError

NETWORK = "import keras\n\n\ndef build(image_size):\n    return keras.Sequential([keras.layers.Conv2D({}, 3)])\n"
STUDY = """\
name: own
data: {name: digits}
image_size: {file:nets/small.py:build: 32, alexnet: 64}
architectures: [file:nets/small.py:build, alexnet]
factors:
  transfer: [scratch, frozen]
  learning_rate: {file:nets/small.py:build: 0.01}
weights: {file:nets/small.py:build: {source: file, file: w.npz}, default: {source: random}}
training: {epochs: {file:nets/small.py:build: 2, alexnet: 3}}
budget: {trials: 4}
"""


@pytest.fixture(autouse=True)
def folder(own_places: Path) -> Path:
    (own_places / "project" / "nets").mkdir(parents=True)
    (own_places / "project" / "nets" / "small.py").write_text(NETWORK.format(4))
    (own_places / "project" / "w.npz").write_bytes(b"PK")
    (own_places / "project" / "own.yaml").write_text(STUDY)
    return own_places


def edit(old: str, new: str, file: str = "own.yaml") -> None:
    path = Path("project") / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def read(*overrides: str) -> StudyConfig:
    return load_study("project/own.yaml", overrides).config


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*overrides)
    return str(caught.value)


def test_its_name_is_the_same_at_every_key_and_has_no_path(folder: Path) -> None:
    config = read()
    own, other = config.architectures
    assert re.fullmatch(r"file:small.py:build@[0-9a-f]{10}", own)
    assert other == "alexnet"
    assert (config.image_size_of(own), config.epochs_of(own)) == (32, 2)
    assert config.factors_of(own)["learning_rate"].values == (0.01,)  # type: ignore[union-attr]
    weights = config.weights_of(own)
    assert weights is not None
    assert weights.file == folder / "project" / "w.npz"
    assert str(folder) not in str(config.model_dump(exclude={"weights"}))


def test_a_moved_project_has_the_same_networks(folder: Path) -> None:
    before = read().architectures
    (folder / "project").rename(folder / "moved")
    assert load_study("moved/own.yaml").config.architectures == before


def test_an_edited_file_is_another_network() -> None:
    before = read().architectures
    edit("Conv2D(4", "Conv2D(8", "nets/small.py")
    assert read().architectures[0] != before[0]
    assert read().architectures[1] == before[1]


def test_what_is_recorded_can_be_read_without_the_file(folder: Path) -> None:
    config = read()
    (folder / "project" / "nets" / "small.py").unlink()
    assert StudyConfig.model_validate(config.model_dump(mode="json")) == config


def test_on_the_command_line_paths_are_relative_to_the_working_folder(folder: Path) -> None:
    (folder / "project" / "own.yaml").write_text(
        "name: own\ndata: {name: digits}\nimage_size: 64\narchitectures: [alexnet]\ntraining: {epochs: 1}\n"
        "budget: {trials: 2}\n"
    )
    study = load_study("project/own.yaml", ["architectures=[file:project/nets/small.py, alexnet]"])
    assert re.fullmatch(r"file:small.py:build@\w+", study.config.architectures[0])
    assert study.overrides == (f'architectures=["file:{folder}/project/nets/small.py", "alexnet"]',)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "own.yaml",
            "[file:nets/small.py:build,",
            "[file:nets/big.py:build,",
            "line 4, architectures.0: can't read the",
        ),
        (
            "nets/small.py",
            "def build",
            "def biuld",
            "line 4, architectures.0: {}/nets/small.py has no function 'build'",
        ),
        ("nets/small.py", "def build(", "def build((", "line 4, architectures.0: {}/nets/small.py, line 4: "),
        (
            "own.yaml",
            ":build: 32",
            ":build: 7",
            "line 3, image_size.file:nets/small.py:build: is 7; file:nets/small.py",
        ),
        ("own.yaml", ":build: 0.01", ":build: -1", "line 7, factors.learning_rate.file:nets/small.py:build: -1 is out"),
        ("own.yaml", "alexnet]", "file:nets/small.py]", "line 4, architectures.1: file:nets/small.py is listed"),
        ("own.yaml", "source: file, file: w.npz", "source: imagenet", "there are no imagenet weights for file:nets/sm"),
    ],
)
def test_mistakes_are_told_as_the_file_has_them(folder: Path, file: str, old: str, new: str, said: str) -> None:
    edit(old, new, file)
    assert said.format(folder / "project") in refusal()
    assert "@" not in refusal()
