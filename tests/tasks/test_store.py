"""Data files: found in order, read only if they are the pinned ones, fetched whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fedlab.errors import BackendError, DataError, UnknownName
from fedlab.tasks import store
from fedlab.tasks.datasets.sources import SOURCES, Pin, Source

CONTENT = {"a.bin": b"first file", "b.bin": b"second file, longer"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def tiny(home: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A data set of two small files that nobody has yet."""
    pins = {name: Pin(hashlib.sha256(data).hexdigest(), len(data)) for name, data in CONTENT.items()}
    return register(monkeypatch, Source("tiny", "a test", "CC0", pins))


def register(monkeypatch: pytest.MonkeyPatch, source: Source) -> Source:
    monkeypatch.setitem(SOURCES, source.name, source)
    return source


def put(folder: Path, content: dict[str, bytes] = CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def client(script: str) -> tuple[str, ...]:
    """A package client: a Python script that runs in the folder where the archive should appear."""
    return (sys.executable, "-c", script)


TGZ = f"""
import io, tarfile
with tarfile.open("tiny-1.0.tgz", "w:gz") as tar:
    for name, data in {CONTENT!r}.items():
        for place in ("package/data/" + name, "../escaped/" + name):
            member = tarfile.TarInfo(place)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
"""


def test_the_folder_is_fedlab_data_or_the_users_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.data_dir() == home
    monkeypatch.delenv("FEDLAB_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    if sys.platform == "linux":
        assert store.data_dir() == Path("/some/cache/fedlab/data")


def test_a_missing_data_set_names_files_folder_command_and_substitute(home: Path) -> None:
    with pytest.raises(DataError) as error:
        store.locate("mnist")
    for words in ("train-images-idx3-ubyte", str(home / "mnist"), "`fedlab data fetch mnist`", "digits"):
        assert words in str(error.value)
    assert store.status("mnist").status == "missing"
    assert not home.exists()


def test_the_order_is_given_folder_then_home_then_system(
    tiny: Source, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, replace(tiny, system=(tmp_path / "system",), layouts=("", "Tiny/raw")))
    put(tmp_path / "system")
    assert store.status("tiny").where == tmp_path / "system"
    put(home / "tiny", {"a.bin": CONTENT["a.bin"]})  # half a data set counts for nothing
    assert store.status("tiny").where == tmp_path / "system"
    put(home / "tiny")
    assert store.status("tiny").where == home / "tiny"
    given = put(tmp_path / "mine" / "Tiny" / "raw")
    assert store.locate("tiny", tmp_path / "mine") == {name: given / name for name in CONTENT}
    monkeypatch.chdir(given)
    assert store.locate("tiny", Path(".")) == {name: Path(name) for name in CONTENT}
    with pytest.raises(DataError, match="elsewhere"):  # a given folder is the only one
        store.locate("tiny", tmp_path / "elsewhere")


def test_compressed_files_are_pinned_by_their_content(tiny: Source, home: Path) -> None:
    put(home / "tiny", {"a.bin.gz": gzip.compress(CONTENT["a.bin"], 1), "b.bin": CONTENT["b.bin"]})
    assert store.read("tiny", "a.bin") == CONTENT["a.bin"]
    assert [place.name for place in store.verify("tiny")] == ["a.bin.gz", "b.bin"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.bin", b"first fil", "truncated or altered: 9 bytes, expected 10"),
        ("a.bin", b"first file!" * 100, "more than 10 bytes, expected 10"),
        ("a.bin", b"First file", "is altered: sha256 "),
        ("a.bin.gz", gzip.compress(b"first file", mtime=0)[:-6], "truncated or altered"),
        ("a.bin.gz", b"not gzip at all", "truncated or altered"),
        (
            "a.bin.gz",
            gzip.compress(bytes(10_000_000), mtime=0),
            "more than 10 bytes, expected 10 after decompression",
        ),
    ],
)
def test_truncated_and_altered_files(tiny: Source, home: Path, name: str, data: bytes, words: str) -> None:
    put(home / "tiny", {name: data, "b.bin": CONTENT["b.bin"]})
    with pytest.raises(DataError, match=words) as error:
        store.verify("tiny")
    assert str(home / "tiny" / name) in str(error.value)
    assert "`fedlab data fetch tiny`" in str(error.value)


def test_fetch_brings_the_files_whole_and_leaves_nothing_else(
    tiny: Source, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, replace(tiny, command=client(TGZ), inside="package/data"))
    assert store.fetch("tiny") == home / "tiny"
    assert [path.name for path in home.iterdir()] == ["tiny"]
    assert {path.name: path.read_bytes() for path in (home / "tiny").iterdir()} == CONTENT
    assert not list(tmp_path.rglob("escaped"))
    register(monkeypatch, replace(tiny, command=client("raise SystemExit('run again')")))
    assert store.fetch("tiny") == home / "tiny"  # already here: no client runs


def test_fetch_replaces_a_damaged_data_set(tiny: Source, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home / "tiny", CONTENT | {"a.bin": b"damaged"})
    register(monkeypatch, replace(tiny, command=client(TGZ), inside="package/data"))
    store.fetch("tiny")
    assert len(store.verify("tiny")) == 2
    assert [path.name for path in home.iterdir()] == ["tiny"]


def test_fetch_unpacks_a_debian_package_with_dpkg(
    tiny: Source, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = (
        put(tmp_path / "bin", {"dpkg": b'#!/bin/sh\nmkdir "$3/share" && cp "$2.d"/* "$3/share"\n'}) / "dpkg"
    )
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}{os.pathsep}{os.environ['PATH']}")
    script = f"""
import pathlib
pathlib.Path("tiny.deb").touch()
pathlib.Path("tiny.deb.d").mkdir()
for name, data in {CONTENT!r}.items():
    pathlib.Path("tiny.deb.d", name).write_bytes(data)
"""
    register(monkeypatch, replace(tiny, command=client(script), inside="share"))
    assert store.fetch("tiny") == home / "tiny"
    assert len(store.verify("tiny")) == 2


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("no-such-client-7f3a", "pack"), "needs no-such-client-7f3a, which is not installed; or put a.bin"),
        (
            client("import sys; print('E: no network'); sys.exit(100)"),
            "failed with exit code 100: E: no network",
        ),
        (client("pass"), "left 0 files, expected one archive"),
        (client("import signal; signal.pause()"), "took more than 0.5 s"),
        (client("open('tiny.tgz', 'wb').write(b'no archive')"), "brought a broken archive"),
        (client(TGZ.replace("package/data/", "package/other/")), "brought a broken archive"),
        (client(TGZ.replace("first file", "First file")), "is altered"),
        (client("open('other.whl', 'wb').close()"), "brought no a.bin"),
    ],
)
def test_a_fetch_that_fails_leaves_nothing(
    tiny: Source, home: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], words: str
) -> None:
    register(monkeypatch, replace(tiny, command=command, inside="package/data"))
    with pytest.raises(DataError, match=words):
        store.fetch("tiny", timeout=0.5 if "0.5" in words else 60.0)
    assert list(home.iterdir()) == []


def test_a_folder_that_cannot_be_written(tiny: Source, home: Path) -> None:
    home.write_text("a file where the folder should be")
    with pytest.raises(BackendError, match="set FEDLAB_DATA to a folder that you own"):
        store.fetch("tiny")


def test_bundled_data_is_always_there_and_needs_no_fetch(home: Path) -> None:
    for name in ("digits", "photos"):
        assert store.status(name).status == "bundled"
        assert len(store.verify(name)) == len(SOURCES[name].files)
        assert store.fetch(name).is_dir()
    assert not home.exists()


def test_an_altered_package_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    (file, pin), *_ = SOURCES["digits"].files.items()
    register(monkeypatch, replace(SOURCES["digits"], files={file: replace(pin, sha256="0" * 64)}))
    with pytest.raises(DataError, match=r"is altered.*reinstall scikit-learn"):
        store.read("digits", file)
    register(monkeypatch, replace(SOURCES["digits"], files={"sklearn/gone.csv": pin}))
    with pytest.raises(DataError, match=r"not all of sklearn/gone.csv are installed; reinstall scikit-learn"):
        store.fetch("digits")


def test_the_catalogue_has_every_data_set_with_size_and_licence(home: Path) -> None:
    entries = {entry.name: entry for entry in store.catalogue()}
    assert set(entries) == {"cifar-samples", "digits", "fashion-mnist", "mnist", "photos"}
    assert entries["mnist"].size == 47_040_016 + 60_008 + 7_840_016 + 10_008
    assert all(entry.licence and entry.origin for entry in entries.values())
    with pytest.raises(UnknownName, match='Did you mean "mnist"'):
        store.status("mnits")
