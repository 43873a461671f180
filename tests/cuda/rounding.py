"""How far a client's update in float32 may lie from the same in float64, whichever device adds it up.

With u = 2^-24. A coordinate of a gradient is a chain of 2L sums, forward and back through L layers, of at
most n products each. Summed in blocks, as every BLAS and cuDNN kernel does, one has an error of about
u log2(n) of the summands' norm (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.3);
the chain has 2 L u log2(n). Storing the parameters after each of T steps rounds by u |w| in each
coordinate, independently: sqrt(T) u ||w|| together. Relative to the update's norm,

    u (2 L log2(n) + sqrt(T) ||w|| / ||update||),

and 8 times that for what norms, momentum and the loss add. TF32 has u = 2^-11 in the products: 8192 times
as much, of which blocked sums take nothing off, since it is the factors that are rounded.
"""

from __future__ import annotations

import math

import torch

from fedlab.tasks import State

UNIT = 2.0**-24
SAFETY = 8.0


def norm(state: State) -> float:
    """L2 norm over all tensors."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in state.values()))


def difference(one: State, other: State) -> State:
    """one - other, in float64 on the CPU."""
    return {name: value.cpu().double() - other[name].cpu().double() for name, value in one.items()}


def bound(weights: State, update: State, *, layers: int, terms: int, steps: int) -> float:
    """The largest relative distance of two updates that differ in how their sums are rounded."""
    stored = math.sqrt(steps) * norm(weights) / norm(update)
    return SAFETY * UNIT * (2 * layers * math.log2(terms) + stored)


def distance(update: State, reference: State) -> float:
    """||update - reference|| / ||reference||."""
    return norm(difference(update, reference)) / norm(reference)


def as_tf32(state: State) -> State:
    """Rounded to 10 bits of mantissa, as a tensor core rounds what it multiplies."""
    found = {}
    for name, value in state.items():
        mantissa, exponent = torch.frexp(value.float())
        found[name] = torch.ldexp(torch.round(mantissa * 2**11) / 2**11, exponent)
    return found
