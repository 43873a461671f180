"""Labels of the frontier: apart from each other and from the marks, and always the same."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.report.labels import Box, placed

FRAME = Box(0.0, 0.0, 480.0, 280.0)


def test_boxes_overlap_as_rectangles_do() -> None:
    assert Box(0, 0, 4, 4).overlap(Box(3, 2, 9, 9)) == 2.0
    assert Box(0, 0, 4, 4).overlap(Box(4, 0, 5, 5)) == 0.0
    assert Box(0, 0, 2, 3).area == 6.0 and Box(0, 0, 2, 4).middle == (1.0, 2.0)


def test_sixteen_defenses_keep_apart() -> None:
    rng = np.random.default_rng(5)
    points = [
        (float(x), float(y)) for x, y in zip(rng.uniform(150, 330, 16), rng.uniform(30, 250, 16), strict=True)
    ]
    texts = [f"defense-{i} (ε 7.{i:02})" for i in range(16)]
    found = placed(points, texts, FRAME, size=9.5)
    assert sum(a.overlap(b) for a, b in itertools.combinations(found, 2)) == 0.0
    assert all(box.overlap(FRAME) >= box.area - 1e-6 for box in found)
    assert placed(points, texts, FRAME, size=9.5) == found


def test_a_pile_of_equal_points_is_told_apart() -> None:
    found = placed([(240.0, 140.0)] * 12, [f"defense-{i}" for i in range(12)], FRAME, size=9.5)
    worst = max(a.overlap(b) / a.area for a, b in itertools.combinations(found, 2))
    assert worst < 0.1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 480), st.floats(0, 280)), max_size=5))
def test_every_point_gets_a_label_near_it(points: list[tuple[float, float]]) -> None:
    found = placed(points, ["name"] * len(points), FRAME, size=9.5)
    assert len(found) == len(points)
    for (x, y), box in zip(points, found, strict=True):
        assert abs(box.middle[0] - x) < 130 and abs(box.middle[1] - y) < 130
