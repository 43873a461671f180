"""Who has how many of the requests that several tasks share, whatever happens."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fedlab.strategies.asynchronous.requests import GROWTH, Requests


@given(st.lists(st.sampled_from(["end a", "end b", "end c", "start", "share", "finish"]), max_size=60))
def test_requests_are_conserved_and_grow_by_one_for_each_answer(events: list[str]) -> None:
    """Whatever happens, ΣR_m = M, no more than M are under way, and no task has more than it is due, unless
    its share has shrunk since."""
    requests, under_way = Requests(["a", "b", "c"], 18, 2), Counter[str]()
    finished: list[str] = []
    weights = iter([{"a": 5.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 9.0, "c": 2.0}] * 60)

    def begin() -> None:
        before = Counter(under_way)
        for label in requests.startable(under_way):
            under_way[label] += 1
            assert under_way[label] <= requests.due[label]
        assert under_way.total() <= 18 and before <= under_way

    begin()
    assert under_way == {"a": 6, "b": 6, "c": 6}
    for event in events:
        word, _, label = event.partition(" ")
        if word == "end" and under_way[label]:
            under_way[label] -= 1
            requests.ended(label)
            before = under_way[label]
            begin()
            assert under_way[label] <= before + GROWTH
        elif word == "share":
            left = {one: weight for one, weight in next(weights).items() if one not in finished}
            requests.share_out(left)
        elif word == "finish" and len(finished) < 2:
            finished.append("abc"[len(finished)])
            del under_way[finished[-1]]
            requests.finish(finished[-1])
            begin()
        assert sum(requests.due.values()) == 18
        assert all(requests.buffer(one) == -(-held // 2) for one, held in requests.due.items())


def test_a_task_that_finds_no_room_is_not_forgotten() -> None:
    """c is due 2 and still has 8 of 12; a, due 8, and b, due 2, end all that they have at the same moment,
    and a takes the room: 4 of 4. As c shrinks, b has its two again."""
    requests, under_way = Requests(["a", "b", "c"], 12, 1), Counter({"a": 2, "b": 2, "c": 8})
    requests.startable({})
    requests.share_out({"a": 4.0, "b": 1.0, "c": 1.0})
    assert requests.due == {"a": 8, "b": 2, "c": 2}

    def end(*labels: str) -> list[str]:
        for label in labels:
            under_way[label] -= 1
            requests.ended(label)
        begun = requests.startable(under_way)
        under_way.update(begun)
        return begun

    assert end("a", "a", "b", "b") == ["a"] * 4 and under_way["b"] == 0
    assert end("c", "c") == ["b", "b"]
    for _ in range(4):
        end("c", "a")
    assert under_way == requests.due


def test_weights_that_say_nothing_change_nothing() -> None:
    requests = Requests(["a", "b"], 8, 2)
    for weights in ({"a": 0.0, "b": 0.0}, {"a": float("inf"), "b": 1.0}):
        requests.share_out(weights)
        assert requests.due == {"a": 4, "b": 4} and len(requests.history) == 1
