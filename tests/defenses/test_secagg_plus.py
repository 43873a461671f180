"""The protocol of secure sums: every set of drop-outs, what a masked vector shows, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fedlab_defenses.secure_sum.client import Masking
from fedlab_defenses.secure_sum.server import MaskedGrid
from fedlab_defenses.secure_sum.vectors import encoded
from flwr.app import Array, ConfigRecord, Context, Message, RecordDict
from scipy.stats import chisquare

from fedlab.errors import FedlabError, UsageError
from fedlab.runtime import SimulationGrid, WrappedGrid, client_of
from fedlab.runtime.arrays import array_record, tensors
from tests.defenses.secure_rounds import (
    MODEL,
    STAGES,
    federation,
    good,
    mean,
    plan,
    records,
    round_of,
)

HALF_STEP = 8.0 / 2**22


def drop_outs(clients: int, most: int) -> list[dict[int, str]]:
    """Every set of up to so many clients, each falling out at every stage."""
    return [
        dict(zip(who, stages, strict=True))
        for count in range(most + 1)
        for who in itertools.combinations(range(clients), count)
        for stages in itertools.product(STAGES, repeat=count)
    ]


def check(replies: list[Message], when: dict[int, str], clients: int, uniform: bool) -> None:
    came = [client for client in range(clients) if when.get(client) not in STAGES[:3]]
    assert good(replies) == came
    weights = [1.0 if uniform else float(records(client)) for client in came]
    expected = mean(came, weights)
    bound = HALF_STEP * (1.0 if uniform else records(clients - 1) * len(came) / sum(weights))
    for reply in replies:
        if reply.has_error():
            continue
        after = tensors(reply.content.array_records["arrays"])
        for name, value in expected.items():
            # float32 holds the model to 2^-20 around 20
            assert float((after[name].double() - value).abs().max()) <= bound + 2.0**-20
        figures = reply.content["metrics"]
        loss = sum(w * 0.5 * c for w, c in zip(weights, came, strict=True)) / sum(weights)
        assert figures["train-loss"] == pytest.approx(loss, abs=1e-9)
        total = sum(records(client) for client in came)
        assert figures["num-examples"] * len(came) == pytest.approx(total)


@pytest.mark.parametrize(("threshold", "uniform"), [(3, True), (2, False)])
def test_the_sum_is_the_plain_one_for_every_set_of_drop_outs_up_to_the_threshold(
    threshold: int, uniform: bool
) -> None:
    """4 clients, of which one (17 sets) or two (113) may fall out at any of the four stages; who does after
    its masked vector came is in the sum. The model is out of an update's range; only updates are clipped."""
    agreed = plan(4, threshold)
    for when in drop_outs(4, 4 - threshold):
        grid, _ = federation(4, agreed, when, cap=1 if uniform else records(3))
        check(round_of(grid), when, 4, uniform)


def test_beyond_the_threshold_nothing_is_opened() -> None:
    """4 clients, threshold 3: all 96 sets of two, at all stages. Every reply fails and says why."""
    agreed = plan(4, 3)
    for when in drop_outs(4, 2):
        if len(when) < 2:
            continue
        grid, _ = federation(4, agreed, when)
        replies = round_of(grid)
        assert len(replies) == 4 and good(replies) == []
        reasons = [str(one.error.reason) for one in replies]
        assert sum("not opened" in reason for reason in reasons) >= 2, reasons


def test_a_graph_of_neighbours_gives_the_same_sum() -> None:
    """9 clients of degree 6: neighbourhoods of 7, of which 4 open a secret; one drops out at each stage."""
    agreed = plan(9, 6, 6)
    grid, _ = federation(9, agreed, {1: "share", 4: "train", 7: "unmask"})
    check(round_of(grid), {1: "share", 4: "train", 7: "unmask"}, 9, True)


def test_a_neighbourhood_that_is_gone_closes_the_sum() -> None:
    """Degree 2: neighbourhoods of 3 of which 2 open a secret; on a circle of 7, two that are not there any
    more leave somebody with one."""
    agreed = plan(7, 4, 2)
    failed = 0
    for pair in itertools.combinations(range(7), 2):
        grid, _ = federation(7, agreed, dict.fromkeys(pair, "unmask"))
        replies = round_of(grid)
        failed += good(replies) == []
        assert good(replies) in ([], list(range(7)))
    assert failed == 14  # of 21 pairs those at distance 1 and 2: 7 each share a neighbourhood


def test_masked_vectors_are_uniform_and_say_nothing_of_equal_data() -> None:
    """χ² of the top bytes of 40,000 masked numbers: a chance of 1e-4 that a good mask fails. The clients'
    updates are the same in both rounds; not one in a thousand masked numbers is, nor do they correlate."""
    size = 40_000
    grid, spy = federation(3, plan(3, 2), size=size)
    round_of(grid, 1, size)
    first = spy.masked()
    round_of(grid, 2, size)
    second = spy.masked()
    for client in range(3):
        counts = np.bincount(first[client][:size] >> 24, minlength=256)
        assert chisquare(counts).pvalue > 1e-4
        assert (first[client] == second[client]).mean() < 1e-3
        pair = np.corrcoef(first[client].astype(float), second[client].astype(float))[0, 1]
        assert abs(pair) < 5 / size**0.5
    assert (first[0] == first[1]).mean() < 1e-3


def test_what_the_server_knows_before_opening_sums_to_noise() -> None:
    """Pair masks cancel, the clients' own do not: without their shares the sum itself is uniform."""
    size = 40_000
    grid, spy = federation(3, plan(3, 2), size=size)
    round_of(grid, 1, size)
    total = sum(spy.masked().values())
    assert chisquare(np.bincount(total[:size] >> 24, minlength=256)).pvalue > 1e-4


def test_a_simulation_repeats_its_masks_and_the_operating_systems_do_not() -> None:
    runs = []
    for seed in (5, 5, None, None):
        grid, spy = federation(3, plan(3, 2), seed=seed)
        replies = round_of(grid)
        runs.append((spy.masked()[0], tensors(replies[0].content.array_records["arrays"])["bias"]))
    assert np.array_equal(runs[0][0], runs[1][0])
    assert not np.array_equal(runs[2][0], runs[3][0])
    assert all(torch.equal(runs[0][1], one) for _, one in runs)  # whatever the masks, the sum is the same


def test_enough_vectors_close_the_round_and_the_surplus_is_not_in_the_sum() -> None:
    """All arrive at once; the first three of five count, and the pair masks of the others are taken off."""
    grid, _ = federation(5, plan(5, 3), enough=3)
    replies = round_of(grid, enough=3)
    assert good(replies) == [0, 1, 2]
    expected = mean([0, 1, 2], [1.0] * 3)["bias"]
    after = tensors(replies[0].content.array_records["arrays"])["bias"]
    assert float((after.double() - expected).abs().max()) <= HALF_STEP + 2.0**-20


def test_a_deadline_before_anything_came_leaves_no_reply() -> None:
    """Every stage takes a virtual second: two are there for the keys and shares, none for training."""
    grid, _ = federation(3, plan(3, 2))
    replies = round_of(grid, timeout=2.5)
    assert good(replies) == []
    assert good(round_of(grid, 2, timeout=3.0)) == [0, 1, 2]  # opening comes after the deadline


def test_nothing_of_a_round_is_kept() -> None:
    grid, spy = federation(3, plan(3, 2))
    round_of(grid)
    assert grid._rounds == {}
    simulated = spy.grid
    assert isinstance(simulated, SimulationGrid) and simulated._contexts == {}  # nor by clients that answered


def asked(grid: Any, node: int, kind: str, **said: Any) -> Message:
    content = {"config": ConfigRecord({"server-round": 1})}
    if said:
        content["secagg"] = ConfigRecord({"round": 1, **said})
    if kind == "train":
        content["arrays"] = array_record(MODEL)
    (reply,) = grid.send_and_receive([Message(RecordDict(content), node, kind)])
    return reply


def test_a_client_refuses_to_train_without_masks() -> None:
    """Neither without the protocol nor before it has shared its secrets, nor with too few others."""
    _, spy = federation(3, plan(3, 2))
    clients = spy.grid
    assert "stage after 'share'" in asked(clients, 2, "train", stage="train", alive=[2, 3]).error.reason
    federated, spy = federation(3, plan(3, 3), {2: "share"})
    round_of(federated)  # nobody trained: two of three shared
    reply = asked(spy.grid, 2, "train", stage="train", alive=[2, 3])
    assert "2 clients are left of the round; threshold = 3" in reply.error.reason
    assert "not opened" in round_of(federated)[0].error.reason


def test_a_client_tells_one_kind_of_share_and_once() -> None:
    """A server that asks for both secrets of a neighbour, for too few, or again, gets none."""
    federated, spy = federation(3, plan(3, 2), dict.fromkeys(range(3), "unmask"))
    round_of(federated)
    client, context = Masking(plan(3, 2), 1, 5), spy.grid._contexts[0]

    def unmask(came: list[int], dropped: list[int]) -> Message:
        said = {"stage": "unmask", "round": 1, "from": [], "sealed": [], "came": came, "dropped": dropped}
        return client(Message(RecordDict({"secagg": ConfigRecord(said)}), 2, "query"), context, unasked)

    for came, dropped in (([2, 3], [3]), ([3, 4], []), ([2], [3, 4])):
        with pytest.raises(UsageError, match="masked vectors came"):
            unmask(came, dropped)
    assert unmask([2, 3], [4]).has_content()
    with pytest.raises(UsageError, match="each stage comes once"):
        unmask([2, 3], [4])


def unasked(message: Message, context: Context) -> Message:
    raise AssertionError("the app is not asked")


def test_a_forged_reply_is_as_good_as_none() -> None:
    """Bytes that declare a terabyte, and a vector of the wrong length: their senders fall out."""

    class Forger(WrappedGrid):
        def _arrived(self, replies: Iterable[Message]) -> list[Message]:
            passed = list(replies)
            for reply in passed:
                client = client_of(reply.metadata.src_node_id)
                if not reply.has_error() and "masked" in reply.content and client < 2:
                    values = Array(np.zeros(3, dtype=np.uint32))
                    if client == 0:
                        values.shape = (10**12,)
                    reply.content["masked"]["values"] = values
            return passed

    _, spy = federation(5, plan(5, 3))
    forged = MaskedGrid(Forger(spy), plan(5, 3), lambda round: np.random.default_rng(round))
    replies = round_of(forged)
    assert good(replies) == [2, 3, 4]
    reasons = {client_of(one.metadata.src_node_id): one.error.reason for one in replies if one.has_error()}
    assert "1000000000000" in reasons[0] and "expected uint32 of shape (9,)" in reasons[1]
    after = tensors(replies[-1].content.array_records["arrays"])["bias"]
    expected = mean([2, 3, 4], [1.0] * 3)["bias"]
    assert float((after.double() - expected).abs().max()) <= HALF_STEP + 2.0**-20


def test_more_clients_than_a_sum_can_hold_are_turned_away() -> None:
    grid, _ = federation(4, replace(plan(4, 3), capacity=3))
    replies = round_of(grid)
    assert good(replies) == [] and "more than 3 may overflow" in replies[0].error.reason


def test_an_update_that_is_not_finite_falls_out_by_name() -> None:
    with pytest.raises(FedlabError, match="NaN or infinite"):
        broken = {**MODEL, "bias": torch.tensor([1.0, float("nan"), 0.0])}
        encoded(plan(3, 2), MODEL, broken, [], 1, 1)
