"""Image files as people have them: odd modes come out right, and broken ones are named with the reason."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnstudy.datasets import SourceImage
from cnnstudy.training import decoding
from cnnstudy.training.decoding import BadImage, decode_all

Content = Path | bytes | np.ndarray


def decode(*contents: Content, size: int = 16) -> tuple[dict[int, np.ndarray], list[BadImage]]:
    """The pixels by index, and the bad ones."""
    found: dict[int, np.ndarray] = {}
    images = [SourceImage(f"image-{index}", 0, content) for index, content in enumerate(contents)]
    bad = decode_all(images, [size], lambda index, _, pixels: found.update({index: pixels}), lambda *_: None)
    return found, bad


def good(content: Content, size: int = 16) -> np.ndarray:
    found, bad = decode(content, size=size)
    assert bad == []
    assert found[0].shape == (size, size, 3)
    assert found[0].dtype == np.uint8
    return found[0]


def reason(content: Content) -> str:
    found, bad = decode(content)
    assert found == {}
    assert bad[0].key == "image-0"
    return bad[0].reason


def encoded(picture: Image.Image, file_format: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, file_format, **settings)
    return stream.getvalue()


def plain(colour: str | tuple[int, ...] = "red", mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (64, 48), colour)


def close_to(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 6) -> bool:
    return bool((np.abs(pixels.astype(int) - colour) <= tolerance).all())


# ---- broken files


def test_a_truncated_jpeg_is_bad() -> None:
    whole = encoded(Image.effect_noise((200, 200), 50), "JPEG")
    assert "truncated" in reason(whole[: len(whole) // 2])


@pytest.mark.parametrize("content", [b"", b"just text", b"<html></html>"], ids=["empty", "text", "html"])
def test_what_is_no_image_is_bad(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(content)
    assert reason(tmp_path / "1.jpg") == "not an image that Pillow can read"
    assert reason(content) == "not an image that Pillow can read"


def test_a_file_that_went_away_is_bad(tmp_path: Path) -> None:
    assert "No such file" in reason(tmp_path / "1.jpg")


def test_bad_images_are_named_and_the_others_decoded() -> None:
    found, bad = decode(b"", encoded(plain(), "PNG"), b"x", encoded(plain("blue"), "PNG"))
    assert sorted(found) == [1, 3]
    assert [image.key for image in bad] == ["image-0", "image-2"]
    assert str(bad[0]) == "image-0: not an image that Pillow can read"


def test_no_mutation_of_a_file_gets_past(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a lake", 1.5
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    numbers = np.random.default_rng(0)
    broken = []
    for whole in (encoded(plain(), kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP")):
        for _ in range(400):
            content = bytearray(whole)
            for place in numbers.integers(0, min(len(content), 300), numbers.integers(1, 6)):
                content[place] = numbers.integers(0, 256)
            broken.append(bytes(content))
    found, bad = decode(*broken)
    assert len(found) + len(bad) == len(broken)
    assert len(found) > 10
    assert len(bad) > 10


def test_running_out_of_memory_is_not_the_images_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(content: object, largest: int) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(decoding, "_open", fail)
    with pytest.raises(MemoryError):
        decode(b"")


def test_the_cap_on_pixels_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(plain(), "PNG")
    monkeypatch.setattr(decoding, "MOST_PIXELS", 64 * 48 - 1)
    assert reason(content) == "can't be decoded (64 x 48 pixels; the most is 3,071)"
    monkeypatch.setattr(decoding, "MOST_PIXELS", 64 * 48)
    good(content)
    # Pillow warns from here on, and refuses from twice as many: neither is what decides
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        good(content)
    assert seen == []
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 20)
    assert reason(content) == "can't be decoded (far more than 3,072 pixels, the most)"


def test_pillow_refuses_only_what_is_over_our_cap() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert decoding.MOST_PIXELS <= 2 * Image.MAX_IMAGE_PIXELS


# ---- odd but fine


def test_cmyk() -> None:
    assert close_to(good(encoded(plain((0, 255, 255, 0), "CMYK"), "JPEG")), (255, 0, 0))


def test_sixteen_bits_keep_their_gradient() -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (256, 1))
    for picture, kind in ((Image.fromarray(ramp), "PNG"), (Image.fromarray(ramp), "TIFF")):
        pixels = good(encoded(picture, kind), size=256)
        assert np.abs(pixels[0, :, 0].astype(int) - np.arange(256)).max() <= 1
        assert (pixels[..., 0] == pixels[..., 2]).all()


def test_floating_point_pixels_are_refused() -> None:
    picture = Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    assert "floating-point numbers without a known white" in reason(encoded(picture, "TIFF"))


def test_transparency_is_on_white() -> None:
    picture = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    picture.paste((0, 0, 255, 0), (32, 0, 64, 64))
    for content in (
        encoded(picture, "PNG"),
        encoded(picture, "WEBP", lossless=True),
        encoded(picture.convert("LA"), "PNG"),
    ):
        assert close_to(good(content)[:, 9:], (255, 255, 255))
    assert close_to(good(encoded(picture, "PNG"))[:, :7], (255, 0, 0))
    half = good(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG"))
    assert close_to(half, (127, 127, 127))


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"], ids=["index", "bytes"])
def test_a_palette_with_transparency_is_on_white(transparency: int | bytes) -> None:
    picture = Image.new("P", (64, 64), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (32, 0, 64, 64))
    pixels = good(encoded(picture, "PNG", transparency=transparency))
    assert close_to(pixels[:, :7], (255, 0, 0))
    assert close_to(pixels[:, 9:], (255, 255, 255))


def test_of_an_animation_the_first_frame() -> None:
    frames = [plain(colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        assert close_to(good(encoded(frames[0], kind, save_all=True, append_images=frames[1:])), (255, 0, 0), 10)


def test_grey_and_one_bit() -> None:
    assert close_to(good(encoded(plain(100, "L"), "PNG")), (100, 100, 100))  # type: ignore[arg-type]
    assert close_to(good(encoded(plain(1, "1"), "PNG")), (255, 255, 255))  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    upright = np.zeros((64, 64, 3), np.uint8)
    upright[:32, :32] = 255, 0, 0
    upright[:32, 32:] = 0, 255, 0
    upright[32:, :32] = 0, 0, 255
    # how it is stored: what undoes the turn that the orientation asks for
    store = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    exact: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    pixels = good(
        encoded(Image.fromarray(np.ascontiguousarray(store(upright))), kind, exif=exif, **exact.get(kind, {}))
    )
    assert close_to(pixels[:6, :6], (255, 0, 0), 12)
    assert close_to(pixels[:6, 10:], (0, 255, 0), 12)
    assert close_to(pixels[10:, :6], (0, 0, 255), 12)


def test_broken_exif_does_not_spoil_the_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(plain(), "JPEG", exif=exif)
    start = whole.index(b"Exif\0\0") + 6
    for content in (
        whole[:start] + b"\xff" * 8 + whole[start + 8 :],
        whole[: start + 8] + b"\xff" * 12 + whole[start + 20 :],
    ):
        assert close_to(good(content), (255, 0, 0))


def test_a_large_jpeg_is_decoded_small_and_still_right() -> None:
    ramp = np.tile(np.linspace(0, 255, 1600).astype(np.uint8), (1200, 1))
    pixels = good(encoded(Image.fromarray(ramp), "JPEG"), size=32)
    assert np.abs(pixels[16, :, 0].astype(int) - (np.arange(32) + 0.5) * 8).max() <= 3


def test_names_beyond_ascii(tmp_path: Path) -> None:
    path = tmp_path / "Blüten 花" / "Löwenzahn ✿.jpg"
    path.parent.mkdir()
    path.write_bytes(encoded(plain(), "JPEG"))
    assert close_to(good(path), (255, 0, 0))


def test_arrays() -> None:
    grey = np.full((8, 8), 77, np.uint8)
    assert close_to(good(grey), (77, 77, 77))
    assert close_to(good(np.dstack([grey, grey // 7, grey * 0])), (77, 11, 0))


def test_every_size_in_one_go_with_progress() -> None:
    images = [SourceImage(str(index), 0, encoded(plain(), "PNG")) for index in range(130)]
    stored: set[tuple[int, int]] = set()
    lock = threading.Lock()

    def store(index: int, size: int, pixels: np.ndarray) -> None:
        assert pixels.shape == (size, size, 3)
        with lock:
            stored.add((index, size))

    seen: list[tuple[str, int, int]] = []
    assert decode_all(images, [8, 24], store, lambda *step: seen.append(step)) == []
    assert stored == {(index, size) for index in range(130) for size in (8, 24)}
    assert seen == [("decoding images", done, 130) for done in (64, 128, 130)]


def test_the_pixels_of_a_size_do_not_depend_on_the_other_sizes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG")
    image = SourceImage("noise.jpg", 0, stream.getvalue())

    def at(size: int, *sizes: int) -> np.ndarray:
        found: dict[int, np.ndarray] = {}
        assert decode_all([image], sizes, lambda _, size, pixels: found.update({size: pixels}), lambda *_: None) == []
        return found[size]

    assert np.array_equal(at(32, 32), at(32, 32, 224))
