"""The files of a saved model: the Keras file and its hash, the class names, and its card. Light enough for drivers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cnnstudy
from cnnstudy.errors import ModelError

KERAS_FILE, ONNX_FILE, CLASSES_FILE = "model.keras", "model.onnx", "classes.json"
#: The contract of the input, as JSON; and the model's card, which states it in words.
INPUT_FILE, CARD_FILE = "input.json", "README.md"
#: The subfolder of an MLflow model in which MLflow puts the Keras file.
MLFLOW_DATA = "data"


def find_keras_file(place: Path) -> Path | None:
    """Return the Keras file of a saved model; None if there is none.

    Args:
        place: a `.keras` file, the folder of an MLflow model, or a folder with exactly one `.keras` file.
    """
    if place.is_file():
        return place if place.suffix == ".keras" else None
    for candidate in (place / MLFLOW_DATA / KERAS_FILE, place / KERAS_FILE):
        if candidate.is_file():
            return candidate
    files = [path for path in place.glob("*.keras") if path.is_file()] if place.is_dir() else []
    return files[0] if len(files) == 1 else None


def hash_keras_file(place: Path) -> str | None:
    """Return the SHA-256 of the Keras file that `find_keras_file` finds, in hexadecimal digits; None if it finds none.

    Raises:
        OSError: the file can't be read.
    """
    file = find_keras_file(place)
    if file is None:
        return None
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_classes(folder: Path, classes: Sequence[str]) -> None:
    """Write the class names, in the order of the model's outputs, to the folder of a saved model."""
    text = json.dumps(list(classes), ensure_ascii=False, indent=2)
    (folder / CLASSES_FILE).write_text(f"{text}\n", encoding="utf-8", errors="replace")


def write_card(folder: Path, contract: dict[str, Any]) -> None:
    """Write what a model takes to its folder: INPUT_FILE, and CARD_FILE with the code that prepares a photo.

    Args:
        contract: as `data.decode.describe_input` returns it.
    """
    text = json.dumps(contract, ensure_ascii=False, indent=2)
    (folder / INPUT_FILE).write_text(f"{text}\n", encoding="utf-8", errors="replace")
    names = ", ".join(contract["classes"] or ["not named"])
    lines = [f"- {key}: {names if key == 'classes' else value}" for key, value in contract.items()]
    code = (Path(cnnstudy.__file__).parent / "data" / "prepare.py").read_text(encoding="utf-8")
    card = f"""\
# An image classifier

In: pixels [n, {contract["size"]}, {contract["size"]}, 3]. Out: probabilities [n, classes]. Photos are prepared as
follows, in training as everywhere ({INPUT_FILE} has the same as JSON):

{chr(10).join(lines)}

MLflow's pyfunc takes photos as they are: the base64 text of the file's bytes, in the column `image`.
Elsewhere this prepares them:

```python
{code}```
"""
    (folder / CARD_FILE).write_text(card, encoding="utf-8", errors="replace")


def read_contract(file: Path) -> dict[str, Any] | None:
    """Return the contract of the input that was saved with a Keras file; None if there is none.

    Raises:
        ModelError: it can't be read, or is not that of a model.
    """
    contract = _read_json(file, INPUT_FILE, "the contract of the input")
    if contract is not None and not (isinstance(contract, dict) and {"size", "classes"} <= contract.keys()):
        raise ModelError(
            f"{INPUT_FILE} beside {file} must be a JSON object with `size` and `classes`, as cnnstudy writes it; "
            "restore it, or move it away."
        )
    return contract


def read_classes(file: Path) -> tuple[str, ...] | None:
    """Return the class names that were saved with a Keras file; None if there are none.

    Raises:
        ModelError: they can't be read, or are not a list of names.
    """
    names = _read_json(file, CLASSES_FILE, "the class names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f'{CLASSES_FILE} beside {file} must be a list of class names, such as ["daisy", "tulips"].')
    return tuple(names)


def _read_json(file: Path, name: str, what: str) -> Any:
    """Return the contents of a file of a saved model; None if it is not there."""
    folders = [file.parent, file.parent.parent] if file.parent.name == MLFLOW_DATA else [file.parent]
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise ModelError(f"can't read {what} from {path}: {reason}") from reason
