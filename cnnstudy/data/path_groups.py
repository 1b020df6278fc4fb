"""Groups of images by their paths: the key `groups` of a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from cnnstudy.errors import DataError
from cnnstudy.system.validation import StrictModel, Whole


def _check_pattern(given: str) -> str:
    try:
        names = re.compile(given).groupindex
    except re.error as reason:
        raise ValueError(f"{given!r} is no regular expression: {reason}.") from None
    if "group" not in names:
        raise ValueError(
            f"{given!r} does not say which part of a path names the group; put that part in (?P<group>...), as in "
            r"'(?P<group>IMG_\d+)'."
        )
    return given


class GroupBy(StrictModel):
    """Which images belong together: those whose paths have the same text in `pattern`, or those of one folder."""

    pattern: Annotated[str, AfterValidator(_check_pattern)] | None = None
    folder: Annotated[Whole, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check_one_is_given(self) -> GroupBy:
        if (self.pattern is None) == (self.folder is None):
            raise ValueError(
                r"must hold one key: `pattern`, as in {pattern: '(?P<group>IMG_\d+)'}, or `folder`, as in {folder: 1}."
            )
        return self

    def name_groups(self, keys: Sequence[str]) -> list[str | None]:
        """Return the name of each image's group; None for an image that is in none.

        Raises:
            DataError: no image is in a group.
        """
        names = [self._name_group(key) for key in keys]
        if not any(names):
            wanted = (
                f"no path matches {self.pattern!r}"
                if self.folder is None
                else f"no image is {self.folder} folders below its class folder"
            )
            raise DataError(f"groups: {wanted}; the first paths are {', '.join(map(repr, keys[:3]))}.")
        return names

    def _name_group(self, key: str) -> str | None:
        if self.pattern is not None:
            match = re.search(self.pattern, key)
            return match["group"] if match else None
        assert self.folder is not None
        parts = key.split("/")[:-1]
        return "/".join(parts[: self.folder + 1]) if len(parts) > self.folder else None
