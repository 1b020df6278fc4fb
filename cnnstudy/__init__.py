"""Why does this convolutional network overfit?

A study is one question in one YAML file. It becomes trained networks, a record in MLflow and a leaderboard:

    experiments/<study>.yaml
       |  config        StudyConfig: everything checked before TensorFlow is imported
       |  study         the driver loop: the one place that sees all of the below
       |      search       the next trial: Optuna's ask, or the next point of a grid
       |      execution    hands a TrialSpec to a worker; streams EpochRecords back
       |          worker:     images -> architecture -> transfer -> loop -> model package -> TrialResult
       |      tracking     epoch metrics, curves, model -> MLflow
       |      search       report -> prune?; tell
       v  analysis      leaderboard, curves

The driver owns Optuna and MLflow, is the only writer, and never imports TensorFlow. A worker gets plain data, trains,
and answers with plain data and a folder of files: it may be killed at any moment.

Each module imports only from those above it in this list (tests/test_imports.py holds the order):

    errors           the exception tree
    signals          how a command is asked to stop
    strict           the base of everything read from a study file
    cache            one folder for what is costly and shared: images, source weights
    download         Keras' downloader, with a checked hash
    space            the factors, one line each
    records          TrialSpec, EpochRecord, TrialResult: what driver and worker tell each other
    datasets/        one file = one data set
    architectures/   one file = one network: a table and a block
    schema           the keys of a study file
    combinations     what keys must be together
    config           YAML -> frozen StudyConfig, checked as a whole
    training/        one trial, in a worker
    execution/       one file per engine that runs workers
    search           Optuna
    analysis/        leaderboard, curves
    mlflow_view      the layout of MLflow's page of a study
    tracking         MLflow
    provenance       which code and packages made a result
    recording        a trial's way into MLflow
    display          what a study shows on the screen
    preparation      images and source weights, before the first trial
    resume           what a call finds: another driver, a changed file, recorded trials
    study            the driver loop
    report           what a study came to, on the terminal
    ui               MLflow's server
    cli              the commands
"""

__version__ = "0.1.0"
