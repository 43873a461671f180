"""One client lies about its steps, by which rules divide; the others are not to pay for it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from flwr.app import Message

from fedlab.clients import LocalRule
from fedlab.clients.rules.fednova import FedNova
from fedlab.clients.rules.momentum import FedAvgM
from fedlab.runtime import WrappedGrid
from tests.clients.quadratics import Federation, configured


class Lying(WrappedGrid):
    """Node 3 says that it took so many steps."""

    claimed = 5.0

    def _arrived(self, replies: Iterable[Message]) -> list[Message]:
        found = list(replies)
        for reply in found:
            if reply.metadata.src_node_id == 3:
                reply.content.metric_records["metrics"]["steps"] = self.claimed
        return found


def lied(rule: LocalRule, claimed: float, **options: object) -> float:
    federation = Federation(rule, **options)  # type: ignore[arg-type]
    grid = Lying(federation.grid)
    grid.claimed, federation.grid = claimed, grid  # type: ignore[assignment]
    return federation.after(3)


@pytest.mark.parametrize("rule", [FedNova(), FedAvgM(beta=0.5)])
@pytest.mark.parametrize("options", [{}, {"epochs": (5, 5, 5)}])
def test_no_client_took_more_steps_than_it_was_told(rule: LocalRule, options: dict[str, object]) -> None:
    """Told to take 5, or 5 epochs of 1: 10^8 count as 5. Otherwise the mean is 3 · 10^7,
    and honest updates count 7 · 10^6 times."""
    assert lied(rule, 1e8, **options) == lied(rule, 5.0, **options)


def test_fewer_steps_than_told_are_believed() -> None:
    """They make the liar's own update longer, which is what it could have sent."""
    config = configured(local_steps=4)
    assert lied(FedNova(), 1.0, config=config) != lied(FedNova(), 4.0, config=config)
