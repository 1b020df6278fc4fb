"""What a study needs before its first trial: decoded images, and source weights for the modes that start from them."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cnnstudy import architectures
from cnnstudy.config.factors import complete_levels
from cnnstudy.config.schema import NEED_WEIGHTS, StudyConfig, Weights
from cnnstudy.data.datasets import DataOptions
from cnnstudy.errors import StudyChangedError, WeightsError
from cnnstudy.execution import Executor, Failed, Job
from cnnstudy.execution.jobs import images_job, run_job, run_watched
from cnnstudy.names import Metric, Tag
from cnnstudy.records import EpochRecord, Level, Optimizer, PreparedImages, Rule, Split, TrialResult, TrialSpec
from cnnstudy.study.recorder import TrialRecorder, TrialRecording, remove_trial_files
from cnnstudy.system.cache import ABOUT, build_entry, content_address, entry_folder, try_lock
from cnnstudy.system.code_version import network_code_digest
from cnnstudy.system.display import Display
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.training import checkpoints

#: Part of the address of pretrained weights: raise it when the same pretraining would give other weights.
PRETRAINING_VERSION = 2


@dataclass(frozen=True)
class SourceWeights:
    """Where a network's trials take their source weights from, and what tables and tags say of it."""

    source: str
    file: str | None
    digest: str = ""  # of the weights themselves; "": there are none, or random ones


class Preparation:
    """Runs the jobs that come before the trials, one after the other.

    Args:
        recorded: the study's runs, before anything was prepared.
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

    def images(self, options: DataOptions, names: tuple[str, ...]) -> dict[str, PreparedImages]:
        """The data set at each network's image size, by the network's name.

        Raises:
            DataError: images that are missing or can't be used.
        """
        found = self._result(images_job(self.config, options, names))
        prepared = [PreparedImages.from_json(entry) for entry in found]
        skipped = prepared[0].skipped
        if skipped:
            shown = "\n  ".join(map(str, skipped[:20])) + (
                f"\n  and {len(skipped) - 20} more" if len(skipped) > 20 else ""
            )
            self.display.say(f"{options.name}: {len(skipped)} images can't be used and are skipped:\n  {shown}")
        for warning in prepared[0].warnings:
            self.display.say(f"WARNING: {options.name}: {warning}")
        by_size = {entry.size: replace(entry, skipped=(), warnings=()) for entry in prepared}
        return {name: by_size[self.config.size_of(name)] for name in names}

    def source_weights(self, classes: int) -> dict[str, SourceWeights]:
        """Source weights for each network, where this study's transfer modes need them.

        Raises:
            WeightsError: they can't be had; nothing has been trained for the study then.
            StudyChangedError: trials are recorded that started from others.
        """
        found = {name: SourceWeights("none", None) for name in self.config.architectures}
        wanted = {
            name: self.config.weights_of(name)
            for name in self.config.architectures
            if set(self.config.transfer_modes_of(name)) & set(NEED_WEIGHTS)
        }
        # what only has to be checked comes before what has to be trained
        for name, weights in wanted.items():
            assert weights is not None  # config checks it
            if weights.source == "random":
                found[name] = SourceWeights("random", None)
            elif weights.source != "pretrain":
                payload = {
                    "architecture": name,
                    "image_size": self.config.size_of(name),
                    "classes": classes,
                    "file": str(weights.file) if weights.file else None,
                }
                checked = self._result(Job(f"weights-{name}", "check_weights", payload))
                found[name] = SourceWeights(weights.source, checked["file"], checked["digest"])
        self._refuse_others(found)
        learning = {name: weights for name, weights in wanted.items() if weights and weights.source == "pretrain"}
        images: dict[str, PreparedImages] = {}
        for name, weights in learning.items():
            if name not in images and weights.data is not None:  # once for all that learn on the same data
                same = tuple(other for other in learning if learning[other].data == weights.data)
                images |= self.images(weights.data, same)
            found[name] = self._pretrained(name, weights, images[name])
        self._refuse_others({name: found[name] for name in learning})
        return found

    def _refuse_others(self, found: Mapping[str, SourceWeights]) -> None:
        """Raise StudyChangedError where trials are recorded that started from other source weights."""
        given = {name: weights for name, weights in found.items() if weights.digest}
        for name, weights in given.items():
            others = {run.weights_digest for run in self.recorded if run.architecture == name} - {"", weights.digest}
            if others:
                study = self.recorder.study.name
                raise StudyChangedError(
                    f"the source weights of {name} in {weights.file} are not those that study {study!r} was begun with "
                    f"(their digest is {weights.digest}, not {', '.join(sorted(others))}): the file was changed, or "
                    "learnt anew by other code, on another machine or on a GPU, which rounds otherwise each time. "
                    "Trials of both would not be comparable. Put the file back, or "
                    f"give the study another name (`name:` in the file, or --set name={study}-2)."
                )

    def _pretrained(self, name: str, weights: Weights, images: PreparedImages) -> SourceWeights:
        """Weights learnt on the source data: from the cache, or trained now. Either way MLflow has a run of it."""
        spec = self._pretraining_spec(name, weights, images)
        recipe = recipe_of(spec)
        address = self._begun_with(recipe) or content_address([recipe, network_code_digest(name)])
        tags = {Tag.WEIGHTS_ADDRESS: address, Tag.WEIGHTS_RECIPE: recipe}
        folder = entry_folder("weights", address)
        trained: list[tuple[TrialRecording, TrialResult]] = []
        if not folder.is_dir():
            self._tell_if_another_does(folder, spec)
        # trained while the entry is locked: who waits for it takes these very weights, and records their curves
        build_entry("weights", address, lambda building: trained.append(self._pretrain(spec, tags, building)))
        for recording, result in trained:
            self.recorder.finish(recording, result)
            remove_trial_files(result)
            self.display.end_trial(spec.key, f"validation {100 * result.summary[Metric.VAL_ACCURACY]:.1f} %")
        if not trained:
            self._record_from_cache(spec, tags, folder)
        checkpoints.remove_checkpoint(spec)  # of this call, or of one that was killed when it had put the weights there
        file = folder / "backbone.npz"
        return SourceWeights("pretrain", str(file), digest_of(file))

    def _begun_with(self, recipe: str) -> str:
        """The address of the weights that the study has trials of, where the cache has them; else "".

        Only who accepts that the network's code is another one by now gets here with such: trials of both are to start
        from the same weights.
        """
        addresses = [run.weights_address for run in self.recorded if run.weights_recipe == recipe]
        return next((address for address in addresses if address and entry_folder("weights", address).is_dir()), "")

    def _tell_if_another_does(self, folder: Path, spec: TrialSpec) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with try_lock(folder) as lock:
            if lock is None:
                what = f"the source weights of {spec.architecture}"
                self.display.say(f"{spec.key}: another process is learning {what}; waiting for it")

    def _pretraining_spec(self, name: str, weights: Weights, images: PreparedImages) -> TrialSpec:
        found = architectures.find(name)
        fixed: dict[str, Level] = {"transfer": "scratch", "batch_size": weights.batch_size}
        levels = complete_levels(found.has_auxiliary_heads, found.defaults, lambda factor: fixed.get(factor.name))
        assert weights.data is not None  # schema.Weights checks both
        assert weights.epochs is not None
        return TrialSpec(
            study=self.config.name,
            purpose="pretrain",
            architecture=name,
            number=0,
            seed=self.config.seed,
            levels=levels,
            images=images,
            split=Split(weights.data.validation, weights.data.test, self.config.seed),
            epochs=weights.epochs,
            head_epochs=0,
            patience=None,
            rule=Rule(self.config.objective.metric),
            optimizer=Optimizer("adam"),
            weights_source="none",
            weights_file=None,
            deterministic=self.config.training.deterministic,
            checkpoints=self.config.training.checkpoint_mode,
            share_epochs=self.config.training.share_epochs,
            precision=self.config.training.precision,
            xla=None if self.config.training.xla == "auto" else self.config.training.xla,
        )

    def _pretrain(self, spec: TrialSpec, tags: Mapping[str, str], folder: Path) -> tuple[TrialRecording, TrialResult]:
        """Train the source weights and put them, with their curves and model, into that folder of the cache."""
        recording = self.recorder.start(spec, tags)
        self.display.start_trial(spec.key, f"on {spec.images.name}", spec.epochs)
        job = Job(spec.key, "run_trial", spec.to_json())
        outcome = run_watched(self.executor, job, self.display, lambda record: self._epoch(recording, record))
        if isinstance(outcome, Failed):
            self.recorder.fail(recording, outcome)
            if outcome.reason == "diverged":  # else the next call goes on from there
                checkpoints.remove_checkpoint(spec)
            raise WeightsError(
                f"pretraining {spec.architecture} on {spec.images.name} failed ({outcome.reason}): {outcome.message}"
            )
        result = TrialResult.from_json(outcome.result)

        shutil.copy(result.files["backbone"], folder / "backbone.npz")
        shutil.copytree(result.files["model"], folder / "model")
        record = {"result": result.to_json(), "epochs": [record.to_json() for record in recording.epochs]}
        (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
        about = f"{spec.architecture} of {spec.images.size} pixels, {spec.epochs} epochs on {spec.images.name}"
        (folder / ABOUT).write_text(about, encoding="utf-8", errors="replace")
        return recording, result

    def _epoch(self, recording: TrialRecording, record: EpochRecord) -> None:
        self.recorder.epoch(recording, record)
        self.display.epoch(recording.spec.key, record)

    def _record_from_cache(self, spec: TrialSpec, tags: Mapping[str, str], folder: Path) -> None:
        """A run with the curves and the model, where this study has none of these weights yet."""
        same = [run for run in self.recorded if run.weights_address == tags[Tag.WEIGHTS_ADDRESS]]
        if any(run.state == "finished" for run in same):
            return
        cached = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        recording = self.recorder.start(spec, {**tags, Tag.FROM_CACHE: "true"})
        for entry in cached["epochs"]:
            self.recorder.epoch(recording, EpochRecord.from_json(entry))
        result = TrialResult.from_json(cached["result"])
        with scratch_folder() as own:  # MLflow may link what it gets, and the cache's files are no study's own
            shutil.copytree(folder / "model", own / "model")
            self.recorder.finish(recording, replace(result, files={"model": str(own / "model")}))
        self.display.say(f"{spec.key}: source weights from the cache, {folder}")

    def _result(self, job: Job) -> Any:
        """Run a job that can only succeed or end the study."""
        return run_job(self.executor, job, self.display)


def recipe_of(spec: TrialSpec) -> str:
    """Return a content address of what source weights are learnt by, but for the code; studies have it on record."""
    asked = spec.fields_that_change("training", "record")
    del asked["features"], asked["xla"]  # it has no features, and the other says how, not what is learnt
    # not the study nor where the images lie, but what they are and how large
    asked |= {"study": "", "images": [spec.images.digest, spec.images.size]}
    return content_address([PRETRAINING_VERSION, asked])


def digest_of(file: Path) -> str:
    """Over every byte of the arrays in an .npz, whichever way they are packed.

    Raises:
        WeightsError: it can't be read.
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
            f"can't read the source weights in {file}: {error}. Remove {file.parent}; the next call learns them again."
        ) from error
    return total.hexdigest()
