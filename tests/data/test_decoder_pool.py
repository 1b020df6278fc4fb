"""Real-world image files: odd modes are decoded correctly, and broken files are reported with the reason."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from orientations import STORED
from PIL import Image

import cnnstudy
from cnnstudy.data import decoder_pool
from cnnstudy.data.datasets import SourceImage
from cnnstudy.data.decoder_pool import decode_all
from cnnstudy.errors import DataError, WorkerError
from cnnstudy.records import BadImage

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
    assert bad[0].path == "image-0"
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


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "an empty file"),
        (b"just text", "not an image that Pillow can read"),
        (b"\n<!DOCTYPE html><title>log in</title>", "a web page, not an image"),
        (b"<?xml version='1.0'?><svg/>", "SVG, which is not supported; save it as JPEG or PNG"),
        (
            b"\0\0\0\x18ftypheic\0\0\0\0",
            "HEIC, which is not supported; save it as JPEG or PNG, or install the package pillow-heif",
        ),
    ],
    ids=["empty", "text", "html", "svg", "heic"],
)
def test_what_is_no_image_is_bad(content: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(content)
    assert reason(tmp_path / "1.jpg") == text
    assert reason(content) == text


def test_kinds_that_run_programs_are_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript, wherever it finds one."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    assert reason(page) == "PostScript, which is not supported; save it as JPEG or PNG"
    assert not (tmp_path / "started").exists()


def test_a_file_that_went_away_is_bad(tmp_path: Path) -> None:
    assert "No such file" in reason(tmp_path / "1.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.jpg")
    assert reason(tmp_path / "1.jpg") == "can't be read (it is not a regular file)"
    assert reason(Path("/dev/zero")) == "can't be read (it is not a regular file)"


def test_bad_images_are_named_and_the_others_decoded() -> None:
    found, bad = decode(b"y", encoded(plain(), "PNG"), b"x", encoded(plain("blue"), "PNG"))
    assert sorted(found) == [1, 3]
    assert [image.path for image in bad] == ["image-0", "image-2"]
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


def test_the_cap_on_pixels_comes_from_the_header() -> None:
    for wide, high in ((100_000, 100_000), (10_001, 10_000)):
        head = struct.pack("<2sIHHI", b"BM", 58, 0, 0, 54) + struct.pack(
            "<IiiHHIIiiII", 40, wide, high, 1, 24, *[0] * 6
        )
        for content in (head + bytes(4), png_header(wide, high)):
            assert reason(content) == f"can't be decoded ({wide} x {high} pixels; the most is 100,000,000)"
    assert "the most" not in reason(png_header(10_000, 10_000))


def png_header(wide: int, high: int) -> bytes:
    """A PNG that claims a size and ends after a few pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


# ---- decoders that go wrong


BREAKING = encoded(plain(), "BMP") + b"BREAK"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("ctypes.string_at(0)", "can't be decoded (its decoder crashed, SIGSEGV)"),
        ("os.abort()", "can't be decoded (its decoder crashed, SIGABRT)"),
        ("bytearray(2**34)", "can't be decoded (takes more than 3,072 MiB of memory)"),
    ],
    ids=["crash", "abort", "memory"],
)
def test_a_decoder_that_goes_wrong_names_its_image(code: str, text: str, broken_decoder: Callable[[str], None]) -> None:
    broken_decoder(code)
    fine = [encoded(plain(), "BMP") + bytes([number]) for number in range(40)]
    found, bad = decode(*fine[:17], BREAKING, *fine[17:], BREAKING + b"!")
    assert [(image.path, image.reason) for image in bad] == [("image-17", text), ("image-41", text)]
    assert len(found) == 40
    assert all(close_to(pixels, (255, 0, 0)) for pixels in found.values())


def test_a_decoder_that_never_ends_is_ended(
    broken_decoder: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_pool, "MAX_CPU_SECONDS", 1)
    broken_decoder("while True: pass")
    found, bad = decode(encoded(plain(), "BMP"), BREAKING)
    assert sorted(found) == [0]
    assert str(bad[0]) == "image-1: can't be decoded (takes more than 1 seconds)"


def test_a_decoder_ended_from_outside_is_not_the_images_fault(broken_decoder: Callable[[str], None]) -> None:
    broken_decoder("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(
        DataError, match=r"that decoded image-0 ended unexpectedly \(SIGKILL\); the machine may have run out of"
    ):
        decode(BREAKING)


def test_a_decoder_can_not_write_or_be_talked_over(broken_decoder: Callable[[str], None], tmp_path: Path) -> None:
    broken_decoder(f"os.write(1, b'noise'); open({str(tmp_path / 'escaped')!r}, 'w').write('x' * 9999)")
    assert "File too large" in reason(BREAKING)
    assert not (tmp_path / "escaped").exists() or (tmp_path / "escaped").stat().st_size == 0


def test_a_decoder_that_can_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "PIL.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(cnnstudy, "__file__", str(tmp_path / "cnnstudy" / "__init__.py"))
    with pytest.raises(WorkerError, match="a process that decodes images ended at its start"):
        decode(encoded(plain(), "PNG"))


def test_no_decoder_outlives_its_use() -> None:
    with decoder_pool.Decoders() as decoders:
        images = [SourceImage(str(number), 0, encoded(plain(), "PNG")) for number in range(64)]
        decoders.decode_all(images, [8], lambda *_: None, lambda *_: None)
        started = [decoder._process for decoder in decoders._idle]
        assert started
        assert all(process.poll() is None for process in started)
    assert all(process.returncode == 0 for process in started)


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
    assert "floating-point numbers with an unknown white level" in reason(encoded(picture, "TIFF"))


def test_numbers_of_32_bits_are_refused() -> None:
    assert "32-bit numbers with an unknown white level" in reason(encoded(Image.new("I", (8, 8), 70_000), "TIFF"))


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
    store = STORED[orientation]
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
