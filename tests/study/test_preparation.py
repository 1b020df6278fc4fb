"""Preparation before the first trial: images, decoded by a real worker, and source weights."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_executor import FakeExecutor
from odd_photos import photo, save, write_photos
from pictures import leave_out_pictures
from PIL import Image

from cnnstudy.config.load import load_study
from cnnstudy.config.schema import StudyConfig
from cnnstudy.data.images import list_parts
from cnnstudy.errors import ConfigError, DataError, WeightsError
from cnnstudy.execution import Epoch, Event, Failed
from cnnstudy.execution.jobs import first_job
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.records import Split
from cnnstudy.study import preparation
from cnnstudy.study.preparation import Preparation, SourceWeights
from cnnstudy.study.recorder import Recorder
from cnnstudy.system import cache
from cnnstudy.system.cache import cache_folder
from cnnstudy.system.display import PlainDisplay
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun

STUDY = """\
name: probe
data: {name: folder, path: photos, bad_images: skip}
image_size: 64
architectures: [alexnet]
training: {epochs: 1}
budget: {trials: 1}
"""


@pytest.mark.parametrize(
    ("entry", "advice"),
    [
        ("source: imagenet, file: w.h5", "Expected is vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5 from https://"),
        ("source: file, file: w.h5", "Expected is a .h5, .keras, .npz file that holds the layers of vgg16 by name"),
        ("source: imagenet", ""),
    ],
)
def test_weights_that_cannot_be_read_are_answered_with_what_is_expected(
    own_places: Path, entry: str, advice: str
) -> None:
    text = STUDY.replace("alexnet", "vgg16").replace("name: folder, path: photos, bad_images: skip", "name: digits")
    (own_places / "probe.yaml").write_text(f"{text}factors: {{transfer: frozen}}\nweights: {{vgg16: {{{entry}}}}}\n")
    (own_places / "w.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    broken = Failed("weights-vgg16", "crash", "can't read w.h5: truncated", "", error="WeightsError")
    executor = FakeExecutor(own_places, failures={"weights-vgg16": broken})
    config = load_study("probe.yaml").config
    preparation = Preparation(config, executor, None, [], PlainDisplay(lambda text: None))  # type: ignore[arg-type]
    with pytest.raises(WeightsError) as caught:
        preparation.source_weights()
    assert executor.jobs == [first_job(config)], "what a worker starts ahead is what comes first"
    assert str(caught.value).startswith(f"can't read w.h5: truncated. {advice}" if advice else "can't read w.h5")
    assert ("Expected" in str(caught.value)) == bool(advice)


@pytest.mark.parametrize(
    ("transfer", "factors", "told"),
    [
        ("fine-tune", "", ["resnet18: with fine-tune, BatchNormalization below the head keeps the statistics, scales"]),
        ("[frozen, last-block, two-phase]", "", ["resnet18: with last-block, two-phase, BatchNormalization below"]),
        ("fine-tune", ", batch_norm: {resnet18: trained}", []),
        ("frozen", "", []),
    ],
)
def test_it_is_told_that_batch_normalisation_stays_frozen(
    own_places: Path, transfer: str, factors: str, told: list[str]
) -> None:
    text = (
        STUDY.replace("[alexnet]", "[alexnet, resnet18]")
        .replace("trials: 1", "trials: 2")
        .replace("epochs: 1", "epochs: 3")
    )
    (own_places / "photos").mkdir()
    (own_places / "probe.yaml").write_text(
        f"{text}factors: {{transfer: {transfer}{factors}}}\nweights: {{default: {{source: random}}}}\n"
    )
    said: list[str] = []
    config = load_study("probe.yaml").config
    executor = FakeExecutor(own_places)
    Preparation(config, executor, None, [], PlainDisplay(said.append)).check_sources()  # type: ignore[arg-type]
    found = [line for line in said if "BatchNormalization" in line]
    assert len(found) == len(told)
    assert all(start in line for start, line in zip(told, found, strict=True))


def test_skipped_images_and_copies_are_told_before_the_first_trial(own_places: Path) -> None:
    for label, name in enumerate(("apple", "pear")):
        (own_places / "photos" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (9, 9), (number, label, 0)).save(own_places / "photos" / name / f"{number}.png")
    (own_places / "photos" / "pear" / "\x1b[31mred.png").write_bytes(b"")
    (own_places / "photos" / "pear" / "same.png").write_bytes((own_places / "photos/apple/0.png").read_bytes())
    (own_places / "probe.yaml").write_text(STUDY)
    config = load_study("probe.yaml", ()).config
    told: list[str] = []
    with contextlib.closing(LocalExecutor(1, own_places / "trials")) as executor:
        preparation = Preparation(config, executor, None, [], PlainDisplay(told.append))  # type: ignore[arg-type]
        found = preparation.images(config.data, ("alexnet",))
        assert (
            found["alexnet"].skipped == found["alexnet"].warnings == ()
        )  # reported once, and left out of every trial's specification
        described = [text for text in told if text.startswith("folder: 13 images of 2 classes: apple (6), pear (7)\n")]
        assert len(described) == 1
        assert "folder: 1 images can't be used and are skipped:\n  pear/\\x1b[31mred.png: an empty file" in told
        copies = "WARNING: folder: an image is in more than one class, as byte-identical copies; remove the wrong ones:"
        assert f"{copies}\n  apple/0.png = pear/same.png" in told
        refusing = config.data.model_copy(update={"bad_images": "refuse"})
        with pytest.raises(DataError, match=r"pear/\\x1b\[31mred.png: an empty file"):
            preparation.images(refusing, ("alexnet",))


@pytest.mark.parametrize(
    ("layers", "factors", "said"),
    [
        ("Conv2D(4, 3)", "{}", ""),
        ("BatchNormalization()", "{batch_norm: trained, transfer: fine-tune}", ""),
        (
            "Conv2D(4, 3)",
            "{batch_norm: trained, transfer: fine-tune}",
            "acts on BatchNormalization, which file:net.py:",
        ),
        ("Conv2D(4, kernel)", "{}", "net.py, line 4: NameError: name 'kernel' is not defined."),
    ],
)
def test_a_network_of_ones_own_is_built_before_anything_else(
    own_places: Path, layers: str, factors: str, said: str
) -> None:
    (own_places / "photos").mkdir()
    (own_places / "net.py").write_text(
        f"import keras\n\ndef build(image_size):\n    return keras.Sequential([keras.layers.{layers}])\n"
    )
    text = STUDY.replace("[alexnet]", "[file:net.py:build]")
    (own_places / "probe.yaml").write_text(f"{text}factors: {factors}\nweights: {{default: {{source: random}}}}\n")
    config = load_study("probe.yaml").config
    (own_places / "net.py").unlink()  # the worker has what the study began with
    with contextlib.closing(LocalExecutor(1, own_places / "trials")) as executor:
        preparation = Preparation(config, executor, None, [], PlainDisplay(lambda text: None))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=said) if said else contextlib.nullcontext():
            preparation.check_networks()


def test_a_part_that_a_probe_names_is_looked_up_before_anything_else(own_places: Path) -> None:
    (own_places / "photos").mkdir()
    (own_places / "probe.yaml").write_text(f"{STUDY}weights: {{default: {{source: random}}}}\n")
    cases = {
        "{probe: svm, layer: conv4, features: flat}": "",
        "{probe: svm, layer: conv7}": r"AlexNet .*has no layer or stage 'conv7'; did you mean",
        "flat probe of pad": "the flat outputs of pad in AlexNet .* are 154,587 numbers for each image",
    }
    with contextlib.closing(LocalExecutor(1, own_places / "trials")) as executor:
        for mode, said in cases.items():
            config = load_study("probe.yaml", ["image_size=224", f"factors.transfer=[frozen, {mode}]"]).config
            preparation = Preparation(config, executor, None, [], PlainDisplay(lambda text: None))  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match=said) if said else contextlib.nullcontext():
                preparation.check_networks()


LEARNING = """\
name: probe
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {transfer: frozen}
weights: {default: {source: pretrain, epochs: 2, data: {name: digits, classes: [3, 4]}}}
training: {epochs: 1}
budget: {trials: 1}
"""


@pytest.fixture
def config(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> StudyConfig:
    """Settings of a study that pretrains source weights."""
    leave_out_pictures(monkeypatch)
    (own_places / "probe.yaml").write_text(LEARNING)
    return load_study("probe.yaml", ()).config


def test_two_studies_that_need_the_same_weights_learn_them_once(
    own_places: Path, make_tracker: Callable[[str], Tracker], config: StudyConfig
) -> None:
    """They start together: the second one waits, and gets a run with the curves of the weights that its trials use."""
    waits = threading.Event()
    found: dict[str, SourceWeights] = {}
    trained: dict[str, list[str]] = {}
    runs: dict[str, RecordedRun] = {}

    def show_message(text: str) -> None:
        if "another process is training the source weights of alexnet" in text:
            waits.set()

    def learn(name: str, tracker: Tracker, on_event: Callable[[Event], None] = lambda event: None) -> None:
        study = tracker.open_study("probe", config.model_dump(mode="json"))
        recorder, executor = Recorder(tracker, study), FakeExecutor(own_places / name, on_event=on_event)
        with contextlib.closing(recorder.outbox):
            found[name] = Preparation(config, executor, recorder, [], PlainDisplay(show_message)).source_weights()[
                "alexnet"
            ]
            (runs[name],) = [run for run in recorder.runs() if run.kind == "pretrain"]
        trained[name] = executor.trials

    other = threading.Thread(target=learn, args=("other", make_tracker("other")), daemon=True)

    def begin_the_other(event: Event) -> None:
        if isinstance(event, Epoch) and not waits.is_set():
            other.start()
            assert waits.wait(60)

    learn("one", make_tracker("one"), begin_the_other)
    other.join(60)
    assert trained == {"one": ["pretrain-alexnet"], "other": []}
    assert found["one"] == found["other"]
    assert [run.state for run in runs.values()] == ["finished", "finished"]
    assert runs["one"].metrics["val/accuracy"] == runs["other"].metrics["val/accuracy"]
    assert "cnnstudy.from_cache" not in runs["one"].tags
    assert "cnnstudy.from_cache" in runs["other"].tags
    models = [path for path in own_places.rglob("model.keras") if path.is_file()]
    in_cache = [path for path in models if path.is_relative_to(cache_folder())]
    assert len(in_cache) == 1
    assert len(models) >= 3, "each study has one in MLflow"
    for path in set(models) - set(in_cache):  # editing one study's copy must not edit another's
        assert not path.samefile(in_cache[0]), path


def test_weights_of_a_network_that_was_changed_are_learnt_anew(
    own_places: Path, make_tracker: Callable[[str], Tracker], config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    for name, code in (("one", "a"), ("same", "a"), ("changed", "b")):
        monkeypatch.setattr(preparation, "network_code_digest", lambda of, code=code: f"{of} {code}")
        tracker = make_tracker(name)
        recorder = Recorder(tracker, tracker.open_study("probe", config.model_dump(mode="json")))
        executor = FakeExecutor(own_places / name)
        with contextlib.closing(recorder.outbox):
            Preparation(config, executor, recorder, [], PlainDisplay(print)).source_weights()
        trained.append(executor.trials)
    assert trained == [["pretrain-alexnet"], [], ["pretrain-alexnet"]]


def test_a_study_goes_on_with_the_weights_that_it_began_with(
    own_places: Path, tracker: Tracker, config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user accepted a change of the network's code; the weights are used as long as the cache has them."""
    study = tracker.open_study("probe", config.model_dump(mode="json"))
    trained, files = [], []
    for call, code in enumerate(("a", "b", "b")):
        if call == 2:
            cache.clear_entries(cache.list_entries("weights"))
        monkeypatch.setattr(preparation, "network_code_digest", lambda of, code=code: f"{of} {code}")
        recorder, executor = Recorder(tracker, study), FakeExecutor(own_places / str(call))
        with contextlib.closing(recorder.outbox):
            preparing = Preparation(config, executor, recorder, recorder.runs(), PlainDisplay(print))
            files.append(preparing.source_weights()["alexnet"].file)
        trained.append(executor.trials)
    assert trained == [["pretrain-alexnet"], [], ["pretrain-alexnet"]]
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("copies", ["together", "ignore"])
def test_images_to_pretrain_on_that_are_the_studys_own_are_told(own_places: Path, copies: str) -> None:
    write_photos(own_places / "photos", {"a": 12, "b": 12})
    write_photos(own_places / "others", {"c": 8, "d": 8}, first=5000)
    for number in (0, 3, 7):
        save(photo(number).resize((120, 90)), own_places / "others" / "c" / f"again{number}.png")
    source = f"{{name: folder, path: others, copies: {copies}}}"
    (own_places / "probe.yaml").write_text(
        STUDY.replace("alexnet]", "alexnet, vgg16]").replace("trials: 1", "trials: 4")
        + f"factors: {{transfer: [frozen]}}\nweights: {{default: {{source: pretrain, epochs: 1, data: {source}}}}}\n"
    )
    config, said = load_study("probe.yaml").config, list[str]()
    executor = FakeExecutor(own_places, reads_folders=True)
    preparing = Preparation(config, executor, None, [], PlainDisplay(said.append))  # type: ignore[arg-type]
    images = preparing.images(config.data, config.architectures)
    preparing.check_sources()
    preparing.warn_of_source_copies(images)
    split = Split(config.data.validation, config.data.test, config.seed)
    parts = {key: part for key, _, part in list_parts(images["alexnet"], split, None)}
    held = sum(parts[f"a/{number:02}.jpg"] != "train" for number in (0, 3, 7))
    told = (
        f"WARNING: 3 of the study's images ({held} of its validation and test images) have a near-duplicate among the "
        "images that source weights are pretrained on, which makes transfer look better than it is; remove them there"
    )
    assert [text for text in said if "near-duplicate" in text] == [told] * (copies == "together")
    assert [job.kind for job in executor.jobs].count("count_source_copies") == (copies == "together")
