"""Whether a factorial that stops when its question is answered has its answer.

An effect that the question asks for is settled if

    told       it raises or lowers the outcome beyond doubt
    known      its interval reaches no further than `strategy.precision` to each side
    unlikely   with all seeds that are planned it would be told in fewer than one of five such studies, and its interval
               would still reach further than `strategy.precision`, where that is given

or if the design cannot tell it. The study stops as soon as all are, or with its last seed. Because intervals and tests
hold at any look (module looks), any rule for stopping keeps them true; `unlikely` only saves seeds that would hardly
change an answer (a predictive probability, as in Spiegelhalter, Freedman and Blackburn 1986, "Monitoring clinical
trials: conditional or predictive power?"; the variance is taken to be known).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnstudy.analysis.effects import Effect
from cnnstudy.analysis.looks import Looks
from cnnstudy.analysis.question import Question
from cnnstudy.tracking.recorded import RecordedRun

#: An effect is not waited for if the probability that the seeds left would tell it is below this.
UNLIKELY = 0.2


@dataclass(frozen=True)
class Decision:
    """What a look found: whether the study stops, and why, as a sentence."""

    stop: bool
    sentence: str


def recorded_looks(config: Mapping[str, Any], trials: Sequence[RecordedRun]) -> Looks | None:
    """Return the look that a study has reached; None if its number of seeds does not depend on its results.

    Args:
        config: the recorded study file.
        trials: the run of each trial that counts; each seed with one that has ended is a seed that has run.
    """
    strategy = config["strategy"]
    if not strategy.get("least_seeds"):
        return None
    return Looks(strategy["seeds"], len({run.seed for run in trials if run.done}))


def judge_looks(effects: Sequence[Effect], question: Question, config: Mapping[str, Any], looks: Looks) -> Decision:
    """Return whether the question is answered, with the sentence that says so.

    Args:
        effects: of all networks, corrected by the question.
    """
    strategy = config["strategy"]
    least, precision = int(strategy["least_seeds"]), strategy.get("precision")
    states = [_settle(effect, looks, precision) for effect in effects if question.asks(effect)]
    counts = {state: states.count(state) for state in ("told", "known", "unlikely", "untellable", "open")}
    words = {
        "told": "told",
        "known": f"not told, but known to {100 * (precision or 0):.3g} points either way",
        "unlikely": f"unlikely to be told {'or so well known ' if precision else ''}with all {looks.most} seeds",
        "untellable": "not to be told by this design",
        "open": "open",
    }
    found = "; ".join(f"{counts[state]} {text}" for state, text in words.items() if counts[state]) or "none yet"
    stop = looks.seeds >= least and bool(states) and not counts["open"]
    if looks.seeds >= looks.most:
        state = "all seeds have run"
    elif looks.seeds < least:
        state = f"the first look is after {least}"
    else:
        state = f"look {looks.seeds - least + 1}: {'it stops' if stop else 'it goes on'}"
    return Decision(
        stop or looks.seeds >= looks.most,
        f"The number of seeds follows from the results: {looks.seeds} of at most {looks.most} have run, {state}. "
        f"Of {len(states)} answer{'' if len(states) == 1 else 's'}: {found}. Intervals and the 5 % hold at whichever "
        f"look a study stops (error spending: here an effect is tested, and has its interval, at "
        f"{100 * looks.level:.2g} %).",
    )


def _settle(effect: Effect, looks: Looks, precision: float | None) -> str:
    """Return why nothing more has to be known about an effect, or `open`."""
    if effect.answer != "cannot tell":
        return "told"
    if effect.p_shrunk is None and effect.doubt and effect.seeds >= looks.seeds:
        return "untellable"
    if effect.low is not None and effect.high is not None:
        half = max(effect.estimate - effect.low, effect.high - effect.estimate)
        if precision is not None and half <= precision:
            return "known"
    return "unlikely" if _is_hopeless(effect, looks, precision) else "open"


def _is_hopeless(effect: Effect, looks: Looks, precision: float | None) -> bool:
    """Return whether the seeds left would hardly tell the effect, nor make its interval as narrow as wanted.

    The chance is the predictive probability that its own t-test tells it after the last seed: the truth is predicted
    from the seeds so far, about which nothing else is known.
    """
    from scipy import special

    seeds, most = effect.seeds, looks.most
    if not effect.error or effect.freedom is None or seeds < 2 or seeds >= most:
        return False
    of_seed = effect.error * math.sqrt(seeds)
    half = special.stdtrit(most - 1, 1 - Looks(most, most).level / 2) * of_seed / math.sqrt(most)
    if precision is not None and half <= precision:
        return False
    spread = (1 - seeds / most) * of_seed * math.sqrt(1 / seeds + 1 / (most - seeds))
    beyond = [special.stdtr(effect.freedom, (sign * effect.estimate - half) / spread) for sign in (1, -1)]
    return float(sum(beyond)) < UNLIKELY
