"""FedProx on synthetic(1, 1) with stragglers: Li et al., MLSys 2020, figure 1 and its 22 points."""

from __future__ import annotations

import statistics

from reproductions.study import Bar, Figures, Found, Outcome, Study, Variant, paired

LAST, TAIL = 10, 30
"""Rounds over which accuracy and loss are averaged, and over which the spread is taken."""

DROP = ("strategy.local_rule=fedavg", "clients.stragglers.partial=false")


def measure(outcome: Outcome) -> Figures:
    """Accuracy and loss per round, on the test records of all users."""
    return {"accuracy": outcome.history("accuracy"), "loss": outcome.history("loss")}


def accuracy(figures: Figures) -> float:
    return float(statistics.fmean(figures["accuracy"][-LAST:]))


def loss(figures: Figures) -> float:
    return float(statistics.fmean(figures["loss"][-LAST:]))


def spread(figures: Figures) -> float:
    return float(statistics.stdev(figures["accuracy"][-TAIL:]))


def _ratio(found: Found) -> tuple[float, ...]:
    pairs = zip(found["90 %: FedAvg, drops"], found["90 %: FedProx mu = 1"], strict=True)
    return tuple(spread(one) / spread(other) for one, other in pairs)


def bars(found: Found) -> list[Bar]:
    average, kept, prox = "90 %: FedAvg, drops", "90 %: FedProx mu = 0", "90 %: FedProx mu = 1"
    return [
        Bar(
            "90 %: accuracy of mu = 1 over FedAvg",
            paired(found, prox, average, accuracy),
            "0.22, the mean over five data sets",
            at_least=0.05,
        ),
        Bar("90 %: FedAvg's spread over that of mu = 1", _ratio(found), "plotted", at_least=4.0),
        Bar("90 %: loss of mu = 0 over mu = 1", paired(found, kept, prox, loss), "ordering", at_least=0.0),
        Bar("90 %: loss of FedAvg over mu = 0", paired(found, average, kept, loss), "ordering", at_least=0.0),
    ]


STUDY = Study(
    name="fedprox",
    title="FedProx: stragglers on synthetic(1, 1)",
    paper="Li et al., MLSys 2020: at 90 % stragglers, 22 points more test accuracy than FedAvg (mean of five"
    " data sets, each read when it has converged); less variance with mu > 0, and a lower loss",
    work="Softmax regression, 30 users, 10 per round, 20 epochs of batches of 10, learning rate 0.01, 100"
    " rounds (paper: 200); of a round's users 0, 50 or 90 % do 1 to 19 epochs only, or are dropped"
    " (FedAvg). Accuracy and loss: means over the last 10 rounds, on all users' test records; spread:"
    " standard deviation of the accuracy over the last 30. Data and run have the same seed",
    variants={
        "0 %: FedAvg": Variant(("clients.stragglers.fraction=0.0", "strategy.local_rule=fedavg")),
        "0 %: FedProx mu = 1": Variant(("clients.stragglers.fraction=0.0",)),
        **{
            f"{percent} %: {name}": Variant((f"clients.stragglers.fraction={percent / 100}", *changes))
            for percent in (50, 90)
            for name, changes in {
                "FedAvg, drops": DROP,
                "FedProx mu = 0": ("strategy.local_rule.mu=0.0",),
                "FedProx mu = 1": (),
            }.items()
        },
    },
    seeds=(0, 1, 2),
    data_seed="task.dataset.seed",
    measure=measure,
    columns={"accuracy": accuracy, "spread": spread, "loss": loss},
    digits={"spread": 4},
    bars=bars,
    notes=("FedProx with mu = 0 is FedAvg that keeps what stragglers get done.",),
)
