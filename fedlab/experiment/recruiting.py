"""Who attacks the training: the scenario's adversaries, and which clients they are."""

from __future__ import annotations

from collections.abc import Sequence

from fedlab import plugins, seeds
from fedlab.adversaries import Adversary, Group, Recruits, groups
from fedlab.adversaries.contract import poisoned
from fedlab.errors import PluginError
from fedlab.scenario import Scenario
from fedlab.scenario.schema import Adversary as AdversarySettings
from fedlab.tasks import Task


def recruit(scenario: Scenario, task: Task) -> dict[int, Sequence[Group]]:
    """Who attacks the training, by seed; each attack is tried on one record, so that it fails here.

    Raises:
        UsageError: a client twice, or an attack that does not fit the data.
        PluginError: no adversary.
    """
    recruits = [
        Recruits(spec.label, _adversary(spec), spec.fraction, spec.clients) for spec in scenario.adversaries
    ]
    for one in recruits:
        x, y = task.train.images([0]), task.train.labels([0])
        poisoned(one.adversary, x, y, task.classes, seeds.torch_generator(0, "trial"))
        one.adversary.aim(x, y, task.classes)
    return {seed: groups(recruits, scenario.clients.count, seed) for seed in scenario.seeds}


def _adversary(spec: AdversarySettings) -> Adversary:
    made = plugins.build("adversaries", spec)
    if not isinstance(made, Adversary):
        raise PluginError(
            f"the adversary {spec.name!r} (from {plugins.provider('adversaries', spec.name)}) is a"
            f" {type(made).__name__}; expected a subclass of fedlab.adversaries.Adversary"
        )
    return made
