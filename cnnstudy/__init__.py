"""Find out why a convolutional network overfits.

A study is one question in one YAML file. It becomes trained networks, a record in MLflow and a leaderboard:

    experiments/<study>.yaml
       |  config        reads and checks the file, before TensorFlow is imported
       |  study         runs it: the driver hands out trials and records them
       |      search       proposes the next trial (Optuna, or the next cell of a factorial)
       |      execution    sends its TrialSpec to a worker, and streams EpochRecords back
       |          training     in the worker: images -> network -> transfer -> epochs -> verdict -> TrialResult
       |      tracking     writes metrics, curves and models to MLflow
       v  analysis      leaderboard, effects, champion: statistics on the records
       v  results       what users see: tables, pages, models
       v  cli           the commands

The driver owns Optuna and MLflow, is the only writer, and never imports TensorFlow. A worker gets plain data, trains,
and answers with plain data and a folder of files, so it may be killed at any moment.

A room imports only from the rooms above it in this list (tests/test_rooms.py checks the order):

    errors           the exceptions, and helpers for their messages
    names            names of MLflow's tags, parameters and metrics
    records          TrialSpec, EpochRecord, TrialResult: the messages between driver and worker
    system/          files, cache, processes, display: the machine; nothing about networks
    data/            images from folders and archives, decoded, split and cut into batches
    architectures/   the networks, one file each
    config/          a study file becomes a checked StudyConfig; the factors
    training/        one trial and its verdict, in a worker
    execution/       executors, which run jobs in workers
    search/          which trial comes next
    tracking/        MLflow: the durable record
    analysis/        statistics on recorded trials
    study/           a study from its file to its end
    results/         what users see: tables, pages, models
    cli/             the commands, and the same from Python
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as that of typing, which the light modules do without
if TYPE_CHECKING:
    from cnnstudy.analysis.configurations import judge_cell as judge_cell
    from cnnstudy.analysis.data_law import data_law as data_law
    from cnnstudy.analysis.tables import effects as effects
    from cnnstudy.cli.api import StudyResults as StudyResults
    from cnnstudy.cli.api import diagnose as diagnose
    from cnnstudy.cli.api import load as load
    from cnnstudy.cli.api import run as run
    from cnnstudy.errors import CnnstudyError as CnnstudyError
    from cnnstudy.training.verdict import Counts as Counts
    from cnnstudy.training.verdict import judge as judge

__version__ = "0.1.0"

#: The Python API: name -> module and object. They are imported when first used, because pandas and SciPy take seconds.
_API = {
    "run": "cnnstudy.cli.api:run",
    "diagnose": "cnnstudy.cli.api:diagnose",
    "load": "cnnstudy.cli.api:load",
    "StudyResults": "cnnstudy.cli.api:StudyResults",
    "CnnstudyError": "cnnstudy.errors:CnnstudyError",
    "effects": "cnnstudy.analysis.tables:effects",
    "data_law": "cnnstudy.analysis.data_law:data_law",
    "Counts": "cnnstudy.training.verdict:Counts",
    "judge": "cnnstudy.training.verdict:judge",
    "judge_cell": "cnnstudy.analysis.configurations:judge_cell",
}


def __getattr__(name: str) -> object:
    if name not in _API:
        raise AttributeError(f"module 'cnnstudy' has no attribute {name!r}")
    module, _, function = _API[name].partition(":")
    return getattr(importlib.import_module(module), function)


def __dir__() -> list[str]:
    return sorted([*globals(), *_API])
