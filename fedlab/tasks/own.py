"""Stand-ins for a task that came from Python: `fedlab.run(scenario, task=Task(...))`.

The scenario in the run directory then names `own` as its data set and model: honest, and impossible
to run again without the same objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from fedlab.errors import UsageError

HOW = "pass it again from Python: fedlab.run(scenario, task=Task(train=..., test=..., network=...))"


def dataset() -> NoReturn:
    """The data of a Task passed from Python (`fedlab.run(..., task=...)`)."""
    raise UsageError(f"the data set of this scenario was passed as an object and is in no file; {HOW}")


def model(input_shape: Sequence[int], classes: int) -> NoReturn:
    """The network of a Task passed from Python (`fedlab.run(..., task=...)`)."""
    raise UsageError(f"the network of this scenario was passed as an object and is in no file; {HOW}")
