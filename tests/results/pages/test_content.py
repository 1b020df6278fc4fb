"""Cells of the page's tables."""

from __future__ import annotations

import json

from cnnstudy.results.pages.content import trial_table

from .example_study import Example


def test_a_trial_is_named_by_what_varies_in_its_own_network() -> None:
    example = Example(seeds=1, networks=("alexnet", "vgg16"), factors={"batch_size": [8, 64], "dropout": [0.0, 0.5]})
    for run in list(example.runs):
        if run.tags["cnnstudy.architecture"] == "vgg16":
            levels = {**json.loads(run.tags["cnnstudy.levels"]), "batch_size": 32}
            example.change(run, tags={"cnnstudy.levels": json.dumps(levels)})
    _, rows = trial_table(example.report())
    words = {row.trial: row.words for row in rows}
    assert words["alexnet-001"] == "batch size 8, dropout 0.5"
    assert words["vgg16-001"] == "dropout 0.5", "all of its trials have the same batch size"
