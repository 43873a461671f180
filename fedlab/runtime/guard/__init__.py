"""The update firewall: the Grid in front, what can be wrong with a reply, what an array claims to be."""

from fedlab.runtime.guard.grid import REJECTED as REJECTED
from fedlab.runtime.guard.grid import GuardedGrid as GuardedGrid
