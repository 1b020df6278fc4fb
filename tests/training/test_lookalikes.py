"""Pictures that stand out as alike by a network's features: planted ones are found, others are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
from colour_network import picture, write_network
from PIL import Image

from cnnstudy import architectures
from cnnstudy.data.datasets import ImageSource, SourceImage
from cnnstudy.data.datasets.digits import Options
from cnnstudy.data.duplicates import image_digests
from cnnstudy.data.images import ListedImages
from cnnstudy.errors import WeightsError
from cnnstudy.records import Split
from cnnstudy.training import lookalikes
from cnnstudy.training.lookalikes import feature_model, find_lookalikes

SIZE = 32
ORIGINALS = 120
pytestmark = pytest.mark.full_width


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> keras.Model:
    file, weights = write_network(tmp_path_factory.mktemp("network"))
    return feature_model(architectures.find(f"file:{file}"), SIZE, weights)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [picture(seed) for seed in range(ORIGINALS)]


def listed(pictures: Iterable[Image.Image], labels: Sequence[int] | None = None) -> ListedImages:
    pixels = [np.asarray(one) for one in pictures]
    images = tuple(
        SourceImage(str(place), labels[place] if labels else place % 2, one) for place, one in enumerate(pixels)
    )
    digests = image_digests(images, lambda *_: None)
    return ListedImages(Options(name="digits"), ImageSource(("a", "b"), images), Split(0.15, 0.15, 0), digests)


def found_in(
    model: keras.Model, images: ListedImages, tested: Iterable[int] = ()
) -> tuple[float, set[tuple[int, int]]]:
    told: list[str] = []
    places = range(len(images.source.images))
    answer = find_lookalikes(model, images, places, frozenset(tested), lambda what, *_: told.append(what))
    assert list(dict.fromkeys(told)) == ["features of images", "comparing images", "changed copies"]
    return answer["found"], {(i, j) for i, j in answer["pairs"]}


def test_features_are_averages_of_the_last_maps(colours: keras.Model) -> None:
    pixels = np.asarray(picture(0, SIZE))[None]
    kernel, limits = colours.get_weights()
    expected = np.maximum(pixels @ kernel[0, 0] + limits, 0).mean(axis=(1, 2))
    np.testing.assert_allclose(colours.predict_on_batch(pixels), expected, rtol=1e-4)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    _, weights = write_network(tmp_path)
    with pytest.raises(WeightsError, match=r"colours\.npz has no layer 'conv1' of AlexNet"):
        feature_model(architectures.find("alexnet"), 64, weights)


def test_turned_pictures_are_found_and_no_others(colours: keras.Model, pictures: list[Image.Image]) -> None:
    turned = [picture.rotate(90) for picture in pictures[:10]]
    images = listed([*pictures, *turned], [*[place % 2 for place in range(ORIGINALS)], *[i % 2 for i in range(10)]])
    share, pairs = found_in(colours, images)
    assert 0.5 < share < 0.8  # brightness changes the colours
    assert pairs == {(i, ORIGINALS + i) for i in range(10)}


def test_of_different_pictures_hardly_any_are_listed(colours: keras.Model) -> None:
    _, pairs = found_in(colours, listed(picture(seed) for seed in range(1000, 1600)))
    assert len({place for pair in pairs for place in pair}) <= 6


def test_features_that_are_the_same_for_all_find_nothing(pictures: list[Image.Image]) -> None:
    images = keras.layers.Input((SIZE, SIZE, 3))
    blind = keras.Model(images, keras.layers.GlobalAveragePooling2D()(images * 0.0))
    assert found_in(blind, listed(pictures)) == (0.0, set())


def test_features_of_chance_do_not_tell_copies(pictures: list[Image.Image]) -> None:
    # the lowest bits of a few pixels, as good as random numbers
    images = keras.layers.Input((SIZE, SIZE, 3))
    corner = keras.layers.Flatten()(images[:, :4, :4])
    share, pairs = found_in(keras.Model(images, keras.ops.sin(1e4 * corner)), listed(pictures))
    assert (share < 0.2, pairs) == (True, set())


def test_several_of_the_same_are_found(colours: keras.Model, pictures: list[Image.Image]) -> None:
    turned = [pictures[7].rotate(angle) for angle in (90, 180, 270)]
    _, pairs = found_in(colours, listed([*pictures, *turned], [place % 2 for place in range(ORIGINALS)] + [1] * 3))
    same = {7, *range(ORIGINALS, ORIGINALS + 3)}
    assert pairs == {(i, j) for i in same for j in same if i < j}


def test_pairs_of_different_classes_make_it_stricter(colours: keras.Model, pictures: list[Image.Image]) -> None:
    near = [picture.rotate(90).resize((62, 62)) for picture in pictures[:6]]
    other = [picture.rotate(90) for picture in pictures[6:12]]  # more alike, and in the other class
    labels = [place % 2 for place in range(ORIGINALS)]
    labels += [*labels[:6], *(1 - label for label in labels[6:12])]
    images = listed([*pictures, *near, *other], labels)
    assert found_in(colours, images)[1] < {(i, ORIGINALS + i) for i in range(12)}
    # the labels of test images are not looked at
    everything = found_in(colours, images, tested=range(ORIGINALS + 6, ORIGINALS + 12))[1]
    assert everything == {(i, ORIGINALS + i) for i in range(12)}


@pytest.mark.parametrize("width", [2, 6])
def test_the_chance_is_that_of_points_that_lie_evenly(width: int) -> None:
    numbers = np.random.default_rng(0)
    distances = np.sort(np.linalg.norm(numbers.uniform(-1, 1, (500, 2000, width)), axis=2), axis=1)
    chances = lookalikes._probability_by_chance(distances[:, 0], distances[:, lookalikes._REFERENCE - 1], width)
    for level in (0.05, 0.3, 0.7):
        assert np.mean(chances <= level) == pytest.approx(level, abs=0.06)


def test_the_dimension_is_that_in_which_points_spread() -> None:
    numbers = np.random.default_rng(0)
    points = numbers.normal(size=(3000, 4)) @ numbers.normal(size=(4, 20))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    _, dimension = lookalikes._measure_neighbours(points, lambda *_: None)
    assert dimension == pytest.approx(3, abs=0.3)  # of a sphere
