"""What has to be known of Flower 1.41 to take the place of its executor; nothing else of the tap does.

* A SuperLink has one HTTP API, the "Runtime" one. `AcquireTask` hands out the oldest task of a kind with the
  token to work on it; `flower-superexec` asks for it every second and starts `flwr-serverapp TOKEN`.
* `flwr-serverapp` does all the rest: heartbeats, logs, the bundle, the run config, the status. It makes its
  Grid by the name `HttpGrid` and calls the app by the name `run_`, both of its own module. These two names
  are replaced here for the time of one run, and nothing else is.
* `HttpGrid.send_and_receive` goes through the Grid's own `push_messages` and `pull_messages`. So a Grid that
  listens is one whose two methods tell of what passed, and every poll, retry and time-out stays Flower's.
* Flower retries for ever where a SuperLink does not answer, and SuperLink gives a task up after a minute
  without a heartbeat. `patience` ends the waiting, with the error of the last attempt.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast
from unittest import mock

from flwr.app import Context, Message
from flwr.superlink.grid import HttpGrid


class Listener(Protocol):
    """Who is told what passes; nothing that it does may raise."""

    def began(self, about: Mapping[str, Any]) -> None:
        """The app is about to be loaded."""

    def sent(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
        """`messages` went out under `ids`."""

    def arrived(self, replies: Sequence[Message]) -> None:
        """`replies` came in."""

    def ended(self, error: BaseException | None, folder: str) -> None:
        """The app has returned, or raised."""


class ListeningGrid(HttpGrid):
    """Flower's own Grid, which tells a listener what passes, and changes none of it."""

    def __init__(self, *args: Any, listener: Listener, patience: float, **named: Any) -> None:
        super().__init__(*args, **named)
        self._listener = listener
        self._retry_invoker.max_time = patience

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        outgoing = list(messages)
        ids = list(super().push_messages(outgoing))
        self._listener.sent(ids, outgoing)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self._listener.arrived(replies)
        return replies


def serve(arguments: Sequence[str], listener: Listener, patience: float) -> None:
    """Be `flwr-serverapp` with these arguments, on a Grid that tells `listener`.

    Raises:
        SystemExit: always; it is how Flower ends.
    """
    from flwr.superlink.cli import flwr_serverapp

    # The package has a function of the module's name.
    module: Any = importlib.import_module("flwr.superlink.runtime.run_serverapp")
    original = module.run_

    def run(grid: HttpGrid, context: Context, server_app_dir: str, server_app_attr: str) -> Context:
        listener.began(_about(grid, context, server_app_dir))
        try:
            ended = original(
                grid=grid, context=context, server_app_dir=server_app_dir, server_app_attr=server_app_attr
            )
        except BaseException as error:
            listener.ended(error, server_app_dir)
            raise
        listener.ended(None, server_app_dir)
        return cast(Context, ended)

    grid = functools.partial(ListeningGrid, listener=listener, patience=patience)
    words = ["flwr-serverapp", *arguments]
    with mock.patch.multiple(module, HttpGrid=grid, run_=run), mock.patch.object(sys, "argv", words):
        flwr_serverapp()


def _about(grid: HttpGrid, context: Context, folder: str) -> dict[str, Any]:
    run = grid.run
    return {
        "run_id": str(run.run_id),
        "app": run.fab_id,
        "version": run.fab_version,
        "hash": run.fab_hash,
        "folder": folder,
        "configuration": dict(context.run_config),
    }
