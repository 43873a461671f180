"""HyperFL and pFedHN with networks, partition and rounds of the papers' size; `make reproduce-full`."""

from __future__ import annotations

from reproductions.hypernetworks import Alone, accuracy, measure
from reproductions.study import Bar, Found, Study, Variant, paired

MOMENTUM = "clients.momentum=0.5"
STEPS = (  # Shamsian et al.: one client per step, 50 local steps of 64 records
    "strategy.name=pfedhn",
    "strategy.rounds=5000",
    "strategy.cohort=1",
    "strategy.evaluate_every=250",
    "clients.local_steps=50",
    "clients.batch_size=64",
    "clients.learning_rate=0.005",
    "clients.momentum=0.9",
    "clients.weight_decay=0.00005",
)


def bars(found: Found) -> list[Bar]:
    return [
        Bar(f"accuracy of {name} over {other}", paired(found, name, other, accuracy), "above", at_least=0.0)
        for name in ("HyperFL", "HyperFL + MIP", "pFedHN", "pFedHN-PC")
        for other in ("FedAvg", "alone")
    ]


STUDY = Study(
    name="hypernetworks_full",
    title="HyperFL and pFedHN on Fashion-MNIST, at the papers' size",
    paper="as above",
    work="Fashion-MNIST, ConvNet, 20 clients of 600 records, 80 % from three classes; HyperFL 64-128, 200"
    " rounds of 6 epochs, batches of 50, learning rate 0.02; pFedHN with three hidden layers of 100, 5000"
    " steps of one client",
    variants={
        "FedAvg": Variant(("strategy.local_rule=fedavg", MOMENTUM)),
        "alone": Variant(("strategy.local_rule=fedavg", MOMENTUM), Alone),
        "HyperFL": Variant(),
        "HyperFL + MIP": Variant(("strategy.local_rule.mip=true",)),
        "pFedHN": Variant(("strategy.local_rule=fedavg", *STEPS)),
        "pFedHN-PC": Variant(
            ("strategy.local_rule=personal-head", *(one.replace("=pfedhn", "=pfedhn-pc") for one in STEPS))
        ),
    },
    seeds=(0, 1, 2),
    measure=measure,
    columns={"accuracy": accuracy},
    bars=bars,
)
