"""The layout of MLflow's page of a study."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cnnstudy.config.factors import FACTORS
from cnnstudy.tracking.ui_layout import SECTIONS, VIEW_KEY, VIEW_TAG, layout_tag, run_url, study_url, trials_url

#: A factorial in which the batch size, and for one network the dropout, varies.
CONFIG = {
    "architectures": ["alexnet", "vgg16"],
    "factors": {"batch_size": [8, 64], "dropout": {"alexnet": [0.2], "vgg16": [0.5]}, "transfer": ["scratch"]},
    "strategy": {"kind": "factorial", "seeds": 3},
}


def decoded(config: dict[str, Any]) -> dict[str, Any]:
    """As MLflow's UI reads the tag's value."""
    how, _, packed = json.loads(layout_tag(config))["state"].partition(";")
    assert how == "deflate"
    return dict(json.loads(zlib.decompress(base64.b64decode(packed, validate=True))))


def test_the_value_fits_into_an_experiment_tag() -> None:
    factors = {name: list(factor.choices or (factor.low, factor.high)) for name, factor in FACTORS.items()}
    longest = {**CONFIG, "factors": {name: levels for name, levels in factors.items() if None not in levels}}
    assert 1000 < len(layout_tag(longest)) < 20_000
    assert layout_tag(longest) == layout_tag(longest)


def test_the_layout_shows_trials_only_with_the_best_on_top() -> None:
    state = decoded(CONFIG)
    assert state["searchFilter"] == "tags.`cnnstudy.kind` = 'trial'"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`best_val_accuracy`", False)


def test_the_columns_are_gap_verdict_and_what_varied() -> None:
    shown = decoded(CONFIG)["selectedColumns"]
    varied = ["params.`architecture`", "params.`batch_size`", "params.`dropout`"]
    assert shown[:5] == ["metrics.`best_gap_accuracy`", "tags.`cnnstudy.verdict`", *varied]
    assert "params.`transfer`" not in shown


def test_the_seeds_of_a_factorial_are_grouped() -> None:
    grouped = decoded(CONFIG)["groupBy"]
    assert [key["groupByData"] for key in grouped["groupByKeys"]] == ["architecture", "batch_size", "dropout"]
    assert grouped["aggregateFunction"] == "average"
    one_seed = {**CONFIG, "strategy": {"kind": "factorial", "seeds": 1}}
    for config in (one_seed, {**CONFIG, "strategy": {"kind": "search"}}, {}):
        assert "groupBy" not in decoded(config)


def test_the_gap_comes_first() -> None:
    state = decoded(CONFIG)
    titles = [section["name"] for section in state["compareRunSections"]]
    assert titles == [*(section.title for section in SECTIONS), "Factors"]
    first = state["compareRunSections"][0]["uuid"]
    charts = [chart for chart in state["compareRunCharts"] if chart["metricSectionId"] == first]
    assert [chart["metricKey"] for chart in charts if chart["type"] == "LINE"] == ["gap/accuracy"]


def test_every_chart_has_a_section_and_an_id_of_its_own() -> None:
    state = decoded(CONFIG)
    sections = {section["uuid"] for section in state["compareRunSections"]}
    charts = state["compareRunCharts"]
    assert {chart["metricSectionId"] for chart in charts} == sections
    assert len({chart["uuid"] for chart in charts}) == len(charts) == 1 + sum(len(s.cards) for s in SECTIONS)


def test_links_to_trials_open_in_the_view_for_model_training() -> None:
    for url, kind in (
        (trials_url("http://host/", "7", "vgg16"), "trial"),
        (trials_url("http://host", "7", kind="confirm"), "confirm"),
    ):
        route = urlsplit(urlsplit(url).fragment)
        assert (urlsplit(url).netloc, route.path) == ("host", "/experiments/7/runs")
        query = parse_qs(route.query)
        assert query["workflowType"] == ["machine_learning"]
        (where,) = query["searchFilter"]
        assert where.startswith(f"tags.`cnnstudy.kind` = '{kind}'")
        assert ("tags.`cnnstudy.architecture` = 'vgg16'" in where) == (kind == "trial")
    assert run_url("http://host/", "7", "abc") == "http://host/#/experiments/7/runs/abc?workflowType=machine_learning"


def test_the_address_names_the_layout_and_nothing_that_hides_it() -> None:
    assert VIEW_TAG.rpartition(".") == ("mlflow.sharedViewState", ".", VIEW_KEY)
    for base in ("http://127.0.0.1:5000", "http://127.0.0.1:5000/"):
        url = urlsplit(study_url(base, "7"))
        assert (url.netloc, url.path) == ("127.0.0.1:5000", "/")
        route = urlsplit(url.fragment)
        assert route.path == "/experiments/7/runs"
        query = parse_qs(route.query)
        assert query["viewStateShareKey"] == [VIEW_KEY]
        assert query["compareRunsMode"] == ["CHART"]
        assert not {"searchFilter", "orderByKey", "orderByAsc"} & set(query)
    assert "compareRunsMode=TABLE" in study_url("http://host", "7", table=True)
