"""The layout of MLflow's page of a study."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cnnstudy.tracking.ui_layout import COLUMNS, SECTIONS, VIEW_KEY, VIEW_TAG, layout_tag, study_url


def decoded() -> dict[str, Any]:
    """As MLflow's UI reads the tag's value."""
    how, _, packed = json.loads(layout_tag())["state"].partition(";")
    assert how == "deflate"
    return dict(json.loads(zlib.decompress(base64.b64decode(packed, validate=True))))


def test_the_value_fits_into_an_experiment_tag() -> None:
    assert len(layout_tag()) < 20_000
    assert layout_tag() == layout_tag()


def test_the_layout_shows_trials_only_with_the_best_on_top() -> None:
    state = decoded()
    assert state["searchFilter"] == "tags.`cnnstudy.kind` = 'trial'"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`best/val_accuracy`", False)
    assert state["selectedColumns"] == list(COLUMNS)
    assert "metrics.`best/gap_accuracy`" in COLUMNS


def test_the_gap_comes_first() -> None:
    state = decoded()
    assert [section["name"] for section in state["compareRunSections"]] == [section.title for section in SECTIONS]
    first = state["compareRunSections"][0]["uuid"]
    charts = [chart for chart in state["compareRunCharts"] if chart["metricSectionId"] == first]
    assert [chart["metricKey"] for chart in charts if chart["type"] == "LINE"] == ["gap/accuracy", "gap/loss"]


def test_every_chart_has_a_section_and_an_id_of_its_own() -> None:
    state = decoded()
    sections = {section["uuid"] for section in state["compareRunSections"]}
    charts = state["compareRunCharts"]
    assert {chart["metricSectionId"] for chart in charts} == sections
    assert len({chart["uuid"] for chart in charts}) == len(charts) == sum(len(s.cards) for s in SECTIONS)


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
