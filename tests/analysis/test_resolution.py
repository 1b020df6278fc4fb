"""How finely outcomes are measured."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cnnstudy.analysis.resolution import find_images, find_resolution, is_share, possible_difference


@pytest.mark.parametrize("images", [25, 58, 160, 1999])
def test_the_number_of_images_is_found(images: int) -> None:
    right = np.array([0, 1, images // 3, images // 2 + 1, images - 1, images])
    assert find_images((right / images).astype(np.float32).astype(float)) == images


def test_continuous_outcomes_have_no_images() -> None:
    assert find_images(np.random.default_rng(0).random(6)) is None
    assert find_images(np.array([math.nan])) is None


def test_the_variance_of_measuring_is_not_0_at_the_limit() -> None:
    found = find_resolution("val_accuracy", np.ones(6), images=45)
    q = 46 / 47
    assert found.rounding == pytest.approx(1 / 45**2 / 12)
    assert found.measuring == pytest.approx(found.rounding + q * (1 - q) / 45)
    assert math.isnan(find_resolution("val_loss", np.ones(6), images=45).measuring)


def test_shares_by_name_and_values() -> None:
    shares = np.array([0.1, math.nan, -0.2])
    assert is_share("epochs/gap_accuracy", shares)
    assert not is_share("gap_loss", shares)
    assert not is_share("gap", 100 * shares)
    assert [possible_difference("gap", shares, second) for second in (False, True)] == [1.0, 2.0]
    assert possible_difference("val_loss", shares, False) == math.inf
