"""Prepare what trials need: decoded images, and source weights for transfer learning.

In a factorial every seed has source weights of its own: the trials of a block start from the same ones, and are
compared within the block, so that intervals over blocks hold the luck of pretraining too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cnnstudy import architectures
from cnnstudy.config.checks import describe_weights_file
from cnnstudy.config.factors import complete_levels
from cnnstudy.config.schema import StudyConfig, Weights
from cnnstudy.config.transfer_modes import fine_tunes
from cnnstudy.data.datasets import DataOptions
from cnnstudy.data.description import describe_prepared
from cnnstudy.data.source_copies import describe_source_copies
from cnnstudy.errors import ConfigError, StudyChangedError, WeightsError, as_sentence
from cnnstudy.execution import Done, Epoch, Executor, Failed, Job
from cnnstudy.execution.jobs import images_job, network_job, run_job, run_to_end, wanted_weights, weights_job
from cnnstudy.names import Metric, Parameter, Tag
from cnnstudy.records import (
    OUTSIDE_REASONS,
    EpochRecord,
    Level,
    Optimizer,
    PreparedImages,
    Rule,
    Split,
    TrialResult,
    TrialSpec,
)
from cnnstudy.study.failures import FailureCounter, count_attempts, raise_machine_error
from cnnstudy.study.recorder import TrialRecorder, TrialRecording, remove_trial_files
from cnnstudy.system.cache import ABOUT, build_entry, content_address, entry_folder, is_intact, try_lock
from cnnstudy.system.code_version import network_code_digest
from cnnstudy.system.display import Display
from cnnstudy.system.processes import defer_interrupt
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.training import checkpoints

#: Part of the address of pretrained weights: raise it when the same recipe leads to different weights.
PRETRAINING_VERSION = 2


@dataclass(frozen=True)
class SourceWeights:
    """A network's source weights: the source as shown in tables and tags, and the file."""

    source: str
    file: str | None
    digest: str = ""  # of the weights; "" if there are none, or random ones


#: Why a trial or pretraining stopped with the command.
INTERRUPTED_TEXT = "interrupted; resuming the study runs it again"
#: Of trials from scratch.
NO_WEIGHTS = SourceWeights("none", None)


class Preparation:
    """Runs the jobs that come before the trials that need them, one after the other.

    Args:
        recorded: the study's runs when the command began.
    """

    def __init__(
        self,
        config: StudyConfig,
        executor: Executor,
        recorder: TrialRecorder,
        recorded: Sequence[RecordedRun],
        display: Display,
    ) -> None:
        self.config = config
        self.executor = executor
        self.recorder = recorder
        self.recorded = recorded
        self.display = display
        self._source_images: dict[str, PreparedImages] = {}  # to pretrain on, by network
        self._normalised: dict[str, bool] = {}  # own networks: whether they have BatchNormalization
        self._files: dict[str, SourceWeights] | None = None  # what `check_files` found
        self._failures = FailureCounter(count_attempts(recorded), config.training.equal_failures)

    def images(self, options: DataOptions, names: tuple[str, ...]) -> dict[str, PreparedImages]:
        """Decode the data set at each network's image size, and return it by the network's name.

        Raises:
            DataError: images are missing or can't be used.
            WorkerError: the worker failed.
        """
        result = run_job(self.executor, images_job(self.config, options, names), self.display)
        prepared = [PreparedImages.from_json(entry) for entry in result]
        for message in describe_prepared(prepared[0]):
            self.display.show_message(message)
        by_size = {entry.size: replace(entry, skipped=(), warnings=(), passed_over=()) for entry in prepared}
        return {name: by_size[self.config.image_size_of(name)] for name in names}

    def check_networks(self) -> None:
        """Build each network once that is the user's own, or whose transfer modes need it.

        Raises:
            ConfigError: one can't be built, has no such part, or it is too large; or a factor acts on nothing.
        """
        for name in self.config.architectures:
            if (job := network_job(self.config, name)) is None:
                continue
            built = run_job(self.executor, job, self.display)
            self._normalised[name] = built["has_batch_norm"]
            if "batch_norm" in self.config.factors_of(name) and not self._normalised[name]:
                raise ConfigError(
                    f"the factor batch_norm acts on BatchNormalization, which {name} does not have; leave it out, or "
                    "give it to other networks alone."
                )

    def source_weights(self) -> dict[str, SourceWeights]:
        """Return the source weights that all trials of a network share; those that each seed pretrains are left out.

        Their source is "none" where the study's transfer modes need none.

        Raises:
            WeightsError: they can't be loaded or pretrained; no trial has been trained yet.
            StudyChangedError: the recorded trials used other source weights.
            DataError: images to pretrain on are missing or can't be used.
        """
        return self.check_sources() | self.pretrain_shared()

    def check_sources(self) -> dict[str, SourceWeights]:
        """Return those `source_weights` that are not pretrained, and decode the images of all pretraining.

        Raises:
            As `source_weights`.
        """
        found = self.check_files()
        pretrained = {name: of for name, of in wanted_weights(self.config).items() if of.source == "pretrain"}
        for name, weights in pretrained.items():
            if name not in self._source_images and weights.data is not None:  # decoded once for all networks
                same_data = tuple(other for other in pretrained if pretrained[other].data == weights.data)
                self._source_images |= self.images(weights.data, same_data)
        return found

    def check_files(self) -> dict[str, SourceWeights]:
        """Return those `source_weights` that are not pretrained; call it before time is spent on images.

        Files are downloaded where the study file says so.

        Raises:
            WeightsError, StudyChangedError: as `source_weights`.
        """
        if self._files is None:
            found = dict.fromkeys(self.config.architectures, NO_WEIGHTS)
            wanted = wanted_weights(self.config)
            for name in wanted:
                self._say_what_is_normalised(name)
            for name, weights in wanted.items():
                if weights.source == "pretrain":
                    del found[name]
                elif weights.source == "random":
                    found[name] = SourceWeights("random", None)
                else:
                    found[name] = self._check_weights(name, weights)
                    self._refuse_other_weights(name, found[name])
            self._files = found
        return self._files

    def warn_of_source_copies(self, images: Mapping[str, PreparedImages]) -> None:
        """Warn of near-duplicates between the study's images and those to pretrain on. Call it after `check_sources`.

        Where a data set says that its copies are to be ignored, they are not looked for here either.

        Args:
            images: of the study, by network.

        Raises:
            DataError: decoded images are gone.
        """
        data, compared = self.config.data, list[str]()
        for name, source in self._source_images.items():
            weights = self.config.weights_of(name)
            assert weights is not None  # it has images to pretrain on
            assert weights.data is not None
            if {data.copies, weights.data.copies} != {"together"} or source.digest in compared:
                continue
            compared.append(source.digest)
            split = Split(data.validation, data.test, self.config.seed)
            payload = {"images": images[name].to_json(), "source": source.to_json(), "split": split.to_json()}
            job = Job("source-copies", "count_source_copies", payload)
            if text := describe_source_copies(run_job(self.executor, job, self.display)):
                self.display.show_message(f"WARNING: {text}")

    def _say_what_is_normalised(self, name: str) -> None:
        """Say that BatchNormalization stays frozen where layers with source weights train, unless the file decides."""
        modes = [str(mode) for mode in self.config.transfer_modes_of(name) if fine_tunes(mode)]
        normalised = self._normalised.get(name, architectures.find(name).has_batch_norm)
        if modes and normalised and "batch_norm" not in self.config.factors_of(name):
            self.display.show_message(
                f"{name}: with {', '.join(modes)}, BatchNormalization below the head keeps the statistics, scales and "
                "offsets of the source weights (`batch_norm: trained` under `factors` would train them)"
            )

    def pretrain_shared(self) -> dict[str, SourceWeights]:
        """Return those `source_weights` that are pretrained. Call it after `check_sources`."""
        return {name: self.pretrain(name) for name in self._source_images if not self.config.pretrains_each_seed(name)}

    def find_untrained(self, blocks: Iterable[tuple[str, int | None]]) -> list[TrialSpec]:
        """Return the specification of each pretraining that trials need and the cache lacks.

        Call it after `check_sources`.

        Args:
            blocks: network and block of trials that start from source weights.

        Raises:
            StudyChangedError: the recorded trials used others than those in the cache.
        """
        each = self.config.pretrains_each_seed
        draws = dict.fromkeys((name, block) for name, block in blocks if each(name))
        draws |= dict.fromkeys((name, None) for name in self._source_images if not each(name))
        untrained = []
        for name, block in draws:
            spec = self._pretraining_spec(name, block)
            address, _ = self._find_address(spec)
            if is_intact("weights", address):
                self._refuse_other_weights(name, _cached_weights(address), block)
            else:
                untrained.append(spec)
        return untrained

    def pretrain(self, name: str, block: int | None = None) -> SourceWeights:
        """Return pretrained source weights, from the cache or trained now; MLflow gets a run either way.

        Call it after `check_sources`.

        Args:
            name: of the network.
            block: whose trials start from them; None: all trials.

        Raises:
            WeightsError: pretraining failed.
            StudyChangedError: the recorded trials used other source weights.
        """
        spec = self._pretraining_spec(name, block)
        address, recipe = self._find_address(spec)
        tags = {Tag.WEIGHTS_ADDRESS: address, Tag.WEIGHTS_RECIPE: recipe}
        folder = entry_folder("weights", address)
        trained: list[tuple[TrialRecording, TrialResult, bool]] = []
        if not folder.is_dir():
            self._report_if_locked(folder, spec)
        with contextlib.ExitStack() as stack:

            def build(building: Path) -> None:
                recording, result, interrupted = self._train(spec, tags)
                stack.enter_context(defer_interrupt())  # until hours of training are in the cache and on record
                _fill_entry(building, recording, result)
                trained.append((recording, result, interrupted))

            # the entry stays locked during training: a process that waits for it uses the same weights and curves
            build_entry("weights", address, build)
            for recording, result, _ in trained:
                self.recorder.finish(recording, result)
                remove_trial_files(result)
                self.display.end_trial(spec.key, f"validation {100 * result.summary[Metric.VAL_ACCURACY]:.1f} %")
        if any(interrupted for *_, interrupted in trained):
            raise KeyboardInterrupt
        if not trained:
            self._record_from_cache(spec, tags, folder)
        checkpoints.remove_checkpoint(spec)  # also one of a process killed after it had stored the weights
        found = _cached_weights(address)
        self._refuse_other_weights(name, found, block)
        return found

    def _check_weights(self, name: str, weights: Weights) -> SourceWeights:
        try:
            checked = run_job(self.executor, weights_job(self.config, name, weights), self.display)
        except WeightsError as error:
            if weights.file is None:  # the message about a failed download says what to do
                raise
            raise WeightsError(f"{as_sentence(error)} {describe_weights_file([name], weights)}") from error
        return SourceWeights(weights.source, checked["file"], checked["digest"])

    def _refuse_other_weights(self, name: str, weights: SourceWeights, block: int | None = None) -> None:
        """Raise StudyChangedError if the network's recorded trials, of that block if given, used other ones."""
        alike = [
            run
            for run in self.recorded
            if run.architecture == name and (block is None or run.parameters.get(Parameter.BLOCK) == str(block))
        ]
        others = {run.weights_digest for run in alike} - {"", weights.digest}
        if others:
            study = self.recorder.study.name
            raise StudyChangedError(
                f"the source weights of {name} in {weights.file} differ from those of the recorded trials of study "
                f"{study!r}{'' if block is None else f' with seed {self.config.seed + block}'} (digest "
                f"{weights.digest} instead of {', '.join(sorted(others))}): the file was changed, or pretrained again "
                "by other code, on another machine or on a GPU, whose results are not reproducible to the last bit. "
                "Old and new trials would not be comparable. Restore the file, or give the study another name "
                f"(`name:` in the file, or --set name={study}-2)."
            )

    def _find_address(self, spec: TrialSpec) -> tuple[str, str]:
        """Return the cache address and the recipe of source weights."""
        recipe = pretraining_recipe(spec)
        address = self._recorded_address(recipe)
        return address or content_address([recipe, network_code_digest(spec.architecture)]), recipe

    def _recorded_address(self, recipe: str) -> str:
        """Return the cache address of the weights that recorded trials used, if the cache still has them; else "".

        It differs from the current address when the user accepted a change of the network's code: old and new trials
        start from the same weights all the same.
        """
        addresses = [run.weights_address for run in self.recorded if run.weights_recipe == recipe]
        return next((address for address in addresses if address and entry_folder("weights", address).is_dir()), "")

    def _report_if_locked(self, folder: Path, spec: TrialSpec) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with try_lock(folder) as lock:
            if lock is None:
                what = f"the source weights of {spec.architecture}"
                self.display.show_message(f"{spec.key}: another process is training {what}; waiting for it")

    def _pretraining_spec(self, name: str, block: int | None) -> TrialSpec:
        network, weights = architectures.find(name), self.config.weights_of(name)
        assert weights is not None  # schema.Weights requires data and epochs
        assert weights.data is not None
        assert weights.epochs is not None
        fixed: dict[str, Level] = {"transfer": "scratch", "batch_size": weights.batch_size}
        levels = complete_levels(network.has_auxiliary_heads, network.defaults, lambda factor: fixed.get(factor.name))
        return TrialSpec(
            study=self.config.name,
            purpose="pretrain",
            architecture=name,
            number=0,
            seed=self.config.seed + (block or 0),
            levels=levels,
            images=self._source_images[name],
            split=Split(weights.data.validation, weights.data.test, self.config.seed),
            epochs=weights.epochs,
            head_epochs=0,
            patience=None,
            rule=Rule(self.config.objective.metric),
            optimizer=Optimizer("adam"),
            weights_source="none",
            weights_file=None,
            deterministic=self.config.training.deterministic,
            block=block,  # as the trials, each draw divides its images anew
            checkpoints=self.config.training.checkpoint_mode,
            share_epochs=self.config.training.share_epochs,
            precision=self.config.training.precision,
            xla=None if self.config.training.xla == "auto" else self.config.training.xla,
        )

    def _train(self, spec: TrialSpec, tags: Mapping[str, str]) -> tuple[TrialRecording, TrialResult, bool]:
        """Train the source weights; also return whether an interrupt is still to take effect: it came as they ended."""
        spec = replace(spec, micro_batch=self._failures.micro_batch(spec.key, spec.batch_size))
        attempt = {Tag.ATTEMPT: str(self._failures.next_attempt(spec.key))}
        recording = self.recorder.start(spec, {**tags, **attempt})
        self.display.start_trial(spec.key, f"on {spec.images.name}", spec.epochs)
        job = Job(spec.key, "run_trial", spec.to_json())
        interrupted = False
        outcome: Done | Failed | None
        try:
            outcome = run_to_end(self.executor, job, self.display, lambda record: self._epoch(recording, record))
        except KeyboardInterrupt:
            interrupted, outcome = True, self._read_reported(recording)
            if outcome is None:
                self.display.stop_trial(spec.key, INTERRUPTED_TEXT)
                raise
        if isinstance(outcome, Failed):
            raise_machine_error(outcome)
            again = self._failures.take_retry(outcome)
            self.recorder.fail(recording, outcome, again)
            if outcome.reason in OUTSIDE_REASONS:
                self._failures.count(outcome)
            if again:
                self.display.stop_trial(spec.key, f"failed ({outcome.reason}), and runs once more: {outcome.message}")
                return self._train(spec, tags)
            if outcome.reason == "diverged":  # otherwise the next attempt resumes from the checkpoint
                checkpoints.remove_checkpoint(spec)
            raise WeightsError(
                f"pretraining {spec.architecture} on {spec.images.name}{_seed_note(spec)} failed ({outcome.reason}): "
                f"{outcome.message}"
            )
        return recording, TrialResult.from_json(outcome.result), interrupted

    def _read_reported(self, recording: TrialRecording) -> Done | None:
        """Record the epochs that the worker has reported and nobody has read; return its result if that is among it."""
        while (event := self.executor.next_event(timeout=0)) is not None:
            if isinstance(event, Epoch):
                self._epoch(recording, event.record)
            elif isinstance(event, Done):
                return event
        return None

    def _epoch(self, recording: TrialRecording, record: EpochRecord) -> None:
        self.recorder.epoch(recording, record)
        self.display.epoch(recording.spec.key, record)

    def _record_from_cache(self, spec: TrialSpec, tags: Mapping[str, str], folder: Path) -> None:
        """Record a run with the cached curves and model, unless the study has one of these weights already."""
        address = tags[Tag.WEIGHTS_ADDRESS]
        if any(run.weights_address == address and run.state == "finished" for run in self.recorded):
            return
        cached = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        recording = self.recorder.start(spec, {**tags, Tag.FROM_CACHE: "true"})
        for entry in cached["epochs"]:
            self.recorder.epoch(recording, EpochRecord.from_json(entry))
        result = TrialResult.from_json(cached["result"])
        with (
            scratch_folder() as own
        ):  # a copy: MLflow may hardlink the files it gets, and the cache's files must stay its own
            shutil.copytree(folder / "model", own / "model")
            self.recorder.finish(recording, replace(result, files={"model": str(own / "model")}))
        self.display.show_message(f"{spec.key}: source weights from the cache, {folder}")


def _fill_entry(folder: Path, recording: TrialRecording, result: TrialResult) -> None:
    """Put source weights with their curves and model into the cache entry's folder."""
    spec = recording.spec
    shutil.copy(result.files["backbone"], folder / "backbone.npz")
    shutil.copytree(result.files["model"], folder / "model")
    record = {"result": result.to_json(), "epochs": [record.to_json() for record in recording.epochs]}
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    about = f"{spec.architecture} of {spec.images.size} pixels, {spec.epochs} epochs on {spec.images.name}"
    (folder / ABOUT).write_text(f"{about}{_seed_note(spec)}", encoding="utf-8", errors="replace")


def _cached_weights(address: str) -> SourceWeights:
    file = entry_folder("weights", address) / "backbone.npz"
    return SourceWeights("pretrain", str(file), weights_digest(file))


def _seed_note(spec: TrialSpec) -> str:
    """Return which seed's source weights these are; "" if they are those of all trials."""
    return "" if spec.block is None else f" with seed {spec.seed}"


def pretraining_recipe(spec: TrialSpec) -> str:
    """Return a content address of everything but the code that determines source weights; recorded as a tag."""
    asked = spec.fields_that_change("training", "record")
    del (
        asked["features"],
        asked["xla"],
    )  # pretraining uses no cached features, and XLA changes how it computes, not what
    # the images count by content and size, whatever study asks and wherever they are
    asked |= {"study": "", "images": [spec.images.digest, spec.images.size]}
    return content_address([PRETRAINING_VERSION, asked])


def weights_digest(file: Path) -> str:
    """Return a SHA-256 digest of the names, shapes, types and bytes of the arrays in an .npz, however it is compressed.

    Raises:
        WeightsError: the file can't be read.
    """
    total = hashlib.sha256()
    try:
        with np.load(file, allow_pickle=False) as arrays:
            for name in sorted(arrays.files):
                array = arrays[name]
                total.update(f"{name}{array.shape}{array.dtype}".encode())
                total.update(np.ascontiguousarray(array).data)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"can't read the source weights in {file}: {error}. Remove {file.parent}; the next run trains them again."
        ) from error
    return total.hexdigest()
