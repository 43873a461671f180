"""Runs chunks on Ray actors, each with the app and its model resident.

Workers hold one torch thread each, so that a result never depends on the machine. A worker that
dies is replaced and its chunk is run again, at most `RETRIES` times; then its clients are marked as
failed and the round goes on.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import ray
from flwr.clientapp import ClientApp

from fedlab import QUIET
from fedlab.errors import BackendError, UsageError
from fedlab.runtime._flower import enter_run, lost_reply
from fedlab.runtime.executors import Chunk, Reply, Tick, execute

RETRIES = 2
POLL_SECONDS = 0.25
"""How often a running `map` looks at its progress board."""


class Worker:
    """One actor: holds the app, runs chunks and other calls."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        enter_run()
        self.app: ClientApp | None = None
        self.version = -1

    def run(self, version: int, app: list[Any], chunk: Chunk) -> list[Reply]:
        """Execute a chunk; `app` holds a reference, fetched once per version."""
        if version != self.version:
            self.app, self.version = ray.get(app[0]), version
        if self.app is None:
            raise RuntimeError("no app")
        return execute(self.app, chunk)

    def call(self, function: Callable[..., Any], item: Any, index: int, board: Any) -> Any:
        """Call `function(item, report)` with progress posted to the board."""
        return function(item, lambda done, total: board.post.remote(index, done, total))


class Board:
    """Where workers post how far they are."""

    def __init__(self) -> None:
        self.steps: dict[int, tuple[int, int]] = {}

    def post(self, index: int, done: int, total: int) -> None:
        self.steps[index] = (done, total)

    def read(self) -> dict[int, tuple[int, int]]:
        return self.steps


class RayExecutor:
    """A pool of Ray actors.

    Args:
        num_cpus, num_gpus: what each worker reserves; fractions share a device.
        workers: how many, or "auto" for as many as fit.

    Raises:
        BackendError: Ray does not start, or the machine has less than one worker needs.
    """

    def __init__(
        self, num_cpus: float = 1.0, num_gpus: float = 0.0, workers: int | Literal["auto"] = "auto"
    ) -> None:
        if not num_cpus > 0.0 or not num_gpus >= 0.0:
            raise UsageError(f"num_cpus must be > 0 and num_gpus >= 0, got {num_cpus} and {num_gpus}")
        self._workers: list[Any] = []
        self._started = not ray.is_initialized()
        if self._started:
            self._start()
        self.num_cpus, self.num_gpus = num_cpus, num_gpus
        try:
            self.size = self._fit(workers)
        except BackendError:
            self.close()
            raise
        self._workers = [self._spawn() for _ in range(self.size)]
        self._app: list[Any] = []
        self._version = -1

    def _start(self) -> None:
        environment = {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            # Whatever the user's own code imports here must import in a worker as well.
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            **QUIET,
        }
        try:
            ray.init(
                include_dashboard=False,
                configure_logging=False,
                log_to_driver=False,
                runtime_env={"env_vars": environment},
            )
        except Exception as error:
            raise BackendError(
                f"Ray does not start: {error}. Run with --set runtime.executor=inline, or see fedlab doctor"
            ) from error

    def _fit(self, workers: int | Literal["auto"]) -> int:
        """How many workers run at once; refuses what the cluster does not hold."""
        have = ray.cluster_resources()
        cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
        fits = math.floor(cpus / self.num_cpus + 1e-9)
        if self.num_gpus > 0:
            fits = min(fits, math.floor(gpus / self.num_gpus + 1e-9))
        wanted = 1 if workers == "auto" else workers
        if fits < wanted:
            raise BackendError(
                f"{wanted} worker{'s' if wanted > 1 else ''} of {self.num_cpus:g} CPU and"
                f" {self.num_gpus:g} GPU asked for, but this machine has {cpus:g} CPU and {gpus:g} GPU;"
                " lower runtime.workers, runtime.num_cpus or runtime.num_gpus"
            )
        return fits if workers == "auto" else workers

    def _spawn(self) -> Any:
        return ray.remote(Worker).options(num_cpus=self.num_cpus, num_gpus=self.num_gpus).remote()

    def load(self, client_app: ClientApp) -> None:
        enter_run()
        self._app = [ray.put(client_app)]
        self._version += 1

    def run(self, chunks: Sequence[Chunk]) -> list[list[Reply]]:
        def launch(worker: Any, index: int) -> Any:
            return worker.run.remote(self._version, self._app, list(chunks[index]))

        answers: dict[int, list[Reply]] = {}
        for index, answer in self._dispatch(len(chunks), launch):
            if isinstance(answer, BaseException):
                reason = f"the worker died {RETRIES + 1} times while it ran this chunk: {answer}"
                answer = [Reply(lost_reply(d.message, reason), d.context) for d in chunks[index]]
            answers[index] = answer
        return [answers[index] for index in range(len(chunks))]

    def map(
        self,
        function: Callable[[Any, Callable[[int, int], None]], Any],
        items: Sequence[Any],
        tick: Tick,
        lost: Callable[[Any, str], Any],
    ) -> Iterator[tuple[int, Any]]:
        board = ray.remote(Board).options(num_cpus=0).remote()
        shared = ray.put(function)

        def launch(worker: Any, index: int) -> Any:
            return worker.call.remote(shared, items[index], index, board)

        def look() -> None:
            for index, (done, total) in ray.get(board.read.remote()).items():
                tick(index, done, total)

        for index, answer in self._dispatch(len(items), launch, look):
            yield index, lost(items[index], str(answer)) if isinstance(answer, BaseException) else answer

    def _dispatch(
        self, count: int, launch: Callable[[Any, int], Any], look: Callable[[], None] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """(index, result) as they finish; a result is an exception where every try lost its worker."""
        waiting = list(range(count))
        free = list(range(self.size))
        tries = dict.fromkeys(waiting, 0)
        running: dict[Any, tuple[int, int]] = {}
        while waiting or running:
            while waiting and free:
                slot, index = free.pop(0), waiting.pop(0)
                running[launch(self._workers[slot], index)] = (slot, index)
            done, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS if look else None)
            if look:
                look()
            for future in done:
                slot, index = running.pop(future)
                free.append(slot)
                try:
                    yield index, ray.get(future)
                except ray.exceptions.RayActorError as error:
                    self._workers[slot] = self._spawn()
                    tries[index] += 1
                    if tries[index] > RETRIES:
                        yield index, error
                    else:
                        waiting.insert(0, index)
                except ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from None

    def close(self) -> None:
        """End the workers, and Ray itself if this executor started it."""
        if not ray.is_initialized():
            return
        if self._started:
            ray.shutdown()
        else:
            for worker in self._workers:
                ray.kill(worker)
        self._workers = []
