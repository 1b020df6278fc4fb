"""Which images form a batch; the legacy numbers were measured with Keras 3.15 and an iterator of 364 images."""

from __future__ import annotations

import numpy as np
import pytest

from cnnstudy.data.batches import Batches, count_in_full_batches, count_updates, legacy_validation_indices


@pytest.mark.parametrize("size", [1, 3, 32, 91, 128, 364, 500])
def test_clean_epochs_hold_every_image_once(size: int) -> None:
    batches = Batches(364, size, seed=1)
    for epoch in (1, 2, 3):
        parts = list(batches.iterate_epoch(epoch))
        assert sorted(np.concatenate(parts)) == list(range(364))
        assert {len(part) for part in parts[:-1]} <= {size}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (32, [352, 12, 352, 12]),
        (128, [256, 108, 256, 108]),
        (91, [364] * 4),
        (64, [320, 44, 320, 44]),
        (500, [364] * 4),
    ],
)
def test_legacy_epochs_go_on_where_the_iterator_stands(size: int, expected: list[int]) -> None:
    batches = Batches(364, size, seed=1, protocol="legacy")
    epochs = [np.concatenate(list(batches.iterate_epoch(epoch))) for epoch in (1, 2, 3, 4)]
    assert [len(epoch) for epoch in epochs] == expected
    if len(set(expected)) > 1:
        assert sorted(np.concatenate(epochs[:2])) == list(range(364))


@pytest.mark.parametrize("protocol", ["clean", "legacy"])
@pytest.mark.parametrize("size", [1, 32, 91, 128, 500])
@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_updates_are_counted_as_they_are_made(protocol: str, size: int, epochs: int) -> None:
    batches = Batches(364, size, seed=0, protocol=protocol)
    made = sum(len(list(batches.iterate_epoch(epoch))) for epoch in range(1, epochs + 1))
    assert count_updates(364, size, epochs, protocol) == made


def test_the_order_is_the_seeds_and_the_epochs() -> None:
    def order(seed: int, size: int, epoch: int) -> list[int]:
        return np.concatenate(list(Batches(50, size, seed).iterate_epoch(epoch))).tolist()

    assert order(1, 8, 1) == order(1, 16, 1)
    assert order(1, 8, 1) != order(1, 8, 2)
    assert order(1, 8, 1) != order(2, 8, 1)


@pytest.mark.parametrize(("size", "images", "tulips"), [(32, 352, 67), (64, 320, 35), (128, 256, 0)])
def test_legacy_validation_leaves_out_the_last_class(size: int, images: int, tulips: int) -> None:
    labels = np.repeat(np.arange(5), [63, 89, 64, 69, 79])
    chosen = legacy_validation_indices(np.random.default_rng(0).permutation(labels), size)
    assert len(chosen) == images
    assert sum(np.sort(labels)[:images] == 4) == tulips


def test_a_batch_larger_than_the_images_takes_them_all() -> None:
    assert count_in_full_batches(10, 16) == 10
    assert len(legacy_validation_indices(np.zeros(10), 16)) == 10
