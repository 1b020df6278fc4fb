"""Groups of images by their paths or their shooting times: the key `groups` of a data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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


#: Seconds since 1970 are rounded to less.
_ROUNDING = 1e-5
#: By which camera an image was taken, and when, in seconds by the camera's clock; None: the file does not say.
Taken = tuple[str, float] | None


class GroupBy(StrictModel):
    """Which images belong together: those whose paths have the same text in `pattern`, or those of one folder.

    With `seconds`, those that one camera took at most so many seconds after each other.
    """

    pattern: Annotated[str, AfterValidator(_check_pattern)] | None = None
    folder: Annotated[Whole, Field(ge=1)] | None = None
    seconds: Annotated[float, Field(ge=0, strict=True)] | None = None

    @model_validator(mode="after")
    def _check_one_is_given(self) -> GroupBy:
        if sum(one is not None for one in (self.pattern, self.folder, self.seconds)) != 1:
            raise ValueError(
                r"must hold one key: `pattern`, as in {pattern: '(?P<group>IMG_\d+)'}, `folder`, as in {folder: 1}, or "
                "`seconds`, as in {seconds: 2}."
            )
        return self

    def name_groups(
        self, keys: Sequence[str], taken: Callable[[], Sequence[Taken]], class_depth: int = 1
    ) -> list[str | None]:
        """Return the name of each image's group; None for an image that is in none.

        Args:
            keys: of the images.
            taken: returns when each was taken.
            class_depth: on which level of a path the class folders are; 0: there are none.

        Raises:
            DataError: no image is in a group.
        """
        if self.seconds is not None:
            return name_bursts(taken(), self.seconds)
        if self.folder is not None and not class_depth:
            raise DataError("groups: a table has no class folders to count from; give its column `group`.")
        names = [self._name_group(key, class_depth) for key in keys]
        if not any(names):
            wanted = (
                f"no path matches {self.pattern!r}"
                if self.folder is None
                else f"no image is {self.folder} folders below its class folder"
            )
            raise DataError(f"groups: {wanted}; the first paths are {', '.join(map(repr, keys[:3]))}.")
        return names

    def _name_group(self, key: str, class_depth: int) -> str | None:
        if self.pattern is not None:
            match = re.search(self.pattern, key)
            return match["group"] if match else None
        assert self.folder is not None
        parts, depth = key.split("/")[:-1], class_depth + self.folder
        return "/".join(parts[:depth]) if len(parts) >= depth else None


def name_bursts(taken: Sequence[Taken], seconds: float) -> list[str | None]:
    """Return a name for the images that one camera took at most so many seconds after each other.

    Raises:
        DataError: no image says when it was taken.
    """
    names: list[str | None] = [None] * len(taken)
    timed = sorted((one, place) for place, one in enumerate(taken) if one is not None)
    if not timed:
        raise DataError(
            "groups: no image says when it was taken (DateTimeOriginal in its EXIF data); use `pattern`, `folder`, "
            "or a table with a column `group`."
        )
    burst, previous = 0, timed[0][0]
    for one, place in timed:
        if one[0] != previous[0] or one[1] - previous[1] > seconds + _ROUNDING:
            burst += 1
        names[place], previous = f"burst {burst}", one
    return names
