"""Deep leakage: the whole gradient matched in the least squares sense, by L-BFGS.

`DeepLeakage` is DLG: L. Zhu, Z. Liu and S. Han, "Deep Leakage from Gradients", NeurIPS 2019,
https://arxiv.org/abs/1906.08935, equation 4, over images and soft labels together:

    minimise over x, y   ‖∇L(x, softmax y) - g‖²

`ImprovedDeepLeakage` is iDLG: B. Zhao, K. Mopuri and H. Bilen, "iDLG: Improved Deep Leakage from Gradients",
2020, https://arxiv.org/abs/2001.02610: the same with the label read off the last layer's gradient.

Both want smooth networks without dropout and batch norm (sigmoids, strides instead of pooling), and the
gradient's scale. Deviations: the distance is divided by ‖g‖²; L-BFGS has a line search and a memory of its
own for each victim, and `iterations` counts evaluations (torch.optim.LBFGS, which both papers use, makes up
to 20 in what they call an iteration); images start as clamped normal noise, are not kept in the box during
the descent, and are clamped at its end; the iterate of least distance is returned; in iDLG, the labels of a
batch come from `label_recovery`. The network runs in evaluation mode.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import UsageError
from fedlab_attacks.optimise.descent import Descent, Recipe
from fedlab_attacks.optimise.inversion import Inversion, Setting
from fedlab_attacks.optimise.lbfgs import LBFGS
from fedlab_attacks.optimise.objectives import l2
from fedlab_attacks.optimise.optimisers import constant
from fedlab_attacks.optimise.problem import Problem
from fedlab_attacks.optimise.starts import normal
from fedlab_attacks.optimise.variables import Kind, Variables
from fedlab_attacks.reading import Ticker


class ImprovedDeepLeakage(Inversion):
    """Least squares over images by L-BFGS, with the labels inferred or granted.

    Args:
        iterations: evaluations of the gradient, at most.
        restarts: starts per victim; the least residual wins.
        memory: pairs that L-BFGS keeps.
        device: where to compute, in torch's words ("cpu", "cuda").

    Raises:
        UsageError: a parameter is out of range.
    """

    needs: ClassVar = frozenset({"batch_size", "learning_rate", "local_steps"})
    paper: ClassVar[str] = "Zhao, Mopuri and Bilen, iDLG: Improved Deep Leakage from Gradients, 2020"
    vary: ClassVar[frozenset[Kind]] = frozenset({"images"})

    def __init__(
        self, *, iterations: int = 600, restarts: int = 1, memory: int = 20, device: str = "cpu"
    ) -> None:
        super().__init__(iterations=iterations, restarts=restarts, device=device)
        if memory < 1:
            raise UsageError(f"{type(self).__name__}: memory = {memory}; expected at least 1")
        self.memory = memory

    def solve(
        self, setting: Setting, threat: ThreatModel, victim: Victim, ticker: Ticker
    ) -> tuple[Variables, list[str]]:
        problem = Problem.of(victim, setting.observations, setting.labels, training=False, device=self.device)
        images = setting.noise(victim, self.restarts, normal)
        start = Variables(images, labels=self._soft(setting, victim)).to(self.device)
        recipe = Recipe(
            self.iterations,
            objective=l2,
            vary=self.vary,
            optimiser=LBFGS(self.memory),
            schedule=constant,
            box=False,
        )
        found = Descent(recipe)(problem.repeat(self.restarts), start, ticker)
        return found.best_of(self.restarts), ["least squares"] * len(setting)

    def _soft(self, setting: Setting, victim: Victim) -> Tensor | None:
        return None


class DeepLeakage(ImprovedDeepLeakage):
    """Least squares over images and soft labels together, by L-BFGS.

    Args:
        iterations: evaluations of the gradient, at most.
        restarts: starts per victim; the least residual wins.
        memory: pairs that L-BFGS keeps.
        device: where to compute, in torch's words ("cpu", "cuda").

    Raises:
        UsageError: a parameter is out of range.
    """

    paper: ClassVar[str] = "Zhu, Liu and Han, Deep Leakage from Gradients, NeurIPS 2019"
    vary: ClassVar[frozenset[Kind]] = frozenset({"images", "labels"})

    def labels(
        self, observation: Observation, threat: ThreatModel, victim: Victim, generator: torch.Generator
    ) -> Tensor:
        """Places only: labels are variables here."""
        return torch.zeros(self.records(observation, threat), dtype=torch.int64)

    def _soft(self, setting: Setting, victim: Victim) -> Tensor:
        shape = (self.restarts, setting.batch, victim.classes)
        return torch.cat([torch.randn(shape, generator=generator) for generator in setting.generators])
