"""The network behind a recording, found where the server itself has it from: its own code.

A ServerApp that sends a model makes it first. So its code is run up to its first message, on a Grid that
nobody is behind, while torch tells which modules are put together; the one whose tensors fit the arrays that
were recorded is the network. Where the server makes none (its first model comes from a client), the app's own
classes of modules are tried. Nothing of this touches the deployment.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from torch import nn
from torch.nn.modules import module as hooks

from fedlab import seeds
from fedlab.apps.bounds import Printed, bounded
from fedlab.apps.contract import Arrays
from fedlab.apps.flower import Books, watched
from fedlab.apps.folder import AppFolder, Value
from fedlab.apps.grids import FrontGrid
from fedlab.apps.loading import Apps
from fedlab.apps.naming import match
from fedlab.runtime._flower import RUN_ID, SUPERLINK_NODE_ID, Run, enter_run

FROM_SERVER = "made by the ServerApp's own code before its first message"
FROM_CLASS = "a class of the app that needs no argument"


class _Sent(BaseException):
    """The first message is ready; no `except Exception` of the app shall go on from here."""


class _Nobody(Grid):
    """As many nodes as there were, none of which ever gets a message."""

    def __init__(self, nodes: int) -> None:
        self._nodes, self._run = nodes, enter_run()

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        content, kind, node, group, *rest = arguments
        return Message(content, node, kind, ttl=named.get("ttl", rest[0] if rest else None), group_id=group)

    def get_node_ids(self) -> Iterable[int]:
        return range(SUPERLINK_NODE_ID + 1, SUPERLINK_NODE_ID + 1 + self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> NoReturn:
        raise _Sent

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> NoReturn:
        raise _Sent


def find_network(
    apps: Apps, folder: AppFolder, configuration: Mapping[str, Value], arrays: Arrays, nodes: int, seed: int
) -> tuple[nn.Module, str] | None:
    """A copy of the network that the arrays are of, and where it is from; None if it is not found."""
    with _built() as (modules, inner), bounded(Printed(), folder.path, seeds.derive(seed, "server")):
        _run_up(apps, configuration, nodes)
        for one in [one for one in modules.values() if id(one) not in inner]:
            if match(arrays, one.state_dict()) is not None:
                return copy.deepcopy(one), FROM_SERVER
        for kind in _classes(folder):
            with suppress(Exception):  # somebody else's class; one that asks for arguments is none of ours
                one = kind()
                if match(arrays, one.state_dict()) is not None:
                    return one, FROM_CLASS
    return None


def _run_up(apps: Apps, configuration: Mapping[str, Value], nodes: int) -> None:
    """The server's code up to its first message; however it ends, it may have made its network."""
    grid = FrontGrid(_Nobody(nodes), nodes)
    context = Context(RUN_ID, SUPERLINK_NODE_ID, {}, RecordDict(), dict(configuration))
    with watched(Books(), nodes), suppress(Exception, SystemExit, _Sent):
        try:
            apps.server(grid, context)
        finally:
            grid.close()


@contextmanager
def _built() -> Iterator[tuple[Mapping[int, nn.Module], set[int]]]:
    """Modules by id that something is registered in meanwhile; the ids of those inside of others."""
    modules: dict[int, nn.Module] = {}
    inner: set[int] = set()

    def grown(parent: nn.Module, name: str, child: object) -> None:
        modules[id(parent)] = parent
        if isinstance(child, nn.Module):
            inner.add(id(child))

    registered = [
        hooks.register_module_module_registration_hook(grown),
        hooks.register_module_parameter_registration_hook(grown),
    ]
    try:
        yield modules, inner
    finally:
        for one in registered:
            one.remove()


def _inside(file: object, folder: AppFolder) -> bool:
    return isinstance(file, str) and Path(file).resolve().is_relative_to(folder.path.resolve())


def _classes(folder: AppFolder) -> list[type[nn.Module]]:
    """Classes of modules that the app's own files define."""
    own = [one for one in list(sys.modules.values()) if _inside(getattr(one, "__file__", None), folder)]
    return [
        one
        for module in own
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, nn.Module) and one.__module__ == module.__name__
    ]
