"""Your own images, from a NumPy archive: `np.savez("mine.npz", x=images, y=labels)`.

Keys: `x` and `y`, optionally `x_test` and `y_test` (otherwise records are held out by a draw) and
`groups` (the owner of each training record). A file is a stranger's until it is checked: nothing is
ever unpickled, and an array is read only if what its header promises is what the archive holds and
stays below a cap.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedlab.errors import DataError, UsageError
from fedlab.tasks.datasets.split import split
from fedlab.tasks.task import Dataset

Layout = Literal["auto", "NHWC", "NCHW", "NHW"]
_CHANNELS = (1, 3, 4)
_MOST_CLASSES = 100_000
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def npz(
    *,
    path: Path,
    layout: Layout = "auto",
    classes: int | None = None,
    licence: str = "unknown",
    max_mb: int = 2000,
    test_fraction: float = 0.2,
    split_seed: int = 0,
) -> tuple[Dataset, Dataset]:
    """(train, test) from your file.

    Args:
        path: the .npz file. x is uint8, or floating point in [0, 1]; y is whole numbers from 0.
        layout: order of the axes of x; auto takes three axes as NHW, and four by where there are 1, 3 or 4.
        classes: number of classes; by default one more than the highest label.
        licence: of the data, for the report.
        max_mb: an array of more megabytes (decompressed) is refused.
        test_fraction: share of the records that is held out, where the file has no x_test.
        split_seed: decides which.

    Raises:
        DataError: the file is missing or broken, too large, or its arrays do not fit each other.
        UsageError: a parameter out of range.
    """
    if classes is not None and classes < 1:
        raise UsageError(f"classes = {classes}; expected at least 1")
    path = Path(path).expanduser()  # from Python, a string will do
    arrays = _arrays(path, max_mb * 1_000_000)
    for key in ("x", "y", *(("x_test", "y_test") if {"x_test", "y_test"} & set(arrays) else ())):
        if key not in arrays:
            raise DataError(f"{path} has no array {key!r}; found {', '.join(sorted(arrays)) or 'none'}")
    x, y = _images(path, "x", arrays["x"], layout), _whole(path, "y", arrays["y"])
    test = None
    if "x_test" in arrays:
        test = _images(path, "x_test", arrays["x_test"], layout), _whole(path, "y_test", arrays["y_test"])
        if test[0].shape[1:] != x.shape[1:]:
            raise DataError(
                f"{path}: x_test holds images of {test[0].shape[1:]}, x of {x.shape[1:]}; expected the same"
            )
    if classes is None:
        classes = 1 + max(int(labels.max(initial=0)) for labels in (y, *(test or ())[1:]))
        if classes > _MOST_CLASSES:
            raise DataError(f"{path}: labels up to {classes - 1}; number them from 0, or give `classes`")
    groups = _whole(path, "groups", arrays["groups"]) if "groups" in arrays else None
    if groups is not None and len(groups) != len(y):
        raise DataError(f"{path}: {len(groups)} groups but {len(y)} records; expected one group each")
    with path.open("rb") as stream:
        source = f"{path.name}, sha256 {hashlib.file_digest(stream, 'sha256').hexdigest()}"
    data = Dataset(path.stem, x, y, classes, source, licence, groups=groups)
    if test is None:
        return split(data, test_fraction, split_seed)
    return data, Dataset(path.stem, *test, classes, source, licence)


def _arrays(path: Path, most: int) -> dict[str, NDArray[Any]]:
    """The arrays of the archive that have a meaning here."""
    known = {f"{key}.npy" for key in ("x", "y", "x_test", "y_test", "groups")}
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                member.filename.removesuffix(".npy"): _array(archive, member, most)
                for member in archive.infolist()
                if member.filename in known
            }
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; give the path of an .npz file") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} is no .npz archive, or a broken one: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> NDArray[Any]:
    """One array; raises ValueError before it allocates what its header or the archive lies about."""
    name = member.filename
    if member.file_size > most:
        raise ValueError(
            f"{name} holds {member.file_size} bytes, more than {most}; raise max_mb if that is right"
        )
    with archive.open(member) as stream:
        try:
            shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
        except (zipfile.BadZipFile, zlib.error):
            raise
        except Exception as error:  # a hostile header breaks the parser in more ways than one can list
            raise ValueError(f"{name} has no header of a plain .npy file ({error})") from error
        if dtype.hasobject or dtype.names:
            raise ValueError(
                f"{name} holds {dtype}, expected plain numbers; Python objects are never unpickled"
            )
        promised, held = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
        if promised != held or min(shape, default=0) < 0:
            raise ValueError(
                f"{name} promises {shape} of {dtype} = {promised} bytes but holds {held}; it is altered"
            )
        values = np.frombuffer(stream.read(held), dtype)
        stream.read(1)  # at the end of a member, the archive's checksum is compared
        if len(values) != math.prod(shape):
            raise ValueError(f"{name} is truncated")
        return values.reshape(shape, order="F" if fortran else "C")


def _images(path: Path, key: str, x: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """(N, C, H, W), uint8 or float32."""
    where = f"{path}: {key} of shape {x.shape}"
    if layout == "auto":
        if x.ndim == 4:
            first, last = x.shape[1] in _CHANNELS, x.shape[3] in _CHANNELS
            if first == last:
                found = (
                    "both the second and the last axis" if first else "neither the second nor the last axis"
                )
                raise DataError(f"{where}: {found} may be 1, 3 or 4 channels; set layout to NHWC or NCHW")
            layout = "NCHW" if first else "NHWC"
        else:
            layout = "NHW"
    if x.ndim != len(layout):
        raise DataError(f"{where} has {x.ndim} axes, expected {len(layout)} for images in layout {layout}")
    if layout == "NHW":
        x = x[:, None]
    elif layout == "NHWC":
        x = x.transpose(0, 3, 1, 2)
    if np.issubdtype(x.dtype, np.floating):
        x = x.astype(np.float32)
    elif x.dtype != np.uint8:
        raise DataError(f"{where} is {x.dtype}; expected uint8, or floating point in [0, 1]")
    return np.ascontiguousarray(x)


def _whole(path: Path, key: str, values: NDArray[Any]) -> NDArray[np.int64]:
    """(N,) int64."""
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise DataError(
            f"{path}: {key} is {values.dtype} of shape {values.shape}; expected whole numbers, one per record"
        )
    return values.astype(np.int64)
