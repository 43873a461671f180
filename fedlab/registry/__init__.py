"""Runs that lie on this machine: what they are, what is said of them, where else their figures go.

Everything here reads run directories without believing them, and without loading torch, so that a list of
hundreds of runs is there at once.
"""

from fedlab.registry.entry import Entry as Entry
from fedlab.registry.entry import Status as Status
from fedlab.registry.entry import look as look
from fedlab.registry.finding import find as find
from fedlab.registry.finding import locate as locate
from fedlab.registry.finding import names as names
from fedlab.registry.marks import Marks as Marks
from fedlab.registry.marks import read_marks as read_marks
from fedlab.registry.marks import write_marks as write_marks
from fedlab.registry.removal import removable as removable
from fedlab.registry.removal import remove as remove
