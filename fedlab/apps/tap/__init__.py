"""A running Flower deployment, watched from its server's place, and attacked without any truth.

`fedlab tap` takes the place of Flower's executor of ServerApps: the next run that the SuperLink hands out is
executed here, by Flower's own code, on a Grid that shows what passes. What comes of it is a recording:
updates as the server saw them. Nobody here knows the clients' records, so an attack on a recording has no
score. It has a residual, a null control, and sometimes a certificate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlab.apps.tap.attacking import attack_recording as attack_recording
    from fedlab.apps.tap.tapping import tap as tap

NAME = "deployment.json"
"""What makes a run directory a recording of a deployment."""
OUTPUT = "serverapp.log"
"""What Flower and the app printed, in the run directory."""
CELL = "none-train-s0"
"""A recording has one cell; in which mode its clients ran is not known while it is made."""


def __getattr__(name: str) -> Any:
    """Import on first use: whoever looks for `NAME` needs neither torch nor Flower."""
    if name == "attack_recording":
        from fedlab.apps.tap.attacking import attack_recording

        return attack_recording
    if name == "tap":
        from fedlab.apps.tap.tapping import tap

        return tap
    raise AttributeError(f"module 'fedlab.apps.tap' has no attribute {name!r}")
