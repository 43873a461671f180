"""Was this record used? Three attacks on clients of 50 records over three rounds, each with its control.

Each member stands beside a test record of its label, so that labels alone tell nothing.
"""

from __future__ import annotations

import functools
import sys

import numpy as np
import torch
from fedlab_attacks.membership.gradient import GradientMembership
from fedlab_attacks.membership.lira import LiRA
from fedlab_attacks.membership.loss import LossMembership

from benchmarks.attacks.scene import dataset
from benchmarks.harness import Result, Row, finish
from fedlab import seeds
from fedlab.audit import KnownConfig, Observation, Proxy, ThreatModel, Victim, random_twin
from fedlab.audit.detection import Detection, detection, standardised
from fedlab.audit.membership import Candidates, MembershipAttack
from fedlab.clients import ClientConfig, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.clients.rules import LocalRule
from fedlab.experiment.questions import paired
from fedlab.tasks import FunctionalModel, Task, initialise
from fedlab.tasks.models.mlp import mlp

SEED, CLIENTS, RECORDS, ROUNDS, PROXIES = 0, 20, 50, 3, 500
ATTACKS: dict[str, MembershipAttack] = {
    "loss": LossMembership(),
    "gradient cosine": GradientMembership(),
    "LiRA, 64 shadows": LiRA(),
}


def federation() -> tuple[Victim, list[list[Observation]], list[tuple[Candidates, list[int]]]]:
    """FedAvg with every client in every round: what the server sees, and the records that it asks about."""
    train, test = dataset("fashion-mnist")
    network = functools.partial(mlp, train.shape, train.classes, width=64, depth=2, dropout=0.0)
    model, task = FunctionalModel(initialise(network, SEED), train.shape), Task(train, test, network)
    config = ClientConfig(batch_size=10, local_epochs=1, learning_rate=0.1)
    training = LocalTraining(model, task.loss, train, LocalRule(), config, SEED, stacked=True)
    owned = seeds.numpy_generator(SEED, "benchmark").permutation(len(train))[: CLIENTS * RECORDS]
    owned = np.sort(owned.reshape(CLIENTS, RECORDS), axis=1)
    spare = seeds.numpy_generator(SEED, "non-members").permutation(len(test))
    proxies, pool = spare[:PROXIES], spare[PROXIES:]
    victim = Victim(
        model,
        task.loss,
        train.shape,
        train.classes,
        proxy=Proxy(test.images(proxies), test.labels(proxies)),
    )
    state, seen = model.state(), [list[Observation]() for _ in range(CLIENTS)]
    for round in range(1, ROUNDS + 1):
        plans = [plan_batches(RECORDS, config, SEED, round, client) for client in range(CLIENTS)]
        jobs = [ClientJob(i, round, state, {}, owned[i], plan) for i, plan in enumerate(plans)]
        after = training(jobs).state
        for client in range(CLIENTS):
            update = {name: after[name][client] - state[name] for name in model.parameter_names}
            before = model.parameters_of(state)
            known = KnownConfig.all_of(config)
            seen[client].append(Observation(round, client, before, update, {}, {}, known, examples=RECORDS))
        state = {name: value.mean(0) for name, value in after.items()}
    asked = []
    for mine, theirs in paired(owned, train, pool, test):
        images = torch.cat([train.images(mine), test.images(theirs)])
        labels = torch.cat([train.labels(mine), test.labels(theirs)])
        asked.append((Candidates(images, labels), [1] * len(mine) + [0] * len(theirs)))
    return victim, seen, asked


def judged(
    attack: MembershipAttack,
    victim: Victim,
    seen: list[list[Observation]],
    asked: list[tuple[Candidates, list[int]]],
    *,
    control: bool,
) -> Detection:
    """The attack on each client in turn, its scores pooled."""
    threat, scores, members = ThreatModel(proxy_data=True), [], []
    for client, (mine, (candidates, member)) in enumerate(zip(seen, asked, strict=True)):
        generator = torch.Generator().manual_seed(client)
        observed = [random_twin(one, generator) for one in mine] if control else mine
        found = attack(observed, [], candidates, threat, victim, generator=generator)
        scores.append(standardised(found.numpy()))
        members += member
    return detection(np.concatenate(scores), members)


def main() -> int:
    victim, seen, asked = federation()
    rows, notes = [], []
    for name, attack in ATTACKS.items():
        real, null = (judged(attack, victim, seen, asked, control=control) for control in (False, True))
        for place, figure in enumerate(("1 %", "0.1 %")):
            power = real.powers[place]
            rows.append(Row(f"{name}: found at {figure} false positives", _percent(power.rate), "%"))
            rows.append(Row(f"{name}: the same on random updates", _percent(null.powers[place].rate), "%"))
            low, high = power.ci95 or (0.0, 1.0)
            notes.append(
                f"{name}, found at {figure}: 95 % interval {100 * low:.1f} to {100 * high:.1f} %, guessing"
                f" stays under {100 * (power.chance or 1.0):.1f} %"
            )
        rows.append(Row(f"{name}: area under the curve", real.auc or 0.0, ""))
        rows.append(Row(f"{name}: area on random updates", null.auc or 0.0, ""))
        low, high = real.auc_ci95 or (0.0, 1.0)
        below, above = null.auc_ci95 or (0.0, 1.0)
        notes.append(
            f"{name}, area: 95 % interval {low:.3f} to {high:.3f};"
            f" on random updates {below:.3f} to {above:.3f}"
        )
    members = sum(sum(member) for _, member in asked)
    work = (
        f"Membership, MLP 784-64-64-10, Fashion-MNIST, {CLIENTS} clients of {RECORDS} records, 1 epoch at"
        f" batch 10, {ROUNDS} rounds, {members} members, each beside a test record of its label, seed {SEED}"
    )
    return finish(Result("attack_membership", work, rows, notes=notes))


def _percent(rate: float | None) -> float:
    return 100.0 * rate if rate is not None else float("nan")


if __name__ == "__main__":
    sys.exit(main())
