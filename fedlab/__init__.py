"""fedlab: what does a federated training setup leak, what does a defense cost, can you prove it?

Importing fedlab switches off the telemetry, update checks and run-time installs of Flower and Ray,
before either can be imported; a variable that the user has set stays as it is. `fedlab doctor`
shows the result. It is the one side effect of an import in this project.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fedlab.experiment import attack as attack
    from fedlab.experiment import inspect_model as inspect_model
    from fedlab.experiment import resume as resume
    from fedlab.experiment import run as run
    from fedlab.report import AuditReport as AuditReport
    from fedlab.scenario import Scenario as Scenario

_LAZY = {
    "AuditReport": "fedlab.report",
    "Scenario": "fedlab.scenario",
    "attack": "fedlab.experiment",
    "inspect_model": "fedlab.experiment",
    "resume": "fedlab.experiment",
    "run": "fedlab.experiment",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use: `fedlab --help` must not wait for torch."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'fedlab' has no attribute {name!r}")
