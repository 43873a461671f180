"""HyperFL, pFedHN and MIP at the small size, on Fashion-MNIST."""

from __future__ import annotations

from reproductions.hypernetworks import (
    COMMON,
    MOMENTUM,
    OPTIONS,
    PFEDHN,
    TWO,
    accuracy,
    last_loss,
    measure,
    rounds_to,
)
from reproductions.study import Bar, Found, Study, Variant, paired

SMALL = ("task.dataset.limit=1200",)
"""For partitions that share out all records."""

MIP = ("strategy.local_rule.mip=true",)


def bars(found: Found) -> list[Bar]:
    steps = [
        tuple(
            float(rounds_to(one, last_loss(plain)))
            for one, plain in zip(found[f"dominant: {name}"], found["dominant: HyperFL"], strict=True)
        )
        for name in ("HyperFL", "HyperFL + MIP")
    ]
    orders = [
        Bar(
            f"accuracy of {where}: {name} over {other}",
            paired(found, f"{where}: {name}", f"{where}: {other}", accuracy),
            "above",
            at_least=0.0,
        )
        for where, names in {
            "dominant": ("HyperFL", "HyperFL + MIP"),
            "two classes": ("HyperFL", "HyperFL + MIP", *PFEDHN),
        }.items()
        for name in names
        for other in ("FedAvg", "alone")
    ]
    return [
        *orders,
        Bar(
            "evaluations until HyperFL's last loss: MIP's as a share of HyperFL's",
            tuple(b / a for a, b in zip(*steps, strict=True)),
            "fewer steps",
            at_most=1.0,
        ),
    ]


STUDY = Study(
    name="hypernetworks_fashion",
    title="HyperFL, pFedHN and MIP on Fashion-MNIST",
    paper="as on digits",
    work="Fashion-MNIST (the first 3,000 images of each half), MLP 784-16-10 (12,560 in the extractor),"
    " 20 clients: 60 records each, 80 % from three classes (dominant), or two classes each (of 1,200"
    " images); 20 rounds of 6 epochs, batches of 10, learning rate 0.02 (momentum 0.5). HyperFL:"
    " hypernetwork 16-16; pFedHN: 8-32, all clients in each round, the server's learning rate 0.02."
    " Accuracy as on digits, tested every five rounds",
    variants={
        **{f"dominant: {name}": variant for name, variant in COMMON.items()},
        "dominant: HyperFL": Variant(),
        "dominant: HyperFL + MIP": Variant(MIP),
        **{
            f"two classes: {name}": Variant((*SMALL, *TWO, *one.changes), one.rule)
            for name, one in COMMON.items()
        },
        "two classes: HyperFL": Variant((*SMALL, *TWO)),
        "two classes: HyperFL + MIP": Variant((*SMALL, *TWO, *MIP)),
        **{
            f"two classes: {name}": Variant(
                (*SMALL, *TWO, MOMENTUM, f"strategy.local_rule={rule}", f"strategy.name={strategy}", OPTIONS)
            )
            for name, (strategy, rule) in PFEDHN.items()
        },
    },
    seeds=(0, 1, 2),
    measure=measure,
    columns={"accuracy": accuracy, "last loss": last_loss},
    bars=bars,
)
