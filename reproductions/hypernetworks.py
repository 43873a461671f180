"""HyperFL and pFedHN against FedAvg and local training, and MIP against the scale of embeddings."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedlab.clients import LocalRule
from fedlab.clients.rules.hyperfl import EMBEDDING, HyperFL
from fedlab.tasks import State
from reproductions.study import Bar, Figures, Found, Outcome, Study, Variant, paired

SCALES = (0.1, 1.0, 10.0)
MOMENTUM = "clients.momentum=0.5"
OPTIONS = "strategy.options={ embedding = 8, hidden = [32], learning_rate = 0.02 }"
TWO = ("clients.partition=classes", "clients.partition.per_client=2")
"""pFedHN's partition."""

PFEDHN = {"pFedHN": ("pfedhn", "fedavg"), "pFedHN-PC": ("pfedhn-pc", "personal-head")}
"""Strategy and local rule."""


class Alone(LocalRule):
    """Every client for itself: nothing travels but a number that nobody uses."""

    def network(self, factory: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        return functools.partial(_beside, factory)

    def personal(self, parameters: State, generator: torch.Generator) -> State:
        return {name: value.clone() for name, value in parameters.items() if name != "spare"}


class _Beside(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.spare = net, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.net(x)
        return outputs


def _beside(factory: Callable[[], nn.Module]) -> nn.Module:
    return _Beside(factory())


class Scaled(HyperFL):
    """HyperFL whose embeddings begin `scale` times as long."""

    def __init__(self, scale: float, mip: bool) -> None:
        super().__init__(embedding=16, hidden=32, mip=mip)
        self.scale = scale

    def personal(self, parameters: State, generator: torch.Generator) -> State:
        own = super().personal(parameters, generator)
        return own | {EMBEDDING: self.scale * own[EMBEDDING]}


def scaled(scale: float, mip: bool) -> str:
    return f"dominant: HyperFL{' + MIP' if mip else ''}, embeddings x {scale:g}"


def measure(outcome: Outcome) -> Figures:
    """Accuracy on each client's own mix of labels (mean over clients), and personal models' loss per round.

    FedAvg has one model for all, whose loss is of another mixture and not kept.
    """
    rows = outcome.metrics["per_client"]
    losses = outcome.history("loss") if "loss" in rows[0] else []
    return {"accuracy": statistics.fmean(row["accuracy"] for row in rows), "loss": losses}


def accuracy(figures: Figures) -> float:
    return float(figures["accuracy"])


def last_loss(figures: Figures) -> float:
    return float(figures["loss"][-1]) if figures["loss"] else float("nan")


def rounds_to(figures: Figures, target: float) -> int:
    """The first round whose loss is at most `target`; one more than there are, if none is."""
    losses = figures["loss"]
    return next((n for n, loss in enumerate(losses, start=1) if loss <= target), len(losses) + 1)


def spread(found: Found, mip: bool) -> tuple[float, ...]:
    """Per seed: standard deviation over the scales of log10 of the last loss."""
    runs = zip(*(found[scaled(scale, mip)] for scale in SCALES), strict=True)
    return tuple(statistics.stdev(math.log10(last_loss(one)) for one in same) for same in runs)


def bars(found: Found) -> list[Bar]:
    plain, mip = scaled(1.0, False), scaled(1.0, True)
    targets = [last_loss(one) for one in found[plain]]
    steps = [
        tuple(float(rounds_to(one, target)) for one, target in zip(found[name], targets, strict=True))
        for name in (plain, mip)
    ]
    rivals = {
        "dominant": (plain, mip),
        "two classes": tuple(f"two classes: {name}" for name in ("HyperFL", "HyperFL + MIP", *PFEDHN)),
    }
    orders = [
        Bar(
            f"accuracy of {name} over {other}",
            paired(found, name, f"{where}: {other}", accuracy),
            "above",
            at_least=0.0,
        )
        for where, names in rivals.items()
        for name in names
        for other in ("FedAvg", "alone")
    ]
    return [
        *orders,
        Bar("rounds until HyperFL's last loss: HyperFL", steps[0]),
        Bar(
            "rounds until HyperFL's last loss: MIP's as a share of HyperFL's",
            tuple(b / a for a, b in zip(*steps, strict=True)),
            "fewer steps",
            at_most=1.0,
        ),
        Bar(
            "spread of the last loss over embedding scales: MIP's over HyperFL's",
            tuple(b / a for a, b in zip(spread(found, False), spread(found, True), strict=True)),
            "less",
            at_most=1.0,
        ),
    ]


COMMON = {
    "FedAvg": Variant(("strategy.local_rule=fedavg", MOMENTUM)),
    "alone": Variant(("strategy.local_rule=fedavg", MOMENTUM), Alone),
}

STUDY = Study(
    name="hypernetworks",
    title="HyperFL, pFedHN and MIP on digits",
    paper="Guo et al., AAAI 2025: HyperFL above all private baselines and comparable to FedAvg; Shamsian et"
    " al., ICML 2021: pFedHN 90.8 against FedAvg's 51.4 on CIFAR-10 with 10 clients of 2 classes; Ortiz"
    " et al., ICLR 2024: MIP stabilises and speeds up training in every ablation",
    work="digits, MLP 64-32-10 (extractor of 2,080 parameters), 20 clients: 60 records each, 80 % from three"
    " classes (dominant), or two classes each; 30 rounds of 6 epochs, batches of 10, learning rate 0.05"
    " (momentum 0.5). HyperFL: hypernetwork 16-32; pFedHN: 8-32, all clients in each round, the server's"
    " learning rate 0.02. Accuracy: on the test records in each client's own mix of labels, mean over"
    " clients; alone: clients that exchange nothing",
    variants={
        **{f"dominant: {name}": variant for name, variant in COMMON.items()},
        **{
            scaled(scale, mip): Variant((), functools.partial(Scaled, scale, mip))
            for mip in (False, True)
            for scale in SCALES
        },
        **{f"two classes: {name}": Variant((*TWO, *one.changes), one.rule) for name, one in COMMON.items()},
        "two classes: HyperFL": Variant(TWO),
        "two classes: HyperFL + MIP": Variant((*TWO, "strategy.local_rule.mip=true")),
        **{
            f"two classes: {name}": Variant(
                (*TWO, MOMENTUM, f"strategy.local_rule={rule}", f"strategy.name={strategy}", OPTIONS)
            )
            for name, (strategy, rule) in PFEDHN.items()
        },
    },
    seeds=(0, 1, 2),
    measure=measure,
    columns={"accuracy": accuracy, "last loss": last_loss},
    bars=bars,
    notes=(
        "A round of HyperFL sends the hypernetwork: 32 hidden units times the extractor, some 33 times"
        " FedAvg's bytes.",
    ),
)
