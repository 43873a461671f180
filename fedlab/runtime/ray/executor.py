"""Runs chunks on Ray workers, each with the app and its model resident.

Workers hold one torch thread each, so that a result never depends on the machine. How work survives
its workers is in `pool`, which Ray they live in in `cluster`, what travels in `shipping`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import ray
from flwr.clientapp import ClientApp

from fedlab.errors import UsageError
from fedlab.runtime._flower import enter_run, lost_reply
from fedlab.runtime.executors import Chunk, Reply, Tick
from fedlab.runtime.ray.agreement import versions
from fedlab.runtime.ray.cluster import RayCluster
from fedlab.runtime.ray.placement import Place
from fedlab.runtime.ray.pool import PLACE_SECONDS, Lost, Pool
from fedlab.runtime.ray.room import expect_room, own_resources
from fedlab.runtime.ray.shipping import Sender, returned
from fedlab.runtime.ray.worker import Board, Worker

LOOK_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class _Part:
    """Some places of chunk `number`, and how to run them."""

    executor: RayExecutor
    number: int
    places: Sequence[int]
    chunk: Chunk

    def launch(self, actor: Any) -> Any:
        return self.executor.launch(actor, self.chunk)

    @property
    def suspects(self) -> frozenset[int]:
        return frozenset(delivery.message.metadata.dst_node_id for delivery in self.chunk)

    def parts(self) -> list[Self]:
        pairs = zip(self.places, self.chunk, strict=True)
        return [type(self)(self.executor, self.number, [place], [one]) for place, one in pairs]

    def together(self, parts: Sequence[Self]) -> Self:
        ordered = sorted(parts, key=lambda part: part.places[0])
        places = [place for part in ordered for place in part.places]
        return type(self)(self.executor, self.number, places, [d for part in ordered for d in part.chunk])


@dataclass(frozen=True)
class _Call:
    """One item of a `map`."""

    start: Callable[[Any, int], Any]
    index: int

    def launch(self, actor: Any) -> Any:
        return self.start(actor, self.index)

    @property
    def suspects(self) -> frozenset[int]:
        return frozenset([self.index])

    def parts(self) -> list[Self]:
        return [self]

    def together(self, parts: Sequence[Self]) -> Self:
        return self


class RayExecutor:
    """A pool of Ray workers.

    Each worker owns the device that Ray gives it (`fedlab.runtime.ray.placement.own_device`).

    Args:
        num_cpus, num_gpus: what each worker reserves; fractions of one GPU share it.
        workers: how many, replaced when lost as soon as there is room; "auto" is as many as fit, and
            follows the cluster as its nodes come and go.
        placement: "spread" puts workers on as many nodes as possible (Ray's SPREAD), "pack" leaves
            it to Ray's default, which fills a node before it turns to the next.
        address: the Ray cluster to join, "auto" or "host:port"; none starts a local one. A runtime
            that this process is connected to already is used whatever the address. What was not
            started here is left running.
        working_dir: a folder that workers get a copy of, and import from.
        wait: seconds to wait for room for the first worker while others hold it.

    Raises:
        UsageError: an argument that cannot work.
        BackendError: Ray does not start, is not at `address`, or has less than one worker needs.
    """

    def __init__(
        self,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        workers: int | Literal["auto"] = "auto",
        placement: Literal["pack", "spread"] = "pack",
        address: str | None = None,
        working_dir: str | None = None,
        wait: float = PLACE_SECONDS,
    ) -> None:
        _check(num_cpus, num_gpus, workers, placement)
        if address is None and not ray.is_initialized():  # a start takes seconds; what it would find is known
            expect_room([own_resources()], num_cpus, num_gpus, workers)
        self._app: list[Any] = []
        self._version = -1
        self._versions = versions()
        self._sender = Sender(ray.put)
        self._closed = False
        self._cluster = RayCluster(address, working_dir)
        try:
            expect_room(self._cluster.nodes, num_cpus, num_gpus, workers)
            options = {
                "num_cpus": num_cpus,
                "num_gpus": num_gpus,
                "scheduling_strategy": "SPREAD" if placement == "spread" else "DEFAULT",
                **self._cluster.actor_options,
            }
            actor = ray.remote(Worker).options(**options)
            self._pool: Pool[Any] = Pool(
                self._cluster, actor.remote, self._greet, workers, num_cpus, num_gpus, wait
            )
        except BaseException:
            self._cluster.close()
            raise

    def _greet(self, actor: Any) -> Any:
        return actor.ready.remote(self._version, self._app, self._versions)

    @property
    def places(self) -> list[Place]:
        """Where the workers that are up are, and which GPUs they own."""
        return self._pool.places

    def load(self, client_app: ClientApp) -> None:
        enter_run()
        self._cluster.pulse()
        self._app = [ray.put(client_app)]
        self._version += 1

    def run(self, chunks: Sequence[Chunk]) -> list[list[Reply]]:
        works = [_Part(self, number, range(len(chunk)), chunk) for number, chunk in enumerate(chunks)]
        replies: list[dict[int, Reply]] = [{} for _ in chunks]
        for part, result in self._pool.run(works):
            if isinstance(result, Lost):
                answers = [Reply(lost_reply(d.message, result.reason), d.context) for d in part.chunk]
            else:
                answers = returned(part.chunk, result)
            replies[part.number].update(zip(part.places, answers, strict=True))
        return [[those[place] for place in range(len(those))] for those in replies]

    def launch(self, actor: Any, chunk: Chunk) -> Any:
        """Send a chunk to a worker; returns the reference of what it will return."""
        return actor.run.remote(self._version, self._app, self._sender.pack(chunk))

    def map(
        self,
        function: Callable[[Any, Callable[[int, int], None]], Any],
        items: Sequence[Any],
        tick: Tick,
        lost: Callable[[Any, str], Any],
    ) -> Iterator[tuple[int, Any]]:
        self._cluster.pulse()
        board = ray.remote(Board).options(num_cpus=0).remote()
        shared = ray.put(function)

        def start(actor: Any, index: int) -> Any:
            return actor.call.remote(shared, items[index], index, board)

        def look() -> None:
            try:
                steps = ray.get(board.read.remote(), timeout=LOOK_SECONDS)
            except ray.exceptions.RayError:
                return  # the board went down with its node: the work goes on unseen
            for index, (done, total) in steps.items():
                tick(index, done, total)

        for call, result in self._pool.run([_Call(start, index) for index in range(len(items))], look):
            yield call.index, lost(items[call.index], result.reason) if isinstance(result, Lost) else result

    def close(self) -> None:
        """End the workers, and Ray itself if this executor started it."""
        if self._closed:
            return
        self._closed = True
        self._pool.close()
        self._cluster.close()


def _check(num_cpus: float, num_gpus: float, workers: int | str, placement: str) -> None:
    if not 0.0 < num_cpus < float("inf") or not 0.0 <= num_gpus < float("inf"):
        raise UsageError(f"num_cpus must be > 0 and num_gpus >= 0, got {num_cpus} and {num_gpus}")
    if num_gpus > 1.0 and num_gpus % 1.0:
        raise UsageError(f"num_gpus must be a fraction up to 1, or a whole number; got {num_gpus:g}")
    if workers != "auto" and (not isinstance(workers, int) or workers < 1):
        raise UsageError(f'workers must be "auto" or >= 1, got {workers!r}')
    if placement not in ("pack", "spread"):
        raise UsageError(f'placement must be "pack" or "spread", got {placement!r}')
