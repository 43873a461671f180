"""Several local steps: the client's whole training is simulated on a guess of its records, and matched.

D. I. Dimitrov, M. Balunović, N. Konstantinov and M. Vechev, "Data Leakage in Federated Averaging", TMLR 2022,
https://arxiv.org/abs/2206.12395. With U(x) the update of E epochs of SGD on the records x:

    minimise over x in the pixel box   ‖U(x) - Δw‖² / ‖Δw‖² + α TV(x) (+ β the disagreement of epochs)

by Adam on the sign of the image's gradient. The learning rate, momentum, batch size and number of steps are
the server's own; the order of the records in each epoch is nobody's (`optimise.order`).

Deviations: the order is a variable, too, as weights of all records in each step, once a descent with uniform
weights is done (`order = "copies"` is the published way, an image per use); momentum and weight decay; plain
L2 over all layers (published: weights that grow with the layer, tuned per data set); where a biased linear
first layer tells which space the images lie in, the descent stays within it (`optimise.span`); the step falls
along a cosine, and the weight of TV with it; counts of labels by `step_labels`; the iterate of least residual
instead of the last. Dropout is ignored (`training-client` looks for the masks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable, UsageError
from fedlab.tasks import State
from fedlab_attacks.optimise.descent import Descent, Prior, Recipe
from fedlab_attacks.optimise.inversion import Inversion, Setting, expected_noise
from fedlab_attacks.optimise.local_training import sizes_of
from fedlab_attacks.optimise.objectives import l2
from fedlab_attacks.optimise.optimisers import Adam
from fedlab_attacks.optimise.order import ORDER, copied, epochs_agree, merged
from fedlab_attacks.optimise.priors import box, total_variation
from fedlab_attacks.optimise.problem import LocalPlan, Problem
from fedlab_attacks.optimise.span import Span, Within, spans
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.reading import Ticker, batch_size, steps
from fedlab_attacks.step_labels import step_labels

WITHIN = 3.0
"""Adam's step within the records' span, in steps per pixel: a coordinate there moves all pixels."""


class LocalSteps(Inversion):
    """Matches the update of several local steps, with momentum, over epochs in an unknown order.

    Args:
        iterations: of the descent; half as many more vary the order, too.
        restarts: starts per victim; the least residual wins.
        total_variation: weight of the mean absolute difference of neighbouring pixels at first.
        step: Adam's first step, in pixels.
        order: "learned" (weights of all records in each step) or "copies" (an image per use, as published).
        agreement: weight of the epochs' disagreement, with copies only.
        device: where to compute, in torch's words ("cpu", "cuda").

    Raises:
        UsageError: a parameter is out of range.
    """

    needs: ClassVar = frozenset({"batch_size", "learning_rate", "local_steps", "momentum"})
    paper: ClassVar[str] = "Dimitrov et al., Data Leakage in Federated Averaging, TMLR 2022"

    def __init__(
        self,
        *,
        iterations: int = 400,
        restarts: int = 1,
        total_variation: float = 1e-3,
        step: float = 0.1,
        order: Literal["learned", "copies"] = "learned",
        agreement: float = 1.0,
        device: str = "cpu",
    ) -> None:
        super().__init__(iterations=iterations, restarts=restarts, device=device)
        if not (total_variation >= 0.0 and agreement >= 0.0 and step > 0.0):
            raise UsageError(
                f"LocalSteps: total_variation = {total_variation}, agreement = {agreement}, step = {step};"
                " expected weights of at least 0 and a step above 0"
            )
        if order not in ("learned", "copies"):
            raise UsageError(f'LocalSteps: order = {order!r}; expected "learned" or "copies"')
        self.total_variation, self.step = total_variation, step
        self.order, self.agreement = order, agreement
        self.ordering = max(1, iterations // 2)

    def budget(self, victim: Victim, threat: ThreatModel) -> int:
        return self.iterations + (self.ordering if self.order == "learned" else 0)

    def labels(
        self, observation: Observation, threat: ThreatModel, victim: Victim, generator: torch.Generator
    ) -> Tensor:
        records = batch_size(observation, threat)
        if records is None:
            raise NotApplicable(
                "the batch size is unknown: the client uses all its records and does not say how many"
            )
        plan = plan_of(observation, records)
        return step_labels(observation, threat, victim, records, plan, generator=generator)

    def depth(self, observations: Sequence[Observation]) -> int:
        return max(steps(observation) for observation in observations)

    def solve(
        self, setting: Setting, threat: ThreatModel, victim: Victim, ticker: Ticker
    ) -> tuple[Variables, list[str]]:
        records = setting.batch
        plan = same_plan(setting.observations, records)
        labels, images = setting.labels, setting.noise(victim, self.restarts)
        priors = [Prior(self.total_variation, total_variation, fades=True)]
        noise: State = {}
        span: Span | None = None
        if self.order == "learned":
            noise[ORDER] = torch.zeros(len(images), len(plan.sizes), records)
            span = spans(victim, setting.observations, records, setting.generators)
        else:
            uses = torch.stack([copied(records, plan.uses, generator) for generator in setting.generators])
            labels = labels.gather(1, uses)
            images = images[torch.arange(len(images))[:, None], uses.repeat_interleave(self.restarts, 0)]
            if plan.uses >= 2 * records:
                priors.append(Prior(self.agreement, epochs_agree(records)))
        training = threat.client_mode != "eval"
        problem = Problem.of(
            victim, setting.observations, labels, training=training, client=plan, device=self.device
        )
        masks = expected_masks(victim, *images.shape[:2]) if training else {}
        noise |= expected_noise(victim, *images.shape[:2]) if training else {}
        recipe = Recipe(
            self.iterations,
            objective=l2,
            priors=priors,
            optimiser=Adam(self.step, signed=True),
            schedule=cosine_decay,
        )
        facts: list[Prior] = []
        if span is not None:
            span = span.to(self.device)
            images, facts = span.repeat(self.restarts).nearest(images.to(self.device)), [Prior(1.0, box)]
            recipe = replace(
                recipe,
                priors=[*priors, *facts],
                optimiser=Within(Adam(WITHIN * self.step), span.repeat(self.restarts), records),
                box=False,
            )
        start = Variables(images, masks=masks, noise=noise).to(self.device)
        found = Descent(recipe)(problem.repeat(self.restarts), start, ticker).best_of(self.restarts)
        if self.order == "learned":
            slower = Adam(self.step / 3, signed=True)
            order = replace(
                recipe,
                iterations=self.ordering,
                vary=frozenset({"images", "noise"}),
                optimiser=slower if span is None else Within(Adam(WITHIN * self.step / 3), span, records),
                priors=[Prior(self.total_variation / 3, total_variation, fades=True), *facts],
            )
            found = found.or_better(Descent(order)(problem, found, ticker))
        if self.order == "copies":
            found = replace(
                found,
                images=torch.stack(
                    [merged(x, y, records)[0] for x, y in zip(found.images, problem.labels, strict=True)]
                ),
            )
            setting.labels[:] = labels[:, :records].to(setting.labels)
        how = f"{len(plan.sizes)} local steps"
        return replace(found, masks={}, noise={}), [how] * len(setting)


def plan_of(observation: Observation, records: int) -> LocalPlan:
    """The client's steps on that many records, as the server ordered them.

    Raises:
        NotApplicable: the server does not know them, or they differ from client to client.
    """
    config = observation.config
    if config.learning_rate is None or config.momentum is None or config.weight_decay is None:
        raise NotApplicable("the learning rate or the momentum is unknown: the client cannot be simulated")
    if config.sampling == "poisson":
        raise NotApplicable("Poisson sampling: how many records a step uses is the client's secret")
    if observation.parts:
        raise NotApplicable(f"a sum of {len(observation.parts)} clients' updates is no client's training")
    sizes = sizes_of(records, config.batch_size or 0, steps(observation))
    return LocalPlan(sizes, config.learning_rate, config.momentum, config.weight_decay)


def same_plan(observations: Sequence[Observation], records: int) -> LocalPlan:
    """The plan of clients that are attacked together.

    Raises:
        UsageError: they were told to train differently.
    """
    plans = {plan_of(observation, records) for observation in observations}
    if len(plans) > 1:
        raise UsageError(
            f"clients with {len(plans)} different configurations among {len(observations)} observations;"
            " expected one: attack them one configuration at a time"
        )
    return plans.pop()


def expected_masks(victim: Victim, rows: int, uses: int) -> State:
    """Masks (rows, uses, ...) that make dropout the identity."""
    model = victim.model
    return {
        name: torch.full((rows, uses, *shape), 1.0 - model.dropout_rates[name])
        for name, shape in model.mask_shapes.items()
    }


def cosine_decay(i: int, iterations: int) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * i / iterations))
