"""The notebook in docs/ runs from its first cell to its last."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


@pytest.mark.thorough
def test_the_notebook_runs(own_places: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    done = NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(own_places)}}).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    warned = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert [text for text in warned if not text.startswith("note: MLflow has not answered")] == [], "a busy machine"
    shown = [output["data"] for output in outputs if "data" in output]
    assert "<b>study notebook</b>: 12 of 12 trials finished" in "".join(shown[0]["text/html"])
    assert any("image/png" in data for data in shown), "the figure is drawn"
