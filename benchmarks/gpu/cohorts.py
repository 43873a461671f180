"""Rounds of the shape of pfl-research's CIFAR-10 speed benchmark, through fedlab's whole runtime.

F. Granqvist et al.: pfl-research, NeurIPS 2024 (Datasets and Benchmarks), https://arxiv.org/abs/2404.06430:
1,000 users of 50 records, cohorts of 50, one local epoch in batches of 10, client learning rate 0.1, an
unweighted mean, server learning rate 1, a network of two convolutions (1,626,442 parameters), 1,500 rounds,
evaluated every 10 on 10,000 records.

Deviations: random records of CIFAR-10's shape, on which a step costs what it costs on pictures, so there is
no accuracy; the whole of it is not run but worked out from the seconds of a round and of an evaluation.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

import torch
from fedlab_defenses.privacy.private_gradients import PrivateRule
from fedlab_defenses.privacy.thresholds import Flat

from benchmarks.gpu.machine import peak_bytes, seconds
from benchmarks.harness import Row
from benchmarks.sides.fedlab_side import Federation
from benchmarks.work import WORKS, Work
from fedlab.clients import LocalRule
from fedlab.clients.stacking import Chunking
from fedlab.runtime import InlineExecutor

ROUNDS, EVALUATIONS = 1500, 150
"""Of the published benchmark."""
TEST = 10_000
"""Records of an evaluation."""
FORWARD = 1000
"""Of them at once."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        stacks: numbers of clients that are trained as one; 1 is one after the other.
        rounds: measured, after `warm_up` others in which steps are recorded.
        test: records of an evaluation.
    """

    work: Work
    stacks: tuple[int, ...]
    rounds: int
    warm_up: int
    test: int


FULL = Plan(replace(WORKS["cnn"], clients=1000), (1, 10, 25, 50), rounds=20, warm_up=5, test=TEST)
TINY = Plan(
    replace(WORKS["cnn"], clients=4, cohort=2, records=2, batch=2), (1, 2), rounds=1, warm_up=1, test=4
)


def measured(device: str, plan: Plan) -> list[Row]:
    """Rows for plain clients by size of stack, then the quickest with DP-SGD, then the whole benchmark."""
    rows, times = [], {}
    for stack in plan.stacks:
        times[stack], memory = _round(device, plan, stack, LocalRule())
        rows.append(_rate(_called(stack), plan, times[stack]))
        if memory:
            rows.append(Row(f"{_called(stack)}: GPU memory at most", memory / 2**20, "MiB"))
    best = min(times, key=lambda stack: times[stack])
    private = PrivateRule(LocalRule(), 1.0, Flat(1.0), plan.work.batch)
    rows.append(_rate(f"DP-SGD, {_called(best)}", plan, _round(device, plan, best, private)[0]))
    look = _evaluation(device, plan)
    whole = ROUNDS * times[best] + EVALUATIONS * look
    rows.append(Row(f"evaluation of {plan.test:,} records", look, "s"))
    rows.append(Row(f"1,500 rounds and 150 evaluations, worked out, {_called(best)}", whole / 60.0, "min"))
    return rows


def _called(stack: int) -> str:
    return f"{stack} clients stacked" if stack > 1 else "clients one by one"


def _rate(what: str, plan: Plan, each: float) -> Row:
    return Row(f"{what}: client updates", plan.work.cohort / each, "/s")


def _round(device: str, plan: Plan, stack: int, rule: LocalRule) -> tuple[float, float]:
    """Median seconds of a round, and bytes of the GPU's memory at most."""
    cut = Chunking(stack, stacked=stack > 1)
    federation = Federation(plan.work, InlineExecutor(), device=device, cut=cut, rule=rule)
    train = federation.rounds("ours")
    memory = peak_bytes(device, lambda: train(plan.warm_up))
    return statistics.median(seconds(device, lambda: train(1)) for _ in range(plan.rounds)), memory


def _evaluation(device: str, plan: Plan) -> float:
    """Seconds of one forward pass over the test records, in evaluation mode."""
    network = plan.work.network().to(device).eval()
    images = torch.rand(plan.test, *plan.work.shape, generator=torch.Generator().manual_seed(0)).to(device)

    def evaluate() -> float:
        with torch.no_grad():
            return sum(float(network(part).argmax(1).sum()) for part in images.split(FORWARD))

    evaluate()
    return seconds(device, evaluate)
