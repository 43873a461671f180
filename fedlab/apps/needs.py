"""What an app needs and does not find here: packages, older names of Flower's, data, the network."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

OTHERWISE = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
    "dotenv": "python-dotenv",
    "keras": "tensorflow",
}
"""Packages whose modules are called otherwise."""
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
"""Variables that keep Hugging Face's libraries off the network; an audit sets them unless they are set."""
MISSING = re.compile(r"No module named '([^']+)'")
GONE = re.compile(r"cannot import name '[^']+' from '(flwr[^']*)'|No module named '(flwr\.[^']+)'")
REACHED = re.compile(
    r"OfflineModeIsEnabled|LocalEntryNotFoundError|offline mode|Couldn't reach|Max retries exceeded"
    r"|Name or service not known|Temporary failure in name resolution|Network is unreachable|URLError"
)
FILE = re.compile(r"FileNotFoundError.*: '([^']+)'")


def advice(text: str, dependencies: Sequence[str]) -> str:
    """What to do about an app's error, in sentences; "" where nothing is known.

    Args:
        text: of the error, with its type; of a traceback, all of it.
        dependencies: those of the app's pyproject.toml.
    """
    if gone := GONE.search(text):
        wanted = [one for one in dependencies if _name(one) == "flwr"]
        asks = f" The app asks for {wanted[0]!r}." if wanted else ""
        found = importlib.metadata.version("flwr")
        return f"Flower {found}, which is installed here, has no such name in {gone[1] or gone[2]}.{asks}"
    if missing := MISSING.search(text):
        return _installing(missing[1].partition(".")[0], dependencies)
    if REACHED.search(text):
        kept = [name for name in OFFLINE if os.environ.get(name) == "1"]
        free = " ".join(f"{name}=0" for name in kept)
        return "The app looks for something in the network. " + (
            f"It runs offline here: fetch its data first (flwr run does), or allow the network with {free}"
            " before the command."
            if kept
            else "Fetch its data first, where there is a network."
        )
    if (file := FILE.search(text)) and not os.path.isabs(file[1]):
        return (
            f"The app looks for {file[1]} where flwr run would be called: in its own folder, as a rule."
            " Put its data there, or prepare them as its README says."
        )
    return ""


def _installing(module: str, dependencies: Sequence[str]) -> str:
    """How to install what a module comes from, and whatever else of the app's dependencies is not here."""
    wanted = canonicalize_name(OTHERWISE.get(module, module))
    absent = [one for one in dependencies if _name(one) and not _there(one)]
    named = [one for one in absent if _name(one) in (wanted, canonicalize_name(module))]
    if not named and module in OTHERWISE:
        named = [wanted]
    words = shlex.join(
        [sys.executable, "-m", "pip", "install", *named, *(o for o in absent if o not in named)]
    )
    if named:
        return f"Install what the app needs where fedlab is installed: {words}"
    # Somebody else's package may have the name of a module that is nobody's.
    found = f"; others that it asks for are not here either: {words}" if absent else ""
    return f"The app's pyproject.toml asks for no package {module}: install it as its authors say{found}"


def _name(dependency: str) -> str:
    """The package's name; "" if it is no requirement, or not for here."""
    try:
        found = Requirement(dependency)
    except InvalidRequirement:
        return ""
    return canonicalize_name(found.name) if found.marker is None or found.marker.evaluate() else ""


def _there(dependency: str) -> bool:
    """Whether the package is installed, in whatever version."""
    try:
        importlib.metadata.distribution(_name(dependency))
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def dependencies_of(project: Mapping[str, object]) -> tuple[str, ...]:
    """Those of a pyproject.toml's table [project]; none if they are no list of texts."""
    found = project.get("dependencies")
    return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()
