"""The layout of a study in MLflow's UI: its trials, their columns and the charts of the gap.

The UI reads the layout of an experiment's page from an experiment tag, `mlflow.sharedViewState.<key>`, when the page's
address contains that key. This module builds the tag's value and the address. The format is that of MLflow 3.17; see
useSharedExperimentViewState.ts, savedViewEnvelope.ts and runs-charts.types.ts in its sources.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from cnnstudy.config.factors import ALWAYS_SHOWN, FACTORS, Choices, recorded_factors
from cnnstudy.names import Metric, Parameter, Tag, best_name
from cnnstudy.tracking.recorded import tag_filter
from cnnstudy.tracking.shown_names import shown_metric

_BEST_GAP, _BEST_TRAIN, _BEST_VALIDATION = (
    shown_metric(best_name(metric)) for metric in (Metric.GAP_ACCURACY, Metric.TRAIN_ACCURACY, Metric.VAL_ACCURACY)
)

VIEW_KEY = "cnnstudy"
#: The experiment tag that holds the layout; MLflow allows 20,000 characters.
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
TRIALS_ONLY = tag_filter(Tag.KIND, "trial")

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


def list_varied(config: Mapping[str, Any]) -> list[str]:
    """Return the parameters in which the trials of a study differ on purpose: `architecture`, and its factors."""
    networks = config.get("architectures", ())
    levels = [item for network in networks for item in recorded_factors(config, network).items()]
    varied = {name for name, given in levels if not isinstance(given, Choices) or len(given.values) > 1}
    varied |= {name for name, given in levels if any(name == other and given != its for other, its in levels)}
    return [*([Parameter.ARCHITECTURE] if len(networks) > 1 else []), *filter(varied.__contains__, FACTORS)]


def list_columns(varied: Sequence[str]) -> list[str]:
    """Return the columns of the table of trials: gap and verdict, what varied, and the rest."""
    return [
        f"metrics.`{_BEST_GAP}`",
        f"tags.`{Tag.VERDICT}`",
        *(f"params.`{name}`" for name in varied or (Parameter.ARCHITECTURE, *ALWAYS_SHOWN)),
        f"metrics.`{_BEST_VALIDATION}`",
        f"metrics.`{_BEST_TRAIN}`",
        f"params.`{Parameter.SEED}`",
        f"tags.`{Tag.STATE}`",
    ]


#: Two charts beside each other are readable at 1280 pixels, three are not.
SECTIONS = (
    Section("Overfitting", 2, 320, (_line_chart(Metric.GAP_ACCURACY), _scatter_chart(_BEST_GAP, _BEST_VALIDATION))),
    Section(
        "Learning curves",
        2,
        360,
        (
            _line_chart(Metric.TRAIN_ACCURACY, Metric.VAL_ACCURACY),
            _line_chart(Metric.TRAIN_LOSS, Metric.VAL_LOSS),
            _line_chart(Metric.GAP_LOSS),
            {"type": "BAR", "metricKey": _BEST_GAP},
        ),
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
)


def layout_tag(config: Mapping[str, Any]) -> str:
    """Return the value of VIEW_TAG for a study with that configuration.

    The trials of a factorial that has several seeds are grouped: charts show the mean over the seeds, with a band from
    the lowest to the highest.
    """
    varied = list_varied(config)
    columns = list_columns(varied)
    factors: Card = {
        "type": "PARALLEL",
        "selectedParams": varied or sorted(ALWAYS_SHOWN),
        "selectedMetrics": [_BEST_GAP, _BEST_VALIDATION],
    }
    charts: list[Card] = []
    headings: list[dict[str, Any]] = []
    flags = {"deleted": False, "isGenerated": False}
    for i, section in enumerate((*SECTIONS, Section("Factors", 1, 360, (factors,)))):
        heading = {"uuid": f"section-{i}", "name": section.title, "display": True, "isReordered": True}
        headings.append({**heading, "columns": section.columns, "cardHeight": section.height, **flags})
        for j, card in enumerate(section.cards):
            charts.append({**card, "uuid": f"chart-{i}-{j}", "metricSectionId": heading["uuid"], **flags})
    widths = {"metrics": 125, "tags": 105, "params": 90}
    state = {
        "searchFilter": TRIALS_ONLY,
        "orderByKey": f"metrics.`{_BEST_VALIDATION}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": [*columns, "duration"],
        "columnWidths": {column: widths[column.split(".")[0]] for column in columns},
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": headings,
        "isAccordionReordered": True,
    }
    if varied and config.get("strategy", {}).get("seeds", 1) > 1:
        keys = [{"mode": "param", "groupByData": name} for name in varied]
        state |= {"groupBy": {"aggregateFunction": "average", "groupByKeys": keys}, "useGroupedValuesInCharts": True}
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    return json.dumps({"name": "Study", "createdAt": 0, "state": f"deflate;{packed}"})


def _search_url(base: str, experiment_id: str, where: str) -> str:
    query = urlencode({"searchFilter": where, "workflowType": "machine_learning"})
    return f"{base.rstrip('/')}/#/experiments/{quote(experiment_id)}/runs?{query}"


def trials_url(base: str, experiment_id: str, architecture: str = "", kind: str = "trial") -> str:
    """Return the address of a study's trials, or of those of one network, in the view for model training.

    Args:
        kind: "trial", or "confirm" for those with fresh seeds.
    """
    network = f" AND {tag_filter(Tag.ARCHITECTURE, architecture)}" if architecture else ""
    return _search_url(base, experiment_id, f"{tag_filter(Tag.KIND, kind)}{network}")


def run_url(base: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page, in the view for model training."""
    place = f"{quote(experiment_id)}/runs/{quote(run_id)}"
    return f"{base.rstrip('/')}/#/experiments/{place}?workflowType=machine_learning"


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
