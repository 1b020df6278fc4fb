"""Ask, after each seed of a factorial that stops when its question is answered, whether the next seed runs.

The answer is computed from what is recorded, in a process of its own (analysis.interim): the driver makes no tables. A
study that was stopped at any moment asks again, and gets the same answer.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterable

from cnnstudy.config.schema import StudyConfig
from cnnstudy.config.strategies import FactorialConfig
from cnnstudy.errors import WorkerError
from cnnstudy.names import Tag
from cnnstudy.search.strategy import FixedStrategy, Strategy
from cnnstudy.study.recorder import Recorder
from cnnstudy.system.display import Display
from cnnstudy.system.processes import package_environment
from cnnstudy.tracking.recorded import RecordedRun, counted_runs

#: The process that decides.
PROGRAM = ("-P", "-m", "cnnstudy.analysis.interim")


def release_block(
    strategy: Strategy, config: StudyConfig, recorder: Recorder, runs: Iterable[RecordedRun], display: Display
) -> bool:
    """Let the strategy propose the next block, unless the question is answered; say and record what was found.

    Args:
        runs: of the study; those of the blocks so far have ended.

    Returns:
        Whether there are trials to run.

    Raises:
        WorkerError: the process that decides failed; nothing is lost, and the next run asks again.
    """
    if not isinstance(strategy, FixedStrategy) or strategy.blocks is None or not strategy.remaining:
        return False
    stops, sentence = _ask(config, runs)
    display.show_message(sentence)
    recorder.tag_study({Tag.STOPPED: str(strategy.blocks) if stops else ""})
    if stops:
        return False
    strategy.blocks += 1
    return True


def read_stopped(config: StudyConfig, seeds: str) -> StudyConfig:
    """Return the settings as if no more seeds had been planned than had run when the study stopped, if it did.

    Args:
        seeds: the tag that says how many these are; "" if it has not stopped.
    """
    plans_to_stop = isinstance(config.strategy, FactorialConfig) and config.strategy.least_seeds is not None
    return config.stopped_after(int(seeds)) if plans_to_stop and seeds.isdecimal() else config


def _ask(config: StudyConfig, runs: Iterable[RecordedRun]) -> tuple[bool, str]:
    """Return whether the study stops, and why, in a sentence."""
    counted = counted_runs(run for run in runs if run.kind == "trial").values()
    asked = {"config": config.model_dump(mode="json"), "trials": [dataclasses.asdict(run) for run in counted]}
    try:
        done = subprocess.run(
            [sys.executable, *PROGRAM],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=package_environment(leave_out="MLFLOW_"),
            start_new_session=True,  # the driver handles Ctrl-C
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise WorkerError(f"whether the study's question is answered can't be computed: {last}")
        decision = json.loads(done.stdout)
        return bool(decision["stop"]), str(decision["sentence"])
    except (OSError, ValueError, KeyError) as error:
        raise WorkerError(f"whether the study's question is answered can't be computed: {error}") from error
