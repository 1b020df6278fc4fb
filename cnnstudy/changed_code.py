"""A study's trials are from one code: what trains is recorded when the first one begins, and other code is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from cnnstudy.code_digests import Code, code_of, differences
from cnnstudy.config_record import long_tags, long_value
from cnnstudy.display import Display
from cnnstudy.errors import StudyChangedError
from cnnstudy.names import Tag
from cnnstudy.operations import SetTags
from cnnstudy.provenance import code_version
from cnnstudy.recording import Recorder
from cnnstudy.records import RecordedRun, RecordedStudy

#: Of differences, so many are told; and of versions that a study had so many are kept.
_MOST_TOLD, _MOST_VERSIONS = 30, 20


def refuse_other_code(
    recorder: Recorder, runs: Sequence[RecordedRun], networks: Iterable[str], accepted: bool, display: Display
) -> None:
    """Record the code that trains, unless the study's trials are from it already.

    Args:
        runs: of the study.
        networks: of the study.
        accepted: it may be another one; the study's run has the versions of both from then on.

    Raises:
        StudyChangedError: trials are recorded that are from other code, and that is not accepted.
    """
    study, now, version = recorder.study, code_of(networks), code_version()
    tags = recorder.outbox.delivery.ask(lambda: recorder.tracker.tags(study.run_id))
    has_trials = any(run.kind == "trial" for run in runs)
    new = long_tags(Tag.CODE, {"version": version, **now.to_json()})
    if f"{Tag.CODE}.0" in tags and has_trials:
        held = long_value(Tag.CODE, tags)
        then = Code.from_json(held)
        comparable, changes = then.form == now.form, differences(then, now)
        if comparable and not changes:
            return
        told = _listed(changes)
        if not accepted:
            raise StudyChangedError(_refusal(study, told, held["version"], then, version, comparable))
        if comparable:
            warning = f"trials of study {study.name!r} are from more than one code from here on:\n{told}"
        else:
            warning = (
                f"trials of study {study.name!r} may be from more than one code from here on: "
                f"{_not_comparable(held['version'], version)}{told and _SINCE}{told}"
            )
        display.say(f"WARNING: {warning}")
        before = json.loads(tags.get(Tag.CODE_VERSIONS, "[]")) or [held["version"]]
        new[Tag.CODE_VERSIONS] = json.dumps([*before, version][-_MOST_VERSIONS:])
    recorder.outbox.write(study.run_id, SetTags(new))


def _refusal(study: RecordedStudy, told: str, version: str, then: Code, now: str, comparable: bool) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in then.versions.items())
    commit = re.search(r"\+g([0-9a-f]+)$", version)
    checkout = f" (`git checkout {commit[1]}`)" if commit and version != now else ""
    ways_out = (
        f"Go back to that code{checkout}, which ran with {packages}; "
        f"give the study another name (`name:` in the file, or --set name={study.name}-2); or, where you know that "
    )
    if comparable:
        return (
            f"study {study.name!r} has trials recorded that other code has trained (cnnstudy {version}; now it is "
            f"{now}):\n{told}\nTrials of both may not be comparable. {ways_out}"
            "the change makes no difference to them, go on all the same with --accept-code."
        )
    return (
        f"study {study.name!r} has trials recorded that may be of other code: {_not_comparable(version, now)}"
        f"{told and _SINCE}{told}\n{ways_out}no change since then makes a difference to them, go on with "
        "--accept-code; from then on the code is recorded in the way of this version."
    )


#: Before the versions of packages that changed.
_SINCE = " These packages have changed:\n"


def _not_comparable(version: str, now: str) -> str:
    return (
        f"cnnstudy {version} recorded the training code in another way than this version ({now}) does, "
        "so unchanged code can't be told from changed code."
    )


def _listed(changes: Sequence[str]) -> str:
    more = [f"and {len(changes) - _MOST_TOLD} more"] if len(changes) > _MOST_TOLD else []
    return "\n".join(f"  {change}" for change in [*changes[:_MOST_TOLD], *more])
