"""Which trial comes next.

Comes in: a StudyConfig and the results of past trials (PastTrial). Goes out: Proposals. `optuna_search` asks Optuna;
`factorial` takes the next cell of a design; `strategy` is the interface of both. Only `optuna_search` imports Optuna.

May import: errors, records, architectures, config.
"""
