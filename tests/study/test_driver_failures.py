from __future__ import annotations

from collections import Counter

import pytest

from cnnstudy.errors import RepeatedFailureError
from cnnstudy.execution import Failed
from cnnstudy.records import LOST, TrialResult
from cnnstudy.study.driver import describe_memory_limits
from cnnstudy.study.failures import MOST_LOSSES, FailureCounter


def failed(reason: str = "crash", message: str = "it broke", error: str | None = None) -> Failed:
    return Failed("alexnet-000", reason, message, "", error)


@pytest.mark.parametrize(
    ("reason", "error", "again"),
    [
        ("crash", None, True),
        ("timeout", None, True),
        ("oom", None, True),
        ("crash", "ConfigError", False),
        ("diverged", None, False),
    ],
)
def test_which_failures_are_worth_another_try(reason: str, error: str | None, again: bool) -> None:
    failures = FailureCounter(Counter(), 3)
    assert failures.next_attempt("alexnet-000") == 1
    assert failures.take_retry(failed(reason, error=error)) == again
    assert failures.next_attempt("alexnet-000") == 1 + again
    assert not failures.take_retry(failed(reason, error=error))


@pytest.mark.parametrize(("reason", "error"), [("data", "DataError"), ("environment", "WeightsError")])
def test_a_cause_outside_the_trial_uses_up_nothing(reason: str, error: str) -> None:
    failures = FailureCounter(Counter(), 3)
    for _ in range(5):
        assert failures.take_retry(failed(reason, error=error))
        assert failures.next_attempt("alexnet-000") == 1
    failures.count(failed(reason, "no space left"))
    failures.count(failed(reason, "no module named numpy"))
    with pytest.raises(RepeatedFailureError, match=r"^3 attempts in a row failed for a cause outside .* an attempt\.$"):
        failures.count(failed(reason, "no space left"))


def test_a_lost_machine_is_no_failure_unless_one_trial_loses_them_all() -> None:
    failures = FailureCounter(Counter(), 2)
    failures.count(failed("environment", "a full disk"))
    for number in range(3 * MOST_LOSSES):
        lost = Failed(f"alexnet-{number % 5:03d}", LOST, "node 7 was lost", "")
        assert failures.take_retry(lost)
        assert failures.next_attempt(lost.key) == 1
        failures.count(lost)
    for _ in range(MOST_LOSSES - 3 * MOST_LOSSES // 5 - 1):
        failures.count(failed(LOST, "node 7 was lost"))
    with pytest.raises(RepeatedFailureError, match=f"^alexnet-000 has lost its machine {MOST_LOSSES} times"):
        failures.count(failed(LOST, "node 7 was lost"))


def test_tries_of_an_earlier_call_are_counted() -> None:
    failures = FailureCounter(Counter({"alexnet-000": 1}), 3)
    assert failures.next_attempt("alexnet-000") == 2
    assert not failures.take_retry(failed())


def test_numbers_make_no_difference_and_words_do() -> None:
    failures = FailureCounter(Counter(), 3)
    for message in ("core 1 at 0x7fab", "core 22 at 0x1", "core 1 at 0x7\nand more", "socket 1", "core 1 at 0x1"):
        if message.endswith("more"):
            with pytest.raises(RepeatedFailureError, match="traceback"):
                failures.count(failed(message=message))
        else:
            failures.count(failed(message=message))


@pytest.mark.parametrize("between", ["a trial that ends", "another reason", "diverged"])
def test_what_breaks_the_row(between: str) -> None:
    failures = FailureCounter(Counter(), 2)
    for _ in range(3):
        failures.count(failed())
        if between == "a trial that ends":
            failures.reset()
        else:
            failures.count(failed("diverged" if between == "diverged" else "oom"))
    failures.count(failed())
    with pytest.raises(RepeatedFailureError):
        failures.count(failed())


def test_after_memory_ran_out_the_next_try_takes_half_a_batch() -> None:
    failures = FailureCounter(Counter(), 3)
    failures.take_retry(failed("crash"))
    assert failures.micro_batch("alexnet-000", 32) is None
    failures.take_retry(failed("oom"))
    assert failures.micro_batch("alexnet-000", 32) == 16
    assert failures.micro_batch("alexnet-000", 1) == 1
    assert failures.micro_batch("alexnet-001", 32) is None


@pytest.mark.parametrize(
    ("micro_batch", "evaluation_batch", "said", "not_said"),
    [(4, None, "at most 4 images, their gradients", "evaluated"), (None, 9, "at most 9 images", "gradients")],
)
def test_what_is_said_of_memory(
    micro_batch: int | None, evaluation_batch: int | None, said: str, not_said: str
) -> None:
    sizes = {"micro_batch": micro_batch, "evaluation_batch": evaluation_batch}
    text = describe_memory_limits(
        TrialResult("finished", 1, 1, 1.0, {}, (), 0, 0, None, **sizes)  # type: ignore[arg-type]
    )
    assert said in text
    assert not_said not in text
