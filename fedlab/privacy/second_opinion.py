"""ε of the same history by another library: Google's dp-accounting beside Opacus.

PLD: Koskela, Jälkö, Honkela (AISTATS 2020, https://arxiv.org/abs/1906.03049), rounded to the safe side as by
Doroshenko, Ghazi, Kamath, Kumar, Manurangsi (PETS 2022, https://arxiv.org/abs/2207.04380): an upper estimate,
and the tightest here. RDP: Mironov, Talwar, Zhang (https://arxiv.org/abs/1908.10530). Both under add-or-
remove adjacency, as Opacus'. The two libraries share no code, so that a slip in one shows as a difference:

- at equal orders both RDPs are the same formula, and must agree to rounding;
- an ε that was given must lie between PLD, which is tight, and RDP, which is loose.

Beyond `PRV_REACH` only the first is looked at: PLD then takes minutes, and says nothing that matters.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from fedlab.privacy.accountants import PRV_REACH, History, Steps, prv_epsilon, rdp_epsilon

TOLERANCE = (0.02, 0.01)
"""By how much accountants may differ: absolute, and as a share of ε. PRV adds 0.01 to its ε by design."""
SAME = 1e-6
"""By how much, relatively, both RDPs may differ at the same orders."""
ORDERS = tuple(float(order) for order in range(2, 64))
"""Whole orders, which both libraries sum up exactly."""
DELTAS = tuple(10.0**-power for power in range(3, 10))
"""Of the curve ε(δ), beside the δ that was asked for."""


@dataclass(frozen=True)
class Opinion:
    """What one accountant of one library says of a history."""

    accountant: str
    epsilon: float


def history_of(steps: Steps) -> History:
    """Steps in the one order in which equal ones look equal."""
    return tuple((sigma, rate, count) for (sigma, rate), count in sorted(steps.items()) if count > 0)


def rdp(history: History, delta: float, orders: Sequence[float] | None = None) -> float:
    """dp-accounting's ε by Rényi accounting, at its own orders unless given."""
    return _account(history, delta, "rdp", None if orders is None else tuple(orders))


def pld(history: History, delta: float) -> float:
    """dp-accounting's ε by privacy loss distributions (upper estimate)."""
    return _account(history, delta, "pld", None)


def opinions(history: History, delta: float) -> tuple[Opinion, ...]:
    """What both libraries say, from the loosest to the tightest; those that reach so far."""
    steps = {(sigma, rate): count for sigma, rate, count in history}
    opacus, other = f"opacus {version('opacus')}", f"dp-accounting {version('dp-accounting')}"
    loose = rdp_epsilon(steps, delta)
    said = [Opinion(f"RDP ({opacus})", loose), Opinion(f"RDP ({other})", rdp(history, delta))]
    if loose <= PRV_REACH:
        with contextlib.suppress(ValueError, MemoryError, OverflowError):
            said.append(Opinion(f"PRV ({opacus})", prv_epsilon(steps, delta)))
        said.append(Opinion(f"PLD ({other})", pld(history, delta)))
    return tuple(said)


def agrees(epsilon: float, history: History, delta: float) -> bool:
    """Whether the ε that was given for this history stands between dp-accounting's PLD and Opacus' RDP, and
    both libraries' RDPs are the same."""
    steps = {(sigma, rate): count for sigma, rate, count in history}
    loose = rdp_epsilon(steps, delta)
    mine, theirs = rdp_epsilon(steps, delta, ORDERS), rdp(history, delta, ORDERS)
    if not math.isclose(mine, theirs, rel_tol=SAME, abs_tol=SAME):
        return False
    if loose > PRV_REACH:
        return epsilon <= loose * (1.0 + SAME)
    tight, (absolute, relative) = pld(history, delta), TOLERANCE
    return (1.0 - relative) * tight - absolute <= epsilon <= (1.0 + relative) * loose + absolute


def curve(history: History, delta: float) -> tuple[tuple[float, float], ...]:
    """(δ, ε) by PLD where it reaches, else by Opacus' RDP; δ falls, and the one given is among them."""
    steps = {(sigma, rate): count for sigma, rate, count in history}
    near = rdp_epsilon(steps, delta) <= PRV_REACH
    return tuple(
        (one, pld(history, one) if near else rdp_epsilon(steps, one))
        for one in sorted({*DELTAS, delta}, reverse=True)
    )


@lru_cache(maxsize=4096)
def _account(history: History, delta: float, name: str, orders: tuple[float, ...] | None) -> float:
    live = [(sigma, rate, count) for sigma, rate, count in history if count > 0 and rate > 0.0]
    if not live:
        return 0.0
    if any(sigma <= 0.0 for sigma, _, _ in live):
        return math.inf
    with _silence():
        accountant = _composed(tuple(live), name, orders)
        return max(0.0, float(accountant.get_epsilon(delta)))


@lru_cache(maxsize=8)
def _composed(live: History, name: str, orders: tuple[float, ...] | None) -> Any:
    """An accountant of dp-accounting with these steps composed; any number of δ can be asked of it."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

    accountant: Any
    if name == "rdp":
        from dp_accounting.rdp import RdpAccountant

        accountant = RdpAccountant() if orders is None else RdpAccountant(orders=orders)
    else:
        from dp_accounting.pld import PLDAccountant

        accountant = PLDAccountant()
    for sigma, rate, count in live:
        step = GaussianDpEvent(sigma)
        accountant.compose(step if rate >= 1.0 else PoissonSampledDpEvent(rate, step), count)
    return accountant


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without its hints about orders that it leaves out: it takes the best of the others."""
    from absl import logging as absl_logging

    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        absl_logging.set_verbosity(before)
        logger.setLevel(level)
