"""Trials without their pictures: drawing takes most of the time of many tests, and is tested elsewhere."""

from __future__ import annotations

import pytest


def leave_out_pictures(patch: pytest.MonkeyPatch) -> None:
    """A word in place of curves and confusion matrix."""
    for picture in ("draw_curves", "draw_confusion"):
        patch.setattr(f"cnnstudy.analysis.trial_plots.{picture}", lambda *given: given[-1].write_text("picture"))
