"""Somebody's Flower app: run unmodified on our Grid, watched from both sides, audited.

The server's side sees what a curious server would have seen (`Sight`); the clients' side records what was
trained on (`Recording`), which only the scorer meets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlab.apps.again import attack_app as attack_app
    from fedlab.apps.again import resume_app as resume_app
    from fedlab.apps.audit import audit_app as audit_app
    from fedlab.apps.given import Adapter as Adapter


def __getattr__(name: str) -> Any:
    """Import on first use: who starts a process for an app needs neither torch nor Flower."""
    if name == "Adapter":
        from fedlab.apps.given import Adapter

        return Adapter
    if name == "audit_app":
        from fedlab.apps.audit import audit_app

        return audit_app
    if name in ("attack_app", "resume_app"):
        from fedlab.apps import again

        return getattr(again, name)
    raise AttributeError(f"module 'fedlab.apps' has no attribute {name!r}")
