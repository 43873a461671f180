"""One scenario at many settings: every cell a run of its own, one report over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlab.sweeps.running import resume as resume
    from fedlab.sweeps.running import sweep as sweep


def __getattr__(name: str) -> Any:
    """Import on first use: whoever asks what a directory is need not load what runs it."""
    if name in ("resume", "sweep"):
        from fedlab.sweeps import running

        return getattr(running, name)
    raise AttributeError(f"module 'fedlab.sweeps' has no attribute {name!r}")
