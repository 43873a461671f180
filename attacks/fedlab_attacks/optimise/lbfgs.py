"""L-BFGS over many rows at once: each has its own memory, its own direction and its own step length.

R. Byrd, J. Nocedal and R. Schnabel, "Representations of quasi-Newton matrices and their use in limited memory
methods", 1994, equation 3.1 (one product instead of two loops over the memory), with a backtracking line
search (J. Nocedal and S. Wright, "Numerical Optimization", 2006, algorithm 3.1): a point is accepted where
f(x') <= f(x) + c <g, x' - x>, else the step is halved. One iteration is one evaluation for all rows, accepted
or not, so that rows need not agree on anything.

Deviations: pairs with <s, y> <= 0 are left out of the memory (Wolfe conditions would prevent them), and a row
whose step gets too short begins anew along its gradient. torch.optim.LBFGS, which DLG uses, has one step
length and one memory for all, and no line search.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlab.tasks import State

SUFFICIENT = 1e-4
SHORTEST = 1e-6


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS.

    Attributes:
        memory: pairs that are kept.
        step: length tried first along a direction; 1 is Newton's.
    """

    memory: int = 20
    step: float = 1.0

    def start(self, flat: Tensor) -> State:
        rows, count = flat.shape
        pairs = flat.new_zeros(rows, self.memory, count)
        return {
            "point": flat,
            "value": flat.new_full((rows,), torch.inf),
            "slope": torch.zeros_like(flat),
            "direction": torch.zeros_like(flat),
            "length": flat.new_ones(rows),
            "moves": pairs,
            "turns": pairs.clone(),
            "curvature": flat.new_zeros(rows, self.memory),
        }

    def move(
        self, state: State, flat: Tensor, value: Tensor, slope: Tensor, *, i: int, factor: float, pixels: int
    ) -> Tensor:
        point, moved = state["point"], flat - state["point"]
        bound = state["value"] + SUFFICIENT * (state["slope"] * moved).sum(1)
        accepted = value <= bound  # at first the bound is inf; a value that is not a number never is
        fresh = i == 0
        if not fresh:
            self._remember(state, accepted, moved, slope - state["slope"])
        take = accepted[:, None]
        state["point"] = torch.where(take, flat, point)
        state["value"] = torch.where(accepted, value, state["value"])
        state["slope"] = torch.where(take, slope, state["slope"])
        length = torch.where(accepted, self.step, state["length"] / 2)
        stuck = length < SHORTEST * self.step
        for name in ("moves", "turns", "curvature"):
            kept = state[name]
            state[name] = kept.masked_fill(stuck.view(-1, *([1] * (kept.dim() - 1))), 0.0)
        direction = self._direction(state)
        uphill = (direction * state["slope"]).sum(1) >= 0
        blind = uphill | (state["curvature"] == 0).all(
            1
        )  # no curvature is known: a step of unit length at most
        unit = (1 / state["slope"].abs().sum(1).clamp_min(1e-30)).clamp_max(1.0)[:, None]
        direction = torch.where(blind[:, None], -state["slope"] * unit, direction)
        renewed = (accepted | stuck)[:, None]
        state["direction"] = torch.where(renewed, direction, state["direction"])
        state["length"] = torch.where(stuck, self.step, length)
        return state["point"] + state["direction"] * (state["length"] * factor)[:, None]

    def _remember(self, state: State, accepted: Tensor, moved: Tensor, turned: Tensor) -> None:
        """Push (s, y) where the point was accepted and the curvature along it is positive."""
        product = (moved * turned).sum(1)
        push = accepted & (product > 1e-10 * turned.square().sum(1))
        newest = (1 / product.clamp_min(1e-30))[:, None]
        for name, new in (("moves", moved[:, None]), ("turns", turned[:, None]), ("curvature", newest)):
            old = state[name]
            where = push.view(-1, *([1] * (old.dim() - 1)))
            state[name] = torch.where(where, torch.cat([old[:, 1:], new], dim=1), old)

    def _direction(self, state: State) -> Tensor:
        """-H g, all pairs at once; a pair of curvature 0 is an empty place."""
        moves, turns, slope = state["moves"], state["turns"], state["slope"][:, :, None]
        products = (moves @ turns.mT).double()
        empty = (state["curvature"] == 0).double()
        upper = products.triu() + torch.diag_embed(empty)
        newest = turns[:, -1].square().sum(1) * state["curvature"][:, -1]
        gamma = torch.where(newest > 0, 1 / newest.clamp_min(1e-30), 1.0)[:, None, None]
        along, across = (moves @ slope).double(), gamma * (turns @ slope).double()
        inner = torch.linalg.solve_triangular(upper, along, upper=True)
        middle = torch.diag_embed(products.diagonal(dim1=1, dim2=2)) + gamma * (turns @ turns.mT).double()
        outer = torch.linalg.solve_triangular(upper.mT, middle @ inner - across, upper=False)
        kind = slope.dtype
        change: Tensor = gamma * (slope - turns.mT @ inner.to(kind)) + moves.mT @ outer.to(kind)
        return -change[:, :, 0]
