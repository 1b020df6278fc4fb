"""MLflow, the durable record of studies.

Comes in: runs, metrics, files and models of trials. Goes out: RecordedStudy and RecordedRun. While MLflow does not
answer, records wait in the outbox and arrive exactly once. Only this room imports MLflow, and
training/served_model.py, which MLflow itself loads.

    recorded        RecordedStudy and RecordedRun: what MLflow holds, as plain data
    operations      the six ways to write to MLflow, as plain data
    client          Tracker: reads and writes studies and runs
    registry        Registry: models and the champion
    entities        converts between cnnstudy's records and MLflow's entities and errors
    study_run       a study's experiment and own run: made, found, renamed or deleted
    origin          who ran which file of which commit, as MLflow's tags
    outbox          Outbox: writes now if MLflow answers, otherwise later
    delivery        the outbox's thread: sends records in order, stores those that have to wait
    spool           the outbox's records on disk
    relocation      places that the database of a moved project stores
    retry           which errors are transient, and how long to retry
    sqlite          creates and tunes MLflow's SQLite database
    sqlite_runs     reads the runs of a large study from MLflow's SQLite database
    shown_names     names of metrics and tags in MLflow
    system_metrics  what this machine does while trials run
    ui_layout       what MLflow's UI shows of a study
    ui_server       runs MLflow's UI

May import: errors, names, records, system, config.factors, training.model_files.
"""

import os

REQUEST_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
REQUEST_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
#: Whether the request timeout is our default below, not the user's own.
TIMEOUT_IS_DEFAULT = REQUEST_TIMEOUT not in os.environ

# MLflow reads some of these while it is imported, so they are set before any module of this room imports it.
for _name, _value in {
    # report an unreachable server within a minute: MLflow's default retries take four
    REQUEST_RETRIES: "2",
    # report a server that accepts requests but never replies soon: MLflow's default is two minutes per try
    REQUEST_TIMEOUT: "15",
    # keep studies private
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # a progress bar for each small file is noise
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # the terminal belongs to system/display.py
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}.items():
    os.environ.setdefault(_name, _value)
