"""Flower photos: 3,670 JPEGs, daisy 633, dandelion 898, roses 641, sunflowers 699, tulips 799.

Source: The TensorFlow Team, Flowers (2019), photos under the Creative Commons licences listed in its LICENSE.txt.
"""

from __future__ import annotations

from cnnstudy.data.datasets import DataOptions, ImageSource
from cnnstudy.data.image_tree import ExistingPath, read_tree
from cnnstudy.errors import DataError
from cnnstudy.system.download import download

URL = "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"
SHA256 = "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"
CLASSES = ("daisy", "dandelion", "roses", "sunflowers", "tulips")


class Options(DataOptions):
    """The options of the flower photos. `path`: a folder or archive; without it, they are downloaded (229 MB)."""

    path: ExistingPath | None = None


def load(options: Options) -> ImageSource:
    """Load the photos, sorted by class and file name.

    Raises:
        DataError: the files can't be downloaded or read, or `path` holds other classes.
    """
    path = options.path or download(
        URL,
        "flower_photos.tgz",
        SHA256,
        DataError,
        otherwise="give the folder or archive as `data: {name: flowers, path: PATH}`.",
    )
    source = read_tree(path)
    if source.classes != CLASSES:
        raise DataError(
            f"{path} holds the classes {', '.join(source.classes)}; those of flowers are {', '.join(CLASSES)}. "
            "For other classes write `data: {name: folder, path: PATH}`."
        )
    return source
