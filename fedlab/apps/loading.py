"""The two apps in a folder, imported as Flower imports them: with the folder first on Python's path.

What runs from here on is foreign code: it may print, seed, or end the process. What can be kept within
bounds inside one process is (`fedlab.apps.bounds`); the rest is for whoever starts that process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedlab.apps.folder import AppFolder


@dataclass(frozen=True, eq=False)
class Apps:
    """A ServerApp and a ClientApp.

    Attributes:
        output: what they printed while they were imported, its last 200 lines.
        modules: names of the folder's modules; `forget` takes them out of Python again.
    """

    server: ServerApp
    client: ClientApp
    output: Sequence[str] = ()
    modules: frozenset[str] = field(default_factory=frozenset)


def load(folder: AppFolder, *, seed: int = 0) -> Apps:
    """Import both apps; `seed` is that of the global generators meanwhile, which stay as they were.

    Raises:
        BadApp: a module that is missing or does not import (with the app's own traceback), an attribute
            that is missing or no ServerApp or ClientApp.
    """
    raise NotImplementedError
