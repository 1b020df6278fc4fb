"""A folder of random pictures with random labels, each there twice: nothing that a study says may show learning."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from commands import call
from odd_photos import photo, save

STUDY = """\
name: twins
data: {name: folder, path: all}
image_size: 64
architectures: [alexnet]
factors: {batch_size: 8, learning_rate: 0.0003, dropout: 0.0}
training: {epochs: 14}
budget: {trials: 1}
confirm: {top: 1, seeds: 3}
"""


def test_copies_on_both_sides_do_not_look_like_learning(tmp_path: Path) -> None:
    """Were copies divided, memorising would look like 80 % of right answers, in validation and in the sealed test."""
    rng = np.random.default_rng(3)
    for number in range(240):
        picture, folder = photo(number), tmp_path / "all" / ("cat" if rng.random() < 0.5 else "dog")
        save(picture, folder / f"{number:03d}_a.png")
        save(picture.resize((120, 90)), folder / f"{number:03d}_b.jpg", quality=80)
    (tmp_path / "twins.yaml").write_text(STUDY)
    answer = call("run-study", "twins.yaml", folder=tmp_path, limit=600, CNNSTUDY_CACHE=str(tmp_path / "cache"))
    assert answer.code == 0, answer.text
    assert "240 pairs of copies" in answer.output
    trained = re.search(r"alexnet-000  finished, train ([\d.]+) %, val ([\d.]+) %.*: ([\w-]+)\b", answer.output)
    assert trained is not None
    assert trained[3] in ("overfit", "not-learning", "cannot-tell")
    assert float(trained[2]) < 68, "72 validation images, of which half are right by guessing"
    tested = re.search(r"Test split: accuracy [\d.]+ % \[([\d.]+), ([\d.]+)\]", answer.output)
    if tested is None:
        assert "no candidate to confirm" in answer.output, "nothing was memorised"
    else:
        assert float(tested[1]) <= 50 <= float(tested[2])
