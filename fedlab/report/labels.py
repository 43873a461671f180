"""Where to write names beside points so that they cover neither each other nor the points.

Greedy, with a few rounds of second thoughts; no chance in it, so that the same points get the same labels.
Lengths are in points (1/72 inch). The page's fonts are the reader's, so widths of text are estimated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ROUNDS = 4
"""Times that each label may look for a better place."""
REACHES = (8.0, 16.0, 26.0, 38.0, 52.0, 70.0, 92.0)
"""Distances from the point that are tried, nearest first."""
ANGLES = (0, 180, 90, 270, 30, 330, 150, 210, 60, 300, 120, 240)
"""Directions, best first: beside the point reads most easily."""
WIDE = 0.56
"""Width of a letter over the size of the font."""
ROOM = 7.0
"""Half the side of the square around a point that labels keep off."""


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Area in common."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(wide, 0.0) * max(high, 0.0)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.top - self.bottom)

    @property
    def middle(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2


def placed(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    frame: Box,
    *,
    size: float,
    taken: Sequence[Box] = (),
) -> list[Box]:
    """One box per point for its text, inside `frame` as far as that is possible.

    Args:
        size: of the font.
        taken: what labels should not cover, beside the points.
    """
    choices = [_choices(point, text, size) for point, text in zip(points, texts, strict=True)]
    marks = [Box(x - ROOM, y - ROOM, x + ROOM, y + ROOM) for x, y in points]
    found: list[Box | None] = [None] * len(points)
    # Whoever has most neighbours chooses first: the others have more room to give way.
    crowd = [sum(math.dist(a, b) < REACHES[-1] for b in points) for a in points]
    order = sorted(range(len(points)), key=lambda i: (-crowd[i], i))
    for _ in range(ROUNDS):
        for index in order:
            others = [box for place, box in enumerate(found) if box is not None and place != index]

            def cost(choice: tuple[float, Box], others: list[Box] = others) -> float:
                far, box = choice
                outside = box.area - box.overlap(frame)
                hit = sum(box.overlap(one) for one in others)
                covered = sum(box.overlap(one) for one in marks)
                busy = sum(box.overlap(one) for one in taken)
                return 40.0 * outside + 20.0 * hit + 12.0 * covered + 8.0 * busy + 3.0 * far

            found[index] = min(choices[index], key=cost)[1]
    return [box for box in found if box is not None]


def _choices(point: tuple[float, float], text: str, size: float) -> list[tuple[float, Box]]:
    """(how far, box) of every place around a point, the preferred first."""
    x, y = point
    wide, high = WIDE * size * len(text), 1.25 * size
    found = []
    for step, reach in enumerate(REACHES):
        for turn, angle in enumerate(ANGLES):
            dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            # The box touches a circle around the point with the side or corner that faces it.
            middle_x = x + reach * dx + wide / 2 * (0.0 if abs(dx) < 0.1 else math.copysign(1.0, dx))
            middle_y = y + reach * dy + high / 2 * (0.0 if abs(dy) < 0.1 else math.copysign(1.0, dy))
            box = Box(middle_x - wide / 2, middle_y - high / 2, middle_x + wide / 2, middle_y + high / 2)
            found.append((reach + 0.5 * turn + 4.0 * step, box))
    return found
