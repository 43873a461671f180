"""Momentum in local steps, with and without control variates: Cheng et al., ICLR 2024."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import replace

from fedlab.experiment.evaluation import evaluate
from fedlab.tasks import Dataset
from fedlab.tasks.datasets.split import take
from reproductions.study import Bar, Figures, Found, Outcome, Study, Variant, paired

TIE = 0.002
"""Losses this close count as equal."""

RULES = {
    "FedAvg": ("fedavg", None),
    "FedAvg-M, beta = 0.5": ("fedavg-m", 0.5),
    "FedAvg-M, beta = 0.2": ("fedavg-m", 0.2),
    "FedAvg-M, beta = 0.1": ("fedavg-m", 0.1),
    "SCAFFOLD": ("scaffold", None),
    "SCAFFOLD-M, beta = 0.5": ("scaffold-m", 0.5),
    "SCAFFOLD-M, beta = 0.2": ("scaffold-m", 0.2),
    "SCAFFOLD-M-VR, beta = 0.2": ("scaffold-m-vr", 0.2),
    "FedAvg-M-VR, beta = 0.2": ("fedavg-m-vr", 0.2),
}
WHO = {"all": 30, "6 of 30": 6}


def measure(outcome: Outcome) -> Figures:
    """The objective: each client's mean training loss, averaged over clients."""
    setup = outcome.setup
    (owners,) = setup.owners.values()
    train = setup.task.train
    if not isinstance(train, Dataset):
        raise TypeError("the study's data are listed")
    losses = [
        evaluate(setup.model, replace(setup.task, test=take(train, ids)), outcome.state)[0] for ids in owners
    ]
    return {"loss": statistics.fmean(float("nan") if one is None else one for one in losses)}


def loss(figures: Figures) -> float:
    return float(figures["loss"])


def bars(found: Found) -> list[Bar]:
    order = ["FedAvg", *(f"FedAvg-M, beta = {beta}" for beta in (0.5, 0.2, 0.1))]
    falls = [
        Bar(
            f"all: loss of {worse} over {better}",
            paired(found, f"all: {worse}", f"all: {better}", loss),
            "ordering",
            at_least=-TIE,
        )
        for worse, better in itertools.pairwise(order)
    ]
    partial = [f"6 of 30: {name}" for name in RULES]
    best = min(partial, key=lambda name: statistics.fmean(map(loss, found[name])))
    drift = min((f"6 of 30: SCAFFOLD-M, beta = {beta}" for beta in (0.5, 0.2)), key=_mean(found))
    return [
        *falls,
        Bar(
            f"loss of {drift} over the best ({best.removeprefix('6 of 30: ')})",
            paired(found, drift, best, loss),
            "best, in the theory",
            at_most=0.006,
        ),
        Bar(
            "6 of 30: loss of FedAvg over SCAFFOLD-M",
            paired(found, "6 of 30: FedAvg", drift, loss),
            "ordering",
            at_least=0.0,
        ),
    ]


def _mean(found: Found) -> Callable[[str], float]:
    return lambda name: statistics.fmean(map(loss, found[name]))


STUDY = Study(
    name="momentum",
    title="Momentum: FedAvg-M, SCAFFOLD-M and their variance-reduced forms",
    paper="Cheng et al., ICLR 2024: with momentum, lower loss and higher accuracy at equal rounds, in"
    " full and in partial participation (its figures are plots)",
    work="Softmax regression on synthetic(1, 1), 30 users who count the same, 20 local steps of batches"
    " of 10, learning rate 0.02, server step K times that, 200 rounds; all users, or 6 of 30. Loss: mean"
    " over users of their training loss, after the last round. Data and run have the same seed, so that"
    " all variants meet the same data, batches and cohorts",
    variants={
        f"{who}: {name}": Variant(
            (
                f"strategy.cohort={cohort}",
                f"strategy.local_rule={rule}",
                *(() if beta is None else (f"strategy.local_rule.beta={beta}",)),
            )
        )
        for who, cohort in WHO.items()
        for name, (rule, beta) in RULES.items()
    },
    seeds=(0, 1, 2),
    data_seed="task.dataset.seed",
    measure=measure,
    columns={"loss": loss},
    digits={"loss": 4},
    bars=bars,
    notes=(
        "FedAvg-M-VR has FedAvg's fixed point whatever beta is, and needs a smaller learning rate; at"
        " this one it is expected behind FedAvg-M.",
    ),
)
