"""No defense: the baseline that every other row is read against."""

from __future__ import annotations

from fedlab.audit.defense import Defense


class NoDefense(Defense):
    """Leaves the federation as it is."""
