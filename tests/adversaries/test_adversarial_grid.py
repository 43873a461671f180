"""The Grid on which some send what they choose: whom it leaves alone, what attackers see, when they speak.

Client p of `adding_app` moves both weights by p + 1. Clients 0 and 3 attack by the inner product with ε = 1:
they send the negative mean of what the honest ones of the round sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedlab.adversaries import AdversarialGrid, Adversary, Group
from fedlab.adversaries.collusion import InnerProduct, Mimic
from fedlab.adversaries.data import LabelFlip
from fedlab.adversaries.updates import Gaussian, SignFlip
from fedlab.errors import FedlabError
from fedlab.runtime import GuardedGrid, SimulationGrid, TappedGrid, client_of
from fedlab.runtime.devices import Errand, Visit
from tests.runtime.apps import adding_app, train_messages, weights

ATTACK = Group("ipm", InnerProduct(epsilon=1.0), (0, 3))


@dataclass(frozen=True)
class Seconds:
    """Devices that take so long; None: the device drops out after a second."""

    seconds: Sequence[float | None]

    @property
    def count(self) -> int:
        return len(self.seconds)

    def visit(self, errand: Errand, seed: int) -> Visit:
        taken = self.seconds[errand.device]
        return Visit(errand.at, 1.0 if taken is None else taken, silent=taken is None)


def adversarial(
    seconds: Sequence[float | None] = (1, 1, 1, 1),
    groups: Sequence[Group] = (ATTACK,),
    app: ClientApp | None = None,
    wait: bool = True,
) -> AdversarialGrid:
    inner = SimulationGrid(app or adding_app(), Seconds(seconds))
    return AdversarialGrid(inner, groups, ["w"], 5, wait=wait)


def sent(replies: Iterable[Message]) -> dict[int, float]:
    """By client, the first weight, or NaN for a failed reply."""
    return {
        client_of(one.metadata.src_node_id): math.nan if one.has_error() else weights(one)[0]
        for one in replies
    }


def ask(grid: AdversarialGrid, **how: float) -> dict[int, float]:
    return sent(grid.send_and_receive(train_messages(list(grid.get_node_ids())), **how))  # type: ignore[arg-type]


def test_attackers_replies_are_replaced_and_all_else_is_as_it_was() -> None:
    """The honest sent 2 and 3, so attackers send −2.5."""
    grid, plain = adversarial(), SimulationGrid(adding_app(), 4)
    messages = train_messages(list(grid.get_node_ids()))
    found = grid.send_and_receive(messages)
    assert sent(found) == {0: -2.5, 1: 2.0, 2: 3.0, 3: -2.5}
    for reply, other in zip(
        found, plain.send_and_receive(train_messages(list(plain.get_node_ids()))), strict=True
    ):
        assert reply.metadata.src_node_id == other.metadata.src_node_id
        assert reply.content["metrics"] == other.content["metrics"]
        assert reply.content["arrays"]["w"].dtype == other.content["arrays"]["w"].dtype
        if client_of(reply.metadata.src_node_id) in (1, 2):
            assert reply.content == other.content
    assert messages[0].content["arrays"]["w"].numpy().tolist() == [0.0, 0.0]


def test_attackers_speak_last_and_see_all_without_costing_time() -> None:
    assert ask(grid := adversarial([1, 2, 7, 3])) == {0: -2.5, 1: 2.0, 2: 3.0, 3: -2.5}
    assert grid.now == 7.0
    assert list(ask(adversarial([1, 2, 7, 9]))) == [1, 2, 3, 0]


def test_at_the_deadline_attackers_go_by_what_has_come() -> None:
    """Client 2 is late: only the 2 of client 1 is known."""
    assert ask(grid := adversarial([1, 2, 9, 1]), timeout=5.0) == {0: -2.0, 1: 2.0, 3: -2.0}
    assert grid.now == 5.0


def test_an_attacker_that_is_late_itself_is_not_heard() -> None:
    assert ask(adversarial([1, 2, 2, 9]), timeout=5.0) == {0: -2.5, 1: 2.0, 2: 3.0}


def test_where_the_first_replies_count_attackers_answer_when_they_are_done() -> None:
    """Client 0 is first and goes by its own 1; client 3 comes after client 1 and sees its 2."""
    assert ask(grid := adversarial([1, 2, 9, 3], wait=False), enough=3) == {0: -1.0, 1: 2.0, 3: -2.0}
    assert grid.now == 3.0
    assert ask(adversarial([1, 1, 1, 1], wait=False), enough=4) == {0: -2.5, 1: 2.0, 2: 3.0, 3: -2.5}


def test_failed_replies_are_nobodys_update() -> None:
    """Client 2 drops out, client 3 does; the other attacker goes by client 1 alone."""
    found = ask(adversarial([1, 1, None, None]))
    assert found[0] == -2.0 and found[1] == 2.0 and math.isnan(found[2]) and math.isnan(found[3])
    assert math.isnan(ask(adversarial(app=adding_app(fail_on=0)))[0])


def test_attackers_among_themselves_go_by_what_they_trained() -> None:
    """1 and 4: the mean is 2.5."""
    grid = adversarial()
    nodes = list(grid.get_node_ids())
    assert sent(grid.send_and_receive(train_messages([nodes[0], nodes[3]]))) == {0: -2.5, 3: -2.5}


def test_a_round_without_attackers_passes_and_nothing_is_kept() -> None:
    grid = adversarial()
    nodes = list(grid.get_node_ids())
    assert sent(grid.send_and_receive(train_messages(nodes[1:3]))) == {1: 2.0, 2: 3.0}
    assert not grid._rounds
    ask(grid)
    assert not grid._rounds


def test_other_attackers_are_not_taken_for_honest() -> None:
    """Client 1 only poisons its records, client 2 flips its sign: client 0 has but client 3 to copy."""
    groups = [
        Group("m", Mimic(), (0,)),
        Group("l", LabelFlip(), (1,)),
        Group("s", SignFlip(scale=10.0), (2,)),
    ]
    assert ask(adversarial(groups=groups)) == {0: 4.0, 1: 2.0, 2: -30.0, 3: 4.0}


def test_evaluation_passes() -> None:
    grid = adversarial()
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(2))})})
    messages = [Message(content, dst_node_id=node, message_type="evaluate") for node in grid.get_node_ids()]
    assert all(one.content["metrics"]["accuracy"] == 0.5 for one in grid.send_and_receive(messages))


def test_draws_differ_by_client_round_and_seed_only() -> None:
    def draw(seed: int, wait: bool) -> dict[int, float]:
        inner = SimulationGrid(adding_app(), Seconds([1, 1, 2, 3]))
        return ask(AdversarialGrid(inner, [Group("g", Gaussian(), (2, 3))], ["w"], seed, wait=wait))

    assert draw(5, True) == draw(5, True) != draw(6, True)
    apart = draw(5, False)
    assert apart[2] != apart[3]


def test_pulling_brings_the_honest_at_once_and_attackers_when_the_round_is_in() -> None:
    grid = adversarial([1, 2, 3, 1])
    ids = grid.push_messages(train_messages(list(grid.get_node_ids())))
    assert sent(grid.pull_messages(ids)) == {1: 2.0}
    assert sent(grid.pull_messages(ids)) == {2: 3.0, 0: -2.5, 3: -2.5}
    assert grid.pull_messages(ids) == []


def test_who_waits_for_an_attacker_alone_gets_it() -> None:
    grid = adversarial([1, 2, 3, 9])
    ids = grid.push_messages(train_messages(list(grid.get_node_ids())))
    assert sent(grid.pull_until(ids[:1], 8.0)) == {0: -1.0} and grid.now == 1.0


def test_what_is_cancelled_is_forgotten() -> None:
    grid = adversarial([1, 2, 9, 1])
    ids = grid.push_messages(train_messages(list(grid.get_node_ids())))
    assert sent(grid.pull_messages(ids[:2])) == {1: 2.0}
    grid.cancel([ids[0], ids[2]])
    assert sent(grid.pull_messages(ids)) == {3: -2.0} and not grid._rounds


def diverging(partition: int) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        own = int(context.node_config["partition-id"])
        value = np.full(2, np.nan if own == partition else own + 1.0)
        content = {"arrays": ArrayRecord({"w": Array(value)}), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    return app


@pytest.mark.parametrize(
    "partition, expected", [(1, {0: -3.0, 2: 3.0, 3: -3.0}), (3, {0: -2.5, 1: 2.0, 2: 3.0})]
)
def test_what_is_not_finite_is_left_to_the_guard(partition: int, expected: dict[int, float]) -> None:
    told: list[str] = []
    guard = GuardedGrid(
        adversarial(app=diverging(partition)), rejected=lambda message, reply, kind, why: told.append(kind)
    )
    replies = guard.send_and_receive(train_messages(list(guard.get_node_ids())))
    found = sent(replies)
    assert math.isnan(found.pop(partition)) and found == expected and told == ["not-finite"]


def test_an_attack_that_is_too_long_is_turned_away_like_any_update() -> None:
    told: list[str] = []
    grid = adversarial(groups=[Group("s", SignFlip(scale=1e3), (3,))])
    guard = GuardedGrid(grid, max_norm=100.0, rejected=lambda message, reply, kind, why: told.append(kind))
    found = sent(guard.send_and_receive(train_messages(list(guard.get_node_ids()))))
    assert math.isnan(found[3]) and told == ["norm"]


def test_a_group_without_an_update_of_its_own_does_not_need_the_grid() -> None:
    assert not Group("l", LabelFlip(), (0,)).crafts and Group("l", LabelFlip(), (0,)).poisons
    assert Group("s", SignFlip(), (0,)).crafts and not Group("s", SignFlip(), (0,)).poisons
    assert not Group("a", Adversary(), (0,)).crafts


def test_updates_are_measured_from_the_model_that_each_client_was_sent() -> None:
    """Sent 10, 20, 30 and 40: changes are 1, 2, 3 and 4 all the same, and −2.5 is put on what was sent."""
    grid = adversarial()
    contents = [RecordDict({"arrays": ArrayRecord({"w": Array(np.full(2, 10.0 * n))})}) for n in (1, 2, 3, 4)]
    pairs = zip(contents, grid.get_node_ids(), strict=True)
    messages = [Message(content, dst_node_id=node, message_type="train") for content, node in pairs]
    assert sent(grid.send_and_receive(messages)) == {0: 7.5, 1: 22.0, 2: 33.0, 3: 37.5}


def test_a_strategy_that_sends_something_else_is_named() -> None:
    inner = SimulationGrid(adding_app(), 4)
    grid = AdversarialGrid(inner, [ATTACK], ["w", "b"], 5)
    with pytest.raises(FedlabError, match="no record with all of w, b"):
        ask(grid)


def test_who_watches_sees_what_came_when_enough_others_had() -> None:
    """All four arrive at once, of which three are needed."""
    seen: list[int] = []
    tap = TappedGrid(
        adversarial(wait=False), lambda message, reply: seen.append(client_of(reply.metadata.src_node_id))
    )
    replies = tap.send_and_receive(train_messages(list(tap.get_node_ids())), enough=3)
    assert len(replies) == 3 and sorted(seen) == [0, 1, 2, 3]


def test_without_rounds_an_attacker_answers_when_it_is_done_in_view_of_that_moment() -> None:
    """Clients 0 and 3 attack. Client 0 is first and alone: it goes by its own 1. Client 3 is done together
    with client 1 and sees its 2, though not the 3 of client 2, which came before: nothing is remembered."""
    inner = SimulationGrid(adding_app(), Seconds([1, 3, 2, 3]))
    grid = AdversarialGrid(inner, [ATTACK], ["w"], 5, apart=True)
    ids = grid.push_messages(train_messages(list(grid.get_node_ids())))
    assert sent(grid.pull_messages(ids)) == {0: -1.0} and grid.now == 1.0
    assert sent(grid.pull_messages(ids[1:])) == {2: 3.0}
    assert sent(grid.pull_messages([ids[1], ids[3]])) == {1: 2.0, 3: -2.0}
    assert not grid._rounds
