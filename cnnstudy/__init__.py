"""Why does this convolutional network overfit?

A study is one question in one YAML file. It becomes trained networks, a record in MLflow and a leaderboard:

    experiments/<study>.yaml
       |  config        StudyConfig: everything checked before TensorFlow is imported
       |  study         the one place that sees all of the below
       |      search       the next trial: Optuna's ask, or the next point of a grid; or
       |      factorial    the next cell with the next seed
       |      execution    hands a TrialSpec to a worker; streams EpochRecords back
       |          worker:     images -> architecture -> transfer -> loop -> model package -> TrialResult
       |      tracking     epoch metrics, curves, model -> MLflow
       |      search       report -> prune?; tell
       |  confirmation  the best candidates with fresh seeds; the test split, once, for the champion
       v  analysis      leaderboard, curves, effects
       v  models        a trial's model: prediction, exporting

The driver owns Optuna and MLflow, is the only writer, and never imports TensorFlow. A worker gets plain data, trains,
and answers with plain data and a folder of files: it may be killed at any moment.

Each module imports only from those above it in this list (tests/test_imports.py holds the order):

    errors           the exception tree
    signals          how a command is asked to stop
    interpreter      Python's garbage collector, kept from looking through what is no garbage
    strict           the base of everything read from a study file
    cache            one folder for what is costly and shared: images, source weights, features
    linking          copies of folders that take neither time nor room
    scratch          folders for what does not last, held by their process
    database         MLflow's SQLite database, made whole or not at all
    download         Keras' downloader, with a checked hash
    space            the factors, one line each
    designs          combinations of levels: how many, a balanced part, points that spread
    names            of tags, metrics and parameters in MLflow
    config_record    a study's configuration in MLflow, and where two of them differ
    records          TrialSpec, EpochRecord, TrialResult: what driver and worker tell each other
    processes        which process it is, and whether it lives
    leftovers        what becomes of what a killed process left: one pure function
    code_digests     which code trains, function by function
    datasets/        one file = one data set
    architectures/   one file = one network: a table and a block
    strategies       the keys of `strategy`: a search or a factorial
    aims             the keys of `objective` and `confirm`
    sources          the keys of `data` and `weights`
    schema           the keys of a study file
    combinations     what keys must be together
    config           YAML -> frozen StudyConfig, checked as a whole
    training/        one trial, in a worker
    calls            which command goes on with a study
    budget           how long a trial trains, in epochs and updates
    execution/       one file per engine that runs workers
    proposals        what the driver and a strategy tell each other
    search           Optuna
    factorial        every cell once with each seed, in blocks
    analysis/        leaderboard, curves, effects: which factor causes the gap
    availability     which errors of MLflow's store go away by themselves
    mlflow_entities  records as MLflow has them
    mlflow_view      the layout of MLflow's page of a study
    mlflow_studies   a study's experiment and run, made once
    operations       the six ways to write to MLflow
    tracking         MLflow
    patience         how long MLflow is waited for
    spool            records on disk that MLflow has not taken yet
    delivery         their way to MLflow: at once, or again and again
    outbox           what a study writes, whether MLflow answers or not
    registry         MLflow's models, brought onto this disk
    repair           what is left over, looked for and put right
    models           a trained model by its study, trial, address or place
    provenance       which code and packages made a result
    trial_files      a trial's files: its tables, and what its worker left
    recording        a trial's way into MLflow
    pages/           a study's page: one HTML file with its figures
    display          what a study shows on the screen
    watchdog         is each worker getting on?
    jobs             one job by itself, to its end
    preparation      images and source weights, before the first trial
    estimate         what a study takes: trials, time, disk, memory
    forecasts        what was foretold of a study, beside what it took
    claim            one driver per study
    resume           what a call finds: a changed file, other images, recorded trials
    changed_code     other code than that which a study's trials are from
    failures         trials that fail: once more, or stop
    driver           workers at work: the loop that hands out trials
    opening          the test split, opened once
    confirmation     the champion: fresh seeds, then the test
    study            a study from its file to its end
    planning         what a study would take
    reproduction     a trial trained again from its record
    gallery          a trial's mistakes beside the training images that are most alike
    report           what a study came to, on the terminal
    comparing        two studies side by side
    snapshots        what a running study has in MLflow, and what is new in it
    watching         a live view of a study that runs elsewhere
    doctor/          is everything in order, and what was left put right
    prediction       what a model says of images
    exporting        a model for other programs, checked
    ui               MLflow's server
    shelf            what lies in the cache
    commands/        the commands, one file for those that belong together
    cli              the command line
"""

__version__ = "0.1.0"
