"""Run a study: everything that happens between reading its file and reporting its results.

Comes in: a StudyConfig, a Tracker and an Executor. Goes out: recorded trials, a confirmed champion and its test
result; for a dry run, an estimate of time, memory and disk.

    new_study      looks at photos and at this machine, and finds the study that fits
    suggestion     chooses its factors, images, epochs and seeds
    suggestion_text  writes it as a study file, with a comment for each choice
    run            the steps of a study, in order
    lock           one driver per study
    recovery       finds and cleans up what killed processes left behind
    resume         a stopped study: compares settings, images and code with its record (a killed trial resumes in
                   training.phases)
    resources      what trials need, checked, and built on first use: workers, images and source weights
    preparation    decodes the images, and loads or pretrains the source weights
    objective      the metric that ranks epochs and trials where the file names none
    budget         how many epochs a trial trains, and after how many updates trials are compared
    looks          asks after each seed whether a study that stops when its question is answered goes on
    driver         the loop that hands out trials and reacts to failures
    interim        the answer so far of a factorial that runs, in a process of its own
    failures       which failures get another attempt, and when the study stops
    recorder       writes trials to MLflow
    dry_run        --dry-run: the checks of a run, and what it will take
    estimate       time, memory and disk that the trials will take
    forecast       compares that time with what the trials took
    confirmation   retrains the best candidates and evaluates the champion on the test split
    image_shares   what the draw of images explains of a candidate's mean accuracy
    reproduce      retrains one recorded trial and compares the numbers
    feature_export  writes the features that a recorded trial trains on to a file
    doctor         checks the installation, the cache, the database and the studies

May import: every room above.
"""
