"""What MLflow's UI says of a study's own run, in Markdown: its answer, how its trials ended, and its champion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cnnstudy.analysis.causes import NetworkAnalysis
from cnnstudy.analysis.confirmation import RECORD_PATH, best_scored_trial, confirmation_from_json
from cnnstudy.analysis.confirmation_text import confirmation_sentences, describe_metric, format_value
from cnnstudy.analysis.named_causes import study_answers
from cnnstudy.errors import TrackingError, as_sentence
from cnnstudy.names import Metric, Tag
from cnnstudy.system.display import count_noun
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, counted_trials
from cnnstudy.tracking.retry import RetryPolicy

#: Before what is known of the champion.
_CHAMPION = "\n\n**Champion**\n\n"


def describe_answer(found: Sequence[NetworkAnalysis]) -> str:
    """Return the answer of a factorial: what its effects say, and what causes the overfitting."""
    return _list_lines(study_answers(found))


def describe_search(study: RecordedStudy, trials: Sequence[RecordedRun]) -> str:
    """Return the answer of a search: its best trial, how the trials ended, and with which verdicts."""
    finished = [run for run in trials if run.state == "finished"]
    verdicts = [run.verdict or "none" for run in finished]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in sorted(set(verdicts)))
    lines = []
    found = best_scored_trial(trials, study.rule)
    if found is not None:
        best, metrics = found
        lines.append(
            f"Best {describe_metric(study.rule)}: {format_value(metrics[study.objective], study.rule)}, "
            f"of {best.name}, with a gap of {100 * metrics[Metric.GAP_ACCURACY]:+.1f} points: "
            f"{best.verdict or 'no verdict'}. As the best of {count_noun(len(finished), 'trial')} on the images that "
            f"it was chosen by, it looks better than it is; `python -m cnnstudy confirm {study.name}` trains it again "
            "with fresh seeds."
        )
    lines.append(f"Verdicts of {count_noun(len(finished), 'finished trial')}: {counts or 'none'}.")
    lines.append(f"`python -m cnnstudy report {study.name}` writes the page with all figures.")
    return _list_lines(lines)


def describe_study_run(tracker: Tracker, study: RecordedStudy, answer: str) -> str:
    """Return the description of a study's own run: the answer, and the champion if there is one."""
    try:
        record = tracker.read_text(study.run_id, RECORD_PATH)
        champion = _list_lines(confirmation_sentences(confirmation_from_json(record))) if record else ""
    except ValueError:  # it was edited; the commands that use it say so
        champion = ""
    return f"{answer}{_CHAMPION}{champion}" if champion else answer


def record_note(
    tracker: Tracker, study: RecordedStudy, say: Callable[[str], None], retry_policy: RetryPolicy | None = None
) -> None:
    """Describe a study's own run in MLflow; what a factorial's description says of its effects stays.

    Args:
        say: receives the messages if MLflow does not answer; the study itself is complete.
        retry_policy: how long to wait for MLflow; None: the default.
    """
    try:
        (retry_policy or RetryPolicy()).call(lambda: _record_note(tracker, study), say)
    except TrackingError as error:
        say(f"{as_sentence(error)} The study itself is recorded; the description of its run is not.")


def _record_note(tracker: Tracker, study: RecordedStudy) -> None:
    if study.config["strategy"]["kind"] == "factorial":
        answer = tracker.tags(study.run_id).get(Tag.NOTE, "").partition(_CHAMPION)[0]
    else:
        answer = describe_search(study, counted_trials(tracker.runs(study.experiment_id)))
    tracker.set_tags(study.run_id, {Tag.NOTE: describe_study_run(tracker, study, answer)})


def _list_lines(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
