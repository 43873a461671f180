"""A pool of Ray workers that survives theirs: dispatch, retries, replacement, a circuit breaker.

Work whose worker dies runs again. If it dies again, its clients are tried one by one, to find who is
to blame, and then the rest runs together: how a chunk is cut may change the last bits of a result,
so results never come from the trial. The pool follows the cluster. When no worker can live, it says
so and stops.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import ray
from ray import exceptions as lost

from fedlab.errors import BackendError, FedlabError
from fedlab.runtime.memory import out_of_memory
from fedlab.runtime.ray.agreement import expect_import, module_missing
from fedlab.runtime.ray.breaker import RETRIES, Breaker
from fedlab.runtime.ray.cluster import RayCluster
from fedlab.runtime.ray.placement import Place

PLACE_SECONDS = 25.0
"""How long the pool waits, without any worker, for room for one, unless it is told otherwise."""
START_SECONDS = 300.0
"""How long it waits for a first one that has its room: imports are slow on a busy machine."""
WAIT_SECONDS = 0.25
"""How often a waiting driver looks around."""
FETCH_SECONDS = 30.0
"""How long a finished result may take to arrive."""
RESIZE_SECONDS = 1.0

DEATHS = (
    lost.RayActorError,
    lost.WorkerCrashedError,
    lost.NodeDiedError,
    lost.LocalRayletDiedError,
    lost.ObjectLostError,
    lost.GetTimeoutError,
)
"""A worker is gone, or what it had to say."""


class Work(Protocol):
    """Something for one worker to do."""

    def launch(self, actor: Any) -> Any:
        """Start; returns the reference of the result."""

    @property
    def suspects(self) -> frozenset[int]:
        """Whom to blame if the worker dies."""

    def parts(self) -> list[Self]:
        """The same work, one suspect at a time."""

    def together(self, parts: Sequence[Self]) -> Self:
        """Some of its parts as one, in the order that they have in it."""


W = TypeVar("W", bound=Work)


@dataclass(frozen=True)
class Lost:
    """In the place of a result: the worker died at each try."""

    reason: str


@dataclass
class _Trial(Generic[W]):
    """Who of `work` kills a worker? `open` parts have not been tried yet."""

    work: W
    open: int
    innocent: list[W]


@dataclass
class _Task(Generic[W]):
    work: W
    deaths: int = 0
    trial: _Trial[W] | None = None
    acquitted: bool = False
    """Whether each of its clients has been tried alone."""


@dataclass
class _Member(Generic[W]):
    """One worker: starting (or asked whether it is there) while it has a future but no task."""

    actor: Any
    future: Any
    born: float
    up: float | None = None
    task: _Task[W] | None = None
    place: Place | None = None
    ready: bool = False


class Pool(Generic[W]):
    """Workers of one kind.

    Args:
        cluster: where.
        create: makes an actor.
        greet: asks an actor whether it is there; the result is its place.
        size: how many; "auto" follows the cluster.
        num_cpus, num_gpus: what each reserves.
        wait: seconds that it waits, without any worker, for room for one.
    """

    def __init__(
        self,
        cluster: RayCluster,
        create: Callable[[], Any],
        greet: Callable[[Any], Any],
        size: int | Literal["auto"],
        num_cpus: float,
        num_gpus: float,
        wait: float = PLACE_SECONDS,
    ) -> None:
        self._wait = wait
        self._cluster, self._create, self._greet = cluster, create, greet
        self._size, self._needs = size, (num_cpus, num_gpus)
        self._members: list[_Member[W]] = []
        self._breaker = Breaker()
        self._resized = float("-inf")
        self._life = time.monotonic()
        self._resize()

    @property
    def places(self) -> list[Place]:
        """Where the workers that are up are."""
        return [member.place for member in self._members if member.ready and member.place is not None]

    def run(self, works: Iterable[W], look: Callable[[], None] | None = None) -> Iterator[tuple[W, Any]]:
        """(work, result) as they finish; the result is `Lost` where every try lost its worker.

        Args:
            look: called several times a second meanwhile.

        Raises:
            BackendError: no worker can live, memory ran out, or Ray itself is gone.
        """
        waiting = deque(_Task(work) for work in works)
        self._life = time.monotonic()
        try:
            while waiting or any(member.task for member in self._members):
                self._cluster.pulse()
                self._resize()
                self._hand_out(waiting)
                yield from self._collect(waiting)
                if look is not None:
                    look()
        finally:
            self._abandon()

    def _hand_out(self, waiting: deque[_Task[W]]) -> None:
        for member in self._members:
            if waiting and member.ready and member.task is None:
                member.task = waiting.popleft()
                member.future = member.task.work.launch(member.actor)

    def _collect(self, waiting: deque[_Task[W]]) -> Iterator[tuple[W, Any]]:
        """Wait a little for workers to finish or to come up."""
        members = {member.future: member for member in self._members if member.future is not None}
        done, _ = ray.wait(list(members), num_returns=1, timeout=WAIT_SECONDS) if members else ([], [])
        if not members:
            time.sleep(WAIT_SECONDS)
        for future in done:
            member = members[future]
            task, member.task, member.future = member.task, None, None
            try:
                result = ray.get(future, timeout=FETCH_SECONDS)
            except lost.RayTaskError as error:
                raise _cause(error) from None
            except DEATHS as error:
                yield from self._died(member, task, error, waiting)
            except lost.RayError as error:
                raise _failure(error) from error
            else:
                self._life = time.monotonic()
                member.ready = True
                if task is None:
                    member.place = result
                    member.up = member.up or time.monotonic()
                    self._cluster.remember()
                else:
                    self._breaker.success()
                    if task.trial is None:
                        yield task.work, result
                    else:
                        task.trial.innocent.append(task.work)
                        self._judge(task.trial, waiting)
        self._expect_life()

    def _expect_life(self) -> None:
        """Give up if there is no worker and none will come; one that is alive and importing will.

        Raises:
            BackendError: no worker found room, or none was ready in a very long time.
        """
        waited = _since(self._life)
        if waited < self._wait or self._cluster.headless or any(m.ready for m in self._members):
            return
        needs = "each worker needs {:g} CPU and {:g} GPU".format(*self._needs)
        starting = self._cluster.has_room(*self._needs) or any(
            self._cluster.placed(member.actor) for member in self._members
        )
        if not starting:
            raise BackendError(
                f"no room for a worker for {waited:.0f} seconds: {self._cluster.holdings()}, {needs}, and"
                " somebody else holds the rest. Free the cluster, raise runtime.wait, lower runtime.num_cpus"
                " or runtime.num_gpus, or run with --set runtime.executor=inline"
            )
        if waited > START_SECONDS:
            raise BackendError(
                f"no worker was ready within {START_SECONDS:g} seconds, though there is room for them:"
                f" {self._cluster.holdings()}, {needs}. The machine may be overloaded: lower"
                " runtime.workers, or run with --set runtime.executor=inline"
            )

    def _died(
        self, member: _Member[W], task: _Task[W] | None, error: Exception, waiting: deque[_Task[W]]
    ) -> Iterator[tuple[W, Any]]:
        """Replace the worker; give its task another try, try its parts, or give up."""
        self._drop(member)
        expect_import(error)
        self._resized = float("-inf")
        for other in self._members:  # the rest of its node may be gone, too: nobody is to blame for that
            if other.ready and other.task is None:
                other.ready, other.future = False, self._greet(other.actor)
        reason = _line(error)
        suspects = task.work.suspects if task else frozenset()
        self._breaker.death(member.born, member.up or time.monotonic(), suspects, reason)
        if task is None:
            return
        self._life = time.monotonic()
        task.deaths += 1
        parts = task.work.parts()
        if task.acquitted and task.deaths == RETRIES:
            raise BackendError(
                f"{len(parts)} clients in one chunk kill their worker, but none of them does alone: it"
                f" probably has too little memory for them all. Lower runtime.chunk ({reason})"
            )
        if task.deaths > RETRIES:
            yield task.work, Lost(f"the worker died {task.deaths} times while it ran this client: {reason}")
            if task.trial is not None:
                self._judge(task.trial, waiting)
        elif task.deaths == RETRIES and len(parts) > 1:
            trial = _Trial(task.work, len(parts), [])
            waiting.extendleft(_Task(part, task.deaths, trial) for part in reversed(parts))
        else:
            waiting.appendleft(task)

    def _judge(self, trial: _Trial[W], waiting: deque[_Task[W]]) -> None:
        """One more part has been tried; after the last, those who are innocent run together."""
        trial.open -= 1
        if not trial.open and trial.innocent:
            waiting.appendleft(_Task(trial.work.together(trial.innocent), acquitted=True))

    def _resize(self) -> None:
        """Replace what is lost; follow the cluster if that is wanted."""
        if _since(self._resized) < RESIZE_SECONDS or self._cluster.headless:
            return
        self._resized = time.monotonic()
        size = self._cluster.capacity(*self._needs) if self._size == "auto" else self._size
        pending = [member for member in self._members if not member.ready and member.task is None]
        for member in pending[: max(0, len(self._members) - size)]:
            self._drop(member)  # there is no room for it any more
        while len(self._members) < size:
            actor = self._create()
            self._members.append(_Member(actor, self._greet(actor), time.monotonic()))

    def _drop(self, member: _Member[W]) -> None:
        self._members.remove(member)
        if not self._cluster.headless:  # the head is who would tell it
            ray.kill(member.actor)

    def _abandon(self) -> None:
        """After an exception: what nobody waits for any more must not keep a worker busy."""
        for member in [member for member in self._members if member.task is not None]:
            self._drop(member)
            self._resized = float("-inf")

    def close(self) -> None:
        """End the workers."""
        for member in list(self._members):
            self._drop(member)


def _since(moment: float) -> float:
    return time.monotonic() - moment


def _line(error: BaseException) -> str:
    """An error in one line: Ray's come with a table."""
    lines = [line.strip() for line in str(error).split("\n")]
    told = [line for line in lines if (line and ": " not in line) or line.startswith("The actor is dead")]
    return " ".join(told).split(" Some common causes")[0][:300] or type(error).__name__


def _failure(error: BaseException) -> BackendError:
    """What to tell the user when Ray, and not a client, has failed."""
    if out_of_memory(error):
        advice = "lower runtime.chunk or runtime.workers"
        return BackendError(f"out of memory in a worker: {_line(error)}. Please {advice}")
    return BackendError(module_missing(error) or f"Ray failed: {_line(error)}")


def _cause(error: Any) -> BaseException:
    """What was raised in a worker, as it would have been raised here."""
    cause = error.cause
    if isinstance(cause, FedlabError):
        return cause
    if isinstance(cause, lost.RayError) or out_of_memory(cause):
        return _failure(cause)
    raised: BaseException = error.as_instanceof_cause()
    return raised
