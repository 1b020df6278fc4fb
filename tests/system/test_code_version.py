"""Edits of the code: those that may change a number are reported by place, and harmless ones are not.

Each edit is made in a copy of the package, of which nothing is imported.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sklearn

import cnnstudy
from cnnstudy import architectures
from cnnstudy.system import code_version
from cnnstudy.system.code_version import PACKAGES, Code, code_differences, network_code_digest, training_code

PACKAGE = Path(cnnstudy.__file__).parent
NETWORKS = ("alexnet", "googlenet")
TRAINER, TRIAL, VERDICT = "training/trainer.py", "training/trial.py", "training/verdict.py"
SPLITS, ALEXNET, BUDGET = "data/splits.py", "architectures/alexnet.py", "study/budget.py"
UPDATES, TRANSFER = "training/updates.py", "training/transfer.py"
SGD = "class SGD(SingleDeviceOptimizer, optimizers.SGD):\n"
#: A file, the text that is replaced ("": its end), the new text, and how the difference is reported.
MATTERS = [
    (TRAINER, "self.epoch += 1", "self.epoch += 2", f"{TRAINER}: Trainer.run_epoch changed"),
    (TRAINER, "REFERENCE_BATCH = 32", "REFERENCE_BATCH = 64", f"{TRAINER}: REFERENCE_BATCH changed"),
    (TRAINER, "rank > self", "rank >= self", f"{TRAINER}: BestEpoch.update_if_better changed"),
    (SPLITS, "split.validation * len(members)", "split.test * len(members)", f"{SPLITS}: split_indices changed"),
    (SPLITS, "max(1, round(split.test", "max(2, round(split.test", f"{SPLITS}: count_held_out changed"),
    (SPLITS, "{salt}\\0{keys[i]}", "{salt}-{keys[i]}", f"{SPLITS}: rank_by_hash changed"),
    (SPLITS, "block: int | None = None", "block: int | None = 0", f"{SPLITS}: split_indices changed"),
    (SPLITS, "import hashlib", "import other as hashlib", f"{SPLITS}: rank_by_hash changed"),
    (SPLITS, "", "\n\ndef round(number: float) -> int:\n    return int(number)\n", f"{SPLITS}: round added"),
    ("training/augmentation.py", "15 / 360", "20 / 360", "training/augmentation.py: augmentation_layers changed"),
    (UPDATES, "SGD(learning_rate, momentum", "SGD(0.1, momentum", f"{UPDATES}: build_optimizer changed"),
    (UPDATES, "(_OneKernel, optimizers.Adam)", "(optimizers.Adam)", f"{UPDATES}: Adam changed"),
    (UPDATES, SGD, f"{SGD}    nesterov = False\n", f"{UPDATES}: SGD changed"),
    (UPDATES, SGD, f"{SGD}    def apply(self): return 1\n", f"{UPDATES}: SGD.apply added"),
    (TRANSFER, "def is_trained_in(", "@print\ndef is_trained_in(", f"{TRANSFER}: is_trained_in changed"),
    (TRANSFER, "    epochs: int\n", "    epochs: int = 1\n", f"{TRANSFER}: Phase changed"),
    ("training/metrics.py", "np.float64", "np.float32", "training/metrics.py: clean_metrics changed"),
    (VERDICT, "GUESSING_LEVEL = 0.005", "GUESSING_LEVEL = 0.05", f"{VERDICT}: GUESSING_LEVEL changed"),
    (TRIAL, "cnnstudy.training.verdict import", "cnnstudy.training.nowhere import", "judge removed"),
    (TRIAL, "", "\nkeras.config.set_floatx('float16')\n", f"{TRIAL}: what it does on import added"),
    (TRIAL, "", "\nkeras.mixed_precision.mine = 1\n", f"{TRIAL}: what it does on import added"),
    ("data/decode.py", "BILINEAR", "NEAREST", "data/decode.py: resize changed"),
    (ALEXNET, '"conv1", 48,', '"conv1", 64,', f"{ALEXNET}: TABLE changed"),
    (ALEXNET, "1 / 255", "1 / 127.5", f"{ALEXNET}: build changed"),
    ("architectures/googlenet.py", "def build(", "def made(", "build removed"),
    ("architectures/__init__.py", "Dropout(dropout,", "Dropout(0.5,", "architectures/__init__.py: dense_head changed"),
    ("config/factors.py", '"batch_size", int, 32', '"batch_size", int, 16', "config/factors.py: FACTORS changed"),
    (BUDGET, "def trial_epochs(", "@print\ndef trial_epochs(", f"{BUDGET}: trial_epochs changed"),
    ("records.py", "_ROUNDING = 1e-9", "_ROUNDING = 0", "records.py: _ROUNDING changed"),
    ("execution/local.py", 'ONEDNN_OPTS": "1"', 'ONEDNN_OPTS": "0"', "execution/local.py: WORKER_ENVIRONMENT changed"),
]
RUN_EPOCH = "def run_epoch(self) -> EpochRecord:\n"
HARMLESS = [
    (TRAINER, "self.epoch += 1", "self.epoch += 1  # the first one is 1"),
    (TRAINER, "self.epoch += 1", "self.epoch  +=  (\n            1\n        )"),
    (TRAINER, RUN_EPOCH, f'{RUN_EPOCH}        """Another docstring."""\n'),
    (TRAINER, RUN_EPOCH, f"{RUN_EPOCH}        # a comment\n        pass\n"),
    (TRAINER, 'raise DivergedError(f"', 'raise DivergedError(f"in other words: {self.spec} '),
    (TRAINER, "def run_epoch(self) -> EpochRecord:", "def run_epoch(self):"),
    (TRAINER, "import math\n", "import math\nimport statistics\n"),
    (SPLITS, "\n", "\r\n"),
    (SPLITS, "import hashlib\n", "import os\nimport hashlib\n"),
    (SPLITS, "keys: Sequence[str], labels: Sequence[int], salt: str", "keys: list, labels: list, salt"),
    (SPLITS, "parts: dict[str, list[list[int]]] = {", "parts = {"),
    (SPLITS, "", "\n\ndef nobody_calls_it() -> None:\n    pass\n"),
    (SPLITS, "", "\n\ndef members() -> None:\n    pass\n"),  # a local name of the others
    (SPLITS, "", "\n\nif __name__ == '__main__':\n    print(split_indices)\n"),
    (SPLITS, "from cnnstudy.records import Split\n", "from cnnstudy.records import Split\n__doc__: str\n"),
    (UPDATES, SGD, f'{SGD}    """Stochastic gradient descent."""\n'),
    (UPDATES, SGD, f"{SGD}    pass\n"),
    (UPDATES, "assert isinstance(self, optimizers.Adam)", "assert isinstance(self, optimizers.Adam), 'another'"),
    ("training/checkpoints.py", "MIN_INTERVAL, WRITE_SHARE = 60.0, 0.05", "MIN_INTERVAL, WRITE_SHARE = 30.0, 0.1"),
    ("training/model_package.py", "", "\nMORE = 1\n"),
    ("training/mistakes.py", "", "\nMORE = 1\n"),
    ("training/brand_new.py", "", "MORE = 1\n"),
    ("architectures/brand_new.py", "", "ARCHITECTURE = None\n"),
    ("architectures/vgg16.py", "", "\nMORE = 1\n"),  # no network of the study
    ("results/network_drawing.py", "", "\nMORE = 1\n"),
    ("data/datasets/brand_new.py", "", "MORE = 1\n"),
    ("data/datasets/digits.py", "", "\nMORE = 1\n"),
    ("results/pages/svg.py", "", "\nMORE = 1\n"),
    ("cli/run.py", "", "\nMORE = 1\n"),
    ("tracking/client.py", "", "\nMORE = 1\n"),
    ("search/optuna_search.py", "", "\nMORE = 1\n"),
    ("records.py", "", "\nMORE = 1\n"),
    ("config/factors.py", "AUGMENTATIONS = {", 'AUGMENTATIONS = {"other": "words",'),
    ("execution/local.py", "STACK_TRACE_SECONDS = 5", "STACK_TRACE_SECONDS = 7"),
    ("execution/worker.py", "", "\nMORE = 1\n"),
]


def clear() -> None:
    """Forget the code that was read."""
    code_version._units.cache_clear()
    code_version._package.cache_clear()


class Copied:
    """A copy of the package that takes the place of the one that runs."""

    def __init__(self, folder: Path, before: Code) -> None:
        self.folder, self.before = folder, before

    def edit(self, file: str, before: str, after: str) -> None:
        path = self.folder / file
        text = path.read_bytes().decode() if path.exists() else ""
        assert before in text, f"{before!r} is not in {file}"
        path.write_bytes((text.replace(before, after) if before else text + after).encode())
        clear()

    def differences(self) -> list[str]:
        return code_differences(self.before, training_code(NETWORKS))


@pytest.fixture(scope="module")
def unedited() -> Code:
    return training_code(NETWORKS)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unedited: Code) -> Iterator[Copied]:
    folder = tmp_path / "cnnstudy"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__", "templates"))
    monkeypatch.setattr(cnnstudy, "__file__", str(folder / "__init__.py"))
    clear()
    yield Copied(folder, unedited)
    clear()


def test_there_are_enough_of_them() -> None:
    assert len({edit[:3] for edit in MATTERS}) >= 25
    assert len(set(HARMLESS)) == len(HARMLESS) >= 25


@pytest.mark.parametrize(("file", "before", "after", "told"), MATTERS, ids=[told for *_, told in MATTERS])
def test_an_edit_that_matters_is_told(copied: Copied, file: str, before: str, after: str, told: str) -> None:
    copied.edit(file, before, after)
    assert told in copied.differences()


@pytest.mark.parametrize(
    ("file", "before", "after"), HARMLESS, ids=[f"{file}: {after!r}" for file, _, after in HARMLESS]
)
def test_a_harmless_edit_is_no_difference(copied: Copied, file: str, before: str, after: str) -> None:
    copied.edit(file, before, after)
    assert copied.differences() == []
    assert training_code(NETWORKS).digest == copied.before.digest


def test_the_digest_of_a_network_is_of_what_builds_it(copied: Copied) -> None:
    def digests() -> list[str]:
        return [network_code_digest(name) for name in ("alexnet", "vgg16")]

    alexnet, vgg16 = digests()
    assert alexnet != vgg16
    copied.edit(TRAINER, "self.epoch += 1", "self.epoch += 2")
    assert digests() == [alexnet, vgg16]
    copied.edit(ALEXNET, "1 / 255", "1 / 127.5")
    changed, same = digests()
    assert changed != alexnet
    assert same == vgg16
    copied.edit("architectures/__init__.py", 'name=f"{HEAD}_flatten"', 'name=f"{HEAD}_flat"')
    assert changed not in digests()
    assert vgg16 not in digests()


def test_only_what_differs_is_told(copied: Copied) -> None:
    copied.edit(TRAINER, "self.epoch += 1", "self.epoch += 2")
    copied.edit(ALEXNET, "1 / 255", "1 / 127.5")
    assert copied.differences() == [f"{ALEXNET}: build changed", f"{TRAINER}: Trainer.run_epoch changed"]


@pytest.mark.parametrize("package", ["tensorflow", "keras", "numpy", "Pillow"])
def test_other_versions_are_told(package: str) -> None:
    now = training_code(NETWORKS)
    then = Code(now.units, {**now.versions, package: "0.1.0"})
    assert code_differences(then, now) == [f"{package} 0.1.0 -> {now.versions[package]}"]
    without = {name: version for name, version in now.versions.items() if name != package}
    assert code_differences(Code(now.units, without), now) == [f"{package} none -> {now.versions[package]}"]


def test_what_fits_heads_counts_where_heads_are_fitted() -> None:
    plain, fitting = training_code(NETWORKS), training_code(NETWORKS, fits_heads=True)
    assert plain.units == fitting.units
    assert code_differences(plain, fitting) == [f"scikit-learn none -> {sklearn.__version__}"]


def test_another_python_is_told_and_its_trees_are_not_compared() -> None:
    now = training_code(NETWORKS)
    then = Code({"REFERENCE_BATCH": "0"}, {**now.versions, "python": "3.10"})
    assert code_differences(then, now) == [f"python 3.10 -> {now.versions['python']}"]
    assert now.versions["python"].count(".") == 1  # another patch is none


def test_each_network_has_its_own_files() -> None:
    files = {
        name: {file for file in training_code((name,)).files.values() if "architectures" in file}
        for name in (*architectures.names(), "keras:MobileNetV2", "file:net.py:build@0123456789")
    }
    with_others = {name: {name, "_residual", "_torchvision"} for name in ("resnet18", "resnet50")}
    with_others |= {f"{name}_torchvision": {f"{name}_torchvision", "_torchvision"} for name in ("alexnet", "vgg16")}
    with_others["googlenet_torchvision"] = {"googlenet_torchvision", "_torchvision", "googlenet"}
    with_others["keras:MobileNetV2"] = {"_keras_applications"}
    with_others["file:net.py:build@0123456789"] = {"_own_network"}
    assert files == {
        name: {f"architectures/{one}.py" for one in ("__init__", *with_others.get(name, {name}))} for name in files
    }


def test_everything_that_a_trial_imports_is_counted(unedited: Code) -> None:
    counted = {file for file in unedited.files.values() if file.startswith("training/")}
    unused = {"__init__", "export", "mistakes", "model_files", "predict", "served_model", "speed", "test_split"}
    unused |= {"feature_tables", "lookalikes", "weight_import", "weight_verification"}
    assert counted == {
        f"training/{file.name}" for file in (PACKAGE / "training").glob("*.py") if file.stem not in unused
    }


def test_what_is_named_is_there() -> None:
    package = code_version._package(PACKAGE)
    assert [name for name in sorted(code_version._APART) if not package.modules_with(name)] == []
    for name in (*code_version._ROOTS, code_version._BUILDER):
        package.find(name)
    with pytest.raises(LookupError, match="not in one module"):
        package.find("build")


# ---- where it lies


def rename_module(copied: Copied, file: str, new: str) -> None:
    """Move a file and let all modules import it from there."""
    (copied.folder / new).parent.mkdir(exist_ok=True)
    (copied.folder / file).rename(copied.folder / new)
    (folder, old_name), (new_folder, name) = (tuple(path.removesuffix(".py").split("/")) for path in (file, new))
    for path in copied.folder.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        text = text.replace(f"cnnstudy.{folder}.{old_name} import", f"cnnstudy.{new_folder}.{name} import")
        path.write_text(text, encoding="utf-8")
    clear()


def identity() -> tuple[Code, str, str]:
    code = training_code(NETWORKS)
    return code, code.digest, network_code_digest("alexnet")


def test_modules_may_be_renamed(copied: Copied) -> None:
    before = identity()
    rename_module(copied, TRAINER, "training/loop.py")
    rename_module(copied, "training/loop.py", "elsewhere/epochs.py")
    assert identity() == before
    assert copied.differences() == []
    copied.edit("elsewhere/epochs.py", "self.epoch += 1", "self.epoch += 2")
    assert copied.differences() == ["elsewhere/epochs.py: Trainer.run_epoch changed"]


def test_modules_may_be_merged(copied: Copied) -> None:
    """An attribute of one module becomes an attribute of the other."""
    before = identity()
    transfer = (copied.folder / TRANSFER).read_text(encoding="utf-8")
    copied.edit("training/devices.py", "", transfer.replace("from __future__ import annotations\n", ""))
    (copied.folder / TRANSFER).unlink()
    for path in copied.folder.rglob("*.py"):
        text = path.read_text(encoding="utf-8").replace("cnnstudy.training.transfer", "cnnstudy.training.devices")
        text = re.sub(r"(from cnnstudy.training import .*)\btransfer\b", r"\1devices as transfer", text)
        path.write_text(text, encoding="utf-8")
    clear()
    assert identity() == before


def test_a_module_may_be_split(copied: Copied) -> None:
    before = identity()
    text = (copied.folder / SPLITS).read_text(encoding="utf-8")
    start, end = text.index("def count_held_out("), text.index("def ", text.index("def count_held_out(") + 4)
    (copied.folder / "counts.py").write_text(text[start:end], encoding="utf-8")
    copied.edit(SPLITS, text[start:end], "from cnnstudy.counts import count_held_out as count\n\n\n")
    copied.edit(SPLITS, "[count_held_out(", "[count(")
    assert copied.differences() == []
    assert identity() == before


def test_a_network_may_lie_in_another_folder(copied: Copied) -> None:
    before = identity()
    rename_module(copied, ALEXNET, "networks/alexnet.py")
    assert identity() == before


def test_units_of_one_name_are_told_apart_by_what_they_are(copied: Copied) -> None:
    assert copied.before.units["build"].count("+") == 1  # two networks'
    copied.edit(ALEXNET, "1 / 255", "1 / 127.5")
    assert copied.differences() == [f"{ALEXNET}: build changed"]


def test_it_is_small_and_comes_back_from_json() -> None:
    code = training_code(architectures.names())
    text = json.dumps(code.to_json())
    assert Code.from_json(json.loads(text)) == code
    assert len(text) < 20_000
    assert set(code.versions) <= {"python", *PACKAGES}
