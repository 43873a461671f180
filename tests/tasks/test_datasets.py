"""Data sets: what comes out is what the files hold, and a file that lies gets one clear sentence."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedlab.errors import DataError, UsageError
from fedlab.tasks import Dataset, store
from fedlab.tasks.datasets.cifar_samples import cifar_samples
from fedlab.tasks.datasets.digits import digits
from fedlab.tasks.datasets.idx import fashion_mnist, mnist, parse_idx
from fedlab.tasks.datasets.npz import npz
from fedlab.tasks.datasets.photos import crops, photos
from fedlab.tasks.datasets.sources import SOURCES, Pin
from fedlab.tasks.datasets.split import split

GREY = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)
LABELS = np.array([0, 1, 2, 1])


def test_digits_are_scikit_learns() -> None:
    train, test = digits()
    assert (len(train), len(test), train.shape, train.classes) == (1438, 359, (1, 8, 8), 10)
    assert train.x.dtype == np.float32 and train.x.max() == 1.0
    reference = load_digits()
    ours = [
        (x * 16).astype(int).tobytes() + bytes([y])
        for d in (train, test)
        for x, y in zip(d.x, d.y, strict=True)
    ]
    theirs = [
        x.astype(int).tobytes() + bytes([y]) for x, y in zip(reference.images, reference.target, strict=True)
    ]
    assert sorted(ours) == sorted(theirs)


def test_the_split_depends_on_its_seed_alone() -> None:
    assert digits()[0].sha256() == digits()[0].sha256() != digits(split_seed=1)[0].sha256()
    train, test = digits(test_fraction=0.5)
    assert (len(train), len(test)) == (899, 898)


@pytest.mark.parametrize(
    ("records", "fraction", "held_out"), [(10, 0.2, 2), (2, 0.01, 1), (2, 0.99, 1), (3, 0.5, 2)]
)
def test_a_split_leaves_records_on_both_sides(records: int, fraction: float, held_out: int) -> None:
    x = np.zeros((records, 1, 1, 1), np.uint8)
    data = Dataset("tiny", x, np.arange(records), records, "a test", groups=np.arange(records) * 7)
    train, test = split(data, fraction, 0)
    assert len(test) == held_out
    assert sorted([*train.y, *test.y]) == list(range(records))
    assert train.groups is not None and np.array_equal(train.groups, train.y * 7)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_an_impossible_split(fraction: float) -> None:
    with pytest.raises(UsageError, match="above 0 and below 1"):
        digits(test_fraction=fraction)


def test_photos_are_balanced_and_know_their_photograph() -> None:
    train, test = photos(per_photo=10)
    assert train.shape == (3, 32, 32) and train.x.dtype == np.uint8
    counts = np.bincount(np.concatenate([train.y, test.y]))
    assert counts.tolist() == [10] * 9
    assert np.array_equal(train.groups, train.y)
    hashes = {x.tobytes() for d in (train, test) for x in d.x}
    assert len(hashes) >= 80  # crops do not repeat, except for empty sky
    assert photos(per_photo=10)[0].sha256() == train.sha256()
    with pytest.raises(UsageError, match="per_photo = 127; expected 1 to 126"):
        photos(per_photo=127)


def test_crops_run_row_by_row_without_overlap() -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    cut = crops(buffer.getvalue())
    assert cut.shape == (6, 3, 32, 32)  # 2 rows of 3; 6 and 4 pixels are left over
    assert np.array_equal(cut[4], pixels[32:64, 32:64].transpose(2, 0, 1))


def idx(values: np.ndarray, *, shape: tuple[int, ...] | None = None, kind: int = 8) -> bytes:
    shape = shape or values.shape
    return bytes((0, 0, kind, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + values.tobytes()


@pytest.fixture
def tiny_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes four small IDX files, and pins whatever they hold as the contents of MNIST."""

    def write(**override: bytes) -> Path:
        files = {}
        for part in ("train", "t10k"):
            for kind, content in (("images-idx3", idx(GREY)), ("labels-idx1", idx(LABELS.astype(np.uint8)))):
                content = override.get(f"{part}_{kind[:6]}", content)
                files[f"{part}-{kind}-ubyte"] = Pin(hashlib.sha256(content).hexdigest(), len(content))
                (tmp_path / f"{part}-{kind}-ubyte").write_bytes(content)
        monkeypatch.setitem(SOURCES, "mnist", replace(SOURCES["mnist"], files=files))
        return tmp_path

    return write


def test_idx_files_give_both_parts(tiny_mnist: Callable[..., Path]) -> None:
    train, test = mnist(path=tiny_mnist())
    assert (
        train.shape == (1, 2, 3) and np.array_equal(train.x[:, 0], GREY) and np.array_equal(train.y, LABELS)
    )
    assert len(test) == 4
    assert [len(part) for part in mnist(path=tiny_mnist(), limit=3)] == [3, 3]
    assert train.images([3]).max() == pytest.approx(23 / 255)
    with pytest.raises(UsageError, match="limit = 0"):
        mnist(path=tiny_mnist(), limit=0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (idx(GREY, shape=(5, 2, 3)), "promises 5 x 2 x 3 = 30 bytes of data but holds 24"),
        (idx(GREY, shape=(2**32 - 1,) * 3), "but holds 24"),
        (idx(GREY)[:-1], "promises 4 x 2 x 3 = 24 bytes of data but holds 23"),
        (idx(GREY, kind=0x0D), "starts with 00 00 0d 03, expected 00 00 08 03"),
        (idx(GREY.reshape(-1)), "starts with 00 00 08 01"),
        (idx(GREY)[:10], "no IDX file"),
        (b"", "no IDX file"),
    ],
)
def test_idx_headers_that_lie(tiny_mnist: Callable[..., Path], content: bytes, words: str) -> None:
    """Pinned as well, so that it is the parser that refuses, not the hash."""
    with pytest.raises(DataError, match=words):
        mnist(path=tiny_mnist(train_images=content))


def test_labels_and_images_must_match(tiny_mnist: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="4 images but 2 labels"):
        mnist(path=tiny_mnist(train_labels=idx(np.zeros(2, np.uint8))))
    with pytest.raises(DataError, match="labels from 0 to 77"):
        mnist(path=tiny_mnist(train_labels=idx(np.array([0, 1, 2, 77], np.uint8))))
    assert parse_idx(idx(LABELS.astype(np.uint8)), 1, "a test").tolist() == LABELS.tolist()


def test_an_altered_idx_file_is_refused(tiny_mnist: Callable[..., Path]) -> None:
    folder = tiny_mnist()
    file = folder / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte is altered"):
        mnist(path=folder)


def here(name: str) -> bool:
    return store.status(name).status == "found"


@pytest.mark.skipif(not here("mnist"), reason="optional: fedlab data fetch mnist")
def test_the_real_mnist() -> None:
    train, test = mnist()
    assert (len(train), len(test), train.shape) == (60_000, 10_000, (1, 28, 28))
    assert np.bincount(train.y)[:3].tolist() == [5923, 6742, 5958]


@pytest.mark.skipif(not here("fashion-mnist"), reason="optional: fedlab data fetch fashion-mnist")
def test_the_real_fashion_mnist() -> None:
    train, test = fashion_mnist()
    assert np.bincount(train.y).tolist() == [6000] * 10 and np.bincount(test.y).tolist() == [1000] * 10


@pytest.mark.skipif(not here("cifar-samples"), reason="optional: fedlab data fetch cifar-samples")
def test_the_real_cifar_samples() -> None:
    train, test = cifar_samples()
    assert (len(train), len(test), train.shape, train.classes) == (16, 4, (3, 32, 32), 10)
    # The file names' labels: 3 8 8 0 6 6 1 6 3 1 0 9 5 7 9 8 5 7 8 6.
    assert np.bincount(np.concatenate([train.y, test.y])).tolist() == [2, 2, 0, 2, 0, 2, 4, 2, 4, 2]


def test_cifar_samples_read_label_and_pixels_from_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    wheel = tmp_path / "tiny.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("foolbox/data/cifar100_00_49.png", b"another data set")
        for number, label in enumerate((7, 3)):
            buffer = io.BytesIO()
            Image.fromarray(pixels[number]).save(buffer, "PNG")
            archive.writestr(f"foolbox/data/cifar10_{number:02}_{label}.png", buffer.getvalue())
    pin = Pin(hashlib.sha256(wheel.read_bytes()).hexdigest(), wheel.stat().st_size)
    monkeypatch.setitem(SOURCES, "cifar-samples", replace(SOURCES["cifar-samples"], files={"tiny.whl": pin}))
    train, test = cifar_samples(path=tmp_path, test_fraction=0.5)
    images = {int(d.y[0]): d.x[0] for d in (train, test)}
    assert set(images) == {7, 3}
    assert np.array_equal(images[3], pixels[1].transpose(2, 0, 1))


def archive(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path / "mine.npz", **arrays)
    return path / "mine.npz"


def test_npz_in_every_layout(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (4, 3, 6, 5), dtype=np.uint8)
    keys = {"y": LABELS, "y_test": LABELS}
    for stored, expected in (
        (GREY, GREY[:, None]),
        (colour, colour),
        (colour.transpose(0, 2, 3, 1), colour),
        (np.asfortranarray(colour), colour),
    ):
        train, test = npz(
            path=archive(tmp_path, x=stored, x_test=stored[:2], **keys | {"y_test": LABELS[:2]})
        )
        assert np.array_equal(train.x, expected) and np.array_equal(test.x, expected[:2])
        assert train.classes == 3 and train.name == "mine"
    floats, _ = npz(path=archive(tmp_path, x=colour / 255.0, x_test=colour / 255.0, **keys))
    assert floats.x.dtype == np.float32
    np.testing.assert_allclose(floats.images([1]).numpy()[0], colour[1] / 255.0, rtol=1e-6)


def test_npz_layout_is_asked_for_when_it_cannot_be_told(tmp_path: Path) -> None:
    thin = np.zeros((4, 3, 8, 3), np.uint8)
    with pytest.raises(
        DataError, match="both the second and the last axis may be 1, 3 or 4 channels; set layout"
    ):
        npz(path=archive(tmp_path, x=thin, y=LABELS))
    train, _ = npz(path=archive(tmp_path, x=thin, y=LABELS), layout="NHWC")
    assert train.shape == (3, 3, 8)
    with pytest.raises(DataError, match="neither"):
        npz(path=archive(tmp_path, x=np.zeros((4, 8, 8, 8), np.uint8), y=LABELS))
    with pytest.raises(DataError, match="has 2 axes, expected 3"):
        npz(path=archive(tmp_path, x=np.zeros((4, 64), np.uint8), y=LABELS))


def test_npz_without_a_test_part_is_split_with_its_groups(tmp_path: Path) -> None:
    path = archive(tmp_path, x=GREY, y=LABELS, groups=LABELS + 5)
    train, test = npz(path=path, test_fraction=0.25, classes=7, licence="mine")
    assert (len(train), len(test), train.classes, train.licence) == (3, 1, 7, "mine")
    assert train.groups is not None and np.array_equal(train.groups, train.y + 5)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in train.source


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": GREY}, "has no array 'y'; found x"),
        ({"x": GREY, "y": LABELS, "x_test": GREY}, "has no array 'y_test'"),
        ({"x": GREY, "y": LABELS[:3]}, "4 images but 3 labels"),
        ({"x": GREY, "y": LABELS.astype(float)}, "y is float64 of shape"),
        ({"x": GREY, "y": LABELS[:, None]}, "expected whole numbers, one per record"),
        ({"x": GREY, "y": -LABELS}, "labels from -2"),
        ({"x": GREY, "y": LABELS + 10**12}, "number them from 0"),
        ({"x": GREY.astype(np.int64), "y": LABELS}, "is int64; expected uint8, or floating point"),
        ({"x": GREY * 1.0, "y": LABELS}, "pixels from 0 to 23"),
        ({"x": np.full((4, 2, 3), np.nan), "y": LABELS}, "pixels from nan"),
        ({"x": np.array([[{}]] * 4, dtype=object), "y": LABELS}, "never unpickled"),
        ({"x": GREY, "y": LABELS, "groups": LABELS[:2]}, "2 groups but 4 records"),
        ({"x": GREY, "y": LABELS, "x_test": GREY[:, :1], "y_test": LABELS}, "expected the same"),
    ],
)
def test_npz_arrays_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        npz(path=archive(tmp_path, **arrays))


def npy(header: str, data: bytes) -> bytes:
    text = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (
            npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 2, 3)}", b"x"),
            "but holds 1; it is",
        ),
        (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -1, 1)}", b"x"), "it is altered"),
        (
            npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 2, 3)}", b"short"),
            "24 bytes but holds 5",
        ),
        (npy("__import__('os').abort()", b""), "x.npy has no header of a plain"),
        (npy("(" * 9000, b""), "x.npy has no header of a plain"),
        (b"\x93NUMPY\x03\x00", "no header of a plain"),
        (b"no array", "magic"),
        (bytes(30_000_000), "more than 10000000; raise max_mb"),  # 30 kB in the archive
    ],
)
def test_npz_members_that_lie(tmp_path: Path, member: bytes, words: str) -> None:
    path = archive(tmp_path, y=LABELS)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", member)
    with pytest.raises(DataError, match=words):
        npz(path=path, max_mb=10)


def test_npz_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        npz(path=tmp_path / "mine.npz")
    (tmp_path / "mine.npz").write_bytes(b"PK\x03\x04 but no archive")
    with pytest.raises(DataError, match=r"no .npz archive, or a broken one"):
        npz(path=tmp_path / "mine.npz")
    with pytest.raises(DataError, match="cannot read"):
        npz(path=tmp_path)
    path = archive(
        tmp_path, x=np.random.default_rng(0).integers(0, 256, (4, 20, 20), dtype=np.uint8), y=LABELS
    )
    content = bytearray(path.read_bytes())
    content[300] ^= 0xFF  # inside the compressed pixels
    path.write_bytes(content)
    with pytest.raises(DataError, match="broken"):
        npz(path=path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match="broken"):
        npz(path=path)
