"""Members and their partners: the same labels on both sides, each test record once, nobody takes it all."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedlab.experiment.questions import paired
from fedlab.tasks import Dataset


def records(labels: list[int]) -> Dataset:
    x = np.zeros((len(labels), 1, 1, 1), dtype=np.uint8)
    return Dataset("labels", x, np.array(labels, dtype=np.int64), classes=3, source="made up")


def ids(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


def test_a_scarce_label_is_shared_by_turns() -> None:
    # Three targets hold two records of label 0 each; four test records have it, two more have label 1.
    train, test = records([0, 0, 0, 0, 0, 0, 1]), records([0, 0, 1, 0, 0, 1])
    found = paired([ids(0, 1, 6), ids(2, 3), ids(4, 5)], train, ids(0, 1, 2, 3, 4, 5), test)
    assert [inside.tolist() for inside, _ in found] == [[0, 1, 6], [2], [4]]
    dealt = [outside.tolist() for _, outside in found]
    assert [test.labels(one).tolist() for one in dealt] == [[0, 0, 1], [0], [0]]
    assert len({one for mine in dealt for one in mine}) == 5


def test_a_label_that_no_test_record_has_leaves_nobody_to_ask_about() -> None:
    ((inside, outside),) = paired([ids(0, 1)], records([2, 2]), ids(0), records([0, 2]))
    assert inside.tolist() == outside.tolist() == []


LABELS = st.lists(st.integers(0, 2), min_size=1, max_size=20)


@given(LABELS, LABELS, st.integers(1, 4))
def test_partners_have_equal_labels_and_none_is_left_idle(
    mine: list[int], theirs: list[int], by: int
) -> None:
    train, test = records(mine), records(theirs)
    wanted = [np.arange(place, len(mine), by) for place in range(by)]
    found = paired(wanted, train, np.arange(len(theirs)), test)
    for asked, (inside, outside) in zip(wanted, found, strict=True):
        assert train.labels(inside).tolist() == test.labels(outside).tolist()
        assert set(inside) <= set(asked) and len(set(inside)) == len(inside)
    dealt = [int(one) for _, outside in found for one in outside]
    assert (
        len(set(dealt))
        == len(dealt)
        == sum(min(mine.count(label), theirs.count(label)) for label in range(3))
    )
