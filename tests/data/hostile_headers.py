"""More malicious image files: false headers, missing or excessive metadata, and compression bombs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

from .hostile_images import RED, WHITE, Odd, bmp, encoded, noise, pack_equal, plain, png

#: XML whose entities would expand to a thousand million letters.
LAUGHS = (
    b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'ha'>"
    + b"".join(b"<!ENTITY %c '%s'>" % (98 + depth, b"&%c;" % (97 + depth) * 10) for depth in range(9))
    + b"]><x:xmpmeta xmlns:x='adobe:ns:meta/' tiff:Orientation='6'>&j;</x:xmpmeta>"
)
ROW = b"\0" + bytes(RED) * 4
HUGE = "pixels; the most is 100,000,000"


def _jpeg(*segments: tuple[int, bytes], cut: int = 0) -> bytes:
    """A red JPEG with these segments before all others."""
    whole = encoded(plain(), "JPEG")
    extra = b"".join(b"\xff" + bytes([kind]) + struct.pack(">H", 2 + len(body)) + body for kind, body in segments)
    return whole[:2] + extra + whole[2 : len(whole) - cut]


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    return png(4, 4, 8, 2, ROW * 4, *chunks)


def _tags(*tags: tuple[int, int, int, int], head: bytes = b"II*\0\x08\0\0\0", count: int | None = None) -> bytes:
    """A TIFF of these tags: number, type, how many, value."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return head + struct.pack("<H", len(tags) if count is None else count) + entries + bytes(4)


def _grey(*more: tuple[int, int, int, int], packed: int = 1, size: Sequence[int] = (4, 4), strip: int = 16) -> bytes:
    """A grey TIFF, whose pixels would be at byte 8, with these tags instead of its own or beside them."""
    tags = {256: (4, 1, size[0]), 257: (4, 1, size[1]), 258: (3, 1, 8), 259: (3, 1, packed), 262: (3, 1, 1)}
    tags |= {273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, size[1]), 279: (4, 1, strip)}
    tags |= {number: rest for number, *rest in more}  # type: ignore[misc]
    return _tags(*((number, *tags[number]) for number in sorted(tags)))


def _packed_tiff(side: int) -> bytes:
    """So many white pixels each way, packed a thousand times smaller."""
    pixels = pack_equal(side * side, 0xFF)
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels) + len(pixels) % 2)
    return head + pixels + bytes(len(pixels) % 2) + _grey(packed=8, size=(side, side), strip=len(pixels))[8:]


def _lossless_webp(wide: int, high: int) -> bytes:
    """A WebP whose own bits claim another size."""
    whole = bytearray(encoded(plain(), "WEBP", lossless=True))
    at = whole.index(b"\x2f", whole.index(b"VP8L") + 8) + 1
    bits = struct.unpack_from("<I", whole, at)[0]
    struct.pack_into("<I", whole, at, bits & ~0xFFFFFFF | (wide - 1) | (high - 1) << 14)
    return bytes(whole)


def _changed(content: bytes, before: bytes, after: bytes) -> bytes:
    assert before in content
    return content.replace(before, after, 1)


def _taken() -> list[Odd]:
    """What is said beside the pixels does not matter to them."""
    loop = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    far = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x0112, 3, 2**31, 2**32 - 1) + bytes(4)
    odd_turn = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x0112, 3, 1, 9999) + bytes(4)
    profile = b"ICC_PROFILE\0\xff\xff" + b"\xff" * 60_000
    return [
        Odd("exif-loop.jpg", _jpeg((0xE1, loop)), RED),
        Odd("exif-far.jpg", _jpeg((0xE1, far)), RED),
        Odd("exif-turn.jpg", _jpeg((0xE1, odd_turn)), RED),
        Odd("exif-many.jpg", _jpeg(*[(0xE1, b"Exif\0\0" + b"\xff" * 60_000)] * 20), RED),
        Odd("exif-chunk.png", _png((b"eXIf", b"\xff" * 1000)), RED),
        Odd("xmp-entities.jpg", _jpeg((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + LAUGHS)), RED),
        Odd("xmp-entities.png", _png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + LAUGHS)), RED),
        Odd("profile-parts.jpg", _jpeg(*[(0xE2, profile)] * 20), RED),
        Odd("profile-garbage.png", _png((b"iCCP", b"p\0\0" + zlib.compress(b"\xff" * 1000))), RED),
        Odd("comments.jpg", _jpeg(*[(0xFE, b"x" * 65_000)] * 50), RED),
        Odd("frames.png", _png((b"acTL", struct.pack(">II", 2**31 - 1, 0))), RED),
        Odd("resolution.png", _png((b"pHYs", b"\xff" * 9)), RED),
        Odd("program-behind.png", _png() + b"\x7fELF" + bytes(2000), RED),
        Odd("script.gif", encoded(plain(), "GIF") + b"<script>alert(1)</script><?php system('id'); ?>", RED),
        Odd("page-within.jpg", _jpeg((0xFE, b"<html><script>alert(1)</script></html>")), RED),
        Odd("palette-beyond.png", png(4, 4, 8, 3, (b"\0" + b"\0" * 4) * 4, (b"PLTE", b"\xff\xff\xff")), WHITE),
    ]


def _refused() -> list[Odd]:
    def cut(file_format: str, share: float = 0.5, **settings: Any) -> bytes:
        whole = encoded(noise(), file_format, **settings)
        return whole[: int(share * len(whole))]

    undecoded = "can't be decoded"
    return [
        Odd("cut-packed-2.tif", cut("TIFF", compression="tiff_adobe_deflate"), refused="not an image"),
        Odd("cut-jpeg.tif", cut("TIFF", compression="jpeg"), refused="not an image"),
        Odd("cut-lossless.webp", cut("WEBP", lossless=True), refused=undecoded),
        Odd("cut-animated.webp", cut("WEBP", 0.3, save_all=True, append_images=[noise()]), refused=undecoded),
        Odd("cut-animated.png", cut("PNG", 0.3, save_all=True, append_images=[noise()]), refused=undecoded),
        Odd("cut-head.png", encoded(noise(), "PNG")[:20], refused=undecoded),
        Odd("cut-head.gif", encoded(noise(), "GIF")[:12], refused="image"),
        Odd("cut-head.bmp", encoded(noise(), "BMP")[:30], refused=undecoded),
        Odd("cut-head.tif", encoded(noise(), "TIFF")[:12], refused="image"),
        Odd("cut-head.webp", encoded(noise(), "WEBP")[:24], refused=undecoded),
        Odd("cut-head.ppm", b"P6 200", refused=undecoded),
        Odd("bomb.tif", _packed_tiff(10_500), refused=f"10500 x 10500 {HUGE}"),
        Odd("bomb.webp", _lossless_webp(16_384, 16_384), refused=f"16384 x 16384 {HUGE}"),
        Odd("bomb-profile.png", _png((b"iCCP", b"p\0\0" + pack_equal(200_000_000))), refused=undecoded),
        Odd("bomb-words.png", _png((b"iTXt", b"k\0\1\0\0\0" + pack_equal(200_000_000))), refused=undecoded),
        Odd("claims-more.png", png(9_000, 9_000, 16, 6, b"\0" * 100), refused=undecoded),
        Odd("claims-frames.gif", _changed(encoded(noise(), "GIF"), b"\xc8\0\x96\0", b"\xff\xff\xff\xff"), refused=HUGE),
        Odd("claims-negative.bmp", bmp(-5, 100), refused=HUGE),
        Odd("claims-flipped.bmp", bmp(100_000, -100_000), refused=HUGE),
        Odd(
            "claims-palette.bmp",
            _changed(bmp(8, 8), struct.pack("<HH", 1, 24), struct.pack("<HH", 1, 8)),
            refused=undecoded,
        ),
        Odd("claims-digits.pgm", b"P2 4 4 " + b"9" * 5000, refused=undecoded),
        Odd("claims-digits.ppm", b"P6 " + b"9" * 5000 + b" 4 255\n", refused=undecoded),
        Odd("no-levels.pgm", b"P5 4 4 0\n" + bytes(16), refused=undecoded),
        Odd("no-pixels.bmp", bmp(0, 0), refused="image"),
        Odd("no-rows.tif", _grey((278, 4, 1, 0), (279, 4, 1, 0)), refused=undecoded),
        Odd("tags-many.tif", _tags((256, 4, 1, 4), count=65_535), refused="image"),
        Odd("tags-long.tif", _grey((273, 4, 2**30, 8), (279, 4, 2**30, 8)), refused="not an image"),
        Odd("planes-many.tif", _grey((277, 3, 1, 65_535)), refused="image"),
        Odd("packing-unknown.tif", _grey(packed=34_999), refused="image"),
        Odd("large-offsets.tif", b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**62), refused="image"),
        Odd("no-data.png", b"\x89PNG\r\n\x1a\n" + _png()[8:33], refused="image"),
        Odd(
            "wrong-head-sum.png", _changed(_png(), struct.pack(">II", 4, 4), struct.pack(">II", 4, 5)), refused="image"
        ),
        Odd("depth.png", png(4, 4, 77, 2, ROW * 4), refused="image"),
        Odd("not-packed.png", _changed(_png(), b"IDATx", b"IDATy"), refused=undecoded),
        Odd("no-tables.jpg", b"\xff\xd8" + encoded(plain(), "JPEG")[177:], refused="not an image"),
        Odd("no-scan.jpg", _jpeg(cut=400), refused=undecoded),
        Odd("segment-beyond.jpg", b"\xff\xd8\xff\xe0\xff\xffJFIF", refused=undecoded),
        Odd(
            "planes.jpg", _changed(encoded(plain(), "JPEG"), b"\0\x30\0\x40\x03", b"\0\x30\0\x40\xff"), refused="image"
        ),
        Odd("chunk-huge.webp", b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff", refused=undecoded),
        Odd("code-huge.gif", b"GIF89a\4\0\4\0\0\0\0,\0\0\0\0\4\0\4\0\0\x0c\1\xff\0;", refused="image"),
        Odd("windows.jpg", b"MZ" + bytes(500), refused="not an image"),
        Odd("linux.png", b"\x7fELF" + bytes(500), refused="not an image"),
        Odd("script.png", b"#!/bin/sh\ntouch pwned\n", refused="not an image"),
        Odd("icon.png", b"\0\0\1\0\1\0" + bytes(100), refused="ICO, which is not supported"),
        Odd("old.jpg", b"\0\0\0\x0cjP  \r\n", refused="JPEG 2000, which is not supported"),
        Odd("picture.jp2", b"\0\0\0\x0cjP  \r\n", refused="files that end in .jp2 are not supported"),
        Odd("sorrow.avif", b"\0\0\0\x1cftypavif", refused="not an image that Pillow can read"),
    ]


HEADERS = [*_taken(), *_refused()]
