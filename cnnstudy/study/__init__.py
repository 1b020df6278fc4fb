"""A study from its file to its end.

Comes in: a StudyConfig, a Tracker and an Executor. Goes out: recorded trials, a confirmed champion, an opened test
split; or, for a dry run, what the study would take. `run` reads from top to bottom; `driver` is its loop; `resume`,
`recovery` and `lock` decide what a call finds and may do. `doctor` checks that all of it is in order.

May import: every room above.
"""
