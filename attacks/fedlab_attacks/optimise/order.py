"""Which records a client used in which step, which no server knows: clients shuffle before each epoch.

- `shares`: every step on all records, each with a weight that says how much of it the step used. The weights
  are variables: with the uniform ones of the start a step is what it is on average over the client's draws,
  and a descent moves them to the order that explains the update. As in any order, a step's weights add up to
  one, and each record is used once per epoch (R. Sinkhorn, "A Relationship Between Arbitrary Positive
  Matrices and Doubly Stochastic Matrices", Annals of Mathematical Statistics 35(2), 1964). One image per
  record, and nothing to match afterwards. Not published for this purpose as far as we know.
- `copied`: D. I. Dimitrov et al., "Data Leakage in Federated Averaging", TMLR 2022,
  https://arxiv.org/abs/2206.12395: an image per use, so that each epoch has records of its own in an order of
  its own, and `epochs_agree` ties what no order changes, the mean over an epoch. At the end the copies are
  matched (by assignment) and averaged: `merged`.

Measured on digits (16 records, MLP 64-128-128-10, 5 epochs of 4 steps, momentum .9, 200 iterations): learning
rate .02, 4 victims: uniform weights 25.0 dB, copies 20.0 dB, the true order 26.0 dB; .05, 2 victims: learned
weights 21.1 dB, the true order 20.4 dB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedlab_attacks.optimise.capture import Simulated, Term
from fedlab_attacks.optimise.problem import Problem
from fedlab_attacks.optimise.variables import Variables

ORDER = "order"
"""The name under which candidates keep the logits of their shares, (V, steps, R)."""

ROUNDS = 6


def shares(logits: Tensor, sizes: Sequence[int]) -> Tensor:
    """Weights (..., steps, R) of the records in each step, out of any numbers of that shape.

    Each step's add up to 1; over an epoch a record's add up (in units of records) to nearly what it is used.
    """
    records, weights, start = logits.shape[-1], [], 0
    while start < len(sizes):
        end = start + 1
        while end < len(sizes) and sum(sizes[start : end + 1]) <= records:
            end += 1
        used = torch.tensor(sizes[start:end], dtype=logits.dtype, device=logits.device).log()[:, None]
        column = used.logsumexp(0) - math.log(records)
        epoch = logits[..., start:end, :]
        for _ in range(ROUNDS):
            epoch = epoch - epoch.logsumexp(-2, keepdim=True) + column
            epoch = epoch - epoch.logsumexp(-1, keepdim=True) + used
        weights.append((epoch - used).exp())
        start = end
    return torch.cat(weights, dim=-2)


def copied(records: int, uses: int, generator: torch.Generator) -> Tensor:
    """(uses,) which label each use has: those of all records once per epoch, in an order drawn for each."""
    epochs = -(-uses // records)
    drawn = [torch.randperm(records, generator=generator) for _ in range(epochs)]
    return torch.cat(drawn)[:uses]


def epochs_agree(records: int) -> Term:
    """Mean squared difference of an epoch's mean image from that of all whole epochs; images (V, U, ...)."""

    def term(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
        means = _epochs(variables.images, records).mean(2)
        return (means - means.mean(1, keepdim=True)).square().flatten(1).mean(1)

    return term


def merged(images: Tensor, labels: Tensor, records: int) -> tuple[Tensor, Tensor]:
    """One image (R, C, H, W) and label (R,) per record, from one per use (U, ...), (U,).

    The copies of each whole epoch are assigned to those of the first, of the same label as far as that goes,
    and averaged.
    """
    copies, named = _epochs(images[None], records)[0], _epochs(labels[None], records)[0]
    first, total = copies[0].flatten(1), copies[0].clone()
    for copy, label in zip(copies[1:], named[1:], strict=True):
        other = (named[0][:, None] != label[None]).to(first)
        cost = torch.cdist(first, copy.flatten(1)).square() + other * first.shape[1]
        total += copy[torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1])]
    return total / len(copies), named[0]


def _epochs(values: Tensor, records: int) -> Tensor:
    """(V, E, R, ...) of the whole epochs in (V, U, ...)."""
    whole = values.shape[1] // records
    return values[:, : whole * records].reshape(len(values), whole, records, *values.shape[2:])
