"""Traffic: who was asked, who answered, what travelled; counted by hand on fleets of known times."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedlab.experiment.standing import Standing
from fedlab.experiment.traffic import Traffic
from fedlab.runtime import SimulationGrid
from fedlab.runtime._flower import FIRST_NODE_ID
from fedlab.runtime.arrays import array_record
from fedlab.runtime.devices import Availability, Fleet, SimulatedFleet, UniformFleet
from fedlab.runtime.times import HalfNormal
from fedlab.snapshot import Resumable, Snapshot

MODEL = array_record({"w": torch.zeros(6)})
"""24 bytes: six float32."""


def app() -> ClientApp:
    """Clients that answer training with twelve bytes; client 7 fails."""
    found = ClientApp()

    @found.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_id == FIRST_NODE_ID + 7:
            raise ValueError("no")
        content = RecordDict({"model": array_record({"w": torch.zeros(3)}), "m": MetricRecord({"n": 1})})
        return Message(content, reply_to=message)

    @found.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    return found


def traffic_on(fleet: Fleet, seed: int = 0) -> Traffic:
    return Traffic(SimulationGrid(app(), fleet, seed=seed), fleet, seed)


def message(device: int, round: int = 1, kind: str = "train") -> Message:
    content = RecordDict({"arrays": MODEL, "config": ConfigRecord({"server-round": round})})
    return Message(content, FIRST_NODE_ID + device, kind)


def in_turn(*seconds: float) -> SimulatedFleet:
    return SimulatedFleet(len(seconds), seconds)


def test_a_round_counts_what_came_and_what_was_called_off() -> None:
    """Devices take 1, 2, 3 and 4 s; two replies are enough. So at 2 s two uploads of 12 B are in, all
    four have received 24 B, and the two slow ones are called off after 2 s of work."""
    traffic = traffic_on(in_turn(1.0, 2.0, 3.0, 4.0))
    replies = traffic.send_and_receive([message(device) for device in range(4)], enough=2)
    assert len(replies) == 2
    assert traffic.now_row() == {"seconds": 2.0, "uploads": 2, "received": 96, "sent": 24}
    found = traffic.summary()
    assert (found["downloads"], found["uploads"], found["aborted"]) == (4, 2, 2)
    assert found["clock"] == "virtual" and found["devices"] == 4
    assert found["classes"] == [
        {"name": "all", "devices": 4, "asked": 4, "uploads": 2, "counted": 2, "busy_seconds": 7.0}
    ]
    assert found["speeds"] == {"fastest": 1.0, "median": 3.0, "slowest": 4.0}
    assert found["deciles"] == []  # of four devices there are no tenths
    assert found["window"] == {
        "start": 0.0,
        "end": 2.0,
        "trips": [
            [0, 0.0, 1.0, 1, "counted"],
            [1, 0.0, 2.0, 1, "counted"],
            [2, 0.0, 2.0, 1, "aborted"],
            [3, 0.0, 2.0, 1, "aborted"],
        ],
        "devices": [[0, 1.0], [1, 2.0], [2, 3.0], [3, 4.0]],
    }
    json.dumps(found, allow_nan=False)


def test_a_deadline_calls_off_who_is_late_and_a_failure_uploads_nothing() -> None:
    fleet = in_turn(1.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0)
    traffic = traffic_on(fleet)
    traffic.send_and_receive([message(device) for device in (0, 1, 7)], timeout=5.0)
    assert traffic.now_row() == {"seconds": 5.0, "uploads": 1, "received": 72, "sent": 12}
    outcomes = {device: how for device, *_, how in traffic.summary()["window"]["trips"]}
    assert outcomes == {0: "counted", 1: "aborted", 7: "failed"}
    (everybody,) = traffic.summary()["classes"]
    assert everybody["busy_seconds"] == 1.0 + 5.0 + 2.0


def test_pushes_and_pulls_count_while_others_are_under_way() -> None:
    """Devices take 1 and 4 s. The fast one is asked again with a later version; at 2 s it has made two
    trips, and the slow one has worked for 2 s on its first."""
    traffic = traffic_on(in_turn(1.0, 4.0))
    ids = traffic.push_messages([message(0), message(1)])
    assert len(traffic.pull_messages(ids)) == 1 and traffic.now == 1.0
    again = traffic.push_messages([message(0, round=2)])
    assert len(traffic.pull_messages([*ids, *again])) == 1
    found = traffic.summary()
    assert found["uploads"] == 2 and found["downloads"] == 3 and found["aborted"] == 0
    assert found["classes"][0]["busy_seconds"] == 2.0 + 2.0
    assert found["window"]["trips"] == [
        [0, 0.0, 1.0, 1, "counted"],
        [1, 0.0, None, 1, "under way"],
        [0, 1.0, 2.0, 2, "counted"],
    ]


def test_what_queues_at_a_device_keeps_it_busy_once() -> None:
    """Two messages of 3 s each, sent together to one device: it works for 6 s, not 3 + 6."""
    traffic = traffic_on(in_turn(3.0))
    traffic.send_and_receive([message(0), message(0)])
    assert traffic.now == 6.0 and traffic.summary()["classes"][0]["busy_seconds"] == 6.0
    waiting = traffic.push_messages([message(0), message(0)])
    traffic.pull_until(waiting, 7.0)
    traffic.cancel(reversed(waiting))
    assert traffic.summary()["classes"][0]["busy_seconds"] == 7.0


def test_only_training_is_traffic() -> None:
    traffic = traffic_on(in_turn(1.0, 1.0))
    traffic.send_and_receive([message(0, kind="evaluate"), message(1, kind="query")])
    assert traffic.now == 1.0 and traffic.now_row()["received"] == 0 and traffic.summary()["downloads"] == 0


def test_what_is_turned_away_was_uploaded_but_does_not_count() -> None:
    traffic = traffic_on(in_turn(1.0, 1.0, 5.0))
    traffic.send_and_receive([message(device) for device in range(3)], timeout=2.0)
    traffic.unused([1])
    traffic.unused([1, 2])  # told twice, and of one that never came
    (everybody,) = traffic.summary()["classes"]
    assert (everybody["uploads"], everybody["counted"]) == (2, 1)
    assert [how for *_, how in traffic.summary()["window"]["trips"]] == ["counted", "rejected", "aborted"]
    traffic.send_and_receive([message(0, round=2)])
    traffic.unused([0], "surplus")
    assert traffic.summary()["classes"][0]["counted"] == 1
    assert traffic.summary()["window"]["trips"][-1][4] == "surplus"


class Classes(SimulatedFleet):
    """Every fourth device is old, and slow."""

    classes = ("new", "old")

    def class_of(self, device: int, seed: int) -> str:
        return "old" if device % 4 == 3 else "new"

    def nominal(self, device: int, seed: int) -> float:
        return 10.0 if device % 4 == 3 else 1.0


def test_classes_and_tenths_of_a_fleet() -> None:
    """Every fourth of 20 devices is old; tenths are pairs. The fastest pair is 0 and 1, with an upload each;
    the slowest is 15 and 19, of which one made two."""
    fleet = Classes(20, [1.0, 1.0, 1.0, 10.0])
    traffic = traffic_on(fleet)
    for device in (0, 1, 19, 19):
        traffic.send_and_receive([message(device)])
    found = traffic.summary()
    assert found["deciles"] == [1.0, 0, 0, 0, 0, 0, 0, 0, 0, 1.0]
    assert [(one["name"], one["devices"], one["uploads"]) for one in found["classes"]] == [
        ("new", 15, 2),
        ("old", 5, 2),
    ]


def test_a_large_fleet_is_judged_by_a_sample() -> None:
    """Half-normal times: the slowest tenth of 10⁶ devices lies above the quantile 0.9 of |N(0, 1)|, which is
    1.645; who is near the bound may fall on either side, nobody far from it does."""
    standing = Standing(SimulatedFleet(10**6, HalfNormal(1.0)), seed=3)
    assert standing.sizes == [10**5] * 10 and standing.members == {"all": 10**6}
    speeds = standing.speeds
    assert speeds is not None and speeds["median"] == pytest.approx(0.674, abs=0.06)
    for device in range(0, 10**6, 9973):
        seconds, tenth = standing.seconds(device), standing.of(device)[1]
        assert (tenth == 9) == (seconds > 1.645) or abs(seconds - 1.645) < 0.15


def test_equally_fast_devices_are_spread_over_the_tenths() -> None:
    standing = Standing(UniformFleet(40), seed=0)
    assert [standing.of(device)[1] for device in range(40)] == [device // 4 for device in range(40)]


def test_the_window_closes_when_it_holds_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two under way at first, two waves, at least three: four trips are kept; the third round starts none."""
    monkeypatch.setattr("fedlab.experiment.traffic.WAVES", 2)
    monkeypatch.setattr("fedlab.experiment.traffic.LEAST_KEPT", 3)
    traffic = traffic_on(in_turn(1.0, 2.0))
    for round in (1, 2, 3):
        traffic.send_and_receive([message(0, round), message(1, round)])
    window = traffic.summary()["window"]
    assert window["end"] == 2.0 and [trip[3] for trip in window["trips"]] == [1, 1, 2, 2]
    assert traffic.summary()["uploads"] == 6


class Plain(Grid):
    """A Grid of somebody else's, without a clock: answers at the first pull."""

    def __init__(self) -> None:
        self.inner = SimulationGrid(app(), 3)

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        return self.inner.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        return self.inner.create_message(*args, **kwargs)

    def get_node_ids(self) -> range:
        return self.inner.get_node_ids()

    def push_messages(self, messages: Any) -> list[str]:
        return self.inner.push_messages(messages)

    def pull_messages(self, message_ids: Any) -> list[Message]:
        return self.inner.pull_messages(message_ids)

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        return self.inner.send_and_receive(messages, timeout=timeout)


def test_on_a_deployed_grid_a_second_is_a_second() -> None:
    traffic = Traffic(Plain(), None, 0)
    traffic.send_and_receive([message(0), message(2)])
    found = traffic.summary()
    assert found["clock"] == "real" and found["devices"] is None and found["speeds"] is None
    assert found["uploads"] == 2 and found["received"] == 48 and found["deciles"] == []
    assert found["window"]["devices"] == [] and len(found["window"]["trips"]) == 2
    assert found["classes"][0]["name"] == "all" and found["classes"][0]["devices"] is None


def buffered(traffic: Traffic, first: int, last: int) -> Iterator[None]:
    """Three at a time, each replaced when it is back; continues with what `traffic` has under way."""
    waiting = list(traffic._open)
    for number in range(first, last + 1):
        if number <= 3:
            waiting += traffic.push_messages([message(number)])
            continue
        for reply in traffic.pull_messages(waiting):
            waiting.remove(reply.metadata.reply_to_message_id)
            waiting += traffic.push_messages([message((number * 7) % 12, number // 3)])
        yield


def test_a_resumed_run_has_the_same_counts() -> None:
    fleet = SimulatedFleet(12, HalfNormal(5.0), dropout=0.2, availability=Availability(20.0, 12.0))
    whole, half = traffic_on(fleet), traffic_on(fleet)
    list(buffered(whole, 1, 40))
    list(buffered(half, 1, 20))
    assert isinstance(half, Resumable) and isinstance(half.grid, SimulationGrid)
    saved, beneath = half.snapshot(), half.grid.snapshot()
    values = json.loads(json.dumps(saved.values, allow_nan=False))
    resumed = traffic_on(fleet)
    resumed.restore(Snapshot(saved.tensors, values))
    assert isinstance(resumed.grid, SimulationGrid)
    resumed.grid.restore(beneath)
    list(buffered(resumed, 21, 40))
    assert resumed.summary() == whole.summary() and resumed.now_row() == whole.now_row()
    assert whole.summary()["uploads"] > 20
    list(buffered(half, 21, 40))  # the snapshot does not follow
    assert saved.values == values


def test_what_is_found_useless_after_a_resumption_does_not_count_either() -> None:
    """An asynchronous server looks at updates that came together one by one, with a checkpoint between."""
    traffic = traffic_on(in_turn(1.0, 1.0))
    traffic.pull_messages(traffic.push_messages([message(0), message(1)]))
    saved = json.loads(json.dumps(traffic.snapshot().values))
    resumed = traffic_on(in_turn(1.0, 1.0))
    resumed.restore(Snapshot(values=saved))
    for one in (traffic, resumed):
        one.unused([1], "discarded")
        assert one.summary()["classes"][0]["counted"] == 1
        assert [trip[4] for trip in one.summary()["window"]["trips"]] == ["counted", "discarded"]
