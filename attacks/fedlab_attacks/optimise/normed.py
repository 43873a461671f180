"""Descents that are told what the norm layers of the client's network saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedlab.audit.victim import Victim
from fedlab.errors import UsageError
from fedlab_attacks.optimise.descent import Descent, Prior, Recipe
from fedlab_attacks.optimise.inversion import Inversion, Setting, expected_noise
from fedlab_attacks.optimise.optimisers import Adam
from fedlab_attacks.optimise.priors import norm_statistics, total_variation
from fedlab_attacks.optimise.problem import Problem, Statistics
from fedlab_attacks.optimise.statistics import stacked
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.reading import Ticker


def signed_recipe(attack: Inversion, *, smoothness: float, batch_norm: float, step: float) -> Recipe:
    """1 - cos + smoothness TV + batch_norm (distance of norm statistics), by Adam on the gradient's sign.

    Both weights fall with the step: they lead to the basin, and would bias the answer in it.

    Raises:
        UsageError: a weight is negative or the step is not positive.
    """
    check(attack, total_variation=smoothness, batch_norm=batch_norm)
    if not step > 0.0:
        raise UsageError(f"{type(attack).__name__}: step = {step}; expected above 0")
    smooth = Prior(smoothness, total_variation, fades=True)
    alike = Prior(batch_norm, norm_statistics, fades=True)
    return Recipe(
        attack.iterations,
        priors=[smooth, alike] if batch_norm else [smooth],
        optimiser=Adam(step, signed=True),
        statistics=batch_norm > 0.0,
    )


def check(attack: Inversion, **weights: float) -> None:
    """Refuse negative weights.

    Raises:
        UsageError: one is.
    """
    for name, weight in weights.items():
        if not weight >= 0.0:
            raise UsageError(f"{type(attack).__name__}: {name} = {weight}; expected at least 0")


def follow(
    attack: Inversion,
    recipe: Recipe,
    setting: Setting,
    victim: Victim,
    statistics: Sequence[Statistics],
    ticker: Ticker,
    *,
    training: bool,
) -> Variables:
    """The best candidate for each victim of `setting`, whose batch had these statistics.

    Args:
        training: the mode of the attacker's network. Dropout is the identity in either.
    """
    problem = Problem.of(
        victim, setting.observations, setting.labels, training=training, device=attack.device
    )
    known = {name: (m.to(attack.device), v.to(attack.device)) for name, (m, v) in stacked(statistics).items()}
    masks = setting.identity_masks(victim, attack.restarts) if training else {}
    noise = expected_noise(victim, len(setting) * attack.restarts, setting.batch) if training else {}
    start = Variables(setting.noise(victim, attack.restarts, recipe.start), masks=masks, noise=noise).to(
        attack.device
    )
    rows = replace(problem, statistics=known).repeat(attack.restarts)
    return Descent(recipe)(rows, start, ticker).best_of(attack.restarts)
