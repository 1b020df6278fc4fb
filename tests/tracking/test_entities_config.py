from __future__ import annotations

from cnnstudy.tracking.recorded import config_differences, config_tags, read_config


def test_a_configuration_is_in_as_many_tags_as_it_takes() -> None:
    config = {"name": "a", "notes": "schön " * 2000}
    tags = config_tags(config)
    assert len(tags) > 2
    assert max(map(len, tags.values())) <= 5000
    assert read_config(tags) == config


def test_a_longer_one_that_held_before_may_have_left_tags() -> None:
    longer, shorter = config_tags({"notes": "a" * 12_000}), config_tags({"notes": "a" * 6_000})
    assert read_config({**longer, **shorter}) == {"notes": "a" * 6_000}


def test_where_two_configurations_differ() -> None:
    one = {"name": "a", "data": {"name": "digits", "classes": [0, 1]}, "seed": 0}
    other = {"name": "a", "data": {"name": "digits", "classes": [0, 2]}, "budget": {"trials": 3}, "seed": None}
    assert list(config_differences(one, other)) == [
        ("data.classes", [0, 1], [0, 2]),
        ("seed", 0, None),
        ("budget", None, {"trials": 3}),
    ]
    assert list(config_differences(one, one)) == []
