"""Inverting gradients: cosine matching with a total-variation prior, as published in inference mode.

J. Geiping, H. Bauermeister, H. Dröge and M. Moeller, "Inverting Gradients: How easy is it to break privacy in
federated learning?", NeurIPS 2020, https://arxiv.org/abs/2003.14053, equation 4. The attacker's network runs
in evaluation mode and knows nothing of dropout: against a client that trains with dropout this is the
published baseline, not the strongest attack.

Deviations: labels come from `label_recovery` unless granted; 1000 iterations instead of 4800 (on 8 x 8 digits
nothing moves after 500; raise `iterations` for larger images); the start is uniform noise, because pixels lie
in [0, 1] here; the weight of the total variation falls with the step, and a tenth as many iterations polish
the result without it, which is kept only if the residual falls; several weights may be tried at once, and the
residual chooses (published: tuned per experiment); several local steps are read as one on all their records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedlab.audit.attack import Attack, Reconstruction, Report
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable, UsageError
from fedlab.tasks import State
from fedlab_attacks.label_recovery import recover_labels
from fedlab_attacks.optimise.matching import (
    Candidates,
    Descent,
    Matching,
    keep_freed_memory,
    own_generator,
    parallel,
)
from fedlab_attacks.reading import Ticker, batch_size

POLISH_DECAYS = (1 / 4, 1 / 2, 3 / 4)


@dataclass(frozen=True)
class Setting:
    """Victims of one batch size, ready to be attacked together.

    Attributes:
        positions: their places among the observations.
        labels: (V, B).
        generators: each victim's own stream.
    """

    positions: list[int]
    observations: list[Observation]
    labels: Tensor
    generators: list[torch.Generator]

    @property
    def batch(self) -> int:
        return self.labels.shape[1]

    def noise(self, victim: Victim, restarts: int) -> Tensor:
        """(V * restarts, B, C, H, W) uniform noise; the restarts of a victim are neighbours."""
        shape = (restarts, self.batch, *victim.input_shape)
        return torch.cat([torch.rand(shape, generator=generator) for generator in self.generators])


class GradientMatching(Attack):
    """What attacks by matching share: refusals, labels, grouping by batch size, chunks that fit a cache."""

    needs: ClassVar = frozenset({"batch_size"})

    def __init__(self, *, iterations: int, restarts: int) -> None:
        for name, value in (("iterations", iterations), ("restarts", restarts)):
            if value < 1:
                raise UsageError(f"{type(self).__name__}: {name} = {value}; expected at least 1")
        self.iterations, self.restarts = iterations, restarts

    def budget(self, victim: Victim, threat: ThreatModel) -> int:
        """Iterations in all for one chunk of victims."""
        raise NotImplementedError

    def solve(
        self, setting: Setting, threat: ThreatModel, victim: Victim, ticker: Ticker
    ) -> tuple[Candidates, list[str]]:
        """The best candidate for each victim of `setting`, and how each was found."""
        raise NotImplementedError

    def run(
        self,
        observations: Sequence[Observation],
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Report,
    ) -> list[Reconstruction]:
        keep_freed_memory()
        seed = int(torch.randint(2**62, (1,), generator=generator))
        answers = [Reconstruction(refusal="not attacked")] * len(observations)
        ready: dict[int, list[tuple[int, Tensor, torch.Generator]]] = {}
        for position, observation in enumerate(observations):
            own = own_generator(seed, observation)
            try:
                labels = self._labels(observation, threat, victim, own)
            except NotApplicable as error:
                answers[position] = Reconstruction.refused(error)
            else:
                ready.setdefault(len(labels), []).append((position, labels, own))
        size = max(1, parallel(victim) // self.restarts)
        chunks = [group[i : i + size] for group in ready.values() for i in range(0, len(group), size)]
        ticker = Ticker(report, len(chunks) * self.budget(victim, threat))
        for chunk in chunks:
            setting = Setting(
                positions=[position for position, _, _ in chunk],
                observations=[observations[position] for position, _, _ in chunk],
                labels=torch.stack([labels for _, labels, _ in chunk]),
                generators=[own for _, _, own in chunk],
            )
            found, stages = self.solve(setting, threat, victim, ticker)
            for i, position in enumerate(setting.positions):
                residual = float(found.residual[i])
                answers[position] = Reconstruction(
                    images=found.images[i].nan_to_num(nan=0.5).clamp(0.0, 1.0),
                    labels=setting.labels[i],
                    residual=residual if residual < float("inf") else float("nan"),
                    details={"found by": stages[i], "batch": setting.batch},
                )
        return answers

    def _labels(
        self, observation: Observation, threat: ThreatModel, victim: Victim, generator: torch.Generator
    ) -> Tensor:
        batch = batch_size(observation, threat)
        if batch is None:
            raise NotApplicable(
                "the batch size is unknown: the client uses all its records and does not say how many"
            )
        return recover_labels(observation, threat, victim, batch, generator=generator)


class InvertingGradients(GradientMatching):
    """Cosine distance plus total variation, by signed Adam, ignoring dropout.

    Args:
        iterations: of the published schedule; a tenth more polish the result.
        restarts: starts per victim; the least residual wins.
        total_variation: weight of the mean absolute difference of neighbouring pixels at first, or several
            to try. Small images and smooth networks want 1e-5, photographs 1e-1.
        step: Adam's first step, in pixels.
        mode: of the attacker's batch norm, "eval" (as published) or "train"; dropout is ignored in both.

    Raises:
        UsageError: a parameter is out of range.
    """

    paper: ClassVar[str] = "Geiping, Bauermeister, Dröge and Moeller, Inverting Gradients, NeurIPS 2020"

    def __init__(
        self,
        *,
        iterations: int = 1000,
        restarts: int = 1,
        total_variation: float | Sequence[float] = 1e-5,
        step: float = 0.1,
        mode: Literal["eval", "train"] = "eval",
    ) -> None:
        weights = [total_variation] if isinstance(total_variation, int | float) else list(total_variation)
        super().__init__(iterations=iterations, restarts=restarts * max(len(weights), 1))
        if mode not in ("eval", "train"):
            raise UsageError(f'InvertingGradients: mode = {mode!r}; expected "eval" or "train"')
        if not (weights and min(weights) >= 0.0 and step > 0.0):
            raise UsageError(
                f"InvertingGradients: total_variation = {total_variation}, step = {step}; expected"
                " weights of at least 0 and a step above 0"
            )
        self.weights, self.step, self.mode = torch.tensor(weights, dtype=torch.float32), step, mode
        self.polish = max(1, iterations // 10)

    def budget(self, victim: Victim, threat: ThreatModel) -> int:
        return self.iterations + self.polish

    def solve(
        self, setting: Setting, threat: ThreatModel, victim: Victim, ticker: Ticker
    ) -> tuple[Candidates, list[str]]:
        repeated = torch.arange(len(setting.positions)).repeat_interleave(self.restarts)
        matching = Matching.of(victim, setting.observations, setting.labels, training=self.mode == "train")
        start = matching.pick(repeated).start(
            setting.noise(victim, self.restarts), self._identity(victim, setting, len(repeated))
        )
        weights = self.weights.repeat(len(repeated) // len(self.weights))
        descent = Descent(self.iterations, step=self.step, total_variation=weights)
        found = descent(matching.pick(repeated), start, ticker).best_of(self.restarts)
        polish = Descent(self.polish, step=self.step / 100, total_variation=0.0, decays=POLISH_DECAYS)
        return found.or_better(polish(matching, found, ticker)), ["matching"] * len(setting.positions)

    def _identity(self, victim: Victim, setting: Setting, count: int) -> State:
        """Masks that make dropout the identity, which training mode asks for and evaluation mode does not."""
        if self.mode == "eval":
            return {}
        model = victim.model
        return {
            name: torch.full((count, setting.batch, *shape), 1.0 - model.dropout_rates[name])
            for name, shape in model.mask_shapes.items()
        }
