"""Inverting gradients with batch-norm statistics as a prior: the model's running ones, or the batch's own.

Y. Huang, S. Gupta, Z. Song, K. Li and S. Arora, "Evaluating Gradient Inversion Attacks and Defenses in
Federated Learning", NeurIPS 2021, https://arxiv.org/abs/2112.00059: the objective of `inverting-gradients`
plus the distance between the statistics of the images that are tried and known ones. They ask how much of
earlier attacks' success lies in knowing the batch's exact statistics, and let the server have the running
statistics of its own model instead. A server that is sent the buffers can solve for the exact ones, though:
`statistics = "exact"`, as in `gia-running`.

Deviations: the attacker's network runs in the client's mode, or in evaluation mode where that is not known
(published: evaluation); the weights are those of `gia-running`, and fall with the step (published: 0.05 and
0.001 for running statistics, 0.1 and 0.005 for exact ones, on normalised pixels); 1000 iterations (published:
10 000); the least residual answers.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import UsageError
from fedlab_attacks.optimise.inversion import Inversion, Setting
from fedlab_attacks.optimise.normed import follow, signed_recipe
from fedlab_attacks.optimise.problem import Statistics
from fedlab_attacks.optimise.statistics import client_statistics, running_statistics
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.reading import Ticker


class BatchStatistics(Inversion):
    """Cosine matching with batch-norm statistics of the model or of the client's batch.

    Args:
        statistics: "running" (the model's own) or "exact" (solved from the buffers that clients send).
        iterations: of the descent.
        restarts: starts per victim; the least residual wins.
        total_variation: weight of the mean absolute difference of neighbouring pixels at first.
        batch_norm: weight of the distance between statistics at first.
        step: Adam's first step, in pixels.
        device: where to compute, in torch's words ("cpu", "cuda").

    Raises:
        UsageError: a parameter is out of range.
    """

    needs: ClassVar = frozenset({"batch_size"})
    paper: ClassVar[str] = "Huang, Gupta, Song, Li and Arora, Evaluating Gradient Inversion, NeurIPS 2021"

    def __init__(
        self,
        *,
        statistics: Literal["running", "exact"] = "running",
        iterations: int = 1000,
        restarts: int = 1,
        total_variation: float = 1e-3,
        batch_norm: float = 0.01,
        step: float = 0.1,
        device: str = "cpu",
    ) -> None:
        super().__init__(iterations=iterations, restarts=restarts, device=device)
        if statistics not in ("running", "exact"):
            raise UsageError(f'BatchStatistics: statistics = {statistics!r}; expected "running" or "exact"')
        self.statistics = statistics
        self.recipe = signed_recipe(self, smoothness=total_variation, batch_norm=batch_norm, step=step)

    def labels(
        self, observation: Observation, threat: ThreatModel, victim: Victim, generator: torch.Generator
    ) -> Tensor:
        found = super().labels(observation, threat, victim, generator)
        self._known(observation, victim, len(found))
        return found

    def solve(
        self, setting: Setting, threat: ThreatModel, victim: Victim, ticker: Ticker
    ) -> tuple[Variables, list[str]]:
        known = [self._known(one, victim, setting.batch) for one in setting.observations]
        training = threat.client_mode == "train"
        found = follow(self, self.recipe, setting, victim, known, ticker, training=training)
        return found, [f"matching with {self.statistics} statistics"] * len(setting)

    def _known(self, observation: Observation, victim: Victim, batch: int) -> Statistics:
        if self.statistics == "exact":
            return client_statistics(observation, victim, batch)
        return running_statistics(observation, victim)
