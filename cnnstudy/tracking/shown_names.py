"""Names of metrics and tags in MLflow, chosen for what its UI makes of them.

The UI of MLflow 3.17 gives metrics a section for what precedes their slash, by the alphabet, and those without a slash
one section at the end. A trial's page therefore opens with the curves of the gap, train and validation; everything else
has no slash: `best/val_accuracy` is `best_val_accuracy`. Tags that begin with `mlflow.` are not shown, which is best
for JSON of many thousand characters. Records of earlier versions, with the plain names, are read too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from cnnstudy import names
from cnnstudy.names import Metric, Tag

#: The metrics that keep their slash: the sections `gap`, `train` and `val`.
CURVES = (
    *(Metric.GAP_ACCURACY, Metric.GAP_BALANCED_ACCURACY, Metric.GAP_LOSS),
    *(Metric.TRAIN_ACCURACY, Metric.TRAIN_BALANCED_ACCURACY, Metric.TRAIN_LOSS),
    *(Metric.VAL_ACCURACY, Metric.VAL_BALANCED_ACCURACY, Metric.VAL_LOSS),
)
_ALL = [value for name, value in vars(Metric).items() if name.isupper()]
_OF_ONE_EPOCH = (names.best_name, names.crossed_name, names.last_name, names.equal_updates_name, names.equal_fit_name)
#: What precedes the slash in cnnstudy's metrics, the longest first: `train_recall` before `train`.
_SECTIONS = sorted(
    {
        *(value.partition("/")[0] for value in _ALL if "/" in value),
        *(name("").partition("/")[0] for name in _OF_ONE_EPOCH),
        *(Metric.RECALL, Metric.PRECISION, Metric.TRAIN_RECALL),
    },
    key=len,
    reverse=True,
)
#: What the names of hidden tags begin with in MLflow, and in cnnstudy.
_PREFIX, _HIDDEN = "mlflow.", (f"{Tag.CONFIG}.", f"{Tag.CODE}.")


def shown_metric(metric: str) -> str:
    """Return a metric's name in MLflow: `best/val_accuracy` -> `best_val_accuracy`, `val/loss` -> `val/loss`."""
    section, slash, rest = metric.partition("/")
    return f"{section}_{rest}" if slash and metric not in CURVES and section in _SECTIONS else metric


@functools.lru_cache(maxsize=1024)  # a large study asks for 50 names of each trial
def own_metric(shown: str) -> str:
    """Return cnnstudy's name of a metric in MLflow, whose name an earlier version may have given."""
    if "/" in shown:
        return shown
    section = next((one for one in _SECTIONS if shown.startswith(f"{one}_")), "")
    return f"{section}/{shown[len(section) + 1 :]}" if section else shown


def shown_tag(tag: str) -> str:
    """Return a tag's name in MLflow: `cnnstudy.config.0` -> `mlflow.cnnstudy.config.0`, others as they are."""
    return f"{_PREFIX}{tag}" if tag.startswith(_HIDDEN) else tag


def own_tags(shown: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a run in MLflow by cnnstudy's names; what an earlier version recorded gives way."""
    hidden = {tag for tag in shown if tag.startswith(_PREFIX) and tag.removeprefix(_PREFIX).startswith(_HIDDEN)}
    plain = {tag: text for tag, text in shown.items() if tag not in hidden}
    return plain | {tag.removeprefix(_PREFIX): shown[tag] for tag in hidden}
