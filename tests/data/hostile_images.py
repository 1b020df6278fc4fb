"""Odd, broken or malicious image files, each with the pixels or the refusal that must result."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from orientations import STORED
from PIL import Image

RED, WHITE, GREY = (255, 0, 0), (255, 255, 255), (128, 128, 128)


@dataclass(frozen=True)
class Odd:
    """A file: its name in a class folder, its content, and either the pixels that it must have or why it is refused."""

    name: str
    content: bytes
    pixels: np.ndarray | tuple[int, int, int] | None = None
    refused: str = ""
    tolerance: int = 4


def encoded(picture: Image.Image, file_format: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, file_format, **settings)
    return stream.getvalue()


def plain(colour: Any = "red", mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new(mode, size, colour)


def noise(size: tuple[int, int] = (200, 150)) -> Image.Image:
    dice = np.random.default_rng(0)
    return Image.fromarray(dice.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def quarters() -> np.ndarray:
    """No two of the eight orientations look the same."""
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16, :16], upright[:16, 16:], upright[16:, :16] = RED, (0, 255, 0), (0, 0, 255)
    return upright


def pack_equal(count: int, value: int = 0) -> bytes:
    """So many equal bytes, as zlib packs them: its blocks repeat after a flush, so that few must be made."""

    def deflate(length: int, end: int) -> bytes:
        stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return stream.compress(bytes([value]) * length) + stream.flush(end)

    blocks, rest = divmod(count, 1 << 20)
    low, high = 1 + value * count, count + value * count * (count + 1) // 2  # Adler-32 (RFC 1950)
    check = struct.pack(">HH", high % 65_521, low % 65_521)
    return b"\x78\xda" + deflate(1 << 20, zlib.Z_FULL_FLUSH) * blocks + deflate(rest, zlib.Z_FINISH) + check


def png(wide: int, high: int, depth: int, colour_type: int, raw: bytes | int, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG with the given header, whatever its pixels are.

    Args:
        raw: the unpacked pixels, or so many zeros.
    """

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", wide, high, depth, colour_type, 0, 0, 0))
    body = b"".join(chunk(*one) for one in extra) + chunk(
        b"IDAT", pack_equal(raw) if isinstance(raw, int) else zlib.compress(raw, 9)
    )
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def tiff(wide: int, high: int, strip: int = 8, next_directory: int = 0) -> bytes:
    """An uncompressed grey TIFF that says it has its pixels at `strip`."""
    tags = [(256, 4, wide), (257, 4, high), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    tags += [(273, 4, strip), (277, 3, 1), (278, 4, high), (279, 4, min(wide * high, 2**32 - 1))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", next_directory)


def bmp(wide: int, high: int) -> bytes:
    return struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 58, 0, 0, 54, 40, wide, high, 1, 24, *[0] * 6) + bytes(4)


def webp(wide: int, high: int) -> bytes:
    head = (
        b"VP8X"
        + struct.pack("<I", 10)
        + b"\0\0\0\0"
        + struct.pack("<I", wide - 1)[:3]
        + struct.pack("<I", high - 1)[:3]
    )
    whole = encoded(plain(), "WEBP", lossless=True)
    return b"RIFF" + struct.pack("<I", len(head) + len(whole) - 8) + b"WEBP" + head + whole[12:]


def jpeg_of(wide: int, high: int) -> bytes:
    """A small JPEG whose header claims another size."""
    whole = bytearray(encoded(plain(), "JPEG"))
    frame = whole.index(b"\xff\xc0")
    whole[frame + 5 : frame + 9] = struct.pack(">HH", high, wide)
    return bytes(whole)


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("1.png", encoded(plain(), "PNG"))
    return stream.getvalue()


def turned(orientation: int) -> Odd:
    """Stored so that what its EXIF asks for makes it upright."""
    store: Callable[[np.ndarray], np.ndarray] = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(store(quarters())))
    return Odd(f"turned-{orientation}.png", encoded(picture, "PNG", exif=exif), quarters(), tolerance=0)


def _right() -> list[Odd]:
    frames = [plain(colour) for colour in ("red", "lime", "blue")]
    several: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    palette = Image.new("P", (64, 64), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    exif = Image.Exif()
    exif[0x0112] = 6
    broken_exif = bytearray(encoded(plain(), "JPEG", exif=exif))
    start = broken_exif.index(b"Exif\0\0") + 6
    broken_exif[start : start + 20] = b"\xff" * 20
    half = plain((255, 0, 0, 255), "RGBA")
    half.paste((0, 0, 255, 0), (0, 0, 64, 48))
    red_16, grey_16 = struct.pack(">3H", 65535, 0, 0), struct.pack(">2H", 32768 + 128, 65535)
    jpeg = encoded(plain(), "JPEG")
    return [
        *map(turned, range(1, 9)),
        Odd("one-pixel.png", encoded(plain(size=(1, 1)), "PNG"), RED),
        Odd("tall.png", encoded(plain(size=(1, 10_000)), "PNG"), RED),
        Odd("wide.jpg", encoded(plain(size=(10_000, 1)), "JPEG"), RED),
        Odd("animated.gif", encoded(frames[0], "GIF", **several), RED),
        Odd("animated.webp", encoded(frames[0], "WEBP", lossless=True, **several), RED),
        Odd("animated.png", encoded(frames[0], "PNG", **several), RED),
        Odd("pages.tif", encoded(frames[0], "TIFF", **several), RED),
        Odd("mpo.jpg", encoded(frames[0], "MPO", **several), RED),
        Odd("grey-16.png", encoded(Image.fromarray(np.full((9, 9), 32_896, np.uint16)), "PNG"), GREY),
        Odd("grey-16.tif", encoded(Image.fromarray(np.full((9, 9), 32_896, np.uint16)), "TIFF"), GREY),
        Odd("grey-16.pgm", b"P5 2 2 65535\n" + struct.pack(">4H", *[32_896] * 4), GREY),
        Odd("colour-16.png", png(4, 4, 16, 2, (b"\0" + red_16 * 4) * 4), RED),
        Odd("grey-alpha-16.png", png(4, 4, 16, 4, (b"\0" + grey_16 * 4) * 4), GREY),
        Odd("one-bit.png", encoded(plain(1, "1"), "PNG"), WHITE),
        Odd("palette-transparent.png", encoded(palette, "PNG", transparency=0), WHITE),
        Odd("transparent.gif", encoded(palette, "GIF", transparency=0), WHITE),
        Odd("transparent.png", encoded(half, "PNG"), WHITE),
        Odd("grey-alpha.png", encoded(plain((0, 0), "LA"), "PNG"), WHITE),
        Odd("grey.jpg", encoded(plain(128, "L"), "JPEG"), GREY),
        Odd("cmyk.jpg", encoded(plain((0, 255, 255, 0), "CMYK"), "JPEG"), RED),
        Odd("cmyk.tif", encoded(plain((0, 255, 255, 0), "CMYK"), "TIFF"), RED),
        Odd("ycbcr.tif", encoded(plain().convert("YCbCr"), "TIFF"), RED),
        Odd("lab.tif", encoded(plain((136, 128, 128), "LAB"), "TIFF"), GREY),
        Odd("progressive.jpg", encoded(plain(), "JPEG", progressive=True), RED),
        Odd("broken-exif.jpg", bytes(broken_exif), RED),
        Odd("broken-profile.jpg", encoded(plain(), "JPEG", icc_profile=b"no profile" * 50), RED),
        Odd("really-a-png.jpg", encoded(plain(), "PNG"), RED),
        Odd("really-a-jpeg.gif", jpeg, RED),
        Odd("SHOUTED.JPEG", jpeg + b"1", RED),
        Odd("with-a-zip-behind.jpg", jpeg + zipped(), RED),
        Odd("loop-of-directories.tif", tiff(4, 4, strip=8 + 2 + 9 * 12 + 4, next_directory=8) + b"\x80" * 16, GREY),
        Odd("Löwenzahn ✿.jpg", jpeg + b"2", RED),
        Odd("line\nbreak \x1b[2Jescape.jpg", jpeg + b"3", RED),
        Odd("x" * 251 + ".jpg", jpeg + b"4", RED),
        Odd("space.jpg ", jpeg + b"5", RED),
        Odd("dot.jpg.", jpeg + b"6", RED),
        Odd("$(touch pwned) `touch pwned`; touch pwned.jpg", jpeg + b"7", RED),
        Odd("-rf.jpg", jpeg + b"8", RED),
        Odd("<img src=x onerror=alert(1)>.jpg", jpeg + b"9", RED),
        Odd("=cmd|'C calc'!A0.jpg", jpeg + b"0", RED),
    ]


def _refused() -> list[Odd]:
    def cut(file_format: str, **settings: Any) -> bytes:
        whole = encoded(noise(), file_format, **settings)
        return whole[: len(whole) // 2]

    whole = encoded(noise(), "PNG")
    bad_sum = whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]
    huge = "pixels; the most is 100,000,000"
    unread = "is not supported; save it as JPEG or PNG"
    text_bomb = (b"zTXt", b"Comment\0\0" + pack_equal(200_000_000))
    return [
        Odd("empty.jpg", b"", refused="an empty file"),
        Odd("text.jpg", b"just some text", refused="not an image"),
        Odd("page.jpg", b"<html>please log in</html>", refused="a web page, not an image"),
        Odd("zeros.jpg", bytes(5000), refused="not an image"),
        Odd("random.png", np.random.default_rng(1).bytes(5000), refused="not an image"),
        Odd("a-zip.jpg", zipped(), refused="not an image"),
        Odd("cut.jpg", cut("JPEG"), refused="truncated"),
        Odd("cut-progressive.jpg", cut("JPEG", progressive=True), refused="truncated"),
        Odd("cut.png", cut("PNG"), refused="can't be decoded"),
        Odd("cut.gif", cut("GIF"), refused="truncated"),
        Odd("cut.webp", cut("WEBP"), refused="can't be decoded"),
        Odd("cut.tif", cut("TIFF"), refused="can't be decoded"),
        Odd("cut-packed.tif", cut("TIFF", compression="tiff_lzw"), refused="image"),
        Odd("cut.bmp", cut("BMP"), refused="truncated"),
        Odd("cut.ppm", cut("PPM"), refused="truncated"),
        Odd("head-only.jpg", encoded(noise(), "JPEG")[:300], refused="can't be decoded"),
        Odd("wrong-sum.png", bad_sum, refused="can't be decoded"),
        Odd("no-pixels.png", png(0, 0, 8, 2, b""), refused="image"),
        Odd("no-frames.gif", b"GIF89a\x10\0\x10\0\0\0\0;", refused="image"),
        Odd("pixels-elsewhere.tif", tiff(64, 64, strip=2**31), refused="can't be decoded"),
        Odd("bomb.png", png(12_000, 12_000, 8, 2, 12_000 * 36_001), refused=f"12000 x 12000 {huge}"),
        Odd("claims.png", png(100_000, 100_000, 8, 2, b""), refused=f"100000 x 100000 {huge}"),
        Odd("claims.bmp", bmp(100_000, 100_000), refused=f"100000 x 100000 {huge}"),
        Odd("claims.tif", tiff(100_000, 100_000), refused=f"100000 x 100000 {huge}"),
        Odd("claims.jpg", jpeg_of(65_000, 65_000), refused=f"65000 x 65000 {huge}"),
        Odd("claims.webp", webp(16_000, 16_000), refused="can't be decoded"),
        Odd("claims.pgm", b"P5 100000 100000 255\n", refused=f"100000 x 100000 {huge}"),
        Odd("canvas.gif", encoded(plain(), "GIF").replace(b"\x40\0\x30\0", b"\xff\xff\xff\xff", 1), refused=huge),
        Odd("text-bomb.png", png(4, 4, 8, 2, (b"\0" + bytes(12)) * 4, text_bomb), refused="can't be decoded"),
        Odd("floats.tif", encoded(Image.new("F", (8, 8), 0.5), "TIFF"), refused="floating-point numbers"),
        Odd("deep.tif", encoded(Image.new("I", (8, 8), 70_000), "TIFF"), refused="32-bit numbers"),
        Odd("drawing.svg", b"<svg/>", refused=f"files that end in .svg are not supported; {unread[18:]}"),
        Odd("drawing.png", b"<?xml version='1.0'?>\n<svg></svg>", refused=f"SVG, which {unread}"),
        Odd("phone.heic", b"\0\0\0\x18ftypheic", refused=f"HEIC, which {unread}"),
        Odd("phone.jpg", b"\0\0\0\x18ftypheic", refused=f"HEIC, which {unread}"),
        Odd("new.jpg", b"\0\0\0\x1cftypavif", refused="not an image that Pillow can read"),
        Odd("new.png", b"\xff\x0a\0\0", refused=f"JPEG XL, which {unread}"),
        Odd("raw.dng", tiff(4, 4), refused="files that end in .dng are not supported"),
        Odd("layers.png", b"8BPS\0\1", refused=f"Photoshop, which {unread}"),
        Odd("document.jpg", b"%PDF-1.7", refused=f"PDF, which {unread}"),
        Odd("program.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n(pwned) (w) file", refused=f"PostScript, which {unread}"),
    ]


IMAGES = [*_right(), *_refused()]
