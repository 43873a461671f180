"""Which privacy mechanism really acts on the updates, whatever the code around them claims.

A mod that was written and never wired in, noise that is added after aggregation, a clip that NaN walks
through: in public projects what is claimed and what runs differ. Here nothing is read but what arrives at the
server. Each mechanism leaves a trace that ordinary training does not leave:

- a norm bound: several updates have the same norm, and none has a larger one;
- noise: the quietest rows all move alike, and independently of each other (`fedlab.audit.acting_noise`);
- sparsity, signs, quantisation: zeros without a cause, one magnitude, few distinct values
  (`fedlab.audit.acting_values`);
- sums only: no reply of a single client can be seen.

A trace is evidence that something acts, and proves no guarantee: what noise is worth, an accountant says. No
trace is no proof that nothing acts: a bound that nobody reached leaves none. Where a trace could not have
been seen, the answer is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from fedlab.audit.acting_noise import NAME as NOISE
from fedlab.audit.acting_noise import noise
from fedlab.audit.acting_sign import Sign
from fedlab.audit.acting_values import QUANTISATION, SIGNS, SPARSITY, quantisation, sign, sparsity
from fedlab.audit.observation import Observation
from fedlab.errors import UsageError
from fedlab.tasks import State

SHARE = 0.25
"""Part of the updates that has to stand at the bound."""
ALIKE = 1e-3
"""Updates nearer to each other than this part of their norm are the same one, sent twice."""
COARSE = 1e-3
"""Rounding of a norm, relative, from which equal norms say nothing."""


def signs(observations: Sequence[Observation], *, plain: bool = True) -> tuple[Sign, ...]:
    """Judge the updates of one training: the norm bound, noise, sparsity, signs, quantisation, sums, NaN.

    Args:
        observations: updates of one network, by as many clients and rounds as there are; three or more
            clients of one round tell most. The order does not matter.
        plain: whether clients are known to step with SGD. Adam and its like move all coordinates alike,
            small gradients and large ones, which leaves the traces of noise, of signs, of a lattice and of
            small entries left out.

    Raises:
        UsageError: no observation, or such of different networks.
    """
    if not observations:
        raise UsageError("no update to judge; expected at least one observation")
    shapes = [{name: v.shape for name, v in one.update.items()} for one in observations]
    odd = next((one for one, shape in zip(observations, shapes, strict=True) if shape != shapes[0]), None)
    if odd is not None:
        raise UsageError(
            f"client {odd.client} in round {odd.round} sent other parameters than client"
            f" {observations[0].client} in round {observations[0].round}; expected updates of one network"
        )
    sound = sorted((one for one in observations if _sound(one)), key=lambda one: (one.round, one.client))
    judges: Sequence[Callable[[Sequence[Observation]], Sign]]
    judges = (norm_bound, noise, sparsity, sign, quantisation)
    found = [judge(sound) for judge in judges]
    if not plain:
        found = [_excused(one) for one in found]
    return (*found, sums_only(observations), finite(observations))


def _excused(one: Sign) -> Sign:
    """A trace that an adaptive optimizer leaves as well."""
    if not (one.acts and one.name in (NOISE, SIGNS, SPARSITY, QUANTISATION)):
        return one
    words = (
        f"{one.words}; but clients are not known to step with plain SGD, and Adam leaves this trace as well"
    )
    return replace(one, acts=None, words=words)


def as_json(observations: Sequence[Observation], *, plain: bool = True, refused: str = "") -> dict[str, Any]:
    """What `acting.json` of a run directory holds.

    Args:
        refused: what a guard in front of the server said of an update that is no number, and is not among the
            observations; "" if there was none.
    """
    found = list(signs(observations, plain=plain))
    if refused and found[-1].acts is None:
        words = f"one that is no number was stopped by fedlab alone; plain Flower would take it: {refused}"
        found[-1] = Sign(found[-1].name, False, 1.0, words)
    return {
        "schema_version": 1,
        "updates": len(observations),
        "clients": len({one.client for one in observations}),
        "rounds": len({one.round for one in observations}),
        "signs": [asdict(one) for one in found],
    }


def alike(observations: Sequence[Observation]) -> list[Observation]:
    """Those whose updates have the names and shapes of the first one's: what `signs` can compare."""
    shapes = [{name: value.shape for name, value in one.update.items()} for one in observations]
    return [one for one, shape in zip(observations, shapes, strict=True) if shape == shapes[0]]


def norm_bound(observations: Sequence[Observation]) -> Sign:
    """Whether several different updates share the largest norm; the figure is that norm.

    Statistics of batch norm may be clipped along with the parameters, and a bound may change from round to
    round: each is tried.
    """
    name = "norm bound"
    if len(observations) < 2:
        return Sign(name, None, None, "fewer than two updates: norms cannot be compared")
    rounds = [[one for one in observations if one.round == r] for r in {one.round for one in observations}]
    best, top, coarse = 0, 0.0, True
    for moved in (_parameters, _everything):
        for groups in ([list(observations)], rounds):
            counts = [_at_the_top([moved(one) for one in group], group) for group in groups]
            together = sum(count for count, _, _ in counts if count > 1)
            coarse = coarse and all(rough for _, _, rough in counts)
            if together > best or not top:
                best, top = together, max(norm for _, norm, _ in counts)
    total = len(observations)
    if coarse:
        return Sign(name, None, top, "the updates are so small that rounding hides whether norms are equal")
    if best >= max(2, SHARE * total):
        return Sign(name, True, top, f"{best} of {total} updates have exactly the largest norm, {top:.4g}")
    words = f"norms differ, up to {top:.4g}: no bound was reached by several of {total} updates"
    return Sign(name, False, top, words)


def sums_only(observations: Sequence[Observation]) -> Sign:
    """Whether the server sees no single client's update; the figure: clients of the smallest sum."""
    name, fewest = "sums only", min(max(1, len(one.parts)) for one in observations)
    if fewest > 1:
        return Sign(name, True, float(fewest), f"the server sees sums of at least {fewest} clients' updates")
    return Sign(name, False, 1.0, "the server sees each client's own update")


def finite(observations: Sequence[Observation]) -> Sign:
    """Whether an update that is no number came through; the figure is how many did."""
    name, bad = "only finite numbers", sum(not _finite(one) for one in observations)
    if bad:
        words = (
            f"{bad} of {len(observations)} updates hold NaN or infinity: whatever limits updates,"
            " these walked through"
        )
        return Sign(name, False, float(bad), words)
    return Sign(name, None, 0.0, "every update was finite, so that nothing had to be stopped")


def _sound(one: Observation) -> bool:
    return _finite(one) and _moves(one)


def _moves(observation: Observation) -> bool:
    """Whether any parameter changed."""
    return any(bool(value.any()) for value in observation.update.values())


def _finite(one: Observation) -> bool:
    return all(bool(value.isfinite().all()) for value in one.update.values())


def _parameters(one: Observation) -> State:
    return one.update


def _everything(one: Observation) -> State:
    """The update, and the change of the statistics."""
    changed = {
        f"buffer {name}": value.double() - one.buffers_before[name].double()
        for name, value in one.buffers_after.items()
        if name in one.buffers_before
    }
    return {**one.update, **changed}


def _at_the_top(moved: Sequence[State], group: Sequence[Observation]) -> tuple[int, float, bool]:
    """How many different updates share the largest norm; that norm; whether it is too coarse to say."""
    norms = [_norm(one) for one in moved]
    top = max(norms)
    error = max(torch.finfo(torch.float32).eps * _norm(one.before) for one in group)
    slack = 1e-6 * top + error
    shared: list[State] = []
    for one, norm in zip(moved, norms, strict=True):
        if top - norm <= slack and all(_distance(one, other) > ALIKE * top for other in shared):
            shared.append(one)
    return len(shared), top, slack > COARSE * top


def _norm(state: State) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in state.values()))


def _distance(one: State, other: State) -> float:
    return _norm({name: value.double() - other[name].double() for name, value in one.items()})
