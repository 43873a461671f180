"""How many cells run at a time: what a cell takes of the machine, and what there is."""

from __future__ import annotations

import functools
import heapq
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass

from fedlab.errors import FedlabError
from fedlab.scenario.schema import Runtime


@dataclass(frozen=True)
class Room:
    """Cores, and GPUs in units of one: cells share a GPU as their `num_gpus` says, and only one GPU, since
    every process computes on its first. `cluster` is a share of the Ray cluster that cells join."""

    cores: int
    gpu: float = 0.0
    cluster: float = 0.0

    def holds(self, other: Room) -> bool:
        """Whether the other fits in here."""
        fits = other.gpu <= self.gpu + 1e-9 and other.cluster <= self.cluster + 1e-9
        return fits and other.cores <= self.cores

    def without(self, other: Room) -> Room:
        """What is left beside the other."""
        return Room(self.cores - other.cores, self.gpu - other.gpu, self.cluster - other.cluster)


def machine() -> Room:
    """What this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Room(usable, 1.0, 1.0)


def taken(runtime: Runtime, whole: Room) -> Room:
    """What one cell takes: a core without Ray, its workers' cores with it, all of them for "auto".

    Nothing takes more than there is: a cell that wants it all runs alone. Workers of a Ray cluster that is
    joined compute elsewhere, and take their share of it.
    """
    if runtime.executor == "inline":
        return Room(1, min(runtime.num_gpus, whole.gpu))
    if runtime.address is not None:
        return Room(1, cluster=min(_share(runtime, runtime.address), whole.cluster))
    if runtime.workers == "auto":
        return Room(whole.cores, whole.gpu if runtime.num_gpus else 0.0)
    cores = math.ceil(runtime.workers * runtime.num_cpus)
    return Room(min(max(cores, 1), whole.cores), min(runtime.workers * runtime.num_gpus, whole.gpu))


def _share(runtime: Runtime, address: str) -> float:
    """Of the cluster at `address`, what the cell's workers take."""
    if runtime.workers == "auto":
        return 1.0
    room = _workers(address, runtime.num_cpus, runtime.num_gpus)
    return runtime.workers / room if room else 1.0


@functools.cache
def _workers(address: str, num_cpus: float, num_gpus: float) -> int:
    """How many workers of that size the cluster holds; 0 if there is none, which its cells will tell of."""
    from fedlab.runtime.ray.outlook import outlook
    from fedlab.runtime.ray.room import fits

    try:
        return sum(fits(node.has, num_cpus, num_gpus) for node in outlook(address).nodes)
    except FedlabError:
        return 0


def turns(cells: Iterable[tuple[Room, float]], whole: Room, most: int) -> tuple[float, int]:
    """Seconds until the last of the cells has ended, and how many of them run at a time at most.

    Args:
        cells: what each takes, and for how many seconds; each begins as soon as there is room for it.
        most: that may run at a time.
    """
    now, at_once, free = 0.0, 0, whole
    busy: list[tuple[float, int, Room]] = []  # (end, which, what it takes), the next to end first
    for place, (takes, seconds) in enumerate(cells):
        while busy and (len(busy) >= most or not free.holds(takes)):
            now, _, left = heapq.heappop(busy)
            free = Room(free.cores + left.cores, free.gpu + left.gpu, free.cluster + left.cluster)
        heapq.heappush(busy, (now + seconds, place, takes))
        free = free.without(takes)
        at_once = max(at_once, len(busy))
    return max((end for end, _, _ in busy), default=0.0), at_once
