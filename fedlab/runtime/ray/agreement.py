"""Whether a worker's machine computes with the same software as the one that directs it.

On one machine both use the same files. On a cluster each machine has its own, and another torch rounds in
another way: the run would not be the one that the report describes, and nobody would know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata

from fedlab import __version__
from fedlab.errors import BackendError

PACKAGES = ("torch", "numpy", "flwr")
ADVICE = (
    "Install it on every machine of the cluster, or let Ray send a folder that holds it with"
    ' runtime.working_dir = "FOLDER"'
)
"""What to do where code is missing on some machine."""


def versions() -> dict[str, str]:
    """Of what decides the numbers; builds of one version, as torch's for CPU and CUDA, are the same."""
    installed = {name: metadata.version(name).partition("+")[0] for name in PACKAGES}
    return {"fedlab": __version__} | installed


def expect_agreement(directing: Mapping[str, str], machine: str) -> None:
    """Refuse to work for a process that has other versions than this one, on `machine`.

    Raises:
        BackendError: it has; names each, and what to install.
    """
    here = versions()
    other = [name for name in directing if directing[name] != here.get(name)]
    if other:
        told = ", ".join(f"{name} {here.get(name, 'missing')} (expected {directing[name]})" for name in other)
        raise BackendError(
            f"the machine {machine} of the Ray cluster has {told}; every machine must compute with the"
            " versions of the one where fedlab was started, or results depend on who computed them. Install"
            " those there, and start its node again"
        )


def module_missing(error: BaseException) -> str:
    """What to tell the user if Ray failed because code is missing where it was to run; "" if not."""
    found = re.search(r"No module named '[^']+'", str(error))
    told = f"a machine of the Ray cluster cannot import what is to run there: {found[0]}. " if found else ""
    return told and told + ADVICE


def expect_import(death: BaseException) -> None:
    """Refuse a machine on which workers die because fedlab does not import: Ray tells it in a traceback.

    Raises:
        BackendError: that is what `death` says.
    """
    told = str(death).strip()
    if "failed to import on the worker" in told:
        where = re.search(r"\bip=([^,\s)]+)", told)
        raise BackendError(
            f"the machine {where[1] if where else '(unnamed)'} of the Ray cluster cannot import fedlab:"
            f" {told.splitlines()[-1].strip()}. Install fedlab there, for the Python that its node was"
            " started with, and start the node again"
        )
