"""The layout of a study in MLflow's UI: its trials, their columns and the charts of the gap.

The UI reads the layout of an experiment's page from an experiment tag, `mlflow.sharedViewState.<key>`, when the page's
address contains that key. This module builds the tag's value and the address. The format is that of MLflow 3.17; see
useSharedExperimentViewState.ts, savedViewEnvelope.ts and runs-charts.types.ts in its sources.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from cnnstudy.config.factors import ALWAYS_SHOWN
from cnnstudy.names import Metric, Tag, best_name
from cnnstudy.tracking.recorded import tag_filter

_BEST_GAP, _BEST_VALIDATION = best_name(Metric.GAP_ACCURACY), best_name(Metric.VAL_ACCURACY)

VIEW_KEY = "cnnstudy"
#: The experiment tag that holds the layout; MLflow allows 20,000 characters.
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
TRIALS_ONLY = tag_filter(Tag.KIND, "trial")
COLUMNS = (
    "params.`architecture`",
    *(f"params.`{factor}`" for factor in ALWAYS_SHOWN),
    f"metrics.`{_BEST_VALIDATION}`",
    f"metrics.`{best_name(Metric.TRAIN_ACCURACY)}`",
    f"metrics.`{_BEST_GAP}`",
    f"tags.`{Tag.VERDICT}`",
    f"tags.`{Tag.STATE}`",
)

Card = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """Charts under one heading, `columns` side by side and `height` pixels high."""

    title: str
    columns: int
    height: int
    cards: Sequence[Card]


def _line_chart(*metrics: str) -> Card:
    """Return a chart with a line for each trial and metric, by epoch."""
    return {
        "type": "LINE",
        "metricKey": metrics[0],
        "selectedMetricKeys": list(metrics),
        "xAxisKey": "step",
        "yAxisKey": "metric",
        "lineSmoothness": 0,
    }


def _scatter_chart(x: str, y: str) -> Card:
    return {"type": "SCATTER", "xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}


SECTIONS = (
    Section(
        "Overfitting",
        3,
        290,
        (_line_chart(Metric.GAP_ACCURACY), _line_chart(Metric.GAP_LOSS), _scatter_chart(_BEST_GAP, _BEST_VALIDATION)),
    ),
    Section(
        "Trials",
        1,
        300,
        (
            {
                "type": "DIFFERENCE",
                "chartName": "Trials side by side",
                "compareGroups": ["Parameters", "Model metrics"],
                "showChangeFromBaseline": False,
                "showDifferencesOnly": False,
            },
        ),
    ),
    Section(
        "Learning curves",
        2,
        360,
        (_line_chart(Metric.TRAIN_ACCURACY, Metric.VAL_ACCURACY), _line_chart(Metric.TRAIN_LOSS, Metric.VAL_LOSS)),
    ),
    Section(
        "Factors",
        2,
        360,
        (
            {
                "type": "PARALLEL",
                "selectedParams": sorted(ALWAYS_SHOWN),
                "selectedMetrics": [_BEST_GAP, _BEST_VALIDATION],
            },
            {"type": "BAR", "metricKey": _BEST_GAP},
        ),
    ),
)


def layout_tag() -> str:
    """Return the value of VIEW_TAG."""
    charts: list[Card] = []
    headings: list[dict[str, Any]] = []
    flags = {"deleted": False, "isGenerated": False}
    for i, section in enumerate(SECTIONS):
        heading = {"uuid": f"section-{i}", "name": section.title, "display": True, "isReordered": True}
        headings.append({**heading, "columns": section.columns, "cardHeight": section.height, **flags})
        for j, card in enumerate(section.cards):
            charts.append({**card, "uuid": f"chart-{i}-{j}", "metricSectionId": heading["uuid"], **flags})
    widths = {"metrics": 125, "tags": 105, "params": 90}
    state = {
        "searchFilter": TRIALS_ONLY,
        "orderByKey": f"metrics.`{_BEST_VALIDATION}`",
        "orderByAsc": False,
        "selectedColumns": list(COLUMNS),
        "columnOrder": [*COLUMNS, "duration"],
        "columnWidths": {column: widths[column.split(".")[0]] for column in COLUMNS},
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": headings,
        "isAccordionReordered": True,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    return json.dumps({"name": "Study", "createdAt": 0, "state": f"deflate;{packed}"})


def study_url(base: str, experiment_id: str, table: bool = False) -> str:
    """Return the address that opens the layout, as charts or as a table.

    It has no filter or order, with which the UI would ignore the layout.
    """
    query = {
        "viewStateShareKey": VIEW_KEY,
        "compareRunsMode": "TABLE" if table else "CHART",
        "workflowType": "machine_learning",
    }
    return f"{base.rstrip('/')}/#/experiments/{quote(experiment_id)}/runs?{urlencode(query)}"
