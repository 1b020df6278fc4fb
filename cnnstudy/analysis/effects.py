"""Effects of the factors on each outcome, with 95 % intervals over the seeds.

An effect is estimated within each seed, by matched pairs (module contrasts) or least squares (module regression). The
seeds' estimates are the sample from which its interval is computed (module intervals).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.aliases import describe_aliases
from cnnstudy.analysis.contrasts import Contrast, SeedEstimates, list_contrasts, outcome_values, varied_levels
from cnnstudy.analysis.estimation import ALL_TRIALS, LEAST_SQUARES, PAIRS, Design, estimate_by_seed
from cnnstudy.analysis.intervals import LEVEL, MIN_SEEDS, Estimate, Resolution, compare_seeds, correct_family
from cnnstudy.analysis.looks import Looks
from cnnstudy.analysis.missing import describe_missing
from cnnstudy.analysis.noise import relative_noise
from cnnstudy.analysis.observations import BASES, LEGACY_GAP, OUTCOMES
from cnnstudy.analysis.regression import estimate_over_all_trials, estimate_over_points
from cnnstudy.analysis.repeats import TrueSizes, probability_of_repeat
from cnnstudy.analysis.resolution import NEAR_LIMIT, find_resolution, is_share, log_odds, possible_difference
from cnnstudy.config.factors import Levels
from cnnstudy.records import Level

__all__ = ["ALL_TRIALS", "LEAST_SQUARES", "PAIRS", "Effect", "correct_together", "estimate_effects", "few_seeds"]

#: A 95 % interval reaches this many standard errors to each side, if they are known.
_NORMAL_QUANTILE = 1.959964

_MISFIT = (
    "the 95 % interval over the seeds excludes 0, but what the curves of ranges miss is the same with every seed, and "
    "may be the cause"
)
_HANGS_ON_POINTS = "the curves of ranges miss more than noise explains, and this effect hangs on single points of them"
_SEEDS_AGREE = "all seeds give the same difference, and nothing tells how finely it is measured"


@dataclass(frozen=True)
class Effect:
    """The effect of a factor's level on an outcome relative to the baseline, averaged over the other factors.

    With a second factor it is an interaction: how much larger the first factor's effect is at the second's level than
    at the second's baseline. For a range, baseline and level are its low and high end. `estimate`, `low` and `high` are
    in the outcome's units: shares of 0..1 for accuracies and gaps (0.05 is 5 points), nats for losses. Without an
    interval (one seed) `low`, `high`, `p` and `p_adjusted` are None.
    """

    architecture: str
    factor: str
    baseline: Level
    level: Level
    second: str | None
    second_baseline: Level | None
    second_level: Level | None
    basis: str
    outcome: str
    estimate: float
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    seeds: int
    pairs: int  # matched pairs, for an interaction matched fours; 0: least squares
    method: str  # PAIRS, LEAST_SQUARES or ALL_TRIALS
    trials: int = 0  # with an outcome, at the levels that are compared
    error: float | None = None  # standard error, with the variance shrunk towards that of the other effects
    freedom: float | None = None  # degrees of freedom of that variance
    p_shrunk: float | None = None  # with that variance; None: not tested, because of `doubt`
    missing: float = 0.0  # by how much the interval reaches further towards 0 because of missing trials
    repeats: float | None = None  # how probable it is that a repeat of the study gives the same answer, 0..1
    doubt: str = ""  # why there is no answer, whatever the interval
    ceiling: bool = False  # whether an interaction cannot be told from 0 on the logit scale
    own_level: float = LEVEL  # of a test of this effect alone; lower in a study that is looked at while seeds are added

    @property
    def column(self) -> str:
        """The column of the observations from which it was estimated, `<basis>/<outcome>`."""
        return f"{self.basis}/{self.outcome}"

    @property
    def answer(self) -> str:
        """`raises` or `lowers`; `cannot tell` if the interval contains 0, p_adjusted is 5 % or more, or by a doubt."""
        if self.doubt or self.low is None or self.high is None or self.p_adjusted is None or self.p_adjusted >= LEVEL:
            return "cannot tell"
        return "raises" if self.low > 0 else "lowers" if self.high < 0 else "cannot tell"

    @property
    def reason(self) -> str:
        """Why the answer is as it is, in a sentence without its full stop."""
        if self.doubt:
            return self.doubt
        if self.low is None or self.high is None:
            return "the trials give no interval"
        if self.low <= 0 <= self.high:
            return "the 95 % interval contains 0"
        assert self.p_adjusted is not None
        corrected = f"p = {self.p_adjusted:.2g} after the correction for all effects that are compared"
        if self.answer == "cannot tell":
            return f"the 95 % interval excludes 0, but that may be chance: {corrected}"
        over = "" if self.method != ALL_TRIALS else "; it holds for other combinations of levels, not for other seeds"
        if self.ceiling:
            over += "; in log odds it cannot be told from 0, so that it may be only a ceiling: little is left to change"
        return f"the 95 % interval excludes 0, and {corrected}{over}"

    def to_contrast(self) -> Contrast:
        """Return what is compared."""
        second = (self.second, self.second_baseline, self.second_level)
        return Contrast(self.factor, self.baseline, self.level, *second)

    def to_estimate(self) -> Estimate:
        """Return the number, its interval, its unadjusted p-value and the number of seeds."""
        return Estimate(self.estimate, self.low, self.high, self.p, self.seeds)


def estimate_effects(
    frame: pd.DataFrame,
    factors: Mapping[str, Levels],
    columns: Sequence[str] | None = None,
    interactions: bool = True,
    images: int | None = None,
    looks: Looks | None = None,
) -> list[Effect]:
    """Return the main effects, then the two-factor interactions, for each outcome.

    Listed levels are compared by matched pairs in a complete factorial, else by least squares within each seed; ranges
    always by these. Where seeds do not repeat (a search), least squares runs over all trials, and the interval says
    nothing about other seeds. One seed gives no interval. Contrasts that the trials cannot estimate are omitted. The
    effects on an outcome are one family (`correct_together`).

    Args:
        frame: trials of one network (observations.Observations.frame); one without an outcome (NaN) is missing.
        factors: the levels that the study file gives; factors that do not vary are ignored. If `architecture` is one of
            them, networks are compared and the effects' architecture is "".
        columns: outcomes as `<basis>/<outcome>`; None: all that the frame has.
        interactions: whether factors may interact; if not, a fraction can answer about effects mixed with interactions.
        images: on how many images accuracies are measured; None: found from the values.
        looks: where the number of seeds depends on the results, how often these are looked at.

    Raises:
        ValueError: the trials are of several networks, or a column is unknown.
    """
    columns = _outcome_columns(frame, columns)
    if frame.empty or not columns:
        return []
    varied, networks = varied_levels(frame, factors), list(dict.fromkeys(frame["architecture"]))
    if len(networks) > 1 and "architecture" not in varied:
        raise ValueError(f"trials of several networks: {', '.join(networks)}; pass those of one")
    contrasts = [one for one in list_contrasts(frame, varied) if interactions or one.second is None]
    if not contrasts:
        return []
    design = Design(frame, varied, contrasts)
    values = _outcomes_in_use(design, columns)
    estimates, methods = estimate_by_seed(frame, varied, contrasts, values)
    network = "" if "architecture" in varied else networks[0]
    doubts = [describe_aliases(pairs) if pairs and interactions else "" for pairs in design.aliases]
    effects = []
    for index, column in enumerate(columns):
        of_column = SeedEstimates(
            estimates.values[:, :, [index]], estimates.spread[:, [index]], estimates.pairs[:, [index]]
        )
        table = _test_contrasts(design, of_column, methods[:, index], column, values[:, index], images, looks)
        listed = _list_effects(network, column, contrasts, table, doubts)
        effects += _mark_ceilings(design, listed, column, values[:, index], images)
    return correct_together(effects)


def _outcomes_in_use(design: Design, columns: Sequence[str]) -> np.ndarray:
    """Return the outcomes, [trials, columns], NaN where a trial has none or is left out."""
    values = np.column_stack([outcome_values(design.frame, column) for column in columns])
    values[design.is_left_out] = math.nan
    return values


def _mark_ceilings(
    design: Design, effects: list[Effect], column: str, outcome: np.ndarray, images: int | None
) -> list[Effect]:
    """Mark the interactions of an accuracy near 0 or 1 whose interval in log odds contains 0."""
    finite = outcome[np.isfinite(outcome)]
    is_accuracy = is_share(column, outcome) and "gap" not in column and bool((finite >= 0).all())
    if not is_accuracy or (finite.min() > NEAR_LIMIT and finite.max() < 1 - NEAR_LIMIT):
        return effects
    logits = log_odds(outcome, images)[:, None]
    estimates, _ = estimate_by_seed(design.frame, design.varied, design.contrasts, logits)
    tests = compare_seeds(estimates.values[:, :, 0], estimates.spread[:, 0], Resolution(0.0, math.nan)).tests
    vanishing = {
        contrast
        for contrast, (_, low, high, _) in zip(design.contrasts, tests, strict=True)
        if contrast.second is not None and low <= 0 <= high
    }
    return [dataclasses.replace(effect, ceiling=effect.to_contrast() in vanishing) for effect in effects]


def correct_together(effects: Sequence[Effect]) -> list[Effect]:
    """Return the effects with p_adjusted and repeats for one family per outcome.

    Over all effects on an outcome, those of all networks and interactions included, the probability of any false
    `raises` or `lowers` is about 5 % (intervals.correct_family). Effects that cannot be answered because of the
    design are not in the family.

    Args:
        effects: all that are shown together, of one network or of several.
    """
    corrected = list(effects)
    for column in dict.fromkeys(effect.column for effect in effects):
        places = [place for place, effect in enumerate(effects) if effect.column == column]
        family = [effects[place] for place in places]
        adjusted, levels = correct_family(
            np.array([_or_nan(effect.p) for effect in family]),
            np.array([_or_nan(effect.p_shrunk) for effect in family]),
            np.array([effect.second is not None for effect in family]),
        )
        sizes = TrueSizes.learn(
            [effect.estimate for effect in family],
            [_or_nan(effect.error) for effect in family],
            [_or_nan(effect.freedom) for effect in family],
        )
        for place, p_adjusted, level in zip(places, adjusted.tolist(), levels.tolist(), strict=True):
            one = dataclasses.replace(effects[place], p_adjusted=_or_none(p_adjusted))
            corrected[place] = dataclasses.replace(one, repeats=_repeats(one, level, sizes))
    return corrected


def _repeats(effect: Effect, level: float, sizes: TrueSizes) -> float | None:
    """Return how probable it is that a repeat gives the same answer; 1 where the design decides, None if unknown."""
    if effect.p_shrunk is None and effect.doubt:
        return 1.0
    if effect.error is None or effect.freedom is None or math.isnan(level):
        return None
    seeds = 0 if effect.method == ALL_TRIALS else effect.seeds
    return _or_none(
        probability_of_repeat(
            effect.answer,
            effect.estimate,
            effect.error,
            effect.freedom,
            seeds,
            level * effect.own_level / LEVEL,
            sizes,
            effect.missing,
            effect.own_level,
        )
    )


@dataclass(frozen=True)
class _TestedContrasts:
    """The test of each contrast on one outcome, [contrasts] each."""

    tests: np.ndarray  # [contrasts, 4]: estimate, low, high, p; NaN where there is none
    shrunk_p: np.ndarray
    error: np.ndarray
    freedom: np.ndarray
    missing: np.ndarray
    seeds: np.ndarray
    trials: np.ndarray
    pairs: np.ndarray
    methods: np.ndarray
    missing_text: str
    no_interval_text: str
    own_level: float


def _test_contrasts(
    design: Design,
    estimates: SeedEstimates,
    methods: np.ndarray,
    column: str,
    outcome: np.ndarray,
    images: int | None,
    looks: Looks | None = None,
) -> _TestedContrasts:
    """Test each contrast on one outcome, and widen its interval by what missing trials could change.

    Args:
        estimates: of this outcome.
        outcome: [trials], NaN where a trial has none.
    """
    of_seeds = estimates.values[:, :, 0]
    noise = relative_noise(design.frame, design.varied, design.contrasts, outcome)
    found = compare_seeds(of_seeds, estimates.spread[:, 0], find_resolution(column, outcome, images), noise)
    error, freedom, seeds = found.error, found.freedom, np.isfinite(of_seeds).sum(axis=1)
    tests, shrunk_p = _at_look(found.tests, found.shrunk_p, seeds, looks)
    everywhere = (methods == ALL_TRIALS) & (not design.repeats_cells)
    if everywhere.any():
        tests[everywhere] = estimate_over_all_trials(design.frame, design.varied, design.contrasts, outcome)[everywhere]
        shrunk_p[everywhere] = tests[everywhere, 3]
        error[everywhere] = (tests[everywhere, 2] - tests[everywhere, 1]) / 2 / _NORMAL_QUANTILE
        freedom[everywhere] = math.inf
        seeds[everywhere] = design.frame["seed"][np.isfinite(outcome)].nunique()
    missing, text = _widen(design, tests, shrunk_p, methods == LEAST_SQUARES, column, outcome)
    most = np.array([possible_difference(column, outcome, one.second is not None) for one in design.contrasts])
    tests[:, 1], tests[:, 2] = np.maximum(tests[:, 1], -most), np.minimum(tests[:, 2], most)
    trials = np.array([design.count_trials(contrast, outcome) for contrast in design.contrasts])
    return _TestedContrasts(
        tests,
        shrunk_p,
        error,
        freedom,
        missing,
        seeds,
        trials,
        estimates.pairs[:, 0],
        methods,
        text,
        _HANGS_ON_POINTS if design.has_ranges else _SEEDS_AGREE,
        LEVEL if looks is None else looks.level,
    )


def _widen(
    design: Design, tests: np.ndarray, shrunk_p: np.ndarray, by_squares: np.ndarray, column: str, outcome: np.ndarray
) -> tuple[np.ndarray, str]:
    """Widen the tests by what curves or missing trials could change; return by how much, [contrasts], and why."""
    if design.has_ranges and by_squares.any():
        return _allow_for_misfit(design, tests, shrunk_p, by_squares, outcome), _MISFIT
    bounds = design.bound_missing(outcome)
    if bounds is None:
        return np.zeros(len(tests)), ""
    low, high, half = tests[:, 1].copy(), tests[:, 2].copy(), (tests[:, 2] - tests[:, 1]) / 2
    tests[:, 1], tests[:, 2] = np.fmin(low, bounds.low - half), np.fmax(high, bounds.high + half)
    more = np.where(tests[:, 0] > 0, low - tests[:, 1], tests[:, 2] - high)
    return more, describe_missing(bounds, int(np.isfinite(outcome).sum()), is_share(column, outcome))


def _allow_for_misfit(
    design: Design, tests: np.ndarray, shrunk_p: np.ndarray, chosen: np.ndarray, outcome: np.ndarray
) -> np.ndarray:
    """Widen the tests by what curves of ranges miss at the points of a design; return by how much, [contrasts].

    All seeds have the same points, so that no test over the seeds sees it: each must hold over the points as well.

    Args:
        tests, shrunk_p: over the seeds; changed where `chosen`.
    """
    points, untold = estimate_over_points(design.frame, design.varied, design.contrasts, outcome)
    half, wider = (tests[:, 2] - tests[:, 1]) / 2, (points[:, 2] - points[:, 1]) / 2
    more = np.where(chosen & (wider > half), wider - half, 0.0)
    tests[:, 1] -= more
    tests[:, 2] += more
    for p in (tests[:, 3], shrunk_p):
        p[chosen] = np.fmax(p, points[:, 3])[chosen]
    tests[chosen & untold, 1:], shrunk_p[chosen & untold] = math.nan, math.nan
    return more


def _at_look(
    tests: np.ndarray, shrunk_p: np.ndarray, seeds: np.ndarray, looks: Looks | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return tests over the seeds, and p with the shrunk variance, as they hold however often one looks."""
    return (tests, shrunk_p) if looks is None else (looks.widen(tests, seeds - 1), looks.adjust(shrunk_p))


def _list_effects(
    architecture: str, column: str, contrasts: Sequence[Contrast], table: _TestedContrasts, doubts: Sequence[str]
) -> list[Effect]:
    """Return an effect for each contrast that has an estimate."""
    basis, outcome = column.split("/", 1)
    effects = []
    for row, (contrast, alias) in enumerate(zip(contrasts, doubts, strict=True)):
        estimate, low, high, p = (_or_none(number) for number in table.tests[row])
        if estimate is None:
            continue
        doubt = alias or ("" if table.methods[row] == ALL_TRIALS else few_seeds(int(table.seeds[row])))
        if not doubt and low is None:
            doubt = table.no_interval_text
        is_tested = not doubt
        if not doubt and low is not None and high is not None and low <= 0 <= high:
            towards_0 = low + table.missing[row] > 0 if estimate > 0 else high - table.missing[row] < 0
            doubt = table.missing_text if towards_0 else ""
        effects.append(
            Effect(
                architecture,
                **dataclasses.asdict(contrast),
                basis=basis,
                outcome=outcome,
                estimate=estimate,
                low=low,
                high=high,
                p=p,
                p_adjusted=None,
                seeds=int(table.seeds[row]),
                pairs=int(table.pairs[row]),
                method=str(table.methods[row]),
                trials=int(table.trials[row]),
                error=_or_none(table.error[row]),
                freedom=_or_none(table.freedom[row]),
                p_shrunk=_or_none(table.shrunk_p[row]) if is_tested else None,
                missing=float(np.nan_to_num(table.missing[row])),
                doubt=doubt,
                own_level=table.own_level,
            )
        )
    return effects


def few_seeds(seeds: int) -> str:
    """Return why so few seeds give no answer, in a sentence without its full stop; "" if they are enough."""
    if seeds >= MIN_SEEDS:
        return ""
    if seeds == 1:
        return f"one seed shows no variation between seeds; an answer takes at least {MIN_SEEDS}"
    return f"{seeds} seeds may agree by chance; an answer takes at least {MIN_SEEDS}"


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else float(number)


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number


def _outcome_columns(frame: pd.DataFrame, columns: Sequence[str] | None) -> Sequence[str]:
    """Return the given columns, or all outcomes of the frame if None is given; refuse unknown ones."""
    if columns is None:
        known = [f"{basis}/{outcome}" for basis in BASES for outcome in OUTCOMES] + [LEGACY_GAP]
        columns = [column for column in known if column in frame]
    if unknown := [column for column in columns if column not in frame or "/" not in column]:
        raise ValueError(f"no outcome {unknown[0]!r}; the columns are {', '.join(map(str, frame.columns))}")
    return columns
