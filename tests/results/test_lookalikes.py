"""What is asked of a worker about pictures that look alike, and what is told of its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from colour_network import picture

from cnnstudy.data.datasets import find
from cnnstudy.data.examination import Examined, examine_images
from cnnstudy.execution import Executor, Job
from cnnstudy.results import lookalikes
from cnnstudy.results.lookalikes import FeatureSource, look_for_lookalikes
from cnnstudy.results.pages.data_summary import format_summary, summarize
from cnnstudy.system.display import Display, PlainDisplay

FEATURES = FeatureSource("resnet18", Path("weights.npz"), 96)


@pytest.fixture
def examined(tmp_path: Path) -> Examined:
    """60 pictures, the first three of which are there a second time, smaller."""
    for seed in range(60):
        folder = tmp_path / "ab"[seed % 2]
        folder.mkdir(exist_ok=True)
        picture(seed).save(folder / f"{seed:02}.png")
        if seed < 3:
            picture(seed, 48).save(folder / f"{seed:02}-small.png")
    return examine_images(find("folder").Options(name="folder", path=tmp_path), 0, lambda *_: None)


def look(examined: Examined, monkeypatch: pytest.MonkeyPatch, found: float, pairs: list[list[int]]) -> dict[str, Any]:
    """What is told if a worker gives this answer."""

    def answer(executor: Executor, job: Job, display: Display) -> dict[str, Any]:
        asked.append(job)
        return {"found": found, "pairs": pairs}

    asked: list[Job] = []
    monkeypatch.setattr(lookalikes, "run_job", answer)
    told = look_for_lookalikes(examined, FEATURES, None, PlainDisplay(lambda text: None))  # type: ignore[arg-type]
    (job,) = asked
    keys = [image.key for image in examined.listed.source.images]
    assert len(job.payload["places"]) == 60 == told["compared"]
    left = {keys[place] for place in set(range(63)) - set(job.payload["places"])}
    assert left == {"a/00.png", "a/02.png", "b/01.png"}, "of each group of copies only the first is compared"
    tested = {place for place, part in examined.parts.items() if part == "test"}
    assert set(job.payload["tested"]) == tested
    assert Path(job.payload["file"]).is_absolute()
    return told


def test_pairs_on_both_sides_are_counted(examined: Examined, monkeypatch: pytest.MonkeyPatch) -> None:
    of: dict[str, list[int]] = {}
    for place, part in sorted(examined.parts.items()):
        of.setdefault(part, []).append(place)
    train, validation, test = (of[part][-3:] for part in ("train", "validation", "test"))
    pairs = [train[:2], [train[0], test[0]], [validation[0], train[1]], [validation[1], test[1]]]
    found = look(examined, monkeypatch, 0.875, pairs)
    assert found["told"].startswith(
        "4 pairs by the features of ResNet 18 (88 % of changed copies are found), 2 with one image in train and one in "
        "validation or test. They are not grouped"
    )
    assert [pair["parts"] for pair in found["pairs"]][1:3] == [["train", "test"], ["validation", "train"]]
    text = format_summary(examined, summarize(examined, None, "", found))
    first, second = found["pairs"][1]["images"]
    assert f"may show the same: {found['told']}:\n" in text
    assert f"\n  {first} (train) ~ {second} (test)\n" in text


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.8, "no pairs by the features of ResNet 18 (80 % of changed copies are found)"),
        (
            0.42,
            "the features of ResNet 18 cannot tell copies from other pictures here (42 % of changed copies are found; "
            "below 50 %, no pairs are listed)",
        ),
    ],
)
def test_nothing_is_listed(examined: Examined, monkeypatch: pytest.MonkeyPatch, share: float, told: str) -> None:
    found = look(examined, monkeypatch, share, [] if share > 0.5 else [[4, 5]])
    assert (found["told"], found["pairs"]) == (told, [])
    text = format_summary(examined, summarize(examined, None, "", found))
    assert f"may show the same: {told}\n" in text
