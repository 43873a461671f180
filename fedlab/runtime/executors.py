"""Where clients run: an executor takes chunks of messages and brings back replies.

A chunk is the unit of dispatch. A `CohortClientApp` gets it whole and must not write to its messages;
any other Flower ClientApp is called once per message and may edit what it gets (`fedlab.runtime.copies`).
Contexts are always the client's own, and count only if the client answers.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedlab.errors import BackendError
from fedlab.runtime._flower import enter_run, error_reply
from fedlab.runtime.copies import own_context, own_message
from fedlab.runtime.memory import as_backend_error, out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")
Tick = Callable[[int, int, int], None]
"""Called with (item's index, steps done, steps in all)."""


@dataclass(frozen=True)
class Delivery:
    """A message on its way to a client, with that client's context.

    Attributes:
        seed: of the global generators (Python's, numpy's, torch's) while a foreign app answers.
    """

    message: Message
    context: Context
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """A client's answer, and its context afterwards."""

    message: Message
    context: Context


Chunk = Sequence[Delivery]


@runtime_checkable
class CohortClientApp(Protocol):
    """A ClientApp that can take a chunk at once."""

    def run_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> Sequence[Message]:
        """Answer each message, in order."""


class Executor(Protocol):
    """Runs one ClientApp's chunks, and other work beside it."""

    def load(self, client_app: ClientApp) -> None:
        """Make `client_app` the app that `run` executes."""

    def run(self, chunks: Sequence[Chunk]) -> list[list[Reply]]:
        """Execute every chunk; replies in the order of the chunks and of their messages."""

    def map(
        self,
        function: Callable[[Item, Callable[[int, int], None]], Result],
        items: Sequence[Item],
        tick: Tick,
        lost: Callable[[Item, str], Result],
    ) -> Iterator[tuple[int, Result]]:
        """Run `function(item, report)` for each item; (index, result) as they finish.

        An item whose worker dies each time it is tried gives `lost(item, reason)` instead.
        """

    def close(self) -> None:
        """Give back what the executor holds."""


def execute(app: ClientApp, chunk: Chunk) -> list[Reply]:
    """Run a chunk in this process; a client's exception becomes its failed reply.

    Raises:
        BackendError: the app raised it, or memory ran out: the machine is to blame, not a client.
    """
    if isinstance(app, CohortClientApp):
        return _execute_cohort(app, chunk)
    with generators_kept():
        return [_execute_one(app, delivery) for delivery in chunk]


def _execute_cohort(app: CohortClientApp, chunk: Chunk) -> list[Reply]:
    contexts = [own_context(delivery.context) for delivery in chunk]
    try:
        answers = app.run_cohort([delivery.message for delivery in chunk], contexts)
        return [Reply(answer, context) for answer, context in zip(answers, contexts, strict=True)]
    except (Exception, SystemExit) as error:
        _blame_the_machine(error, len(chunk))
        if len(chunk) == 1:
            return [_failed(chunk[0])]
    return [
        reply for delivery in chunk for reply in _execute_cohort(app, [delivery])
    ]  # the broken fail alone


def _execute_one(app: ClientApp, delivery: Delivery) -> Reply:
    context = own_context(delivery.context)
    seed_generators(delivery.seed)
    try:
        answer = app(own_message(delivery.message), context)
        if not isinstance(answer, Message):
            raise TypeError(f"the ClientApp returned {type(answer).__name__}; expected a Message")
        return Reply(answer, context)
    except (Exception, SystemExit) as error:
        _blame_the_machine(error, 1)
        return _failed(delivery)


def seed_generators(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # manual_seed would note a stack trace per kind of accelerator, in case that one comes up later:
        torch.default_generator.manual_seed(seed)  # three times what all the rest of a message costs


@contextmanager
def generators_kept() -> Iterator[None]:
    """What clients draw from the global generators must not move those of the server."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _blame_the_machine(error: BaseException, chunk: int) -> None:
    """Raise if it is not the client's fault."""
    if isinstance(error, BackendError):
        raise error
    if out_of_memory(error):
        raise as_backend_error(error, chunk) from error


def _failed(delivery: Delivery) -> Reply:
    """The reply to a message whose client has just raised."""
    return Reply(error_reply(delivery.message, traceback.format_exc()), delivery.context)


@contextmanager
def single_thread() -> Iterator[None]:
    """One torch thread, as in every worker: more threads would sum in another order.

    It is faster, too: on small tensors, threads that share two cores with the workers mostly wait
    for each other (measured: 37 s against 6 s for 100 rounds of the quickstart).
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class InlineExecutor:
    """Runs everything in this process, one chunk after the other."""

    def __init__(self) -> None:
        self._app: ClientApp | None = None

    def load(self, client_app: ClientApp) -> None:
        enter_run()
        self._app = client_app

    def run(self, chunks: Sequence[Chunk]) -> list[list[Reply]]:
        if self._app is None:
            raise RuntimeError("InlineExecutor.run before load(client_app)")
        with single_thread():
            return [execute(self._app, chunk) for chunk in chunks]

    def map(
        self,
        function: Callable[[Any, Callable[[int, int], None]], Any],
        items: Sequence[Any],
        tick: Tick,
        lost: Callable[[Any, str], Any],
    ) -> Iterator[tuple[int, Any]]:
        with single_thread():
            for index, item in enumerate(items):
                yield index, function(item, lambda done, total, index=index: tick(index, done, total))  # type: ignore[misc]

    def close(self) -> None:
        self._app = None
