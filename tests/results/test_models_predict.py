"""Predictions on images: the numbers, images that can't be used, and the output."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import photos as modes
import pytest
from commands import call
from PIL import Image
from rich.console import Console
from trained_study import NAME, Trained

from cnnstudy.data import datasets
from cnnstudy.data.image_tree import read_tree
from cnnstudy.data.images import prepare_images
from cnnstudy.data.splits import split_indices
from cnnstudy.errors import DataError, InputError, ModelError
from cnnstudy.records import BadImage, Split
from cnnstudy.results import models
from cnnstudy.results.models import Model, Prediction, find_model
from cnnstudy.system.display import PlainDisplay, SilentDisplay


def predict(trained: Trained, *images: Path | str, top: int = 5, model: Model | None = None) -> list[Any]:
    model = model or find_model(NAME, trained.uri, trained.folder)
    return models.predict_files(model, list(map(str, images)), top, trained.executor, SilentDisplay())


# ---- the numbers


def test_images_are_seen_as_in_training(trained: Trained) -> None:
    """On the validation images the accuracy is what was measured after training, to the last image."""
    photos = trained.folder / "photos"
    keys = sorted(path.relative_to(photos).as_posix() for path in photos.glob("*/*.png"))
    labels = [Trained.classes.index(key.split("/")[0]) for key in keys]
    split = Split(0.15, 0.15, 0)
    places = [i for of_class in split_indices(keys, labels, split)["validation"] for i in of_class]
    found = predict(trained, *[photos / keys[i] for i in places])
    right = [models.classes[0][0] == Trained.classes[labels[i]] for models, i in zip(found, places, strict=True)]
    assert len(right) == 9
    assert np.mean(right) == pytest.approx(trained.run.metrics["best/val_accuracy"])
    losses = [-np.log(dict(one.classes)[Trained.classes[labels[i]]]) for one, i in zip(found, places, strict=True)]
    assert np.mean(losses) == pytest.approx(trained.run.metrics["best/val_loss"], rel=1e-4)
    assert np.mean(right) > 0.5, "a model that has learnt nothing shows nothing"


def test_photos_of_every_mode_are_seen_as_in_training(trained: Trained, tmp_path: Path) -> None:
    """In a folder, by their content: files with and without suffixes, and those of a linked folder."""
    for name in ("photos/one", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "photos" / "two").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for name, content in modes.photos().items():
        (tmp_path / "photos" / "one" / name).write_bytes(content)
        (tmp_path / "elsewhere" / name.replace(".", "-")).write_bytes(content)
    options = datasets.find("folder").Options(name="folder", path=tmp_path / "photos", copies="ignore")
    (prepared,) = prepare_images(options, [64], 0, lambda *_: None)
    keys = json.loads((Path(prepared.folder) / "index.json").read_text(encoding="utf-8"))["keys"]
    pixels = np.load(Path(prepared.folder) / "images.npy")
    network = keras.saving.load_model(find_model(NAME, trained.uri, trained.folder).file)
    rows = dict(zip(keys, network.predict_on_batch(pixels), strict=True))
    found = predict(trained, tmp_path / "photos")
    assert len(found) == len(keys) == 2 * len(modes.photos())
    for one in found:
        row = rows[Path(one.path).relative_to(tmp_path / "photos").as_posix()]
        assert dict(one.classes) == pytest.approx(dict(zip(Trained.classes, map(float, row), strict=True)), abs=1e-5)
        assert one.classes[0][0] == Trained.classes[int(np.argmax(row))]


def test_the_best_classes_come_first(trained: Trained) -> None:
    image = trained.folder / "photos" / "two" / "0.png"
    ((every,), (best,)) = predict(trained, image), predict(trained, image, top=1)
    assert {name for name, _ in every.classes} == set(Trained.classes)
    shares = [share for _, share in every.classes]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert best.classes == every.classes[:1]


def test_what_a_camera_or_a_program_made_of_an_image_does_not_matter(trained: Trained, tmp_path: Path) -> None:
    upright = Image.open(trained.folder / "photos" / "two" / "0.png").convert("L")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.rotate(90).save(tmp_path / "turned.png", exif=turned)
    upright.convert("P").save(tmp_path / "palette.gif")
    transparent = upright.convert("RGB").convert("RGBA")
    transparent.save(tmp_path / "alpha.webp", lossless=True)
    Image.fromarray(np.asarray(upright).astype(np.uint16) << 8).save(tmp_path / "sixteen-bit.png")
    # ink on paper, without the rounding of a profile
    inverted = Image.fromarray(255 - np.asarray(upright))
    nothing = Image.new("L", upright.size)
    Image.merge("CMYK", (inverted, inverted, inverted, nothing)).save(tmp_path / "cmyk.tiff")
    names = ["turned.png", "palette.gif", "alpha.webp", "sixteen-bit.png", "cmyk.tiff"]
    plain, *others = predict(trained, trained.folder / "photos" / "two" / "0.png", *[tmp_path / name for name in names])
    for name, other in zip(names, others, strict=True):
        assert dict(other.classes) == pytest.approx(dict(plain.classes), abs=1e-5), name


def test_more_images_than_are_looked_at_together(trained: Trained) -> None:
    folder = trained.folder / "photos" / "one"
    images = [folder / f"{number % 20}.png" for number in range(70)]
    found = predict(trained, *images)
    assert [one.path for one in found] == list(map(str, images))
    for number in range(20, 70):
        assert dict(found[number].classes) == pytest.approx(dict(found[number % 20].classes), abs=1e-5)


def test_classes_without_names_are_numbered(trained: Trained) -> None:
    image = trained.folder / "photos" / "two" / "0.png"
    named = find_model(NAME, trained.uri, trained.folder)
    ((by_name,), (by_number,)) = predict(trained, image), predict(trained, image, model=Model("m", named.file, None))
    numbers = [f"class {Trained.classes.index(name)}" for name, _ in by_name.classes]
    assert [name for name, _ in by_number.classes] == numbers


# ---- images and models that can't be used


def test_a_folder_stands_for_the_images_that_training_would_find_in_it(trained: Trained, tmp_path: Path) -> None:
    source = Image.open(trained.folder / "photos" / "one" / "0.png").convert("RGB")
    forms = {"b.png": "PNG", "a/c.PNG": "PNG", "d.jfif": "JPEG", "e.jpg_large": "JPEG", "f": "WEBP", "g.avif": "AVIF"}
    hidden = {".hidden/d.png": "PNG", "__MACOSX/e.png": "PNG", "a/.f.png": "PNG"}
    for name, form in (forms | hidden | {"../linked/h.jpg.1": "JPEG"}).items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        source.save(tmp_path / "photos" / name, form)
    (tmp_path / "photos" / "z").symlink_to(tmp_path / "linked", target_is_directory=True)
    (tmp_path / "photos" / "a" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / "damaged.jpg").write_text("no image")
    told: list[str] = []
    model = find_model(NAME, trained.uri, trained.folder)
    found = models.predict_files(model, [str(tmp_path / "photos")], 5, trained.executor, PlainDisplay(told.append))
    names = [*sorted(["damaged.jpg", *forms]), "z/h.jpg.1"]
    assert [one.path for one in found] == [str(tmp_path / "photos" / name) for name in names]
    assert [one.path for one in found if isinstance(one, BadImage)] == [str(tmp_path / "photos" / "damaged.jpg")]
    tree = read_tree_keys(tmp_path / "photos")
    assert {Path(one.path).relative_to(tmp_path / "photos").as_posix() for one in found} == tree
    passed_over = f"{tmp_path / 'photos'}: passed over: 3 hidden (.hidden, ...), 1 .txt (a/notes.txt)"
    assert passed_over in told


def read_tree_keys(folder: Path) -> set[str]:
    """The images that training finds in a folder, which is put beside another class for that."""
    both = folder.parent / "both"
    both.mkdir()
    (both / "this").symlink_to(folder, target_is_directory=True)
    (both / "other").mkdir()
    Image.new("RGB", (8, 8)).save(both / "other" / "1.png")
    return {image.key.removeprefix("this/") for image in read_tree(both).images} - {"other/1.png"}


def test_what_cannot_be_used_is_named_and_the_others_are_predicted(trained: Trained, tmp_path: Path) -> None:
    good = trained.folder / "photos" / "one" / "0.png"
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty").mkdir()
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    odd.write_bytes(good.read_bytes())
    places = [tmp_path / "broken.png", good, tmp_path / "gone.png", tmp_path / "text.jpg", tmp_path / "empty", odd]
    found = predict(trained, *places)
    assert [one.path for one in found] == list(map(str, places))
    assert [isinstance(one, Prediction) for one in found] == [False, True, False, False, False, True]
    assert dict(found[5].classes) == pytest.approx(dict(found[1].classes))
    with pytest.raises(DataError) as caught:
        models.check_predictions(found)
    head, *lines = str(caught.value).split("\n")
    assert head == "4 of 6 images can't be predicted:"
    reasons = [
        "can't be decoded",
        "there is no such file",
        "not an image that Pillow can read",
        "a folder without images",
    ]
    for line, place, reason in zip(lines, [places[i] for i in (0, 2, 3, 4)], reasons, strict=True):
        assert line.startswith(f"  {place}: {reason}"), line
    models.check_predictions([found[1], found[5]])


def test_without_a_usable_image_no_model_is_loaded(trained: Trained, tmp_path: Path) -> None:
    nowhere = Model("nowhere", tmp_path / "gone.keras", None)
    (found,) = predict(trained, tmp_path / "gone.png", model=nowhere)
    assert str(found) == f"{tmp_path / 'gone.png'}: there is no such file"


def test_a_model_that_cannot_be_used_is_an_error_of_its_own(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "broken.keras").write_text("no model")
    with pytest.raises(ModelError, match=r"broken.keras is not a complete \.keras file"):
        predict(trained, trained.folder / "photos", model=Model("broken", tmp_path / "broken.keras", None))


# ---- shown and written


FOUND = [
    Prediction("a/long name [red].png", (("daisy", 0.98765), ("=1+1", 0.01235))),
    BadImage("b.png", "not an image that Pillow can read"),
    Prediction("c\udce9.png", (("向日葵", 1.0),)),
]


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    models.show_predictions(Console(width=20), "a model", FOUND)
    assert capsys.readouterr().out.splitlines() == [
        "a/long name [red].png  daisy    98.8 %",
        "a/long name [red].png  =1+1      1.2 %",
        "c\\udce9.png            向日葵  100.0 %",
    ]
    models.show_predictions(Console(width=20), "a model", FOUND[1:2])
    assert capsys.readouterr().out == ""


def test_a_table_on_a_terminal() -> None:
    screen = io.StringIO()
    models.show_predictions(
        Console(file=screen, force_terminal=True, color_system=None, width=60), "the [b]model", FOUND
    )
    lines = [line.split() for line in screen.getvalue().splitlines() if line.strip()]
    assert lines[0] == ["the", "[b]model"]
    assert lines[1] == ["image", "class", "probability"]
    assert lines[3:] == [
        ["a/long", "name", "[red].png", "daisy", "98.8", "%"],
        ["=1+1", "1.2", "%"],
        ["c\\udce9.png", "向日葵", "100.0", "%"],
    ]


def test_csv_and_json_hold_all_of_it(tmp_path: Path) -> None:
    models.write_predictions_csv(FOUND, tmp_path / "found.csv")
    with (tmp_path / "found.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["image", "class", "probability", "error"],
            ["a/long name [red].png", "daisy", "0.98765", ""],
            ["a/long name [red].png", "'=1+1", "0.01235", ""],
            ["b.png", "", "", "not an image that Pillow can read"],
            ["c\\udce9.png", "向日葵", "1.0", ""],
        ]
    models.write_predictions_json("a model", FOUND, tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["model"] == "a model"
    assert found["images"][0]["classes"][0] == {"class": "daisy", "probability": 0.98765}
    assert [image["image"] for image in found["images"]] == [one.path for one in FOUND]
    assert [image["error"] for image in found["images"]] == [None, "not an image that Pillow can read", None]
    for write in (models.write_predictions_csv, lambda found, path: models.write_predictions_json("m", found, path)):
        with pytest.raises(InputError, match=r"can't write .*gone"):
            write(FOUND, tmp_path / "gone" / "found")


def test_names_that_would_control_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shown they are escaped; files for programs hold them as they are."""
    path, name = "a\x1b[2J\r\n\u202egpj.exe", "d\x9b2J\naisy\u2066"
    found = [Prediction(path, ((name, 1.0),)), BadImage("b\x1b]0;x\x07.png", "bad\x1b[2J")]
    models.show_predictions(Console(width=20), "a model", found)
    assert capsys.readouterr().out == "a\\x1b[2J\\r\\n\\u202egpj.exe  d\\x9b2J\\naisy\\u2066  100.0 %\n"
    screen = io.StringIO()
    models.show_predictions(Console(file=screen, force_terminal=True, color_system=None), "m\x1b[2J", found)
    assert all(line.isprintable() for line in screen.getvalue().split("\n"))
    models.write_predictions_csv(found, tmp_path / "found.csv")
    with (tmp_path / "found.csv").open(newline="", encoding="utf-8") as file:
        assert [row[:2] for row in csv.reader(file)][1:] == [[path, name], ["b\x1b]0;x\x07.png", ""]]
    models.write_predictions_json("a model", found, tmp_path / "found.json")
    text = (tmp_path / "found.json").read_text(encoding="utf-8")
    assert all(line.isprintable() for line in text.split("\n"))
    assert [(one["image"], one["classes"][:1]) for one in json.loads(text)["images"]] == [
        (path, [{"class": name, "probability": 1.0}]),
        ("b\x1b]0;x\x07.png", []),
    ]


# ---- the command


def test_the_command_predicts_what_it_can(trained: Trained, tmp_path: Path) -> None:
    good = trained.folder / "photos" / "two" / "0.png"
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8")
    arguments = [
        "predict",
        f"{NAME}/alexnet-000",
        "broken.jpg",
        str(good),
        "--json",
        "found.json",
        "--top",
        "2",
    ]
    answer = call(*arguments, folder=tmp_path, MLFLOW_TRACKING_URI=trained.uri)
    assert answer.code == 3, answer.text
    assert "Traceback" not in answer.text
    assert answer.errors.startswith("error: 1 of 2 images can't be predicted:\n  broken.jpg: ")
    (expected,) = predict(trained, good, top=2)
    assert [line.split() for line in answer.output.splitlines()] == [
        [str(good), name, f"{100 * share:.1f}", "%"] for name, share in expected.classes
    ]
    written = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert written["model"] == f"{NAME}/alexnet-000"
    assert [bool(image["classes"]) for image in written["images"]] == [False, True]
    assert {file.name for file in tmp_path.iterdir()} == {"broken.jpg", "found.json"}
