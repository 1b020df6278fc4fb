from __future__ import annotations

import dataclasses
from typing import Any

from cnnstudy.tracking.recorded import counted_trials


def test_a_trial_counts_once_and_no_other_run_does(make_run: Any) -> None:
    done, other = make_run(1), make_run(2)
    interrupted = make_run(1, state="failed", reason="interrupted")
    confirming = dataclasses.replace(make_run(3), kind="confirm")
    assert counted_trials([done, other, interrupted, confirming]) == [done, other]
