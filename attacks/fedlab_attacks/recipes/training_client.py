"""A client as it really trains: dropout masks, batch norm and several local steps in one attack.

The parts are published one by one: masks as variables (D. Scheliga et al., "Dropout is NOT All You Need to
Prevent Gradient Leakage", AAAI 2023, https://arxiv.org/abs/2208.06163), batch statistics from the buffers
that a client sends (D. Valadi et al., 2025, https://arxiv.org/abs/2508.19819), the simulation of its steps
(D. I. Dimitrov et al., TMLR 2022, https://arxiv.org/abs/2206.12395). Together:

    minimise over x, ψ   1 - cos(U(x, ψ), Δw) + β Σ_l D_l + α TV(x) + γ Σ_l |1 - mean(ψ_l) - p_l|

with U the update of the client's whole training, x an image and ψ a keep-mask per use of a record, and D_l
the squared distance of batch norm l's running statistics after the last simulated step from the observed
ones, over how far those moved. After several steps they are a mixture of several batches' statistics, so that
they are matched rather than solved for.

What is not there is left out, and `details["found by"]` says what was used: without dropout no masks, without
buffers (or batch norm) no statistics, and where learning rate, momentum or number of steps are denied,
the update is read as one step. The noise ε of stochastic layers (a variational bottleneck) is sought like
the masks, from 0 and at γ mean ε². Units that no record used (exactly zero columns of the next layer, as in
`dropout-inversion`) are dropped in every mask from the start. Which label was in which step nobody knows:
`restarts` arrangements are tried on a quarter of the iterations, and the least residual goes on. A polish
without guesses (TV and rates) ends it, and one with the masks rounded to 0 and 1 if that lowers the residual.
Over several epochs there is an image per use, tied and merged as in `local-steps` with copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import UsageError
from fedlab.tasks import State
from fedlab_attacks.optimise.capture import Simulated
from fedlab_attacks.optimise.descent import Descent, Prior, Recipe
from fedlab_attacks.optimise.inversion import Inversion, Setting, expected_noise
from fedlab_attacks.optimise.optimisers import Adam
from fedlab_attacks.optimise.order import copied, epochs_agree, merged
from fedlab_attacks.optimise.priors import mask_rates, noise_size, total_variation
from fedlab_attacks.optimise.problem import LocalPlan, Problem
from fedlab_attacks.optimise.variables import Kind, Variables
from fedlab_attacks.reading import Ticker, batch_size, steps
from fedlab_attacks.recipes.dropout_inversion import mask_readers
from fedlab_attacks.recipes.local_steps import (
    cosine_decay,
    expected_masks,
    plan_of,
    same_plan,
)
from fedlab_attacks.step_labels import step_labels


class TrainingClient(Inversion):
    """Matches update and buffers of a client's whole training, masks included.

    Args:
        iterations: of the descent; a quarter as many choose the arrangement, half as many polish.
        restarts: arrangements of labels and starts per victim; the least residual goes on.
        total_variation: weight of the mean absolute difference of neighbouring pixels at first.
        mask_rate: weight of |1 - mean(mask) - rate|, summed over dropout layers, at first.
        buffers: weight of the distance between running statistics.
        step: Adam's first step, for pixels and masks.
        device: where to compute, in torch's words ("cpu", "cuda").

    Raises:
        UsageError: a parameter is out of range.
    """

    needs: ClassVar = frozenset({"batch_size"})
    paper: ClassVar[str] = (
        "Scheliga et al., AAAI 2023; Valadi et al., 2025; Dimitrov et al., TMLR 2022; combined"
    )

    def __init__(
        self,
        *,
        iterations: int = 800,
        restarts: int = 4,
        total_variation: float = 1e-3,
        mask_rate: float = 1e-3,
        buffers: float = 1.0,
        step: float = 0.1,
        device: str = "cpu",
    ) -> None:
        super().__init__(iterations=iterations, restarts=restarts, device=device)
        if not (min(total_variation, mask_rate, buffers) >= 0.0 and step > 0.0):
            raise UsageError(
                f"TrainingClient: total_variation = {total_variation}, mask_rate = {mask_rate}, buffers ="
                f" {buffers}, step = {step}; expected weights of at least 0 and a step above 0"
            )
        self.total_variation, self.mask_rate = total_variation, mask_rate
        self.buffers, self.step = buffers, step
        self.trial, self.polish = max(1, iterations // 4), max(1, iterations // 4)

    def budget(self, victim: Victim, threat: ThreatModel) -> int:
        return self.trial + self.iterations + 2 * self.polish

    def labels(
        self, observation: Observation, threat: ThreatModel, victim: Victim, generator: torch.Generator
    ) -> Tensor:
        records = batch_size(observation, threat)
        if records is None or not _simulated(observation, threat):
            return super().labels(observation, threat, victim, generator)
        plan = plan_of(observation, records)
        return step_labels(observation, threat, victim, records, plan, generator=generator)

    def depth(self, observations: Sequence[Observation]) -> int:
        return max(steps(observation) for observation in observations)

    def solve(
        self, setting: Setting, threat: ThreatModel, victim: Victim, ticker: Ticker
    ) -> tuple[Variables, list[str]]:
        records, training = setting.batch, threat.client_mode != "eval"
        known = _simulated(setting.observations[0], threat)
        plan = same_plan(setting.observations, records) if known else LocalPlan((records,), 1.0)
        uses = torch.stack(
            [copied(records, plan.uses, own) for own in setting.generators for _ in range(self.restarts)]
        )
        arranged = setting.labels.repeat_interleave(self.restarts, 0).gather(1, uses)
        images = setting.noise(victim, self.restarts)[torch.arange(len(uses))[:, None], uses]
        problem = Problem.of(
            victim, setting.observations, setting.labels, training=training, client=plan, device=self.device
        )
        problem = replace(problem.repeat(self.restarts), labels=arranged.to(self.device))
        masks, vary, how = self._masks(setting, threat, victim, plan)
        guesses = [Prior(self.total_variation, total_variation, fades=True)]
        facts: list[Prior] = []
        if "masks" in vary:
            guesses.append(Prior(self.mask_rate, mask_rates(victim.model.dropout_rates), fades=True))
        noise = expected_noise(victim, *images.shape[:2]) if training else {}
        if noise:
            vary, how = vary | {"noise"}, [*how, "noise"]
            guesses.append(Prior(self.mask_rate, noise_size, fades=True))
        if plan.uses >= 2 * records:
            facts.append(Prior(1.0, epochs_agree(records)))
        if training and victim.model.has_batch_norm and problem.after:
            facts.append(Prior(self.buffers, buffers_apart))
            how.append("buffers")
        how.append(f"{len(plan.sizes)} step{'s' * (len(plan.sizes) > 1)}" if known else "read as one step")
        recipe = Recipe(
            self.trial,
            priors=[*guesses, *facts],
            vary=vary,
            optimiser=Adam(self.step, signed=True),
            schedule=cosine_decay,
        )
        start = Variables(images, masks=masks, noise=noise).to(self.device)
        found = Descent(recipe)(problem, start, ticker)
        rows = found.residual.nan_to_num(nan=torch.inf).view(-1, self.restarts).argmin(1)
        rows = rows + torch.arange(len(rows), device=rows.device) * self.restarts
        problem, found = problem.pick(rows), found.pick(rows)
        long = replace(recipe, iterations=self.iterations)
        found = found.or_better(Descent(long)(problem, found, ticker))
        fine = replace(
            recipe, iterations=self.polish, priors=facts, optimiser=Adam(self.step / 10, signed=True)
        )
        found = found.or_better(Descent(fine)(problem, found, ticker))
        rounded = replace(found, masks={name: mask.round() for name, mask in found.masks.items()})
        fixed = replace(fine, vary=vary - {"masks"})
        found = found.or_better(Descent(fixed)(problem, rounded, ticker))
        whole = [merged(x, y, records) for x, y in zip(found.images, problem.labels, strict=True)]
        setting.labels[:] = torch.stack([labels for _, labels in whole]).to(setting.labels)
        images = torch.stack([image for image, _ in whole])
        return Variables(images, residual=found.residual), [f"used {', '.join(how)}"] * len(setting)

    def _masks(
        self, setting: Setting, threat: ThreatModel, victim: Victim, plan: LocalPlan
    ) -> tuple[State, frozenset[Kind], list[str]]:
        """Masks (V * restarts, U, ...) to start from, what varies, and what is known of them in words."""
        count, model = len(setting) * self.restarts, victim.model
        fixed, both = frozenset[Kind]({"images"}), frozenset[Kind]({"images", "masks"})
        if threat.client_mode == "eval" or not model.mask_shapes:
            return {}, fixed, []
        granted = [_joined(one.masks) for one in setting.observations]
        shapes = {name: (plan.uses, *shape) for name, shape in model.mask_shapes.items()}
        if all({n: tuple(v.shape) for n, v in one.items()} == shapes for one in granted):
            masks = {name: torch.stack([one[name].float() for one in granted]) for name in shapes}
            return (
                {n: m.repeat_interleave(self.restarts, 0) for n, m in masks.items()},
                fixed,
                ["granted masks"],
            )
        expected = expected_masks(victim, count, plan.uses)
        if not threat.grants("dropout_rate"):
            return expected, fixed, ["no masks (rate denied)"]
        drawn = [model.draw_masks(self.restarts * plan.uses, own) for own in setting.generators]
        masks = {
            name: torch.cat([one[name].float().view(self.restarts, *shape) for one in drawn])
            for name, shape in shapes.items()
        }
        for i, observation in enumerate(setting.observations):
            for name, reader in mask_readers(victim, observation).items():
                columns = observation.update[f"{reader}.weight"].transpose(0, 1).flatten(1)
                unused = (columns == 0).all(dim=1).view(model.mask_shapes[name])
                masks[name][i * self.restarts : (i + 1) * self.restarts, :, unused] = 0.0
        return masks, both, ["masks"]


def buffers_apart(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
    """Squared distance of running statistics after the round from the observed, over how far those moved.

    The mean over all buffers of batch norms; one that did not move says nothing.
    """
    total, count = variables.images.new_zeros(len(variables)), 0
    for name, value in simulated.buffers.items():
        if name not in problem.after:
            continue
        moved = (problem.after[name] - problem.buffers[name]).square().flatten(1).sum(1)
        apart = (problem.after[name] - value).square().flatten(1).sum(1)
        share = torch.where(moved > 0.0, apart / moved.clamp_min(1e-30), 0.0)
        total, count = total + share, count + 1
    return total / max(count, 1)


def _simulated(observation: Observation, threat: ThreatModel) -> bool:
    """Whether the attacker knows enough of the client's training to run it."""
    known = all(threat.grants(item) for item in ("learning_rate", "local_steps", "momentum"))
    config = observation.config
    return (
        known
        and None not in (config.learning_rate, config.momentum, config.weight_decay)
        and config.sampling != "poisson"
        and not observation.parts
    )


def _joined(masks: tuple[State, ...]) -> State:
    """The masks of all steps, one after another."""
    return {name: torch.cat([one[name] for one in masks]) for name in (masks[0] if masks else {})}
