"""MLflow's models: found by study, trial or address, brought onto this disk, and the champion named."""

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
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from cnnstudy.errors import ModelError, TrackingError, UnknownNameError, did_you_mean, without_secrets
from cnnstudy.names import Tag
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.entities import (
    FoundModel,
    FoundVersion,
    all_pages,
    translate_errors,
    with_file_timeout,
    without_client_retries,
)
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, latest_runs
from cnnstudy.training import model_files

ADDRESSES = "models:/NAME@ALIAS, models:/NAME/VERSION or models:/m-ID"


@dataclass(frozen=True)
class StoredModel:
    """A model as MLflow has it."""

    address: str  # as it was asked for
    location: str  # of its folder: a path, or an address for MLflow to download from
    run_id: str | None
    trial: str  # "STUDY/TRIAL", or "" where its run is no trial
    sha256: str = ""  # of its Keras file, as it was recorded; "": nobody did


class Registry:
    """The models of one tracking server or database."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._client = tracker.client

    def _translated(self) -> AbstractContextManager[None]:
        return translate_errors(self.tracker.uri)

    def champion(self, study: RecordedStudy) -> StoredModel:
        """The confirmed champion of a study.

        Raises:
            UnknownNameError: there is none yet.
        """
        try:
            return self.at(f"models:/{study.name}@champion")
        except UnknownNameError:
            raise UnknownNameError(
                f"study {study.name!r} has no champion yet: `python -m cnnstudy confirm {study.name}` chooses it from "
                f"its finished trials. `python -m cnnstudy leaderboard {study.name}` shows them; {study.name}/TRIAL is "
                "the model of one."
            ) from None

    def of_trial(self, study: RecordedStudy, trial: str) -> StoredModel:
        """The model of one trial, or of the pretraining of a network.

        Raises:
            UnknownNameError: no such trial, or it left no model.
        """
        by_name = latest_runs(run for run in self.tracker.runs(study.experiment_id) if run.trial)
        if trial not in by_name:
            names = ", ".join(list(by_name)[:12]) or "none"
            raise UnknownNameError(
                f"there is no trial {trial!r} in study {study.name!r}{did_you_mean(trial, by_name)} "
                f"There are {names}{', ...' if len(by_name) > 12 else ''}."
            )
        run = by_name[trial]
        if not run.model:
            raise UnknownNameError(
                f"trial {trial!r} of study {study.name!r} has no model: it {_why_not(run)}. "
                f"`python -m cnnstudy leaderboard {study.name}` shows those that finished."
            )
        return self.at(run.model)

    def at(self, address: str) -> StoredModel:
        """The model at an address `models:/...`.

        Raises:
            UnknownNameError: it is no such address, or nothing is there.
        """
        name, separator, rest = address.removeprefix("models:/").partition("@")
        if not separator:
            name, separator, rest = name.partition("/")
        if not name or bool(separator) != bool(rest) or "/" in rest or (not separator and not name.startswith("m-")):
            raise UnknownNameError(f"{address!r} is no address of a model; it is {ADDRESSES}.")
        with self._translated(), self._unknown(address):
            if not separator:
                logged = self._client.get_logged_model(name)
                location, run_id, source = logged.artifact_location, logged.source_run_id, f"models:/{name}"
            else:
                by_alias = "@" in address
                version = (
                    self._client.get_model_version_by_alias(name, rest)
                    if by_alias
                    else self._client.get_model_version(name, rest)
                )
                location = self._client.get_model_version_download_uri(name, version.version)
                run_id, source = version.run_id, str(version.source)
        tags = self._tags_of(run_id)
        trial = "/".join(filter(None, (tags.get(Tag.STUDY), tags.get(Tag.TRIAL))))
        recorded = tags.get(Tag.MODEL_HASH, "") if tags.get(Tag.MODEL) == source else ""
        return StoredModel(address, str(location), run_id or None, trial, recorded)

    def bring(self, model: StoredModel, folder: Path) -> Path:
        """The model's folder on this disk: where it lies already, else downloaded into `folder`.

        Raises:
            ModelError: its files are gone or out of reach, or its Keras file is not the one that was recorded.
        """
        here = urlsplit(model.location).scheme in ("", "file")
        to = None if here else str(folder)
        try:
            with with_file_timeout():
                place = Path(
                    download_artifacts(artifact_uri=model.location, dst_path=to, tracking_uri=self.tracker.uri)
                )
            found = model_files.hash_keras_file(place)
        except (MlflowException, OSError) as reason:
            text = str(reason).strip().split("\n")[0][:500]
            raise ModelError(
                without_secrets(f"can't get the files of {model.address} from {model.location}: {text}")
            ) from reason
        if model.sha256 and found not in (None, model.sha256):
            raise ModelError(
                f"{model_files.find_keras_file(place)} is not the file that was recorded as the model of "
                f"{model.trial or model.address}: its SHA-256 is {found}, and {model.sha256} was recorded. It was "
                "changed or damaged since; restore it from a copy, or train it again under another study name. (A path "
                "of your own, given in place of a study, is loaded without a record to compare with.)"
            )
        return place

    def classes(self, model: StoredModel, folder: Path) -> tuple[str, ...] | None:
        """The classes' names from what the model's run was asked to do; `folder` is for files.

        For models that were saved before names came with them.
        """
        asked = None if model.run_id is None else self.asked(model.run_id, folder)
        with contextlib.suppress(KeyError, TypeError):  # somebody else's trial.json
            return tuple(map(str, asked["images"]["classes"]))  # type: ignore[index]
        return None

    def asked(self, run_id: str, folder: Path) -> Any:
        """What a run was asked to do, its trial.json; None where it has none that can be read. `folder` is for files.

        Nothing is said of its keys: somebody else, or another version, may have written it.
        """
        with self._translated():
            try:
                path = self._client.download_artifacts(run_id, "trial.json", str(folder))
            except (MlflowException, OSError) as reason:
                if _says_missing(reason):
                    return None
                raise
        with contextlib.suppress(ValueError):
            return json.loads(Path(path).read_text(encoding="utf-8"))
        return None

    def models_of(self, study: RecordedStudy) -> tuple[FoundModel, ...]:
        """What its runs logged and nobody deleted."""
        search = self._client.search_logged_models
        with self._translated():
            found = all_pages(lambda token: search([study.experiment_id], page_token=token))
        return tuple(FoundModel(one.model_id, one.name, str(one.status), one.source_run_id or "") for one in found)

    def discard_model(self, model_id: str) -> None:
        """Mark it as failed, remove its files where the store lets anybody do so, and delete it."""
        with self._translated():
            model = self._client.get_logged_model(model_id)
            self._client.finalize_logged_model(model_id, "FAILED")
        with contextlib.suppress(TrackingError), self._translated():  # files that no model has are in nobody's way
            self._remove_at(str(model.artifact_location))
        with self._translated():
            self._client.delete_logged_model(model_id)

    def remove_files(self, run_id: str, path: str | None = None) -> None:
        """All artifacts of a run, or the one at that path.

        Raises:
            TrackingError: the store lets nobody delete.
        """
        with self._translated():
            self._remove_at(str(self._client.get_run(run_id).info.artifact_uri), path)

    def _remove_at(self, address: str, path: str | None = None) -> None:
        try:
            with with_file_timeout():
                get_artifact_repository(address, self.tracker.uri).delete_artifacts(path)
        except (NotImplementedError, PermissionError) as reason:  # it is no use to wait for either
            raise TrackingError(without_secrets(f"the files at {address} can't be deleted: {reason}")) from reason

    def versions_of(self, study: RecordedStudy) -> tuple[FoundVersion, ...]:
        """The versions of the study's registered model."""
        with self._translated():
            found = self._client.search_model_versions(f"name='{study.name}'", max_results=1000)
        return tuple(FoundVersion(one.name, str(one.version), str(one.status)) for one in found)

    def remove_version(self, name: str, version: str) -> None:
        """Delete a version of a registered model; the model itself stays."""
        with self._translated():
            self._client.delete_model_version(name, version)

    def register_champion(self, name: str, run: RecordedRun, reason: str) -> str:
        """Give the run's model the alias `champion`, with the reason; its version, which is made once."""
        source = run.model
        with self._translated(), without_client_retries(), _default_address(self.tracker.uri):
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name)
            # a call that was killed before it gave the alias has left the version
            versions = self._client.search_model_versions(f"name='{name}'", max_results=1000)
            same = [found.version for found in versions if found.source == source]
            if same:
                version = max(same, key=int)
                self._client.update_model_version(name, version, reason)
            else:
                version = self._client.create_model_version(
                    name, source, run.run_id, description=reason, model_id=source.removeprefix("models:/")
                ).version
            self._client.set_registered_model_alias(name, "champion", version)
        return str(version)

    def _tags_of(self, run_id: str | None) -> dict[str, str]:
        """{} where there is no such run."""
        if not run_id:
            return {}
        with self._translated():
            try:
                return dict(self._client.get_run(run_id).data.tags)
            except MlflowException as reason:
                if _says_missing(reason):
                    return {}
                raise

    @contextlib.contextmanager
    def _unknown(self, address: str) -> Iterator[None]:
        """MLflow's words for what is not there, as UnknownNameError."""
        try:
            yield
        except MlflowException as reason:
            # it calls an alias that is not there, or a version that is no number, an invalid value
            if _says_missing(reason) or reason.error_code == "INVALID_PARAMETER_VALUE":
                raise UnknownNameError(f"there is no model {address}: {str(reason).rstrip('.')}.") from reason
            raise


@contextlib.contextmanager
def _default_address(uri: str) -> Iterator[None]:
    """MLflow's registry looks a model up at the address in the environment, whatever its client's is."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI")
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _says_missing(reason: Exception) -> bool:
    return isinstance(reason, FileNotFoundError) or getattr(reason, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"


def _why_not(run: RecordedRun) -> str:
    if run.state == "running":
        return "is under way"
    if run.state == "finished":
        return "was told to keep none"
    return f"was {run.state}" if run.state == "pruned" else f"failed ({run.reason})"
