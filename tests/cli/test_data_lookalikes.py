"""`data --weights`: what may show the same by a network's features is listed, and weights are found or asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from colour_network import picture, write_network
from typer.testing import CliRunner

from cnnstudy.cli import app
from cnnstudy.cli.sources import find_features, find_own_features
from cnnstudy.config.load import load_study
from cnnstudy.errors import InputError, WeightsError
from cnnstudy.results.lookalikes import FeatureSource
from cnnstudy.training.weight_import import ABOUT

STUDY = (
    "name: probe\ndata: {name: folder, path: photos}\nimage_size: 64\narchitectures: ['file:colours.py', alexnet]\n"
    "factors: {transfer: [scratch, frozen]}\ntraining: {epochs: 1}\nbudget: {trials: 4}\n"
    "weights: {default: {source: random}, 'file:colours.py': {source: file, file: colours.npz}}\n"
)


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["data", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def photos(own_places: Path) -> Path:
    """60 pictures of two classes, 8 of which are there a second time, turned; and a study of them."""
    write_network(own_places)
    for seed in range(60):
        folder = own_places / "photos" / "ab"[seed % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture(seed, 96).save(folder / f"{seed:02}.png")
        if seed < 8:
            picture(seed, 96).rotate(90).save(folder / f"{seed:02}-turned.png")
    (own_places / "probe.yaml").write_text(STUDY, encoding="utf-8")
    return own_places / "photos"


def test_turned_pictures_are_listed_and_not_grouped(photos: Path) -> None:
    # the study's weights are on this machine, so that it needs no option
    found = json.loads(call("probe.yaml", "--json", "--html", "page.html"))
    pairs = {tuple(sorted(pair["images"])) for pair in found["lookalikes"]["pairs"]}
    assert pairs == {(f"{'ab'[i % 2]}/{i:02}-turned.png", f"{'ab'[i % 2]}/{i:02}.png") for i in range(8)}
    assert (found["copies"]["pairs"], found["groups"]) == (0, None)
    apart = sum(pair["parts"].count("train") == 1 for pair in found["lookalikes"]["pairs"])
    assert 0 < apart < 8
    told = f"8 pairs by the features of colours.py:build ({100 * found['lookalikes']['found']:.0f} % of changed copies "
    assert found["lookalikes"]["told"].startswith(f"{told}are found), {apart} with one image in train and one in valid")
    page = Path("page.html").read_text(encoding="utf-8")
    (section,) = [part for part in page.split("<section ") if part.startswith('id="lookalikes"')]
    assert (section.count("<img "), section.count('class="mistake"')) == (16, 8)
    assert told in section


def test_few_images_start_no_worker(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in sorted(photos.rglob("*.png"))[20:50]:
        file.unlink()
    monkeypatch.setattr("cnnstudy.results.lookalikes.run_job", lambda *_: pytest.fail("a worker was started"))
    text = call("photos", "--weights", "colours.npz", "--network", "file:colours.py")
    assert "may show the same: not looked for: 38 images are too few to tell what is chance (50 are needed)" in text


def test_weights_are_found_by_name_and_say_whose_they_are(own_places: Path) -> None:
    about = {"network": "resnet18", "kind": "PyTorch", "source": "", "sha256": "", "classes": None}
    content = json.dumps({**about, "preprocessing": "", "licence": ""}).encode()
    (own_places / "weights").mkdir()
    np.savez(own_places / "weights" / "photos.npz", **{ABOUT: np.frombuffer(content, np.uint8)})  # type: ignore[arg-type]
    assert find_features("photos", None, None) == FeatureSource("resnet18", Path("weights/photos.npz"), 160)
    assert find_features("weights/photos.npz", "vgg16", None) == FeatureSource("vgg16", Path("weights/photos.npz"), 160)
    assert find_features("imagenet", "vgg16", None) == FeatureSource("vgg16", None, 160)
    (own_places / "broken.npz").write_text("text")
    with pytest.raises(WeightsError, match=r"can't read broken\.npz"):
        find_features("broken.npz", None, None)


@pytest.mark.parametrize(
    ("weights", "network", "fragment"),
    [
        (
            "nowhere.npz",
            None,
            "there is no file nowhere.npz, and no imported weights have this name; `python -m",
        ),
        (
            "nowhere",
            "vgg16",
            "there is no file nowhere, and no imported weights have this name",
        ),
        ("imagenet", "alexnet", "there are no imagenet weights for alexnet; give a file of weights."),
        ("imagenet", "vgg61", "unknown architecture 'vgg61'; did you mean 'vgg16'?"),
        (None, "vgg16", "--network vgg16 needs --weights"),
    ],
)
def test_what_can_not_be_used_is_a_short_error(
    own_places: Path, weights: str | None, network: str | None, fragment: str
) -> None:
    with pytest.raises(InputError) as caught:
        find_features(weights, network, None)
    assert str(caught.value).startswith(fragment)


def test_the_weights_of_a_study_are_taken_if_they_are_there(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study("probe.yaml")
    own = study.config.architectures[0]
    assert find_own_features(study) == FeatureSource(own, Path("colours.npz").absolute(), 64)
    assert find_features("colours.npz", own, study) == FeatureSource(own, Path("colours.npz"), 64)
    # the options ask for no source weights, or their file is not there
    scratch = load_study("probe.yaml", ["factors.transfer=[scratch]"])
    published = load_study("probe.yaml", ["architectures=[vgg16]", "weights={vgg16: {source: imagenet}}"])
    monkeypatch.setenv("KERAS_HOME", str(photos.parent / "keras"))
    assert [find_own_features(one) for one in (scratch, published)] == [None] * 2
    models = photos.parent / "keras" / "models"
    models.mkdir(parents=True)
    file = models / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    shutil.copy("colours.npz", file)
    assert find_own_features(published) == FeatureSource("vgg16", file, 64)


def test_copies_among_the_images_to_pretrain_on_are_warned_about(own_places: Path) -> None:
    for seed in range(40):
        for root, first in (("photos", 0), ("others", 1000)):
            folder = own_places / root / "ab"[seed % 2]
            folder.mkdir(parents=True, exist_ok=True)
            picture(first + seed, 96).save(folder / f"{seed:02}.png")
    for seed in (4, 6, 7):
        picture(seed, 80).save(own_places / "others" / "a" / f"again{seed}.png")
    pretrain = "{source: pretrain, epochs: 1, data: {name: folder, path: others}}"
    study = STUDY.split("architectures")[0] + (
        "architectures: [alexnet]\nfactors: {transfer: [scratch, frozen]}\ntraining: {epochs: 1}\nbudget: {trials: 2}\n"
        f"weights: {{alexnet: {pretrain}}}\n"
    )
    (own_places / "probe.yaml").write_text(study, encoding="utf-8")
    found = json.loads(call("probe.yaml", "--json"))
    (told,) = [one["text"] for one in found["warnings"] if one["key"] == "weights"]
    assert told.startswith("3 of the study's images (")
    assert found["lookalikes"] is None
