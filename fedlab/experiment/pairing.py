"""What a defense is tried with beside the scenario's own attacks, where `audit.adaptive` says so.

A defense that holds only while nobody knows of it is none. So each cell also meets the attacks that know
its defense (`Defense.adaptive`), with their default parameters, unless the scenario lists them; and where
there is something to know (`Defense.disclosure`), those of the scenario's attacks that use it run once more
as an attacker who does not know, under the threat `unaware`: what the knowledge is worth is the difference.

Both hold for `[threat]` alone, where that grants `defense`; a scenario without attacks gets none.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedlab.audit import Attack, Defense
from fedlab.audit.membership import MembershipAttack
from fedlab.experiment.cells import Trained
from fedlab.scenario import Scenario

UNAWARE = "unaware"
"""Label of the threat that is `[threat]` without knowledge of the defense."""


def paired(scenario: Scenario, defenses: Mapping[str, Defense]) -> dict[str, str]:
    """The plugins of attacks that are added, by label; strongest first, in the order of the defenses."""
    if not (scenario.attacks and scenario.audit.adaptive and scenario.threat.defense):
        return {}
    listed = {spec.name for spec in scenario.attacks}
    taken = {spec.label for spec in scenario.attacks}
    names = dict.fromkeys(name for one in defenses.values() for name in one.adaptive if name not in listed)
    return {name if name not in taken else f"{name}-adaptive": name for name in names}


def untold(scenario: Scenario) -> bool:
    """Whether attackers who do not know the defense are tried beside those who do."""
    return scenario.audit.adaptive and scenario.threat.defense and UNAWARE not in scenario.assumed


def facing(scenario: Scenario, label: str) -> Scenario:
    """The scenario with one of its threats, or with the `unaware` one, for its only threat.

    Raises:
        UnknownName: it has no such threat.
    """
    if label != UNAWARE or UNAWARE in scenario.assumed:
        return scenario.facing(label)
    threat = scenario.threat.model_copy(update={"defense": False})
    return scenario.model_copy(update={"threat": threat, "threats": ()})


def knows(plugin: str, attack: Attack | MembershipAttack, trained: Trained, defense: Defense) -> bool:
    """Whether an attack makes use of knowing this cell's defense, if it may know it."""
    return plugin in defense.adaptive or (bool(trained.disclosure) and informed(attack))


def informed(attack: Attack | MembershipAttack) -> bool:
    """Whether an attack reads what is known of a defense."""
    return isinstance(attack, Attack) and attack.informed
