"""Names of the tags, metrics and parameters that cnnstudy records in MLflow.

Recorded studies are read by these names: renaming one makes older studies unreadable.
"""

from __future__ import annotations


class Tag:
    """Tags of a study's own run, of its trials' runs, and of their models."""

    # of every run
    KIND = "cnnstudy.kind"  # "study", "pretrain", "trial" or "confirm"; on the experiment too
    STATE = "cnnstudy.state"  # one of records.STATES, or "running"
    REASON = "cnnstudy.reason"  # why it failed: one of records.FAILURE_REASONS, or ""
    MESSAGE = "cnnstudy.message"  # the error, in one line
    TOKEN = "cnnstudy.token"  # finds what was created although MLflow's reply was lost; on models too

    # of the study's own run
    CONFIG = "cnnstudy.config"  # the configuration as JSON, in `.0`, `.1` and so on
    CODE = "cnnstudy.code"  # identity of the training code as JSON, in `.0`, `.1` and so on
    CODE_VERSIONS = "cnnstudy.code_versions"  # JSON list of code versions, if trials are from several
    CALLED = "cnnstudy.called"  # when a driver last started on the study, in milliseconds since 1970
    DRIVER = "cnnstudy.driver"  # the process that runs the study, as JSON, or NOBODY
    RUN_COMMAND = "cnnstudy.run_command"  # the last run-study
    LAST_COMMAND = "cnnstudy.last_command"  # the last command of any kind that ran trials
    TEST_SPLIT = "cnnstudy.test_split"  # JSON: when the test split was opened and for which models
    COPIES = "cnnstudy.copies"  # sentences about copies and groups among its images
    CONFLICTS = "cnnstudy.conflicts"  # number of pairs of copies with different labels
    STOPPED = "cnnstudy.stopped"  # after how many seeds a factorial stopped because its question was answered; or ""
    ESTIMATED_SECONDS = "cnnstudy.seconds_foretold"  # duration of the study as estimated before it ran
    MEASURED_SECONDS = "cnnstudy.seconds_taken"  # duration of the study as measured

    # of a trial's run, from its start
    STUDY = "cnnstudy.study"  # name of the study; on models too
    TRIAL = "cnnstudy.trial"  # key of the trial, unique within the study; on models too
    TITLE = "cnnstudy.title"  # its network's settings in short; the run's name in MLflow begins with what differs
    NUMBER = "cnnstudy.number"  # within the study and architecture, from 0
    ARCHITECTURE = "cnnstudy.architecture"
    LEVELS = "cnnstudy.levels"  # JSON object: factor -> level
    TRANSFER = "cnnstudy.transfer"  # level of the factor `transfer`
    WEIGHTS = "cnnstudy.weights"  # where the source weights are from; "none" for training from scratch
    SEED = "cnnstudy.seed"
    DATA_DIGEST = "cnnstudy.data_digest"  # of every image, its label and the split
    CODE_VERSION = "cnnstudy.code_version"  # of cnnstudy, with the commit
    PACKAGES = "cnnstudy.packages"  # JSON object: package -> version
    ATTEMPT = "cnnstudy.attempt"  # how many times the trial has been started, from 1
    WEIGHTS_DIGEST = "cnnstudy.weights_digest"  # of the source weights
    WEIGHTS_ADDRESS = "cnnstudy.weights_address"  # of the source weights in the cache
    WEIGHTS_RECIPE = "cnnstudy.weights_recipe"  # address of how the source weights are trained, without the code
    FROM_CACHE = "cnnstudy.from_cache"  # "true" on a pretraining whose weights were in the cache

    # of a trial's run, from its end
    ENDED_BY = "cnnstudy.ended_by"  # "epochs", "updates", "train loss", "early stopping" or "pruner"
    VERDICT = "cnnstudy.verdict"  # one of training/verdict.py's
    VERDICT_REASON = "cnnstudy.verdict_reason"  # the numbers behind the verdict
    VERDICT_COUNTS = "cnnstudy.verdict_counts"  # what the verdict is judged by, as JSON, in `.0`, `.1` and so on
    FEATURES = "cnnstudy.features"  # what it trained on, phase by phase: "cached", "two views" or "full forward"
    FEATURES_NOTE = "cnnstudy.features_note"  # where the features are and how large they are, or why there are none
    CHECKPOINT_NOTE = "cnnstudy.checkpoint_note"  # what went wrong with its checkpoints
    SHARED_EPOCHS = "cnnstudy.shared_epochs"  # how many of its epochs another trial trained
    RESUMED_FROM_EPOCH = "cnnstudy.resumed_from_epoch"  # the last epoch of the earlier attempt, from which it resumed
    MICRO_BATCH = "cnnstudy.micro_batch"  # images processed at once in an update, if a batch did not fit into memory
    EVALUATION_BATCH = "cnnstudy.evaluation_batch"  # the same in evaluation
    FROZEN_DIGEST = "cnnstudy.frozen_digest"  # of the weights that no phase trains
    # on a failed run whose trial runs once more: "true", or "asked" if a user asked for that
    RETRIED = "cnnstudy.retried"
    MODEL = "cnnstudy.model"  # MLflow's address of the model: `models:/<id>`
    MODEL_HASH = "cnnstudy.model_sha256"  # SHA-256 of the model's Keras file as the worker left it; on models too

    # of a trial's run, from its end; written and read by computed_on_tag
    DEVICE = "cnnstudy.device"  # processor or GPU
    THREADS = "cnnstudy.threads"  # threads within an operation of TensorFlow
    ONEDNN = "cnnstudy.onednn"  # whether oneDNN's kernels are used
    TF32 = "cnnstudy.tf32"  # whether a GPU multiplies in TensorFloat-32
    REPLICAS = "cnnstudy.replicas"  # devices that divided each update among them, if several
    PRECISION = "cnnstudy.precision"  # of updates
    XLA = "cnnstudy.xla"  # whether updates are compiled by XLA

    # MLflow's own, which its UI shows
    NOTE = "mlflow.note.content"  # a description in Markdown, of runs and experiments
    USER = "mlflow.user"
    SOURCE = "mlflow.source.name"  # the study file
    SOURCE_TYPE = "mlflow.source.type"
    COMMIT = "mlflow.source.git.commit"  # of the repository with the study file
    TABLES = "mlflow.loggedArtifacts"  # JSON list of the run's files that are tables


#: The value of Tag.DRIVER when no process runs the study; earlier versions left it empty.
NOBODY = "none"


class Metric:
    """Metrics; losses in nats, accuracies and gaps as shares of 0..1. The UI groups them by what precedes the slash."""

    # after each epoch; CLEAN_METRICS also before the first update, as step 0
    # clean: measured on the main head in inference mode, every image once
    TRAIN_ACCURACY = "train/accuracy"  # clean, on the probe
    TRAIN_LOSS = "train/loss"
    VAL_ACCURACY = "val/accuracy"  # clean, on validation
    VAL_LOSS = "val/loss"
    GAP_ACCURACY = "gap/accuracy"  # train minus validation
    GAP_LOSS = "gap/loss"  # validation minus train
    TRAIN_BALANCED_ACCURACY = "train/balanced_accuracy"  # mean recall over the classes that have images
    VAL_BALANCED_ACCURACY = "val/balanced_accuracy"
    GAP_BALANCED_ACCURACY = "gap/balanced_accuracy"  # train minus validation
    TRAIN_MACRO_F1 = "train/macro_f1"  # mean F1 over the classes that have images or are predicted
    VAL_MACRO_F1 = "val/macro_f1"
    HIDDEN_GAP_ACCURACY = "gap/hidden_accuracy"  # clean train minus running
    HIDDEN_GAP_LOSS = "gap/hidden_loss"  # running minus clean train
    RUNNING_ACCURACY = "running/accuracy"  # mean over the epoch's updates, in training mode
    RUNNING_LOSS = "running/loss"
    RUNNING_AUXILIARY_LOSS = "running/auxiliary_loss"  # summed over the auxiliary heads
    LEGACY_VAL_ACCURACY = "legacy/val_accuracy"  # as the legacy protocol measures it
    LEGACY_GAP_ACCURACY = "legacy/gap_accuracy"
    UPDATES = "optimizer/updates"  # since the start of the trial; not of a probe
    IMAGES_SEEN = "optimizer/images_seen"  # since the start of the trial, repeats counted
    SKIPPED_UPDATES = "optimizer/skipped_updates"  # in this phase, where mixed precision overflowed
    IMAGES_TRAIN = "images/train"  # trained on in the epoch
    REGULARISATION = "probe/regularisation"  # of the head that was fitted: the weight of its penalty, as chosen
    TRAINING_SECONDS = "time/training_seconds"  # of the epoch's updates
    SECONDS = "time/seconds"  # of the epoch

    # with the first epoch
    LEARNING_RATE = "optimizer/learning_rate"  # scaled
    IMAGES_VALIDATION = "images/validation"
    SMALLEST_VALIDATION_CLASS = "images/validation_smallest_class"  # images
    LEGACY_VALIDATION_IMAGES = "legacy/validation_images"  # those that the legacy protocol measures
    LEGACY_SMALLEST_VALIDATION_CLASS = "legacy/validation_smallest_class"

    # at the end of a trial
    FULL_TRAIN_ACCURACY = "full_train/accuracy"  # clean, on all training images; at the best and the last epoch
    FULL_TRAIN_LOSS = "full_train/loss"
    FULL_TRAIN_BALANCED_ACCURACY = "full_train/balanced_accuracy"
    BEST_EPOCH = "best/epoch"  # from 1; the others of `best/`: best_name()
    TOTAL_SECONDS = "time/total_seconds"  # of training
    TRAINABLE_PARAMETERS = "parameters/trainable"
    FROZEN_PARAMETERS = "parameters/frozen"
    ONSET_EPOCH = "overfitting/onset_epoch"  # of the lowest validation loss, where overfitting sets in
    VAL_LOSS_RISE = "overfitting/val_loss_rise"  # of the last epoch above the lowest
    EQUAL_FIT_EPOCH = "equal_fit/epoch"  # where the train accuracy first reaches the one at which trials are compared

    # of a study's own run, from confirm
    BEST_VALIDATION = "selection/best_validation"  # the best value of the study's metric in any trial
    CONFIRMED = "selection/confirmed"  # the champion's mean of the study's metric with fresh seeds
    OPTIMISM = "selection/optimism"  # by how much the best validation overstates the test
    TEST_ACCURACY = "test/accuracy"  # the champion's mean
    TEST_LOSS = "test/loss"

    # what precedes the slash in a metric of one class: class_name()
    RECALL = "recall"  # on validation
    PRECISION = "precision"  # on validation
    TRAIN_RECALL = "train_recall"  # on the probe


#: Measured on train and validation after each epoch, and again at a trial's best and last.
CLEAN_METRICS = (
    *(Metric.TRAIN_ACCURACY, Metric.TRAIN_LOSS),
    *(Metric.VAL_ACCURACY, Metric.VAL_LOSS),
    *(Metric.GAP_ACCURACY, Metric.GAP_LOSS),
    *(Metric.TRAIN_BALANCED_ACCURACY, Metric.VAL_BALANCED_ACCURACY, Metric.GAP_BALANCED_ACCURACY),
    *(Metric.TRAIN_MACRO_F1, Metric.VAL_MACRO_F1),
)


#: Measured again at a trial's best epoch by cross-fitting (training/cross_fit.py).
CROSSED_METRICS = (
    *(Metric.TRAIN_ACCURACY, Metric.VAL_ACCURACY, Metric.GAP_ACCURACY),
    *(Metric.TRAIN_BALANCED_ACCURACY, Metric.VAL_BALANCED_ACCURACY, Metric.GAP_BALANCED_ACCURACY),
)


class Parameter:
    """Parameters of a trial's run besides its levels, which are recorded by the names of their factors."""

    ARCHITECTURE = "architecture"
    WEIGHTS = "weights"  # as Tag.WEIGHTS
    SEED = "seed"
    IMAGE_SIZE = "image_size"  # pixels
    EPOCHS = "epochs"  # at most
    OPTIMIZER = "optimizer"
    WEIGHT_DECAY = "weight_decay"
    EARLY_STOPPING = "early_stopping"  # epochs without a better one before it ends
    UPDATES = "updates"  # at most
    UNTIL_TRAIN_LOSS = "until_train_loss"  # nats
    MOMENTUM = "momentum"  # of the optimisers that have one
    HEAD_EPOCHS = "head_epochs"  # of the epochs, those that train the head only, where transfer is two-phase
    VALIDATION_SHARE = "validation_share"  # of each class, where no part is given
    TEST_SHARE = "test_share"
    SPLIT_SEED = "split_seed"  # which images are held out
    BLOCK = "block"  # seed of the trial's own division into train and validation
    DETERMINISTIC = "deterministic"
    PRECISION = "precision"  # as the study asks for it
    XLA = "xla"  # as the study asks for it, or "auto"
    DATA = "data"  # name of the data set
    CLASSES = "classes"  # how many
    TRAIN_IMAGES = "train_images"  # at a data_fraction of 1
    USED_TRAIN_IMAGES = "train_images_used"  # at the trial's data_fraction
    VALIDATION_IMAGES = "validation_images"


def computed_on_tag(what: str) -> str:
    """Return the tag of one of `TrialResult.computed_on`, e.g. of `device`."""
    return f"cnnstudy.{what}"


def count_tag(state: str) -> str:
    """Return the tag of how many trials of a study ended in a state: `cnnstudy.trials_failed`."""
    return f"cnnstudy.trials_{state}"


def column_name(metric: str) -> str:
    """Return a metric's name without a slash: `val/loss` -> `val_loss`."""
    return metric.replace("/", "_")


def best_name(metric: str) -> str:
    """Return the name of a metric at a trial's best epoch: `val/loss` -> `best/val_loss`."""
    return f"best/{column_name(metric)}"


def crossed_name(metric: str) -> str:
    """Return the name of a metric at the best epoch by cross-fitting: `val/accuracy` -> `crossed/val_accuracy`."""
    return f"crossed/{column_name(metric)}"


def last_name(metric: str) -> str:
    """Return the name of a metric at a trial's last epoch: `val/loss` -> `last/val_loss`."""
    return f"last/{column_name(metric)}"


def equal_updates_name(metric: str) -> str:
    """Return the name of a metric after the number of updates that all trials of a network make."""
    return f"equal_updates/{column_name(metric)}"


def equal_fit_name(metric: str) -> str:
    """Return the name of a metric at the train accuracy at which trials are compared."""
    return f"equal_fit/{column_name(metric)}"


def class_name(metric: str, of_class: str) -> str:
    """Return the name of a metric of one class: `recall/cat`."""
    return f"{metric}/{of_class}"
