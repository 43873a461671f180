"""What runs inside a Ray actor: a worker with the app resident, and the board for progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import ray
from flwr.clientapp import ClientApp
from ray.exceptions import RaySystemError

from fedlab.errors import BackendError
from fedlab.runtime._flower import enter_run
from fedlab.runtime.executors import execute
from fedlab.runtime.ray.agreement import ADVICE, expect_agreement
from fedlab.runtime.ray.placement import Place, own_place, settle
from fedlab.runtime.ray.shipping import Parcel, Receiver, Returned, to_return


class Worker:
    """Holds the app, runs chunks and other calls, one at a time, on one torch thread."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        enter_run()
        context = ray.get_runtime_context()
        gpus = tuple(str(gpu) for gpu in ray.get_gpu_ids())
        settle(Place(context.get_node_id(), os.getpid(), gpus))
        self._receiver = Receiver(ray.get)
        self._app: ClientApp | None = None
        self._version = -1

    def ready(self, version: int, app: list[Any], directing: Mapping[str, str]) -> Place:
        """Answers as soon as the worker can work: with the app, if there is one already.

        Args:
            directing: `agreement.versions` of who asks.
        """
        expect_agreement(directing, ray.util.get_node_ip_address())
        self._load(version, app)
        return own_place()

    def run(self, version: int, app: list[Any], parcel: Parcel) -> Returned:
        """Execute a chunk; `app` holds a reference, fetched once per version."""
        self._load(version, app)
        if self._app is None:
            raise RuntimeError("no app")
        chunk = self._receiver.unpack(parcel)
        return to_return(chunk, execute(self._app, chunk))

    def _load(self, version: int, app: list[Any]) -> None:
        if version == self._version:
            return
        try:
            self._app, self._version = ray.get(app[0]), version
        except RaySystemError as error:
            if not isinstance(error.client_exc, ImportError):
                raise
            raise BackendError(
                f"the machine {ray.util.get_node_ip_address()} of the Ray cluster cannot import what clients"
                f" are made of: {error.client_exc}. {ADVICE}"
            ) from None

    def call(self, function: Callable[..., Any], item: Any, index: int, board: Any) -> Any:
        """Call `function(item, report)` with progress posted to the board."""
        return function(item, lambda done, total: board.post.remote(index, done, total))


class Board:
    """Where workers post how far they are."""

    def __init__(self) -> None:
        self._steps: dict[int, tuple[int, int]] = {}

    def post(self, index: int, done: int, total: int) -> None:
        self._steps[index] = (done, total)

    def read(self) -> dict[int, tuple[int, int]]:
        return self._steps
