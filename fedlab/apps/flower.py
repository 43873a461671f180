"""What has to be known of Flower's insides to run other people's apps; nothing else of `fedlab.apps` does.

* `Result` and `History`, in which Flower's strategies and older servers keep their evaluations: whoever
  makes one while the app runs is remembered.
* The older server asks each client in a thread of its own and takes the answers as they come, in the order
  of a set: here one after the other, in the order of the sample, or no run could be repeated.
* It waits a day for clients that will never be there: here that is an error.
* Secure aggregation (SecAgg+) asks each client four times a round, and sums of masked numbers are all that
  its server sees: `masks` tells its messages.
* Its arrays declare neither shape nor type: `declare` reads both from their bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import flwr.server.server as legacy
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.server.client_manager import SimpleClientManager
from flwr.server.history import History
from flwr.serverapp.strategy import Result
from numpy.lib import format as npy

from fedlab.errors import UsageError

MASKED = Stage.COLLECT_MASKED_VECTORS
"""The stage in which clients train."""


class Books:
    """The evaluations that strategies noted while the app ran."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.histories: list[History] = []

    def metrics(self) -> dict[int, dict[str, float]]:
        """By round; what the server evaluated itself is called "server-..." where clients use the name."""
        clients: dict[int, dict[str, float]] = {}
        server: dict[int, dict[str, float]] = {}
        for result in self.results:
            _note(clients, _rows(result.evaluate_metrics_clientapp))
            _note(server, _rows(result.evaluate_metrics_serverapp))
        for history in self.histories:
            _note(clients, _columns({"loss": history.losses_distributed, **history.metrics_distributed}))
            _note(server, _columns({"loss": history.losses_centralized, **history.metrics_centralized}))
        taken = {name for row in clients.values() for name in row}
        for number, row in server.items():
            renamed = {f"server-{name}" if name in taken else name: value for name, value in row.items()}
            clients.setdefault(number, {}).update(renamed)
        return dict(sorted(clients.items()))


@contextmanager
def watched(books: Books, supernodes: int) -> Iterator[None]:
    """While active, Flower keeps its books here, and its older server is orderly."""
    with ExitStack() as undo:
        for kind, kept in ((Result, books.results), (History, books.histories)):
            undo.enter_context(mock.patch.object(kind, "__init__", _noting(kind.__init__, kept)))
        for name in ("fit_clients", "evaluate_clients"):
            undo.enter_context(mock.patch.object(legacy, name, _in_order(getattr(legacy, name))))
        waits = _impatient(SimpleClientManager.wait_for, supernodes)
        undo.enter_context(mock.patch.object(SimpleClientManager, "wait_for", waits))
        yield


def declare(content: RecordDict) -> None:
    """Fill in the shapes and types of arrays that declare none, in place."""
    for record in content.values():
        for array in record.values() if isinstance(record, ArrayRecord) else ():
            if array.dtype or not isinstance(array.data, bytes):
                continue
            try:
                stream = io.BytesIO(array.data)
                read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
                shape, _, dtype = read[npy.read_magic(stream)](stream)
            except Exception:  # whatever numpy's parser makes of other bytes: the guard tells
                continue
            array.shape, array.dtype = shape, str(dtype)


def masks(message: Message) -> str:
    """The stage of SecAgg+ that a message belongs to; "" if it is no message of SecAgg+."""
    record = message.content.get(RECORD_KEY_CONFIGS) if message.has_content() else None
    return str(record.get(Key.STAGE, "")) if isinstance(record, ConfigRecord) else ""


def _noting(original: Callable[..., None], kept: list[Any]) -> Callable[..., None]:
    def init(self: Any, *args: Any, **named: Any) -> None:
        original(self, *args, **named)
        kept.append(self)

    return init


def _in_order(original: Callable[..., Any]) -> Callable[..., Any]:
    def ask(
        client_instructions: Sequence[Any], max_workers: Any = None, timeout: Any = None, group_id: Any = 0
    ) -> Any:
        results, failures = original(client_instructions, 1, timeout, group_id)
        place = {client.cid: index for index, (client, _) in enumerate(client_instructions)}
        return sorted(results, key=lambda one: place[one[0].cid]), failures

    return ask


def _impatient(original: Callable[..., bool], supernodes: int) -> Callable[..., bool]:
    def wait_for(self: Any, num_clients: int, timeout: int = 86400) -> bool:
        if num_clients > supernodes:
            raise too_few(supernodes, f"for {num_clients}")
        return original(self, num_clients, timeout)

    return wait_for


def too_few(supernodes: int, wanted: str) -> UsageError:
    return UsageError(
        f"the app waits {wanted} clients, and there are {supernodes}; give more with --num-supernodes, or"
        " change its run config (min_available_nodes and the like)"
    )


def _rows(found: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[int, str, Any]]:
    for number, row in found.items():
        for name, value in row.items():
            yield number, name, value


def _columns(found: Mapping[str, Iterable[tuple[int, Any]]]) -> Iterator[tuple[int, str, Any]]:
    for name, column in found.items():
        for number, value in column:
            yield number, name, value


def _note(rows: dict[int, dict[str, float]], found: Iterable[tuple[int, str, Any]]) -> None:
    for number, name, value in found:
        if isinstance(value, int | float) and math.isfinite(value):
            rows.setdefault(int(number), {})[name] = float(value)
