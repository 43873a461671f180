"""What a network says about single records: losses, confidences, the direction of their gradients.

All in evaluation mode: no dropout, and running statistics in batch norm. A client in training mode saw other
numbers; which, no server knows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, vmap

from fedlab.audit.membership import Candidates
from fedlab.audit.observation import Observation
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable
from fedlab.tasks import State

CHUNK = 512
"""Records that one forward pass takes."""

GRADIENT_VALUES = 1 << 24
"""Numbers that per-record gradients may take at once."""


def sent(observation: Observation) -> State:
    """Parameters and buffers that the server sent."""
    return {**observation.before, **observation.buffers_before}


def updated(observation: Observation, by: Observation | None = None) -> State:
    """The same after the client's update, or after another client's.

    Buffers are those that came back, or those that were sent where none did.
    """
    other = by or observation
    changed = {name: value + other.update.get(name, 0.0) for name, value in observation.before.items()}
    return {**changed, **observation.buffers_before, **other.buffers_after}


def losses(victim: Victim, state: State, candidates: Candidates) -> Tensor:
    """(N,) float64 loss of each record."""
    outputs = logits(victim, state, candidates)
    return victim.loss(outputs, candidates.labels).double()


def confidences(outputs: Tensor, labels: Tensor) -> Tensor:
    """log(p / (1 - p)) of the true label's probability, (..., N) for logits (..., N, classes).

    Computed as the logit minus the log of the others' sum, so that neither p near 1 nor p near 0 is lost.
    """
    right = labels.expand(outputs.shape[:-1]).unsqueeze(-1)
    own = outputs.gather(-1, right).squeeze(-1)
    rest = outputs.scatter(-1, right, -torch.inf).logsumexp(-1)
    return own.double() - rest.double()


@torch.no_grad()
def logits(victim: Victim, state: State, candidates: Candidates) -> Tensor:
    """(N, classes)."""
    return torch.cat([victim.model(state, x, training=False)[0] for x in pieces(candidates.images, CHUNK)])


def pieces(values: Tensor, size: int) -> list[Tensor]:
    """`values` cut along the first axis, `size` at most in each."""
    return [values[first : first + size] for first in range(0, len(values), size)]


def alignments(
    victim: Victim, state: State, candidates: Candidates, directions: list[State]
) -> tuple[Tensor, Tensor]:
    """Inner products (D, N) of each record's gradient with D directions, and its squared norms (N,); float64.

    Raises:
        NotApplicable: a record's gradient is not finite.
    """
    names = list(directions[0])
    held = {name: state[name] for name in names}
    rest = {name: value for name, value in state.items() if name not in held}
    flat = torch.stack([torch.cat([one[name].flatten() for name in names]) for one in directions])

    def loss(values: State, x: Tensor, y: Tensor) -> Tensor:
        outputs, _ = victim.model({**rest, **values}, x.unsqueeze(0), training=False)
        return victim.loss(outputs, y.unsqueeze(0)).sum()

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    products, norms = [], []
    size = max(1, min(CHUNK, GRADIENT_VALUES // flat.shape[1]))
    for x, y in zip(pieces(candidates.images, size), pieces(candidates.labels, size), strict=True):
        found = each(held, x, y)
        rows = torch.cat([found[name].flatten(1) for name in names], dim=1)
        products.append((flat @ rows.T).double())
        norms.append(rows.double().square().sum(1))
    product, norm = torch.cat(products, dim=1), torch.cat(norms)
    if not bool(torch.isfinite(norm).all()):
        raise NotApplicable("the gradient of a candidate is not finite at the model that the server sent")
    return product, norm
