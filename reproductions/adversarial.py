"""Federated adversarial training against PGD-20: Li, Song, Yang, ICML 2023."""

from __future__ import annotations

from fedlab.tasks.adversarial import robust_accuracy
from reproductions.study import Bar, Figures, Found, Outcome, Study, Variant, paired

RADII = (0.1, 0.2)
"""ρ of the training and of the attack, of pixels in [0, 1]."""

WHO = {"IID": (), "Dirichlet": ("clients.partition=dirichlet", "clients.partition.alpha=0.5")}


def measure(outcome: Outcome) -> Figures:
    """Accuracy on clean test images, and under PGD-20 with each radius."""
    setup = outcome.setup
    robust = {
        f"robust {rho}": robust_accuracy(
            setup.model, outcome.state, setup.task.loss, setup.task.test, setup.scenario.seeds[0], rho=rho
        )
        for rho in RADII
    }
    return {"clean": outcome.metrics["accuracy"], **robust}


def bars(found: Found) -> list[Bar]:
    made = []
    for who in WHO:
        for rho in RADII:
            trained, plain = f"{who}: FAL, rho = {rho}", f"{who}: FedAvg"
            robust = paired(found, trained, plain, lambda one, rho=rho: one[f"robust {rho}"])  # type: ignore[misc]
            made.append(
                Bar(
                    f"{who}: accuracy of FAL over FedAvg under PGD-20, rho = {rho}",
                    robust,
                    "convergence proved",
                    at_least=0.2,
                )
            )
            clean = paired(found, plain, trained, lambda one: float(one["clean"]))
            made.append(Bar(f"{who}: clean accuracy of FedAvg over FAL, rho = {rho}", clean))
    return made


STUDY = Study(
    name="adversarial",
    title="FAL: federated adversarial training on digits",
    paper="Li, Song, Yang, ICML 2023: the robust loss converges, for two-layer ReLU networks and"
    " separable data (no accuracy stated)",
    work="digits, MLP 64-64-64-10, 10 clients (IID, or Dirichlet(0.5)), 2 epochs of batches of 16, learning"
    " rate 0.1, 60 rounds; training with 7 steps of ρ/4, attack with 20 steps of ρ/8 from another random"
    " start, on all test images",
    variants={
        f"{who}: {name}": Variant((*where, *changes))
        for who, where in WHO.items()
        for name, changes in {
            "FedAvg": ("strategy.local_rule=fedavg",),
            **{
                f"FAL, rho = {rho}": (
                    f"strategy.local_rule.rho={rho}",
                    f"strategy.local_rule.alpha={rho / 4}",
                )
                for rho in RADII
            },
        }.items()
    },
    seeds=(0, 1, 2),
    measure=measure,
    columns={
        "clean": lambda one: float(one["clean"]),
        **{
            f"PGD-20, ρ = {rho}": lambda one, rho=rho: float(one[f"robust {rho}"])  # type: ignore[misc]
            for rho in RADII
        },
    },
    bars=bars,
    notes=(
        "After 30 rounds FAL was not trained yet: at ρ = 0.1 with Dirichlet clients it led by 19.8 points.",
    ),
)
