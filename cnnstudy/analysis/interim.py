"""The decision after a seed of a factorial that stops when its question is answered, in a process of its own.

    python -m cnnstudy.analysis.interim

reads a study's settings and trials as JSON from standard input, and writes the decision (stopping.Decision) as JSON.
The driver asks it after each seed, so that it needs no tables itself. Only the question's outcome is analysed, by the
code that `python -m cnnstudy effects` runs, so that both say the same.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cnnstudy.analysis.causes import has_unequal_classes, may_interact, pool_networks
from cnnstudy.analysis.effects import estimate_effects
from cnnstudy.analysis.observations import observe_end
from cnnstudy.analysis.question import correct_by_question, recorded_question
from cnnstudy.analysis.stopping import Decision, judge_looks, recorded_looks
from cnnstudy.config.factors import recorded_factors
from cnnstudy.tracking.recorded import RecordedRun


def decide(config: Mapping[str, Any], trials: Sequence[RecordedRun]) -> Decision:
    """Return whether a study stops after the seeds that have run.

    Args:
        config: its settings, with `strategy.least_seeds`.
        trials: the run of each trial that counts.
    """
    looks, question = recorded_looks(config, trials), recorded_question(config, has_unequal_classes(trials))
    assert looks is not None
    finished = [run for run in trials if run.state == "finished"]
    names = dict.fromkeys(run.architecture for run in finished)
    frames = {name: pd.DataFrame([observe_end(run) for run in finished if run.architecture == name]) for name in names}
    given = (question.column,), may_interact(config)
    effects = [
        effect
        for name, frame in frames.items()
        for effect in estimate_effects(frame, recorded_factors(config, name), *given, looks=looks)
    ]
    if len(frames) > 1:
        found = estimate_effects(*pool_networks(frames, config), *given, looks=looks)
        effects += [effect for effect in found if "network" in (effect.factor, effect.second)]
    return judge_looks(correct_by_question(effects, question), question, config, looks)


def main() -> None:
    """Answer the driver: read the settings and trials as JSON from standard input, and write the decision."""
    asked = json.load(sys.stdin)
    decision = decide(asked["config"], [RecordedRun(**run) for run in asked["trials"]])
    json.dump(dataclasses.asdict(decision), sys.stdout)


if __name__ == "__main__":
    main()
