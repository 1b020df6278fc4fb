"""`weights import`, `weights list` and `weights verify`, and imported weights by their name in a study file."""

from __future__ import annotations

from pathlib import Path

import pytest
from narrow import narrow_networks
from typer.testing import CliRunner

from cnnstudy.architectures import Architecture, build_network, find
from cnnstudy.cli import app
from cnnstudy.config.load import load_study
from cnnstudy.errors import InputError, UnknownNameError, WeightsError
from cnnstudy.training import weight_verification, weights
from cnnstudy.training.weight_verification import Comparison

STUDY = """\
name: probe
data: {name: digits}
image_size: 32
architectures: [resnet18]
factors: {transfer: frozen}
weights: {resnet18: {source: file, file: mine}}
training: {epochs: 1}
budget: {trials: 1}
"""


@pytest.fixture
def file(own_places: Path) -> Path:
    """A file with weights of a narrow ResNet 18."""
    with narrow_networks():
        network = build_network(find("resnet18"), 32, 5, 0.0)
        weights.initialise(network, 0)
    weights.save_backbone(network, own_places / "downloaded.npz")
    return own_places / "downloaded.npz"


def call(*arguments: str) -> str:
    with narrow_networks():
        done = CliRunner().invoke(app, ["weights", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_imported_weights_are_used_by_their_name(file: Path, own_places: Path) -> None:
    said = call("import", str(file), "--network", "resnet18", "--name", "mine", "--licence", "CC BY 4.0")
    assert said.splitlines()[0] == "weights/mine.npz: weights of ResNet 18 from a cnnstudy file without a classifier"
    assert "  licence        CC BY 4.0" in said
    assert "  not taken      the head starts fresh in each trial" in said
    assert "In a study file: weights: {resnet18: {source: file, file: mine}}" in said
    (own_places / "probe.yaml").write_text(STUDY)
    found = load_study("probe.yaml").config.weights["resnet18"].file
    assert found == own_places / "weights" / "mine.npz"
    with narrow_networks():
        network = build_network(find("resnet18"), 32, 5, 0.0)
        weights.load_backbone(network, found)


def test_a_path_goes_before_a_name(file: Path, own_places: Path) -> None:
    call("import", str(file), "--network", "resnet18", "--name", "mine")
    file.rename(own_places / "mine")
    text = STUDY.replace("file: mine", f"file: {own_places / 'mine'}")
    (own_places / "probe.yaml").write_text(text)
    with pytest.raises(Exception, match="mine is not of a type that holds weights"):
        load_study("probe.yaml")


def test_the_list_tells_what_the_files_say_of_themselves(file: Path) -> None:
    assert "0 files of weights in " in call("list")
    call("import", str(file), "--network", "resnet18", "--source", "https://example.org/x")
    said = call("list")
    assert all(text in said for text in ("downloaded", "resnet18", "https://example.org/x", "1 file of weights"))


def test_what_can_not_be_imported(file: Path, own_places: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'resnet18'"):
        call("import", str(file), "--network", "resnet1")
    with pytest.raises(WeightsError, match="does not hold weights of ResNet 50"):
        call("import", str(file), "--network", "resnet50")
    assert not (own_places / "weights").exists()
    call("import", str(file), "--network", "resnet18")
    with pytest.raises(InputError, match=r"downloaded.npz is there already; give another --name"):
        call("import", str(file), "--network", "resnet18")


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str]]:
    """Comparisons without torchvision: all networks are equal but ResNet 50 at 96 pixels."""
    asked: list[tuple[str, int, str]] = []

    def compare(architecture: Architecture, size: int, dtype: str) -> Comparison:
        asked.append((architecture.name, size, dtype))
        wrong = 0.5 if asked[-1][:2] == ("resnet50", 96) else 3e-7
        return Comparison(architecture.name, size, 107, "conv5_block3_norm3", wrong, 2e-7, 0.41)

    monkeypatch.setattr(weight_verification, "require_packages", lambda: None)
    monkeypatch.setattr(weight_verification, "compare_with_torchvision", compare)
    return asked


def test_networks_that_equal_torchvisions(compared: list[tuple[str, int, str]]) -> None:
    said = call("verify", "resnet18", "googlenet_torchvision", "--precision", "float32")
    assert compared == [(name, size, "float32") for name in ("resnet18", "googlenet_torchvision") for size in (224, 96)]
    lines = [line.split() for line in said.splitlines()]
    assert ["network", "pixels", "layers", "largest", "difference", "in", "outputs", "two", "images"] in lines
    assert ["resnet18", "224", "107", "3.0e-07", "conv5_block3_norm3", "2.0e-07", "0.41"] in lines
    assert said.rstrip().endswith("All are equal.")


def test_a_network_that_differs_is_named_and_the_command_fails(compared: list[tuple[str, int, str]]) -> None:
    done = CliRunner().invoke(app, ["weights", "verify"], catch_exceptions=False)
    assert done.exit_code == 1
    assert "Not equal: resnet50 at 96 pixels." in done.output
    assert "5.0e-01" in done.output
    assert {name for name, _, _ in compared} == set(weight_verification.list_networks())


def test_a_network_without_torchvisions_weights_is_not_verified() -> None:
    with pytest.raises(UnknownNameError, match=r"'vgg16' is no network with torchvision's .* resnet18, resnet50"):
        call("verify", "vgg16")
