"""What is asked of an audit, and the scenario that stands for it in the run directory.

A scenario describes training of ours. Of an app's, it says what is known (rounds, clients, batches, rates)
and leaves out what is the app's own affair (its strategy, how it shares out its records).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomli_w

from fedlab.apps.contract import Ran
from fedlab.apps.defended.probing import refusal
from fedlab.apps.defended.wishes import AS_IT_IS, Wish, wishes
from fedlab.apps.facts import Facts
from fedlab.errors import UsageError
from fedlab.experiment.asked import attack_entry
from fedlab.scenario import Scenario, load
from fedlab.scenario.loading import tables

ITERATIONS = 200
ATTACKS = (
    f"cascade:iterations={ITERATIONS}",
    f"inverting-gradients:iterations={ITERATIONS}",
    "label-recovery",
)
"""What is tried unless something else is asked for: minutes on two cores."""
SUPERNODES = 10
VICTIMS = 4
FOREIGN = {
    "clients": ("partition",),
    "strategy": ("name", "local_rule", "aggregator", "server_optimizer", "sampling"),
}
"""Keys that say nothing about an app."""


@dataclass(frozen=True)
class Asked:
    """What is asked of an audit; `name` is that of the run, `tries` are defenses in words."""

    name: str
    clients: int
    observe: tuple[int, ...]
    attacks: tuple[str, ...]
    include_samples: bool = False
    seed: int = 0
    tries: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse, before the app runs, what no scenario could say.

        Raises:
            UsageError: no such attack, a number out of range; all mistakes of what is to be tried.
        """
        if not 1 <= self.clients < 10**6:
            raise UsageError(f"num-supernodes = {self.clients}; expected a number of clients of at least 1")
        if not self.observe or min(self.observe) < 1:
            raise UsageError(f"observe = {list(self.observe)}; expected rounds, counted from 1")
        self.scenario("train", {})
        self.wishes()

    def wishes(self) -> list[Wish]:
        """The defenses that are to be tried.

        Raises:
            UsageError: one is unknown, mistaken, or can be tried on no app.
        """
        return wishes(self.tries, self._check)

    def _check(self, wish: Wish) -> None:
        self.scenario("train", {}, attacked=False, tries=[wish])
        if why := refusal(wish.name, wish.built()):
            raise UsageError(why)

    def scenario(
        self,
        mode: str,
        training: Mapping[str, Any],
        *,
        attacked: bool = True,
        rounds: int = 0,
        cohort: int | None = None,
        tries: Sequence[Wish] = (),
        adaptive: bool = True,
    ) -> Scenario:
        """The audit as a scenario.

        Args:
            training: what is known of the clients' training, by key of `[clients]`.
            rounds: that took place; cohort: clients in one of them, all unless given.
            tries: defenses beside the app as it is; adaptive: whether they meet attacks that know them.
        """
        cohort = min(cohort or self.clients, self.clients)
        data: dict[str, Any] = {
            "schema": 1,
            "name": self.name,
            "seed": self.seed,
            "task": {"dataset": "own", "model": "own"},
            "clients": {"count": self.clients, "mode": mode, **training},
            "strategy": {"rounds": max(rounds, *self.observe), "cohort": cohort},
            "audit": {
                "rounds": list(self.observe),
                "victims": min(VICTIMS, cohort * len(self.observe)),
                "include_samples": self.include_samples,
                "adaptive": adaptive,
            },
            "runtime": {"executor": "inline"},
        }
        if tries:
            data["defenses"] = [{"name": AS_IT_IS}, *(one.entry for one in tries)]
        if not attacked:
            return load(data)
        listed: list[dict[str, Any]] = []
        for wish in self.attacks:
            listed.append(attack_entry(wish, load(data | {"attacks": listed})))
        return load(data | {"attacks": listed})


def plain(name: str) -> str:
    """A name that a file may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:64] or "app"


def training_of(ran: Ran, facts: Facts) -> dict[str, Any]:
    """What most clients were told, by key of `[clients]`; what is not known is not there."""
    if not facts.told:
        return {}
    first = next(iter(facts.told.values()))
    found = {
        "batch_size": first.batch_size,
        "local_steps": first.local_steps,
        "local_epochs": None if first.local_steps else first.local_epochs,
        "learning_rate": first.learning_rate,
        "momentum": first.momentum,
        "weight_decay": first.weight_decay,
    }
    if not 0.0 <= (first.momentum or 0.0) < 1.0:
        del found["momentum"]
    return {
        key: value for key, value in found.items() if value is not None and (key != "learning_rate" or value)
    }


def toml_of(scenario: Scenario, known: Mapping[str, Any]) -> str:
    """The scenario without what it says about nothing; `known` are the keys of `[clients]` that count."""
    data = tables(scenario)
    kept = {"count", "mode", *known}
    data["clients"] = {key: value for key, value in data["clients"].items() if key in kept}
    for table, keys in FOREIGN.items():
        data[table] = {key: value for key, value in data[table].items() if key not in keys}
    return tomli_w.dumps(data)
