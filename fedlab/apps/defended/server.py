"""A defense around the strategy that the app's server starts, or that an older server fits with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from flwr.server import strategy as older
from flwr.server.server import Server
from flwr.serverapp.strategy import Strategy

from fedlab.audit import Defense


class AroundStrategy:
    """Wraps whatever strategy is started while `active` lasts; `started` counts them.

    Of an older server, the defense must make an older strategy; if it makes another, the server's own stays.
    """

    def __init__(self, defense: Defense) -> None:
        self._defense = defense
        self.started = 0

    @contextmanager
    def active(self) -> Iterator[None]:
        """While it lasts, strategies that start are wrapped first."""
        original = Strategy.start
        inside: list[Strategy] = []

        def start(strategy: Strategy, *args: Any, **named: Any) -> Any:
            if inside:  # the wrapper starts, and whatever it wraps
                return original(strategy, *args, **named)
            self.started += 1
            inside.append(strategy)
            try:
                return self._defense.strategy(strategy).start(*args, **named)
            finally:
                inside.clear()

        def fit(server: Server, *args: Any, **named: Any) -> Any:
            made: Any = self._defense.strategy(server.strategy)  # type: ignore[arg-type]
            if isinstance(made, older.Strategy):
                self.started += 1
                server.strategy = made
            return before(server, *args, **named)

        before = Server.fit
        with mock.patch.object(Strategy, "start", start), mock.patch.object(Server, "fit", fit):
            yield
