"""The breakdown point: the smallest share of attackers that costs more than ten points."""

from __future__ import annotations

import pytest

from fedlab.errors import UsageError
from fedlab.experiment.breakdown import breakdown_point


def test_it_is_the_smallest_share_below_the_mark() -> None:
    """0.90 − 0.10 = 0.80: 0.81 holds, 0.70 does not, and what comes back later does not count."""
    accuracies = {0.3: 0.85, 0.2: 0.70, 0.1: 0.81, 0.0: 0.90}
    assert breakdown_point(accuracies) == 0.2
    assert breakdown_point(accuracies, drop=0.05) == 0.1
    assert breakdown_point(accuracies, drop=0.25) is None


def test_seeds_are_averaged_on_both_sides() -> None:
    """Means 0.90 and 0.79; the seed that held on its own does not save the share."""
    assert breakdown_point({0.0: [0.88, 0.92], 0.1: [0.81, 0.77]}) == 0.1
    assert breakdown_point({0.0: [0.88, 0.92], 0.1: [0.85, 0.77]}) is None


@pytest.mark.parametrize(
    "accuracies, drop",
    [({0.1: 0.5}, 0.1), ({0.0: 0.5}, 0.0), ({0.0: 1.5}, 0.1), ({0.0: []}, 0.1), ({0.0: 0.5, 2.0: 0.5}, 0.1)],
)
def test_what_says_nothing_is_refused(accuracies: dict[float, float], drop: float) -> None:
    with pytest.raises(UsageError):
        breakdown_point(accuracies, drop=drop)
