"""Which learning curves are shown, and their bands."""

from __future__ import annotations

import pytest

from cnnstudy.results.pages.curve_panels import Curve, curve_panels

from .example_study import Example


def panels(example: Example, curves: dict[str, Curve] | None = None):  # type: ignore[no-untyped-def]
    report = example.report()
    finished = [run for run in report.runs if run.state == "finished"]
    return curve_panels(finished, report.curves if curves is None else curves)


def test_a_factorial_shows_its_modes_and_combinations_that_stand_for_all() -> None:
    titles = [panel.title for panel in panels(Example())]
    assert titles[:2] == ["scratch: mean of 12 combinations", "frozen: mean of 12 combinations"]
    roles = [title.partition(":")[0] for title in titles[2:]]
    assert "largest gap" in roles
    assert any("smallest gap" in role for role in roles)
    assert any("best validation" in role for role in roles)
    (largest,) = (title for title in titles if title.startswith("largest gap"))
    # a quarter of the data adds most to the gap, and so does scratch
    assert largest.startswith("largest gap: scratch, ")
    assert largest.endswith("25 % of the data")


def test_few_combinations_are_all_shown() -> None:
    example = Example(factors={"transfer": ["scratch"], "batch_size": [8, 16, 32]})
    assert [panel.title for panel in panels(example)] == [
        "scratch: mean of 3 combinations",
        "batch size 8",
        "batch size 16",
        "batch size 32",
    ]


def test_the_band_is_from_the_lowest_to_the_highest_seed() -> None:
    example = Example(seeds=3, factors={"transfer": ["scratch"], "batch_size": [8]})
    curves = {
        run.tags["cnnstudy.trial"]: Curve((1, 2), (0.5, 0.9), (0.5, 0.6 + 0.1 * seed))
        for seed, run in enumerate(example.runs)
    }
    (panel,) = panels(example, curves)
    assert (panel.seeds, panel.lines) == (3, ())
    assert panel.validation.mean == pytest.approx([0.5, 0.7])
    assert panel.validation.low == pytest.approx([0.5, 0.6])
    assert panel.validation.high == pytest.approx([0.5, 0.8])


def test_in_a_mode_it_is_a_band_of_each_seeds_mean() -> None:
    example = Example(seeds=2, factors={"transfer": ["scratch"], "batch_size": [8, 16]})
    values = {0: (0.2, 0.6), 1: (0.5, 0.9)}
    curves = {
        run.tags["cnnstudy.trial"]: Curve((1,), (1.0,), (values[int(run.tags["cnnstudy.seed"])][place % 2],))
        for place, run in enumerate(example.runs)
    }
    mode = panels(example, curves)[0]
    assert (float(mode.validation.low[0]), float(mode.validation.high[0])) == pytest.approx((0.4, 0.7))


def test_a_search_shows_each_trial_and_the_mean() -> None:
    found = panels(Example(search=True))
    assert [panel.title for panel in found] == ["scratch: mean of 12 trials", "frozen: mean of 12 trials"]
    assert [len(panel.lines) for panel in found] == [12, 12]


def test_one_trial_is_called_one() -> None:
    example = Example(search=True, factors={"transfer": ["scratch", "frozen"]})
    assert [panel.title for panel in panels(example)] == ["scratch: one trial", "frozen: one trial"]


def test_only_epochs_that_all_have() -> None:
    example = Example(seeds=2, factors={"transfer": ["scratch"]})
    ends = iter(((1, 2, 3), (1, 2)))
    curves = {
        run.tags["cnnstudy.trial"]: Curve(epochs := next(ends), (0.9,) * len(epochs), (0.5,) * len(epochs))
        for run in example.runs
    }
    (panel,) = panels(example, curves)
    assert panel.epochs.tolist() == [1, 2]


def test_trials_without_curves_are_passed_over() -> None:
    example = Example(seeds=1, factors={"transfer": ["scratch"]})
    assert panels(example, {}) == []
    assert panels(example, {"alexnet-000": Curve((), (), ())}) == []


def test_what_learnt_nothing_stands_for_no_gap() -> None:
    example = Example(seeds=2)
    before = next(panel for panel in panels(example) if panel.title.startswith("largest gap"))
    for run in [run for run in example.runs if run.tags["cnnstudy.trial"] in before.trials]:
        example.change(run, tags={"cnnstudy.verdict": "not-learning"})
    after = next(panel for panel in panels(example) if panel.title.startswith("largest gap"))
    assert not set(before.trials) & set(after.trials)


def test_no_network_has_more_panels_than_a_page_can_show() -> None:
    modes = ["scratch", "frozen", "last-block", "fine-tune", "two-phase"]
    example = Example(seeds=2, factors={"transfer": modes, "batch_size": [4, 8, 16, 32], "dropout": [0.0, 0.25, 0.5]})
    assert len(panels(example)) <= 12
