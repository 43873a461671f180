"""What this machine offers, and what would get in fedlab's way: `fedlab doctor`."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import fedlab
from fedlab import plugins
from fedlab.errors import FedlabError

Status = Literal["ok", "note", "fail"]

NEEDED = (
    "torch",
    "flwr",
    "ray",
    "opacus",
    "numpy",
    "scipy",
    "pydantic",
    "safetensors",
    "matplotlib",
    "psutil",
)
"""Imported for real, because a package that is listed may still not load."""

SHARED_MEMORY = 1 << 30
"""Bytes of /dev/shm below which Ray falls back to a slower disk."""

MEMORY = 2 << 30
"""Bytes of free memory below which a Ray worker is likely to be killed."""


@dataclass(frozen=True)
class Finding:
    """One line: a "fail" keeps fedlab from working, a "note" is worth knowing."""

    topic: str
    value: str
    status: Status = "ok"
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """For `--json`."""
        return asdict(self)


def examine() -> Iterator[Finding]:
    """All findings, in the order in which they are worth reading."""
    yield Finding("fedlab", f"{fedlab.__version__} in {Path(fedlab.__file__).parent}")
    yield from rival()
    yield python()
    for name in NEEDED:
        yield package(name)
    yield processors()
    yield gpus()
    yield memory()
    yield shared_memory()
    yield from telemetry()
    yield from plugged()
    yield from data_sets()


def rival() -> Iterator[Finding]:
    """PyPI's `fedlab` is another project; both own `import fedlab`, and the later install wins."""
    try:
        version = metadata.version("fedlab")
    except metadata.PackageNotFoundError:
        return
    yield Finding(
        "another fedlab",
        f"the distribution fedlab {version} is installed beside fedlab-audit",
        "fail",
        "both provide `import fedlab`; run `pip uninstall fedlab` and reinstall fedlab-audit",
    )


def python() -> Finding:
    """The interpreter."""
    return Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def package(name: str) -> Finding:
    """A dependency, imported."""
    try:
        importlib.import_module(name)
        return Finding(name, metadata.version(name))
    except Exception as error:  # a broken binary raises anything from ImportError to OSError
        reason = f"does not import: {type(error).__name__}: {error}"
        return Finding(name, reason, "fail", f"reinstall it: pip install --force-reinstall {name}")


def processors() -> Finding:
    """The cores that this process may use, which a container can make fewer than there are."""
    present = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else present
    quota = _number(Path("/sys/fs/cgroup/cpu.max"), ratio=True)
    usable = min(usable, max(1, int(quota))) if quota else usable
    return Finding("CPU cores", f"{usable} usable" + (f" of {present}" if usable != present else ""))


def gpus() -> Finding:
    """What torch can use."""
    try:
        import torch

        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    except Exception as error:  # reported at its own line; a driver fault may surface here
        return Finding("GPUs", f"cannot be asked: {error}", "note")
    if not names and shutil.which("nvidia-smi"):
        return Finding(
            "GPUs", "none that torch can use", "note", "install a CUDA build of torch to use the GPU"
        )
    return Finding("GPUs", ", ".join(names) or "none; everything runs on the CPU")


def memory() -> Finding:
    """Free memory, within the container's limit if there is one."""
    try:
        import psutil
    except ImportError as error:  # reported at its own line
        return Finding("memory", f"cannot be asked: {error}", "note")
    free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
    limit = _number(Path("/sys/fs/cgroup/memory.max"))
    used = _number(Path("/sys/fs/cgroup/memory.current"))
    if limit and limit < total:
        free, total = min(free, limit - (used or 0)), limit
    text = f"{_size(free)} free of {_size(total)}"
    if free < MEMORY:
        return Finding("memory", text, "note", "use few workers, or --set runtime.executor=inline")
    return Finding("memory", text)


def shared_memory() -> Finding:
    """Ray keeps its objects in /dev/shm."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return Finding("/dev/shm", "not there; Ray uses files instead")
    usage = shutil.disk_usage(place)
    text = f"{_size(usage.free)} free of {_size(usage.total)}"
    if usage.free < SHARED_MEMORY:
        return Finding("/dev/shm", text, "note", "Ray will be slower; start the container with --shm-size=2g")
    return Finding("/dev/shm", text)


SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "Flower telemetry",
    "FLWR_DISABLE_UPDATE_CHECK": "Flower update check",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "Flower run-time installs",
    "RAY_USAGE_STATS_ENABLED": "Ray usage statistics",
}
"""Variables through which Flower and Ray can be kept from calling out."""


def telemetry() -> Iterator[Finding]:
    """The switches that `import fedlab` sets, unless the user has set them."""
    for name, topic in SWITCHES.items():
        value, off = os.environ.get(name, ""), fedlab.QUIET[name]
        if value == off:
            yield Finding(topic, f"off ({name}={value})")
        else:
            advice = f"your environment sets it; `export {name}={off}` keeps it silent"
            yield Finding(topic, f"ON ({name}={value})", "note", advice)


def plugged() -> Iterator[Finding]:
    """The plugins that cannot be used, each imported for real, and those whose name is fedlab's own."""
    for kind in plugins.KINDS:
        for name in plugins.names(kind):
            topic = f"{plugins.singular(kind)} {name}"
            try:
                plugins.load(kind, name)
            except FedlabError as error:
                yield Finding(topic, f"broken: {error}", "note")
            for rival in plugins.shadowed(kind, name):
                advice = f"ask the authors of {rival} for another name, or uninstall it"
                yield Finding(topic, f"that of {rival} is ignored; the name is fedlab's own", "note", advice)


def data_sets() -> Iterator[Finding]:
    """Which data sets are here; a missing one is no fault."""
    try:
        from fedlab.tasks import store

        entries = store.catalogue()
    except Exception as error:  # torch itself may be what is broken
        yield Finding("data sets", f"cannot be listed: {error}", "note")
        return
    for entry in entries:
        where = f" in {entry.where}" if entry.status == "found" else ""
        advice = f"fedlab data fetch {entry.name}" if entry.status == "missing" else ""
        yield Finding(f"data set {entry.name}", f"{entry.status}{where}", "ok", advice)


def _number(path: Path, *, ratio: bool = False) -> int | None:
    """A cgroup's limit: "max" means none; `ratio` reads "quota period"."""
    try:
        parts = path.read_text().split()
        return -(-int(parts[0]) // int(parts[1])) if ratio else int(parts[0])
    except (OSError, ValueError, IndexError):
        return None


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
