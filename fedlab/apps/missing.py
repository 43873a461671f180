"""What the author of an app is asked to write: the exact lines."""

from __future__ import annotations

from fedlab.errors import MissingFacts

ADAPTER = """\
[tool.fedlab.audit]
adapter = "my_app.audit:adapter"
and into my_app/audit.py, with the module and the names of your own:
from fedlab.apps import Adapter
from my_app.task import Net
def adapter():
    return Adapter(network=Net, names=("conv.weight", "conv.bias"))  # names: in the order of the message"""
SHAPE = """\
[tool.fedlab.audit]
input-shape = [1, 28, 28]  # channels, height, width
pixel-low = 0.0  # what black is to the network
pixel-high = 1.0  # and white"""
RANGE = """\
[tool.fedlab.audit]
pixel-low = [0.0]
pixel-high = [1.0]"""


def missing(what: str, lines: str) -> MissingFacts:
    """An error that says what is missing and shows what to write."""
    return MissingFacts(f"{what}.\nSay it in the app's pyproject.toml:\n\n{lines}")
