"""Where data files live, whether they are what they should be, and how they get there.

A file is searched for in this order: a folder that the user names; fedlab's own folder ($FEDLAB_DATA,
or `data` in the user's cache); folders of the operating system's packages. Data sets that come inside
an installed package are always there. Nothing here touches the network except `fetch`.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import platformdirs

from fedlab.errors import BackendError, DataError
from fedlab.tasks.datasets.sources import SOURCES, Source, source_of

_PACKAGES = {"sklearn": "scikit-learn", "skimage": "scikit-image"}
"""What pip calls the packages that data sets come in."""


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue: `where` is a folder, `size` the bytes of all files, decompressed."""

    name: str
    status: Literal["bundled", "found", "missing"]
    where: Path | None
    size: int
    licence: str
    origin: str


def data_dir() -> Path:
    """fedlab's own folder for data files; it need not exist yet."""
    chosen = os.environ.get("FEDLAB_DATA")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("fedlab") / "data"


def catalogue() -> list[Entry]:
    """Every data set that fedlab knows by name, here or not."""
    return [status(name) for name in sorted(SOURCES)]


def status(name: str) -> Entry:
    """Whether the files of a data set are here; reads none of them.

    Raises:
        UnknownName: there is no data set of that name.
    """
    source = source_of(name)
    try:
        where = next(iter(locate(name).values())).parent
    except DataError:
        return Entry(name, "missing", None, source.size, source.licence, source.origin)
    state: Literal["bundled", "found"] = "bundled" if source.bundled else "found"
    return Entry(name, state, where, source.size, source.licence, source.origin)


def locate(name: str, path: Path | None = None) -> dict[str, Path]:
    """The place of each file of a data set, plain or with `.gz`, in the first folder that has them all.

    Args:
        path: the only folder to search, instead of the usual ones.

    Raises:
        UnknownName: there is no data set of that name.
        DataError: files are missing; says which, how to fetch them, and what works without.
    """
    source = source_of(name)
    folders = _folders(source, path)
    for folder in folders:
        found = {file: place for file in source.files if (place := _place(folder, file))}
        if len(found) == len(source.files):
            return found
    files = ", ".join(source.files)
    if source.bundled:
        packages = " and ".join(sorted({_PACKAGES[file.partition("/")[0]] for file in source.files}))
        raise DataError(f"data set {name}: not all of {files} are installed; reinstall {packages}")
    raise DataError(
        f"data set {name} is not here; searched {', '.join(map(str, folders))} for {files} (or .gz)."
        f" Fetch it with `fedlab data fetch {name}`, or use digits, which needs no download."
    )


def read(name: str, file: str, path: Path | None = None) -> bytes:
    """The verified content of one file of a data set, decompressed.

    Raises:
        UnknownName, DataError: as `locate`; also if the content is not the pinned one.
    """
    return _content(source_of(name), file, locate(name, path)[file])


def verify(name: str, path: Path | None = None) -> list[Path]:
    """Read and check every file of a data set; returns where they are.

    Raises:
        UnknownName, DataError: as `read`.
    """
    places = locate(name, path)
    for file, place in places.items():
        _content(source_of(name), file, place)
    return list(places.values())


def fetch(name: str, *, timeout: float = 600.0) -> Path:
    """Download a data set with its distributor's ordinary client, unless it is here; returns its folder.

    The folder appears whole and verified, or not at all.

    Args:
        timeout: most seconds that the client may take.

    Raises:
        UnknownName: there is no data set of that name.
        DataError: the client is missing, fails or takes too long, or its files are not the pinned ones.
        BackendError: the folder cannot be written.
    """
    source = source_of(name)
    try:
        return verify(name)[0].parent
    except DataError:
        if source.bundled:
            raise
    home = data_dir()
    try:
        home.mkdir(parents=True, exist_ok=True)
        # Inside `home`, so that the last step is a rename within one file system.
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=home) as scratch:
            ready = _download(source, Path(scratch), timeout)
            if (home / name).exists():  # damaged, or it would have been returned above
                (home / name).rename(Path(scratch) / "damaged")
            ready.rename(home / name)
    except OSError as error:
        raise BackendError(
            f"cannot write data files to {home}: {error}; set FEDLAB_DATA to a folder that you own"
        ) from error
    return home / name


def _folders(source: Source, path: Path | None) -> list[Path | None]:
    """Where to search, in order; None stands for the installed packages."""
    if path is not None:
        return [Path(path).expanduser() / layout for layout in source.layouts]
    if source.bundled:
        return [None]
    return [data_dir() / source.name, *source.system]


def _place(folder: Path | None, file: str) -> Path | None:
    """The file in `folder` (None: in the installed package that its path starts with), plain or .gz."""
    if folder is None:
        package, _, file = file.partition("/")
        spec = importlib.util.find_spec(package)  # finds a top-level package without importing it
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(next(iter(spec.submodule_search_locations)))
    places = (folder / file, folder / f"{file}.gz")
    return next((place for place in places if place.is_file()), None)


def _content(source: Source, file: str, place: Path) -> bytes:
    """The decompressed content of `place`, if it is the pinned; never more than that in memory."""
    pin, name = source.files[file], source.name
    if source.bundled:
        remedy = f"; reinstall {_PACKAGES[file.partition('/')[0]]}"
    else:
        remedy = f"; delete it and run `fedlab data fetch {name}`"
    try:
        with gzip.open(place) if place.suffix == ".gz" else place.open("rb") as stream:
            content = stream.read(pin.size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"data set {name}: {place} is truncated or altered ({error}){remedy}") from error
    except OSError as error:
        raise DataError(f"data set {name}: cannot read {place}: {error.strerror}{remedy}") from error
    if len(content) != pin.size:
        got = f"{len(content)} bytes" if len(content) < pin.size else f"more than {pin.size} bytes"
        raise DataError(
            f"data set {name}: {place} is truncated or altered: {got}, expected {pin.size}"
            f"{' after decompression' if place.suffix == '.gz' else ''}{remedy}"
        )
    got = hashlib.sha256(content).hexdigest()
    if got != pin.sha256:
        raise DataError(
            f"data set {name}: {place} is altered: sha256 {got[:16]}…, expected {pin.sha256[:16]}…{remedy}"
        )
    return content


def _download(source: Source, scratch: Path, timeout: float) -> Path:
    """A folder in `scratch` with the verified files of a data set, and nothing else."""
    (scratch / "archive").mkdir()
    _run(source, source.command, scratch / "archive", timeout)
    archives = [place for place in (scratch / "archive").iterdir() if place.is_file()]
    if len(archives) != 1:
        raise DataError(
            f"data set {source.name}: {_shown(source)} left {len(archives)} files, expected one archive"
        )
    folder = scratch / "unpacked"
    folder.mkdir()
    if archives[0].suffix == ".deb":
        _run(source, ("dpkg", "-x", str(archives[0]), str(folder)), scratch, timeout)
        folder /= source.inside
    elif archives[0].suffix == ".tgz":
        _untar(source, archives[0], folder)
    else:
        folder = scratch / "archive"
    ready = scratch / "ready"
    ready.mkdir()
    for file in source.files:
        place = _place(folder, file)
        if place is None:
            raise DataError(f"data set {source.name}: {_shown(source)} brought no {file}")
        _content(source, file, place)
        shutil.move(place, ready / place.name)
    return ready


def _untar(source: Source, archive: Path, folder: Path) -> None:
    """Take the data files, and only those, out of an archive that nobody has verified yet."""
    try:
        with tarfile.open(archive) as tar:
            for file, pin in source.files.items():
                stream: IO[bytes] | None = tar.extractfile(f"{source.inside}/{file}")
                if stream is not None:
                    (folder / file).write_bytes(stream.read(pin.size + 1))
    except (tarfile.TarError, EOFError, zlib.error, KeyError) as error:
        raise DataError(
            f"data set {source.name}: {_shown(source)} brought a broken archive: {error}"
        ) from error


def _shown(source: Source) -> str:
    return f"`{' '.join(source.command)}`"


def _run(source: Source, command: tuple[str, ...], folder: Path, timeout: float) -> None:
    """Run a package client in `folder`; stopped with all its children when time is up or on Ctrl-C."""
    by_hand = f"; or put {', '.join(source.files)} into {data_dir() / source.name} yourself"
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "NO_UPDATE_NOTIFIER": "1"}
    what = f"data set {source.name}: `{' '.join(command)}`"
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | quiet,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise DataError(f"{what} needs {command[0]}, which is not installed{by_hand}") from error
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{what} took more than {timeout:g} s; is there a network?{by_hand}") from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        last = " / ".join(output.strip().splitlines()[-3:])
        raise DataError(f"{what} failed with exit code {process.returncode}: {last}{by_hand}")
