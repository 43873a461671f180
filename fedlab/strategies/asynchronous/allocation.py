"""Who gets how many of a fleet's requests, when several tasks are trained at once.

Askin, Sharma, Joe-Wong, Joshi, "FedAST: Federated Asynchronous Simultaneous Training", UAI 2024,
https://arxiv.org/abs/2406.00302. Task m holds R_m requests, ΣR_m never changes, and ceil(R_m / quantum)
updates make its next model. Dynamic allocation measures how much the updates of a task differ,

    v_m = η_l η_g · mean_i ||D_i − D̄||² / ||D̄||² / (η_l τ)²,

over its last 8 updates D_i, and makes R_m proportional to v_m^power, in quanta, one at least.

The power: R_m ∝ √c_m is what minimises Σ c_m / R_m at a fixed ΣR_m, and the authors' code means to take
that root, so 1/2 is the default. What it computes is `v**1/2`, half of v: proportional to v itself, which is
power = 1.

Deviations from that code: v_m is that of the last 8 updates when requests are shared out (the code averages
estimates since the last time, each of 7 updates, biases left out); what a finished task leaves over after
division goes to the largest remainder (the code draws who gets it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

WINDOW = 8
"""Updates of a task over which v_m is taken."""


def buffer_of(requests: int, quantum: int) -> int:
    """Updates that make a model: one for each quantum of requests that has begun; 0 without requests."""
    return -(-requests // quantum)


def even(total: int, labels: Sequence[str]) -> dict[str, int]:
    """As many requests for each; those that are left over go to the first ones."""
    return proportional(total, dict.fromkeys(labels, 1))


def proportional(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Requests in proportion to whole weights, one of which is above 0; by the largest remainder, and of
    equal ones to the first."""
    whole = sum(weights.values())
    shares = {label: total * weight // whole for label, weight in weights.items()}
    order = sorted(weights, key=lambda label: -(total * weights[label] % whole))
    for label in order[: total - sum(shares.values())]:
        shares[label] += 1
    return shares


def handed_over(requests: Mapping[str, int], finished: str) -> dict[str, int]:
    """The allocation once a task is finished: its requests go to the others, in proportion to their own.

    Nobody is left to take those of the last one, so that it keeps them.
    """
    others = {label: held for label, held in requests.items() if label != finished and held > 0}
    if not others:
        return dict(requests)
    gained = proportional(requests[finished], others)
    return {
        label: 0 if label == finished else held + gained.get(label, 0) for label, held in requests.items()
    }


def shared_out(total: int, weights: Mapping[str, float], quantum: int, floor: int = 1) -> dict[str, int]:
    """Requests in proportion to `weights` (>= 0, not all 0), handed out quantum by quantum.

    Each task has `floor` quanta first; then each quantum goes to whoever has least of its due. What is no
    whole quantum goes last. With fewer quanta than the floors take, all get the same.
    """
    if total < len(weights) * floor * quantum:
        return even(total, list(weights))
    whole = math.fsum(weights.values())
    held = dict.fromkeys(weights, floor * quantum)
    left = total - sum(held.values())
    while left > 0:
        neediest = max(held, key=lambda label: total * (weights[label] / whole) - held[label])
        gift = min(quantum, left)
        held[neediest] += gift
        left -= gift
    return held


def spread(updates: Sequence[Tensor]) -> float:
    """mean_i ||D_i − D̄||² / ||D̄||² of updates D_i (d,); infinite where they cancel out, 0 where all are 0."""
    stacked = torch.stack([update.double() for update in updates])
    mean = stacked.mean(0)
    around = float((stacked - mean).square().sum(1).mean())
    squared = float(mean.square().sum())
    return around / squared if squared > 0.0 else (math.inf if around > 0.0 else 0.0)


def difficulty(updates: Sequence[Tensor], rate: float, server_rate: float, steps: float) -> float:
    """v_m of one task.

    Args:
        updates: (d,) each, of which the last `WINDOW` count.
        rate, server_rate: η_l and η_g; steps: τ, local steps.
    """
    return rate * server_rate * spread(updates[-WINDOW:]) / (rate * steps) ** 2
