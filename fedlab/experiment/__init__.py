"""The composition root: turns a scenario into a run directory with a report. Nothing imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlab.experiment.again import attack as attack
    from fedlab.experiment.inspecting import inspect_model as inspect_model
    from fedlab.experiment.launch import resume as resume
    from fedlab.experiment.launch import run as run


def __getattr__(name: str) -> Any:
    """Import on first use: a deployed client, which starts anew for each message, needs no report."""
    if name in ("resume", "run"):
        from fedlab.experiment import launch

        return getattr(launch, name)
    if name == "attack":
        from fedlab.experiment import again

        return again.attack
    if name == "inspect_model":
        from fedlab.experiment import inspecting

        return inspecting.inspect_model
    raise AttributeError(f"module 'fedlab.experiment' has no attribute {name!r}")
