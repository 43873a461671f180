"""FedBuff against synchronous rounds with over-selection: Huba et al. (Papaya), MLSys 2022; Nguyen et al.,
AISTATS 2022."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from reproductions.study import Bar, Figures, Found, Outcome, Study, Variant

AT_ONCE = (13, 52, 130, 260)
"""Clients that train at the same time."""
OVER = 1.3


def measure(outcome: Outcome) -> Figures:
    """What it took to reach the target, how stale updates were, and uploads per device by its speed."""
    reached, schedule = outcome.metrics["reached"], outcome.metrics["schedule"]
    found = reached or {"seconds": float("nan"), "uploads": float("nan")}
    return {
        "seconds": found["seconds"],
        "uploads": found["uploads"],
        "staleness": schedule["mean_staleness"] if schedule else 0.0,
        "deciles": outcome.metrics["traffic"]["deciles"],
    }


def seconds(figures: Figures) -> float:
    return float(figures["seconds"])


def uploads(figures: Figures) -> float:
    return float(figures["uploads"])


def staleness(figures: Figures) -> float:
    return float(figures["staleness"])


def slowest(figures: Figures) -> float:
    """Uploads of a device of the slowest tenth, as a share of those of the average device."""
    deciles = figures["deciles"]
    return float(deciles[-1] * len(deciles) / sum(deciles))


def _sync(at_once: int) -> str:
    return f"synchronous, {at_once} at once"


def _async(at_once: int) -> str:
    return f"FedBuff, {at_once} at once"


def ratios(found: Found, at_once: int, figure: Callable[[Figures], float]) -> tuple[float, ...]:
    """Synchronous over asynchronous, seed by seed."""
    pairs = zip(found[_sync(at_once)], found[_async(at_once)], strict=True)
    return tuple(figure(one) / figure(other) for one, other in pairs)


def growth(found: Found, figure: Callable[[Figures], float]) -> tuple[float, ...]:
    """By how much the ratio grows from one number of clients to the next, at least; seed by seed."""
    runs = zip(*(ratios(found, at_once, figure) for at_once in AT_ONCE), strict=True)
    return tuple(min(after / before for before, after in itertools.pairwise(one)) for one in runs)


def bars(found: Found) -> list[Bar]:
    needed = {130: (5.0, 3.5), 260: (8.0, 5.0)}
    papers = "5 near 100 million devices", "8 near 100 million devices"
    return [
        *(
            Bar(f"{n} at once: times faster", ratios(found, n, seconds), papers[0], at_least=needed[n][0])
            for n in needed
        ),
        *(
            Bar(
                f"{n} at once: times fewer uploads",
                ratios(found, n, uploads),
                papers[1],
                at_least=needed[n][1],
            )
            for n in needed
        ),
        Bar("times faster: least growth from one column to the next", growth(found, seconds), at_least=1.0),
        Bar("times fewer uploads: least growth", growth(found, uploads), at_least=1.0),
        *(
            Bar(
                f"{n} at once: mean staleness over M / K",
                tuple(staleness(one) * 10 / n for one in found[_async(n)]),
                "1 by Little's law",
                at_least=0.85,
                at_most=1.15,
            )
            for n in (130, 260)
        ),
        Bar(
            "130 at once: uploads of the slowest tenth over the average, synchronous",
            tuple(slowest(one) for one in found[_sync(130)]),
            "slow clients are under-represented",
            at_most=0.1,
        ),
        Bar(
            "130 at once: the same, FedBuff",
            tuple(slowest(one) for one in found[_async(130)]),
            at_least=0.7,
        ),
    ]


STUDY = Study(
    name="fedbuff",
    title="FedBuff: Gaussian classes, 2,000 devices",
    paper="Huba et al., MLSys 2022: 5 times faster and 8 times fewer client updates than synchronous training"
    " with 30 % over-selection, near 100 million devices; Nguyen et al., AISTATS 2022: 3.3 times fewer trips",
    work="Softmax regression on ten Gaussian classes (32 features), 2,000 devices with 10 to 300 records"
    " (log-normal), Dirichlet 0.5; a trip takes 0.1 s + |N(0, 1)| s per 50 records, one draw per device; one"
    " epoch of batches of 32, learning rate 0.01. FedBuff: K = 10, weights (1 + s)^-1/2; synchronous: goal"
    " M / 1.3, the first to answer count. Until a test loss of 0.75",
    variants={
        **{
            _sync(n): Variant(
                (
                    "strategy.name=fedavg",
                    "strategy.options={}",
                    f"strategy.cohort={round(n / OVER)}",
                    f"strategy.over_selection={OVER}",
                    "strategy.evaluate_every=2",
                )
            )
            for n in AT_ONCE
        },
        **{_async(n): Variant((f"strategy.options.concurrency={n}",)) for n in AT_ONCE},
    },
    seeds=(0, 1, 2),
    data_seed="task.dataset.seed",
    measure=measure,
    columns={
        "virtual seconds": seconds,
        "uploads": uploads,
        "mean staleness": staleness,
        "slowest tenth / average": slowest,
    },
    digits={"virtual seconds": 0, "uploads": 0, "mean staleness": 1, "slowest tenth / average": 2},
    bars=bars,
    notes=(
        "Calls that were broken off count as no upload. Time is virtual: no result depends on the machine.",
    ),
)
