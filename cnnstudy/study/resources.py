"""The resources that a study's trials share: workers, images and source weights."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from cnnstudy.config.schema import StudyConfig
from cnnstudy.config.transfer_modes import starts_from_source
from cnnstudy.execution import Executor, Workers
from cnnstudy.names import Tag
from cnnstudy.records import Optimizer, PreparedImages, Split, TrialSpec
from cnnstudy.search.strategy import Proposal
from cnnstudy.study.budget import equal_updates, refuse_impossible_updates, trial_epochs
from cnnstudy.study.objective import choose_metric
from cnnstudy.study.preparation import NO_WEIGHTS, Preparation, SourceWeights
from cnnstudy.study.recorder import Recorder, TrialRecorder
from cnnstudy.study.resume import refuse_other_code, refuse_other_images
from cnnstudy.system.display import Display
from cnnstudy.tracking.recorded import RecordedRun


class StudyInputs:
    """What a study's trials train on, checked: a run and a dry run do it alike, and refuse with the same message.

    Each part is built on first use.

    Args:
        recorded: the study's runs when the command began; images and weights must be the ones they used.
        workers: closed by the caller.
        accept_code: allow training code that differs from the code of the recorded trials.

    Raises, on first use of images or weights:
        StudyChangedError: the recorded trials used other images or source weights.
        DataError, WeightsError, WorkerError: they can't be prepared.
    """

    def __init__(
        self,
        config: StudyConfig,
        recorder: TrialRecorder,
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
        self._checked = False

    def check(self) -> None:
        """Check whatever can be checked before anything trains, and record the training code.

        Raises:
            StudyChangedError: other code trained the recorded trials; or as the class.
            ConfigError: trials that the study may propose can't make its updates, or a network can't be built.
        """
        if not self._checked:
            refuse_other_code(self.recorder, self.recorded, self.config, self._accept_code, self.display)
            self._preparation.check_networks()
            self._preparation.check_files()
            self._choose_metric(next(iter(self.images.values())))  # source weights are ranked by it too
            refuse_impossible_updates(self.config, self.images)
            _ = self.given_weights
            self._checked = True

    def find_untrained(self, upcoming: Iterable[Proposal]) -> list[TrialSpec]:
        """Return the specification of each pretraining that is still needed, also by the trials that are upcoming.

        Raises:
            StudyChangedError: as the class.
        """
        needed = [(one.architecture, one.block) for one in upcoming if starts_from_source(one.levels["transfer"])]
        return self._preparation.find_untrained(needed)

    def _choose_metric(self, images: PreparedImages) -> None:
        """Choose the objective's metric if the study file names none, say so, and record it."""
        self.config, text = choose_metric(self.config, images, self.recorded)
        self._preparation.config = self.config
        if text:
            self.display.show_message(text)
            self.recorder.record_config(self.config.model_dump(mode="json"))

    @functools.cached_property
    def executor(self) -> Executor:
        executor = self.workers.executor
        executor.deterministic = self.config.training.deterministic
        return executor

    @functools.cached_property
    def images(self) -> dict[str, PreparedImages]:
        """The decoded images of each network."""
        images = self._preparation.images(self.config.data, self.config.architectures)
        first = next(iter(images.values()))
        refuse_other_images(self.recorder.study.name, self.recorded, first)
        if first.notes:
            self.recorder.tag_study({Tag.COPIES: ". ".join(first.notes), Tag.CONFLICTS: str(first.conflicts)})
        return images

    @functools.cached_property
    def given_weights(self) -> dict[str, SourceWeights]:
        """The source weights of networks that pretrain none."""
        found = self._preparation.check_sources()
        self._preparation.warn_of_source_copies(self.images)
        return found

    @functools.cached_property
    def _preparation(self) -> Preparation:
        return Preparation(self.config, self.executor, self.recorder, self.recorded, self.display)

    def build_spec(self, proposal: Proposal, weights: SourceWeights) -> TrialSpec:
        """Return a proposal's TrialSpec, with this study's images."""
        return build_trial_spec(self.config, proposal, self.images[proposal.architecture], weights)


class StudyResources(StudyInputs):
    """The resources that a study's trials share: workers, images and source weights, each built on first use.

    Source weights that each seed pretrains are shared by the trials of its block, and built by `pretrain`.
    """

    recorder: Recorder

    def __init__(
        self,
        config: StudyConfig,
        recorder: Recorder,
        recorded: Sequence[RecordedRun],
        workers: Workers,
        display: Display,
        accept_code: bool = False,
    ) -> None:
        super().__init__(config, recorder, recorded, workers, display, accept_code)
        self._drawn: dict[tuple[str, int | None], SourceWeights] = {}  # by network and block
        #: Spent on the source weights of single seeds.
        self.pretraining_seconds = 0.0

    def prepare(self) -> None:
        """Check everything, then pretrain the source weights that all trials of a network share.

        Raises:
            StudyChangedError, ConfigError: as `check`.
        """
        self.check()
        _ = self._shared_weights

    @property
    def folder(self) -> Path:
        """The folder for trial files; removed when the workers are closed."""
        return self.workers.folder

    @functools.cached_property
    def _shared_weights(self) -> dict[str, SourceWeights]:
        return self.given_weights | self._preparation.pretrain_shared()

    def weights_of(self, proposal: Proposal) -> SourceWeights | None:
        """Return the source weights that a proposed trial starts from; None if its seed's are not pretrained yet."""
        shared = self._shared_weights.get(proposal.architecture)
        if shared is None and not starts_from_source(proposal.levels["transfer"]):
            return NO_WEIGHTS
        return shared or self._drawn.get((proposal.architecture, proposal.block))

    def pretrain(self, first: Proposal, upcoming: Iterable[Proposal]) -> None:
        """Pretrain the source weights that the first trial, and the upcoming ones of its block, start from.

        No job may be running.

        Raises:
            WeightsError: pretraining failed.
            StudyChangedError: recorded trials of the block used other source weights.
        """
        started = time.monotonic()
        for one in (first, *upcoming):
            if one.block == first.block and self.weights_of(one) is None:
                self._drawn[one.architecture, one.block] = self._preparation.pretrain(one.architecture, one.block)
        self.pretraining_seconds += time.monotonic() - started


def build_trial_spec(
    config: StudyConfig, proposal: Proposal, images: PreparedImages, weights: SourceWeights
) -> TrialSpec:
    """Return everything a worker needs to run the proposed trial, given its network's images and source weights.

    Raises:
        ConfigError: as `trial_epochs`.
    """
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
        # the champion is chosen among these, and its model is what confirming is for
        keep_model=training.keep_models or proposal.purpose == "confirm",
        equal_updates=equal_updates(config, name, images),
        # a validation part that is given is the same for every seed
        block=None if "validation" in images.given else proposal.block,
        checkpoints=training.checkpoint_mode,
        # a pruner could not stop a trial during shared epochs
        share_epochs=training.share_epochs and config.pruner == "none",
        precision=training.precision,
        xla=None if training.xla == "auto" else training.xla,
    )
