"""The contract of the server's half of a local rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedlab import seeds
from fedlab.clients import ClientConfig
from fedlab.clients.rules import Facts, ServerSide
from fedlab.testing.contract import answer, demand, kept, pair, same, vector
from fedlab.testing.federation import SEED, SIZES


def check_server(server: ServerSide, size: int) -> None:
    """Whether it announces what it sends and expects, and answers as a composition needs it."""
    __tracebackhide__ = True
    for name in ("sends", "uplinks"):
        slots = getattr(server, name)
        demand(
            isinstance(slots, tuple) and all(isinstance(one, str) and "/" not in one for one in slots),
            f"server.{name}",
            repr(slots),
            "a tuple of names without a slash",
        )
    draw = seeds.torch_generator(SEED, "contract")
    model = torch.randn(size, generator=draw, dtype=torch.float64)
    state = answer("server.begin", server.begin, lambda: (model.clone(),))
    missing = sorted(set(server.sends) - set(state))
    demand(not missing, "server.begin: no slot", ", ".join(missing), "every slot that server.sends names")
    for name, value in state.items():
        vector(f"server.begin: {name}", value, size)
    steps = torch.tensor([4.0, 6.0, 2.0], dtype=torch.float64)
    facts = Facts(len(SIZES), torch.full_like(steps, 1 / 3), steps, ClientConfig())
    factors = answer("server.factors", server.factors, lambda: (facts,))
    if factors is not None:
        vector("server.factors", factors, len(steps))
    straight = dict(state)
    for round in (1, 2, 3):
        delta = torch.randn(size, generator=draw, dtype=torch.float64)
        uplinks = {name: torch.randn(size, generator=draw, dtype=torch.float64) for name in server.uplinks}

        def arguments(
            delta: Tensor = delta, uplinks: Mapping[str, Tensor] = uplinks, state: Any = state
        ) -> tuple[Any, ...]:
            copies = {name: value.clone() for name, value in uplinks.items()}
            return model.clone(), delta.clone(), copies, kept("the rule's server", state), facts

        what = f"server.end in round {round}"
        made, after = pair(what, answer(what, server.end, arguments))
        vector(what, made, size)
        demand(
            after.keys() == state.keys(), f"{what}: slots", sorted(after), f"those of begin: {sorted(state)}"
        )
        for name, value in after.items():
            vector(f"{what}: {name}", value, size)
        expected, straight = server.end(model, delta, uplinks, straight, facts)
        demand(
            same(made, expected) and same(after, straight),
            f"{what} with a state that was in a checkpoint",
            "another answer",
            "the bits of an uninterrupted run",
            "Keep all that the next round depends on in the state, and nothing on the object",
        )
        state = after
