"""Who shares masks with whom: everybody with everybody, or a random regular graph.

Bell, Bonawitz, Gascón, Lepoint, Raykova, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead",
CCS 2020, https://eprint.iacr.org/2020/704, section 3: a Harary graph on a random order, so that O(log n)
neighbours are enough for graphs of honest clients to stay connected.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def neighbourhoods(
    nodes: Sequence[int], degree: int | None, generator: np.random.Generator
) -> dict[int, list[int]]:
    """By node, the node itself and those that it shares masks with, ascending; it is mutual.

    Args:
        degree: neighbours of each, even; None, or as many as there are others: all.
    """
    ordered = sorted(nodes)
    if degree is None or degree >= len(ordered) - 1:
        return {node: ordered for node in ordered}
    circle = [ordered[place] for place in generator.permutation(len(ordered))]
    reach = range(-(degree // 2), degree // 2 + 1)
    return {
        node: sorted(circle[(place + far) % len(circle)] for far in reach)
        for place, node in enumerate(circle)
    }
