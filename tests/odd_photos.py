"""A folder of photos with what goes wrong in such folders, for the tests of the command `data`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFilter

HOSTILE = 'pear/<img src=x onerror="alert(1)">&\'\n.png'


def photo(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Discs over a texture: no two seeds look alike."""
    numbers = np.random.default_rng(seed)
    texture = np.repeat(np.repeat(numbers.integers(0, 256, (15, 20, 3)), 8, axis=0), 8, axis=1)
    image = Image.fromarray((texture // 2 + 40).astype(np.uint8)).resize(size)
    for _ in range(5):
        x, y, radius = (int(numbers.integers(low, high)) for low, high in ((0, size[0]), (0, size[1]), (8, 40)))
        fill = tuple(int(value) for value in numbers.integers(0, 256, 3))
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    return image


def write_photos(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    """So many ordinary photos of each class."""
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            save(photo(first + 1000 * label + number), root / name / f"{number:02}.jpg", quality=90)
    return root


def save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def write_odd_photos(root: Path) -> Path:
    """26 apples and 16 pears that can be read, 2 that cannot, and files that are no images."""
    write_photos(root, {"apple": 20, "pear": 6})
    original = photo(5000)
    save(original, root / "apple/original.png")
    save(original.resize((120, 90)), root / "apple/smaller.jpg")
    save(original.transpose(Image.Transpose.FLIP_LEFT_RIGHT), root / "pear/mirrored.jpg", quality=92)
    save(photo(5001), root / "pear/twin.png")
    save(photo(5001), root / "pear/twin-2.png")
    save(Image.new("RGB", (90, 60), (4, 5, 9)), root / "apple/dark.png")
    save(Image.new("RGB", (90, 60), (250, 250, 250)), root / "apple/blank.png")
    save(photo(5002).filter(ImageFilter.GaussianBlur(6)), root / "pear/blurred.jpg")
    save(photo(5003).convert("L"), root / "pear/grey.png")
    save(photo(5004).convert("CMYK"), root / "pear/cmyk.jpg")
    save(photo(5005).convert("RGBA"), root / "pear/alpha.png")
    save(photo(5006).quantize(32), root / "pear/palette.png")
    deep = np.random.default_rng(0).integers(0, 65536, (40, 30)).astype(np.uint16)
    save(Image.fromarray(deep), root / "pear/deep.png")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    save(photo(5007), root / "apple/turned.jpg", exif=turned)
    save(photo(5008, (320, 200)), root / "apple/large.jpg")
    save(photo(5009), root / HOSTILE)
    whole = (root / "apple/00.jpg").read_bytes()
    (root / "apple/broken.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "pear/empty.png").write_bytes(b"")
    for name in ("apple/notes.txt", "apple/more.txt", ".hidden"):
        (root / name).write_text("text", encoding="utf-8")
    save(photo(5010), root / "cover.jpg")
    return root
