"""WHERE it runs: a Flower Grid on virtual time, executors in this process or on Ray, the guard,
the tap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedlab.runtime._flower import bundle_of as bundle_of
from fedlab.runtime._flower import client_of as client_of
from fedlab.runtime._flower import node_of as node_of
from fedlab.runtime._flower import quiet_logger as quiet_logger
from fedlab.runtime.availability import Availability as Availability
from fedlab.runtime.availability import AvailabilityTrace as AvailabilityTrace
from fedlab.runtime.classes import DeviceClass as DeviceClass
from fedlab.runtime.classes import MixedFleet as MixedFleet
from fedlab.runtime.devices import Fleet as Fleet
from fedlab.runtime.devices import SimulatedFleet as SimulatedFleet
from fedlab.runtime.devices import UniformFleet as UniformFleet
from fedlab.runtime.executors import Executor as Executor
from fedlab.runtime.executors import InlineExecutor as InlineExecutor
from fedlab.runtime.executors import single_thread as single_thread
from fedlab.runtime.grid import SimulationGrid as SimulationGrid
from fedlab.runtime.guard import GuardedGrid as GuardedGrid
from fedlab.runtime.roster import RosterGrid as RosterGrid
from fedlab.runtime.roster import enrol as enrol
from fedlab.runtime.roster import tell_partition as tell_partition
from fedlab.runtime.tap import TappedGrid as TappedGrid
from fedlab.runtime.wrapped import WrappedGrid as WrappedGrid

if TYPE_CHECKING:
    from fedlab.runtime.ray.executor import RayExecutor as RayExecutor


def __getattr__(name: str) -> Any:
    """Import Ray only for those who use it."""
    if name == "RayExecutor":
        from fedlab.runtime.ray.executor import RayExecutor

        return RayExecutor
    raise AttributeError(f"module 'fedlab.runtime' has no attribute {name!r}")
