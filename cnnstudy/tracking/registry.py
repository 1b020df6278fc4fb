"""Find models in MLflow by study, trial or address; download or delete them; register the champion."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from cnnstudy.errors import (
    ModelError,
    TrackingError,
    TrackingUnavailableError,
    UnknownNameError,
    did_you_mean,
    without_secrets,
)
from cnnstudy.names import Tag
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.entities import (
    FoundModel,
    FoundVersion,
    search_all_pages,
    translate_errors,
    with_file_timeout,
    without_client_retries,
)
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, counted_runs
from cnnstudy.tracking.retry import comes_from_store, is_disk_full, is_transient, telling
from cnnstudy.tracking.shown_names import own_tags
from cnnstudy.tracking.study_run import is_missing
from cnnstudy.training import model_files

#: The forms of a model's address.
ADDRESSES = "models:/NAME@ALIAS, models:/NAME/VERSION or models:/m-ID"


@dataclass(frozen=True)
class StoredModel:
    """A model as MLflow holds it."""

    address: str  # as requested
    location: str  # of its folder: a path, or a URI that MLflow can download from
    run_id: str | None
    trial: str  # "STUDY/TRIAL", or "" if its run is not a trial
    version: str = ""  # of the registered model; "" if it is none
    sha256: str = ""  # the recorded hash of its Keras file; "" if none was recorded


class Registry:
    """The models of one tracking server or database."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._client = tracker.client

    def _translate_errors(self) -> AbstractContextManager[None]:
        return translate_errors(self.tracker.uri, self.tracker.tells)

    def champion(self, study: RecordedStudy) -> StoredModel:
        """Return the confirmed champion of a study.

        Raises:
            UnknownNameError: the study has none yet.
        """
        try:
            return self.at(f"models:/{study.name}@champion")
        except UnknownNameError:
            raise UnknownNameError(
                f"study {study.name!r} has no champion yet. `python -m cnnstudy confirm {study.name}` selects one of "
                f"its finished trials. `python -m cnnstudy leaderboard {study.name}` lists them; for the model of one, "
                f"give {study.name}/TRIAL."
            ) from None

    def of_trial(self, study: RecordedStudy, trial: str) -> StoredModel:
        """Return the model of a trial, or of a network's pretraining.

        Raises:
            UnknownNameError: there is no such trial, or it has no model.
        """
        by_name = counted_runs(run for run in self.tracker.runs(study.experiment_id) if run.trial)
        if trial not in by_name:
            names = ", ".join(list(by_name)[:12]) or "none"
            raise UnknownNameError(
                f"there is no trial {trial!r} in study {study.name!r}{did_you_mean(trial, by_name)} "
                f"Available trials: {names}{', ...' if len(by_name) > 12 else ''}."
            )
        run = by_name[trial]
        if not run.model:
            raise UnknownNameError(
                f"trial {trial!r} of study {study.name!r} has no model: it {_why_no_model(run)}. "
                f"`python -m cnnstudy confirm {study.name}` trains the best anew and keeps their models; the column "
                f"`model` of `python -m cnnstudy leaderboard {study.name} --csv -` tells which trials have one."
            )
        return self.at(run.model)

    def at(self, address: str) -> StoredModel:
        """Return the model at an address `models:/...`.

        Raises:
            UnknownNameError: the address is invalid, or there is no model there.
        """
        name, separator, rest = address.removeprefix("models:/").partition("@")
        if not separator:
            name, separator, rest = name.partition("/")
        if not name or bool(separator) != bool(rest) or "/" in rest or (not separator and not name.startswith("m-")):
            raise UnknownNameError(f"{address!r} is not a model address; use {ADDRESSES}.")
        with self._translate_errors(), self._unknown_if_missing(address):
            if not separator:
                logged = self._client.get_logged_model(name)
                location, run_id, source = logged.artifact_location, logged.source_run_id, f"models:/{name}"
                number = ""
            else:
                by_alias = "@" in address
                version = (
                    self._client.get_model_version_by_alias(name, rest)
                    if by_alias
                    else self._client.get_model_version(name, rest)
                )
                location = self._client.get_model_version_download_uri(name, version.version)
                run_id, source, number = version.run_id, str(version.source), str(version.version)
        tags = self._tags_of(run_id)
        trial = "/".join(filter(None, (tags.get(Tag.STUDY), tags.get(Tag.TRIAL))))
        recorded = tags.get(Tag.MODEL_HASH, "") if tags.get(Tag.MODEL) == source else ""
        return StoredModel(address, str(location), run_id or None, trial, number, recorded)

    def fetch_folder(self, model: StoredModel, folder: Path) -> Path:
        """Return the model's folder on this disk; download it into `folder` if it is elsewhere.

        Raises:
            ModelError: the files are missing or can't be read, or the Keras file does not match its recorded hash.
            TrackingUnavailableError: the store that they are in does not answer.
        """
        is_local = urlsplit(model.location).scheme in ("", "file")
        target = None if is_local else str(folder)
        try:
            place = Path(self._download(model.location, target))
            sha256 = model_files.hash_keras_file(place)
        except Exception as reason:
            if not comes_from_store(reason):
                raise
            text = " ".join(str(reason).split())[:500]
            message = without_secrets(f"can't get the files of {model.address} from {model.location}: {text}")
            if not is_local and is_transient(reason) and not is_disk_full(reason):
                raise TrackingUnavailableError(message) from reason
            raise ModelError(message) from reason
        if model.sha256 and sha256 not in (None, model.sha256):
            raise ModelError(
                f"{model_files.find_keras_file(place)} does not match the recorded model of "
                f"{model.trial or model.address}: its SHA-256 is {sha256}, but {model.sha256} was recorded. The file "
                "was changed or damaged; restore it from a backup, or train it again under another study name. (A "
                "model given by its path instead of its study is loaded without this check.)"
            )
        return place

    def _download(self, location: str, target: str | None) -> str:
        telling_wait = telling(f"the files at {location}") if self.tracker.tells else contextlib.nullcontext()
        with telling_wait:
            if target is not None:  # a store that does not even list its files is not waited for as long as for a file
                get_artifact_repository(location, self.tracker.uri).list_artifacts()
            with with_file_timeout():
                return download_artifacts(artifact_uri=location, dst_path=target, tracking_uri=self.tracker.uri)

    def classes(self, model: StoredModel, folder: Path) -> tuple[str, ...] | None:
        """Return the class names from the trial.json of the model's run, or None.

        For models saved by versions that did not store class names with the model.

        Args:
            folder: for downloaded files.
        """
        spec = None if model.run_id is None else self.read_trial_json(model.run_id, folder)
        with contextlib.suppress(KeyError, TypeError):  # a trial.json of another version or program
            return tuple(map(str, spec["images"]["classes"]))  # type: ignore[index]
        return None

    def read_trial_json(self, run_id: str, folder: Path) -> Any:
        """Return the contents of a run's trial.json, its TrialSpec; None if it has none that is JSON.

        Its keys are not checked: another version or program may have written it.

        Args:
            folder: for downloaded files.
        """
        file = self.fetch_file(run_id, "trial.json", folder)
        with contextlib.suppress(ValueError):
            return None if file is None else json.loads(file.read_text(encoding="utf-8"))
        return None

    def fetch_file(self, run_id: str, path: str, folder: Path) -> Path | None:
        """Return a copy of a run's artifact in `folder`; None if there is no such file."""
        with self._translate_errors():
            try:
                return Path(self._client.download_artifacts(run_id, path, str(folder)))
            except (MlflowException, OSError) as reason:
                if is_missing(reason):
                    return None
                raise

    def list_models(self, study: RecordedStudy) -> tuple[FoundModel, ...]:
        """Return the models that the study's runs logged and that were not deleted."""
        search = self._client.search_logged_models
        with self._translate_errors():
            models = search_all_pages(lambda token: search([study.experiment_id], page_token=token))
        return tuple(
            FoundModel(model.model_id, model.name, str(model.status), model.source_run_id or "") for model in models
        )

    def discard_model(self, model_id: str) -> None:
        """Mark a model as failed, delete its files if the store allows that, and delete the model."""
        with self._translate_errors():
            model = self._client.get_logged_model(model_id)
            self._client.finalize_logged_model(model_id, "FAILED")
        with contextlib.suppress(TrackingError), self._translate_errors():  # files without a model do no harm
            self._delete_files(str(model.artifact_location))
        with self._translate_errors():
            self._client.delete_logged_model(model_id)

    def remove_files(self, run_id: str, path: str | None = None) -> None:
        """Delete all artifacts of a run, or those at one path.

        Raises:
            TrackingError: the store does not allow deleting.
        """
        with self._translate_errors():
            self._delete_files(str(self._client.get_run(run_id).info.artifact_uri), path)

    def _delete_files(self, address: str, path: str | None = None) -> None:
        try:
            with with_file_timeout():
                get_artifact_repository(address, self.tracker.uri).delete_artifacts(path)
        except (NotImplementedError, PermissionError) as reason:  # neither is transient
            raise TrackingError(without_secrets(f"the files at {address} can't be deleted: {reason}")) from reason

    def list_versions(self, study: RecordedStudy) -> tuple[FoundVersion, ...]:
        """Return the versions of the study's registered model."""
        with self._translate_errors():
            versions = self._versions(study.name)
        return tuple(FoundVersion(version.name, str(version.version), str(version.status)) for version in versions)

    def _versions(self, name: str) -> list[ModelVersion]:
        return list(self._client.search_model_versions(f"name='{name}'", max_results=1000))

    def remove_version(self, name: str, version: str) -> None:
        """Delete a version of a registered model, but not the model itself."""
        with self._translate_errors():
            self._client.delete_model_version(name, version)

    def register_champion(self, name: str, run: RecordedRun, reason: str) -> str:
        """Give the run's model the alias `champion`, with the reason as its description; return its version.

        A model that is already a version gets no second one.
        """
        source = run.model
        with self._translate_errors(), without_client_retries(), _environment_uri(self.tracker.uri):
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name)
            # an earlier call may have been killed after it created the version
            versions = self._versions(name)
            same = [version.version for version in versions if version.source == source]
            if same:
                version = max(same, key=int)
                self._client.update_model_version(name, version, reason)
            else:
                version = self._client.create_model_version(
                    name, source, run.run_id, description=reason, model_id=source.removeprefix("models:/")
                ).version
            self._client.set_registered_model_alias(name, "champion", version)
        return str(version)

    def add_output(self, run_id: str, address: str) -> None:
        """Record the model at `models:/<id>` as an output of a run that did not train it, once."""
        model_id = address.removeprefix("models:/")
        with self._translate_errors(), without_client_retries():
            outputs = self._client.get_run(run_id).outputs
            if outputs is None or all(output.model_id != model_id for output in outputs.model_outputs):
                self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])

    def describe_version(self, name: str, version: str, note: str) -> None:
        """Set the description of a version of a registered model, in Markdown."""
        with self._translate_errors(), without_client_retries():
            self._client.update_model_version(name, version, note)

    def _tags_of(self, run_id: str | None) -> dict[str, str]:
        """Return the run's tags; {} if there is no such run."""
        if not run_id:
            return {}
        with self._translate_errors():
            try:
                return own_tags(self._client.get_run(run_id).data.tags)
            except MlflowException as reason:
                if is_missing(reason):
                    return {}
                raise

    @contextlib.contextmanager
    def _unknown_if_missing(self, address: str) -> Iterator[None]:
        """Raise MLflow's errors about a missing model as UnknownNameError."""
        try:
            yield
        except MlflowException as reason:
            # INVALID_PARAMETER_VALUE: a missing alias, or a version that is not a number
            if is_missing(reason) or reason.error_code == "INVALID_PARAMETER_VALUE":
                raise UnknownNameError(f"there is no model {address}: {str(reason).rstrip('.')}.") from reason
            raise


@contextlib.contextmanager
def _environment_uri(uri: str) -> Iterator[None]:
    """Set MLFLOW_TRACKING_URI: MLflow looks models up there, whatever URI its client has."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI")
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _why_no_model(run: RecordedRun) -> str:
    if run.state == "running":
        return "is still running"
    if run.state == "finished":
        return "ran with `keep_models: false`"
    return f"was {run.state}" if run.state == "pruned" else f"failed ({run.reason})"
