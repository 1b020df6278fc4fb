from __future__ import annotations

from collections import Counter

import pytest

from cnnstudy.errors import RepeatedFailureError
from cnnstudy.execution import Failed
from cnnstudy.failures import Failures


def failed(reason: str = "crash", message: str = "it broke", error: str | None = None) -> Failed:
    return Failed("alexnet-000", reason, message, "", error)


@pytest.mark.parametrize(
    ("reason", "error", "again"),
    [
        ("crash", None, True),
        ("timeout", None, True),
        ("oom", None, True),
        ("crash", "WeightsError", False),
        ("diverged", None, False),
        ("data", "DataError", False),
    ],
)
def test_which_failures_are_worth_another_try(reason: str, error: str | None, again: bool) -> None:
    failures = Failures(Counter(), 3)
    assert failures.attempt("alexnet-000") == 1
    assert failures.runs_again(failed(reason, error=error)) == again
    assert failures.attempt("alexnet-000") == 1 + again
    assert not failures.runs_again(failed(reason, error=error))


def test_tries_of_an_earlier_call_are_counted() -> None:
    failures = Failures(Counter({"alexnet-000": 1}), 3)
    assert failures.attempt("alexnet-000") == 2
    assert not failures.runs_again(failed())


def test_numbers_make_no_difference_and_words_do() -> None:
    failures = Failures(Counter(), 3)
    for message in ("core 1 at 0x7fab", "core 22 at 0x1", "core 1 at 0x7\nand more", "socket 1", "core 1 at 0x1"):
        if message.endswith("more"):
            with pytest.raises(RepeatedFailureError, match="traceback"):
                failures.count(failed(message=message))
        else:
            failures.count(failed(message=message))


@pytest.mark.parametrize("between", ["a trial that ends", "another reason", "diverged"])
def test_what_breaks_the_row(between: str) -> None:
    failures = Failures(Counter(), 2)
    for _ in range(3):
        failures.count(failed())
        if between == "a trial that ends":
            failures.ended_well()
        else:
            failures.count(failed("diverged" if between == "diverged" else "oom"))
    failures.count(failed())
    with pytest.raises(RepeatedFailureError):
        failures.count(failed())
