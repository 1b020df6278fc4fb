"""MLflow, the durable record of studies.

Comes in: runs, metrics, files and models of trials. Goes out: RecordedStudy and RecordedRun. While MLflow does not
answer, records wait in the outbox and arrive exactly once. Only this room imports MLflow.

May import: errors, names, records, system, config.factors, training.model_files.
"""
