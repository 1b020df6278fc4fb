"""What the trials of a study need: workers, images, source weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from cnnstudy.config.schema import StudyConfig
from cnnstudy.execution import Executor, Workers
from cnnstudy.records import Optimizer, PreparedImages, Split, TrialSpec
from cnnstudy.search.strategy import Proposal
from cnnstudy.study.budget import equal_updates, trial_epochs
from cnnstudy.study.preparation import Preparation, SourceWeights
from cnnstudy.study.recorder import Recorder
from cnnstudy.study.resume import refuse_other_code, refuse_other_images
from cnnstudy.system.display import Display
from cnnstudy.tracking.recorded import RecordedRun


class StudyResources:
    """What trials of a study need: workers, images, source weights. Each is made when it is first asked for.

    Args:
        recorded: the study's runs when the call began, by which its images and weights are to be the same.
        workers: the caller's to close.
        accept_code: trials may be trained by other code than those that are recorded.

    Raises, when images and weights are:
        StudyChangedError: trials are recorded that saw other images.
        DataError, WeightsError, WorkerError: they can't be had.
    """

    def __init__(
        self,
        config: StudyConfig,
        recorder: Recorder,
        recorded: Sequence[RecordedRun],
        workers: Workers,
        display: Display,
        accept_code: bool = False,
    ) -> None:
        self.config = config
        self.recorder = recorder
        self.recorded = recorded
        self.display = display
        self.workers = workers
        self._accept_code = accept_code
        self._code_is_checked = False

    def prepare(self) -> None:
        """Make all of it now, before the first trial.

        Raises:
            StudyChangedError: as `check_code`.
        """
        self.check_code()
        _ = self.images, self.weights

    def check_code(self) -> None:
        """Raise StudyChangedError where trials are recorded that other code has trained; else record which does."""
        if not self._code_is_checked:
            refuse_other_code(self.recorder, self.recorded, self.config.architectures, self._accept_code, self.display)
        self._code_is_checked = True

    @property
    def folder(self) -> Path:
        """For files; it goes with the workers."""
        return self.workers.folder

    @functools.cached_property
    def executor(self) -> Executor:
        executor = self.workers.executor
        executor.deterministic = self.config.training.deterministic
        return executor

    @functools.cached_property
    def images(self) -> dict[str, PreparedImages]:
        """By network."""
        images = self._preparation.images(self.config.data, self.config.architectures)
        refuse_other_images(self.recorder.study.name, self.recorded, next(iter(images.values())))
        return images

    @functools.cached_property
    def weights(self) -> dict[str, SourceWeights]:
        """By network."""
        return self._preparation.source_weights(len(next(iter(self.images.values())).classes))

    @functools.cached_property
    def _preparation(self) -> Preparation:
        return Preparation(self.config, self.executor, self.recorder, self.recorded, self.display)

    def spec_of(self, proposal: Proposal) -> TrialSpec:
        """The whole of a trial, as a worker needs it."""
        name = proposal.architecture
        return trial_spec(self.config, proposal, self.images[name], self.weights[name])


def trial_spec(config: StudyConfig, proposal: Proposal, images: PreparedImages, weights: SourceWeights) -> TrialSpec:
    """The whole of a trial, as a worker needs it, with its network's images and source weights."""
    training, name = config.training, proposal.architecture
    epochs = trial_epochs(config, name, proposal.levels, images)
    return TrialSpec(
        study=config.name,
        purpose=proposal.purpose,
        architecture=name,
        number=proposal.number,
        seed=proposal.seed,
        levels=proposal.levels,
        images=images,
        split=Split(config.data.validation, config.data.test, config.seed),
        epochs=epochs,
        head_epochs=config.head_epochs_of(name, epochs),
        patience=training.early_stopping,
        rule=config.objective.rule,
        optimizer=Optimizer(training.optimizer, training.weight_decay, training.momentum),
        weights_source=weights.source,
        weights_file=weights.file,
        updates=training.updates,
        until_train_loss=training.until_train_loss,
        deterministic=training.deterministic,
        # a champion without a model would be of no use
        keep_model=training.keep_models or proposal.purpose == "confirm",
        equal_updates=equal_updates(config, name, images),
        block=proposal.block,
        checkpoints=training.checkpoint_mode,
        # a pruner would have no say in epochs that are shared
        share_epochs=training.share_epochs and config.pruner == "none",
        precision=training.precision,
        xla=None if training.xla == "auto" else training.xla,
    )
