"""FedBuff against synchronous rounds on Fashion-MNIST: Huba et al. (Papaya), MLSys 2022."""

from __future__ import annotations

from reproductions.fedbuff import measure, seconds, slowest, staleness, uploads
from reproductions.study import Bar, Figures, Found, Study, Variant

SYNC, ASYNC = "synchronous, 200 at once", "FedBuff, 200 at once"


def _times(found: Found, figure: str) -> tuple[float, ...]:
    return tuple(float(a[figure]) / float(b[figure]) for a, b in zip(found[SYNC], found[ASYNC], strict=True))


def _stale(figures: Figures) -> float:
    return staleness(figures) * 10 / 200


def bars(found: Found) -> list[Bar]:
    return [
        Bar("times faster to 80 %", _times(found, "seconds"), "5 near 100 million devices", at_least=4.0),
        Bar("times fewer uploads", _times(found, "uploads"), "8 near 100 million devices"),
        Bar("mean staleness over M / K", tuple(map(_stale, found[ASYNC])), "1 by Little's law"),
        Bar("uploads of the slowest tenth over the average, synchronous", tuple(map(slowest, found[SYNC]))),
        Bar("the same, FedBuff", tuple(map(slowest, found[ASYNC]))),
    ]


STUDY = Study(
    name="fedbuff_fashion",
    title="FedBuff: Fashion-MNIST, 1,000 devices",
    paper="as above",
    work="ConvNet (8 channels, two convolutions) on Fashion-MNIST, 1,000 devices, Dirichlet 0.5, of which 200"
    " train at once; a trip takes 0.1 s + |N(0, 1)| s per 50 records, one draw per device; one epoch of"
    " batches of 16, learning rate 0.05. FedBuff: K = 10, weights (1 + s)^-1/2; synchronous: goal 154, the"
    " first to answer count. Until 80 % test accuracy, tested every 10 models (synchronous: every second)",
    variants={
        SYNC: Variant(
            (
                "strategy.name=fedavg",
                "strategy.options={}",
                "strategy.cohort=154",
                "strategy.over_selection=1.2987",
                "strategy.evaluate_every=2",
            )
        ),
        ASYNC: Variant(),
    },
    seeds=(0, 1, 2),
    measure=measure,
    columns={
        "virtual seconds": seconds,
        "uploads": uploads,
        "mean staleness": staleness,
        "slowest tenth / average": slowest,
    },
    digits={"virtual seconds": 0, "uploads": 0, "mean staleness": 1, "slowest tenth / average": 2},
    bars=bars,
)
