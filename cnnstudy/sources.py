"""The keys of `data` and `weights`: where images and source weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from cnnstudy import datasets
from cnnstudy.datasets import DataOptions
from cnnstudy.errors import UnknownNameError
from cnnstudy.strict import Positive, StrictModel, Whole, refused, stated

#: The transfer modes that start from source weights.
NEED_WEIGHTS = ("frozen", "last-block", "fine-tune", "two-phase")


def _data_options(given: Any) -> Any:
    """The options of the data set that `name` names."""
    if isinstance(given, DataOptions):
        return given
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        text = f"is missing; it names the data set: {', '.join(datasets.names())}."
        raise refused("data", [stated(("name",), text)])
    try:
        options = datasets.find(given["name"]).Options
    except UnknownNameError as error:
        raise refused("data", [stated(("name",), str(error))]) from None
    return options.model_validate(given)


Data = Annotated[SerializeAsAny[DataOptions], BeforeValidator(_data_options)]


def _is_file(path: Path) -> bool:
    try:
        return path.expanduser().is_file()
    except (OSError, RuntimeError):  # a name too long, or the home of nobody
        return False


class Weights(StrictModel):
    """Where the source weights of one network come from."""

    source: Literal["pretrain", "imagenet", "file", "random"]
    data: Data | None = None
    epochs: Positive | None = None
    batch_size: Whole = Field(32, ge=1, le=8192)
    file: Path | None = None

    @model_validator(mode="after")
    def _fit_the_source(self) -> Weights:
        needed = {"pretrain": {"data", "epochs"}, "file": {"file"}, "imagenet": set(), "random": set()}[self.source]
        allowed = needed | {"pretrain": {"batch_size"}, "imagenet": {"file"}}.get(self.source, set())
        given = {key for key in self.model_fields_set - {"source"} if getattr(self, key) is not None}
        fitting = ", ".join(sorted(allowed)) or "no other key"
        problems = [stated((key,), f"is missing; source {self.source} needs it.") for key in sorted(needed - given)] + [
            stated((key,), f"does not belong to source {self.source}, which takes {fitting}.")
            for key in sorted(given - allowed)
        ]
        if "file" in allowed and self.file is not None and not _is_file(self.file):
            problems.append(stated(("file",), f"there is no file {str(self.file)!r}; give the path of a weights file."))
        if problems:
            raise refused("weights", problems)
        return self
