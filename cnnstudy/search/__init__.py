"""Which trial comes next.

Comes in: a StudyConfig and the results of past trials (PastTrial). Goes out: Proposals. `optuna_search` asks Optuna;
`factorial` takes the next cell of a design; `strategy` is the interface of both, and `make_strategy` takes the one that
the study file names. Only `optuna_search` imports Optuna.

May import: errors, records, architectures, config.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnstudy.config.schema import StudyConfig
    from cnnstudy.search.strategy import PastTrial, Strategy


def make_strategy(config: StudyConfig, past: list[PastTrial]) -> Strategy:
    """Return the strategy of a study, which knows its recorded trials."""
    if config.strategy.kind == "factorial":
        from cnnstudy.search.factorial import FactorialStrategy

        return FactorialStrategy(config, past)
    from cnnstudy.search.optuna_search import OptunaStrategy

    return OptunaStrategy(config, past)
