"""A recipe, and the descent that follows it: all victims and restarts together in one graph.

Rows do not interact: each has its own residual, keeps its own best iterate (chosen by that residual, which an
attacker has) and leaves the batch once explained. Deviation from every published attack: the returned iterate
is the one of least residual, not the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fedlab_attacks.optimise.capture import Simulated, Term
from fedlab_attacks.optimise.informed import informed
from fedlab_attacks.optimise.objectives import cosine
from fedlab_attacks.optimise.optimisers import Adam, Decays, Optimiser, Schedule
from fedlab_attacks.optimise.problem import Problem
from fedlab_attacks.optimise.simulate import simulate
from fedlab_attacks.optimise.starts import Start, uniform
from fedlab_attacks.optimise.variables import Kind, Variables
from fedlab_attacks.reading import Ticker

CHECK_EVERY = 25


class Prior(NamedTuple):
    """A term that is added to the objective.

    Attributes:
        weight: one, or one per row (V,).
        fades: whether the schedule's factor multiplies the weight, too: a prior is needed to find the basin,
            and biases the answer in it.
    """

    weight: float | Tensor
    term: Term
    fades: bool = False


@dataclass(frozen=True)
class Recipe:
    """What to minimise, over what, how, from where.

    Attributes:
        iterations: how many at most.
        objective: the distance; the residual by which candidates are chosen.
        priors: what is added to it.
        vary: which of images, masks, labels, noise; the rest stays as it starts.
        optimiser, schedule: how to step.
        start: where the images come from.
        box: whether images and masks are kept in [0, 1].
        tolerance: a row whose residual falls below leaves early.
        statistics: whether a term reads `Simulated.statistics`.
    """

    iterations: int
    objective: Term = cosine
    priors: Sequence[Prior] = ()
    vary: frozenset[Kind] = frozenset({"images"})
    optimiser: Optimiser = field(default_factory=lambda: Adam(0.1, signed=True))
    schedule: Schedule = field(default_factory=Decays)
    start: Start = uniform
    box: bool = True
    tolerance: float = 1e-11
    statistics: bool = False


@dataclass(frozen=True)
class Descent:
    """Follows a recipe."""

    recipe: Recipe

    def __call__(self, problem: Problem, start: Variables, ticker: Ticker) -> Variables:
        """Descend from `start`; each row's iterate of least residual, never worse than its start."""
        recipe = self.recipe
        result, current = start, start
        alive = torch.arange(len(start), device=problem.device)
        flat = start.flatten(recipe.vary)
        boxed = start.boxed(recipe.vary) if recipe.box else 0
        pixels = start.images[0].numel() if "images" in recipe.vary else 0
        best, residual = flat, torch.full((len(flat),), torch.inf, device=flat.device)
        weights = [prior.weight * torch.ones(len(flat), device=flat.device) for prior in recipe.priors]
        state = recipe.optimiser.start(flat)
        for i in range(recipe.iterations):
            factor = recipe.schedule(i, recipe.iterations)
            leaf = flat.detach().requires_grad_()
            distance, value = self._value(problem, current.unflatten(leaf, recipe.vary), weights, factor)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
            distance, value = distance.detach(), value.detach()
            better = distance < residual
            residual = torch.where(better, distance, residual)
            best = torch.where(better[:, None], flat, best)
            slope.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            flat = recipe.optimiser.move(state, flat, value, slope, i=i, factor=factor, pixels=pixels)
            if boxed:
                flat[:, :boxed].clamp_(0.0, 1.0)
            if (i + 1) % CHECK_EVERY and i + 1 < recipe.iterations:
                continue
            ticker.advance((i + 1) % CHECK_EVERY or CHECK_EVERY)
            open_ = residual >= recipe.tolerance
            if i + 1 < recipe.iterations and bool(open_.all()):
                continue
            result = result.put(alive, current.unflatten(best, recipe.vary).scored(residual))
            rows = open_.nonzero().flatten()
            alive, problem, current = alive[rows], problem.pick(rows), current.pick(rows)
            flat, best, residual = flat[rows], best[rows], residual[rows]
            weights = [weight[rows] for weight in weights]
            state = {name: value[rows] for name, value in state.items()}
            if len(rows) == 0:
                ticker.advance(recipe.iterations - i - 1)
                break
        return result

    def _value(
        self, problem: Problem, candidate: Variables, weights: Sequence[Tensor], factor: float
    ) -> tuple[Tensor, Tensor]:
        """The objective (V,), and with its priors."""
        recipe = self.recipe
        simulated: Simulated = simulate(problem, candidate, statistics=recipe.statistics)
        distance = value = informed(recipe.objective, problem.sent)(problem, candidate, simulated)
        for prior, weight in zip(recipe.priors, weights, strict=True):
            value = value + weight * (factor if prior.fades else 1.0) * prior.term(
                problem, candidate, simulated
            )
        return distance, value
