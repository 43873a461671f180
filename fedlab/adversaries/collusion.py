"""Attackers that agree on an update in view of the honest ones.

All of them use the plain mean μ and standard deviation σ (per coordinate, divisor h) of the h honest updates of
the round; where none has come, those of their own honestly trained updates. All act on changes of the
parameters, of which a gradient is the negative: what lowers the gradient (−σ in the papers) raises the change.

* Inner product: Xie, Koyejo, Gupta, "Fall of Empires: Breaking Byzantine-Tolerant SGD by Inner Product
  Manipulation", UAI 2019, https://arxiv.org/abs/1903.03936: −ε μ.
* A little is enough: Baruch, Baruch, Goldberg, "A Little Is Enough: Circumventing Defenses For Distributed
  Learning", NeurIPS 2019, https://arxiv.org/abs/1902.06156, Algorithm 3: μ + z σ. With n clients of which m
  attack, s = ⌊n/2 + 1⌋ − m honest ones are needed for a majority, and z_max = Φ⁻¹((n − m − s)/(n − m)).
  Deviations: μ and σ are those of the honest clients (the paper estimates them from the attackers' own); z is
  not negative, which the formula gives where too few attack; attackers who are a majority need s = 1.
* Min-max: Shejwalkar, Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and
  Defenses for Federated Learning", NDSS 2021, https://doi.org/10.14722/ndss.2021.24498:
  μ + γ p, with the largest γ whose distance to every honest update is at most the largest distance between
  two of them. Deviation: γ comes from quadratic equations, not from a search.
* Mimic: Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", ICLR
  2022, https://arxiv.org/abs/2006.09365, section 3.2: all send what one honest client sends, and so outvote
  the others where clients differ. Deviation: the paper picks whom to copy in a warm-up; here it is the
  client of the lowest number that has answered, which stays the same as long as it takes part, or a named one.
"""  # noqa: E501

from __future__ import annotations

from statistics import NormalDist
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedlab.adversaries.contract import Adversary, Scene
from fedlab.errors import UsageError

SEES_ALL = "the updates of the honest clients of the round"

Direction = Literal["std", "unit", "sign"]


class InnerProduct(Adversary):
    """Δ <- −ε μ, the honest mean reversed.

    Xie et al., "Fall of Empires: Breaking Byzantine-Tolerant SGD by Inner Product Manipulation", UAI 2019, https://arxiv.org/abs/1903.03936.

    Args:
        epsilon: ε; small ones stay among the honest updates, large ones outweigh them.
    """

    knows: ClassVar[str] = SEES_ALL

    def __init__(self, *, epsilon: Annotated[float, Field(gt=0)] = 0.5) -> None:
        if not 0.0 < epsilon < float("inf"):
            raise UsageError(f"epsilon = {epsilon}; expected a finite number > 0")
        self.epsilon = epsilon

    def craft(self, scene: Scene) -> Tensor:
        return scene.all_send(-self.epsilon * scene.known.mean(0))


class LittleIsEnough(Adversary):
    """Δ <- μ + z σ, a shift of all coordinates that hides in the honest spread (ALIE).

    Baruch et al., "A Little Is Enough: Circumventing Defenses For Distributed Learning", NeurIPS 2019, https://arxiv.org/abs/1902.06156.

    Args:
        z: standard deviations of the shift; the paper's z_max unless given.
    """

    knows: ClassVar[str] = SEES_ALL

    def __init__(self, *, z: Annotated[float, Field(ge=0)] | None = None) -> None:
        if z is not None and not 0.0 <= z < float("inf"):
            raise UsageError(f"z = {z}; expected a finite number >= 0")
        self.z = z

    def craft(self, scene: Scene) -> Tensor:
        honest = scene.known
        z = largest_z(len(scene.own), len(scene.honest)) if self.z is None else self.z
        return scene.all_send(honest.mean(0) + z * honest.std(0, correction=0))


def largest_z(attackers: int, honest: int) -> float:
    """z_max = Φ⁻¹((h − s)/h), s = max(1, ⌊n/2 + 1⌋ − m), and 0 where that is negative."""
    needed = max(1, (attackers + honest) // 2 + 1 - attackers)
    below = honest - needed
    return max(0.0, NormalDist().inv_cdf(below / honest)) if below > 0 else 0.0


class MinMax(Adversary):
    """Δ <- μ + γ p, with the largest γ such that max_i ‖Δ − Δ_i‖ <= max_ij ‖Δ_i − Δ_j‖ (honest i, j).

    Shejwalkar, Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated Learning", NDSS 2021, https://doi.org/10.14722/ndss.2021.24498.

    Args:
        direction: p; "std" is σ, "unit" is −μ/‖μ‖, "sign" is −sign(μ).
    """  # noqa: E501

    knows: ClassVar[str] = SEES_ALL

    def __init__(self, *, direction: Direction = "std") -> None:
        if direction not in ("std", "unit", "sign"):
            raise UsageError(f"direction = {direction!r}; expected 'std', 'unit' or 'sign'")
        self.direction: Direction = direction

    def craft(self, scene: Scene) -> Tensor:
        honest = scene.known
        mean = honest.mean(0)
        if self.direction == "std":
            push = honest.std(0, correction=0)
        elif self.direction == "unit":
            push = -mean / mean.norm().clamp_min(torch.finfo(torch.float64).tiny)
        else:
            push = -mean.sign()
        return scene.all_send(mean + largest_step(honest, push) * push)


def largest_step(honest: Tensor, push: Tensor) -> float:
    """The largest γ >= 0 that keeps μ + γ p within the diameter D of the honest updates (h, d).

    ‖μ + γp − x_i‖² <= D² is a quadratic in γ that holds at 0; its larger root is the limit that i sets.
    """
    square = float(push @ push)
    if square == 0.0:
        return 0.0
    diameter = float(torch.cdist(honest, honest, compute_mode="donot_use_mm_for_euclid_dist").max())
    apart = honest.mean(0) - honest
    half = apart @ push
    inside = (half**2 + square * (diameter**2 - (apart**2).sum(1))).clamp_min(0.0)
    return max(0.0, float(((inside.sqrt() - half) / square).min()))


class Mimic(Adversary):
    """Δ <- Δ_i of one honest client i, from each attacker.

    Karimireddy et al., "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", ICLR 2022, https://arxiv.org/abs/2006.09365.

    Args:
        client: i; the honest one of the lowest number that has answered unless it is given and has.
    """

    knows: ClassVar[str] = SEES_ALL

    def __init__(self, *, client: Annotated[int, Field(ge=0)] | None = None) -> None:
        if client is not None and client < 0:
            raise UsageError(f"client = {client}; expected the number of a client, 0 or more")
        self.client = client

    def craft(self, scene: Scene) -> Tensor:
        row = scene.honest_clients.index(self.client) if self.client in scene.honest_clients else 0
        return scene.all_send(scene.known[row])
