"""Which trial comes next.

Comes in: a StudyConfig and the outcomes of the trials so far (PastTrial). Goes out: Proposals. `optuna_search` asks
Optuna; `factorial` takes the next cell of a design with the next seed. Only `optuna_search` imports Optuna.

May import: errors, records, architectures, config.
"""
